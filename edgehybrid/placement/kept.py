"""Take back decisions for int8: at operators that a search keeps float, and at tensors that few images fill."""

from collections.abc import Mapping
from dataclasses import replace

import onnx_ir as ir

from edgehybrid.graph.structure import find_read
from edgehybrid.placement.rules import UNEVEN_RULES, Uneven, choose
from edgehybrid.records import Decision


def keep_float(keep: Mapping[str, str], names: dict[ir.Node, str], found: dict[ir.Node, list[Decision]]) -> None:
    """Take back the decisions for int8 at the operators named."""
    for node, decisions in found.items():
        reason = keep.get(names[node])
        if reason is not None:
            found[node] = _take_back(decisions, "mixed-precision", reason)


def leave_uneven(uneven: Mapping[str, float], found: dict[ir.Node, list[Decision]]) -> None:
    """Take back the decisions for int8 at the readers of such tensors, through a Pad as well."""
    for node, decisions in found.items():
        read = [find_read(node, d.input, uneven) for d in decisions if d.kind == "activation"]
        tensor = next((name for name in read if name is not None), None)
        if tensor is not None:
            rule, reason = choose(UNEVEN_RULES, Uneven(node.op_type, uneven[tensor]))
            found[node] = _take_back(decisions, rule.name, reason)


def _take_back(decisions: list[Decision], rule: str, reason: str) -> list[Decision]:
    """The decisions of an operator, none of them for int8."""
    return [
        d if d.kind == "float" else replace(d, kind="float", rule=rule, reason=reason, axis=None) for d in decisions
    ]
