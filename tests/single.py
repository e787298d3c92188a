"""Small float32 networks for placement and quantizer, and how ONNX Runtime computes them to the letter."""

import numpy as np
import onnx
import onnxruntime
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edgehybrid.graph import Graph, from_proto
from edgehybrid.placement import plan
from edgehybrid.records import Decision, Ranges
from tests.rewrites.net import Net


class SingleNet(Net):
    """A `Net` in float32; the last tensor becomes `logits`."""

    def const(self, array: object, dtype: type = np.float32) -> str:
        return super().const(array, np.float32 if dtype is np.float64 else dtype)

    def graph(self, *outputs: str) -> Graph:
        last = outputs[0]
        nodes = [*self.nodes, helper.make_node("Identity", [last], ["logits"], name="n_logits")]
        info = helper.make_tensor_value_info
        body = helper.make_graph(
            nodes,
            "net",
            [info("input", TensorProto.FLOAT, self.shape)],
            [info("logits", TensorProto.FLOAT, None)],
            self.initializers,
        )
        return from_proto(helper.make_model(body, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=8))


def run(graph: Graph, x: NDArray[np.float32], *more: str) -> list[NDArray[np.generic]]:
    """Outputs, and further tensors by name, without graph optimisation, after ONNX's full check."""
    proto = onnx.load_model_from_string(graph.to_bytes())
    onnx.checker.check_model(proto, full_check=True)
    proto.graph.output.extend(onnx.ValueInfoProto(name=name) for name in more)
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return list(session.run(None, {"input": x}))


def draw(graph: Graph, seed: int = 0) -> NDArray[np.float32]:
    """Normal noise in the shape of the input."""
    shape = tuple(int(d) for d in graph.input.shape or ())
    return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


def observe(graph: Graph, x: NDArray[np.float32]) -> Ranges:
    """The largest absolute value of every activation that the plan quantizes, for one input."""
    tensors = sorted({d.tensor for d in plan(graph, "fp32", attention="int8").decisions if d.kind == "activation"})
    computed = [t for t in tensors if t != "input"]
    found = dict(zip(["logits", *computed], run(graph, x, *computed), strict=True)) | {"input": x}
    return Ranges("minmax", len(x), "0" * 64, {t: float(np.abs(found[t]).max()) for t in tensors})


def decisions(graph: Graph, op: str, *, attention: str = "float") -> list[Decision]:
    """What was decided for the operators of one type, in order."""
    assert attention in ("float", "int8")
    found = plan(graph, "fp32", attention="int8" if attention == "int8" else "float").decisions
    return [d for d in found if d.op == op]


def initializer(graph: Graph, name: str) -> NDArray[np.generic]:
    """A constant by name."""
    proto = onnx.load_model_from_string(graph.to_bytes())
    return next(numpy_helper.to_array(t) for t in proto.graph.initializer if t.name == name)
