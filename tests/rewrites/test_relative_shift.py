"""Relative positions by index: every way in which the shift is written, and what is no shift."""

import numpy as np
import pytest

from edgehybrid.graph import Graph
from tests.rewrites.net import Net, ops, rewrite, sites

NAME = "relative-shift"
GROUPS, SIDE, HEAD = 6, 4, 3
SHIFT = ("Pad", "Concat", "Slice")


def product(net: Net) -> str:
    """Every query times every distance, (GROUPS, SIDE, 2 SIDE - 1)."""
    return net.op("MatMul", net.op("Relu", "input"), net.weight(HEAD, 2 * SIDE - 1))


def pad(net: Net, x: str, *after: int, fill: float | None = None) -> str:
    inputs = [x, net.ints(*[0] * len(after), *after)] + ([] if fill is None else [net.const(fill)])
    return net.op("Pad", *inputs)


def cut(net: Net, x: str, first: int = SIDE - 1) -> str:
    rows = net.op("Slice", x, net.ints(0), net.ints(SIDE), net.ints(1))
    return net.op("Slice", rows, net.ints(first), net.ints(first + SIDE), net.ints(2))


def shift_with_pads(net: Net, x: str, fill: float | None = None) -> str:
    """As timm does."""
    x = net.reshape(pad(net, x, 0, 0, 1, fill=fill), GROUPS, SIDE * 2 * SIDE)
    return cut(net, net.reshape(pad(net, x, 0, SIDE - 1), GROUPS, SIDE + 1, 2 * SIDE - 1))


def shift_with_zeros(net: Net, x: str) -> str:
    """As the authors and lucidrains do."""
    x = net.op("Concat", x, net.const(np.zeros((GROUPS, SIDE, 1))), axis=2)
    x = net.op("Concat", net.reshape(x, GROUPS, SIDE * 2 * SIDE), net.const(np.zeros((GROUPS, SIDE - 1))), axis=1)
    return cut(net, net.reshape(x, GROUPS, SIDE + 1, 2 * SIDE - 1))


def finish(net: Net, x: str) -> Graph:
    return net.graph(net.op("Softmax", x))


@pytest.mark.parametrize("constants", ["initializer", "node"])
@pytest.mark.parametrize("shift", [shift_with_pads, shift_with_zeros])
def test_shift_becomes_a_batched_product(shift, constants: str) -> None:
    net = Net(GROUPS, SIDE, HEAD, constants=constants)
    after, found = rewrite(finish(net, shift(net, product(net))), NAME)
    assert found == 1
    assert ops(after) == ["Relu", "Reshape", "Transpose", "MatMul", "Transpose", "Reshape", "Softmax"]


def test_shift_with_other_dimensions_around_it() -> None:
    net = Net(2, 3, SIDE, HEAD)
    x = net.reshape(product(net), GROUPS, SIDE, 2 * SIDE - 1)
    after, found = rewrite(finish(net, net.transpose(shift_with_pads(net, x), 0, 2, 1)), NAME)
    assert found == 1
    assert not set(ops(after)) & set(SHIFT)


def test_shift_that_leaves_the_graph_keeps_its_name() -> None:
    net = Net(GROUPS, SIDE, HEAD)
    after, found = rewrite(net.graph(shift_with_pads(net, product(net))), NAME)
    assert found == 1
    assert not set(ops(after)) & set(SHIFT)


def test_a_pad_with_another_value_is_followed_no_further() -> None:
    net = Net(GROUPS, SIDE, HEAD)
    assert sites(finish(net, shift_with_pads(net, product(net), fill=0.5)), NAME) == 0


def test_zeros_that_stay_in_the_result_are_not_dropped() -> None:
    net = Net(GROUPS, SIDE, HEAD)
    x = net.reshape(pad(net, product(net), 0, 0, 1), GROUPS, SIDE * 2 * SIDE)
    x = net.reshape(pad(net, x, 0, SIDE - 1), GROUPS, SIDE + 1, 2 * SIDE - 1)
    assert sites(finish(net, cut(net, x, first=0)), NAME) == 0


def test_rows_that_change_places_are_no_shift() -> None:
    net = Net(GROUPS, SIDE, HEAD)
    x = net.transpose(pad(net, product(net), 0, 0, 1), 1, 0, 2)
    x = net.op("Slice", x, net.ints(0), net.ints(2 * SIDE - 2), net.ints(2))
    assert sites(finish(net, x), NAME) == 0


def test_product_that_is_read_elsewhere_stays() -> None:
    net = Net(GROUPS, SIDE, HEAD)
    x = product(net)
    graph = net.graph(net.op("Softmax", shift_with_pads(net, x)), net.op("Tanh", x))
    assert sites(graph, NAME) == 0


def test_computed_table_stays() -> None:
    net = Net(GROUPS, SIDE, 2 * SIDE - 1)
    x = net.op("Relu", "input")
    table = net.op("MatMul", net.transpose(x, 0, 2, 1), x)
    assert sites(finish(net, shift_with_pads(net, net.op("MatMul", x, table))), NAME) == 0
