"""A small hybrid classifier with one of everything that forms a group, and its int8 twin."""

from collections.abc import Callable

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from edgehybrid.graph import Graph
from edgehybrid.placement import plan
from edgehybrid.quantizer import quantize
from edgehybrid.records import LayerGroup, Plan, Ranges
from edgehybrid.search import Switched, find_groups
from tests.single import SingleNet, observe

CLASSES = 10


def hybrid() -> Graph:
    """Convolutions with a residual, a strided one after a Pad, attention with three projections, an MLP, a head."""
    net = SingleNet(1, 24, 16, 16)
    x = net.gelu(net.conv("input", 24, 32, 3, pads=[1, 1, 1, 1]))
    branch = net.conv(net.op("Relu", net.conv(x, 32, 32, 3, pads=[1, 1, 1, 1])), 32, 32, 3, pads=[1, 1, 1, 1])
    x = net.op("Relu", net.op("Add", x, branch))
    x = net.conv(net.op("Pad", x, net.ints(0, 0, 1, 1, 0, 0, 1, 1)), 32, 32, 3, strides=[2, 2])
    tokens = net.transpose(net.reshape(x, 1, 32, 64), 0, 2, 1)
    normed = net.op("LayerNormalization", tokens, net.const(np.ones(32)), net.const(np.zeros(32)), axis=-1)
    q, k, v = (net.reshape(net.linear(normed, 32, 32), 1, 64, 2, 16) for _ in range(3))
    scores = net.op("MatMul", net.transpose(q, 0, 2, 1, 3), net.transpose(k, 0, 2, 3, 1))
    scores = net.op("Softmax", net.op("Mul", scores, net.const(0.25)), axis=-1)
    mixed = net.transpose(net.op("MatMul", scores, net.transpose(v, 0, 2, 1, 3)), 0, 2, 1, 3)
    tokens = net.op("Add", tokens, net.linear(net.reshape(mixed, 1, 64, 32), 32, 32))
    normed = net.op("LayerNormalization", tokens, net.const(np.ones(32)), net.const(np.zeros(32)), axis=-1)
    tokens = net.op("Add", tokens, net.linear(net.gelu(net.linear(normed, 32, 64)), 64, 32))
    pooled = net.op("ReduceMean", tokens, axes=[1], keepdims=0)
    head = net.const(net.random.normal(size=(32, CLASSES)) * 5)
    return net.graph(net.op("Gemm", pooled, head, net.weight(CLASSES)))


def images(count: int, seed: int = 0) -> NDArray[np.float32]:
    """(count, 24, 16, 16); each has a scale of its own, as photographs have."""
    rng = np.random.default_rng(seed)
    scale = np.exp(rng.uniform(-1, 0, size=(count, 1, 1, 1)))
    return np.asarray(rng.normal(size=(count, 24, 16, 16)) * scale, np.float32)


def ranges(graph: Graph) -> Ranges:
    """From one image as strong as any."""
    return observe(graph, images(1, seed=99) / np.abs(images(1, seed=99)).max() * 5)


def twin(graph: Graph) -> tuple[Plan, Graph]:
    """The plan and the int8 graph."""
    made = plan(graph, "fp32")
    return made, quantize(graph, ranges(graph), made)


def grouped(graph: Graph) -> tuple[Plan, tuple[LayerGroup, ...]]:
    """Plan and groups."""
    made = plan(graph, "fp32")
    return made, find_groups(graph, made)


def session(graph: Graph) -> onnxruntime.InferenceSession:
    """Canonical numerics, one thread."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(graph.to_bytes(), options, providers=["CPUExecutionProvider"])


def scoring(graph: Graph) -> Callable[[NDArray[np.float32]], NDArray[np.float32]]:
    """A network as a function from images to logits."""
    opened = session(graph)
    return lambda batch: np.asarray(opened.run(["logits"], {"input": batch})[0], np.float32)


def answering(switched: Switched) -> Callable[[NDArray[np.bool_], NDArray[np.float32]], NDArray[np.float32]]:
    """A switched network as a function of what is in int8."""
    opened = session(switched.graph)

    def answer(choice: NDArray[np.bool_], batch: NDArray[np.float32]) -> NDArray[np.float32]:
        found = opened.run(["logits"], {**switched.feeds(choice), switched.image: batch})[0]
        return np.asarray(found, np.float32)

    return answer
