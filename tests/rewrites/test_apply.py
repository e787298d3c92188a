"""All rewrites together: the same function, once and for all, whoever exported the graph."""

import warnings

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from torch import nn

from edgehybrid import rewrites
from edgehybrid.errors import NotFoundError
from edgehybrid.graph import Graph, from_proto, shape_of, values
from edgehybrid.zoo.cmt import Block
from tests.rewrites.net import EXACT, Net, difference, ops
from tests.single import SingleNet

SINGLE = 1e-5
"""Relative difference that float32 rounding explains in a network as deep as CMT-Ti."""

NAMES = [name for name, _ in rewrites.REWRITES]


def run(graph: Graph, image: NDArray[np.float32]) -> NDArray[np.float32]:
    """The first output in float32, graph as written."""
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(graph.to_bytes(), options, providers=["CPUExecutionProvider"])
    (result, *_) = session.run(None, {session.get_inputs()[0].name: image})
    return result


def error(reference: NDArray[np.float32], result: NDArray[np.float32]) -> float:
    """Largest difference relative to the largest value."""
    return float(np.abs(reference - result).max() / np.abs(reference).max())


def found(lines: tuple[str, ...]) -> dict[str, int]:
    """Sites by name."""
    return {line.split(":")[0]: int(line.split()[1]) for line in lines}


@pytest.fixture(scope="module")
def image() -> NDArray[np.float32]:
    return np.random.default_rng(3).normal(size=(1, 3, 64, 64)).astype(np.float32)


@pytest.fixture(scope="module")
def rewritten(cmt_ti_graph) -> tuple[Graph, tuple[str, ...]]:
    return rewrites.apply(cmt_ti_graph)


# --- CMT-Ti --------------------------------------------------------------------------------------


def test_rewritten_cmt_computes_the_same_logits(cmt_ti_graph, rewritten, image):
    assert error(run(cmt_ti_graph, image), run(rewritten[0], image)) < SINGLE


@pytest.mark.parametrize("name", NAMES)
def test_each_rewrite_alone_keeps_the_logits_of_cmt(cmt_ti_graph, image, name):
    after, _ = rewrites.apply(cmt_ti_graph, only=[name])
    assert error(run(cmt_ti_graph, image), run(after, image)) < SINGLE


def test_rewrites_apply_to_every_block_of_cmt(rewritten):
    sites = found(rewritten[1])
    blocks = 16
    assert sites["depthwise-residual"] == 2 * blocks  # local perception and feed-forward
    assert sites["attention-scale"] == blocks
    assert sites["bn-into-next"] == blocks + 1  # feed-forward and stem
    assert sites["hidden-width"] == blocks
    assert sites["key-bias"] == sites["value-bias"] == sites["key-value"] == blocks


def test_rewritten_cmt_has_no_awkward_hidden_width_and_no_scale(rewritten):
    graph, _ = rewritten
    depthwise = [n for n in graph.nodes("Conv") if n.attributes.get_int("group", 1) > 1]
    hidden = {shape_of(n.outputs[0])[1] for n in depthwise} - {46, 92, 184, 368}
    assert hidden == {176, 336, 672, 1328}
    scaled = [n for n in graph.nodes("Mul", "Div") if (p := n.inputs[0].producer()) and p.op_type == "MatMul"]
    assert not scaled


def test_rewriting_twice_is_rewriting_once(rewritten):
    graph, _ = rewritten
    again, lines = rewrites.apply(graph)
    assert set(found(lines).values()) == {0}
    assert again.digest() == graph.digest()


def test_rewriting_leaves_the_original_alone(cmt_ti_graph):
    before = cmt_ti_graph.digest()
    rewrites.apply(cmt_ti_graph)
    assert cmt_ti_graph.digest() == before


def test_interface_opset_and_operator_set_stay(cmt_ti_graph, rewritten):
    graph, _ = rewritten
    onnx.checker.check_model(onnx.load_model_from_string(graph.to_bytes()), full_check=True)
    assert graph.opset == cmt_ti_graph.opset
    assert graph.input.name == cmt_ti_graph.input.name
    assert graph.outputs == cmt_ti_graph.outputs
    assert {n.op_type for n in graph.nodes()} - {n.op_type for n in cmt_ti_graph.nodes()} <= {"Split"}
    assert all(shape_of(v) is not None for v in values(graph))
    assert len(list(graph.nodes())) < len(list(cmt_ti_graph.nodes()))


def test_only_runs_what_is_asked_for(cmt_ti_graph):
    _, lines = rewrites.apply(cmt_ti_graph, only=["attention-scale", "hidden-width"])
    assert list(found(lines)) == ["attention-scale", "hidden-width"]


def test_unknown_rewrite_is_refused_with_a_near_miss(cmt_ti_graph):
    with pytest.raises(NotFoundError, match="no rewrite named 'hidden-widths'") as caught:
        rewrites.apply(cmt_ti_graph, only=["hidden-widths"])
    assert "hidden-width" in caught.value.why


# --- exporters -----------------------------------------------------------------------------------


