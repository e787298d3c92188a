"""Layout operators that change nothing go, and what does not depend on the image becomes a constant."""

import numpy as np
import pytest
from onnx import TensorProto

from edgehybrid import rewrites
from edgehybrid.graph import constant, shape_of, values
from tests.rewrites.net import Net, ops, rewrite, sites

NO_OPS, CONSTANTS = "no-ops", "constants"


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


@pytest.mark.parametrize(("pads", "count"), [([0] * 8, 1), ([0, 0, 0, 0, 0, 0, 1, 0], 0)])
def test_border_of_nothing_goes(pads: list[int], count: int) -> None:
    net = Net(1, 2, 3, 4)
    assert sites(net.graph(net.op("Abs", net.op("Pad", "input", net.ints(*pads)))), NO_OPS) == count


def resize(net: Net, x: str, *, scales: list[float] | None = None, sizes: list[int] | None = None, **attributes) -> str:
    if sizes is not None:
        return net.op("Resize", x, "", "", net.ints(*sizes), **attributes)
    return net.op("Resize", x, "", net.const(scales, np.float32), **attributes)


@pytest.mark.parametrize("mode", ["nearest", "linear"])
@pytest.mark.parametrize("target", [{"scales": [1, 1, 1, 1]}, {"sizes": [1, 2, 3, 4]}])
def test_resize_to_the_same_size_goes(mode, target):
    net = Net(1, 2, 3, 4)
    after, n = rewrite(net.graph(net.op("Abs", resize(net, "input", mode=mode, **target))), NO_OPS)
    assert (n, ops(after)) == (1, ["Abs"])


@pytest.mark.parametrize("scales", [[1, 1, 2, 2], [1, 1, 1.25, 1]])  # the second rounds to the same size, 3
def test_resize_by_another_scale_stays(scales):
    net = Net(1, 2, 3, 4)
    attributes = {"mode": "linear", "coordinate_transformation_mode": "asymmetric"}
    assert sites(net.graph(net.op("Abs", resize(net, "input", scales=scales, **attributes))), NO_OPS) == 0


@pytest.mark.parametrize("kind", ["AveragePool", "MaxPool"])
def test_pooling_of_one_position_goes(kind):
    net = Net(1, 2, 3, 4)
    after, n = rewrite(net.graph(net.op("Abs", net.op(kind, "input", kernel_shape=[1, 1]))), NO_OPS)
    assert (n, ops(after)) == (1, ["Abs"])


def test_global_pooling_goes_where_one_position_is_left():
    for side, left in ((1, 0), (2, 1)):
        net = Net(1, 2, 1, side)
        after, _ = rewrite(net.graph(net.op("Abs", net.op("GlobalAveragePool", "input"))), NO_OPS)
        assert len(ops(after)) == 1 + left


@pytest.mark.parametrize(
    "window", [{"kernel_shape": [3, 3], "pads": [1] * 4}, {"kernel_shape": [1, 1], "strides": [2, 2]}]
)
def test_other_poolings_stay(window):
    net = Net(1, 2, 3, 4)
    assert sites(net.graph(net.op("Abs", net.op("AveragePool", "input", **window))), NO_OPS) == 0


def test_pooling_whose_positions_are_read_stays():
    net = Net(1, 2, 3, 4)
    x = net.op("MaxPool", "input", kernel_shape=[1, 1], outputs=2)
    where = net.op("Cast", net.last_outputs()[1], to=TensorProto.DOUBLE)
    assert sites(net.graph(net.op("Add", x, where)), NO_OPS) == 0


def test_computed_reshape_target_becomes_a_constant():
    net = Net(1, 6, 4, 4)
    front = net.op("Slice", net.op("Shape", "input"), net.ints(0), net.ints(2))
    x = net.op("Reshape", "input", net.op("Concat", front, net.ints(-1), axis=0))
    after, n = rewrite(net.graph(net.op("Abs", x)), CONSTANTS)
    assert (n, ops(after)) == (3, ["Reshape", "Abs"])
    (node,) = after.nodes("Reshape")
    assert constant(node.inputs[1]).tolist() == [1, 6, -1]


def test_part_of_a_shape_is_folded():
    net = Net(1, 6, 4, 5)
    tail = net.op("Cast", net.op("Shape", "input", start=-2, end=4), to=TensorProto.DOUBLE)
    out = net.op("Div", net.op("ReduceMax", "input", axes=[2], keepdims=0), net.op("ReduceProd", tail))
    after, n = rewrite(net.graph(out), CONSTANTS)
    assert ops(after) == ["ReduceMax", "Div"]
    assert n == 3


def test_arithmetic_of_scalars_is_folded():
    net = Net(1, 4)
    scale = net.op("Div", net.const(1.0), net.op("Sqrt", net.op("Cast", net.ints(8), to=TensorProto.DOUBLE)))
    after, n = rewrite(net.graph(net.op("Mul", "input", scale)), CONSTANTS)
    assert (n, ops(after)) == (3, ["Mul"])


def test_constant_that_is_an_output_or_large_or_quantized_stays():
    net = Net(1, 4, opset=19)
    large = net.op("Expand", net.const(0.5), net.ints(100, 100))
    scale = net.op("DequantizeLinear", net.const([3], np.int8), net.const(0.5, np.float32))
    cast = net.op("Cast", scale, to=TensorProto.DOUBLE)
    out = net.op("Add", net.op("Mul", "input", cast), net.op("ReduceMax", large))
    assert sites(net.graph(out, net.op("Sqrt", net.const(2.0))), CONSTANTS) == 0


def test_impossible_constant_is_left_to_the_backend():
    net = Net(1, 4)
    out = net.op("Add", "input", net.op("Gather", net.weight(3), net.ints(7)))
    assert rewrites.apply(net.graph(out), only=[CONSTANTS])[1] == ("constants: 0 sites",)


def test_shapes_that_hang_on_shape_arithmetic_survive_other_rewrites():
    net = Net(1, 6, 4, 4)
    front = net.op("Slice", net.op("Shape", "input"), net.ints(0), net.ints(2))
    x = net.op("Reshape", "input", net.op("Concat", front, net.ints(-1), axis=0))
    after, _ = rewrite(net.graph(net.op("Identity", net.op("Abs", x))), NO_OPS)
    assert all(shape_of(v) is not None for v in values(after))
