"""Compute queries, keys and values of attention in one product where they come from one tensor."""

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from edgehybrid.graph import Graph, add_constant, known_shape, name_of
from edgehybrid.graph.structure import input_of
from edgehybrid.rewrites.attention import find_isolated
from edgehybrid.rewrites.layer import Layer
from edgehybrid.rewrites.pattern import is_op, joint_name, replace
from edgehybrid.rewrites.trace import origin


def merge_key_value(graph: Graph) -> int:
    """The linear layers that compute q, k and v from the same tensor become one, whose output is split.

    [W_q; W_k; W_v] x + [b_q; b_k; b_v] = [W_q x + b_q; W_k x + b_k; W_v x + b_v]: the same products, read from one
    matrix; a missing bias is one of zeros. Where queries come from another tensor, as in CMT, k and v alone. On
    CMT-Ti@160 it neither gains nor loses more than the measurement's own error of 1 % in ONNX Runtime (CPU), nor does
    it change the number of kernels in a TensorRT-RTX engine, which merges them itself.

    Source: rows of a matrix product are independent.
    """
    sites = 0
    for attention in find_isolated(graph):
        places = (attention.logits, 0), (attention.logits, 1), (attention.context, 1)
        found = (origin(input_of(node, index)) for node, index in places)
        query, key, value = (None if o is None else o.layer for o in found)
        if key is None or value is None or not _can_merge(key, value):
            continue
        layers = [key, value]
        if query is not None and _can_merge(query, key) and query.node is not value.node:
            layers.insert(0, query)
        _merge(graph, layers)
        sites += 1
    return sites


def _can_merge(first: Layer, second: Layer) -> bool:
    """Whether both are plain products of the same tensor, written in the same way."""
    return (
        is_op(first.node, "Gemm", "MatMul")
        and first.node is not second.node
        and first.node.op_type == second.node.op_type
        and first.input is second.input
        and known_shape(first.output) is not None
        and bool(np.isfinite(first.weight).all() and np.isfinite(second.weight).all())
    )


def _merge(graph: Graph, layers: Sequence[Layer]) -> None:
    """Let the node of the first layer, of one with a bias if there is any, compute all, and split what it computes."""
    layers = sorted(layers, key=lambda layer: layer.bias is None)
    keeper, widths = layers[0], [len(layer.weight) for layer in layers]
    both = keeper.output
    names = [layer.node.name or layer.node.op_type for layer in layers]
    keeper.node.name = joint_name(*names)
    parts = [
        ir.Value(name=f"{name_of(old.output)}_part", shape=old.output.shape, type=old.output.type) for old in layers
    ]
    bias = None
    if keeper.bias is not None:
        vectors = [np.zeros(len(old.weight)) if old.bias is None else old.bias for old in layers]
        bias = np.concatenate(vectors)
    keeper.write(graph, np.concatenate([old.weight for old in layers]), bias)
    for tensor in {keeper.node.outputs[0], both}:
        tensor.shape = ir.Shape([*(known_shape(tensor) or ())[:-1], sum(widths)])
    sizes = add_constant(graph, f"{name_of(both)}_widths", np.array(widths, np.int64))
    split = ir.node("Split", [both, sizes], {"axis": -1}, outputs=parts, name=f"{keeper.node.name}.split")
    graph.body.insert_after(keeper.add or keeper.node, split)
    replace(both, parts[0])
    split.replace_input_with(0, both)
    for old, part in zip(layers[1:], parts[1:], strict=True):
        replace(old.output, part)
        for node in (old.add, old.node):
            if node is not None:
                graph.body.remove(node, safe=True)
