"""Find where a factor per channel can hide: every tensor that it multiplies, every constant that takes or undoes it.

A factor f_c > 0 for channel c of a tensor is the same function if what computes the tensor multiplies its constants by
f_c, and what reads it divides its own by f_c. Between the two the factor passes through whatever is homogeneous: layout
changes, ReLU, pooling, products, the values of an attention. Channels are followed by moving an array of their numbers.
An activation function that passes no factor, and has no constant to take it, gets a product with the factors behind it.
Where a tensor is concatenated with others, they get factors of their own in the same region: one range will serve all.
"""

import math
from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from edgehybrid.graph import constant
from edgehybrid.graph.structure import RESHAPES, is_activation, is_weight_transposed, permutation, reduced_axes
from edgehybrid.tuner.region import (
    Blocked,
    Edit,
    Index,
    Region,
    broadcast,
    check_constant,
    drop_axis,
    insert_axis,
    lay_along,
    line_of,
    shrink,
    static_shape,
)

_MAPS = {"MaxPool", "AveragePool", "GlobalAveragePool", "Resize", "Pad", "ReduceMean"}
"""What works on each channel of a map by itself, and turns f x into f times its result."""
_HOMOGENEOUS = {"Relu", "LeakyRelu", "PRelu"}


def find_region(seed: ir.Value, axis: int) -> Region | None:
    """Give every channel of a tensor a factor, and see where the factors go.

    Args:
        seed: A computed tensor of static shape.
        axis: Where it has its channels.

    Returns:
        None where some reader or maker can neither take the factors nor pass them on. The graph is not changed.
    """
    for alone in (False, True):
        floods = [_Flood(preferred, alone=alone, gains=gains) for gains in (False, True) for preferred in (1, 0)]
        for flood in floods:
            if flood.fill(seed, axis):
                return flood.region
        if not any(flood.met_others for flood in floods):
            break  # alone, it would meet the same
    return None


