"""A region: the tensors that one set of factors multiplies or divides, and the constants that take or undo them."""

from dataclasses import dataclass, field

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgehybrid.graph import Graph, add_constant, constant, name_of

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
    grows: bool = False  # a scalar, such as the 0.5 of a GELU, becomes one number per channel

    def line(self, value: ir.Value, axis: int) -> tuple[Index, int]:
        """The factor of each channel of a tensor, (channels,), and its sign."""
        index, sign = self.tensors[value]
        return line_of(index, axis), sign


def write_factors(graph: Graph, region: Region, factors: NDArray[np.float32]) -> None:
    """Multiply and divide the constants of a region, in place; a constant that others read too gets a copy."""
    for edit in region.edits:
        old = edit.node.inputs[edit.input]
        array = constant(old)
        if old is None or array is None:
            raise ValueError(f"'{edit.node.name}' lost a constant")
        known = np.where(edit.index < 0, np.float32(1), factors[edit.index])
        new = (array * known if edit.sign > 0 else array / known).astype(np.float32)
        if old.is_initializer() and len(old.uses()) == 1:
            tensor = ir.tensor(new, name=old.name)
            old.const_value, old.shape = tensor, ir.Shape(new.shape)
        else:
            edit.node.replace_input_with(edit.input, add_constant(graph, name_of(old), new))


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
