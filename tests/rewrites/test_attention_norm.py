"""Batch normalisation after attention moves into the values, and only where that is exact."""

import numpy as np
import pytest

from edgehybrid import exporter, rewrites, zoo
from tests.golden import fill
from tests.rewrites.net import Net, ops, rewrite, sites

NAME = "bn-into-value"
SIDE, DIM, HEADS = 4, 6, 2
HEAD, TOKENS = DIM // HEADS, SIDE * SIDE


@pytest.fixture
def net() -> Net:
    return Net(1, DIM, SIDE, SIDE)


def attend(net: Net, *, bias: bool = False, also: list[str] | None = None) -> str:
    """Attention on a map as BoTNet has it: one 1x1 convolution for q, k and v, heads of consecutive channels."""
    qkv = net.conv("input", DIM, 3 * DIM, bias=bias)
    net.op("Split", qkv, net.ints(DIM, DIM, DIM), outputs=3, axis=1)
    q, k, v = (net.reshape(x, 1, HEADS, HEAD, TOKENS) for x in net.last_outputs())
    if also is not None:
        also.append(net.op("Relu", v))
    q, v = net.transpose(q, 0, 1, 3, 2), net.transpose(v, 0, 1, 3, 2)
    return net.op("MatMul", net.op("Softmax", net.op("MatMul", q, k)), v)


def to_map(net: Net, context: str) -> str:
    return net.reshape(net.transpose(context, 0, 1, 3, 2), 1, DIM, SIDE, SIDE)


@pytest.mark.parametrize("bias", [True, False])
def test_norm_after_attention_is_folded_into_the_rows_of_v(net, bias):
    graph = net.graph(net.op("Relu", net.norm(to_map(net, attend(net, bias=bias)), DIM)))
    after, n = rewrite(graph, NAME)
    assert n == 1
    assert "BatchNormalization" not in ops(after)
    before, _ = (next(g.nodes("Conv")).inputs[1].const_value.numpy() for g in (graph, after))
    moved = next(after.nodes("Conv")).inputs[1].const_value.numpy()
    assert np.array_equal(moved[: 2 * DIM], before[: 2 * DIM])
    assert not np.isclose(moved[2 * DIM :], before[2 * DIM :]).any()


@pytest.mark.parametrize(
    ("pool", "attributes"),
    [
        ("AveragePool", {"kernel_shape": [2, 2], "strides": [2, 2]}),
        ("AveragePool", {"kernel_shape": [3, 3], "auto_pad": "VALID"}),
        ("GlobalAveragePool", {}),
    ],
)
def test_norm_is_folded_through_an_average_of_whole_windows(net, pool, attributes):
    pooled = net.op(pool, to_map(net, attend(net)), **attributes)
    assert sites(net.graph(net.op("Relu", net.norm(pooled, DIM))), NAME) == 1


@pytest.mark.parametrize(
    ("pool", "attributes"),
    [
        ("AveragePool", {"kernel_shape": [3, 3], "pads": [1, 1, 1, 1], "count_include_pad": 1}),
        ("AveragePool", {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1}),
        ("AveragePool", {"kernel_shape": [3, 3], "auto_pad": "SAME_UPPER", "count_include_pad": 1}),
        ("MaxPool", {"kernel_shape": [2, 2], "strides": [2, 2]}),
    ],
)
def test_norm_stays_behind_a_pool_whose_windows_are_no_plain_average(net, pool, attributes):
    pooled = net.op(pool, to_map(net, attend(net)), **attributes)
    assert sites(net.graph(net.norm(pooled, DIM)), NAME) == 0


def test_norm_is_folded_where_a_layer_computes_nothing_but_v(net):
    q, k, v = (net.reshape(net.conv("input", DIM, DIM), 1, DIM, TOKENS) for _ in range(3))
    weights = net.op("Softmax", net.op("MatMul", net.transpose(q, 0, 2, 1), k))
    context = net.op("MatMul", weights, net.transpose(v, 0, 2, 1))
    image = net.reshape(net.transpose(context, 0, 2, 1), 1, DIM, SIDE, SIDE)
    assert sites(net.graph(net.norm(image, DIM)), NAME) == 1


def test_norm_that_mixes_channels_stays(net):
    mixed = net.reshape(attend(net), 1, DIM, SIDE, SIDE)  # row-major: not a transpose
    assert sites(net.graph(net.norm(mixed, DIM)), NAME) == 0


def test_norm_stays_when_v_is_read_elsewhere(net):
    also: list[str] = []
    image = to_map(net, attend(net, also=also))
    assert sites(net.graph(net.norm(image, DIM), *also), NAME) == 0


@pytest.mark.parametrize("output", [True, False])
def test_norm_stays_when_its_input_is_read_elsewhere(net, output):
    image = to_map(net, attend(net))
    assert sites(net.graph(net.norm(image, DIM), image if output else net.op("Relu", image)), NAME) == 0


def test_norm_stays_behind_an_activation(net):
    assert sites(net.graph(net.norm(net.op("Relu", to_map(net, attend(net))), DIM)), NAME) == 0


def test_norm_with_statistics_that_overflow_stays(net):
    image = to_map(net, attend(net))
    gain, rest = net.const(np.full(DIM, np.inf)), [net.weight(DIM), net.weight(DIM), net.const(np.ones(DIM))]
    graph = net.graph(net.op("BatchNormalization", image, gain, *rest))
    after, lines = rewrites.apply(graph, only=[NAME])
    assert lines == (f"{NAME}: 0 sites",)
    assert ops(after) == ops(graph)


@pytest.mark.parametrize("name", ["botnet26t", "botnet50"])
def test_every_attention_of_botnet_loses_its_norm_and_its_scale(name):
    module, spec = zoo.load(name, "random", num_classes=10, input_size=64)
    fill(module)
    after, lines = rewrites.apply(exporter.trace(module, spec))
    assert {"bn-into-value: 3 sites", "attention-scale: 3 sites"} <= set(lines)
    assert not {"BatchNormalization", "Mul"} & set(ops(after))
