"""Compute the sum of two classifiers as one."""

import numpy as np
import onnx_ir as ir

from edgehybrid.graph import Graph, known_shape, name_of
from edgehybrid.graph.structure import input_of
from edgehybrid.rewrites.layer import Layer, layer_into
from edgehybrid.rewrites.pattern import bypass, can_bypass, joint_name, only_user


def merge_heads(graph: Graph) -> int:
    """(W_1 x + b_1) + (W_2 y + b_2) becomes [W_1 W_2] [x; y] + (b_1 + b_2), for vectors x and y.

    Conformer adds the logits of its two branches. Only for one vector per image: to put maps or tokens side by side
    would cost a copy. It saves an addition of logits: nothing that can be measured, in ONNX Runtime or in an engine,
    and nothing lost.

    Source: the definition of a product of block matrices.
    """
    sites = 0
    for add in tuple(graph.nodes("Add")):
        first, second = layer_into(input_of(add, 0)), layer_into(input_of(add, 1))
        if first is None or second is None or not _can_merge(add, first, second):
            continue
        weight = np.concatenate([first.weight, second.weight], axis=1)
        bias = None if first.bias is None or second.bias is None else first.bias + second.bias
        shapes = [known_shape(layer.input) or () for layer in (first, second)]
        if not can_bypass(add, first.output) or not first.write(graph, weight, bias):
            continue
        both = ir.Value(
            name=f"{name_of(add.outputs[0])}_inputs",
            shape=ir.Shape([shapes[0][0], shapes[0][1] + shapes[1][1]]),
            type=first.input.type,
        )
        name = joint_name(first.node.name or "head", second.node.name or "head")
        concat = ir.node("Concat", [first.input, second.input], {"axis": -1}, outputs=[both], name=f"{name}.concat")
        graph.body.insert_before(first.node, concat)
        first.node.replace_input_with(0, both)
        first.node.name = name
        bypass(graph, add, first.output)
        sites += 1
    return sites


def _can_merge(add: ir.Node, first: Layer, second: Layer) -> bool:
    """Whether both are products of different vectors that nothing but this sum reads."""
    shapes = known_shape(first.input), known_shape(second.input)
    return (
        all(layer.node.op_type != "Conv" and only_user(layer.output) is add for layer in (first, second))
        and first.input is not second.input
        and (first.bias is None) == (second.bias is None)
        and all(shape is not None and len(shape) == 2 for shape in shapes)
        and known_shape(first.output) == known_shape(second.output) == known_shape(add.outputs[0])
    )
