"""Layer normalisation that was written out becomes one operator, and only where it is one."""

import numpy as np
import pytest

from edgehybrid.graph import shape_of, values
from tests.rewrites.net import Net, ops, rewrite, sites

NAME = "layer-norm"
EPSILON = 2.0**-7  # large enough to show where it is lost; the attribute is float32


def mean(net: Net, x: str, axis: int, **attributes: int) -> str:
    if net.opset < 18:
        return net.op("ReduceMean", x, axes=[axis], **attributes)
    return net.op("ReduceMean", x, net.ints(axis), **attributes)


def norm(net: Net, x: str, axis: int, *, square: str = "Pow", shared: bool = True, epsilon_first: bool = False) -> str:
    """(x - mean) / sqrt(mean((x - mean)^2) + eps), as a module that computes it by hand is exported."""
    centred = net.op("Sub", x, mean(net, x, axis))
    again = centred if shared else net.op("Sub", x, mean(net, x, axis))
    squared = net.op("Pow", again, net.const(2.0)) if square == "Pow" else net.op("Mul", again, again)
    terms = (net.const(EPSILON), mean(net, squared, axis))
    root = net.op("Sqrt", net.op("Add", *(terms if epsilon_first else terms[::-1])))
    return net.op("Div", centred, root)


def vector(net: Net, channels: int) -> str:
    """A gain or bias of a map, off its usual 1 and 0."""
    return net.const(net.random.uniform(0.5, 2.0, (channels, 1, 1)))


@pytest.mark.parametrize("opset", [17, 18, 21])
@pytest.mark.parametrize("square", ["Pow", "Mul"])
@pytest.mark.parametrize("shared", [True, False])
@pytest.mark.parametrize("first", [True, False])
def test_norm_over_channels_becomes_one_operator(opset, square, shared, first):
    net = Net(1, 6, 5, 4, opset=opset)
    x = net.op("Relu", "input")
    y = norm(net, x, 1, square=square, shared=shared, epsilon_first=first)
    y = net.op("Mul", *((vector(net, 6), y) if first else (y, vector(net, 6))))
    y = net.op("Add", *((vector(net, 6), y) if first else (y, vector(net, 6))))
    after, n = rewrite(net.graph(net.op("Abs", y)), NAME)
    assert n == 1
    assert ops(after) == ["Relu", "Transpose", "LayerNormalization", "Transpose", "Abs"]
    assert all(shape_of(v) is not None for v in values(after))


@pytest.mark.parametrize("axis", [-1, 2])
def test_norm_over_the_last_axis_needs_no_transpose(axis):
    net = Net(2, 5, 6)
    y = net.op("Add", net.op("Mul", norm(net, "input", axis), net.weight(6)), net.weight(6))
    after, n = rewrite(net.graph(y), NAME)
    assert (n, ops(after)) == (1, ["LayerNormalization"])


@pytest.mark.parametrize("axis", [-3, 2])
def test_norm_over_any_axis_comes_back_in_place(axis):
    net = Net(2, 5, 6, 3)
    after, n = rewrite(net.graph(net.op("Abs", norm(net, "input", axis))), NAME)
    assert (n, ops(after)) == (1, ["Transpose", "LayerNormalization", "Transpose", "Abs"])


def test_gain_without_bias_and_bias_without_gain():
    for op in ("Mul", "Add"):
        net = Net(1, 6, 5, 4)
        after, _ = rewrite(net.graph(net.op(op, norm(net, "input", 1), vector(net, 6))), NAME)
        assert ops(after) == ["Transpose", "LayerNormalization", "Transpose"]


def test_scalar_gain_is_a_gain():
    net = Net(1, 6, 5, 4)
    after, _ = rewrite(net.graph(net.op("Mul", net.const(3.0), norm(net, "input", 1))), NAME)
    assert ops(after) == ["Transpose", "LayerNormalization", "Transpose"]


def test_factor_that_is_no_gain_stays():
    net = Net(1, 6, 6, 6)
    after, _ = rewrite(net.graph(net.op("Mul", norm(net, "input", 1), net.weight(6))), NAME)  # along the width
    assert ops(after) == ["Transpose", "LayerNormalization", "Transpose", "Mul"]


def test_norm_that_is_read_twice_keeps_its_gain():
    net = Net(1, 6, 5, 4)
    y = norm(net, "input", 1)
    after, _ = rewrite(net.graph(net.op("Sub", net.op("Mul", y, vector(net, 6)), y)), NAME)
    assert ops(after) == ["Transpose", "LayerNormalization", "Transpose", "Mul", "Sub"]


@pytest.mark.parametrize("path", ["/", "/block/", ""])
def test_two_norms_of_one_module_get_names_of_their_own(path):
    net = Net(1, 6, 5, 4)
    y = norm(net, net.op("Abs", norm(net, "input", 1)), 1)
    for node in net.nodes:
        node.name = f"{path}{node.name}"
    after, n = rewrite(net.graph(y), NAME)
    assert n == 2
    names = [node.name for node in after.nodes("LayerNormalization", "Transpose")]
    assert len(set(names)) == len(names) == 6


def test_norms_in_a_row_are_found_one_by_one():
    net = Net(1, 6, 5, 4)
    assert sites(net.graph(norm(net, norm(net, "input", 1), 1)), NAME) == 2


@pytest.mark.parametrize(
    "change", ["axes", "exponent", "other data", "two axes", "added", "no mean", "read", "dropped"]
)
def test_what_only_looks_like_it_stays(change):
    net = Net(1, 6, 6, 6)
    other = net.op("Relu", "input")
    centred = net.op("Sub", "input", mean(net, other if change == "other data" else "input", 1))
    if change == "no mean":
        centred = net.op("Sub", "input", net.weight(6, 1, 1))
    power = net.op("Pow", centred, net.const(4.0 if change == "exponent" else 2.0))
    axes = {"axes": [2], "two axes": [1, 2]}.get(change, [1])
    variance = net.op("ReduceMean", power, axes=axes, keepdims=int(change != "dropped"))
    epsilon = net.const(np.full((6, 1, 1), 0.1)) if change == "added" else net.const(EPSILON)
    out = net.op("Div", centred, net.op("Sqrt", net.op("Add", variance, epsilon)))
    assert sites(net.graph(out, *([variance] if change == "read" else [])), NAME) == 0


def test_opset_without_the_operator_stays():
    net = Net(1, 6, 5, 4, opset=16)
    assert sites(net.graph(norm(net, "input", 1)), NAME) == 0
