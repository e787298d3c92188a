"""Small graphs made by hand."""

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import helper, numpy_helper

from edgehybrid import graph
from edgehybrid.graph import Graph


def make_graph(
    nodes: list[onnx.NodeProto], weights: dict[str, NDArray[np.generic]], shape: tuple[int, ...], output: str
) -> Graph:
    """A graph of opset 17 with one float input `input` of `shape`."""
    proto = helper.make_model(
        helper.make_graph(
            nodes,
            "net",
            [helper.make_tensor_value_info("input", onnx.TensorProto.FLOAT, shape)],
            [helper.make_tensor_value_info(output, onnx.TensorProto.FLOAT, None)],
            [numpy_helper.from_array(array, name) for name, array in weights.items()],
        ),
        opset_imports=[helper.make_opsetid("", 17)],
        ir_version=8,
    )
    return graph.from_proto(proto)


def make_net(batch: int, *, gain: float = 1.0, seed: int = 0) -> Graph:
    """Conv, Relu, tokens, MatMul, residual Add: tensors conv, relu, tokens, projected, sum, logits."""
    random = np.random.default_rng(seed)
    weights = {
        "kernel": (gain * random.normal(size=(16, 3, 3, 3))).astype(np.float32),
        "bias": random.normal(size=16).astype(np.float32),
        "matrix": (random.normal(size=(16, 16)) / 4).astype(np.float32),
        "head": (random.normal(size=(16, 5)) / 4).astype(np.float32),
        "flat": np.array([batch, 16, 64], np.int64),
        "axes": np.array([1], np.int64),
    }
    nodes = [
        helper.make_node("Conv", ["input", "kernel", "bias"], ["conv"], "stem", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["conv"], ["relu"], "act"),
        helper.make_node("Reshape", ["relu", "flat"], ["columns"], "reshape"),
        helper.make_node("Transpose", ["columns"], ["tokens"], "transpose", perm=[0, 2, 1]),
        helper.make_node("MatMul", ["tokens", "matrix"], ["projected"], "projection"),
        helper.make_node("Add", ["tokens", "projected"], ["sum"], "residual"),
        helper.make_node("ReduceMean", ["sum"], ["pooled"], "pool", axes=[1], keepdims=0),
        helper.make_node("MatMul", ["pooled", "head"], ["logits"], "classifier"),
    ]
    return make_graph(nodes, weights, (batch, 3, 8, 8), "logits")


def make_images(count: int, *, size: int = 8, seed: int = 0) -> NDArray[np.float32]:
    """Images of different contrast."""
    random = np.random.default_rng(seed)
    contrast = random.uniform(0.3, 2, size=(count, 1, 1, 1))
    return (contrast * random.normal(size=(count, 3, size, size))).astype(np.float32)
