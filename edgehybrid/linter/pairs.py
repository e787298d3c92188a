"""The rules about what is written: types, scales, zero points, operators and constants.

`error` means that TensorRT refuses the file or computes something else. What TensorRT-RTX 1.7.1 says to each was
tried; where it is more lenient than the documents of the full TensorRT, the rule warns. "NvInfer.h" is its header.
"""

from collections.abc import Iterator

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from edgehybrid.graph import MAX_OPSET, constant, label_nodes
from edgehybrid.graph.half import FLOAT16_MAX
from edgehybrid.graph.structure import input_of, weight_index
from edgehybrid.linter.carriers import axis_of, same_numbers
from edgehybrid.linter.moves import axis_after, inputs_back, quantizer_of
from edgehybrid.linter.view import Rule, Site, View, dims

_INTEGER_OPS = {"QLinearConv", "QLinearMatMul", "ConvInteger", "MatMulInteger", "DynamicQuantizeLinear"}
_OTHER_TYPES = {"FLOAT8E4M3FN", "INT4", "FLOAT4E2M1"}
"""Types of other schemes that newer releases take; no rule here is about them."""

_LEAST_SCALE = 2.0**-15
"""Below, float16 has no finite reciprocal of the scale and fewer than 10 bits for it."""

_LEAST_WEIGHT_SCALE = 2.0**-20
"""Nothing is divided by the scale of a weight; below, float16 has fewer than 4 bits for it."""

_FLOAT16_INFINITE = 65520.0
"""From here on, float16 rounds to infinity."""

_FLOAT16_LEAST = 2.0**-25
"""At and below, float16 rounds to zero."""

_MASKED = {"Add", "Where", "Max", "Min", "Clip", "Expand", "Pad"}
"""Operators whose infinite constants are meant."""


def _integer_operators(view: View) -> Iterator[Site]:
    for node, name in label_nodes(view.graph).items():
        if node.op_type in _INTEGER_OPS:
            yield name, f"{node.op_type} computes in integers itself"


def _unknown_operators(view: View) -> Iterator[Site]:
    """TensorRT's parser ignores the domain: a Gelu of any domain is taken, a name it does not know needs a plugin."""
    for node, name in label_nodes(view.graph).items():
        if not onnx.defs.has(node.op_type, MAX_OPSET, "") and node.op_type not in _INTEGER_OPS:
            yield name, f"{node.domain or 'ai.onnx'}.{node.op_type} is no operator of the ONNX standard"


def _not_int8(view: View) -> Iterator[Site]:
    for carrier in view.carriers:
        kind = None if carrier.dtype is None else carrier.dtype.name
        if kind is not None and kind not in ("INT8", "INT32", *_OTHER_TYPES):
            note = ": read as int8, so levels above 127 change their value" if kind == "UINT8" else ""
            yield carrier.name, f"'{carrier.tensor}' is quantized to {kind.lower()}{note}"


def _zero_points(view: View) -> Iterator[Site]:
    for carrier in view.carriers:
        if carrier.zero is not None and carrier.zero.astype(np.float64).any():
            first = carrier.zero.reshape(-1)[np.flatnonzero(carrier.zero)[0]]
            yield carrier.name, f"'{carrier.tensor}' has zero point {first}"


def _biases(view: View) -> Iterator[Site]:
    for carrier in view.carriers:
        if carrier.dtype == ir.DataType.INT32:
            yield carrier.name, f"'{carrier.tensor}' is int32"


def _scale_values(view: View) -> Iterator[Site]:
    for carrier in view.carriers:
        if carrier.scale is not None and (wrong := _illegal(carrier.scale)).size:
            found = f"scale {wrong[0]:g} ({wrong.size} of {carrier.scale.size} scales)"
            yield carrier.name, f"'{carrier.tensor}' has {found}"


def _illegal(scale: NDArray[np.generic]) -> NDArray[np.float64]:
    """The scales that are not positive and finite."""
    numbers = scale.reshape(-1).astype(np.float64)
    return numbers[~(np.isfinite(numbers) & (numbers > 0))]


