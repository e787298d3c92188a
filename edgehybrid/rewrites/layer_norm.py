"""Recognise layer normalisation that was written out by hand."""

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgehybrid.graph import Graph, add_constant, constant, known_shape, name_of, unused
from edgehybrid.graph.structure import input_of
from edgehybrid.rewrites.pattern import is_op, only_user, replace, scalar

OPSET = 17
"""The first with LayerNormalization as an operator."""


@dataclass(frozen=True)
class Norm:
    """(x - mean) / sqrt(var + eps), mean and variance taken over one axis."""

    data: ir.Value  # x
    shape: tuple[int, ...]
    axis: int  # not negative
    epsilon: float
    output: ir.Value


def fuse_layer_norm(graph: Graph) -> int:
    """Mean, difference, square, mean, root, quotient, gain and bias become one LayerNormalization.

    (x - m) / sqrt(mean((x - m)^2) + eps) g + b with m = mean(x) is its definition. Over channels of a map, as
    Conv2Former and ConvNeXt write it, it stands between two transposes. TensorRT and ONNX Runtime have a kernel for
    the operator; written out, the square of an activation leaves the range of float16. Worth 1.07x [1.05, 1.09] on
    Conv2Former-N@224 in ONNX Runtime (CPU, 1 thread, benchmarks/rewrites.py). A float16 engine of TensorRT-RTX 1.7 has
    180 kernels with it and 160 without (benchmarks/kernels.py): there the operator is for the range, not for speed.

    Source: ONNX operator LayerNormalization, opset 17; Ba et al. 2016, arXiv:1607.06450.
    """
    sites = 0
    for node in tuple(graph.nodes("Div")) if graph.opset >= OPSET else ():
        norm = _find_norm(node)
        if norm is not None:
            _insert_norm(graph, norm, node)
            sites += 1
    return sites


def _find_norm(quotient: ir.Node) -> Norm | None:
    """The normalisation whose last step, gain and bias apart, this division is."""
    root = _sole_producer(input_of(quotient, 1), "Sqrt")
    total = None if root is None else _sole_producer(input_of(root, 0), "Add")
    if total is None:
        return None
    terms = [input_of(total, 0), input_of(total, 1)]
    epsilon = next((number for v in terms if (number := scalar(v)) is not None), None)
    variance = next((mean for v in terms if (mean := _sole_producer(v, "ReduceMean")) is not None), None)
    square = None if variance is None else _sole_producer(input_of(variance, 0), "Pow", "Mul")
    if epsilon is None or variance is None or square is None:
        return None
    if is_op(square, "Pow") and scalar(square.inputs[1]) != 2.0:
        return None
    if is_op(square, "Mul") and square.inputs[0] is not square.inputs[1]:
        return None
    upper, lower = _find_centred(input_of(quotient, 0)), _find_centred(input_of(square, 0))
    if upper is None or upper != lower or upper[1] != _axis_of(variance):
        return None
    data, axis = upper
    shape = known_shape(data)
    if shape is None or known_shape(quotient.outputs[0]) != shape:
        return None
    return Norm(data, shape, axis, epsilon, quotient.outputs[0])


def _sole_producer(value: ir.Value, *ops: str) -> ir.Node | None:
    """The node of one of these types that computes a value which one node reads, maybe twice."""
    node = value.producer()
    readers = {use.node for use in value.uses()}
    return node if is_op(node, *ops) and len(readers) == 1 and not value.is_graph_output() else None


def _find_centred(value: ir.Value) -> tuple[ir.Value, int] | None:
    """(x, axis) where the value is x - mean(x) over that axis."""
    node = value.producer()
    if not is_op(node, "Sub") or node is None:
        return None
    mean = input_of(node, 1).producer()
    if not is_op(mean, "ReduceMean") or mean is None or mean.inputs[0] is not node.inputs[0]:
        return None
    axis = _axis_of(mean)
    return None if axis is None else (input_of(node, 0), axis)


