"""Operators that only rearrange a tensor: what stands before them, and where they put its axes."""

import math
from collections.abc import Container, Iterable, Iterator

import onnx_ir as ir

from edgehybrid.graph import known_shape
from edgehybrid.graph.structure import MOVES, permutation


def inputs_back(node: ir.Node, index: int, through: Container[str] = MOVES) -> Iterator[tuple[ir.Node, int]]:
    """An input of an operator, then that of each operator which rearranges what is read there, nearest first."""
    yield node, index
    while (maker := maker_of(node, index)) is not None and maker.op_type in through:
        node, index = maker, 0
        yield node, index


def maker_of(node: ir.Node, index: int) -> ir.Node | None:
    """The operator that computes an input; None for a constant, an input of the graph and one that is left out."""
    value = node.inputs[index] if index < len(node.inputs) else None
    return None if value is None else value.producer()


def quantizer_of(node: ir.Node) -> ir.Node | None:
    """The QuantizeLinear whose levels a DequantizeLinear reads; None where something else made them."""
    *_, first = inputs_back(node, 0)
    maker = maker_of(*first)
    return maker if maker is not None and maker.op_type == "QuantizeLinear" else None


def axis_after(axis: int, moves: Iterable[ir.Node]) -> int | None:
    """Where an axis lies after operators that rearrange, in their order; None where it is merged or split."""
    place: int | None = axis
    for node in moves:
        place = None if place is None else _move(place, node)
    return place


def _move(axis: int, node: ir.Node) -> int | None:
    before, after = (None if value is None else known_shape(value) for value in (node.inputs[0], node.outputs[0]))
    if before is None or after is None or not -len(before) <= axis < len(before):
        return None
    axis %= len(before)
    if node.op_type == "Transpose":
        return permutation(node, len(before)).index(axis)
    ahead = math.prod(before[:axis])
    return next((i for i, side in enumerate(after) if side == before[axis] and math.prod(after[:i]) == ahead), None)
