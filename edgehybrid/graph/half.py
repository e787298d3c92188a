"""Which operators float16 would break, as far as the graph alone tells; placement and the quantizer both ask."""

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgehybrid.graph import Graph, constant

FLOAT16_MAX = float(np.finfo(np.float16).max)
_NORMAL = float(np.finfo(np.float16).smallest_normal)

_ELEMENTWISE = {"Add", "Sub", "Mul", "Div", "Pow", "Max", "Min", "Clip", "Where", "PRelu"}
_RANGE_RISKS = {
    "Exp",
    "Log",
    "LpNormalization",
    "ReduceL2",
    "ReduceLogSum",
    "ReduceLogSumExp",
    "ReduceSumSquare",
    "Softplus",
}
"""Exponentials, logarithms and sums of squares inside one operator: nothing outside shows how large they get."""
_VARIANCE = {"ReduceMean", "ReduceSum", "GlobalAveragePool", "Add", "Max", "Clip", "Sqrt", "Pow", "Reciprocal"}
_ROOTS = ("Sqrt", "Pow", "Reciprocal")


def find_risks(graph: Graph) -> dict[ir.Node, tuple[str, str]]:
    """Operators that float16 would break whatever the images are.

    Returns:
        Node -> name of the rule and reason.
    """
    risks: dict[ir.Node, tuple[str, str]] = {}
    for node in graph.nodes():
        if node.op_type == "Pow" or (node.op_type == "Mul" and node.inputs[0] is node.inputs[1]):
            for link in _variance_chain(node):
                risks[link] = "fp16-variance", "part of a variance: float16 squares overflow from 256 on"
        if node.op_type in _RANGE_RISKS:
            risks[node] = "fp16-inner-range", f"{node.op_type} sums or grows inside, where no range can be seen"
        for value in node.inputs:
            problem = _problem(constant(value), small=node.op_type in _ELEMENTWISE)
            if problem:
                risks[node] = "fp16-constant", f"{problem}: '{value.name if value else ''}'"
    return risks


def largest(array: NDArray[np.generic]) -> float:
    """The largest finite absolute value; 0 for none."""
    magnitudes = np.abs(array.astype(np.float32, copy=False))
    return float(magnitudes[np.isfinite(magnitudes)].max(initial=0.0))


def _problem(array: NDArray[np.generic] | None, *, small: bool) -> str:
    """Why float16 cannot hold a constant; empty where it can.

    Args:
        array: The constant; None for what is computed.
        small: Whether it matters that all of it is small: an epsilon under a root, not a weight of a dead layer.
    """
    if array is None or array.dtype != np.float32:
        return ""
    peak = largest(array)
    if peak > FLOAT16_MAX:
        return f"float16 ends at {FLOAT16_MAX:.0f}, and {peak:.3g} is in its constant"
    if small and 0 < peak < _NORMAL:
        return f"float16 has no full precision below {_NORMAL:.1e}, and its constant is {peak:.3g}"
    return ""


def _variance_chain(square: ir.Node) -> list[ir.Node]:
    """The square, mean, epsilon and root of a hand-written normalisation; empty for any other power.

    A stream of 256 overflows float16 when squared, although it and its deviation fit (TensorRT #2564, #4061).
    """
    chain = [square]
    while True:
        readers = {use.node for use in chain[-1].outputs[0].uses()}
        if len(readers) != 1:
            return []
        (reader,) = readers
        if reader.op_type not in _VARIANCE:
            return chain if any(n.op_type in _ROOTS for n in chain[1:]) else []
        chain.append(reader)
