"""Write a plan into a graph: QuantizeLinear and DequantizeLinear pairs, int8 weights, float16 types.

Two dialects of one function. `fp32` stays float32-typed at the opset it came with (17 from the exporter), for ONNX
Runtime and TensorRT 8. `typed` is strongly typed for TensorRT 10, 11 and RTX: opset 19 or newer, float16 between a
Cast after the input and a Cast before the output.
"""

import numpy as np

from edgehybrid.errors import GraphError
from edgehybrid.graph import WEIGHTED, Graph, constant, label_nodes, tidy
from edgehybrid.graph.soundness import CONTROL_FLOW
from edgehybrid.graph.tuning import Tuning
from edgehybrid.quantizer.float16 import type_float16, upgrade
from edgehybrid.quantizer.norms import decompose_norms
from edgehybrid.quantizer.opsets import lower_opset
from edgehybrid.quantizer.qdq import (
    MIN_SCALE,
    MIN_WEIGHT_SCALE,
    Writer,
    choose_weight_scales,
    correct_biases,
    wrong_plan,
)
from edgehybrid.records import Plan, Ranges

__all__ = [
    "MIN_SCALE",
    "MIN_WEIGHT_SCALE",
    "choose_weight_scales",
    "decompose_norms",
    "lower_opset",
    "quantize",
    "to_fp16",
]


def quantize(graph: Graph, ranges: Ranges, plan: Plan, tuning: Tuning | None = None) -> Graph:
    """Insert Q/DQ where the plan says.

    Activations get one per-tensor pair for all their planned readers, scale = amax / 127. Weights become int8
    constants with one scale per output channel and a DequantizeLinear. Biases stay float. Zero points are explicit
    int8 zeros, which also fixes the type. In the `fp32` dialect every tensor of the given graph keeps its name.

    Args:
        graph: float32, the one the plan was made for. Not changed.
        ranges: amax of every tensor that the plan quantizes as an activation.
        plan: From `placement.plan`; its dialect decides what is emitted.
        tuning: Weights as they are to be rounded, and what to add to biases, by node; what the plan leaves float, or
            what is not named, is as without. Made for this very graph.

    Returns:
        A new graph. Equal arguments give equal bytes.

    Raises:
        StageError: A planned tensor has no range or an impossible one, or the plan belongs to another graph.
        GraphError: Q/DQ that is there already, control flow, constants that are not finite or, in the typed dialect,
            beyond float16, or operators that no converter brings to the typed opset.
    """
    _check(graph)
    typed = plan.dialect == "typed"
    result = upgrade(graph) if typed else graph.clone()
    planned = {(d.node, d.input): d for d in plan.decisions if d.kind in ("activation", "weight")}
    names, wide = label_nodes(result), _wide(plan)
    writer = Writer(result, ranges, plan.dialect, wide, tuning)
    if tuning is not None:
        correct_biases(result, names, tuning, {d.node for d in plan.decisions if d.kind == "weight"})
    for node in list(result.nodes()):
        for index, value in enumerate(node.inputs):
            decision = planned.pop((names[node], index), None)
            if decision is None:
                continue
            if value is None or value.name != decision.tensor:
                raise wrong_plan(decision)
            node.replace_input_with(index, writer.dequantize(node, value, decision))
    if planned:
        raise wrong_plan(next(iter(planned.values())))
    return tidy(type_float16(result, wide) if typed else result)


def to_fp16(graph: Graph, plan: Plan | None = None) -> Graph:
    """The strongly typed float16 graph without Q/DQ; input and output stay float32.

    Args:
        graph: float32. Not changed.
        plan: Its decisions of kind `float32` stay so; None where no range was measured.

    Returns:
        A new graph of opset 19 or newer. The variance of hand-written normalisations, and operators whose constants
        float16 cannot hold, compute in float32 between Casts.

    Raises:
        GraphError: As `quantize`.
    """
    _check(graph)
    return tidy(type_float16(upgrade(graph), () if plan is None else _wide(plan)))


def _wide(plan: Plan) -> set[str]:
    return {d.node for d in plan.decisions if d.kind == "float32"}


def _check(graph: Graph) -> None:
    """Refuse what cannot be quantized or typed.

    Raises:
        GraphError: Q/DQ that is there already, control flow, NaN in any constant, or infinite weights.
    """
    for node in graph.nodes():
        if node.op_type in ("QuantizeLinear", "DequantizeLinear"):
            raise GraphError(
                f"node '{node.name}' is a {node.op_type}",
                why="the graph is quantized already, needed a float32 one",
                fix="start from the float32 model",
            )
        if node.op_type in CONTROL_FLOW:
            raise GraphError(
                f"node '{node.name}' ({node.op_type}) is control flow",
                why="graphs inside nodes are not quantized, and engines here are built for one fixed path",
                fix="export without control flow",
            )
        for value in node.inputs:
            array = constant(value)
            if value is None or array is None or array.dtype.kind != "f":
                continue
            usable = np.isfinite(array) if node.op_type in WEIGHTED else ~np.isnan(array)
            if not usable.all():
                raise GraphError(
                    f"'{value.name}', read by node '{node.name}' ({node.op_type}), is not finite",
                    why=f"{array.size - int(usable.sum())} of its {array.size} values are NaN or infinite",
                    fix="the checkpoint is damaged or its training diverged: use another one",
                )
