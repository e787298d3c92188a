"""A mean moves before the 1x1 convolution that it follows, and only where they commute; one of all is a global one."""

import pytest

from edgehybrid.graph import shape_of, values
from edgehybrid.graph.counting import count_macs
from tests.rewrites.net import Net, ops, rewrite, sites

NAME = "pool-first"
WINDOW = {"kernel_shape": [2, 2], "strides": [2, 2]}


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    ("kind", "attributes"),
    [
        ("AveragePool", WINDOW),
        ("AveragePool", {"kernel_shape": [3, 2], "strides": [1, 2]}),
        ("AveragePool", {"kernel_shape": [2, 2], "auto_pad": "VALID"}),
        ("GlobalAveragePool", {}),
    ],
)
def test_mean_moves_before_a_pointwise_convolution(kind, attributes, bias):
    net = Net(1, 3, 6, 6)
    y = net.op(kind, net.conv("input", 3, 5, bias=bias), **attributes)
    graph = net.graph(net.op("Relu", y))
    after, n = rewrite(graph, NAME)
    assert (n, ops(after)) == (1, [kind, "Conv", "Relu"])
    assert count_macs(after) < count_macs(graph)
    assert all(shape_of(v) is not None for v in values(after))


def test_mean_that_is_the_output_keeps_its_name():
    net = Net(1, 3, 6, 6)
    out = net.op("AveragePool", net.conv("input", 3, 5, group=1), **WINDOW)
    after, n = rewrite(net.graph(out), NAME)
    assert (n, after.outputs) == (1, (out,))


def test_mean_passes_a_chain_of_convolutions():
    net = Net(1, 4, 6, 6)
    y = net.conv(net.conv("input", 4, 6, group=2), 6, 5)
    after, n = rewrite(net.graph(net.op("AveragePool", y, **WINDOW)), NAME)
    assert (n, ops(after)) == (2, ["AveragePool", "Conv", "Conv"])


@pytest.mark.parametrize(
    ("window", "conv"),
    [
        ({"pads": [1] * 4}, {}),
        ({"pads": [1] * 4, "count_include_pad": 1}, {}),
        ({"auto_pad": "SAME_UPPER"}, {}),
        ({"ceil_mode": 1}, {}),
        ({}, {"strides": [2, 2]}),
        ({}, {"pads": [1] * 4}),
        ({}, {"k": 3}),
    ],
)
def test_borders_strides_and_larger_kernels_stay(window, conv):
    net = Net(1, 3, 7, 7)
    y = net.op("AveragePool", net.conv("input", 3, 5, **conv), **WINDOW, **window)
    assert sites(net.graph(y), NAME) == 0


def test_maximum_does_not_commute():
    net = Net(1, 3, 6, 6)
    assert sites(net.graph(net.op("MaxPool", net.conv("input", 3, 5), **WINDOW)), NAME) == 0


def test_convolution_with_another_reader_stays():
    net = Net(1, 3, 6, 6)
    y = net.conv("input", 3, 5)
    assert sites(net.graph(y, net.op("AveragePool", y, **WINDOW)), NAME) == 0


@pytest.mark.parametrize("output", [True, False])
@pytest.mark.parametrize(
    "window",
    [
        {"kernel_shape": [7, 5]},
        {"kernel_shape": [7, 5], "strides": [3, 9], "count_include_pad": 1, "auto_pad": "VALID"},
        {"kernel_shape": [8, 6], "strides": [8, 6], "ceil_mode": 1},
        {"kernel_shape": [8, 5], "strides": [8, 5], "ceil_mode": 1, "count_include_pad": 1},
    ],
)
def test_the_mean_of_a_whole_map_is_a_global_one(window, output):
    net = Net(1, 3, 7, 5)
    pooled = net.op("AveragePool", "input", **window)
    before = net.graph(pooled if output else net.op("Relu", pooled))
    after, n = rewrite(before, "global-pool")
    assert (n, ops(after)) == (1, ["GlobalAveragePool"] + ["Relu"] * (not output))
    assert after.outputs == before.outputs
    assert pooled in {v.name for v in values(after)}


@pytest.mark.parametrize(
    "window",
    [
        {"kernel_shape": [7, 4], "strides": [7, 4]},
        {"kernel_shape": [6, 4], "strides": [6, 4], "ceil_mode": 1},
        {"kernel_shape": [9, 7], "pads": [1] * 4},
        {"kernel_shape": [9, 7], "pads": [1] * 4, "count_include_pad": 1},
        {"kernel_shape": [7, 5], "strides": [7, 5], "auto_pad": "SAME_UPPER"},
    ],
)
def test_the_mean_of_less_or_with_a_border_is_none(window):
    net = Net(1, 3, 7, 5)
    assert sites(net.graph(net.op("AveragePool", "input", **window)), "global-pool") == 0
