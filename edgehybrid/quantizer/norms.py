"""Write layer normalisation out for parsers that do not have it as an operator: TensorRT 8.5 and older."""

import numpy as np
import onnx_ir as ir

from edgehybrid.graph import Graph, add_constant, name_of, shape_of, sweep

_AXES_AS_INPUT = 18
"""First opset whose ReduceMean takes its axes as an input."""


def spell_norms(graph: Graph) -> Graph:
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
    spelt = graph.clone()
    for node in list(spelt.nodes("LayerNormalization")):
        _spell(spelt, node)
    sweep(spelt)
    return spelt


def _spell(graph: Graph, node: ir.Node) -> None:
    data, result = node.inputs[0], node.outputs[0]
    if data is None:
        raise ValueError(f"{node.name} reads nothing")
    shape, stem, base = shape_of(data), node.name or name_of(result), name_of(result)
    first = node.attributes.get_int("axis", -1) % len(shape)
    axes = list(range(first, len(shape)))
    epsilon = node.attributes.get_float("epsilon", 1e-5)
    kind = np.float32 if data.dtype is None else data.dtype.numpy()
    small = add_constant(graph, f"{stem}.epsilon", np.asarray(epsilon, dtype=kind))
    made: list[ir.Node] = []

    def put(op: str, name: str, inputs: list[ir.Value | None], reduced: bool = False) -> ir.Value:
        sides = [1 if reduced and i >= first else side for i, side in enumerate(shape)]
        out = ir.Value(name=f"{base}_{name}", shape=ir.Shape(sides), type=data.type if data is not None else None)
        attributes: dict[str, int | list[int]] = {}
        if op == "ReduceMean":
            attributes["keepdims"] = 1
            if graph.opset >= _AXES_AS_INPUT:
                inputs = [*inputs, add_constant(graph, f"{stem}.{name}.axes", np.asarray(axes, dtype=np.int64))]
            else:
                attributes["axes"] = axes
        made.append(ir.node(op, inputs, attributes, outputs=[out], name=f"{stem}/{name}"))
        return out

    mean = put("ReduceMean", "mean", [data], reduced=True)
    centred = put("Sub", "centred", [data, mean])
    variance = put("ReduceMean", "variance", [put("Mul", "squared", [centred, centred])], reduced=True)
    deviation = put("Sqrt", "deviation", [put("Add", "shifted", [variance, small], reduced=True)], reduced=True)
    value = put("Div", "normalised", [centred, deviation])
    for op, name, parameter in zip(("Mul", "Add"), ("scaled", "biased"), node.inputs[1:3], strict=False):
        if parameter is not None:
            value = put(op, name, [value, parameter])
    graph.body.insert_before(node, made)
    is_output = result.is_graph_output()
    ir.convenience.replace_all_uses_with(result, value, replace_graph_outputs=True)
    if is_output:
        result.name, value.name = f"{base}_unused", base