class _Flood:
    """Follows the factors in both directions until nothing new is reached.

    Args:
        preferred: Which operand of a product of two tensors takes the factors.
        alone: What is concatenated with a tensor of the region gets no factors.
        gains: An activation function that is written as a product of two tensors gets a product behind it; else one of
            the two takes the factors, where it can.
    """

    def __init__(self, preferred: int, *, alone: bool, gains: bool) -> None:
        self.region = Region(0)
        self.met_others = False
        self._fixed: set[ir.Value] = set()
        self._preferred = preferred
        self._alone = alone
        self._gains = gains
        self._pending: list[ir.Value] = []

    def fill(self, seed: ir.Value, axis: int) -> bool:
        """Start at a tensor; whether it and all that it leads to can be multiplied."""
        try:
            self.join(seed, self._number(static_shape(seed), axis), 1)
            self.run()
        except Blocked:
            return False
        return True

    def _number(self, shape: tuple[int, ...], axis: int) -> Index:
        """New factors for the channels of a tensor."""
        first = self.region.factors
        self.region.factors += shape[axis]
        return lay_along(np.arange(first, self.region.factors, dtype=np.int32), shape, axis)

    def join(self, value: ir.Value | None, index: Index, sign: int) -> None:
        """The tensor is multiplied by the factors (divided, where the sign is negative).

        Raises:
            Blocked: It cannot be, or in two ways.
        """
        if (index < 0).all():
            return
        if value is None or value.producer() is None or value.is_graph_output() or constant(value) is not None:
            raise Blocked
        known = self.region.tensors.get(value)
        if known is not None:
            if known[1] != sign or not np.array_equal(known[0], index):
                raise Blocked
            return
        self.region.tensors[value] = (index, sign)
        self._pending.append(value)

    def run(self) -> None:
        """Visit the maker and the readers of every tensor."""
        while self._pending:
            value = self._pending.pop()
            index, sign = self.region.tensors[value]
            node = value.producer()
            if node is None or node.domain != "":
                raise Blocked
            self._up(node, value, index, sign)
            for use in value.uses():
                if use.node.domain != "":
                    raise Blocked
                self._down(use.node, use.idx, value, index, sign)

    # --- towards the makers -------------------------------------------------------------------------

    def _up(self, node: ir.Node, output: ir.Value, index: Index, sign: int) -> None:
        """What computes a tensor takes the factors, or its own input carries them."""
        op = node.op_type
        if op == "LayerNormalization":
            if node.attributes.get_int("axis", -1) not in (-1, index.ndim - 1) or output is not node.outputs[0]:
                raise Blocked
            self._take(node, (1, 2), line_of(index, -1), sign)
        elif op == "BatchNormalization":
            self._take(node, (1, 2), line_of(index, 1), sign)
        elif op == "Conv":
            line = line_of(index, 1)
            self._take(node, (1,), line.reshape(-1, *(1,) * (len(static_shape(node.inputs[1])) - 1)), sign)
            self._take(node, (2,), line, sign)
        elif op in ("MatMul", "Gemm") and constant(node.inputs[1]) is not None:
            line = line_of(index, -1)
            if len(static_shape(node.inputs[1])) != 2:
                raise Blocked
            self._take(node, (1,), line[:, np.newaxis] if is_weight_transposed(node) else line, sign)
            self._take(node, (2,), line, sign)
        elif op == "MatMul":
            values_ = node.inputs[1]
            _check_matrices(node)
            self.join(values_, insert_axis(drop_axis(index, -2), static_shape(values_), -2), sign)
        elif (op != "Mul" or self._gains) and is_activation(node):
            self.region.takers.append(node)
            self.region.gains.append((output, shrink(index), sign))
            self.region.grows = True
        elif op in ("Add", "Mul"):
            self._up_pair(node, index, sign)
        elif op == "Split":
            self._up_split(node, output, index, sign)
        elif op == "Concat":
            axis, start = node.attributes.get_int("axis", 0) % index.ndim, 0
            for part in node.inputs:
                end = start + static_shape(part)[axis]
                self.join(part, np.take(index, np.arange(start, end), axis), sign)
                start = end
        elif op == "Transpose":
            perm = permutation(node, index.ndim)
            self.join(node.inputs[0], index.transpose(np.argsort(perm)), sign)
        elif op in RESHAPES:
            self.join(node.inputs[0], index.reshape(static_shape(node.inputs[0])), sign)
        elif op in _HOMOGENEOUS:
            self.join(node.inputs[0], index, sign)
        elif op in _MAPS:
            self._check_map(node)
            self.join(node.inputs[0], lay_along(line_of(index, 1), static_shape(node.inputs[0]), 1), sign)
        else:
            raise Blocked

    def _up_pair(self, node: ir.Node, index: Index, sign: int) -> None:
        """Of a sum both terms are multiplied, of a product one factor."""
        fixed = [i for i in (0, 1) if constant(node.inputs[i]) is not None]
        if node.op_type == "Mul":
            if fixed:
                self.region.takers.append(node)
                self._take_broadcast(node, fixed[0], index, sign)
                return
            if node.inputs[0] is node.inputs[1]:
                raise Blocked
            carrying = [v for v in node.inputs if v in self.region.tensors]
            operand = carrying[0] if carrying else node.inputs[self._preferred]
            if len(carrying) > 1 or static_shape(operand) != index.shape:
                raise Blocked
            self.join(operand, index, sign)  # where the factors came from it, they must be the same
            return
        if not fixed or static_shape(node.inputs[1 - fixed[0]]) != index.shape:
            raise Blocked
        self._take_in_sum(node, fixed[0], index, sign)
        self.join(node.inputs[1 - fixed[0]], index, sign)

    def _up_split(self, node: ir.Node, output: ir.Value, index: Index, sign: int) -> None:
        """The other parts of what is split have no factor."""
        axis = node.attributes.get_int("axis", 0) % index.ndim
        before = sum(static_shape(part)[axis] for part in node.outputs[: list(node.outputs).index(output)])
        whole = np.full(static_shape(node.inputs[0]), -1, np.int32)
        np.moveaxis(whole, axis, 0)[before : before + index.shape[axis]] = np.moveaxis(index, axis, 0)
        self.join(node.inputs[0], whole, sign)

    # --- towards the readers ------------------------------------------------------------------------

    def _down(self, node: ir.Node, place: int, value: ir.Value, index: Index, sign: int) -> None:
        """What reads a tensor undoes the factors, or its own output carries them."""
        op = node.op_type
        if op == "Conv" and place == 0:
            self._undo_convolution(node, line_of(index, 1), sign)
        elif op in ("MatMul", "Gemm") and place == 0 and constant(node.inputs[1]) is not None:
            if len(static_shape(node.inputs[1])) != 2 or node.attributes.get_int("transA", 0) == 1:
                raise Blocked
            line = line_of(index, -1)
            self._undo(node, 1, line if is_weight_transposed(node) else line[:, np.newaxis], sign)
        elif op == "MatMul":
            self._down_core(node, place, index, sign)
        elif op == "BatchNormalization" and place == 0:
            line = line_of(index, 1)
            self._undo(node, 1, line, sign)
            self.region.edits.append(Edit(node, 3, line, sign))
            check_constant(node, 3)
        elif op in ("Add", "Mul"):
            self._down_pair(node, place, index, sign)
        elif op == "Split" and place == 0:
            self._down_split(node, index, sign)
        elif op == "Concat":
            self._down_concat(node, place, index, sign)
        elif op == "Transpose":
            self.join(node.outputs[0], index.transpose(permutation(node, index.ndim)), sign)
        elif op in RESHAPES and place == 0:
            self.join(node.outputs[0], index.reshape(static_shape(node.outputs[0])), sign)
        elif op in _HOMOGENEOUS and place == 0:
            self.join(node.outputs[0], index, sign)
        elif op in _MAPS and place == 0:
            self._check_map(node)
            self.join(node.outputs[0], lay_along(line_of(index, 1), static_shape(node.outputs[0]), 1), sign)
        else:
            raise Blocked

    def _down_core(self, node: ir.Node, place: int, index: Index, sign: int) -> None:
        """A product of two tensors: the factors pass to its output, or the other operand undoes them."""
        other, output = node.inputs[1 - place], node.outputs[0]
        _check_matrices(node)
        rows_alike = bool((index == index[..., :1, :]).all())
        if place == 1 and rows_alike and other in self.region.tensors:  # queries: what they lead to must be this
            self._match_queries(node)
        elif place == 1 and rows_alike:  # values of an attention: the last axis is the output's
            self.join(output, insert_axis(drop_axis(index, -2), static_shape(output), -2), sign)
        elif place == 1 and bool((index == index[..., :1]).all()):  # keys, turned: summed over
            self.join(other, insert_axis(drop_axis(index, -1), static_shape(other), -2), -sign)
        elif place == 0 and rows_alike:  # queries
            self.join(other, insert_axis(drop_axis(index, -2), static_shape(other), -1), -sign)
        else:
            raise Blocked

    def _match_queries(self, node: ir.Node) -> None:
        """Raise Blocked unless the second operand of a product undoes the factors of the first."""
        (index, sign), (found, undone) = (self.region.tensors[v] for v in node.inputs[:2] if v is not None)
        wanted = insert_axis(drop_axis(index, -2), found.shape, -1)
        if undone != -sign or not np.array_equal(found, wanted):
            raise Blocked

    def _down_pair(self, node: ir.Node, place: int, index: Index, sign: int) -> None:
        output, other = node.outputs[0], node.inputs[1 - place]
        if static_shape(output) != index.shape or other is node.inputs[place]:
            raise Blocked
        if self._gains and node.op_type == "Mul" and is_activation(node):
            raise Blocked  # it would carry the factors, and get them again from a product behind it
        if constant(other) is None:
            if node.op_type == "Add" or other in self.region.tensors:
                raise Blocked
            self.join(output, index, sign)
        elif node.op_type == "Mul":
            self._take_broadcast(node, 1 - place, index, -sign)
        else:
            self._take_in_sum(node, 1 - place, index, sign)
            self.join(output, index, sign)

    def _down_split(self, node: ir.Node, index: Index, sign: int) -> None:
        axis, start = node.attributes.get_int("axis", 0) % index.ndim, 0
        for part in node.outputs:
            end = start + static_shape(part)[axis]
            self.join(part, np.take(index, np.arange(start, end), axis), sign)
            start = end

    def _down_concat(self, node: ir.Node, place: int, index: Index, sign: int) -> None:
        """The output carries the factors, and with them those of what else is concatenated, where it can have any."""
        axis, known = node.attributes.get_int("axis", 0) % index.ndim, self.region.tensors.get(node.outputs[0])
        if known is None:
            parts = [
                index if i == place else self._beside(part, index, axis, sign) for i, part in enumerate(node.inputs)
            ]
            self.join(node.outputs[0], np.concatenate(parts, axis), sign)
            return
        start = sum(static_shape(part)[axis] for part in node.inputs[:place])
        carried = np.take(known[0], np.arange(start, start + index.shape[axis]), axis)
        if known[1] != sign or not np.array_equal(carried, index):
            raise Blocked

    def _beside(self, part: ir.Value | None, index: Index, axis: int, sign: int) -> Index:
        """The factors of a tensor that is concatenated with one whose factors are known; -1 where it has none."""
        shape = static_shape(part)
        known = None if part is None else self.region.tensors.get(part)
        if known is not None:
            if known[1] != sign:
                raise Blocked
            return known[0]
        self.met_others = True
        if self._alone or part is None or part in self._fixed:
            return np.full(shape, -1, np.int32)
        first = np.take(index, [0], axis)
        if (index == first).all():  # tokens beside tokens: channels lie on another axis
            found = broadcast(first, shape)
        elif any(_Flood(each, alone=True, gains=self._gains).fill(part, axis) for each in (1, 0)):
            found = self._number(shape, axis)
        else:
            self._fixed.add(part)
            return np.full(shape, -1, np.int32)
        self.join(part, found, sign)  # at once: other concatenations must not number it again
        return found

    # --- constants ----------------------------------------------------------------------------------

    def _take(self, node: ir.Node, places: Sequence[int], index: Index, sign: int) -> None:
        """Constants of a maker, those that are there."""
        if node not in self.region.takers:
            self.region.takers.append(node)
        for place in places:
            if place < len(node.inputs) and node.inputs[place] is not None:
                check_constant(node, place)
                self.region.edits.append(Edit(node, place, index, sign))

    def _take_broadcast(self, node: ir.Node, place: int, index: Index, sign: int) -> None:
        """The constant operand of a sum or product, as small as the factors allow."""
        check_constant(node, place)
        shape = static_shape(node.inputs[place])
        if len(shape) > index.ndim:
            raise Blocked
        index = shrink(index, len(shape))
        self.region.edits.append(Edit(node, place, index, sign))
        self.region.grows |= math.prod(np.broadcast_shapes(shape, index.shape)) > math.prod(shape)

    def _take_in_sum(self, node: ir.Node, place: int, index: Index, sign: int) -> None:
        """The constant of a sum, which both its input and its result lead to."""
        if not any(edit.node is node for edit in self.region.edits):
            self._take_broadcast(node, place, index, sign)

    def _undo(self, node: ir.Node, place: int, index: Index, sign: int) -> None:
        check_constant(node, place)
        self.region.edits.append(Edit(node, place, index, -sign))

    def _undo_convolution(self, node: ir.Node, line: Index, sign: int) -> None:
        shape = static_shape(node.inputs[1])
        groups = node.attributes.get_int("group", 1)
        each = np.repeat(line.reshape(groups, shape[1]), shape[0] // groups, axis=0)
        self._undo(node, 1, each.reshape(*shape[:2], *(1,) * (len(shape) - 2)), sign)

    @staticmethod
    def _check_map(node: ir.Node) -> None:
        """Raise Blocked unless channels lie on axis 1 before and after, and each is worked on by itself."""
        before, after = static_shape(node.inputs[0]), static_shape(node.outputs[0])
        if len(before) != 4 or len(after) < 2 or before[:2] != after[:2]:
            raise Blocked
        if node.op_type == "ReduceMean" and not {2, 3}.issuperset(reduced_axes(node)):
            raise Blocked
        if node.op_type == "Pad":
            pads = constant(node.inputs[1]) if len(node.inputs) > 1 else None
            if pads is None or pads.size != 8 or pads.reshape(2, 4)[:, :2].any():
                raise Blocked
            fill = node.inputs[2] if len(node.inputs) > 2 else None
            value = constant(fill) if fill is not None else np.zeros(1)
            if node.attributes.get_string("mode", "constant") != "constant" or value is None or value.any():
                raise Blocked


def _check_matrices(node: ir.Node) -> None:
    """Raise Blocked where an operand of a product is a vector, which has no rows or no columns."""
    if min(len(static_shape(node.inputs[0])), len(static_shape(node.inputs[1]))) < 2:
        raise Blocked
