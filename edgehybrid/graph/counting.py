"""Count weights, and multiply-accumulates as papers do."""

import math

import onnx_ir as ir

from edgehybrid.graph import PRODUCTS, Graph, constants, shape_of
from edgehybrid.graph.structure import input_of

COUNTED = (*PRODUCTS, "ConvTranspose")
"""Operators whose multiply-accumulates are counted; Einsum is not."""


def count_params(graph: Graph) -> int:
    """Number of float weights."""
    return sum(array.size for array in constants(graph) if array.dtype.kind == "f")


def count_macs(graph: Graph) -> int:
    """Multiply-accumulates of one image, of all that are `COUNTED`."""
    return sum(macs_of(node) for node in graph.nodes(*COUNTED)) // shape_of(graph.input)[0]


def macs_of(node: ir.Node) -> int:
    """Multiply-accumulates of one that is `COUNTED`, for all images of a call.

    Raises:
        GraphError: An operand is missing, or a shape not static.
    """
    first, second = shape_of(input_of(node, 0)), shape_of(input_of(node, 1))
    if node.op_type == "ConvTranspose":
        return math.prod(first) * math.prod(second[1:])
    out = math.prod(shape_of(node.outputs[0]))
    if node.op_type == "Conv":
        return out * math.prod(second[1:])
    flipped = node.op_type == "Gemm" and bool(node.attributes.get_int("transA", 0))
    return out * first[0 if flipped else -1]
