"""An If whose condition does not depend on the image is replaced by the branch that is taken."""

from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper

from edgehybrid.errors import GraphError
from edgehybrid.graph import load
from edgehybrid.graph.adoption import adopt

IMAGE = np.random.default_rng(0).normal(size=(1, 3, 8, 8)).astype(np.float32)
ANY = helper.make_tensor_value_info


def array(name: str, values: object, kind: type = np.int64) -> onnx.TensorProto:
    return numpy_helper.from_array(np.array(values, kind), name)


def body(name: str, nodes: list[onnx.NodeProto], output: str, *weights: onnx.TensorProto) -> onnx.GraphProto:
    return helper.make_graph(nodes, name, [], [ANY(output, TensorProto.FLOAT, None)], list(weights))


def squeezed(opset: int = 17, *, last: bool = False) -> onnx.ModelProto:
    """As torch writes `x.mean((2, 3), keepdim=True).squeeze(3).squeeze(2)` where it knows no sizes.

    The second If stands in the branch of the first that is taken; each names what it computes like the other.

    Args:
        opset: From 13 on.
        last: The output of the outer If is that of the network.
    """

    def sized(source: str, dim: int, prefix: str) -> list[onnx.NodeProto]:
        return [
            helper.make_node("Shape", [source], [f"{prefix}shape"]),
            helper.make_node("Gather", [f"{prefix}shape", f"at{dim}"], [f"{prefix}size"]),
            helper.make_node("Equal", [f"{prefix}size", "one"], [f"{prefix}flag"]),
        ]

    def choice(source: str, dim: int, prefix: str, result: str, then: onnx.GraphProto) -> list[onnx.NodeProto]:
        other = body("other", [helper.make_node("Identity", [source], [f"{prefix}same"])], f"{prefix}same")
        chosen = helper.make_node("If", [f"{prefix}flag"], [result], f"{prefix}If", then_branch=then, else_branch=other)
        return [*sized(source, dim, prefix), chosen]

    inner = body("inner", [helper.make_node("Squeeze", ["narrow", "axes"], ["out"])], "out", array("axes", [2]))
    then = body(
        "outer",
        [helper.make_node("Squeeze", ["pooled", "axes"], ["narrow"]), *choice("narrow", 2, "b_", "out", inner)],
        "out",
        array("axes", [3]),
    )
    nodes = [
        helper.make_node("Conv", ["image", "kernel"], ["map"], "first", pads=[1] * 4),
        helper.make_node("ReduceMean", ["map"], ["pooled"], "pool", axes=[2, 3]),
        *choice("pooled", 3, "a_", "scores" if last else "flat", then),
    ]
    nodes += [] if last else [helper.make_node("Gemm", ["flat", "matrix"], ["scores"], "head")]
    rng = np.random.default_rng(1)
    weights = [array("kernel", rng.normal(size=(4, 3, 3, 3)), np.float32), array("one", 1)]
    weights += [array("matrix", rng.normal(size=(4, 5)), np.float32)] * (not last)
    weights += [array("at2", 2), array("at3", 3)]
    inputs = [ANY("image", TensorProto.FLOAT, ("n", 3, "h", "w"))]
    graph = helper.make_graph(nodes, "net", inputs, [ANY("scores", TensorProto.FLOAT, None)], weights)
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)


def run(model: bytes) -> np.ndarray:
    session = onnxruntime.InferenceSession(model, providers=["CPUExecutionProvider"])
    (result,) = session.run(None, {session.get_inputs()[0].name: IMAGE})
    return np.asarray(result)


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("opset", [13, 17])
def test_branches_that_sizes_decide_are_taken(tmp_path: Path, opset: int, *, last: bool) -> None:
    model = squeezed(opset, last=last)
    path = tmp_path / "net.onnx"
    onnx.save(model, path)
    heard: list[str] = []
    graph = adopt(path, input_size=8, notify=heard.append)
    assert "2 Ifs always go one way, which is taken" in heard
    assert not list(graph.nodes("If", "Shape", "Gather", "Equal"))
    assert len(list(graph.nodes("Squeeze"))) == 2
    assert graph.outputs == ("scores",)
    np.testing.assert_array_equal(run(graph.to_bytes()), run(model.SerializeToString()))
    (tmp_path / "again.onnx").write_bytes(graph.to_bytes())
    assert load(tmp_path / "again.onnx").digest() == graph.digest()


def test_the_other_branch_is_taken_where_the_size_is_another(tmp_path: Path) -> None:
    model = squeezed(last=True)
    model.graph.node[1].op_type = "MaxPool"
    del model.graph.node[1].attribute[:]
    model.graph.node[1].attribute.append(helper.make_attribute("kernel_shape", [2, 2]))
    onnx.save(model, tmp_path / "net.onnx")
    graph = adopt(tmp_path / "net.onnx", input_size=8)
    assert not list(graph.nodes("If", "Squeeze"))
    np.testing.assert_array_equal(run(graph.to_bytes()), run(model.SerializeToString()))


def test_an_operator_inside_a_branch_is_looked_at_as_well(tmp_path: Path) -> None:
    model = squeezed()
    outer = next(node for node in model.graph.node if node.op_type == "If")
    then = next(attribute.g for attribute in outer.attribute if attribute.name == "then_branch")
    then.node[0].CopyFrom(helper.make_node("RandomUniformLike", ["pooled"], ["narrow"], "dice"))
    onnx.save(model, tmp_path / "net.onnx")
    with pytest.raises(GraphError, match="draws random numbers") as caught:
        adopt(tmp_path / "net.onnx", input_size=8)
    assert "dice" in str(caught.value)


def test_an_if_that_the_image_decides_is_refused_beside_one_that_sizes_decide(tmp_path: Path) -> None:
    model = squeezed(last=True)
    model.graph.output[0].name = "kept"
    same = body("same", [helper.make_node("Identity", ["scores"], ["s"])], "s")
    other = body("less", [helper.make_node("Neg", ["scores"], ["t"])], "t")
    model.graph.initializer.append(array("zero", 0, np.float32))
    model.graph.node.extend(
        [
            helper.make_node("ReduceMax", ["scores"], ["most"], keepdims=0),
            helper.make_node("Greater", ["most", "zero"], ["positive"]),
            helper.make_node("If", ["positive"], ["kept"], "by_image", then_branch=same, else_branch=other),
        ]
    )
    onnx.save(model, tmp_path / "net.onnx")
    with pytest.raises(GraphError, match="control flow") as caught:
        adopt(tmp_path / "net.onnx", input_size=8)
    assert "by_image" in str(caught.value)
