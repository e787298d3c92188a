"""Awkward hidden widths are padded with channels that change nothing."""

import numpy as np
import pytest

from edgehybrid import rewrites
from edgehybrid.graph import Graph, constant, shape_of, values
from tests.rewrites.net import Net, ops, rewrite, sites

NAME = "hidden-width"
SIDE, DIM = 4, 6


def widths(graph: Graph) -> set[int]:
    """Output channels of all convolutions."""
    return {shape_of(n.outputs[0])[1] for n in graph.nodes("Conv")}


def ffn(net: Net, hidden: int, gelu: str = "erf", *, residual: bool = True) -> str:
    """CMT's feed-forward network: 1x1, GELU, norm, residual depthwise, GELU, norm, 1x1."""
    x = net.norm(net.gelu(net.conv("input", DIM, hidden), gelu), hidden)
    y = net.depthwise(x, hidden)
    y = net.op("Add", y, x) if residual else y
    return net.conv(net.norm(net.gelu(y, gelu), hidden), hidden, DIM)


@pytest.mark.parametrize(("hidden", "padded"), [(30, 32), (60, 64), (45, 48), (165, 176)])
def test_ffn_is_padded_to_a_multiple_of_16(hidden, padded):
    net = Net(1, DIM, SIDE, SIDE)
    after, n = rewrite(net.graph(ffn(net, hidden)), NAME)
    assert n == 1
    assert widths(after) == {padded, DIM}


@pytest.mark.parametrize("constants", ["initializer", "node"])
@pytest.mark.parametrize("gelu", ["erf", "tanh", "op"])
def test_every_way_to_write_gelu_is_padded(gelu, constants):
    net = Net(1, DIM, SIDE, SIDE, opset=20 if gelu == "op" else 17, constants=constants)
    assert sites(net.graph(ffn(net, 30, gelu)), NAME) == 1


def test_idle_channels_are_zero_before_every_convolution():
    net = Net(1, DIM, SIDE, SIDE)
    after, _ = rewrite(net.graph(ffn(net, 30)), NAME)
    first, depthwise, last = after.nodes("Conv")
    for node in (first, depthwise):
        weight, bias = constant(node.inputs[1]), constant(node.inputs[2])
        assert not weight[30:].any()
        assert not bias[30:].any()
    assert not constant(last.inputs[1])[:, 30:].any()
    for node in after.nodes("BatchNormalization"):
        gamma, beta, mean, variance = (constant(v)[30:] for v in node.inputs[1:])
        assert not np.concatenate([gamma, beta, mean]).any()
        assert (variance == 1).all()


def test_tokens_that_become_a_map_and_tokens_again_are_padded():
    """As in PVTv2: linear, reshape to a map, depthwise, reshape to tokens, GELU, linear."""
    net = Net(1, SIDE * SIDE, DIM)
    tokens = net.linear("input", DIM, 30)
    image = net.reshape(net.transpose(tokens, 0, 2, 1), 1, 30, SIDE, SIDE)
    image = net.depthwise(image, 30)
    tokens = net.transpose(net.reshape(image, 0, 30, -1), 0, 2, 1)
    after, n = rewrite(net.graph(net.linear(net.gelu(tokens), 30, DIM)), NAME)
    assert n == 1
    assert 30 not in {s for v in values(after) for s in shape_of(v)}


@pytest.mark.parametrize("mean", ["pool", "reduce", "reduce-18"])
def test_squeeze_and_excitation_inside_is_padded_with_the_rest(mean):
    net = Net(1, DIM, SIDE, SIDE, opset=18 if mean == "reduce-18" else 17)
    x = net.op("Relu", net.depthwise(net.conv("input", DIM, 30), 30))
    if mean == "pool":
        squeezed = net.op("GlobalAveragePool", x)
    elif mean == "reduce":
        squeezed = net.op("ReduceMean", x, axes=[2, 3])
    else:
        squeezed = net.op("ReduceMean", x, net.ints(-1, -2))
    gate = net.op("Relu", net.conv(squeezed, 30, 8))
    gate = net.op("Sigmoid", net.conv(gate, 8, 30))
    assert sites(net.graph(net.conv(net.op("Mul", x, gate), 30, DIM)), NAME) == 1


def test_constants_per_channel_and_per_position_are_padded():
    net = Net(1, DIM, SIDE, SIDE)
    x = net.op("Add", net.conv("input", DIM, 30, 3, pads=[1] * 4), net.weight(1, 30, SIDE, SIDE))
    x = net.op("Div", x, net.const(np.full((30, 1, 1), 2.0)))
    x = net.op("Sub", net.depthwise(x, 30), net.weight(1, SIDE))
    assert sites(net.graph(net.conv(x, 30, DIM, 3, bias=False)), NAME) == 1


