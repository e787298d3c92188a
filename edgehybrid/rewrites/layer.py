"""One view, W x + b, of the ways in which exporters write a layer: Conv, Gemm, MatMul with or without Add."""

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgehybrid.graph import PRODUCTS, Graph, add_constant, constant, known_shape, name_of
from edgehybrid.graph.structure import input_of, is_weight_transposed
from edgehybrid.rewrites.pattern import bypass, is_op, only_user, replace


@dataclass(frozen=True)
class Layer:
    """A node with a constant weight and its constant bias; outdated as soon as it is written to."""

    node: ir.Node  # Conv, Gemm or MatMul
    add: ir.Node | None  # the Add that holds a MatMul's bias
    weight: NDArray[np.float64]  # (out, in / groups, *kernel), whatever layout the node stores
    bias: NDArray[np.float64] | None  # (out,)

    @property
    def input(self) -> ir.Value:
        """What the layer reads."""
        return input_of(self.node, 0)

    @property
    def output(self) -> ir.Value:
        """W x + b, bias included."""
        return (self.add or self.node).outputs[0]

    @property
    def axis(self) -> int:
        """Where x and W x + b have their channels: 1 for maps, -1 for tokens."""
        return 1 if self.node.op_type == "Conv" else -1

    @property
    def groups(self) -> int:
        """Convolution groups, 1 for a linear layer."""
        return self.node.attributes.get_int("group", 1) if self.node.op_type == "Conv" else 1

    @property
    def padded(self) -> bool:
        """Whether zeros are added around x: a constant added to x is then not a constant added to W x."""
        if self.node.op_type != "Conv":
            return False
        auto = self.node.attributes.get_string("auto_pad", "NOTSET")
        return auto.startswith("SAME") or any(self.node.attributes.get_ints("pads", ()))

    def write(self, graph: Graph, weight: NDArray[np.float64], bias: NDArray[np.float64] | None) -> bool:
        """Give the layer another weight and bias; the output keeps its value name where there is no bias Add.

        Args:
            graph: Owner of the node.
            weight: (out', in' / groups, *kernel).
            bias: (out',) or None for none.

        Returns:
            False, and nothing changed, where the numbers overflow the type in which the layer stores them.
        """
        stored = constant(self.node.inputs[1])
        if stored is None:
            raise ValueError(f"'{self.node.name}' lost its weight")
        arrays = [a.astype(stored.dtype) for a in (weight, bias) if a is not None]
        if not all(np.isfinite(a).all() for a in arrays):
            return False
        attributes = self.node.attributes
        plain = self.node.op_type == "Conv" or is_weight_transposed(self.node)
        set_constant(graph, self.node, 1, arrays[0] if plain else arrays[0].T)
        if self.node.op_type == "Gemm":
            attributes.add(ir.AttrFloat32("alpha", 1.0))
            attributes.add(ir.AttrFloat32("beta", 1.0))
        self.write_bias(graph, None if bias is None else arrays[1])
        return True

    def write_bias(self, graph: Graph, bias: NDArray[np.generic] | None) -> None:
        """Set, add or remove the bias, wherever this kind of node keeps it."""
        if self.node.op_type != "MatMul":
            if bias is not None:
                set_constant(graph, self.node, 2, bias)
            elif len(self.node.inputs) > 2:
                self.node.resize_inputs(2)
        elif self.add is not None:
            if bias is not None:
                index = 0 if self.add.inputs[1] is self.node.outputs[0] else 1
                set_constant(graph, self.add, index, bias)
            else:
                bypass(graph, self.add, self.node.outputs[0])
        elif bias is not None:
            _append_add(graph, self.node, bias)


