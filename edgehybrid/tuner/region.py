"""A region: the tensors that one set of factors multiplies or divides, and the constants that take or undo them.

An activation function that ends in a constant, such as the 0.5 of a GELU that is written out, takes factors there. One
that has none (GELU as one operator, SiLU, hard swish) gets a product with the factors behind it.
"""

from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgehybrid.graph import Graph, add_constant, constant, known_shape, name_of, unused, values

Index = NDArray[np.int32]
"""For each element of a tensor, the number of the factor that multiplies it; -1: none."""


class Blocked(Exception):  # noqa: N818 - not an error: the site is left alone
    """The factor meets something that neither takes nor passes it."""


@dataclass(frozen=True)
class Edit:
    """One constant to be multiplied by the factors, or divided by them."""

    node: ir.Node
    input: int
    index: Index  # broadcasts with the constant
    sign: int  # 1: multiplied, -1: divided


@dataclass
class Region:
    """What one set of factors touches."""

    factors: int
    tensors: dict[ir.Value, tuple[Index, int]] = field(default_factory=dict)  # and whether multiplied or divided
    edits: list[Edit] = field(default_factory=list)
    takers: list[ir.Node] = field(default_factory=list)  # they compute the tensors, in the order found
    gains: list[tuple[ir.Value, Index, int]] = field(default_factory=list)  # they get a product, by index and sign
    grows: bool = False  # one number, such as the 0.5 of a GELU or the gain it lacks, becomes one per channel

    def line(self, value: ir.Value, axis: int) -> tuple[Index, int]:
        """The factor of each channel of a tensor, (channels,), and its sign."""
        index, sign = self.tensors[value]
        return line_of(index, axis), sign


def write_factors(graph: Graph, region: Region, factors: NDArray[np.float32]) -> None:
    """Multiply and divide the constants of a region, in place; a constant that others read too gets a copy."""
    taken = {value.name for value in values(graph)} if region.gains else set()
    for value, index, sign in region.gains:
        put_behind(graph, value, "Mul", _spread(index, factors) ** sign, "gain", taken)
    for edit in region.edits:
        old = edit.node.inputs[edit.input]
        array = constant(old)
        if old is None or array is None:
            raise ValueError(f"'{edit.node.name}' lost a constant")
        known = _spread(edit.index, factors)
        new = np.asarray(np.multiply(array, known) if edit.sign > 0 else np.divide(array, known), np.float32)
        if old.is_initializer() and len(old.uses()) == 1:
            tensor = ir.tensor(new, name=old.name)
            old.const_value, old.shape = tensor, ir.Shape(new.shape)
        else:
            edit.node.replace_input_with(edit.input, add_constant(graph, name_of(old), new))


def _spread(index: Index, factors: NDArray[np.float32]) -> NDArray[np.float32]:
    """The factors that an index names, 1 where it names none."""
    return np.asarray(np.where(index < 0, np.float32(1), factors[index]), np.float32)


def put_behind(
    graph: Graph, value: ir.Value, op: str, amount: NDArray[np.float32], what: str, taken: set[str | None]
) -> None:
    """Put a product or difference with a constant behind what computes a tensor; its result gets the tensor's name.

    Args:
        graph: That computes the tensor; changed in place.
        value: The tensor.
        op: `Mul` or `Sub`.
        amount: The constant.
        what: It is called in the graph.
        taken: Names in use, extended by the new ones.
    """
    name, maker = name_of(value), value.producer()
    if maker is None:
        raise ValueError(f"'{name}' is not computed")
    label = unused(f"{maker.name or name}/{what}", {node.name for node in graph.nodes()})
    node = ir.node(op, [value, add_constant(graph, f"{name}_{what}", amount, taken=taken)], name=label)
    out = node.outputs[0]
    out.shape, out.type = value.shape, value.type
    ir.convenience.replace_all_uses_with(value, out)
    node.replace_input_with(0, value)
    value.name, out.name = unused(f"{name}_plain", taken), name
    graph.body.insert_after(maker, node)


def shrink(index: Index, rank: int = 0) -> Index:
    """The index as small as broadcasting allows, with no fewer axes than asked for."""
    for axis in range(index.ndim):
        first = np.take(index, [0], axis)
        if (index == first).all():
            index = first
    while index.ndim > rank and index.shape[0] == 1:
        index = index[0]
    return index


def line_of(index: Index, axis: int) -> Index:
    """The factor at each position of an axis; raises Blocked where one position has several."""
    lines = np.moveaxis(index, axis, 0).reshape(index.shape[axis], -1)
    if not lines.size or not (lines == lines[:, :1]).all():
        raise Blocked
    return np.ascontiguousarray(lines[:, 0])


def drop_axis(index: Index, axis: int) -> Index:
    """The index without an axis along which it does not change."""
    first = np.take(index, [0], axis)
    if not (index == first).all():
        raise Blocked
    return first.squeeze(axis)


def lay_along(line: Index, shape: tuple[int, ...], axis: int) -> Index:
    """The factors of a line of channels, which lie on an axis of the shape."""
    sides = [1] * len(shape)
    sides[axis] = len(line)
    return broadcast(line.reshape(sides), shape)


def insert_axis(index: Index, shape: tuple[int, ...], axis: int) -> Index:
    """An index that lacks an axis, unchanged along it."""
    return broadcast(np.expand_dims(index, axis), shape)


def broadcast(index: Index, shape: tuple[int, ...]) -> Index:
    """The index over a whole tensor; raises Blocked where it does not fit."""
    try:
        return np.broadcast_to(index, shape)
    except ValueError as error:
        raise Blocked from error


def check_constant(node: ir.Node, place: int) -> None:
    """Raise Blocked unless an input is a constant of float32."""
    array = constant(node.inputs[place])
    if array is None or array.dtype != np.float32:
        raise Blocked


def static_shape(value: ir.Value | None) -> tuple[int, ...]:
    """The shape of a value; raises Blocked where it is not known."""
    shape = None if value is None else known_shape(value)
    if shape is None:
        raise Blocked
    return shape
