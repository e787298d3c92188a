"""Say what TensorRT will refuse or run slowly in a quantized ONNX file, wherever the file came from.

The rules are tables in `linter.pairs` (what each QuantizeLinear and DequantizeLinear says) and `linter.placement`
(where they stand). A file that breaks none of them may still be refused: the rules know what is written there,
a build knows the rest.
"""

import shlex
from collections.abc import Sequence
from pathlib import Path

from edgehybrid.errors import GraphError, NotFoundError
from edgehybrid.graph import CHECK, Graph
from edgehybrid.graph.adoption import open_unchecked
from edgehybrid.graph.structure import input_of
from edgehybrid.linter.pairs import PAIR_RULES
from edgehybrid.linter.placement import PLACEMENT_RULES
from edgehybrid.linter.view import INT8_OPERATORS, Rule, View
from edgehybrid.records import Issue, Lint

__all__ = ["RULES", "check", "lint"]

_NEEDS_TWO = ("QuantizeLinear", "DequantizeLinear", "Add", *INT8_OPERATORS)

RULES: Sequence[Rule] = (*PAIR_RULES, *PLACEMENT_RULES)


def lint(path: Path) -> Lint:
    """Put one file through every rule.

    Args:
        path: Any ONNX file; nothing in it is refused, neither operators nor opsets nor open shapes.

    Returns:
        Errors first, each kind in the order of the rules and then of the nodes.

    Raises:
        NotFoundError: No such file.
        GraphError: Not ONNX, damaged, or an operator lacks an input that it cannot do without.
    """
    if not path.is_file():
        what = "a folder" if path.is_dir() else "not there"
        within = sorted(path.glob("*.onnx")) if path.is_dir() else []
        fix = f"name an .onnx file{': ' if within else ''}{' or '.join(map(str, within[:3]))}"
        raise NotFoundError(f"cannot read {path}", why=f"it is {what}", fix=fix)
    graph = open_unchecked(path)
    try:
        return check(graph, str(path))
    except GraphError as error:
        error.rename(CHECK, f"check-model {shlex.quote(str(path))}")
        raise


def check(graph: Graph, path: str = "") -> Lint:
    """Put a graph through every rule.

    Args:
        graph: Not changed.
        path: Where it came from.

    Returns:
        As `lint`.

    Raises:
        GraphError: An operator lacks an input that it cannot do without.
    """
    for node in graph.nodes(*_NEEDS_TWO, "Softmax", "Pad"):
        for index in range(2 if node.op_type in _NEEDS_TWO else 1):
            input_of(node, index)
    view = View(graph)
    issues = [
        Issue(rule.name, rule.severity, node, found, rule.fix) for rule in RULES for node, found in rule.find(view)
    ]
    products = view.products()
    return Lint(
        path=path,
        opset=graph.opset,
        pairs=sum(1 for _ in graph.nodes("DequantizeLinear")),
        products=len(products),
        int8=sum(view.is_int8(node) for node in products),
        rules=tuple(rule.name for rule in RULES),
        issues=tuple(sorted(issues, key=lambda issue: issue.severity != "error")),
    )
