"""x + dw(x) becomes one depthwise convolution, and only where it is one."""

import pytest

from tests.rewrites.net import Net, ops, rewrite, sites

NAME = "depthwise-residual"


@pytest.mark.parametrize("skip_first", [True, False])
@pytest.mark.parametrize(
    ("k", "attributes"),
    [
        (3, {}),
        (5, {}),
        (1, {}),
        (3, {"dilations": [2, 2], "pads": [2] * 4}),
        (3, {"pads": [0] * 4, "auto_pad": "SAME_UPPER"}),
    ],
)
def test_identity_goes_into_the_centre_tap(k, attributes, skip_first):
    net = Net(1, 4, 7, 7)
    if "auto_pad" in attributes:
        y = net.conv("input", 4, 4, k, group=4, auto_pad="SAME_UPPER")
    else:
        y = net.depthwise("input", 4, k, **attributes)
    after, n = rewrite(net.graph(net.op("Add", *(("input", y) if skip_first else (y, "input")))), NAME)
    assert n == 1
    assert ops(after) == ["Conv"]


def test_one_dimensional_kernel_is_folded():
    net = Net(1, 4, 9)
    y = net.op("Conv", "input", net.weight(4, 1, 3), group=4, pads=[1, 1])
    assert sites(net.graph(net.op("Add", y, "input")), NAME) == 1


def test_chain_of_residuals_is_folded_one_by_one():
    net = Net(1, 4, 7, 7)
    x = net.op("Add", net.depthwise("input", 4), "input")
    assert sites(net.graph(net.op("Add", x, net.depthwise(x, 4, 5))), NAME) == 2


@pytest.mark.parametrize(
    "attributes",
    [
        {"group": 2, "pads": [1] * 4},  # mixes channels
        {"group": 1, "pads": [1] * 4},
        {"group": 4, "pads": [0, 0, 2, 2]},  # off centre
        {"group": 4, "pads": [1] * 4, "dilations": [1, 2]},  # narrower, and broadcast by the sum
    ],
)
def test_other_convolutions_keep_their_residual(attributes):
    net = Net(1, 4, 7, 7)
    skip = net.op("GlobalAveragePool", "input") if "dilations" in attributes else "input"
    y = net.conv(skip if "dilations" not in attributes else "input", 4, 4, 3, **attributes)
    assert sites(net.graph(net.op("Add", y, skip)), NAME) == 0


def test_even_kernel_keeps_its_residual():
    net = Net(1, 4, 7, 7)
    y = net.conv("input", 4, 4, 2, group=4, pads=[0, 0, 1, 1])
    assert sites(net.graph(net.op("Add", y, "input")), NAME) == 0


def test_stride_keeps_its_residual():
    net = Net(1, 4, 1, 1)
    y = net.depthwise("input", 4, strides=[2, 2])  # 1x1 in, 1x1 out: the sum is legal
    assert sites(net.graph(net.op("Add", y, "input")), NAME) == 0


def test_channel_multiplier_keeps_its_residual():
    net = Net(1, 1, 7, 7)
    y = net.conv("input", 1, 4, 3, group=1, pads=[1] * 4)  # the sum broadcasts one channel to four
    assert sites(net.graph(net.op("Add", y, "input")), NAME) == 0


def test_activation_in_between_keeps_the_residual():
    net = Net(1, 4, 7, 7)
    assert sites(net.graph(net.op("Add", net.gelu(net.depthwise("input", 4)), "input")), NAME) == 0


def test_second_reader_of_the_convolution_keeps_the_residual():
    net = Net(1, 4, 7, 7)
    y = net.depthwise("input", 4)
    assert sites(net.graph(net.op("Mul", net.op("Add", y, "input"), y)), NAME) == 0


def test_convolution_that_is_an_output_keeps_the_residual():
    net = Net(1, 4, 7, 7)
    y = net.depthwise("input", 4)
    assert sites(net.graph(net.op("Add", y, "input"), y), NAME) == 0


def test_another_tensor_is_no_residual():
    net = Net(1, 4, 7, 7)
    y = net.depthwise("input", 4)
    assert sites(net.graph(net.op("Add", y, net.op("Relu", "input"))), NAME) == 0


def test_computed_kernel_keeps_the_residual():
    net = Net(1, 4, 7, 7)
    kernel = net.reshape(net.op("GlobalAveragePool", "input"), 4, 1, 1, 1)
    assert sites(net.graph(net.op("Add", net.op("Conv", "input", kernel, group=4), "input")), NAME) == 0
