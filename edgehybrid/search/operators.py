"""ONNX operators as torch computes them, so that a graph has gradients; those that vision networks are made of.

The graph itself is differentiated, not the module it was exported from: after the rewrites only the graph has the
layers, names and tensors that are quantized, and a user's ONNX file has no module at all.
"""

import math
from collections.abc import Callable, Sequence

import numpy as np
import onnx_ir as ir
import torch
from torch import Tensor
from torch.nn import functional

from edgehybrid.errors import GraphError

Inputs = Sequence[Tensor | None]
Operator = Callable[[ir.Node, Inputs], Sequence[Tensor]]


def _required(inputs: Inputs, index: int) -> Tensor:
    value = inputs[index]
    if value is None:
        raise ValueError(f"input {index} is missing")
    return value


def _ints(inputs: Inputs, index: int) -> list[int]:
    return [int(x) for x in _required(inputs, index).tolist()]


def _given(inputs: Inputs, index: int) -> bool:
    return len(inputs) > index and inputs[index] is not None


def _axes(node: ir.Node, inputs: Inputs, default: list[int]) -> list[int]:
    """`axes` as an input (newer opsets) or an attribute (older ones)."""
    if _given(inputs, 1):
        return _ints(inputs, 1)
    return _several(node, "axes", default)


def _several(node: ir.Node, name: str, default: list[int]) -> list[int]:
    """An attribute of several integers; an empty one counts as not given."""
    return list(node.attributes.get_ints(name, default) or default)


def refuse(node: ir.Node, why: str) -> GraphError:
    """What stands in the way of a gradient, by the name of its node."""
    return GraphError(
        f"no gradient through node '{node.name}' ({node.op_type})",
        why=why,
        fix="rank with --how designs, which only runs the network",
    )


def _unary(function: Callable[[Tensor], Tensor]) -> Operator:
    return lambda node, inputs: [function(_required(inputs, 0))]


def _binary(function: Callable[[Tensor, Tensor], Tensor]) -> Operator:
    return lambda node, inputs: [function(_required(inputs, 0), _required(inputs, 1))]


def _divide(a: Tensor, b: Tensor) -> Tensor:
    return a / b if a.is_floating_point() else torch.div(a, b, rounding_mode="trunc")


