"""Decide what must stay float32 in a float16 graph, from the largest values seen in the float32 network.

ONNX Runtime's CPU computes chains of float16 operators in float32, so an overflow does not show in its output; the
range is judged from what the float32 network computes. A tensor is called wide if its absolute maximum on a sample of
images exceeds `LIMIT`. What makes it and what reads it stay float32, and so does an operator whose own sums or
products, which no tensor shows, exceed it. Products of matrices and convolutions are judged by their results:
TensorRT sums them in float32 unless asked otherwise, and its layer normalisation computes in float32 as well.
"""

import math
from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from edgehybrid.graph import Graph, label_nodes, name_of, shape_of
from edgehybrid.graph.batch_norm import scale_and_shift
from edgehybrid.graph.half import FLOAT16_MAX, find_risks
from edgehybrid.records import Decision

MARGIN = 8
"""The sample is a handful of images: another may reach further. From 8 to 32 images no tensor grew more than 2.6-fold
(CMT-Ti on two data sets and without training, Conv2Former-N, BoTNet-26T)."""
LIMIT = FLOAT16_MAX / MARGIN

_GELU_CUBE = 0.044715
_MEANS = {"ReduceMean", "GlobalAveragePool", "AveragePool"}


def keep_float32(graph: Graph, peaks: Mapping[str, float]) -> tuple[Decision, ...]:
    """Operators of a float16 graph that stay float32, with reasons.

    Args:
        graph: The float32 graph.
        peaks: Tensor name -> absolute maximum, of every float32 tensor that depends on the images.

    Returns:
        One decision of kind `float32` per operator, in the order of the nodes: by its constants and its kind
        (`edgehybrid.graph.half`), by a wide result or operand, or by what it computes inside.
    """
    names, risks = label_nodes(graph), find_risks(graph)
    decisions = []
    for node in graph.nodes():
        if node.op_type == "Constant":
            continue
        found = _by_range(node, peaks) or risks.get(node)
        if found is not None:
            rule, why = found
            tensor = next((name_of(v) for v in node.inputs if v is not None), "")
            decisions.append(
                Decision(names[node], node.op_type, 0, tensor, "float32", rule, f"{node.op_type} stays float32: {why}")
            )
    return tuple(decisions)


def _by_range(node: ir.Node, peaks: Mapping[str, float]) -> tuple[str, str] | None:
    """The rule by which a range keeps an operator float32; None for none."""
    for values, part in ((node.outputs, "gives"), (node.inputs, "reads")):
        for value in values:
            peak = 0.0 if value is None else peaks.get(name_of(value), 0.0)
            if peak > LIMIT and value is not None:
                seen = f"it {part} values up to {peak:.3g} ('{name_of(value)}')"
                return "fp16-range", f"{seen}; float16 ends at {FLOAT16_MAX:.0f}, margin {MARGIN}"
    inner = _inner_peak(node, peaks)
    if inner > LIMIT:
        return "fp16-inner-range", f"its sums reach {inner:.3g}; float16 ends at {FLOAT16_MAX:.0f}, margin {MARGIN}"
    return None


def _inner_peak(node: ir.Node, peaks: Mapping[str, float]) -> float:
    """The largest value that an operator computes inside and no tensor shows; 0 where there is none."""
    first = node.inputs[0] if node.inputs else None
    if first is None:
        return 0.0
    reads = peaks.get(name_of(first), 0.0)
    if node.op_type in _MEANS:
        out = node.outputs[0]
        count = math.prod(shape_of(first)) / max(1, math.prod(shape_of(out)))
        if node.op_type == "AveragePool":
            count = math.prod(node.attributes.get_ints("kernel_shape", ()))
        return peaks.get(name_of(out), 0.0) * count
    if node.op_type == "Gelu" and node.attributes.get_string("approximate", "none") == "tanh":
        return reads**3 * _GELU_CUBE
    if node.op_type == "HardSwish":
        return reads * (reads + 3)
    if node.op_type == "BatchNormalization":  # written as a product and a sum
        found = scale_and_shift(node)
        if found is not None:
            return reads * float(np.abs(found[0]).max(initial=0.0))
    return 0.0