class Hybrid(nn.Module):
    """A stem, one CMT block of awkward width, a head with batch normalisation."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 12, 4, stride=4)
        self.block = Block(12, heads=2, sr=2, hidden=30, drop_path=0.0)
        self.table = nn.Parameter(torch.randn(2, 64, 16))
        self.head = nn.Conv2d(12, 8, 1)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.head(self.block(self.stem(x), self.table)).mean((2, 3))


@pytest.fixture(scope="module")
def hybrid() -> nn.Module:
    torch.manual_seed(0)
    module = Hybrid().eval()
    with torch.no_grad():
        for tensor in (*module.parameters(), *module.buffers()):
            if tensor.ndim == 1:
                tensor.copy_(torch.rand_like(tensor) + 0.5)
    return module


@pytest.mark.parametrize(("dynamo", "opset"), [(False, 17), (True, 20)])
def test_plain_export_of_either_exporter_is_rewritten_everywhere(hybrid, tmp_path, dynamo, opset):
    image = torch.randn(1, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    path = tmp_path / "hybrid.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the legacy exporter announces its end, dynamo much else
        torch.onnx.export(hybrid, (image,), path, dynamo=dynamo, opset_version=opset, verbose=False)
    graph = from_proto(onnx.load(path))
    after, lines = rewrites.apply(graph)
    sites = found(lines)
    assert {sites[n] for n in ("attention-scale", "key-bias", "value-bias", "key-value")} == {1}
    assert (sites["bn-into-next"], sites["depthwise-residual"], sites["hidden-width"]) == (1, 2, 1)
    assert error(hybrid(image).detach().numpy(), run(after, image.numpy())) < SINGLE


# --- any network ---------------------------------------------------------------------------------


def grow_network(net: Net, steps: list[tuple[str, int, bool]]) -> list[str]:
    """A random network of one map: each step is (kind, a number that varies it, whether to read the map twice)."""
    x, channels, side, outputs = "input", 4, 6, []
    for kind, number, twice in steps:
        before = x
        if kind == "conv":
            wider = (4, 8, 30, 12)[number % 4]
            x, channels = net.conv(x, channels, wider, bias=number > 4), wider
        elif kind == "window":
            x = net.conv(x, channels, channels, 3, pads=[1] * 4, group=(1, 2)[number % 2])
        elif kind == "depthwise":
            y = net.depthwise(x, channels, (3, 5)[number % 2])
            x = net.op("Add", *((x, y) if number > 4 else (y, x)))
        elif kind == "norm":
            x = net.norm(x, channels)
        elif kind == "gelu":
            x = net.gelu(x, ("erf", "tanh")[number % 2])
        elif kind == "scale":
            x = net.op("Mul", x, net.const(0.5 + number))
        elif kind == "vector":
            x = net.op("Add", net.weight(1, channels, 1, 1), x)
        elif kind == "gain":
            x = net.op("Mul", x, net.weight(channels, 1, 1))
        elif kind == "pool":
            window = min(number % 3 + 1, side)
            x, side = net.op("AveragePool", x, kernel_shape=[window, window]), side - window + 1
        elif kind == "layer norm":
            centred = net.op("Sub", x, net.op("ReduceMean", x, axes=[1]))
            variance = net.op("ReduceMean", net.op("Mul", centred, centred), axes=[1])
            x = net.op("Div", centred, net.op("Sqrt", net.op("Add", variance, net.const(2.0**-4))))
        elif kind == "turn":
            tokens = net.transpose(net.reshape(x, 1, channels, side * side), 0, 2, 1)
            tokens = net.linear(tokens, channels, channels, bias=number > 4)
            x = net.reshape(net.transpose(tokens, 0, 2, 1), 1, channels, side, side)
        elif kind == "attention":
            tokens = net.transpose(net.reshape(x, 1, channels, side * side), 0, 2, 1)
            q, k, v = (net.linear(tokens, channels, channels, bias=number > 2) for _ in range(3))
            logits = net.op("Div", net.op("MatMul", q, net.transpose(k, 0, 2, 1)), net.const(2.0))
            mixed = net.op("MatMul", net.op("Softmax", logits), v)
            x = net.linear(mixed, channels, channels)
            x = net.op("Add", before, net.reshape(net.transpose(x, 0, 2, 1), 1, channels, side, side))
        if twice:
            outputs.append(x)
    return [*dict.fromkeys([*(o for o in outputs if o != "input"), net.op("Abs", x)])]


KINDS = [
    "conv",
    "window",
    "depthwise",
    "norm",
    "gelu",
    "scale",
    "vector",
    "gain",
    "pool",
    "layer norm",
    "turn",
    "attention",
]
STEPS = st.tuples(st.sampled_from(KINDS), st.integers(0, 9), st.sampled_from([False] * 7 + [True]))


@settings(max_examples=60, deadline=None, derandomize=True)
@given(st.lists(STEPS, min_size=1, max_size=10), st.sampled_from(["initializer", "node"]))
def test_any_network_is_the_same_after_and_stays_so(steps, constants):
    net = Net(1, 4, 6, 6, constants=constants)
    graph = net.graph(*grow_network(net, steps))
    after, _ = rewrites.apply(graph)
    assert difference(graph, after) < EXACT
    again, lines = rewrites.apply(after)
    assert set(found(lines).values()) == {0}
    assert ops(again) == ops(after)
    assert again.digest() == after.digest()


def test_what_nothing_reads_keeps_nothing_apart():
    net = Net(1, 4, 6, 6)
    y = net.conv("input", 4, 4, 1)
    net.op("Tanh", y)
    first, _ = rewrites.apply(net.graph(net.norm(y, 4)))
    assert not list(first.nodes("BatchNormalization"))


def test_a_name_that_a_rewrite_would_give_may_be_there_already():
    net = SingleNet(1, 4, 16)
    product = net.op("MatMul", "input", net.weight(16, 16))
    graph = net.graph(net.op("Relu", net.norm(net.transpose(product, 0, 2, 1), 16)))
    image = np.random.default_rng(0).standard_normal((1, 4, 16), np.float32)
    before = run(graph, image)
    (relu,) = graph.nodes("Relu")
    relu.outputs[0].name = f"{product}_biased"
    after, lines = rewrites.apply(graph)
    assert found(lines)["bn-into-previous"] == 1
    names = [value.name for value in values(after)]
    assert len(set(names)) == len(names)
    assert error(before, run(after, image)) < SINGLE
