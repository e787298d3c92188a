"""Retype a float32 graph to float16 where float16 can carry it, as strongly typed TensorRT needs it."""

from collections.abc import Collection

import numpy as np
import onnx
import onnx.version_converter
import onnx_ir as ir
from numpy.typing import NDArray

from edgehybrid.errors import GraphError
from edgehybrid.graph import CHECK, Graph, add_constant, constant, from_proto, label_nodes, name_of, unused, values
from edgehybrid.graph.batch_norm import scale_and_shift
from edgehybrid.graph.half import FLOAT16_MAX, TYPED_OPSET, find_risks, largest
from edgehybrid.graph.narrowing import retype_attributes
from edgehybrid.graph.weights import outline

_TYPED_IR = 9  # the ONNX file format that introduced opset 19

_FLOAT32_INPUTS = {("Resize", 1), ("Resize", 2)}
"""(operator, input) whose type the ONNX standard fixes to float32, or which is too small to be worth converting."""


def upgrade(graph: Graph) -> Graph:
    """A copy with an opset that knows float16 Q/DQ.

    Raises:
        GraphError: onnx has no conversion for some operator.
    """
    if graph.opset >= TYPED_OPSET:
        return graph.clone()
    try:
        proto, weights = outline(graph.model)
        proto = onnx.version_converter.convert_version(proto, TYPED_OPSET)
    except Exception as error:  # the converter raises RuntimeError, and its C++ assertions arrive as others
        raise GraphError(
            f"the graph cannot be converted from opset {graph.opset} to {TYPED_OPSET}",
            why=f"onnx: {str(error).strip().splitlines()[0]}",
            fix=f"export again with opset_version={TYPED_OPSET}",
        ) from error
    proto.ir_version = max(proto.ir_version, _TYPED_IR)
    return from_proto(proto, weights)


def type_float16(graph: Graph, wide: Collection[str] = ()) -> Graph:
    """Retype in place: float16 everywhere except at the ends and where it would break; the caller infers shapes.

    Args:
        graph: float32, with or without Q/DQ.
        wide: Nodes by label that compute in float32 besides those of `edgehybrid.graph.half.find_risks`. What
            quantizes or dequantizes for such a node alone does so in float32 too.

    Raises:
        GraphError: A constant too large for float16, or a value whose type is not known.
    """
    taken = {value.name for value in values(graph)} | {node.name for node in graph.nodes()}
    islands = {node for node, label in label_nodes(graph).items() if label in wide}
    _unfold_batch_norms(graph, taken, islands)
    islands.update(find_risks(graph))
    _widen_pairs(graph, islands, taken)
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
        retype_attributes(node, ir.DataType.FLOAT, dtype)
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
            fix=f"export again, or check the file with `{CHECK}`",
        )
    return value.dtype in (ir.DataType.FLOAT, ir.DataType.FLOAT16)


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
                node = ir.node("Cast", [value], {"to": dtype}, name=unused(f"{name}_Cast", self.taken))
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
    peak = largest(array)
    if dtype == ir.DataType.FLOAT16 and peak > FLOAT16_MAX:
        raise GraphError(
            f"'{value.name}', read by node '{reader.name}' ({reader.op_type}), does not fit float16",
            why=f"its largest value is {peak:.4g}, float16 ends at {FLOAT16_MAX:.0f}",
            fix="build for a float32-typed target, or rescale the layer",
        )
    return array.astype(dtype.numpy())


def _cast_outputs(graph: Graph, taken: set[str | None]) -> None:
    """Float outputs become float32 again, under their own names."""
    for index, value in enumerate(graph.body.outputs):
        if value.dtype != ir.DataType.FLOAT16:
            continue
        name = name_of(value)
        value.name = unused(f"{name}_float16", taken)
        node = ir.node("Cast", [value], {"to": ir.DataType.FLOAT}, name=unused(f"{name}_Cast", taken))
        graph.body.append(node)
        output = node.outputs[0]
        output.name, output.shape, output.type = name, value.shape, ir.TensorType(ir.DataType.FLOAT)
        graph.body.outputs[index] = output


def _widen_pairs(graph: Graph, islands: set[ir.Node], taken: set[str | None]) -> None:
    """Dequantize in float32 for what reads float32, and quantize float32 as it is.

    A Cast between DequantizeLinear and its reader would keep TensorRT from computing the reader in int8.
    """
    for node in list(graph.nodes("DequantizeLinear")):
        uses = list(node.outputs[0].uses())
        wide = [use for use in uses if use.node in islands]
        if not wide:
            continue
        if len(wide) < len(uses):
            twin = ir.node(
                "DequantizeLinear", node.inputs, dict(node.attributes), name=unused(f"{node.name}_wide", taken)
            )
            node.append(twin)
            twin.outputs[0].name = unused(f"{node.outputs[0].name}_wide", taken)
            twin.outputs[0].type, twin.outputs[0].shape = node.outputs[0].type, node.outputs[0].shape
            for use in wide:
                use.node.replace_input_with(use.idx, twin.outputs[0])
            node = twin
        islands.add(node)
    for node in graph.nodes("QuantizeLinear"):
        source = node.inputs[0]
        maker = None if source is None else source.producer()
        readers = [use.node for use in node.outputs[0].uses()]
        if maker in islands or (maker is None and any(reader in islands for reader in readers)):
            islands.add(node)  # else it would read a Cast to float16


def _unfold_batch_norms(graph: Graph, taken: set[str | None], islands: set[ir.Node]) -> None:
    """Write each remaining batch normalisation as a product and a sum: its variance may be too small for float16."""
    for node in list(graph.nodes("BatchNormalization")):
        x, found = node.inputs[0], scale_and_shift(node)
        if x is None or x.shape is None or found is None:
            continue
        shape, name = (-1, *(1,) * (len(x.shape) - 2)), name_of(node.outputs[0])
        factor, offset = (array.reshape(shape).astype(np.float32) for array in found)
        scale = add_constant(graph, f"{name}_factor", factor, taken=taken)
        shift = add_constant(graph, f"{name}_shift", offset, taken=taken)
        product = ir.node("Mul", [x, scale], name=unused(f"{name}_Mul", taken))
        total = ir.node("Add", [product.outputs[0], shift], name=unused(f"{name}_Add", taken))
        scaled = unused(f"{name}_scaled", taken)
        for new, label in ((product, scaled), (total, name)):
            node.prepend(new)
            new.outputs[0].name, new.outputs[0].type = label, ir.TensorType(ir.DataType.FLOAT)
            new.outputs[0].shape = x.shape
        if node in islands:
            islands.update((product, total))
        ir.convenience.replace_all_uses_with(node.outputs[0], total.outputs[0], replace_graph_outputs=True)
        graph.body.remove(node, safe=True)