def _conv(node: ir.Node, inputs: Inputs) -> Sequence[Tensor]:
    x, weight = _required(inputs, 0), _required(inputs, 1)
    bias = inputs[2] if _given(inputs, 2) else None
    spatial = weight.ndim - 2
    if spatial not in (1, 2) or node.attributes.get_string("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        raise refuse(node, "only 1-d and 2-d convolutions with explicit padding are known")
    pads = _several(node, "pads", [0] * 2 * spatial)
    x = functional.pad(x, [p for i in reversed(range(spatial)) for p in (pads[i], pads[i + spatial])])
    function = functional.conv1d if spatial == 1 else functional.conv2d
    ones = [1] * spatial
    strides = _several(node, "strides", ones)
    dilations = _several(node, "dilations", ones)
    return [function(x, weight, bias, strides, 0, dilations, node.attributes.get_int("group", 1))]


def _conv_transpose(node: ir.Node, inputs: Inputs) -> Sequence[Tensor]:
    x, weight = _required(inputs, 0), _required(inputs, 1)
    bias = inputs[2] if _given(inputs, 2) else None
    sized = "output_shape" in node.attributes
    if weight.ndim != 4 or sized or node.attributes.get_string("auto_pad", "NOTSET") != "NOTSET":
        raise refuse(node, "only 2-d ones with explicit padding are known")
    strides, more, dilations = (
        _several(node, name, default)
        for name, default in (("strides", [1, 1]), ("output_padding", [0, 0]), ("dilations", [1, 1]))
    )
    groups = node.attributes.get_int("group", 1)
    whole = functional.conv_transpose2d(x, weight, bias, strides, 0, more, groups, dilations)
    top, left, bottom, right = _several(node, "pads", [0] * 4)
    return [whole[:, :, top : whole.shape[2] - bottom, left : whole.shape[3] - right]]


def _depth_to_space(node: ir.Node, inputs: Inputs) -> Sequence[Tensor]:
    if node.attributes.get_string("mode", "DCR") != "CRD":
        raise refuse(node, "only the order of channels of a pixel shuffle is known")
    return [functional.pixel_shuffle(_required(inputs, 0), node.attributes.get_int("blocksize", 1))]


def _prelu(node: ir.Node, inputs: Inputs) -> Sequence[Tensor]:
    x = _required(inputs, 0)
    return [torch.where(x < 0, x * _required(inputs, 1), x)]


def _gemm(node: ir.Node, inputs: Inputs) -> Sequence[Tensor]:
    a, b = _required(inputs, 0), _required(inputs, 1)
    a = a.T if node.attributes.get_int("transA", 0) else a
    b = b.T if node.attributes.get_int("transB", 0) else b
    result = node.attributes.get_float("alpha", 1.0) * (a @ b)
    if _given(inputs, 2):
        result = result + node.attributes.get_float("beta", 1.0) * _required(inputs, 2)
    return [result]


def _layer_norm(node: ir.Node, inputs: Inputs) -> Sequence[Tensor]:
    x = _required(inputs, 0)
    axis = node.attributes.get_int("axis", -1) % x.ndim
    epsilon = node.attributes.get_float("epsilon", 1e-5)
    shape = x.shape[axis:]
    bias = _required(inputs, 2).expand(shape) if _given(inputs, 2) else None
    return [functional.layer_norm(x, shape, _required(inputs, 1).expand(shape), bias, epsilon)]


def _batch_norm(node: ir.Node, inputs: Inputs) -> Sequence[Tensor]:
    x, scale, bias, mean, variance = (_required(inputs, i) for i in range(5))
    return [functional.batch_norm(x, mean, variance, scale, bias, eps=node.attributes.get_float("epsilon", 1e-5))]


def _instance_norm(node: ir.Node, inputs: Inputs) -> Sequence[Tensor]:
    x, scale, bias = (_required(inputs, i) for i in range(3))
    return [functional.instance_norm(x, weight=scale, bias=bias, eps=node.attributes.get_float("epsilon", 1e-5))]


def _reshape(node: ir.Node, inputs: Inputs) -> Sequence[Tensor]:
    x = _required(inputs, 0)
    shape = _ints(inputs, 1)
    keep = not node.attributes.get_int("allowzero", 0)
    return [x.reshape([x.shape[i] if size == 0 and keep else size for i, size in enumerate(shape)])]


def _transpose(node: ir.Node, inputs: Inputs) -> Sequence[Tensor]:
    x = _required(inputs, 0)
    order = list(range(x.ndim))[::-1]
    return [x.permute(_several(node, "perm", order))]


def _flatten(node: ir.Node, inputs: Inputs) -> Sequence[Tensor]:
    x = _required(inputs, 0)
    axis = node.attributes.get_int("axis", 1) % (x.ndim + 1)
    return [x.reshape(int(np.prod(x.shape[:axis])), -1)]


def _split(node: ir.Node, inputs: Inputs) -> Sequence[Tensor]:
    x = _required(inputs, 0)
    axis = node.attributes.get_int("axis", 0)
    sizes = _ints(inputs, 1) if _given(inputs, 1) else _several(node, "split", [])
    each = -(-x.shape[axis] // len(node.outputs))
    return list(torch.split(x, sizes or each, dim=axis))


def _slice(node: ir.Node, inputs: Inputs) -> Sequence[Tensor]:
    x = _required(inputs, 0)
    starts, ends = _ints(inputs, 1), _ints(inputs, 2)
    axes = _ints(inputs, 3) if _given(inputs, 3) else list(range(len(starts)))
    steps = _ints(inputs, 4) if _given(inputs, 4) else [1] * len(starts)
    for axis, start, end, step in zip(axes, starts, ends, steps, strict=True):
        chosen = range(x.shape[axis])[start:end:step]
        x = torch.index_select(x, axis, torch.tensor(list(chosen), dtype=torch.long))
    return [x]


def _gather(node: ir.Node, inputs: Inputs) -> Sequence[Tensor]:
    x, index = _required(inputs, 0), _required(inputs, 1).long()
    axis = node.attributes.get_int("axis", 0) % x.ndim
    index = torch.where(index < 0, index + x.shape[axis], index)
    picked = torch.index_select(x, axis, index.reshape(-1))
    return [picked.reshape(*x.shape[:axis], *index.shape, *x.shape[axis + 1 :])]


def _concat(node: ir.Node, inputs: Inputs) -> Sequence[Tensor]:
    return [torch.cat([_required(inputs, i) for i in range(len(inputs))], dim=node.attributes.get_int("axis", 0))]


def _expand(node: ir.Node, inputs: Inputs) -> Sequence[Tensor]:
    x = _required(inputs, 0)
    shape = torch.broadcast_shapes(x.shape, _ints(inputs, 1))  # type: ignore[no-untyped-call]
    return [x.expand(shape)]


def _squeeze(node: ir.Node, inputs: Inputs) -> Sequence[Tensor]:
    x = _required(inputs, 0)
    ones = [i for i, size in enumerate(x.shape) if size == 1]
    axes = {a % x.ndim for a in _axes(node, inputs, ones)}
    return [x.reshape([size for i, size in enumerate(x.shape) if i not in axes])]


def _unsqueeze(node: ir.Node, inputs: Inputs) -> Sequence[Tensor]:
    x = _required(inputs, 0)
    axes = _axes(node, inputs, [])
    for axis in sorted(a % (x.ndim + len(axes)) for a in axes):
        x = x.unsqueeze(axis)
    return [x]


def _reduce(function: Callable[[Tensor, list[int], bool], Tensor]) -> Operator:
    def reduce(node: ir.Node, inputs: Inputs) -> Sequence[Tensor]:
        x = _required(inputs, 0)
        axes = _axes(node, inputs, list(range(x.ndim)))
        return [function(x, axes, bool(node.attributes.get_int("keepdims", 1)))]

    return reduce


def _pad(node: ir.Node, inputs: Inputs) -> Sequence[Tensor]:
    x, pads = _required(inputs, 0), _ints(inputs, 1)
    mode = node.attributes.get_string("mode", "constant")
    if mode != "constant" or _given(inputs, 3):
        raise refuse(node, f"padding of mode '{mode}' is not known")
    fill = float(_required(inputs, 2)) if _given(inputs, 2) else 0.0
    return [functional.pad(x, [p for i in reversed(range(x.ndim)) for p in (pads[i], pads[i + x.ndim])], value=fill)]


def _max_pool(node: ir.Node, inputs: Inputs) -> Sequence[Tensor]:
    kernel, strides, pads = _window(node)
    dilations = _several(node, "dilations", [1, 1])
    if pads[:2] != pads[2:] or len(node.outputs) > 1:
        raise refuse(node, "only pooling with symmetric padding and one output is known")
    rounding, x = bool(node.attributes.get_int("ceil_mode", 0)), _required(inputs, 0)
    if any(2 * pad > side for pad, side in zip(pads, kernel, strict=False)) and not rounding:  # torch pads no more
        top, left, bottom, right = pads
        x, pads = functional.pad(x, [left, right, top, bottom], value=-math.inf), [0] * 4
    return [functional.max_pool2d(x, kernel, strides, pads[:2], dilations, rounding)]


def _average_pool(node: ir.Node, inputs: Inputs) -> Sequence[Tensor]:
    kernel, strides, pads = _window(node)
    if pads[:2] != pads[2:]:
        raise refuse(node, "only pooling with symmetric padding is known")
    rounding, included = (bool(node.attributes.get_int(name, 0)) for name in ("ceil_mode", "count_include_pad"))
    return [functional.avg_pool2d(_required(inputs, 0), kernel, strides, pads[:2], rounding, included)]


def _window(node: ir.Node) -> tuple[list[int], list[int], list[int]]:
    kernel = _several(node, "kernel_shape", [])
    if len(kernel) != 2 or node.attributes.get_string("auto_pad", "NOTSET") not in ("NOTSET", "VALID"):
        raise refuse(node, "only 2-d pooling with explicit padding is known")
    strides = _several(node, "strides", [1, 1])
    return kernel, strides, _several(node, "pads", [0] * 4)


def _resize(node: ir.Node, inputs: Inputs) -> Sequence[Tensor]:
    x = _required(inputs, 0)
    mode = node.attributes.get_string("mode", "nearest")
    frame = node.attributes.get_string("coordinate_transformation_mode", "half_pixel")
    rounding = node.attributes.get_string("nearest_mode", "round_prefer_floor")
    if _given(inputs, 3):
        size = _ints(inputs, 3)[2:]
    else:
        size = [int(s * f) for s, f in zip(x.shape[2:], _required(inputs, 2).tolist()[2:], strict=True)]
    if mode == "nearest" and frame == "asymmetric" and rounding == "floor":
        return [functional.interpolate(x, size, mode="nearest")]
    if mode == "linear" and frame in ("half_pixel", "pytorch_half_pixel", "align_corners"):
        return [functional.interpolate(x, size, mode="bilinear", align_corners=frame == "align_corners")]
    raise refuse(node, f"resizing '{mode}', '{frame}', '{rounding}' is not known")


def _gelu(node: ir.Node, inputs: Inputs) -> Sequence[Tensor]:
    return [functional.gelu(_required(inputs, 0), approximate=node.attributes.get_string("approximate", "none") or "")]


def _clip(node: ir.Node, inputs: Inputs) -> Sequence[Tensor]:
    low = _required(inputs, 1) if _given(inputs, 1) else None
    high = _required(inputs, 2) if _given(inputs, 2) else None
    x = _required(inputs, 0)
    return [x if low is None and high is None else torch.clamp(x, low, high)]


def _hard_sigmoid(node: ir.Node, inputs: Inputs) -> Sequence[Tensor]:
    alpha, beta = node.attributes.get_float("alpha", 0.2), node.attributes.get_float("beta", 0.5)
    return [torch.clamp(_required(inputs, 0) * alpha + beta, 0, 1)]


def _cast(node: ir.Node, inputs: Inputs) -> Sequence[Tensor]:
    kind = ir.DataType(node.attributes.get_int("to", 1)).numpy()
    return [_required(inputs, 0).to(torch.from_numpy(np.zeros(1, kind)).dtype)]


OPERATORS: dict[str, Operator] = {
    "Abs": _unary(torch.abs),
    "Add": _binary(torch.add),
    "AveragePool": _average_pool,
    "BatchNormalization": _batch_norm,
    "Cast": _cast,
    "Clip": _clip,
    "Concat": _concat,
    "Conv": _conv,
    "ConvTranspose": _conv_transpose,
    "DepthToSpace": _depth_to_space,
    "Div": _binary(_divide),
    "Dropout": lambda node, inputs: [_required(inputs, 0)],
    "Elu": lambda node, inputs: [functional.elu(_required(inputs, 0), node.attributes.get_float("alpha", 1.0))],
    "Erf": _unary(torch.erf),
    "Exp": _unary(torch.exp),
    "Expand": _expand,
    "Flatten": _flatten,
    "Gather": _gather,
    "Gelu": _gelu,
    "Gemm": _gemm,
    "GlobalAveragePool": _unary(lambda x: x.mean(dim=tuple(range(2, x.ndim)), keepdim=True)),
    "HardSigmoid": _hard_sigmoid,
    "HardSwish": _unary(functional.hardswish),
    "Identity": lambda node, inputs: [_required(inputs, 0)],
    "InstanceNormalization": _instance_norm,
    "LayerNormalization": _layer_norm,
    "LeakyRelu": lambda node, inputs: [
        functional.leaky_relu(_required(inputs, 0), node.attributes.get_float("alpha", 0.01))
    ],
    "MatMul": _binary(torch.matmul),
    "MaxPool": _max_pool,
    "Mish": _unary(functional.mish),
    "Mul": _binary(torch.mul),
    "Neg": _unary(torch.neg),
    "Pad": _pad,
    "Pow": _binary(torch.pow),
    "PRelu": _prelu,
    "Reciprocal": _unary(torch.reciprocal),
    "ReduceMax": _reduce(lambda x, axes, keep: torch.amax(x, axes, keep)),
    "ReduceMean": _reduce(lambda x, axes, keep: torch.mean(x, axes, keep)),
    "ReduceSum": _reduce(lambda x, axes, keep: torch.sum(x, axes, keep)),
    "Relu": _unary(torch.relu),
    "Reshape": _reshape,
    "Resize": _resize,
    "Sigmoid": _unary(torch.sigmoid),
    "Slice": _slice,
    "Softmax": lambda node, inputs: [torch.softmax(_required(inputs, 0), node.attributes.get_int("axis", -1))],
    "Softplus": _unary(functional.softplus),
    "Split": _split,
    "Sqrt": _unary(torch.sqrt),
    "Squeeze": _squeeze,
    "Sub": _binary(torch.sub),
    "Tanh": _unary(torch.tanh),
    "Transpose": _transpose,
    "Unsqueeze": _unsqueeze,
    "Where": lambda node, inputs: [torch.where(_required(inputs, 0), _required(inputs, 1), _required(inputs, 2))],
}
"""Operator -> its outputs from its node and inputs."""
