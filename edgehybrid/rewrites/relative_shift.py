"""Look relative positions up by constant indices instead of shifting rows against each other."""

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgehybrid.graph import Graph, add_constant, constant, known_shape, name_of
from edgehybrid.graph.structure import input_of
from edgehybrid.rewrites.layer import float64
from edgehybrid.rewrites.pattern import is_op, only_user, replace
from edgehybrid.rewrites.trace import LAYOUT, Index, move

LARGEST = 1 << 24
"""Elements of a product whose way is followed; 4 heads at 64 x 64 positions have 2 million."""

PADDING = -1
"""In place of an element's number: a zero that was put in."""


def index_relative_positions(graph: Graph) -> int:
    """Products of every query with every distance, shifted row by row, become products with the distances needed.

    BoTNet's position term computes x_w T for all 2 W - 1 distances and then picks distance j - w of row w, by a chain
    of pad, reshape and slice (lucidrains: concatenations with zeros). Element (w, j) of the result is x_w times column
    c(w, j) of T, so it is the batched product x_w T_w with T_w = T[:, c(w, :)], which is constant: half the products,
    and two transposes in place of the chain. Found by following the number of every element through the chain, so any
    chain that picks the same columns in the same rows is recognised. On timm's botnet26t_256 in float16, a TensorRT-RTX
    engine has 59 kernels instead of 65, none of which waits for another stream, and 13.3 MiB of activations instead of
    18.1 (benchmarks/kernels.py). In ONNX Runtime (CPU) nothing changes beyond the error of 2 %.

    Source: the definition of a product; the shift is that of Huang et al. 2018, arXiv:1809.04281, section 3.4.
    """
    sites = 0
    for product in tuple(graph.nodes("MatMul")):
        table, rows = float64(product.inputs[1]), known_shape(input_of(product, 0))
        if table is None or table.ndim != 2 or rows is None or len(rows) < 2 or constant(product.inputs[0]) is not None:
            continue
        shifted = _follow_shift(product)
        if shifted is None:
            continue
        last, index = shifted
        columns = _find_columns(index, table.shape[1])
        if columns is not None:
            _insert_lookup(graph, product, last, table, columns)
            sites += 1
    return sites


def _follow_shift(product: ir.Node) -> tuple[ir.Value, Index] | None:
    """Where the elements of a product lie once all zeros that were put between them are cut away again.

    Returns:
        The first such tensor, and the number of the element at each of its places; None where no zeros are put in, or
        the product is read otherwise.
    """
    value = product.outputs[0]
    shape = known_shape(value)
    if shape is None or int(np.prod(shape)) > LARGEST or not _is_padded_soon(value):
        return None
    index: Index | None = np.arange(np.prod(shape), dtype=np.int32).reshape(shape)
    padded = False
    while index is not None and not (padded and index.min() != PADDING):
        node = only_user(value)
        if node is None or len(node.outputs) != 1:
            return None
        if is_op(node, "Pad", "Concat"):
            index, padded = _put_zeros(node, value, index), True
        elif is_op(node, *LAYOUT) and node.inputs[0] is value:
            index = move(node, index, node.outputs[0])
        else:
            return None
        value = node.outputs[0]
    return None if index is None else (value, index)


def _is_padded_soon(value: ir.Value) -> bool:
    """Whether zeros are put into a tensor, before its elements are numbered for nothing."""
    node = only_user(value)
    while node is not None and is_op(node, *LAYOUT) and len(node.outputs) == 1:
        node = only_user(node.outputs[0])
    return is_op(node, "Pad", "Concat")


def _put_zeros(node: ir.Node, value: ir.Value, index: Index) -> Index | None:
    """Numbers behind a Pad with zeros, or a Concat with constant zeros; None behind any other."""
    if is_op(node, "Concat"):
        parts: list[Index] = []
        for term in node.inputs:
            array = None if term is value else constant(term)
            if term is not value and (array is None or array.any()):
                return None
            parts.append(index if array is None else np.full(array.shape, PADDING, np.int32))
        return np.concatenate(parts, axis=node.attributes.get_int("axis", 0))
    pads = constant(node.inputs[1])
    fill = node.inputs[2] if len(node.inputs) > 2 else None
    filled = constant(fill)
    if node.inputs[0] is not value or pads is None or node.attributes.get_string("mode", "constant") != "constant":
        return None
    if fill is not None and (filled is None or filled.any()):
        return None
    axes = constant(node.inputs[3]) if len(node.inputs) > 3 and node.inputs[3] is not None else None
    widths = np.zeros((index.ndim, 2), np.int64)
    widths[range(index.ndim) if axes is None else axes.astype(np.int64)] = pads.reshape(2, -1).T
    return None if (widths < 0).any() else np.pad(index, widths, constant_values=PADDING)


def _find_columns(index: Index, width: int) -> NDArray[np.int64] | None:
    """Which column of the table each place of a row holds, (W, K), the same for each of L groups of W rows.

    Args:
        index: Element numbers, (..., W, K); their product was (L * W, width).
        width: Columns of the table.

    Returns:
        None where a place holds an element of another row, groups differ, or nothing was left out.
    """
    if index.ndim < 2 or index.shape[-1] == width:
        return None
    grouped = index.reshape(-1, *index.shape[-2:]).astype(np.int64)
    groups, rows, _ = grouped.shape
    row, column = np.divmod(grouped, width)
    own = np.arange(groups * rows).reshape(groups, rows, 1)
    return column[0] if (row == own).all() and (column == column[:1]).all() else None


def _insert_lookup(
    graph: Graph, product: ir.Node, last: ir.Value, table: NDArray[np.float64], columns: NDArray[np.int64]
) -> None:
    """Put transpose, batched product and transpose in the place of the product and its shift."""
    shape, stored = known_shape(last) or (), constant(product.inputs[1])
    rows, places = columns.shape
    groups, depth = int(np.prod(shape)) // columns.size, len(table)
    stack = table[:, columns].transpose(1, 0, 2)  # (W, d, K)
    name, base, kind = product.name or "relative", name_of(product.outputs[0]), product.outputs[0].type
    weight = add_constant(
        graph, name_of(input_of(product, 1)), stack if stored is None else stack.astype(stored.dtype, order="C")
    )
    sizes = [
        add_constant(graph, f"{name}.{role}", np.array(dims, np.int64))
        for role, dims in (("grouped", (groups, rows, depth)), ("shape", shape))
    ]
    value, steps = input_of(product, 0), (
        ("Reshape", sizes[0], (groups, rows, depth), "grouped"),
        ("Transpose", None, (rows, groups, depth), "turned"),
        ("MatMul", weight, (rows, groups, places), "indexed"),
        ("Transpose", None, (groups, rows, places), "back"),
        ("Reshape", sizes[1], shape, "shifted"),
    )  # fmt: skip
    for op, second, dims, role in steps:
        inputs = [value] if second is None else [value, second]
        value = ir.Value(name=f"{base}_{role}", shape=ir.Shape(dims), type=kind)
        turn = {"perm": (1, 0, 2)} if op == "Transpose" else {}
        graph.body.insert_before(product, ir.node(op, inputs, turn, outputs=[value], name=f"{name}.{role}"))
    replace(last, value)
