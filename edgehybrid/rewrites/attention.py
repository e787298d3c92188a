"""Find attention that may be changed: nothing else reads what lies between its two products.

`graph.structure.find_attentions` is wider: it finds whatever a compiler may fuse, with several products on either side.
"""

from collections.abc import Iterator
from dataclasses import dataclass

import onnx_ir as ir

from edgehybrid.graph import Graph, known_shape
from edgehybrid.graph.structure import input_of
from edgehybrid.rewrites.layer import layer_at
from edgehybrid.rewrites.pattern import is_op, only_user, scalar


@dataclass(frozen=True)
class IsolatedAttention:
    """softmax(q k^T s + M) v, with any scalar s and any addend M, however both are written."""

    logits: ir.Node  # MatMul(q, k^T)
    context: ir.Node  # MatMul(softmax, v)


def find_isolated(graph: Graph) -> Iterator[IsolatedAttention]:
    """Every softmax over the last axis between a product of two computed tensors and a product with a third."""
    for softmax in tuple(graph.nodes("Softmax")):
        shape = known_shape(softmax.outputs[0])
        context = only_user(softmax.outputs[0])
        if shape is None or softmax.attributes.get_int("axis", -1) not in (-1, len(shape) - 1):
            continue
        if not is_op(context, "MatMul") or context is None or input_of(context, 0) is not softmax.outputs[0]:
            continue
        logits = _find_logits(input_of(softmax, 0))
        if logits is not None:
            yield IsolatedAttention(logits, context)


def _find_logits(value: ir.Value) -> ir.Node | None:
    """The product of two computed tensors, scaled and added to on the way to `value` but not otherwise used."""
    node = value.producer()
    if node is None or only_user(value) is None:
        return None
    if is_op(node, "MatMul"):
        return None if layer_at(node) is not None else node
    if is_op(node, "Div"):
        return _find_logits(input_of(node, 0)) if scalar(node.inputs[1]) is not None else None
    if is_op(node, "Mul") and not any(scalar(v) is not None for v in node.inputs):
        return None
    if is_op(node, "Add", "Mul"):
        for term in node.inputs:
            if term is not None and known_shape(term) == known_shape(value):  # the logits are not broadcast
                found = _find_logits(term)
                if found is not None:
                    return found
    return None
