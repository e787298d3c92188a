"""Layout operators that change nothing go, and shape arithmetic with a known result becomes a constant."""

import pytest

from edgehybrid.graph import constant, shape_of, values
from tests.rewrites.net import Net, ops, rewrite, sites

NO_OPS, SHAPES = "no-ops", "fixed-shapes"


def test_transposes_that_undo_each_other_go():
    net = Net(1, 2, 3, 4)
    x = net.transpose(net.transpose(net.op("Relu", "input"), 0, 2, 3, 1), 0, 3, 1, 2)
    after, _ = rewrite(net.graph(net.op("Abs", x)), NO_OPS)
    assert ops(after) == ["Relu", "Abs"]


def test_three_transposes_become_one():
    net = Net(1, 2, 3, 4)
    x = net.transpose(net.transpose(net.transpose("input", 1, 2, 3, 0), 3, 1, 0, 2), 2, 0, 1, 3)
    after, _ = rewrite(net.graph(net.op("Abs", x)), NO_OPS)
    assert ops(after) == ["Transpose", "Abs"]


def test_views_of_views_become_one_even_with_copied_dimensions():
    net = Net(2, 3, 4, 5)
    x = net.op("Unsqueeze", net.op("Flatten", "input", axis=2), net.ints(0))
    x = net.reshape(x, 0, 0, 4, -1)  # the zeros mean what the tensor before had
    after, _ = rewrite(net.graph(net.op("Abs", x)), NO_OPS)
    assert ops(after) == ["Reshape", "Abs"]


def test_inner_view_with_another_reader_stays_for_it():
    net = Net(1, 6, 4)
    x = net.reshape("input", 4, 6)
    out = net.op("Add", net.op("Abs", net.reshape(x, 1, 6, 4)), net.op("Abs", net.reshape(x, 4, 6, 1)))
    rewrite(net.graph(out, x), NO_OPS)


def test_identity_and_dropout_go():
    net = Net(1, 4)
    x = net.op("Dropout", net.op("Identity", "input"), net.const(0.5))
    after, n = rewrite(net.graph(net.op("Abs", x)), NO_OPS)
    assert (n, ops(after)) == (2, ["Abs"])


def test_no_op_that_is_the_output_of_the_graph_hands_on_its_name():
    net = Net(1, 4)
    out = net.op("Identity", net.op("Abs", "input"))
    after, n = rewrite(net.graph(out), NO_OPS)
    assert (n, after.outputs, ops(after)) == (1, (out,), ["Abs"])


def test_no_op_from_input_or_output_to_output_stays():
    net = Net(1, 4)
    x = net.op("Abs", "input")
    assert sites(net.graph(net.op("Identity", "input"), x, net.op("Identity", x)), NO_OPS) == 0


@pytest.mark.parametrize("perm", [(0, 2, 1, 3), (0, 1, 3, 2)])
def test_transpose_that_moves_something_stays(perm):
    net = Net(1, 3, 3, 3)
    assert sites(net.graph(net.op("Abs", net.transpose("input", *perm))), NO_OPS) == 0


def test_computed_reshape_target_becomes_a_constant():
    net = Net(1, 6, 4, 4)
    front = net.op("Slice", net.op("Shape", "input"), net.ints(0), net.ints(2))
    x = net.op("Reshape", "input", net.op("Concat", front, net.ints(-1), axis=0))
    after, n = rewrite(net.graph(net.op("Abs", x)), SHAPES)
    assert (n, ops(after)) == (1, ["Reshape", "Abs"])
    (node,) = after.nodes("Reshape")
    assert constant(node.inputs[1]).tolist() == [1, 6, 16]


def test_shapes_that_hang_on_shape_arithmetic_survive_other_rewrites():
    net = Net(1, 6, 4, 4)
    front = net.op("Slice", net.op("Shape", "input"), net.ints(0), net.ints(2))
    x = net.op("Reshape", "input", net.op("Concat", front, net.ints(-1), axis=0))
    after, _ = rewrite(net.graph(net.op("Identity", net.op("Abs", x))), NO_OPS)
    assert all(shape_of(v) is not None for v in values(after))
