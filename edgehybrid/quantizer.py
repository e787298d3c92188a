"""Write a plan into a graph: QuantizeLinear and DequantizeLinear pairs, int8 weights, float16 types.

Two dialects of one function. `fp32` stays float32-typed at the opset it came with (17 from the exporter), for ONNX
Runtime and TensorRT 8. `typed` is strongly typed for TensorRT 10, 11 and RTX: opset 19 or newer, float16 between a
Cast after the input and a Cast before the output.
"""

import numpy as np
import onnx
import onnx.version_converter
import onnx_ir as ir
from numpy.typing import NDArray

from edgehybrid.errors import GraphError, StageError
from edgehybrid.graph import Graph, add_constant, constant, from_proto, label_nodes, name_of, tidy
from edgehybrid.records import Decision, Dialect, Plan, Ranges

QMAX = 127
"""Largest int8 level used: -128 is left out, so that the grid is symmetric."""

MIN_SCALE = 2.0**-15
"""Smallest scale written. Its reciprocal is finite in float16, and float16 holds it to 1 part in 1024."""

TYPED_OPSET = 19
"""First opset whose QuantizeLinear and DequantizeLinear know float16."""

_TYPED_IR = 9  # the ONNX file format that introduced opset 19

FLOAT16_MAX = float(np.finfo(np.float16).max)
_FLOAT16_NORMAL = float(np.finfo(np.float16).smallest_normal)

_WEIGHTED = {"Conv", "ConvTranspose", "Gemm", "MatMul", "LayerNormalization", "BatchNormalization"}
_FLOAT32_INPUTS = {("Resize", 1), ("Resize", 2)}
"""(operator, input) whose type the ONNX standard fixes to float32."""

_ELEMENTWISE = {"Add", "Sub", "Mul", "Div", "Pow", "Max", "Min", "Clip", "Where", "PRelu"}
_RANGE_RISKS = {"Exp", "Log", "Softplus", "ReduceSumSquare", "ReduceL2", "ReduceLogSumExp"}
_VARIANCE = {"ReduceMean", "ReduceSum", "GlobalAveragePool", "Add", "Max", "Clip", "Sqrt", "Pow", "Reciprocal"}

CLIPS = np.linspace(1.0, 0.7, 13)
"""Fractions of a channel's largest weight that are tried as its clipping threshold."""


def quantize(graph: Graph, ranges: Ranges, plan: Plan) -> Graph:
    """Insert Q/DQ where the plan says.

    Activations get one per-tensor pair for all their planned readers, scale = amax / 127. Weights become int8
    constants with one scale per output channel and a DequantizeLinear. Biases stay float. Zero points are explicit
    int8 zeros, which also fixes the type. In the `fp32` dialect every tensor of the given graph keeps its name.

    Args:
        graph: float32, the one the plan was made for. Not changed.
        ranges: amax of every tensor that the plan quantizes as an activation.
        plan: From `placement.plan`; its dialect decides what is emitted.

    Returns:
        A new graph. Equal arguments give equal bytes.

    Raises:
        StageError: A planned tensor has no range or an impossible one, or the plan belongs to another graph.
        GraphError: Weights that are not finite, or too large for float16 in the typed dialect.
    """
    _check(graph)
    typed = plan.dialect == "typed"
    result = _upgrade(graph) if typed else graph.clone()
    planned = {(d.node, d.input): d for d in plan.decisions if d.kind != "float"}
    names = label_nodes(result)
    writer = _Writer(result, ranges, plan.dialect)
    for node in list(result.nodes()):
        for index, value in enumerate(node.inputs):
            decision = planned.pop((names[node], index), None)
            if decision is None:
                continue
            if value is None or value.name != decision.tensor:
                raise _wrong_plan(decision)
            node.replace_input_with(index, writer.dequantize(node, value, decision))
    if planned:
        raise _wrong_plan(next(iter(planned.values())))
    return tidy(_type_float16(result) if typed else result)


def to_fp16(graph: Graph) -> Graph:
    """The strongly typed float16 graph without Q/DQ; input and output stay float32.

    Args:
        graph: float32. Not changed.

    Returns:
        A new graph of opset 19 or newer. The variance of hand-written normalisations, and operators whose constants
        float16 cannot hold, compute in float32 between Casts.

    Raises:
        GraphError: Weights that are not finite or too large for float16.
    """
    _check(graph)
    return tidy(_type_float16(_upgrade(graph)))


