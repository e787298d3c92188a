"""Read a convolution or linear layer as one matrix product: its weight as a matrix, its input as rows, its bias."""

import functools
import math
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgehybrid.graph import Graph, add_constant, constant, label_nodes, name_of
from edgehybrid.graph.structure import is_weight_transposed
from edgehybrid.records import Plan

_GOLDEN = 0.6180339887498949


@dataclass(frozen=True)
class Product:
    """y = W x for every position of the output; a convolution in groups is one product per group.

    A bias, and what a Gemm multiplies the sums with, are left out: errors of y are judged, and they add none.
    """

    node: ir.Node
    weight: NDArray[np.float32]  # (groups, out, in)
    channels: NDArray[np.int64]  # (groups, in): which channel of the input each column reads
    axis: int  # where the input has its channels: 1 for maps, -1 for tokens

    @property
    def output(self) -> str:
        """Name of what the node computes, under which rows and gradients of the product are kept."""
        return name_of(self.node.outputs[0])

    def rows(self, x: NDArray[np.float32], count: int, ordinal: int) -> NDArray[np.float32]:
        """What the matrix is multiplied with at some positions of the output.

        Positions follow the golden ratio: spread evenly, others for every `ordinal`, the same at every call.

        Args:
            x: The whole input of the node.
            count: Positions wanted; all where there are no more.
            ordinal: Number of the batch, from 0.

        Returns:
            (groups, positions, in).
        """
        groups, _, width = self.weight.shape
        if self.node.op_type != "Conv":
            flat = x.reshape(-1, x.shape[-1])
            return flat[_spread(len(flat), count, ordinal)][np.newaxis]
        kernel = self._kernel
        windows = np.lib.stride_tricks.sliding_window_view(_pad(x, kernel), kernel.span, axis=(2, 3))
        down, across = kernel.strides
        windows = windows[:, :, ::down, ::across, :: kernel.dilations[0], :: kernel.dilations[1]]
        batch, _, height, side = windows.shape[:4]
        chosen = _spread(batch * height * side, count, ordinal)
        image, row, column = np.unravel_index(chosen, (batch, height, side))
        patches = windows[image, :, row, column].reshape(len(chosen), groups, width)
        return np.ascontiguousarray(patches.transpose(1, 0, 2))

    @functools.cached_property
    def _kernel(self) -> "_Window":
        return _window(self.node)

    def outputs(self, y: NDArray[np.float32], count: int, ordinal: int) -> NDArray[np.float32]:
        """What stands at the positions that `rows` takes, in the output of the node or a tensor of its shape.

        Args:
            y: The whole tensor.
            count: As for `rows`.
            ordinal: As for `rows`.

        Returns:
            (groups, positions, out).
        """
        groups, out, _ = self.weight.shape
        flat = (np.moveaxis(y, 1, -1) if self.axis == 1 else y).reshape(-1, groups, out)
        return np.ascontiguousarray(flat[_spread(len(flat), count, ordinal)].transpose(1, 0, 2))

    def column(self, factors: NDArray[np.float32]) -> NDArray[np.float32]:
        """(groups, 1, in): the factor of the channel that each column reads, from (channels,)."""
        return factors[self.channels][:, np.newaxis, :]


