"""Add windows up to maps (torch's fold) by operators that TensorRT has."""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import onnx_ir as ir

from edgehybrid.graph import Graph, add_constant, constant, known_shape, name_of
from edgehybrid.graph.structure import input_of
from edgehybrid.rewrites.pattern import bypass

NOTHING: Mapping[str, int | Sequence[int]] = {}


def fold_by_known_operators(graph: Graph) -> int:
    """Col2Im, which TensorRT does not know, becomes views where windows lie side by side, else a ConvTranspose.

    Windows that do not overlap are put together by a transpose: (C, kh, kw, rows, columns) to (C, rows, kh, columns,
    kw). Else every element is added at its place by a transposed convolution of each channel whose kernel is 1 there
    and 0 elsewhere.

    Source: the definition of the operators.
    """
    sites = 0
    for node in tuple(graph.nodes("Col2Im")):
        made, block = known_shape(node.outputs[0]), constant(node.inputs[2])
        if made is None or len(made) != 4 or block is None:
            continue
        kernel = tuple(int(size) for size in block)
        bypass(graph, node, _put_together(graph, node, kernel, made) or _add_up(graph, node, kernel, made))
        sites += 1
    return sites


def _put_together(graph: Graph, node: ir.Node, kernel: tuple[int, ...], made: tuple[int, ...]) -> ir.Value | None:
    """What a Col2Im makes of windows side by side; None where they are not, or where a rest of the map is left over."""
    if node.attributes.get_ints("strides", (1, 1)) != kernel or set(node.attributes.get_ints("dilations", ())) - {1}:
        return None
    if any(node.attributes.get_ints("pads", ())) or any(made[2 + i] % kernel[i] for i in (0, 1)):
        return None
    counts = (made[2] // kernel[0], made[3] // kernel[1])
    apart = _view(graph, node, input_of(node, 0), (*made[:2], *kernel, *counts), "windows")
    return _view(graph, node, _turn(graph, node, apart, [0, 1, 4, 2, 5, 3], "turned"), made, "map")


def _add_up(graph: Graph, node: ir.Node, kernel: tuple[int, ...], made: tuple[int, ...]) -> ir.Value:
    """What a Col2Im makes, by a transposed convolution."""
    x = input_of(node, 0)
    strides, dilations = (node.attributes.get_ints(name, (1, 1)) for name in ("strides", "dilations"))
    pads = node.attributes.get_ints("pads", (0,) * 4)
    room = [made[2 + i] + pads[i] + pads[2 + i] - dilations[i] * (kernel[i] - 1) - 1 for i in (0, 1)]
    counts = [room[i] // strides[i] + 1 for i in (0, 1)]
    attributes: dict[str, int | Sequence[int]] = {
        "group": made[1],
        "strides": strides,
        "dilations": dilations,
        "pads": pads,
        "output_padding": [room[i] % strides[i] for i in (0, 1)],
    }
    size = math.prod(kernel)
    one = np.eye(size, dtype=np.float32 if x.dtype is None else x.dtype.numpy()).reshape(size, 1, *kernel)
    weight = add_constant(graph, f"{name_of(node.outputs[0])}_places", np.tile(one, (made[1], 1, 1, 1)))
    apart = _view(graph, node, x, (made[0], made[1] * size, *counts), "windows")
    return _insert(graph, node, "ConvTranspose", [apart, weight], made, "added", attributes)


def _view(graph: Graph, node: ir.Node, x: ir.Value, shape: Sequence[int], role: str) -> ir.Value:
    """X in another shape, before a node and named after it."""
    target = add_constant(graph, f"{name_of(node.outputs[0])}_{role}_shape", np.array(shape, np.int64))
    return _insert(graph, node, "Reshape", [x, target], shape, role)


def _turn(graph: Graph, node: ir.Node, x: ir.Value, perm: Sequence[int], role: str) -> ir.Value:
    """X with its axes in another order, before a node and named after it."""
    shape = known_shape(x) or ()
    return _insert(graph, node, "Transpose", [x], [shape[i] for i in perm], role, {"perm": list(perm)})


def _insert(
    graph: Graph,
    node: ir.Node,
    op: str,
    inputs: Sequence[ir.Value],
    shape: Sequence[int],
    role: str,
    attributes: Mapping[str, int | Sequence[int]] = NOTHING,
) -> ir.Value:
    """An operator before a node, named after it."""
    name = f"{name_of(node.outputs[0])}_{role}"
    out = ir.Value(name=name, shape=ir.Shape(shape), type=node.outputs[0].type)
    graph.body.insert_before(node, ir.node(op, inputs, attributes, outputs=[out], name=name))
    return out