def layer_at(node: ir.Node | None) -> Layer | None:
    """The layer whose product this node computes; None if its weight is not constant, or it is no layer."""
    if not is_op(node, *PRODUCTS) or node is None:
        return None
    weight = float64(node.inputs[1])
    if weight is None or constant(node.inputs[0]) is not None:
        return None
    if node.op_type == "MatMul":
        return _matmul_layer(node, weight)
    bias = float64(node.inputs[2]) if len(node.inputs) > 2 else None
    if len(node.inputs) > 2 and node.inputs[2] is not None and bias is None:
        return None
    if node.op_type == "Conv":
        return Layer(node, None, weight, bias)
    if node.attributes.get_int("transA", 0):
        return None
    weight = weight if is_weight_transposed(node) else weight.T
    if bias is not None:
        vector = _as_vector(bias, len(weight))
        if vector is None:
            return None
        bias = vector * node.attributes.get_float("beta", 1.0)
    return Layer(node, None, weight * node.attributes.get_float("alpha", 1.0), bias)


def layer_into(value: ir.Value) -> Layer | None:
    """The layer whose output, bias included, this value is."""
    node = value.producer()
    if is_op(node, "Add") and node is not None:
        producers = [v.producer() for v in node.inputs if v is not None]
        node = next((p for p in producers if is_op(p, "MatMul")), None)
    layer = layer_at(node)
    return layer if layer is not None and layer.output is value else None


def _matmul_layer(node: ir.Node, weight: NDArray[np.float64]) -> Layer | None:
    """MatMul(x, W), and the Add of a vector that follows it."""
    if weight.ndim != 2:
        return None
    add = only_user(node.outputs[0])
    if add is not None and is_op(add, "Add"):
        other = add.inputs[0] if add.inputs[1] is node.outputs[0] else add.inputs[1]
        bias = float64(other)
        vector = None if bias is None else _as_vector(bias, weight.shape[1])
        shapes = known_shape(add.outputs[0]), known_shape(node.outputs[0])
        if vector is not None and shapes[0] is not None and shapes[0] == shapes[1]:
            return Layer(node, add, weight.T, vector)
    return Layer(node, None, weight.T, None)


def _as_vector(bias: NDArray[np.float64], length: int) -> NDArray[np.float64] | None:
    """(length,) if the array adds the same vector everywhere: a scalar, (length,) or (1, ..., length)."""
    if bias.size not in (1, length) or (bias.size > 1 and bias.shape[-1] != length):
        return None
    return np.broadcast_to(bias.reshape(-1), (length,)).copy()


def float64(value: ir.Value | None) -> NDArray[np.float64] | None:
    """A floating-point constant, widened so that products of weights are rounded once."""
    array = constant(value)
    if array is None or array.dtype not in (np.float16, np.float32, np.float64):
        return None
    return array.astype(np.float64)


def set_constant(graph: Graph, node: ir.Node, index: int, array: NDArray[np.generic]) -> None:
    """Make an array the constant input of a node, in the place and under the name of the old one if only it read it."""
    if len(node.inputs) <= index:
        node.resize_inputs(index + 1)
    old = node.inputs[index]
    if old is None:
        name = f"{node.name or node.op_type}.{('input', 'weight', 'bias')[min(index, 2)]}"
    elif old.is_initializer() and only_user(old) is node:
        tensor = ir.tensor(np.ascontiguousarray(array), name=old.name)
        old.const_value, old.shape, old.type = tensor, ir.Shape(array.shape), ir.TensorType(tensor.dtype)
        return
    else:
        name = name_of(old)
    node.replace_input_with(index, add_constant(graph, name, array))


def _append_add(graph: Graph, node: ir.Node, bias: NDArray[np.generic]) -> None:
    """Add a bias after a MatMul that had none."""
    product = node.outputs[0]
    total = ir.Value(name=f"{name_of(product)}_biased", shape=product.shape, type=product.type)
    add = ir.node(
        "Add",
        [product, add_constant(graph, f"{node.name or node.op_type}.bias", bias)],
        outputs=[total],
        name=f"{node.name or node.op_type}.add",
    )
    graph.body.insert_after(node, add)
    replace(product, total)
    add.replace_input_with(0, product)
