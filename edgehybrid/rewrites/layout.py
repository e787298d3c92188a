"""Remove operators that change nothing or undo each other."""

import numpy as np
import onnx_ir as ir

from edgehybrid.graph import Graph, constant, known_shape
from edgehybrid.graph.structure import input_of, permutation
from edgehybrid.rewrites.layer import set_constant
from edgehybrid.rewrites.pattern import bypass, can_bypass, is_op

VIEWS = ("Reshape", "Flatten", "Squeeze", "Unsqueeze")
"""Operators that keep the order of the elements."""

POOLS = ("AveragePool", "MaxPool", "GlobalAveragePool", "GlobalMaxPool")


def remove_no_ops(graph: Graph) -> int:
    """Identity, Dropout, views to the same shape and transposes to the same order go; pairs become one.

    reshape_b(reshape_a(x)) = reshape_b(x); transpose_q(transpose_p(x)) = transpose_r(x) with r[i] = p[q[i]]. A Resize
    to the same size, a pooling of one position and a border of nothing go too: Conformer has the first two where its
    branches meet at one resolution, torch writes the last in every unfold.

    Source: the definition of the operators.
    """
    sites = 0
    for node in tuple(graph.nodes("Identity", "Dropout", "Transpose", "Resize", "Pad", *POOLS, *VIEWS)):
        changed = _shorten_transpose(graph, node) or _shorten_view(graph, node)
        if _does_nothing(node) and can_bypass(node, input_of(node, 0)):
            bypass(graph, node, input_of(node, 0))
            changed = True
        sites += changed
    return sites


def _shorten_transpose(graph: Graph, node: ir.Node) -> bool:
    """Let a transpose of a transpose read what the inner one reads."""
    inner = input_of(node, 0).producer()
    if not is_op(node, "Transpose") or not is_op(inner, "Transpose") or inner is None:
        return False
    first, second = _order_of(inner), _order_of(node)
    if first is None or second is None:
        return False
    node.attributes.add(ir.AttrInt64s("perm", [first[i] for i in second]))
    _read_past(graph, node, inner)
    return True


def _shorten_view(graph: Graph, node: ir.Node) -> bool:
    """Let a view of a view read what the inner one reads."""
    inner = input_of(node, 0).producer()
    shape = known_shape(node.outputs[0])
    if not is_op(node, "Reshape") or not is_op(inner, *VIEWS) or inner is None or shape is None or 0 in shape:
        return False
    set_constant(graph, node, 1, np.array(shape, np.int64))  # a 0 in the old target meant the inner's shape
    _read_past(graph, node, inner)
    return True


def _read_past(graph: Graph, node: ir.Node, inner: ir.Node) -> None:
    """Make `inner`'s input the input of `node`; `inner` goes if nothing else reads it."""
    node.replace_input_with(0, input_of(inner, 0))
    output = inner.outputs[0]
    if not output.uses() and not output.is_graph_output():
        graph.body.remove(inner, safe=True)


def _does_nothing(node: ir.Node) -> bool:
    """Whether the first output always equals the first input."""
    if is_op(node, "Identity"):
        return True
    if is_op(node, "Dropout"):
        training = node.inputs[2] if len(node.inputs) > 2 else None
        flag = constant(training)
        mask_read = any(v.uses() or v.is_graph_output() for v in node.outputs[1:])
        return not mask_read and (training is None or (flag is not None and not flag.any()))
    if is_op(node, "Transpose"):
        order = _order_of(node)
        return order is not None and list(order) == sorted(order)
    if is_op(node, "Pad"):
        pads = constant(node.inputs[1])
        return pads is not None and not pads.any()
    before, after = known_shape(input_of(node, 0)), known_shape(node.outputs[0])
    if before is None or before != after:
        return False
    if is_op(node, "Resize"):
        return _keeps_size(node)
    return not is_op(node, *POOLS) or _sees_one_position(node, before)


def _keeps_size(node: ir.Node) -> bool:
    """Whether a Resize to the same shape has the scale 1, not one that rounds to it: every mode then reads x itself."""
    scales = constant(node.inputs[2]) if len(node.inputs) > 2 and node.inputs[2] is not None else None
    exact = (scales is not None and bool((scales == 1).all())) or (scales is None and len(node.inputs) > 3)
    return exact and node.attributes.get_string("coordinate_transformation_mode", "half_pixel") != "tf_crop_and_resize"


def _sees_one_position(node: ir.Node, shape: tuple[int, ...]) -> bool:
    """Whether every window of a pooling that keeps the shape is one position."""
    if is_op(node, "GlobalAveragePool", "GlobalMaxPool"):
        return set(shape[2:]) == {1}
    attributes = node.attributes
    single = set(attributes.get_ints("kernel_shape", ())) == {1} and not any(attributes.get_ints("pads", ()))
    return single and not any(v.uses() or v.is_graph_output() for v in node.outputs[1:])


def _order_of(node: ir.Node) -> tuple[int, ...] | None:
    """The permutation of a Transpose."""
    shape = known_shape(input_of(node, 0))
    return None if shape is None else permutation(node, len(shape))
