"""GroupNormalization, which shape inference does not know, is taken as what it computes."""

from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from edgehybrid.graph import shape_of
from edgehybrid.graph.adoption import adopt

SHAPE = (1, 3, 6, 6)


def network(opset: int) -> onnx.ModelProto:
    """Two convolutions, each with its norm; nothing tells the shapes between, the last norm is an output."""
    rng = np.random.default_rng(0)

    def weight(name: str, *shape: int) -> TensorProto:
        return numpy_helper.from_array(rng.standard_normal(shape).astype(np.float32), name)

    norm = {"num_groups": 2, "epsilon": 1e-3}
    nodes = [
        helper.make_node("Conv", ["input", "w1"], ["a"], name="c1"),
        helper.make_node("GroupNormalization", ["a", "g1", "b1"], ["n"], name="n1", **norm),
        helper.make_node("Conv", ["n", "w2"], ["b"], name="c2"),
        helper.make_node("GroupNormalization", ["b", "g2", "b2"], ["logits"], **norm),
    ]
    weights = [weight("w1", 8, 3, 3, 3), weight("w2", 8, 8, 1, 1), *(weight(n, 8) for n in ("g1", "b1", "g2", "b2"))]
    info = helper.make_tensor_value_info
    ends = [info("input", TensorProto.FLOAT, SHAPE)], [info("logits", TensorProto.FLOAT, (1, 8, 4, 4))]
    body = helper.make_graph(nodes, "net", *ends, weights)
    return helper.make_model(body, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)


def computed(proto: onnx.ModelProto, x: NDArray[np.float32]) -> NDArray[np.float32]:
    """What ONNX's reference computes."""
    found: NDArray[np.float32] = ReferenceEvaluator(proto).run(None, {"input": x})[0]
    return found


@pytest.mark.parametrize("opset", [21, 23])
def test_the_same_is_computed_and_every_shape_is_known(opset: int, tmp_path: Path) -> None:
    path = tmp_path / "net.onnx"
    onnx.save(network(opset), path)
    graph = adopt(path)
    assert not list(graph.nodes("GroupNormalization"))
    assert all(shape_of(value) for node in graph.nodes() for value in node.outputs)
    written = onnx.load_model_from_string(graph.to_bytes())
    onnx.checker.check_model(written, full_check=True)
    x = np.random.default_rng(1).standard_normal(SHAPE).astype(np.float32)
    np.testing.assert_allclose(computed(written, x), computed(network(opset), x), rtol=1e-4, atol=1e-5)
