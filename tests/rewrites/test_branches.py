"""Parallel convolutions of one input whose sum is one convolution become it, and others stay."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgehybrid import rewrites
from edgehybrid.graph.counting import count_macs
from tests.rewrites.net import EXACT, Net, difference, ops, rewrite, sites

NAME = "branches"
SAME = {"pads": [1] * 4}


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
@pytest.mark.parametrize("op", ["Add", "Sub"])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    ("large", "small"),
    [
        ((3, SAME), (1, {})),
        ((3, SAME), (3, SAME)),
        ((5, {"pads": [2] * 4}), (3, SAME)),
        ((3, SAME | {"strides": [2, 2]}), (1, {"strides": [2, 2]})),
        ((3, {"pads": [2] * 4, "dilations": [2, 2]}), (1, {})),
        ((5, {"pads": [2] * 4}), (3, {"pads": [2] * 4, "dilations": [2, 2]})),  # on every other tap
        ((2, {"pads": [0, 0, 1, 1]}), (1, {})),  # on the first tap
        ((2, {"pads": [1, 1, 0, 0]}), (1, {})),  # on the last
        ((3, SAME | {"group": 2}), (1, {"group": 2})),
        ((3, SAME | {"group": 4}), (1, {"group": 4})),
    ],
)
def test_the_smaller_kernel_goes_among_the_taps_of_the_larger(large, small, bias, op, order):
    net = Net(2, 4, 7, 6)
    branches = [net.conv("input", 4, 4, k, bias=bias, **attributes) for k, attributes in (large, small)]
    after, n = rewrite(net.graph(net.op(op, *(branches[i] for i in order))), NAME)
    assert n == 1
    assert ops(after) == ["Conv"]


@pytest.mark.parametrize("op", ["Add", "Sub"])
@pytest.mark.parametrize("k", [1, 3])
def test_a_normalisation_is_a_depthwise_1x1(k, op):
    net = Net(1, 4, 5, 5)
    after, n = rewrite(net.graph(net.op(op, net.norm("input", 4), net.depthwise("input", 4, k))), NAME)
    assert n == 1
    assert ops(after) == ["Conv"]


@pytest.mark.parametrize("group", [1, 2])
def test_a_normalisation_stays_beside_a_dense_convolution(group):
    """Its taps would take the levels of int8 from the others."""
    net = Net(1, 4, 5, 5)
    y = net.conv("input", 4, 4, 3, group=group, **SAME)
    assert sites(net.graph(net.op("Add", net.norm("input", 4), y)), NAME) == 0


def test_one_dimensional_kernels_are_merged():
    net = Net(1, 4, 9)
    branches = [net.op("Conv", "input", net.weight(4, 4, k), pads=[k // 2] * 2) for k in (3, 1)]
    assert sites(net.graph(net.op("Add", *branches)), NAME) == 1


def test_a_block_of_mobileone_becomes_one_convolution_of_a_fifth_of_the_work():
    net = Net(1, 8, 6, 6)
    y = net.conv("input", 8, 8, 1, bias=False)
    for _ in range(4):
        y = net.op("Add", y, net.conv("input", 8, 8, 3, bias=False, **SAME))
    before = net.graph(net.op("Relu", net.op("Add", net.norm("input", 8), y)))
    after, n = rewrite(before, NAME)
    assert n == 4
    assert sorted(ops(after)) == ["Add", "BatchNormalization", "Conv", "Relu"]
    assert count_macs(after) * 37 == count_macs(before) * 9


def test_a_mixer_of_fastvit_becomes_one_convolution():
    """X + g * (dw(x) - norm(x)), with the help of two other rewrites."""
    net = Net(1, 4, 6, 6)
    mixed = net.op("Sub", net.depthwise("input", 4), net.norm("input", 4))
    gain = net.weight(4, 1, 1)
    before = net.graph(net.op("Add", "input", net.op("Mul", mixed, gain)))
    after, _ = rewrites.apply(before)
    assert ops(after) == ["Conv"]
    assert difference(before, after) < EXACT


@given(
    st.tuples(
        *[st.tuples(st.integers(1, 5), st.integers(1, 3), st.integers(0, 3), st.integers(0, 3)) for _ in range(4)]
    ),
    st.integers(1, 2),
)
@settings(max_examples=60, deadline=None)
def test_whatever_is_merged_is_the_same_function(axes, stride):
    """Two kernels of any size, dilation and padding per axis; `rewrite` compares what both graphs compute."""
    net, sides = Net(1, 2, 9, 9), []
    for height, width in (axes[:2], axes[2:]):
        size = [(9 + a[2] + a[3] - a[1] * (a[0] - 1) - 1) // stride + 1 for a in (height, width)]
        attributes = {
            "dilations": [height[1], width[1]],
            "pads": [height[2], width[2], height[3], width[3]],
            "strides": [stride] * 2,
        }
        sides.append((size, net.op("Conv", "input", net.weight(2, 2, height[0], width[0]), **attributes)))
    (size, one), (other, two) = sides
    if size != other or min(size) < 1:
        return
    rewrite(net.graph(net.op("Add", one, two)), NAME)


@pytest.mark.parametrize(
    ("large", "small"),
    [
        ((3, {"pads": [2] * 4, "dilations": [2, 2]}), (3, SAME)),  # between the taps
        ((3, SAME | {"group": 2}), (1, {})),  # mixes other channels
        ((3, SAME), (3, {"pads": [2, 2, 0, 0]})),  # beside
        ((3, {"auto_pad": "SAME_UPPER"}), (3, {"auto_pad": "SAME_UPPER"})),
    ],
)
def test_kernels_that_do_not_lie_on_each_other_stay(large, small):
    net = Net(1, 4, 7, 7)
    branches = [net.conv("input", 4, 4, k, **attributes) for k, attributes in (large, small)]
    assert sites(net.graph(net.op("Add", *branches)), NAME) == 0


def test_stride_keeps_the_normalisation():
    net = Net(1, 4, 1, 1)
    y = net.depthwise("input", 4, strides=[2, 2])  # 1x1 in, 1x1 out: the sum is legal
    assert sites(net.graph(net.op("Add", y, net.norm("input", 4))), NAME) == 0


def test_a_sum_that_broadcasts_stays():
    net = Net(1, 4, 5, 5)
    branches = net.conv("input", 4, 4, 3, **SAME), net.conv("input", 4, 1, 1)
    assert sites(net.graph(net.op("Add", *branches)), NAME) == 0


def test_branches_of_two_inputs_stay():
    net = Net(1, 4, 5, 5)
    branches = net.conv("input", 4, 4, 3, **SAME), net.conv(net.op("Relu", "input"), 4, 4, 1)
    assert sites(net.graph(net.op("Add", *branches)), NAME) == 0


def test_an_activation_in_between_keeps_the_branches():
    net = Net(1, 4, 5, 5)
    branches = net.conv("input", 4, 4, 3, **SAME), net.op("Relu", net.conv("input", 4, 4, 1))
    assert sites(net.graph(net.op("Add", *branches)), NAME) == 0


def test_a_second_reader_keeps_the_branches():
    net = Net(1, 4, 5, 5)
    small = net.conv("input", 4, 4, 1)
    total = net.op("Add", net.conv("input", 4, 4, 3, **SAME), small)
    assert sites(net.graph(net.op("Mul", total, small)), NAME) == 0


def test_a_branch_that_is_an_output_stays():
    net = Net(1, 4, 5, 5)
    small = net.conv("input", 4, 4, 1)
    assert sites(net.graph(net.op("Add", net.conv("input", 4, 4, 3, **SAME), small), small), NAME) == 0


def test_twice_the_same_branch_stays():
    net = Net(1, 4, 5, 5)
    y = net.conv("input", 4, 4, 3, **SAME)
    assert sites(net.graph(net.op("Add", y, y)), NAME) == 0


def test_a_normalisation_in_training_stays():
    net = Net(1, 4, 5, 5, opset=15)
    y = net.depthwise("input", 4)
    assert sites(net.graph(net.op("Add", net.norm("input", 4, training_mode=1, outputs=3), y)), NAME) == 0


def test_the_sum_may_be_the_output_and_keeps_its_name():
    net = Net(1, 4, 5, 5)
    total = net.op("Add", net.conv("input", 4, 4, 3, **SAME), net.conv("input", 4, 4, 1))
    before = net.graph(total)
    after, _ = rewrite(before, NAME)
    assert after.outputs == before.outputs


def test_a_sum_that_overflows_the_weight_type_is_not_made():
    net = Net(1, 1, 5, 5)
    x = net.op("Mul", "input", net.const(1e-300))
    weights = [net.const(np.full((1, 1, k, k), 1.7e308)) for k in (1, 1)]
    branches = [net.op("Conv", x, weight) for weight in weights]
    assert sites(net.graph(net.op("Mul", net.op("Add", *branches), net.const(1e-5))), NAME) == 0
