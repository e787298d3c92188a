"""A gain per channel becomes part of the layer before it, and only where the layer is read by nothing else."""

import pytest

from tests.rewrites.net import Net, ops, rewrite, sites

NAME = "layer-scale"


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("gain_first", [True, False])
def test_gain_of_a_map_goes_into_the_convolution(bias, gain_first):
    net = Net(1, 4, 5, 5)
    y, gain = net.conv("input", 4, 6, 3, bias=bias, pads=[1] * 4), net.weight(6, 1, 1)
    after, n = rewrite(net.graph(net.op("Mul", *((gain, y) if gain_first else (y, gain)))), NAME)
    assert (n, ops(after)) == (1, ["Conv"])


def test_gain_of_a_grouped_convolution_is_folded():
    net = Net(1, 4, 5, 5)
    y = net.op("Mul", net.conv("input", 4, 8, 3, group=2), net.weight(1, 8, 1, 1))
    assert sites(net.graph(y), NAME) == 1


@pytest.mark.parametrize("bias", [True, False])
def test_gain_of_tokens_goes_into_the_linear_layer(bias):
    net = Net(1, 5, 4)
    y = net.op("Mul", net.linear("input", 4, 6, bias=bias), net.weight(6))
    after, n = rewrite(net.graph(y), NAME)
    assert (n, ops(after)) == (1, ["MatMul", "Add"] if bias else ["MatMul"])


def test_gain_behind_a_layout_change_is_followed():
    net = Net(1, 5, 4)
    tokens = net.linear("input", 4, 6)
    y = net.op("Mul", net.transpose(tokens, 0, 2, 1), net.weight(6, 1))
    after, n = rewrite(net.graph(y), NAME)
    assert (n, ops(after)) == (1, ["MatMul", "Add", "Transpose"])


def test_gain_of_one_part_leaves_the_others_alone():
    net = Net(1, 5, 4)
    net.op("Split", net.linear("input", 4, 6), net.ints(2, 4), axis=-1, outputs=2)
    first, second = net.last_outputs()
    scaled = net.op("Mul", second, net.weight(4))
    after, n = rewrite(net.graph(net.op("Abs", first), scaled), NAME)
    assert n == 1
    assert "Mul" not in ops(after)


def test_gain_that_differs_between_positions_stays():
    net = Net(1, 4, 5, 5)
    assert sites(net.graph(net.op("Mul", net.conv("input", 4, 6), net.weight(6, 5, 5))), NAME) == 0
    assert sites(net.graph(net.op("Mul", net.conv("input", 4, 5), net.weight(5))), NAME) == 0  # along the width


def test_layer_with_another_reader_stays():
    net = Net(1, 4, 5, 5)
    y = net.conv("input", 4, 6)
    assert sites(net.graph(net.op("Add", y, net.op("Mul", y, net.weight(6, 1, 1)))), NAME) == 0
    assert sites(net.graph(y, net.op("Mul", y, net.weight(6, 1, 1))), NAME) == 0


def test_gain_that_adds_a_dimension_stays():
    net = Net(5, 4)
    y = net.op("Mul", net.linear("input", 4, 6), net.weight(1, 1, 6))
    assert sites(net.graph(y), NAME) == 0


def test_gain_behind_an_activation_stays():
    net = Net(1, 4, 5, 5)
    y = net.op("Mul", net.gelu(net.conv("input", 4, 6)), net.weight(6, 1, 1))
    assert sites(net.graph(y), NAME) == 0
