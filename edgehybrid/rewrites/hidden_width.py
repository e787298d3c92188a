"""Widen awkward hidden layers with channels that stay out of every result."""

import math
from dataclasses import dataclass, field
from typing import TypeVar

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgehybrid.graph import PRODUCTS, Graph, constant, known_shape
from edgehybrid.graph.batch_norm import scale_and_shift
from edgehybrid.graph.structure import input_of, permutation, reduced_axes
from edgehybrid.rewrites.layer import Layer, layer_at, layer_into, set_constant
from edgehybrid.rewrites.pattern import is_op, resize, scalar

Scalar = TypeVar("Scalar", bound=np.generic)

GRANULE = 8
"""A width that is a multiple of this is left alone: CMT-XS gained nothing from more."""

STEP = 16
"""Widths are raised to a multiple of this: one AVX-512 register of float32, one int8 tensor-core tile."""

MAX_GROWTH = 1 / 8
"""More channels than this share of the width would cost more than alignment returns."""

UNARY = (
    *("Identity", "Erf", "Gelu", "Tanh", "Sigmoid", "Relu", "LeakyRelu", "Elu", "Celu", "Selu", "Softplus"),
    *("Softsign", "HardSigmoid", "HardSwish", "Mish", "Clip", "Abs", "Neg"),
)
"""Operators that turn one finite number into one finite number."""

BINARY = ("Add", "Sub", "Mul", "Div", "Pow")
POOLS = ("MaxPool", "AveragePool", "GlobalAveragePool", "GlobalMaxPool")


@dataclass
class Region:
    """Every tensor that shares one hidden channel axis, and the nodes around it."""

    width: int
    axes: dict[ir.Value, int] = field(default_factory=dict)  # tensor -> its channel axis, 0 or more
    sources: set[ir.Node] = field(default_factory=set)  # layers whose output has the axis
    sinks: set[ir.Node] = field(default_factory=set)  # layers whose input has it
    inner: set[ir.Node] = field(default_factory=set)  # depthwise, normalisation, pooling, pointwise, layout


def pad_hidden_width(graph: Graph) -> int:
    """A hidden width that is no multiple of 8 is raised to the next multiple of 16 with idle channels.

    Between dense layers W_1 and W_2 with depthwise, pointwise, pooling and normalisation steps f in between,
    W_2 f(W_1 x) = [W_2 0] f([W_1; 0] x): f keeps channels apart, an idle channel holds a finite number
    (0 in front of every convolution, whose idle filters, biases and normalisation gains are 0 as well), and
    W_2 multiplies it with 0. CMT-Ti's 165, 331, 662 and 1324 become 176, 336, 672 and 1328; depthwise
    convolutions of a width that is no multiple of the vector length miss ONNX Runtime's blocked kernels.
    Applies where a depthwise convolution lies in between and the width grows by no more than an eighth.

    Source: zero rows and columns change no product. Worth 1.21x on CMT-Ti@160 in ONNX Runtime 1.31, float32, one
    thread of an AMD EPYC with AVX-512 (benchmarks/rewrites.py).
    """
    sites = 0
    for node in tuple(graph.nodes(*PRODUCTS)):
        layer = layer_at(node)
        if layer is None or layer.groups > 1:
            continue
        width = len(layer.weight)
        wider = math.ceil(width / STEP) * STEP
        if width % GRANULE == 0 or wider - width > width * MAX_GROWTH:
            continue
        region = _find_region(layer)
        if region is not None:
            _widen(graph, region, wider)
            sites += 1
    return sites


def _find_region(layer: Layer) -> Region | None:
    """Spread from a layer's output over all tensors that must have the same width.

    Returns:
        None where an operator mixes channels in an unknown way, where the axis leaves the graph, where a
        weight is not finite, or where there is no depthwise convolution.
    """
    shape = known_shape(layer.output)
    if shape is None:
        return None
    region = Region(len(layer.weight))
    waiting = [(layer.output, layer.axis % len(shape))]
    while waiting:
        value, axis = waiting.pop()
        if value in region.axes:
            if region.axes[value] != axis:
                return None
            continue
        shape = known_shape(value)
        if shape is None or shape[axis] != region.width or value.is_graph_output() or value.producer() is None:
            return None
        region.axes[value] = axis
        for node in {value.producer(), *(u.node for u in value.uses())}:
            reached = _spread(region, node, value, axis)
            if reached is None:
                return None
            waiting += reached
    layers = [layer_at(n) for n in region.sources | region.sinks | region.inner]
    sound = all(np.isfinite(x.weight).all() for x in layers if x is not None)
    depthwise = any(is_op(n, "Conv") for n in region.inner)
    return region if sound and depthwise else None


def _spread(region: Region, node: ir.Node | None, value: ir.Value, axis: int) -> list[tuple[ir.Value, int]] | None:
    """Which other tensors of a node share the axis of this one; None if the node forbids another width."""
    if node is None or node.graph is not value.graph:
        return None
    made = layer_into(value)
    layer = made if made is not None and node is value.producer() else layer_at(node)
    if layer is not None:
        return _spread_layer(region, layer, value, axis)
    region.inner.add(node)
    if is_op(node, "BatchNormalization") and axis == 1 and scale_and_shift(node) is not None:
        return [(input_of(node, 0), 1), (node.outputs[0], 1)]
    if is_op(node, *POOLS) and axis == 1 and len(node.outputs) == 1:
        return [(input_of(node, 0), 1), (node.outputs[0], 1)]
    kept = is_op(node, "ReduceMean", "ReduceMax") and bool(node.attributes.get_int("keepdims", 1))
    if kept and axis not in reduced_axes(node):
        return [(input_of(node, 0), axis), (node.outputs[0], axis)]
    if is_op(node, *UNARY):
        return [(input_of(node, 0), axis), (node.outputs[0], axis)]
    if is_op(node, *BINARY):
        return _spread_binary(region, node, value, axis)
    if is_op(node, "Transpose", "Reshape"):
        return _spread_layout(node, value, axis)
    return None


