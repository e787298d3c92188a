"""Which operators float16 would break, as far as the graph alone tells; placement and the quantizer both ask."""

from functools import lru_cache

import numpy as np
import onnx.defs
import onnx_ir as ir
from numpy.typing import NDArray

from edgehybrid.graph import Graph, constant
from edgehybrid.graph.structure import MOVES

TYPED_OPSET = 19
"""First opset whose QuantizeLinear and DequantizeLinear know float16: that of typed graphs at least."""

FLOAT16_MAX = float(np.finfo(np.float16).max)
_NORMAL = float(np.finfo(np.float16).smallest_normal)
_SMALLEST = float(np.finfo(np.float16).smallest_subnormal)

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
_GUARDS = {"Add", "Max", "Clip", "Where"}
"""Operators by which an epsilon keeps a divisor from zero."""
_VIEWS = MOVES | {"Cast", "Expand"}


def find_risks(graph: Graph) -> dict[ir.Node, tuple[str, str]]:
    """Operators that float16 would break whatever the images are.

    Returns:
        Node -> name of the rule and reason.
    """
    risks: dict[ir.Node, tuple[str, str]] = {}
    opset = max(graph.opset, TYPED_OPSET)
    for node in graph.nodes():
        if _lacks_float16(node.op_type, node.domain, opset):
            risks[node] = "fp16-undefined", f"ONNX defines no {node.op_type} of float16"
        if node.op_type == "Pow" or (node.op_type == "Mul" and node.inputs[0] is node.inputs[1]):
            for link in _variance_chain(node):
                risks[link] = "fp16-variance", "part of a variance: float16 squares overflow from 256 on"
        if node.op_type in _RANGE_RISKS:
            risks[node] = "fp16-inner-range", f"{node.op_type} sums or grows inside, where no range can be seen"
        for value in node.inputs:
            array = constant(value)
            problem = _problem(array, small=node.op_type in _ELEMENTWISE)
            if problem:
                risks[node] = "fp16-constant", f"{problem}: '{value.name if value else ''}'"
            if problem and array is not None and node.op_type in _GUARDS:
                floor = largest(array)
                for link in _spoilt(node.outputs[0], floor):
                    risks.setdefault(
                        link, ("fp16-divisor", f"a divisor can come down to {floor:.3g}, a zero in float16")
                    )
    return risks


@lru_cache(maxsize=1024)
def _lacks_float16(op_type: str, domain: str, opset: int) -> bool:
    """Whether the standard knows an operator for float32 and not for float16."""
    try:
        schema = onnx.defs.get_schema(op_type, opset, domain)
    except onnx.defs.SchemaError:  # no operator of the standard: nothing is known
        return False
    types = {name for each in (*schema.inputs, *schema.outputs) for name in each.types}
    return "tensor(float)" in types and "tensor(float16)" not in types


def _spoilt(value: ir.Value, extreme: float) -> list[ir.Node]:
    """What reads a guarded divisor and comes to 0 / 0 or 0 * infinity if it is held in float16 on the way.

    Where all that is normalised is zero (a border, a dead channel), the epsilon alone is left: 1e-12 is zero in
    float16, its inverse infinite, and the answer NaN.

    Args:
        value: The guarded tensor, or what was made of it.
        extreme: Its value where only the epsilon is left.
    """
    found: list[ir.Node] = []
    for use in value.uses():
        node, power = use.node, _power(use.node, use.idx)
        if power is not None:
            with np.errstate(over="ignore"):
                after = float(np.float64(extreme) ** power)
            further = _spoilt(node.outputs[0], after)
            found += further
            if further and not (_fits(extreme) and _fits(after)):
                found.append(node)
        elif not _fits(extreme) and (
            (extreme < 1 and ((node.op_type == "Div" and use.idx == 1) or node.op_type == "Log"))
            or (extreme > 1 and node.op_type in ("Mul", "Div"))
        ):
            found.append(node)
    return found


def _fits(number: float) -> bool:
    return _SMALLEST <= number <= FLOAT16_MAX


def _power(node: ir.Node, index: int) -> float | None:
    """To which power a node raises the input of that index, 1 for a rearrangement; None if it does something else."""
    if node.op_type in _VIEWS and index == 0:
        return 1.0
    if node.op_type == "Sqrt":
        return 0.5
    if node.op_type == "Reciprocal":
        return -1.0
    if node.op_type == "Div" and index == 1 and constant(node.inputs[0]) is not None:
        return -1.0  # of a constant: its size is left out
    exponent = constant(node.inputs[1]) if node.op_type == "Pow" and index == 0 else None
    return float(exponent.item()) if exponent is not None and exponent.size == 1 else None


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
