"""Which quantized tensors must share one range, and which have a range that is known without images."""

import onnx_ir as ir

from edgehybrid.graph import Graph, name_of
from edgehybrid.graph.structure import MOVES
from edgehybrid.records import Plan

_POOLS = {"MaxPool"}
"""An int8 kernel of these gives int8 only if both sides have one scale (NvInfer.h). An average stays float here."""
_PASSES = MOVES | _POOLS | {"Concat", "Slice", "Split"}
_SOFTMAX_AMAX = 1.0


def tie(graph: Graph, plan: Plan) -> tuple[tuple[str, ...], ...]:
    """Groups of two and more quantized tensors that one scale must serve.

    Concat, MaxPool and moves of data run in int8 where the scale is the same before and after; with two scales TensorRT
    converts between them. Tensors are of one group where nothing else lies between them.

    Args:
        graph: float32.
        plan: Its placement.

    Returns:
        Groups in the order of the graph, each in the order of the graph.
    """
    quantized = {d.tensor for d in plan.decisions if d.kind == "activation"}
    parent: dict[ir.Value, ir.Value] = {}

    def root(value: ir.Value) -> ir.Value:
        while value in parent:
            value = parent[value]
        return value

    ordered: list[ir.Value] = list(graph.body.inputs)
    for node in graph.nodes():
        ordered.extend(node.outputs)
        if node.op_type not in _PASSES:
            continue
        inputs = node.inputs if node.op_type == "Concat" else node.inputs[:1]
        for value in (*inputs, *node.outputs[1:]):
            if value is not None and root(value) is not root(node.outputs[0]):
                parent[root(value)] = root(node.outputs[0])
    groups: dict[ir.Value, list[str]] = {}
    for value in ordered:
        if value.name in quantized:
            groups.setdefault(root(value), []).append(name_of(value))
    return tuple(tuple(group) for group in groups.values() if len(group) > 1)


def known_ranges(graph: Graph, plan: Plan) -> dict[str, float]:
    """Ranges that need no images: a softmax ends at 1, whatever was seen, so its int8 scale is 1/127.

    Args:
        graph: float32.
        plan: Its placement.
    """
    quantized = {d.tensor for d in plan.decisions if d.kind == "activation"}
    found: dict[str, float] = {}
    for softmax in graph.nodes("Softmax"):
        pending = [softmax.outputs[0]]
        while pending:
            value = pending.pop()
            if value.name in quantized:
                found[name_of(value)] = _SOFTMAX_AMAX
            pending.extend(use.node.outputs[0] for use in value.uses() if use.node.op_type in MOVES)
    return found
