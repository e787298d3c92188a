"""Take out of attention what hides nothing, as compilers fuse only what they know."""

import math

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgehybrid.graph import Graph, constant, known_shape
from edgehybrid.graph.structure import SCORES, input_of, weight_index
from edgehybrid.rewrites.pattern import bypass, can_bypass, is_op, only_user


def drop_masks(graph: Graph) -> int:
    """Constant masks that hide nothing go, and so does the guard of a softmax that never fails.

    softmax(x + c) = softmax(x) where c is the same along the axis of the softmax; a mask that hides nothing is 0. torch
    writes attention with a mask as Add, Softmax, IsNaN, Where: a row that is hidden whole is 0, not NaN. Where every
    row of the mask leaves something, and x is finite, no softmax is NaN. Hugging Face's transformers come with both.

    Source: the definition of the softmax.
    """
    sites = 0
    for softmax in tuple(graph.nodes("Softmax")):
        sites += _drop_guard(graph, softmax)
        sites += _drop_mask(graph, softmax)
    return sites


def _drop_guard(graph: Graph, softmax: ir.Node) -> bool:
    """Let what reads a guarded softmax read the softmax."""
    result = softmax.outputs[0]
    users = [use.node for use in result.uses()]
    check = next((node for node in users if is_op(node, "IsNaN")), None)
    guard = None if check is None else only_user(check.outputs[0])
    if guard is None or not is_op(guard, "Where") or guard.inputs[2] is not result or not _is_never_nan(softmax):
        return False
    if known_shape(guard.outputs[0]) != known_shape(result) or not can_bypass(guard, result):
        return False
    bypass(graph, guard, result)
    return True


def _drop_mask(graph: Graph, softmax: ir.Node) -> bool:
    """Let a softmax read what a mask that hides nothing was added to."""
    add = input_of(softmax, 0).producer()
    if add is None or not is_op(add, "Add") or only_user(add.outputs[0]) is not softmax:
        return False
    mask = _mask_of(add)
    if mask is None:
        return False
    place, array = mask
    scores = input_of(add, 1 - place)
    if known_shape(scores) is None or known_shape(scores) != known_shape(add.outputs[0]):
        return False
    rows = _rows(array, softmax)
    if not np.isfinite(rows).all() or (rows != rows[..., :1]).any():
        return False
    softmax.replace_input_with(0, scores)
    graph.body.remove(add, safe=True)
    return True


def _mask_of(add: ir.Node) -> tuple[int, NDArray[np.generic]] | None:
    """Which operand of a sum is a constant of floats, and the constant."""
    place = weight_index(add)
    array = None if place < 0 else constant(add.inputs[place])
    return None if array is None or array.dtype.kind != "f" else (place, array)


def _rows(mask: NDArray[np.generic], softmax: ir.Node) -> NDArray[np.generic]:
    """A mask with the axis of the softmax at its end, there of one number where it is the same all along."""
    shape = known_shape(input_of(softmax, 0)) or mask.shape
    axis = softmax.attributes.get_int("axis", -1) % len(shape)
    return np.moveaxis(mask.reshape((1,) * (len(shape) - mask.ndim) + mask.shape), axis, -1)


def _is_never_nan(softmax: ir.Node) -> bool:
    """Whether no row of the input holds NaN, +inf or nothing but -inf, whatever finite numbers the products give."""
    value = input_of(softmax, 0)
    add = value.producer()
    mask = _mask_of(add) if add is not None and is_op(add, "Add") else None
    if add is None or mask is None:
        return _is_finite(value)
    place, array = mask
    most = _rows(array, softmax).max(axis=-1)  # NaN where there is one
    return bool(np.isfinite(most).all()) and _is_finite(input_of(add, 1 - place))


def _is_finite(value: ir.Value) -> bool:
    """Whether every constant is finite that is put in between a tensor and the products that it comes from."""
    pending, seen = [value], {value}
    while pending:
        tensor = pending.pop()
        array, node = constant(tensor), tensor.producer()
        if array is not None and array.dtype.kind == "f" and not math.isfinite(float(np.abs(array).max(initial=0))):
            return False
        if array is None and node is not None and node.op_type in SCORES:
            fresh = [v for v in node.inputs if v is not None and v not in seen]
            seen.update(fresh)
            pending.extend(fresh)
    return True