def _scale_lengths(view: View) -> Iterator[Site]:
    for carrier in view.carriers:
        shape = dims(carrier.node.inputs[0])
        if carrier.scale is None or carrier.scale.ndim != 1 or carrier.scale.size == 1 or shape is None:
            continue
        if not -len(shape) <= carrier.axis < len(shape):
            yield carrier.name, f"axis {carrier.axis} is outside the {len(shape)} dimensions of '{carrier.tensor}'"
        elif shape[carrier.axis] != carrier.scale.size:
            found = f"{carrier.scale.size} scales along axis {carrier.axis} of length {shape[carrier.axis]}"
            yield carrier.name, f"'{carrier.tensor}' has {found}"


def _scale_types(view: View) -> Iterator[Site]:
    names = label_nodes(view.graph)
    for carrier in view.carriers:
        value = carrier.node.inputs[0]
        if carrier.node.op_type == "QuantizeLinear" and carrier.scale is not None and value is not None:
            kind, scale = value.dtype, ir.DataType.from_numpy(carrier.scale.dtype)
            if kind is not None and kind != scale:
                yield carrier.name, f"'{carrier.tensor}' is {kind.name.lower()}, its scale {scale.name.lower()}"
    for node in view.graph.nodes("Conv", "ConvTranspose", "Gemm", "MatMul"):
        kinds = {_float_type(value) for value in node.inputs[:2]} - {None}
        if len(kinds) > 1:
            yield names[node], f"{node.op_type} reads {' and '.join(sorted(str(kind) for kind in kinds))}"


def _float_type(value: ir.Value | None) -> str | None:
    """Type of a value; of a dequantized one that of its scale, whatever an older opset infers."""
    if value is None:
        return None
    maker = value.producer()
    if maker is not None and maker.op_type == "DequantizeLinear":
        scale = constant(maker.inputs[1])
        return None if scale is None else str(scale.dtype)
    return None if value.dtype is None else str(value.dtype.numpy())


def _opsets(view: View) -> Iterator[Site]:
    halves = [c for c in view.carriers if c.scale is not None and c.scale.dtype == np.float16]
    if halves and view.graph.opset < 19:
        yield halves[0].name, f"scales are float16 in opset {view.graph.opset} ({len(halves)} of them)"


def _mixed_types(view: View) -> Iterator[Site]:
    """Float32 scales inside a float16 graph: those operators compute in float32."""
    kinds = [(c, c.scale.dtype) for c in view.carriers if c.scale is not None and c.dtype != ir.DataType.INT32]
    singles = [c for c, kind in kinds if kind == np.float32]
    if len(singles) < len(kinds):
        for carrier in singles:
            yield carrier.name, f"'{carrier.tensor}' has a float32 scale, other scales of this graph are float16"


def _channel_activations(view: View) -> Iterator[Site]:
    for carrier in view.carriers:
        if not carrier.weight and carrier.scale is not None and carrier.scale.size > 1:
            yield carrier.name, f"'{carrier.tensor}' has {carrier.scale.size} scales along axis {carrier.axis}"


def _computed_scales(view: View) -> Iterator[Site]:
    for carrier in view.carriers:
        if carrier.scale is None:
            yield carrier.name, f"the scale of '{carrier.tensor}' is computed"


def _small_scales(view: View) -> Iterator[Site]:
    for carrier in view.carriers:
        if carrier.scale is None or carrier.scale.dtype != np.float16:
            continue
        scale = carrier.scale.astype(np.float64)
        least = _LEAST_WEIGHT_SCALE if carrier.weight else _LEAST_SCALE
        small = scale[(scale > 0) & (scale < least)]
        if small.size:
            yield carrier.name, f"'{carrier.tensor}' has a float16 scale of {small.min():.3g} ({small.size} such)"


