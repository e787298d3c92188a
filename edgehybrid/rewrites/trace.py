"""Follow channels of a layer through reshapes, transposes and slices, by moving an array of their numbers."""

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgehybrid.graph import constant, known_shape
from edgehybrid.graph.structure import RESHAPES, input_of, permutation
from edgehybrid.rewrites.layer import Layer, layer_at, layer_into
from edgehybrid.rewrites.pattern import is_op, only_user

Index = NDArray[np.int32]
"""For each element of a tensor, the channel it belongs to."""

LAYOUT = (*RESHAPES, "Transpose", "Gather", "Slice", "Split")


@dataclass(frozen=True)
class Origin:
    """Where a tensor comes from."""

    layer: Layer
    index: Index  # output channel of `layer`, in the shape of the tensor

    @property
    def rows(self) -> NDArray[np.bool_]:
        """Which output channels of the layer the tensor holds, (out,)."""
        return _occupied(self.index, len(self.layer.weight))

    @property
    def whole(self) -> bool:
        """Whether it holds all of them."""
        return bool(self.rows.all())

    def channels_without(self, axis: int) -> Index | None:
        """The channel numbers without an axis of the tensor; None where they differ along it."""
        first = np.take(self.index, [0], axis)
        return first.squeeze(axis) if (self.index == first).all() else None

    def per_channel(
        self, operand: NDArray[np.float64], shape: tuple[int, ...], *, otherwise: float
    ) -> NDArray[np.float64] | None:
        """What an operand of the tensor has for each output channel of the layer.

        Args:
            operand: Broadcasts to the shape.
            shape: Of the tensor.
            otherwise: For channels that the tensor does not hold.

        Returns:
            (out,); None where it differs between the positions of a channel.
        """
        everywhere = np.broadcast_to(operand, shape)
        found = np.full(len(self.layer.weight), otherwise)
        found[self.index] = everywhere
        return found if (found[self.index] == everywhere).all() else None


def origin(value: ir.Value) -> Origin | None:
    """The layer that computes a tensor, if nothing else reads the same channels of it.

    Args:
        value: Read by one node only.

    Returns:
        None where the tensor is computed otherwise, or where the layer cannot be changed without another
        reader or an output of the graph seeing it.
    """
    if only_user(value) is None:
        return None
    steps: list[tuple[ir.Node, ir.Value]] = []
    current = value
    layer = layer_into(current)
    while layer is None:
        node = current.producer()
        if not is_op(node, *LAYOUT) or node is None or current.is_graph_output():
            return None
        steps.append((node, current))
        current = input_of(node, 0)
        layer = layer_into(current)
    steps.reverse()
    index = number(layer.output, layer.axis)
    stages = [] if index is None else [index]
    for node, output in steps:
        index = None if index is None else move(node, index, output)
        if index is None:
            return None
        stages.append(index)
    if index is None or layer.output.is_graph_output():
        return None
    found = Origin(layer, index)
    for (node, output), stage in zip(steps, stages[:-1], strict=True):
        if any(_overlaps(rival, stage, found.rows) for rival in _rivals(node, output)):
            return None
    return found


def destination(value: ir.Value, index: Index) -> tuple[Layer, NDArray[np.int32]] | None:
    """The one layer that reads a tensor, and which channel arrives at each of its inputs.

    Args:
        value: The tensor.
        index: Its channels, in its shape.

    Returns:
        The layer and (in,) channel numbers; None where the tensor is read elsewhere too, or where one input
        of the layer receives several channels.
    """
    node = only_user(value)
    while node is not None and is_op(node, *LAYOUT) and node.inputs[0] is value:
        moved = move(node, index, node.outputs[0])
        if moved is None or len(node.outputs) > 1:
            return None
        value, index = node.outputs[0], moved
        node = only_user(value)
    layer = layer_at(node)
    if layer is None or layer.input is not value or index.ndim < 2:
        return None
    channels = along(index, layer.axis)
    return None if channels is None else (layer, channels)


def along(index: Index, axis: int) -> NDArray[np.int32] | None:
    """The channel at each position of an axis, (n,); None if one position holds several channels."""
    lines = np.moveaxis(index, axis, 0).reshape(index.shape[axis], -1)
    return lines[:, 0].copy() if lines.size and (lines == lines[:, :1]).all() else None


def number(value: ir.Value, axis: int) -> Index | None:
    """Channel numbers in the shape of a tensor whose channels lie on `axis`."""
    shape = known_shape(value)
    if shape is None or len(shape) < 2:
        return None
    line = np.arange(shape[axis], dtype=np.int32)
    sides = [1] * len(shape)
    sides[axis] = shape[axis]
    return np.broadcast_to(line.reshape(sides), shape)


def move(node: ir.Node, index: Index, output: ir.Value) -> Index | None:
    """Do to the channel numbers what a layout operator does to the tensor."""
    if is_op(node, *RESHAPES):
        shape = known_shape(output)
        return None if shape is None else index.reshape(shape)
    if is_op(node, "Transpose"):
        return index.transpose(permutation(node, index.ndim))
    if is_op(node, "Gather"):
        taken = constant(node.inputs[1])
        axis = node.attributes.get_int("axis", 0)
        return None if taken is None else np.take(index, taken.astype(np.int64), axis)
    if is_op(node, "Slice"):
        return _cut(node, index)
    if is_op(node, "Split"):
        axis = node.attributes.get_int("axis", 0)
        sizes = [known_shape(v) for v in node.outputs]
        ends = np.cumsum([0 if s is None else s[axis] for s in sizes])
        if ends[-1] != index.shape[axis]:
            return None
        return np.split(index, ends[:-1], axis)[node.outputs.index(output)]
    return None


def _cut(node: ir.Node, index: Index) -> Index | None:
    """Slice with constant bounds; Python's rules for negative and too large bounds are ONNX's."""
    bounds = [constant(v) for v in node.inputs[1:]]
    if any(b is None for b, v in zip(bounds, node.inputs[1:], strict=True) if v is not None):
        return None
    lists = [None if b is None else b.tolist() for b in bounds] + [None] * 2
    starts, ends = lists[0], lists[1]
    if starts is None or ends is None:
        return None
    axes = lists[2] or list(range(len(starts)))
    steps = lists[3] or [1] * len(starts)
    if min(steps) < 1:
        return None
    slices = [slice(None)] * index.ndim
    for start, end, axis, step in zip(starts, ends, axes, steps, strict=True):
        slices[axis] = slice(start, end, step)
    return index[tuple(slices)]


def _rivals(node: ir.Node, output: ir.Value) -> list[tuple[ir.Node, ir.Value]]:
    """Other ways to read what a node reads than through this output of it."""
    value = input_of(node, 0)
    branches = [(node, o) for o in node.outputs if o is not output]
    for use in value.uses():
        if use.node is not node:
            branches += [(use.node, o) for o in use.node.outputs]
    if value.is_graph_output() or any(u.idx > 0 for u in value.uses()):
        branches.append((node, value))
    return branches


def _overlaps(branch: tuple[ir.Node, ir.Value], stage: Index, mine: NDArray[np.bool_]) -> bool:
    """Whether this branch reads channels that are mine; what cannot be followed is taken to read all."""
    node, output = branch
    if output not in node.outputs or not is_op(node, *LAYOUT):
        return True
    theirs = move(node, stage, output)
    return theirs is None or bool((_occupied(theirs, mine.size) & mine).any())


def _occupied(index: Index, channels: int) -> NDArray[np.bool_]:
    """Which of the channels occur, (channels,)."""
    mask = np.zeros(channels, np.bool_)
    mask[index] = True
    return mask
