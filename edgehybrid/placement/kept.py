"""Take back decisions for int8: at operators that a search keeps float, and at tensors that few images fill."""

from collections.abc import Mapping
from dataclasses import replace

import onnx_ir as ir

from edgehybrid.graph.structure import input_of
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
        for decision in decisions:
            source = input_of(node, decision.input)
            pad = source.producer()
            before = input_of(pad, 0).name if pad is not None and pad.op_type == "Pad" else None
            tensor = next((name for name in (source.name, before) if name in uneven), None)
            if decision.kind == "activation" and tensor is not None:
                rule, reason = choose(UNEVEN_RULES, Uneven(node.op_type, uneven[tensor]))
                found[node] = _take_back(decisions, rule.name, reason)
                break


def _take_back(decisions: list[Decision], rule: str, reason: str) -> list[Decision]:
    """The decisions of an operator, none of them for int8."""
    return [
        d if d.kind == "float" else replace(d, kind="float", rule=rule, reason=reason, axis=None) for d in decisions
    ]
