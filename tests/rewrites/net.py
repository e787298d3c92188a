"""Write small ONNX networks by hand, in float64, and compare what they compute."""

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from edgehybrid import rewrites
from edgehybrid.graph import Graph, from_proto

EXACT = 1e-12
"""Relative difference that float64 rounding explains."""


class Net:
    """Collects nodes; every method returns the name of a tensor."""

    def __init__(self, *shape: int, opset: int = 17, constants: str = "initializer", seed: int = 0) -> None:
        self.shape = shape
        self.opset = opset
        self.constants = constants  # "initializer" or "node": how exporters store constants
        self.random = np.random.default_rng(seed)
        self.nodes: list[onnx.NodeProto] = []
        self.initializers: list[onnx.TensorProto] = []
        self.count = 0

    def name(self, stem: str) -> str:
        self.count += 1
        return f"{stem}_{self.count}"

    def op(self, kind: str, *inputs: str, outputs: int = 1, **attributes: object) -> str:
        names = [self.name(kind.lower()) for _ in range(outputs)]
        self.nodes.append(helper.make_node(kind, list(inputs), names, name=f"n_{names[0]}", **attributes))
        return names[0]

    def last_outputs(self) -> list[str]:
        return list(self.nodes[-1].output)

    def const(self, array: object, dtype: type = np.float64) -> str:
        value = np.asarray(array, dtype)
        name = self.name("c")
        if self.constants == "node":
            self.nodes.append(helper.make_node("Constant", [], [name], value=numpy_helper.from_array(value)))
        else:
            self.initializers.append(numpy_helper.from_array(value, name))
        return name

    def ints(self, *values: int) -> str:
        return self.const(values, np.int64)

    def weight(self, *shape: int) -> str:
        """Random, and small enough that values keep their size through a deep network."""
        return self.const(self.random.normal(size=shape) / np.sqrt(np.prod(shape[1:])))

    def conv(
        self, x: str, c_in: int, c_out: int, k: int = 1, *, bias: bool = True, group: int = 1, **attributes: object
    ) -> str:
        parameters = [self.weight(c_out, c_in // group, k, k)] + ([self.weight(c_out)] if bias else [])
        return self.op("Conv", x, *parameters, group=group, **attributes)

    def depthwise(self, x: str, channels: int, k: int = 3, **attributes: object) -> str:
        attributes = {"pads": [k // 2] * 4, **attributes}
        return self.conv(x, channels, channels, k, group=channels, **attributes)

    def norm(self, x: str, channels: int, **attributes: object) -> str:
        statistics = [self.weight(channels) for _ in range(3)]
        variance = self.const(self.random.uniform(0.5, 2.0, channels))
        return self.op("BatchNormalization", x, *statistics, variance, **attributes)

    def linear(self, x: str, c_in: int, c_out: int, *, bias: bool = True) -> str:
        """MatMul and Add, as exporters write a linear layer of tokens."""
        y = self.op("MatMul", x, self.weight(c_in, c_out))
        return self.op("Add", self.weight(c_out), y) if bias else y

    def gelu(self, x: str, form: str = "erf") -> str:
        if form == "op":
            return self.op("Gelu", x)
        if form == "tanh":
            cube = self.op("Mul", self.const(0.044715), self.op("Pow", x, self.const(3.0)))
            inner = self.op("Mul", self.op("Add", x, cube), self.const(np.sqrt(2 / np.pi)))
            gate = self.op("Add", self.op("Tanh", inner), self.const(1.0))
            return self.op("Mul", self.op("Mul", x, self.const(0.5)), gate)
        gate = self.op("Add", self.op("Erf", self.op("Div", x, self.const(np.sqrt(2)))), self.const(1.0))
        return self.op("Mul", self.op("Mul", x, gate), self.const(0.5))

    def reshape(self, x: str, *shape: int) -> str:
        return self.op("Reshape", x, self.ints(*shape))

    def transpose(self, x: str, *perm: int) -> str:
        return self.op("Transpose", x, perm=perm)

    def graph(self, *outputs: str) -> Graph:
        info = helper.make_tensor_value_info
        graph = helper.make_graph(
            self.nodes,
            "net",
            [info("input", TensorProto.DOUBLE, self.shape)],
            [info(o, TensorProto.DOUBLE, None) for o in outputs],
            self.initializers,
        )
        model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", self.opset)], ir_version=9)
        return from_proto(model)


def compute(graph: Graph, seed: int = 1) -> list[NDArray[np.float64]]:
    """Every output for one random input, in float64, by ONNX's reference implementation."""
    proto = onnx.load_model_from_string(graph.to_bytes())
    onnx.checker.check_model(proto, full_check=True)
    x = np.random.default_rng(seed).normal(size=[d.dim_value for d in proto.graph.input[0].type.tensor_type.shape.dim])
    results = ReferenceEvaluator(proto).run(None, {proto.graph.input[0].name: x})
    assert all(np.isfinite(r).all() and r.dtype == np.float64 for r in results)
    return list(results)


def difference(before: Graph, after: Graph) -> float:
    """Largest difference of any output, relative to that output's largest value."""
    assert before.outputs == after.outputs
    pairs = list(zip(compute(before), compute(after), strict=True))
    assert all(a.shape == b.shape for a, b in pairs)
    return max(float(np.abs(a - b).max() / np.abs(a).max()) for a, b in pairs)


def rewrite(graph: Graph, name: str) -> tuple[Graph, int]:
    """Apply one rewrite, check that the function is the same, return the graph and the number of sites."""
    after, lines = rewrites.apply(graph, only=[name])
    assert difference(graph, after) < EXACT
    names = [node.name for node in after.nodes() if node.name]
    assert len(set(names)) == len(names), "ONNX Runtime takes no two nodes of one name"
    return after, int(lines[0].split()[1])


def sites(graph: Graph, name: str) -> int:
    """How often one rewrite applies."""
    return rewrite(graph, name)[1]


def ops(graph: Graph) -> list[str]:
    """Operators in order, constants left out."""
    return [n.op_type for n in graph.nodes() if n.op_type != "Constant"]
