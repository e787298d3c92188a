"""Remove layout operators that change nothing or undo each other."""

import numpy as np
import onnx_ir as ir

from edgehybrid.graph import Graph, constant
from edgehybrid.rewrites.layer import set_constant
from edgehybrid.rewrites.pattern import bypass, can_bypass, is_op, known_shape, operand

VIEWS = ("Reshape", "Flatten", "Squeeze", "Unsqueeze")
"""Operators that keep the order of the elements."""


def remove_no_ops(graph: Graph) -> int:
    """Identity, Dropout, views to the same shape and transposes to the same order go; pairs become one.

    reshape_b(reshape_a(x)) = reshape_b(x); transpose_q(transpose_p(x)) = transpose_r(x) with r[i] = p[q[i]].

    Source: the definition of the operators.
    """
    sites = 0
    for node in tuple(graph.nodes("Identity", "Dropout", "Transpose", *VIEWS)):
        changed = shorten_transpose(graph, node) or shorten_view(graph, node)
        if does_nothing(node) and can_bypass(node, operand(node, 0)):
            bypass(graph, node, operand(node, 0))
            changed = True
        sites += changed
    return sites


def shorten_transpose(graph: Graph, node: ir.Node) -> bool:
    """Let a transpose of a transpose read what the inner one reads."""
    inner = operand(node, 0).producer()
    if not is_op(node, "Transpose") or not is_op(inner, "Transpose") or inner is None:
        return False
    first, second = order_of(inner), order_of(node)
    if first is None or second is None:
        return False
    node.attributes.add(ir.AttrInt64s("perm", [first[i] for i in second]))
    read_past(graph, node, inner)
    return True


def shorten_view(graph: Graph, node: ir.Node) -> bool:
    """Let a view of a view read what the inner one reads."""
    inner = operand(node, 0).producer()
    shape = known_shape(node.outputs[0])
    if not is_op(node, "Reshape") or not is_op(inner, *VIEWS) or inner is None or shape is None or 0 in shape:
        return False
    set_constant(graph, node, 1, np.array(shape, np.int64))  # a 0 in the old target meant the inner's shape
    read_past(graph, node, inner)
    return True


def read_past(graph: Graph, node: ir.Node, inner: ir.Node) -> None:
    """Make `inner`'s input the input of `node`; `inner` goes if nothing else reads it."""
    node.replace_input_with(0, operand(inner, 0))
    output = inner.outputs[0]
    if not output.uses() and not output.is_graph_output():
        graph.body.remove(inner, safe=True)


def does_nothing(node: ir.Node) -> bool:
    """Whether the first output always equals the first input."""
    if is_op(node, "Identity"):
        return True
    if is_op(node, "Dropout"):
        training = node.inputs[2] if len(node.inputs) > 2 else None
        flag = constant(training)
        mask_read = any(v.uses() or v.is_graph_output() for v in node.outputs[1:])
        return not mask_read and (training is None or (flag is not None and not flag.any()))
    if is_op(node, "Transpose"):
        order = order_of(node)
        return order is not None and order == sorted(order)
    before, after = known_shape(operand(node, 0)), known_shape(node.outputs[0])
    return before is not None and before == after


def order_of(node: ir.Node) -> list[int] | None:
    """The permutation of a Transpose."""
    shape = known_shape(operand(node, 0))
    if shape is None:
        return None
    return list(node.attributes.get_ints("perm", range(len(shape))[::-1]))
