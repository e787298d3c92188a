"""The sum of two classifiers becomes one, and only for vectors."""

import pytest

from edgehybrid.graph import shape_of, values
from tests.rewrites.net import Net, ops, rewrite, sites

NAME = "heads"


def gemm(net: Net, x: str, c_in: int, c_out: int, *, bias: bool = True, **attributes: float) -> str:
    parameters = [net.weight(c_out, c_in)] + ([net.weight(c_out)] if bias else [])
    return net.op("Gemm", x, *parameters, transB=1, **attributes)


def halves(net: Net) -> tuple[str, str]:
    """Two different vectors of 3 and 5."""
    net.op("Split", net.op("Relu", "input"), net.ints(3, 5), axis=1, outputs=2)
    first, second = net.last_outputs()
    return first, second


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("batch", [1, 2])
@pytest.mark.parametrize("scale", [1.0, 0.5])
def test_two_products_become_one(bias, batch, scale):
    net = Net(batch, 8)
    x, y = halves(net)
    parts = gemm(net, x, 3, 4, bias=bias, alpha=scale), gemm(net, y, 5, 4, bias=bias)
    out = net.op("Add", *parts)
    after, n = rewrite(net.graph(out), NAME)
    assert (n, ops(after), after.outputs) == (1, ["Relu", "Split", "Concat", "Gemm"], (out,))
    assert all(shape_of(v) is not None for v in values(after))


def test_either_way_to_write_a_product_is_understood():
    net = Net(1, 8)
    x, y = halves(net)
    after, n = rewrite(net.graph(net.op("Add", net.linear(x, 3, 4), gemm(net, y, 5, 4))), NAME)
    assert (n, ops(after)) == (1, ["Relu", "Split", "Concat", "MatMul", "Add"])


def test_three_heads_become_one():
    net = Net(1, 8)
    x, y = halves(net)
    out = net.op("Add", net.op("Add", gemm(net, x, 3, 4), gemm(net, y, 5, 4)), gemm(net, "input", 8, 4))
    assert sites(net.graph(out), NAME) == 2


@pytest.mark.parametrize("change", ["same input", "one bias", "another reader", "output", "activation"])
def test_other_sums_stay(change):
    net = Net(1, 8)
    x, y = halves(net)
    first = gemm(net, x, 3, 4)
    second = gemm(net, x, 3, 4) if change == "same input" else gemm(net, y, 5, 4, bias=change != "one bias")
    if change == "activation":
        second = net.op("Relu", second)
    outputs = [net.op("Add", first, second)]
    if change == "another reader":
        outputs = [net.op("Mul", outputs[0], first)]
    if change == "output":
        outputs.append(first)
    assert sites(net.graph(*outputs), NAME) == 0


def test_tokens_stay():
    net = Net(1, 7, 4)
    x = net.op("Relu", "input")
    assert sites(net.graph(net.op("Add", net.linear("input", 4, 4), net.linear(x, 4, 4))), NAME) == 0


def test_sum_that_is_broadcast_stays():
    net = Net(2, 8)
    x, _ = halves(net)
    one = net.op("Slice", "input", net.ints(0), net.ints(1), net.ints(0))
    assert sites(net.graph(net.op("Add", gemm(net, x, 3, 4), gemm(net, one, 8, 4))), NAME) == 0
