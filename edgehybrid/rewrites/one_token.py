"""Leave attention out where there is one token to attend to."""

import onnx_ir as ir

from edgehybrid.graph import Graph, constant, known_shape
from edgehybrid.graph.structure import input_of
from edgehybrid.rewrites.pattern import bypass, can_bypass, is_op


def take_only_value(graph: Graph) -> int:
    """The product of a softmax over one token and the values is the value.

    softmax(x) of one finite number x is 1, and 1 v = v. Queries, keys and whatever is added to the logits go, too.
    Small images get there: MobileViT's last stage has one token per patch position at 64 px, and TensorRT-RTX 1.7.1
    breaks off on its attention ("kqv_gemm_split.cpp: CHECK(0) failed"), also in float32 and where a simplifier left
    the ones.

    Source: the definition of the softmax.
    """
    sites = 0
    for node in tuple(graph.nodes("MatMul")):
        value = input_of(node, 1)
        same = known_shape(value) is not None and known_shape(value) == known_shape(node.outputs[0])
        if same and _are_ones(input_of(node, 0)) and can_bypass(node, value):
            bypass(graph, node, value)
            sites += 1
    return sites


def _are_ones(weights: ir.Value) -> bool:
    """Whether these are the weights of a sum over one token: (..., 1), all of them 1."""
    shape = known_shape(weights)
    if not shape or shape[-1] != 1:
        return False
    array, maker = constant(weights), weights.producer()
    if array is not None:
        return array.dtype.kind == "f" and bool((array == 1).all())
    return maker is not None and is_op(maker, "Softmax") and shape[maker.attributes.get_int("axis", -1)] == 1