def test_residual_stream_of_awkward_width_is_padded_as_a_whole():
    net = Net(1, 3, SIDE, SIDE)
    x = net.conv("input", 3, 30)
    for _ in range(2):
        x = net.op("Add", x, net.conv(net.op("Relu", net.depthwise(x, 30)), 30, 30))
    after, n = rewrite(net.graph(net.conv(x, 30, 8)), NAME)
    assert n == 1
    assert widths(after) == {32, 8}


@pytest.mark.parametrize("hidden", [32, 40, 56, 20, 10])
def test_width_that_is_fine_or_too_small_to_pad_stays(hidden):
    net = Net(1, DIM, SIDE, SIDE)
    assert sites(net.graph(ffn(net, hidden)), NAME) == 0


def test_width_without_a_depthwise_convolution_stays():
    net = Net(1, DIM, SIDE, SIDE)
    assert sites(net.graph(net.conv(net.gelu(net.conv("input", DIM, 30)), 30, DIM)), NAME) == 0


def between(step) -> Graph:
    """1x1, depthwise, `step`, 1x1."""
    net = Net(1, DIM, SIDE, SIDE)
    x = step(net, net.depthwise(net.conv("input", DIM, 30), 30))
    return net.graph(net.conv(x, 30, DIM))


def layer_norm(net: Net, x: str) -> str:
    tokens = net.transpose(x, 0, 2, 3, 1)
    return net.transpose(net.op("LayerNormalization", tokens, net.weight(30), net.weight(30)), 0, 3, 1, 2)


def computed_kernel(net: Net, x: str) -> str:
    return net.op("Conv", x, net.reshape(net.op("GlobalAveragePool", x), 30, 1, 1, 1), group=30)


def mixed_by_reshape(net: Net, x: str) -> str:
    return net.reshape(net.transpose(net.reshape(x, 1, 2, 15, SIDE, SIDE), 0, 2, 1, 3, 4), 1, 30, SIDE, SIDE)


def computed_divisor(net: Net, x: str) -> str:
    return net.op("Div", x, net.op("Abs", net.op("Add", x, net.const(9.0))))


@pytest.mark.parametrize(
    "step",
    [
        lambda net, x: net.op("Softmax", x, axis=1),
        lambda net, x: net.op("Mul", x, net.op("ReduceMean", x, axes=[1])),
        lambda net, x: net.op("Mul", x, net.op("ReduceMean", x)),
        lambda net, x: net.op("Unsqueeze", net.op("ReduceMean", x, axes=[3], keepdims=0), net.ints(3)),
        lambda net, x: net.conv(x, 30, 30, group=2),
        lambda net, x: net.op("Pow", x, net.const(-1.0)),
        lambda net, x: net.op("Exp", net.op("Add", x, x)),
        lambda net, x: net.op("Pad", x, net.ints(0, 0, 1, 1, 0, 0, 0, 0)),
        layer_norm,
        computed_kernel,
        mixed_by_reshape,
        computed_divisor,
    ],
)
def test_operators_that_mix_channels_or_are_unknown_keep_the_width(step):
    assert sites(between(step), NAME) == 0


def test_concatenation_keeps_the_width():
    net = Net(1, DIM, SIDE, SIDE)
    x = net.depthwise(net.conv("input", DIM, 30), 30)
    assert sites(net.graph(net.conv(net.op("Concat", x, x, axis=1), 60, DIM)), NAME) == 0


def test_hidden_map_that_is_an_output_keeps_the_width():
    net = Net(1, DIM, SIDE, SIDE)
    x = net.depthwise(net.conv("input", DIM, 30), 30)
    assert sites(net.graph(net.conv(x, 30, DIM), x), NAME) == 0


def test_skip_from_the_input_keeps_the_width():
    net = Net(1, 30, SIDE, SIDE)
    x = net.op("Add", net.depthwise(net.conv("input", 30, 30), 30), "input")
    assert sites(net.graph(net.conv(x, 30, DIM)), NAME) == 0


def test_weight_that_is_not_finite_keeps_the_width():
    net = Net(1, DIM, SIDE, SIDE)
    x = net.depthwise(net.conv("input", DIM, 30), 30)
    x = net.op("Conv", x, net.const(np.full((DIM, 30, 1, 1), np.nan)))
    _, lines = rewrites.apply(net.graph(x), only=[NAME])
    assert lines == (f"{NAME}: 0 sites",)


def test_padding_leaves_the_order_of_operators():
    net = Net(1, DIM, SIDE, SIDE)
    graph = net.graph(ffn(net, 30))
    assert ops(rewrite(graph, NAME)[0]) == ops(graph)
