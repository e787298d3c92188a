"""Write the borders of convolutions and pools as numbers, which TensorFlow's exporters leave to a rule (`auto_pad`)."""

import onnx_ir as ir

from edgehybrid.graph import Graph, known_shape
from edgehybrid.graph.structure import input_of

_PADDED = ("Conv", "MaxPool", "AveragePool", "LpPool")
_HAS_CEIL_MODE = {"MaxPool", "AveragePool", "LpPool"}


def write_pads(graph: Graph) -> int:
    """Replace `auto_pad` by the `pads` that it stands for, in place, so that everything after reads one form.

    SAME gives an output of ceil(side / stride); an odd border has its larger half at the end (SAME_UPPER) or at the
    start (SAME_LOWER).

    Args:
        graph: A node whose input has no known shape keeps its `auto_pad`, and so do the two kinds on which runtimes
            do not agree: strides larger than the kernel, where the rule would crop, and dilations.

    Returns:
        How many nodes were changed.

    Source:
        https://onnx.ai/onnx/operators/onnx__Conv.html
    """
    sites = 0
    for node in graph.nodes(*_PADDED):
        rule = node.attributes.get_string("auto_pad", "NOTSET")
        pads = None if rule == "NOTSET" else _pads(node, rule)
        if pads is None:
            continue
        del node.attributes["auto_pad"]
        node.attributes["pads"] = ir.AttrInt64s("pads", pads)
        if node.op_type in _HAS_CEIL_MODE and rule != "VALID":
            node.attributes.pop("ceil_mode", None)  # SAME has said how large the output is
        sites += 1
    return sites


def _pads(node: ir.Node, rule: str) -> list[int] | None:
    """Zeros before every axis, then after every axis; None where the rule stays."""
    read = known_shape(input_of(node, 0))
    weight = known_shape(input_of(node, 1)) if node.op_type == "Conv" else None
    kernel = tuple(node.attributes.get_ints("kernel_shape", ())) or (weight[2:] if weight else ())
    if not kernel or (read is None and rule != "VALID"):
        return None
    if read is None or rule == "VALID":
        return [0] * (2 * len(kernel))
    strides = node.attributes.get_ints("strides", (1,) * len(kernel))
    totals = [
        (-(-side // stride) - 1) * stride + size - side
        for side, size, stride in zip(read[2:], kernel, strides, strict=True)
    ]
    if min(totals) < 0 or set(node.attributes.get_ints("dilations", ())) - {1}:
        return None
    less, more = [total // 2 for total in totals], [(total + 1) // 2 for total in totals]
    return less + more if rule == "SAME_UPPER" else more + less
