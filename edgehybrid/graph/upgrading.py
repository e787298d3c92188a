"""Write a file of an old opset in one that every stage knows."""

import numpy as np
import onnx
import onnx.version_converter
import onnx_ir as ir

from edgehybrid.errors import GraphError
from edgehybrid.graph import MIN_OPSET, Graph, constant, first_line, known_shape, name_of, opset_of, shapes
from edgehybrid.graph.folding import compute_shapes
from edgehybrid.graph.structure import input_of

OLDEST = 7
"""The first opset whose operators broadcast as they do today, and the first that ONNX Runtime runs."""
WRITTEN = 17
"""The opset to end at, as that of the zoo's exports."""


def raise_opset(proto: onnx.ModelProto) -> onnx.ModelProto:
    """The same function at opset 17, where the file's is below 13.

    Args:
        proto: Checked, its input of fixed size; may lose its large weights.

    Returns:
        A new protobuf; the given one where its opset is 13 or newer.

    Raises:
        GraphError: An operator has no form at that opset, by the name of its node where that is known.

    Source:
        onnx's version converter. It leaves out which pixels a Resize of opset 10 and an Upsample read, which that opset
        does not say either: here they are those that ONNX Runtime reads.
    """
    opset = opset_of(proto)
    if opset >= MIN_OPSET:
        return proto
    graph = compute_shapes(Graph(shapes.open_model(proto)))  # the converter looks at how many axes a Softmax has
    for node in graph.nodes("Hardmax"):
        _check_hardmax(node, opset)
    unsaid = graph.nodes("Upsample", "Resize") if opset < 11 else ()
    pixels = {name_of(node.outputs[0]): _pixels(node, opset) for node in unsaid}
    try:
        raised = onnx.version_converter.convert_version(ir.to_proto(graph.model), WRITTEN)
    except Exception as error:  # onnx raises its own types and RuntimeError
        raise _no_form("the network", opset, first_line(error)) from error
    for node in raised.graph.node:
        said = pixels.get(node.output[0], {}) if node.op_type == "Resize" else {}
        node.attribute.extend(onnx.helper.make_attribute(*pair) for pair in said.items())
    return raised


def _check_hardmax(node: ir.Node, opset: int) -> None:
    """It looked at all axes from one on, which the converter does not see to as it does with Softmax."""
    axes = len(known_shape(input_of(node, 0)) or ())
    if node.attributes.get_int("axis", 1) not in (-1, axes - 1):
        raise _no_form(_named(node), opset, "its axis is not the last")


def _pixels(node: ir.Node, opset: int) -> dict[str, str]:
    """Attributes of opset 11 for what ONNX Runtime computes of a node of opset 10 and before."""
    where = {"coordinate_transformation_mode": "asymmetric"}
    if node.attributes.get_string("mode", "nearest") != "nearest":
        return where
    rates = np.ones(1) if node.op_type == "Upsample" else constant(input_of(node, 1))
    if rates is None:
        raise _no_form(_named(node), opset, "its scales are computed")
    shrinks, grows = bool(np.less(rates, 1).any()), bool(np.greater(rates, 1).any())
    if shrinks and grows:
        raise _no_form(_named(node), opset, "it shrinks one axis and stretches another")
    return {**where, "nearest_mode": "ceil" if shrinks else "floor"}


def _named(node: ir.Node) -> str:
    return f"node '{node.name or name_of(node.outputs[0])}' ({node.op_type})"


def _no_form(what: str, opset: int, why: str) -> GraphError:
    return GraphError(
        f"{what} of opset {opset} cannot be written in opset {WRITTEN}",
        why=why,
        fix=f"export again with opset_version={WRITTEN}",
    )