def _mismatches(view: View) -> Iterator[Site]:
    names = label_nodes(view.graph)
    for node in view.graph.nodes("DequantizeLinear"):
        quantizer = quantizer_of(node)
        into, out = (None if each is None else constant(each.inputs[1]) for each in (quantizer, node))
        if quantizer is None or into is None or out is None or _illegal(into).size or _illegal(out).size:
            continue
        if not same_numbers(into, out) or (into.size > 1 and not _shares_axis(node, quantizer)):
            yield names[node], "its scale is not that of its QuantizeLinear, so the pair rescales the tensor"


def _shares_axis(node: ir.Node, quantizer: ir.Node) -> bool:
    """Whether the scales of a pair lie along one axis, which operators between the two may have moved."""
    moves = [mover for mover, _ in inputs_back(node, 0)][:0:-1]
    moved, shape = axis_after(axis_of(quantizer), moves), dims(node.inputs[0])
    return moved is None or not shape or moved % len(shape) == axis_of(node) % len(shape)


def _ranges(view: View) -> Iterator[Site]:
    """Constants and quantized tensors that float16 cannot hold, where a build may choose float16 or has to."""
    values = [v for node in view.graph.nodes() for v in node.inputs]
    typed = any(v is not None and v.dtype == ir.DataType.FLOAT16 for v in values)
    judged = {np.dtype(np.float16)} if typed else {np.dtype(np.float16), np.dtype(np.float32)}
    for node, name in label_nodes(view.graph).items():
        if node.op_type in ("QuantizeLinear", "DequantizeLinear", "Constant", "Resize", "Cast"):
            continue
        for value in node.inputs:
            array = constant(value)
            if value is None or array is None or array.dtype not in judged or not array.size:
                continue  # in a strongly typed graph float32 stays float32
            text = _range_text(array.astype(np.float32), masked=node.op_type in _MASKED)
            if text:
                yield name, f"'{value.name}' {text}"
    for carrier in view.carriers:
        if carrier.scale is None or carrier.scale.dtype not in judged or carrier.dtype != ir.DataType.INT8:
            continue
        scale = carrier.scale.astype(np.float64)
        reach = 127 * scale[np.isfinite(scale)].max(initial=0)
        if reach >= _FLOAT16_INFINITE:
            yield carrier.name, f"level 127 of '{carrier.tensor}' is {reach:.4g}, float16 ends at {FLOAT16_MAX:.0f}"


def _range_text(array: NDArray[np.float32], *, masked: bool) -> str:
    sizes = np.abs(array)
    finite = sizes[np.isfinite(sizes)]
    if np.isnan(sizes).any():
        return "holds NaN"
    if finite.size < sizes.size and not masked:
        return "holds infinity"
    if finite.max(initial=0) > FLOAT16_MAX:
        return f"reaches {finite.max():.4g}, float16 ends at {FLOAT16_MAX:.0f}"
    if array.size == 1 and 0 < sizes.max() <= _FLOAT16_LEAST:
        return f"is {sizes.max():.3g}, which float16 rounds to zero"
    return ""


def _lost_bounds(view: View) -> Iterator[Site]:
    """Clips between 0 and a bound behind a product of tokens and its bias."""
    for clip in view.bare.nodes("Clip"):
        least, most = (constant(v) for v in (*clip.inputs[1:3], None, None)[:2])
        before = clip.inputs[0]
        maker = None if before is None else before.producer()
        if maker is not None and maker.op_type == "Add" and (place := weight_index(maker)) >= 0:
            maker = input_of(maker, 1 - place).producer()
        if maker is None or maker.op_type not in ("MatMul", "Gemm"):
            continue
        if least is not None and most is not None and not least.any() and np.isfinite(most).all():
            yield view.label(clip), f"a Clip between 0 and {float(most.max()):.4g} behind {maker.op_type}"


def _open_shapes(view: View) -> Iterator[Site]:
    for value in view.graph.body.inputs:
        if dims(value) is None:
            yield str(value.name), f"input '{value.name}' has shape {value.shape}"


