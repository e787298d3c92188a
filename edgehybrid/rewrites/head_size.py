"""Widen awkward attention heads with channels that stay out of every product."""

import math
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgehybrid.graph import Graph, known_shape
from edgehybrid.graph.structure import input_of, permutation
from edgehybrid.rewrites.attention import IsolatedAttention, find_isolated
from edgehybrid.rewrites.layer import Layer, layer_at, layer_into, set_constant
from edgehybrid.rewrites.pattern import is_op, only_user, resize

STEP = 8
"""Head sizes that a fused float16 attention takes are multiples of this."""

LEAST = 16
"""Smallest head that a fused attention takes: below it, alignment buys nothing."""

MAX_GROWTH = 1 / 8
"""More channels than this share of a head would cost more than alignment returns."""


@dataclass(frozen=True)
class HeadPath:
    """From a layer to a product of attention, or back: one Reshape that splits or joins heads, and transposes."""

    layer: Layer
    reshape: ir.Node
    values: tuple[tuple[ir.Value, int], ...]  # every tensor on the way with heads apart, and its axis of channels


def pad_head_size(graph: Graph) -> int:
    """A head size that is no multiple of 8 is raised to the next one with channels of zeros.

    [q 0] [k 0]^T = q k^T, and A [v 0] = [A v  0], whose zeros meet zero columns of the projection; the logits keep
    their factor 1 / sqrt(d) of the size before. CMT-Ti's 46 becomes 48, CMT-XS's 52 becomes 56, CMT-B's 76 becomes 80.
    Applies where q, k and v come from layers of their own, and the head grows by no more than an eighth.

    TensorRT-RTX 1.7 pads such heads itself to fuse their attention, with copies around it: CMT-Ti@160 in float16 has
    279 kernels with this and 317 without (benchmarks/kernels.py). In ONNX Runtime on a CPU it neither gains nor loses
    (0.997 [0.993, 1.003] of the time).

    Source: zero rows and columns change no product.
    """
    sites = 0
    for attention in find_isolated(graph):
        shape = known_shape(input_of(attention.logits, 0)) or (0,)
        size, wider = shape[-1], math.ceil(shape[-1] / STEP) * STEP
        if size < LEAST or size == wider or wider - size > size * MAX_GROWTH:
            continue
        paths = _find_paths(attention, size)
        if paths is None:
            continue
        for path in paths[:3]:
            _widen_rows(graph, path, size, wider)
        _widen_columns(graph, paths[3], size, wider)
        for path in paths:
            for value, axis in path.values:
                resize(value, axis, wider)
        sites += 1
    return sites


def _find_paths(attention: IsolatedAttention, size: int) -> list[HeadPath] | None:
    """The ways of q, k, v and of the context; None where one is not of the plain kind, or two share a layer."""
    ways = [
        _follow_back(input_of(attention.logits, 0), -1, size),
        _follow_back(input_of(attention.logits, 1), -2, size),
        _follow_back(input_of(attention.context, 1), -1, size),
        _follow_on(attention.context.outputs[0], size),
    ]
    paths = [way for way in ways if way is not None]
    return paths if len(paths) == 4 and len({path.layer.node for path in paths}) == 4 else None


def _follow_back(value: ir.Value, axis: int, size: int) -> HeadPath | None:
    """The layer that computes the heads of a tensor, which nothing else reads on the way.

    Args:
        value: What a product of attention reads.
        axis: Its axis of channels.
        size: Channels of a head.
    """
    shape = known_shape(value)
    if shape is None or shape[axis] != size:
        return None
    axis %= len(shape)
    values = [(value, axis)]
    node = value.producer()
    while is_op(node, "Transpose") and node is not None:
        axis = permutation(node, len(shape))[axis]
        value = input_of(node, 0)
        values.append((value, axis))
        node = value.producer()
    if not is_op(node, "Reshape") or node is None or any(only_user(tensor) is None for tensor, _ in values):
        return None
    layer = layer_into(input_of(node, 0))
    joined, apart = known_shape(input_of(node, 0)), known_shape(node.outputs[0])
    if layer is None or only_user(layer.output) is not node or not _splits(joined, apart, axis, layer):
        return None
    return HeadPath(layer, node, tuple(values))


def _follow_on(value: ir.Value, size: int) -> HeadPath | None:
    """The layer that reads the joined heads of a tensor, which nothing else reads on the way."""
    shape = known_shape(value)
    if shape is None or shape[-1] != size:
        return None
    axis = len(shape) - 1
    values = [(value, axis)]
    node = only_user(value)
    while is_op(node, "Transpose") and node is not None:
        axis = permutation(node, len(shape)).index(axis)
        value = node.outputs[0]
        values.append((value, axis))
        node = only_user(value)
    if not is_op(node, "Reshape") or node is None or node.inputs[0] is not value:
        return None
    layer = layer_at(only_user(node.outputs[0]))
    apart, joined = known_shape(value), known_shape(node.outputs[0])
    if layer is None or layer.input is not node.outputs[0] or not _splits(joined, apart, axis, layer):
        return None
    return HeadPath(layer, node, tuple(values))


def _splits(joined: tuple[int, ...] | None, apart: tuple[int, ...] | None, axis: int, layer: Layer) -> bool:
    """Whether a Reshape turns the channels of a product, its last axis, into heads times channels, and no more."""
    if joined is None or apart is None or len(apart) < 2 or layer.node.op_type == "Conv":
        return False
    return axis == len(apart) - 1 and joined[-1] == apart[-2] * apart[-1]


def _widen_rows(graph: Graph, path: HeadPath, size: int, wider: int) -> None:
    """Give each head of a layer's output more rows of zeros."""
    layer, apart = path.layer, list(known_shape(path.reshape.outputs[0]) or ())
    bias = None if layer.bias is None else _grow_heads(layer.bias[:, None], size, wider)[:, 0]
    layer.write(graph, _grow_heads(layer.weight, size, wider), bias)
    width = apart[-2] * wider
    for value in {layer.node.outputs[0], layer.output}:
        resize(value, -1, width)
    set_constant(graph, path.reshape, 1, np.array([*apart[:-1], wider], np.int64))


def _widen_columns(graph: Graph, path: HeadPath, size: int, wider: int) -> None:
    """Give each head of a layer's input more columns of zeros."""
    layer, joined = path.layer, list(known_shape(path.reshape.outputs[0]) or ())
    layer.write(graph, _grow_heads(layer.weight.T, size, wider).T, layer.bias)
    width = joined[-1] // size * wider
    set_constant(graph, path.reshape, 1, np.array([*joined[:-1], width], np.int64))
    resize(path.reshape.outputs[0], -1, width)


def _grow_heads(rows: NDArray[np.float64], size: int, wider: int) -> NDArray[np.float64]:
    """(heads * size, n) -> (heads * wider, n), zeros at the end of each head."""
    heads = rows.reshape(-1, size, rows.shape[1])
    return np.pad(heads, ((0, 0), (0, wider - size), (0, 0))).reshape(-1, rows.shape[1])
