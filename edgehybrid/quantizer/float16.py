"""Retype a float32 graph to float16 where float16 can carry it, as strongly typed TensorRT needs it."""

import numpy as np
import onnx
import onnx.version_converter
import onnx_ir as ir
from numpy.typing import NDArray

from edgehybrid.errors import GraphError
from edgehybrid.graph import Graph, add_constant, constant, from_proto, name_of, unused, values

TYPED_OPSET = 19
"""First opset whose QuantizeLinear and DequantizeLinear know float16."""

_TYPED_IR = 9  # the ONNX file format that introduced opset 19

FLOAT16_MAX = float(np.finfo(np.float16).max)
_FLOAT16_NORMAL = float(np.finfo(np.float16).smallest_normal)

_FLOAT32_INPUTS = {("Resize", 1), ("Resize", 2)}
"""(operator, input) whose type the ONNX standard fixes to float32, or whose precision is not worth saving."""

_ELEMENTWISE = {"Add", "Sub", "Mul", "Div", "Pow", "Max", "Min", "Clip", "Where", "PRelu"}
_RANGE_RISKS = {"Exp", "Log", "Softplus", "ReduceSumSquare", "ReduceL2", "ReduceLogSumExp"}
_VARIANCE = {"ReduceMean", "ReduceSum", "GlobalAveragePool", "Add", "Max", "Clip", "Sqrt", "Pow", "Reciprocal"}


def upgrade(graph: Graph) -> Graph:
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


def type_float16(graph: Graph) -> Graph:
    """Retype in place: float16 everywhere except at the ends and in `_find_float32`; the caller infers shapes.

    Raises:
        GraphError: A constant too large for float16, or a value whose type is not known.
    """
    taken = {value.name for value in values(graph)}
    _unfold_batch_norms(graph, taken)
    islands = _find_float32(graph)
    caster = _Caster(graph, taken)
    for node in list(graph.nodes()):
        if node.op_type == "Constant":
            continue  # what reads it gets an initializer instead
        dtype = ir.DataType.FLOAT if node in islands else ir.DataType.FLOAT16
        for index, value in enumerate(node.inputs):
            if value is not None and _is_float(value):
                fixed = (node.op_type, index) in _FLOAT32_INPUTS
                wanted = ir.DataType.FLOAT if fixed else dtype
                node.replace_input_with(index, caster.cast(node, value, wanted))
        _type_attributes(node, dtype)
        for value in node.outputs:
            if _is_float(value):
                value.type = ir.TensorType(dtype)
    _cast_outputs(graph, taken)
    return graph


def _is_float(value: ir.Value) -> bool:
    if value.dtype is None and value.name and value.uses():
        raise GraphError(
            f"the type of '{value.name}' is not known",
            why="shape inference found none, and a strongly typed graph needs the type of every value",
            fix="export again, or check the file with `check-model FILE`",
        )
    return value.dtype in (ir.DataType.FLOAT, ir.DataType.FLOAT16)


def _type_attributes(node: ir.Node, dtype: ir.DataType) -> None:
    """Attributes that fix the type of a result: of Cast, ConstantOfShape and the like."""
    for name in ("to", "dtype"):
        if node.attributes.get_int(name, 0) == ir.DataType.FLOAT:
            node.attributes[name] = ir.AttrInt64(name, dtype)
    fill = node.attributes.get_tensor("value", None)
    if fill is not None and fill.dtype == ir.DataType.FLOAT:
        node.attributes["value"] = ir.AttrTensor("value", ir.tensor(fill.numpy().astype(dtype.numpy())))


class _Caster:
    """Gives a value in the type a reader wants: constants converted, computed values through one shared Cast."""

    def __init__(self, graph: Graph, taken: set[str | None]) -> None:
        self.graph = graph
        self.taken = taken
        self.made: dict[tuple[ir.Value, ir.DataType], ir.Value] = {}

    def cast(self, reader: ir.Node, value: ir.Value, dtype: ir.DataType) -> ir.Value:
        """`value` in `dtype`; a new Cast stands before its first reader."""
        if value.dtype == dtype:
            return value
        key = (value, dtype)
        if key not in self.made:
            array = constant(value)
            name = f"{value.name}_{dtype.name.lower()}"
            if array is None:
                node = ir.node("Cast", [value], {"to": dtype}, name=f"{name}_Cast")
                reader.prepend(node)
                node.outputs[0].name, node.outputs[0].type = unused(name, self.taken), ir.TensorType(dtype)
                self.made[key] = node.outputs[0]
            else:
                converted = _convert(reader, value, array, dtype)
                self.made[key] = add_constant(self.graph, name, converted, taken=self.taken)
        return self.made[key]


def _convert(reader: ir.Node, value: ir.Value, array: NDArray[np.generic], dtype: ir.DataType) -> NDArray[np.generic]:
    """A constant in another float type; infinities stay.

    Raises:
        GraphError: A finite value beyond float16.
    """
    peak = _largest(array)
    if dtype == ir.DataType.FLOAT16 and peak > FLOAT16_MAX:
        raise GraphError(
            f"'{value.name}', read by node '{reader.name}' ({reader.op_type}), does not fit float16",
            why=f"its largest value is {peak:.4g}, float16 ends at {FLOAT16_MAX:.0f}",
            fix="build for a float32-typed target, or rescale the layer",
        )
    return array.astype(dtype.numpy())


def _largest(array: NDArray[np.generic]) -> float:
    """The largest finite absolute value; 0 for none."""
    magnitudes = np.abs(array.astype(np.float32, copy=False))
    return float(magnitudes[np.isfinite(magnitudes)].max(initial=0.0))


def _cast_outputs(graph: Graph, taken: set[str | None]) -> None:
    """Float outputs become float32 again, under their own names."""
    for index, value in enumerate(graph.body.outputs):
        if value.dtype != ir.DataType.FLOAT16:
            continue
        name = name_of(value)
        value.name = unused(f"{name}_float16", taken)
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
        if node.op_type == "Pow" or (node.op_type == "Mul" and node.inputs[0] is node.inputs[1]):
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


def _unfold_batch_norms(graph: Graph, taken: set[str | None]) -> None:
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
        scale = add_constant(graph, f"{name}_factor", factor.reshape(shape).astype(np.float32), taken=taken)
        offset = (bias - mean * factor).reshape(shape).astype(np.float32)
        shift = add_constant(graph, f"{name}_shift", offset, taken=taken)
        product = ir.node("Mul", [x, scale], name=f"{name}_Mul")
        total = ir.node("Add", [product.outputs[0], shift], name=f"{name}_Add")
        scaled = unused(f"{name}_scaled", taken)
        for new, label in ((product, scaled), (total, name)):
            node.prepend(new)
            new.outputs[0].name, new.outputs[0].type = label, ir.TensorType(ir.DataType.FLOAT)
            new.outputs[0].shape = x.shape
        ir.convenience.replace_all_uses_with(node.outputs[0], total.outputs[0], replace_graph_outputs=True)
        graph.body.remove(node, safe=True)
