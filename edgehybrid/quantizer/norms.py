"""Write layer normalisation out for parsers that do not have it as an operator: TensorRT 8.5 and older."""

import onnx_ir as ir

from edgehybrid.graph import Graph, shape_of, sweep
from edgehybrid.quantizer.decomposition import Attributes, Decomposition

_AXES_AS_INPUT = 18
"""First opset whose ReduceMean takes its axes as an input."""


def decompose_norms(graph: Graph) -> Graph:
    """The same function without LayerNormalization.

    y = (x - m) / sqrt(mean((x - m)^2) + epsilon) * gain + bias, with m = mean(x), over the axes from `axis` on.

    Args:
        graph: Float32-typed; not changed.

    Returns:
        A new graph; where there is nothing to write out, a copy.

    Raises:
        GraphError: A shape is not static.

    Source:
        ONNX operator LayerNormalization, opset 17; operator table of onnx-tensorrt for TensorRT 8.5, which lacks it.
    """
    decomposed = graph.clone()
    for node in list(decomposed.nodes("LayerNormalization")):
        _decompose(decomposed, node)
    sweep(decomposed)
    return decomposed


def _decompose(graph: Graph, node: ir.Node) -> None:
    """Put the operators of the definition in the place of a LayerNormalization."""
    parts, result = Decomposition(graph, node), node.outputs[0]
    x, shape = parts.data, shape_of(parts.data)
    first = node.attributes.get_int("axis", -1) % len(shape)
    reduced = [*shape[:first], *[1] * (len(shape) - first)]
    epsilon = parts.number("epsilon", node.attributes.get_float("epsilon", 1e-5))

    def mean(name: str, value: ir.Value) -> ir.Value:
        axes, attributes = list(range(first, len(shape))), Attributes(keepdims=1)
        if graph.opset >= _AXES_AS_INPUT:
            inputs = [value, parts.axes(name, axes)]
        else:
            inputs, attributes["axes"] = [value], axes
        return parts.add("ReduceMean", name, *inputs, shape=reduced, attributes=attributes)

    centred = parts.add("Sub", "centred", x, mean("mean", x))
    variance = mean("variance", parts.add("Mul", "squared", centred, centred))
    shifted = parts.add("Add", "shifted", variance, epsilon, shape=reduced)
    value = parts.add("Div", "normalised", centred, parts.add("Sqrt", "deviation", shifted, shape=reduced))
    for op, name, parameter in zip(("Mul", "Add"), ("scaled", "biased"), node.inputs[1:3], strict=False):
        if parameter is not None:
            value = parts.add(op, name, value, parameter)
    parts.insert()
    is_output = result.is_graph_output()
    ir.convenience.replace_all_uses_with(result, value, replace_graph_outputs=True)
    if is_output:
        result.name, value.name = f"{parts.output}_unused", parts.output