def product_at(node: ir.Node) -> Product | None:
    """The product that a node computes; None without a constant matrix as its second operand."""
    weight = constant(node.inputs[1]) if len(node.inputs) > 1 else None
    if weight is None or weight.dtype != np.float32 or constant(node.inputs[0]) is not None:
        return None
    if node.op_type == "Conv":
        if weight.ndim != 4 or node.attributes.get_string("auto_pad", "NOTSET") != "NOTSET":
            return None
        groups, (out, depth) = node.attributes.get_int("group", 1), weight.shape[:2]
        matrix = weight.reshape(groups, out // groups, -1)
        line = np.repeat(np.arange(groups * depth).reshape(groups, depth), weight.shape[2] * weight.shape[3], axis=1)
        return Product(node, matrix.astype(np.float32, copy=False), line, 1)
    if node.op_type not in ("MatMul", "Gemm") or weight.ndim != 2 or node.attributes.get_int("transA", 0) == 1:
        return None
    matrix = weight if is_weight_transposed(node) else weight.T
    return Product(node, matrix[np.newaxis].astype(np.float32, copy=False), np.arange(matrix.shape[1])[np.newaxis], -1)


def find_products(graph: Graph, plan: Plan) -> dict[str, Product]:
    """The convolutions and linear layers that a plan puts into int8, by label, in its alphabetical order."""
    int8 = {d.node for d in plan.decisions if d.kind == "weight"}
    found = ((label, product_at(node)) for node, label in label_nodes(graph).items() if label in int8)
    return dict(sorted((label, product) for label, product in found if product is not None))


def unfold(node: ir.Node, matrix: NDArray[np.int8], shape: tuple[int, ...]) -> NDArray[np.int8]:
    """A weight (groups, out, in) in the layout in which the node stores it."""
    if node.op_type == "Conv" or is_weight_transposed(node):
        return matrix.reshape(shape)
    return np.ascontiguousarray(matrix[0].T)


def bias_place(node: ir.Node) -> tuple[ir.Node, int] | None:
    """Where a product keeps its constant bias: node and input; a convolution has a place even for one it lacks.

    None for a matrix product without a bias, or with one that another product reads too.
    """
    if node.op_type in ("Conv", "Gemm"):
        bias = node.inputs[2] if len(node.inputs) > 2 else None
        if node.op_type == "Gemm" and (bias is None or node.attributes.get_float("beta", 1.0) != 1.0):
            return None
        if node.op_type == "Gemm" and node.attributes.get_float("alpha", 1.0) != 1.0:
            return None
        added = constant(bias)
        if node.op_type == "Gemm" and added is not None and added.shape[-1:] == (1,) and added.size > 1:
            return None  # one number per row
        return (node, 2) if bias is None or added is not None else None
    uses = list(node.outputs[0].uses())
    if len(uses) != 1 or uses[0].node.op_type != "Add" or node.outputs[0].is_graph_output():
        return None
    add, place = uses[0].node, 1 - uses[0].idx
    added, matrix = constant(add.inputs[place]), constant(node.inputs[1])
    if added is None or matrix is None or added.dtype != np.float32:
        return None
    return (add, place) if added.shape[-1:] == matrix.shape[-1:] and added.size == matrix.shape[-1] else None


def raise_bias(graph: Graph, node: ir.Node, amount: NDArray[np.float32], taken: set[str | None]) -> None:
    """Add to the bias of a product, in place; a convolution without a bias gets one.

    Args:
        graph: That holds the node.
        node: See `bias_place`.
        amount: (out,).
        taken: Names in use, extended by the new one.

    Raises:
        ValueError: There is no bias of this size.
    """
    place = bias_place(node)
    if place is None:
        raise ValueError(f"'{node.name}' has no place for a bias")
    raise_constant(graph, *place, amount, taken)


def raise_constant(
    graph: Graph, node: ir.Node, index: int, amount: NDArray[np.float32], taken: set[str | None]
) -> None:
    """Add to what a node adds to each channel, in place; one that is missing counts as zeros.

    Args:
        graph: That holds the node.
        node: A convolution, linear layer, sum or norm.
        index: Of its input that is the constant; the old one stays for others, unread if there are none.
        amount: (channels,), or in a shape that broadcasts with the constant; of one number it makes one per channel.
        taken: Names in use, extended by the new one.

    Raises:
        ValueError: The constant is of another size.
    """
    old = node.inputs[index] if index < len(node.inputs) else None
    array = constant(old)
    before = np.zeros(amount.shape, np.float32) if array is None else array.astype(np.float32)
    if math.prod(np.broadcast_shapes(before.shape, amount.shape)) > max(before.size, amount.size):
        raise ValueError(f"the bias of '{node.name}' has another size")
    if index >= len(node.inputs):
        node.resize_inputs(index + 1)
    name = f"{name_of(node.outputs[0])}.bias" if old is None else name_of(old)
    raised = add_constant(graph, f"{name}_corrected", (before + amount).astype(np.float32), taken=taken)
    node.replace_input_with(index, raised)


@dataclass(frozen=True)
class _Window:
    span: tuple[int, int]
    strides: tuple[int, ...]
    dilations: tuple[int, ...]
    pads: tuple[tuple[int, int], ...]


def _window(node: ir.Node) -> _Window:
    """Geometry of a 2-D convolution; the span counts the gaps of a dilation."""
    weight = constant(node.inputs[1])
    if weight is None:
        raise ValueError(f"'{node.name}' lost its weight")
    dilations = tuple(node.attributes.get_ints("dilations", (1, 1)))
    top, left, bottom, right = node.attributes.get_ints("pads", (0, 0, 0, 0))
    high, wide = (d * (side - 1) + 1 for d, side in zip(dilations, weight.shape[2:], strict=True))
    strides = tuple(node.attributes.get_ints("strides", (1, 1)))
    return _Window((high, wide), strides, dilations, ((0, 0), (0, 0), (top, bottom), (left, right)))


def _pad(x: NDArray[np.float32], kernel: _Window) -> NDArray[np.float32]:
    """The map with its border of zeros; numpy's own takes longer for a small map than the rest of the work."""
    (top, bottom), (left, right) = kernel.pads[2:]
    if not (top or bottom or left or right):
        return x
    batch, depth, height, width = x.shape
    wide = np.zeros((batch, depth, top + height + bottom, left + width + right), np.float32)
    wide[:, :, top : top + height, left : left + width] = x
    return wide


def _spread(total: int, count: int, ordinal: int) -> NDArray[np.int64]:
    """Numbers below `total`, in ascending order, none twice."""
    if count >= total:
        return np.arange(total)
    steps = np.arange(count, dtype=np.float64) + ordinal * count
    return np.unique((steps * _GOLDEN % 1.0 * total).astype(np.int64))