def _bodies(view: View) -> Iterator[Site]:
    for node, name in label_nodes(view.graph).items():
        if any(a.type in (ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS) for a in node.attributes.values()):
            yield name, f"the rules do not look inside {node.op_type}"


PAIR_RULES: tuple[Rule, ...] = (
    # TensorRT's operators.md lists none of the five as supported.
    Rule("integer-operator", "error", "quantize again with QuantizeLinear and DequantizeLinear around float operators "
         "(ONNX Runtime: quant_format=QuantFormat.QDQ)", _integer_operators),
    Rule("unknown-operator", "error", "export and quantize with graph optimisation off, or load a plugin of that name",
         _unknown_operators),
    # uint8: "Defaulting to INT8 instead"; int16: "unsupported datatype".
    Rule("not-int8", "error", "quantize to signed int8 (ONNX Runtime: activation_type and weight_type QInt8); a "
         "QuantizeLinear without zero point writes uint8, so give it an int8 zero", _not_int8),
    # "Assertion failed: shiftIsAllZeros(zeroPoint): Non-zero zero point is not supported"
    Rule("zero-point", "error", "quantize symmetrically (ONNX Runtime: extra_options ActivationSymmetric and "
         "WeightSymmetric)", _zero_points),
    # "input has type Int32 but must have type FP8, FP4, Int4, Int8, or UInt8"
    Rule("int32-bias", "error", "leave the bias in float: it is added to the 32-bit sums (ONNX Runtime: extra_options "
         "QuantizeBias False)", _biases),
    # "Scale coefficients must all be positive"; an infinite one is taken and makes NaN.
    Rule("scale-value", "error", "calibrate again; a tensor that is always zero still needs a small positive scale",
         _scale_values),
    # "The number of scales is not equal to the number of output channels"
    Rule("scale-length", "error", "write one scale, or one per channel along `axis`", _scale_lengths),
    # "`input` and `kernel` must be of same type"; NvInfer.h asks the scale for the type of the input.
    Rule("scale-type", "error", "give every scale the type of the tensor that it quantizes, and both operands one type",
         _scale_types),
    Rule("opset", "warning", "convert to opset 19, the first whose QuantizeLinear knows float16", _opsets),
    Rule("mixed-scale-types", "warning", "use float16 scales throughout a strongly typed float16 graph", _mixed_types),
    # NvInfer.h: per-channel quantization is for weights. TensorRT-RTX 1.7.1 builds it all the same, in float.
    Rule("channel-activation", "warning", "use one scale per activation tensor: scales that differ along the sum of "
         "a product cannot be taken out of it, so it runs in float or is refused", _channel_activations),
    # NvInfer.h: scales are build-time constants.
    Rule("computed-scale", "warning", "use static quantization: scales have to be constants", _computed_scales),
    Rule("small-scale", "warning", f"use at least 2^-15 ({_LEAST_SCALE:.3g}) for a float16 scale, 2^-20 for a "
         "weight's: below, its reciprocal overflows or it is inexact", _small_scales),
    Rule("unequal-pair", "warning", "give DequantizeLinear the scale and axis of its QuantizeLinear", _mismatches),
    Rule("float16-range", "warning", "rescale the layer, or keep the operator in float32 (a strongly typed graph with "
         "Casts around it)", _ranges),
    # TensorRT #4606, open: reported of 10.12 and 10.13, in float32. RTX 1.7.1 takes the graph and was not run.
    Rule("lost-bound", "warning", "write it as Relu and Min: TensorRT 10.12 and 10.13 were reported to drop the upper "
         "bound there, and to compute something else (TensorRT #4606)", _lost_bounds),
    # "Network has dynamic or shape inputs, but no optimization profile has been defined"
    Rule("open-shape", "warning", "export with a fixed batch and size, or build with a profile; until then the rules "
         "about attention sizes and residuals see only part of the graph", _open_shapes),
    Rule("control-flow", "warning", "export without control flow, or lint its bodies as graphs of their own", _bodies),
)  # fmt: skip
"""What each Q/DQ operator says, and what else a parser refuses."""