def choose_weight_scales(weight: NDArray[np.float32], axis: int) -> NDArray[np.float32]:
    """The scale per channel with the smallest squared rounding error.

    Tried are thresholds of 1.00, 0.975 ... 0.70 times the largest absolute weight of the channel; a smaller step is
    worth clipping few weights. The scale is rounded to float16 before the weights are rounded to it, so that both
    dialects hold the same int8 weights.

    Args:
        weight: Any shape, finite.
        axis: Output channel.

    Returns:
        (channels,), each at least `MIN_SCALE`.
    """
    rows = np.moveaxis(weight, axis, 0).reshape(weight.shape[axis], -1)
    peak = np.abs(rows).max(axis=1)
    best = np.full(len(rows), np.inf, np.float32)
    scales = np.empty(len(rows), np.float32)
    for clip in CLIPS:
        scale = _representable(peak * np.float32(clip) / QMAX)
        error = np.square(_fake_quantize(rows, scale[:, None]) - rows).sum(axis=1)
        better = error < best
        best[better], scales[better] = error[better], scale[better]
    return scales


def _representable(scale: NDArray[np.float32]) -> NDArray[np.float32]:
    """The nearest scales that float16 can hold; larger ones are left to `_type_float16` to judge."""
    bounded = np.maximum(scale, np.float32(MIN_SCALE))
    fits = bounded <= FLOAT16_MAX
    return np.where(fits, np.where(fits, bounded, 1).astype(np.float16), bounded).astype(np.float32)


def _fake_quantize(x: NDArray[np.float32], scale: NDArray[np.float32]) -> NDArray[np.float32]:
    levels = np.clip(np.rint(x / scale), -QMAX, QMAX)
    return np.asarray(levels * scale, np.float32)


# --- Q/DQ ---------------------------------------------------------------------------------------------


class _Writer:
    """Makes each Q/DQ pair once and remembers it for later readers of the tensor."""

    def __init__(self, graph: Graph, ranges: Ranges, dialect: Dialect) -> None:
        self.graph = graph
        self.ranges = ranges
        self.dialect = dialect
        self.zero = add_constant(graph, "int8_zero", np.zeros((), np.int8))
        self.made: dict[tuple[ir.Value, int | None], ir.Value] = {}

    def dequantize(self, reader: ir.Node, value: ir.Value, decision: Decision) -> ir.Value:
        """What to read instead of `value`; new nodes stand before the first reader."""
        key = (value, decision.axis)
        if key not in self.made:
            weight = decision.kind == "weight"
            self.made[key] = (self._weight if weight else self._activation)(reader, value, decision)
        return self.made[key]

    def _activation(self, reader: ir.Node, value: ir.Value, decision: Decision) -> ir.Value:
        name = name_of(value)
        scale = add_constant(self.graph, f"{name}_scale", self._activation_scale(decision))
        quantize = ir.node("QuantizeLinear", [value, scale, self.zero], name=f"{name}_QuantizeLinear")
        reader.prepend(quantize)
        quantize.outputs[0].name = f"{name}_quantized"
        return self._dequantized(reader, quantize.outputs[0], scale, self.zero, name, None)

    def _weight(self, reader: ir.Node, value: ir.Value, decision: Decision) -> ir.Value:
        name, array, axis = name_of(value), constant(value), decision.axis
        if array is None or axis is None or array.dtype != np.float32:
            raise _wrong_plan(decision)
        weight = array.astype(np.float32)
        scales = choose_weight_scales(weight, axis)
        column = scales.reshape([-1 if i == axis else 1 for i in range(weight.ndim)])
        levels = np.clip(np.rint(weight / column), -QMAX, QMAX).astype(np.int8)
        quantized = add_constant(self.graph, f"{name}_quantized", levels)
        scale = add_constant(self.graph, f"{name}_scale", scales)
        zero = add_constant(self.graph, f"{name}_zero", np.zeros(len(scales), np.int8))
        return self._dequantized(reader, quantized, scale, zero, name, axis)

    def _dequantized(
        self, reader: ir.Node, value: ir.Value, scale: ir.Value, zero: ir.Value, name: str, axis: int | None
    ) -> ir.Value:
        attributes = {} if axis is None else {"axis": axis}
        node = ir.node("DequantizeLinear", [value, scale, zero], attributes, name=f"{name}_DequantizeLinear")
        reader.prepend(node)
        result = node.outputs[0]
        result.name, result.type = f"{name}_dequantized", ir.TensorType(ir.DataType.FLOAT)
        return result

    def _activation_scale(self, decision: Decision) -> NDArray[np.float32]:
        """Amax / 127 as a scalar; a tensor that was always zero gets the smallest scale.

        Raises:
            StageError: No range, an impossible one, or one beyond float16 in the typed dialect.
        """
        tensor = decision.tensor
        amax = self.ranges.tensors.get(tensor)
        if amax is None:
            raise StageError(
                f"no calibrated range for '{tensor}', input {decision.input} of '{decision.node}'",
                why=f"the plan quantizes it, and the {len(self.ranges.tensors)} ranges given do not name it",
                fix="calibrate the graph that the plan was made for, with all its activation tensors",
            )
        if not np.isfinite(amax) or amax < 0:
            raise StageError(
                f"the calibrated range of '{tensor}' is {amax}",
                why="a range is the largest absolute value seen, finite and not negative",
                fix="check the calibration images and the weights for NaN and infinity",
            )
        if self.dialect == "typed" and amax > FLOAT16_MAX:
            raise StageError(
                f"'{tensor}' does not fit float16",
                why=f"calibration saw {amax:.4g}, float16 ends at {FLOAT16_MAX:.0f}",
                fix="build for a float32-typed target, or fold the large scale into the layer before",
            )
        scale = np.asarray(max(amax / QMAX, MIN_SCALE), np.float32)
        return _representable(scale) if self.dialect == "typed" else scale


