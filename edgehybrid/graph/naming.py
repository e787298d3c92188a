"""Name operators after the modules that they come from, where the file says so and its own names do not."""

import ast
import itertools

import onnx_ir as ir

from edgehybrid.graph import Graph, unused

SCOPES = "pkg.torch.onnx.name_scopes"
"""Metadata of torch's newer exporter: "['', 'blocks.0', 'blocks.0.attn', 'linear_2']", a Python list of strings."""
LONGEST = 4096  # characters of it; a file is not trusted
OWN = "node_"
"""Begins names that torch's newer exporter counts up: node_Conv_1380."""


def name_by_modules(graph: Graph) -> int:
    """`node_MatMul_70` becomes `/blocks.0/attn/v/MatMul`, in place, as torch's older exporter names it.

    Reports, rankings and engine layers are named after nodes; who wrote the model knows its modules. Names that a user
    gave, and those of files that say nothing about modules, stay.

    Returns:
        How many nodes were named.
    """
    found = {node: path for node in graph.nodes() if (node.name or "").startswith(OWN) and (path := _path(node))}
    taken = {node.name for node in graph.nodes() if node not in found}
    for node, path in found.items():
        node.name = unused(path, taken)
    return len(found)


def _path(node: ir.Node) -> str | None:
    """The modules around a node, each by its name in the one before, and its operator; None where not known."""
    text = node.metadata_props.get(SCOPES, "")
    try:
        scopes = ast.literal_eval(text) if len(text) <= LONGEST else None
    except (ValueError, SyntaxError, RecursionError, MemoryError):
        return None
    if not isinstance(scopes, list) or not all(isinstance(scope, str) for scope in scopes):
        return None
    words = [""]
    for outer, inner in itertools.pairwise(scopes[:-1]):  # the last is the operator
        local = inner.removeprefix(f"{outer}.") if outer else inner
        words.append(f"{words[-1]}.{local}" if local.isdecimal() and outer else local)  # as a list counts its own
    return "/".join([*words, node.op_type])