def _axis_of(mean: ir.Node) -> int | None:
    """The one axis that a ReduceMean takes and keeps as 1, counted from the front."""
    shape = known_shape(input_of(mean, 0))
    if len(mean.inputs) > 1 and mean.inputs[1] is not None:  # from opset 18 on
        given = constant(mean.inputs[1])
        axes = [] if given is None else given.reshape(-1).tolist()
    else:
        axes = list(mean.attributes.get_ints("axes", ()))
    if shape is None or len(axes) != 1 or not mean.attributes.get_int("keepdims", 1):
        return None
    return int(axes[0]) % len(shape)


def _insert_norm(graph: Graph, norm: Norm, quotient: ir.Node) -> None:
    """Put the operator, and what turns its axis to the back, in the place of the quotient, its gain and its bias."""
    gain, scaled = _take_vector(norm, norm.output, "Mul")
    bias, last = _take_vector(norm, scaled, "Add")
    width = norm.shape[norm.axis]
    kind = norm.data.dtype
    dtype = np.float32 if kind is None else kind.numpy()
    base = name_of(norm.output)
    name = quotient.name or base
    path = name.rpartition("/")[0] if "/" in name else name  # not every exporter names by modules
    taken = {node.name for node in graph.nodes()}  # a module may hold several
    stem = unused(f"{path}/LayerNormalization", taken)
    parameters = [
        add_constant(graph, f"{stem}.{role}", np.broadcast_to(vector, (width,)).astype(dtype))
        for role, vector in (("weight", np.ones(1) if gain is None else gain), ("bias", bias))
        if vector is not None
    ]
    behind = [i for i in range(len(norm.shape)) if i != norm.axis] + [norm.axis]
    turned = norm.axis != len(norm.shape) - 1
    nodes = []
    value = norm.data
    if turned:
        nodes.append(_transpose(value, behind, unused(f"{path}/Transpose", taken), f"{base}_turned"))
        value = nodes[-1].outputs[0]
    result = ir.Value(name=f"{base}_normalised", shape=value.shape, type=norm.data.type)
    attributes = {"axis": -1, "epsilon": norm.epsilon}
    nodes.append(ir.node("LayerNormalization", [value, *parameters], attributes, outputs=[result], name=stem))
    if turned:
        label = unused(f"{path}/Transpose_back", taken)
        nodes.append(_transpose(result, np.argsort(behind).tolist(), label, f"{base}_back"))
    node = last.producer()
    if node is None:
        raise ValueError("the result of a normalisation is not computed")
    graph.body.insert_after(node, nodes)
    replace(last, nodes[-1].outputs[0])


def _take_vector(norm: Norm, value: ir.Value, op: str) -> tuple[NDArray[np.generic] | None, ir.Value]:
    """The constant along the norm's axis that the only reader multiplies or adds, and that reader's result.

    Returns:
        (width,) or (1,), and the result; None and the value itself where there is no such reader.
    """
    node = only_user(value)
    if node is None or not is_op(node, op):
        return None, value
    vector = constant(node.inputs[1] if node.inputs[0] is value else node.inputs[0])
    if vector is None or known_shape(node.outputs[0]) != norm.shape:
        return None, value
    aligned = vector.reshape((1,) * (len(norm.shape) - vector.ndim) + vector.shape)
    if vector.size != 1 and (aligned.shape[norm.axis] != vector.size or vector.size != norm.shape[norm.axis]):
        return None, value
    return vector.reshape(-1), node.outputs[0]


def _transpose(value: ir.Value, perm: list[int], name: str, result: str) -> ir.Node:
    """A Transpose with the shape and type of its output."""
    shape = known_shape(value) or ()
    output = ir.Value(name=result, shape=ir.Shape([shape[i] for i in perm]), type=value.type)
    return ir.node("Transpose", [value], {"perm": perm}, outputs=[output], name=name)
