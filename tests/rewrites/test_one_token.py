"""Attention over one token: the value is all that is left, and only there."""

import numpy as np
import pytest

from tests.rewrites.net import Net, ops, rewrite, sites

ONE = "one-token"
DIM, HEADS = 8, 2
HEAD = DIM // HEADS


def attention(net: Net, queries: int, keys: int, *, axis: int = -1, bias: bool = False) -> str:
    """softmax(q k^T + b) v of `queries` tokens over `keys` others."""
    q = net.transpose(net.reshape(net.linear("input", DIM, DIM), 1, queries, HEADS, HEAD), 0, 2, 1, 3)
    source = "input" if keys == queries else net.op("Slice", "input", net.ints(0), net.ints(keys), net.ints(1))
    k = net.transpose(net.reshape(net.linear(source, DIM, DIM), 1, keys, HEADS, HEAD), 0, 2, 3, 1)
    v = net.transpose(net.reshape(net.linear(source, DIM, DIM), 1, keys, HEADS, HEAD), 0, 2, 1, 3)
    logits = net.op("MatMul", q, k)
    logits = net.op("Add", logits, net.weight(HEADS, queries, keys)) if bias else logits
    return net.op("MatMul", net.op("Softmax", logits, axis=axis), v)


@pytest.mark.parametrize("bias", [False, True])
def test_queries_keys_and_tables_go(bias: bool) -> None:
    net = Net(1, 1, DIM)
    after, found = rewrite(net.graph(net.linear(net.reshape(attention(net, 1, 1, bias=bias), 1, 1, DIM), DIM, 3)), ONE)
    assert found == 1
    assert "Softmax" not in ops(after)
    assert ops(after).count("MatMul") == 2  # of the values, and the one behind


def test_ones_that_a_simplifier_left_behind_go_too() -> None:
    net = Net(4, 1, DIM)
    context = net.op("MatMul", net.const(np.ones((4, 1, 1))), net.linear("input", DIM, DIM))
    after, found = rewrite(net.graph(net.linear(context, DIM, 3)), ONE)
    assert (found, ops(after).count("MatMul")) == (1, 2)


@pytest.mark.parametrize("wrong", [np.full((4, 1, 1), 2.0), np.ones((4, 2, 1)), np.ones((3, 4, 1, 1))])
def test_other_numbers_and_ones_that_repeat_the_value_stay(wrong: np.ndarray) -> None:
    net = Net(4, 1, DIM)
    assert sites(net.graph(net.op("MatMul", net.const(wrong), net.linear("input", DIM, DIM))), ONE) == 0


def test_a_value_that_is_the_input_of_the_graph_stays_where_it_would_be_its_output() -> None:
    net = Net(4, 1, DIM)
    assert sites(net.graph(net.op("MatMul", net.const(np.ones((4, 1, 1))), "input")), ONE) == 0


@pytest.mark.parametrize(("queries", "keys", "axis"), [(2, 2, -1), (3, 1, -1), (1, 1, 1), (2, 1, -2)])
def test_more_tokens_and_sums_over_others_stay(queries: int, keys: int, axis: int) -> None:
    """Over another axis the weights of two heads, or of two queries, add up to 1."""
    net = Net(1, queries, DIM)
    assert sites(net.graph(attention(net, queries, keys, axis=axis)), ONE) == 0