def _spread_layer(region: Region, layer: Layer, value: ir.Value, axis: int) -> list[tuple[ir.Value, int]] | None:
    """A dense layer ends the region, a depthwise convolution continues it, any other is refused."""
    shape = known_shape(value)
    if shape is None or axis != layer.axis % len(shape) or (value is not layer.input and value is not layer.output):
        return None
    if layer.groups == 1:
        (region.sources if value is layer.output else region.sinks).add(layer.node)
        return []
    if layer.weight.shape[:2] == (region.width, 1) and layer.groups == region.width:
        region.inner.add(layer.node)
        return [(layer.input, 1), (layer.output, 1)]
    return None


def _spread_binary(region: Region, node: ir.Node, value: ir.Value, axis: int) -> list[tuple[ir.Value, int]] | None:
    """Pointwise operators broadcast from the right, so axes are compared from there.

    An idle channel must stay finite: divisors have to be constant, exponents a positive scalar.
    """
    shape, out = known_shape(value), known_shape(node.outputs[0])
    if shape is None or out is None:
        return None
    back = axis - len(shape)
    reached = [(node.outputs[0], len(out) + back)]
    for position, term in enumerate(node.inputs):
        term_shape = None if term is None else known_shape(term)
        if term is None or term_shape is None:
            return None
        fixed = constant(term) is not None
        if position == 1 and is_op(node, "Div") and (not fixed or 0 in np.asarray(constant(term))):
            return None
        if position == 1 and is_op(node, "Pow") and (scalar(term) or 0.0) <= 0:
            return None
        width = term_shape[back] if len(term_shape) >= -back else 1
        if width not in (1, region.width):
            return None
        if not fixed and width == region.width:
            reached.append((term, len(term_shape) + back))
    return reached


def _spread_layout(node: ir.Node, value: ir.Value, axis: int) -> list[tuple[ir.Value, int]] | None:
    """Transposes move the axis; reshapes keep it if they leave it whole."""
    source, result = input_of(node, 0), node.outputs[0]
    before, after = known_shape(source), known_shape(result)
    if before is None or after is None:
        return None
    if is_op(node, "Transpose"):
        order = permutation(node, len(before))
        pair = (axis, order.index(axis)) if value is source else (order[axis], axis)
        return [(source, pair[0]), (result, pair[1])]
    here, there = (before, after) if value is source else (after, before)
    other = next(
        (j for j in range(len(there)) if there[j] == here[axis] and math.prod(there[:j]) == math.prod(here[:axis])),
        None,
    )
    if other is None:
        return None
    pair = (axis, other) if value is source else (other, axis)
    return [(source, pair[0]), (result, pair[1])]


def _widen(graph: Graph, region: Region, width: int) -> None:
    """Give every tensor of the region `width` channels, the added ones idle."""
    extra = width - region.width
    for node in region.sources:
        _rewrite_layer(graph, node, extra, 0)
        resize(node.outputs[0], -1 if is_op(node, "MatMul", "Gemm") else 1, width)  # of a MatMul, before its bias
    for node in region.sinks:
        _rewrite_layer(graph, node, extra, 1)
    for value, axis in region.axes.items():
        resize(value, axis, width)
    for node in region.inner:
        if is_op(node, "Conv"):
            _rewrite_layer(graph, node, extra, 0)
            node.attributes.add(ir.AttrInt64("group", width))
        elif is_op(node, "BatchNormalization"):
            for index, fill in ((1, 0.0), (2, 0.0), (3, 0.0), (4, 1.0)):  # (x - 0) / sqrt(1 + eps) * 0 + 0
                _pad_constant(graph, node, index, 0, extra, fill)
        elif is_op(node, "Reshape"):
            shape = np.array(known_shape(node.outputs[0]), np.int64)
            set_constant(graph, node, 1, shape)
        elif is_op(node, *BINARY):
            back = region.axes[node.outputs[0]] - len(known_shape(node.outputs[0]) or ())
            for index, term in enumerate(node.inputs):
                array = constant(term)
                if array is not None and array.ndim >= -back and array.shape[back] == region.width:
                    _pad_constant(graph, node, index, back, extra, 1.0 if is_op(node, "Div") else 0.0)


def _rewrite_layer(graph: Graph, node: ir.Node, extra: int, axis: int) -> None:
    """Zero rows (axis 0, with zero biases) or zero columns (axis 1) for a layer."""
    layer = layer_at(node)
    if layer is None:
        raise ValueError(f"'{node.name}' is no layer")
    weight, bias = _grow(layer.weight, axis, extra), layer.bias
    layer.write(graph, weight, _grow(bias, 0, extra) if bias is not None and axis == 0 else bias)


def _pad_constant(graph: Graph, node: ir.Node, index: int, axis: int, extra: int, fill: float) -> None:
    """Lengthen one constant input of a node."""
    array = constant(node.inputs[index])
    if array is not None:
        set_constant(graph, node, index, _grow(array, axis, extra, fill))


def _grow(array: NDArray[Scalar], axis: int, extra: int, fill: float = 0.0) -> NDArray[Scalar]:
    """The array with `extra` more elements at the end of an axis."""
    widths = [(0, 0)] * array.ndim
    widths[axis] = (0, extra)
    return np.pad(array, widths, constant_values=fill)
