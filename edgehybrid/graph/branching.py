"""Take the branch of an If whose condition is known: an engine is one fixed sequence of operators.

torch writes `x.squeeze(1)` as an If on the size of a dimension that it does not know; once the open dimensions of the
file are fixed, what the condition is computed from is a constant.
"""

import onnx
import onnx_ir as ir

from edgehybrid.graph import Graph, constant, shapes, tidy, unused, values
from edgehybrid.graph.folding import fold_constants


def has_branches(proto: onnx.ModelProto) -> bool:
    """Whether there is any If."""
    return any(node.op_type == "If" for node in proto.graph.node)


def take_branches(proto: onnx.ModelProto) -> tuple[onnx.ModelProto, int]:
    """The network without those Ifs that always go one way, and how many they were; others stay.

    Args:
        proto: Of fixed dimensions. Loses its large weights to the result.
    """
    graph, taken = Graph(shapes.open_model(proto)), 0
    while True:
        while fold_constants(graph):
            graph = tidy(graph)
        known = {node: flag for node in graph.nodes("If") if (flag := constant(node.inputs[0])) is not None}
        if not known:
            return ir.to_proto(graph.model), taken
        for node, flag in known.items():
            _inline(graph, node, "then_branch" if flag.item() else "else_branch")
        graph, taken = tidy(graph), taken + len(known)


def _inline(graph: Graph, node: ir.Node, name: str) -> None:
    """Put the nodes of one branch in the place of its If, in place."""
    branch, names = node.attributes[name].as_graph(), {value.name for value in values(graph)}
    outputs, inner, weights = list(branch.outputs), list(branch), list(branch.initializers.values())
    branch.outputs.clear()
    branch.initializers.clear()
    branch.remove(inner)
    for weight in weights:
        weight.name = unused(weight.name or "weight", names)
        graph.body.register_initializer(weight)
    graph.body.insert_before(node, inner)
    for before, after in zip(node.outputs, outputs, strict=True):
        if before.is_graph_output():  # it keeps its name
            kept = ir.node("Identity", [after], name=before.name)
            graph.body.insert_before(node, kept)
            after = kept.outputs[0]
            after.name, before.name = before.name, None
        ir.convenience.replace_all_uses_with(before, after, replace_graph_outputs=True)
    graph.body.remove(node, safe=True)
