"""What rewrites ask of a graph, the edits that they share, and how they name what was merged."""

import math
import re

import onnx_ir as ir

from edgehybrid.graph import Graph, constant, known_shape


def is_op(node: ir.Node | None, *ops: str) -> bool:
    """Whether this is one of these standard operators."""
    return node is not None and node.domain == "" and node.op_type in ops


def only_user(value: ir.Value) -> ir.Node | None:
    """The one node that reads a value once; None where it is read elsewhere too, or leaves the graph."""
    uses = tuple(value.uses())
    if len(uses) != 1 or value.is_graph_output() or uses[0].node.graph is not value.graph:
        return None
    return uses[0].node


def scalar(value: ir.Value | None) -> float | None:
    """A finite floating-point constant of one element."""
    array = constant(value)
    if array is None or array.size != 1 or array.dtype.kind != "f":
        return None
    number = float(array.reshape(()))
    return number if math.isfinite(number) else None


def replace(old: ir.Value, new: ir.Value) -> None:
    """Let everything that read `old` read `new`; an output of the graph keeps its name."""
    if old.is_graph_output():
        name, old.name = old.name, f"{old.name}_replaced"
        new.name = name
    ir.convenience.replace_all_uses_with(old, new, replace_graph_outputs=True)


def can_bypass(node: ir.Node, value: ir.Value) -> bool:
    """Whether `value` can take the place of the node's first output, also where that leaves the graph."""
    return not node.outputs[0].is_graph_output() or (value.producer() is not None and not value.is_graph_output())


def bypass(graph: Graph, node: ir.Node, value: ir.Value) -> None:
    """Remove a node: what read its first output reads `value` instead."""
    replace(node.outputs[0], value)
    graph.body.remove(node, safe=True)


def resize(value: ir.Value, axis: int, width: int) -> None:
    """Note a tensor's new width."""
    dims = list(known_shape(value) or ())
    dims[axis] = width
    value.shape = ir.Shape(dims)


def joint_name(*names: str) -> str:
    """What paths share, and all of what they do not: a/k/MatMul and a/v/MatMul give a/k+v/MatMul."""
    words = [re.split(r"(\W)", name) for name in names]
    columns = list(zip(*words, strict=False))
    if len({len(word) for word in words}) > 1 or sum(len(set(column)) > 1 for column in columns) != 1:
        return "+".join(names)
    return "".join(column[0] if len(set(column)) == 1 else "+".join(column) for column in columns)
