"""Count weights, and multiply-accumulates as papers do."""

import math
from collections.abc import Iterator

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgehybrid.graph import PRODUCTS, Graph, constant, shape_of
from edgehybrid.graph.structure import input_of

COUNTED = (*PRODUCTS, "ConvTranspose")
"""Operators whose multiply-accumulates are counted; Einsum is not."""


def count_params(graph: Graph) -> int:
    """Number of float weights."""
    return sum(array.size for array in _constants(graph) if array.dtype.kind == "f")


def _constants(graph: Graph) -> Iterator[NDArray[np.generic]]:
    """The arrays of initializers, and of Constant nodes, in which some exporters keep weights."""
    made = (node.outputs[0] for node in graph.nodes("Constant"))
    for value in (*graph.body.initializers.values(), *made):
        if (array := constant(value)) is not None:
            yield array


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