def _wrong_plan(decision: Decision) -> StageError:
    return StageError(
        f"the plan does not fit the graph at '{decision.node}', input {decision.input}",
        why=f"the plan wants to quantize '{decision.tensor}' there as {decision.kind}",
        fix="make the plan from the very graph that is quantized",
    )


def _check(graph: Graph) -> None:
    """Refuse what cannot be quantized.

    Raises:
        GraphError: Q/DQ that is there already, NaN in any constant, or infinite weights.
    """
    for node in graph.nodes("QuantizeLinear", "DequantizeLinear"):
        raise GraphError(
            f"node '{node.name}' is a {node.op_type}",
            why="the graph is quantized already, needed a float32 one",
            fix="start from the float32 model",
        )
    for node in graph.nodes():
        for value in node.inputs:
            array = constant(value)
            if value is None or array is None or array.dtype.kind != "f":
                continue
            usable = np.isfinite(array) if node.op_type in _WEIGHTED else ~np.isnan(array)
            if not usable.all():
                raise GraphError(
                    f"'{value.name}', read by node '{node.name}' ({node.op_type}), is not finite",
                    why=f"{array.size - int(usable.sum())} of its {array.size} values are NaN or infinite",
                    fix="the checkpoint is damaged or its training diverged: use another one",
                )


# --- float16 ------------------------------------------------------------------------------------------


def _upgrade(graph: Graph) -> Graph:
    """A copy with an opset that knows float16 Q/DQ.

    Raises:
        GraphError: onnx has no conversion for some operator.
    """
    if graph.opset >= TYPED_OPSET:
        return graph.clone()
    try:
        proto = onnx.version_converter.convert_version(ir.to_proto(graph.model), TYPED_OPSET)
    except Exception as error:  # the converter raises RuntimeError, and its C++ assertions arrive as others
        raise GraphError(
            f"the graph cannot be converted from opset {graph.opset} to {TYPED_OPSET}",
            why=f"onnx: {str(error).strip().splitlines()[0]}",
            fix=f"export again with opset_version={TYPED_OPSET}",
        ) from error
    proto.ir_version = max(proto.ir_version, _TYPED_IR)
    return from_proto(proto)


def _type_float16(graph: Graph) -> Graph:
    """Retype a float32 graph in place: float16 everywhere except at its ends and in `_find_float32`."""
    _unfold_batch_norms(graph)
    islands = _find_float32(graph)
    caster = _Caster(graph)
    for node in list(graph.nodes()):
        if node.op_type == "Constant":
            continue  # what reads it gets an initializer instead
        dtype = ir.DataType.FLOAT if node in islands else ir.DataType.FLOAT16
        for index, value in enumerate(node.inputs):
            if value is not None and _is_float(value):
                fixed = (node.op_type, index) in _FLOAT32_INPUTS
                wanted = ir.DataType.FLOAT if fixed else dtype
                node.replace_input_with(index, caster.cast(node, value, wanted))
        for name in ("to", "dtype"):
            if node.attributes.get_int(name, 0) == ir.DataType.FLOAT:
                node.attributes[name] = ir.AttrInt64(name, dtype)
        fill = node.attributes.get_tensor("value", None)
        if fill is not None and fill.dtype == ir.DataType.FLOAT:
            tensor = ir.tensor(fill.numpy().astype(dtype.numpy()))
            node.attributes["value"] = ir.AttrTensor("value", tensor)
        for value in node.outputs:
            if _is_float(value):
                value.type = ir.TensorType(dtype)
    _cast_outputs(graph)
    return graph


