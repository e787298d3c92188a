"""Write group normalisation of opset 21 and newer in the older operators that older exporters write it in."""

import math

import numpy as np
import onnx_ir as ir

from edgehybrid.graph import Graph, add_constant, constant, known_shape, name_of, tidy, unused, values
from edgehybrid.graph.folding import compute_shapes
from edgehybrid.graph.structure import input_of


def write_group_norms(graph: Graph) -> Graph:
    """Replace GroupNormalization, of which ONNX's shape inference knows nothing (onnx 1.23), in place.

    Groups become the channels of an InstanceNormalization without gain and bias, and a product and a sum follow: what
    torch writes up to opset 20. The deprecated form of opset 18 to 20 is refused before this.

    Args:
        graph: A node whose input has no known shape stays, and so does one whose gain is computed.

    Returns:
        The graph with shapes known behind the operators; the given one where there were none.

    Source:
        https://onnx.ai/onnx/operators/onnx__GroupNormalization.html
    """
    while sum([_write(graph, node) for node in tuple(graph.nodes("GroupNormalization"))]):
        graph = compute_shapes(tidy(graph))  # the input of the next in a row is known now
    return graph


def _write(graph: Graph, node: ir.Node) -> bool:
    data, gain, bias = input_of(node, 0), constant(node.inputs[1]), constant(node.inputs[2])
    shape, groups = known_shape(data), node.attributes.get_int("num_groups")
    if shape is None or gain is None or bias is None:
        return False
    taken = {value.name for value in values(graph)} | {each.name for each in graph.nodes()}
    stem, kind = node.name or name_of(node.outputs[0]), gain.dtype
    affine = [array.reshape(-1, *(1,) * (len(shape) - 2)) for array in (gain, bias)]

    def add(name: str, array: np.ndarray[tuple[int, ...], np.dtype[np.generic]]) -> ir.Value:
        return add_constant(graph, f"{stem}.{name}", array, taken=taken)

    def write(op: str, name: str, *inputs: ir.Value, sides: tuple[int, ...] = shape, **attributes: float) -> ir.Value:
        made = ir.node(op, inputs, attributes, name=unused(f"{stem}/{name}", taken))
        out = made.outputs[0]
        out.name, out.type, out.shape = unused(f"{stem}/{name}_out", taken), data.type, ir.Shape(sides)
        node.prepend(made)
        return out

    apart = (shape[0], groups, math.prod(shape[1:]) // groups)
    x = write("Reshape", "groups", data, add("groups", np.array(apart, np.int64)), sides=apart)
    one, zero = add("one", np.ones(groups, kind)), add("zero", np.zeros(groups, kind))
    epsilon = node.attributes.get_float("epsilon", 1e-5)
    x = write("InstanceNormalization", "norm", x, one, zero, sides=apart, epsilon=epsilon)
    x = write("Reshape", "channels", x, add("channels", np.array(shape, np.int64)))
    x = write("Add", "bias", write("Mul", "gain", x, add("gain", affine[0])), add("bias", affine[1]))
    ir.convenience.replace_all_uses_with(node.outputs[0], x, replace_graph_outputs=True)
    x.name, node.outputs[0].name = node.outputs[0].name, x.name
    graph.body.remove(node, safe=True)
    return True