class _Caster:
    """Gives a value in the type a reader wants: constants converted, computed values through one shared Cast."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.made: dict[tuple[ir.Value, ir.DataType], ir.Value] = {}

    def cast(self, reader: ir.Node, value: ir.Value, dtype: ir.DataType) -> ir.Value:
        if value.dtype == dtype:
            return value
        key = (value, dtype)
        if key not in self.made:
            array = constant(value)
            name = f"{value.name}_{dtype.name.lower()}"
            if array is None:
                node = ir.node("Cast", [value], {"to": dtype}, name=f"{name}_Cast")
                reader.prepend(node)
                node.outputs[0].name, node.outputs[0].type = name, ir.TensorType(dtype)
                self.made[key] = node.outputs[0]
            else:
                self.made[key] = add_constant(self.graph, name, _to_float16(reader, value, array))
        return self.made[key]


def _to_float16(reader: ir.Node, value: ir.Value, array: NDArray[np.generic]) -> NDArray[np.float16]:
    """A constant in float16; infinities stay.

    Raises:
        GraphError: A finite value beyond float16.
    """
    peak = _largest(array)
    if peak > FLOAT16_MAX:
        raise GraphError(
            f"'{value.name}', read by node '{reader.name}' ({reader.op_type}), does not fit float16",
            why=f"its largest value is {peak:.4g}, float16 ends at {FLOAT16_MAX:.0f}",
            fix="build for a float32-typed target, or rescale the layer",
        )
    return array.astype(np.float16)


def _largest(array: NDArray[np.generic]) -> float:
    """The largest finite absolute value; 0 for none."""
    magnitudes = np.abs(array.astype(np.float32))
    return float(magnitudes[np.isfinite(magnitudes)].max(initial=0.0))


def _is_float(value: ir.Value) -> bool:
    return value.dtype in (ir.DataType.FLOAT, ir.DataType.FLOAT16)


def _cast_outputs(graph: Graph) -> None:
    """Float outputs become float32 again, under their own names."""
    for index, value in enumerate(graph.body.outputs):
        if value.dtype != ir.DataType.FLOAT16:
            continue
        name = name_of(value)
        value.name = f"{name}_float16"
        node = ir.node("Cast", [value], {"to": ir.DataType.FLOAT}, name=f"{name}_Cast")
        graph.body.append(node)
        output = node.outputs[0]
        output.name, output.shape, output.type = name, value.shape, ir.TensorType(ir.DataType.FLOAT)
        graph.body.outputs[index] = output


def _find_float32(graph: Graph) -> set[ir.Node]:
    """Operators that float16 would break although their inputs and results fit it."""
    islands: set[ir.Node] = set()
    for node in graph.nodes():
        lossy = node.op_type in _ELEMENTWISE and not all(_survives(constant(v)) for v in node.inputs)
        if lossy or node.op_type in _RANGE_RISKS:
            islands.add(node)
        elif node.op_type == "Pow" or (node.op_type == "Mul" and node.inputs[0] is node.inputs[1]):
            islands.update(_variance_chain(node))
    return islands


def _survives(array: NDArray[np.generic] | None) -> bool:
    """Whether float16 holds a constant of elementwise work: in range, and a scalar to 11 bits."""
    if array is None or array.dtype != np.float32:
        return True
    if array.size == 1 and 0 < abs(array.item()) < _FLOAT16_NORMAL:
        return False
    return _largest(array) <= FLOAT16_MAX


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
            return chain if any(n.op_type in ("Sqrt", "Pow", "Reciprocal") for n in chain[1:]) else []
        chain.append(reader)


def _unfold_batch_norms(graph: Graph) -> None:
    """Write each remaining batch normalisation as a product and a sum: its variance may be too small for float16."""
    for node in list(graph.nodes("BatchNormalization")):
        arrays = [constant(value) for value in node.inputs[1:]]
        x = node.inputs[0]
        if x is None or x.shape is None or any(a is None for a in arrays):
            continue
        gain, bias, mean, variance = (a.astype(np.float64) for a in arrays if a is not None)
        factor = gain / np.sqrt(variance + node.attributes.get_float("epsilon", 1e-5))
        shape = (-1, *(1,) * (len(x.shape) - 2))
        name = name_of(node.outputs[0])
        scale = add_constant(graph, f"{name}_factor", factor.reshape(shape).astype(np.float32))
        shift = add_constant(graph, f"{name}_shift", (bias - mean * factor).reshape(shape).astype(np.float32))
        product = ir.node("Mul", [x, scale], name=f"{name}_Mul")
        total = ir.node("Add", [product.outputs[0], shift], name=f"{name}_Add")
        for new, label in ((product, f"{name}_scaled"), (total, name)):
            node.prepend(new)
            new.outputs[0].name, new.outputs[0].type = label, ir.TensorType(ir.DataType.FLOAT)
            new.outputs[0].shape = x.shape
        ir.convenience.replace_all_uses_with(node.outputs[0], total.outputs[0], replace_graph_outputs=True)
        graph.body.remove(node, safe=True)
