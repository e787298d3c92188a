"""Write operators in the form of an older opset, for parsers that read no newer one."""

from collections.abc import Callable

import numpy as np
import onnx
import onnx_ir as ir

from edgehybrid.errors import GraphError
from edgehybrid.graph import Graph, add_constant, constant, first_line, name_of, shape_of, tidy
from edgehybrid.quantizer.decomposition import Decomposition

_FILE_FORMATS = {17: 8, 18: 8, 19: 9, 20: 9, 21: 10, 22: 10}
"""Opset -> version of the ONNX file format that came with it."""
_REDUCTIONS = (
    *("ReduceL1", "ReduceL2", "ReduceLogSum", "ReduceLogSumExp", "ReduceMax", "ReduceMean", "ReduceMin"),
    *("ReduceProd", "ReduceSumSquare"),
)
_NEW_WORDS = {
    ("Pad", "mode", "wrap"): 19,
    ("Resize", "coordinate_transformation_mode", "half_pixel_symmetric"): 19,
    ("ScatterElements", "reduction", "max"): 18,
    ("ScatterElements", "reduction", "min"): 18,
    ("ScatterND", "reduction", "max"): 18,
    ("ScatterND", "reduction", "min"): 18,
}
"""Operator, attribute and value -> the opset that introduced it; onnx's checker looks at no values."""


def lower_opset(graph: Graph, newest: int) -> Graph:
    """The same function at an older opset.

    Args:
        graph: Float32-typed, with or without Q/DQ; not changed.
        newest: The opset to end at, 17 or newer.

    Returns:
        A new graph; the given one where it is not newer than that.

    Raises:
        GraphError: An operator has no form at that opset, by the name of its node.

    Source:
        ONNX's changelog of operators, opsets 17 to 23.
    """
    if graph.opset <= newest:
        return graph
    written = graph.clone()
    for node in tuple(written.nodes(*_FORMS)):
        since, write = _FORMS[node.op_type]
        if since > newest:
            write(written, node)
    for node in written.nodes():
        _drop_defaults(node, written.opset, newest)
        _check_words(node, newest)
    written.model.opset_imports[""] = newest
    written.model.ir_version = min(written.model.ir_version, _FILE_FORMATS[newest])
    _check(written)
    return tidy(written)


def _reduce(graph: Graph, node: ir.Node) -> None:
    """Axes are an attribute before opset 18, and all of them where there is none."""
    axes = node.inputs[1] if len(node.inputs) > 1 else None
    listed = constant(axes)
    if axes is not None and listed is None:
        raise _no_form(node, "its axes are computed")
    idle = bool(node.attributes.get_int("noop_with_empty_axes", 0))
    if idle and (listed is None or not listed.size):
        raise _no_form(node, "it reduces no axis")
    node.attributes.pop("noop_with_empty_axes", None)
    node.resize_inputs(1)
    if listed is not None and listed.size:
        node.attributes["axes"] = ir.AttrInt64s("axes", listed.astype(np.int64).ravel().tolist())


def _split(graph: Graph, node: ir.Node) -> None:
    """The sizes instead of the number of parts, which opset 18 introduced."""
    if node.attributes.pop("num_outputs", None) is None:
        return
    axis = node.attributes.get_int("axis", 0)
    sizes = np.asarray([shape_of(part)[axis] for part in node.outputs], np.int64)
    node.resize_inputs(2)
    node.replace_input_with(1, add_constant(graph, f"{node.name or name_of(node.outputs[0])}.split", sizes))


def _pad(graph: Graph, node: ir.Node) -> None:
    """Two numbers for every axis, not only for those that opset 18 lets the node name."""
    axes = node.inputs[3] if len(node.inputs) > 3 else None
    data = node.inputs[0]
    if axes is None or data is None:
        return
    listed, given = constant(axes), constant(node.inputs[1])
    if listed is None or given is None:
        raise _no_form(node, "its axes are computed")
    rank = len(shape_of(data))
    pads = np.zeros((2, rank), np.int64)
    pads[:, listed.astype(np.int64)] = given.reshape(2, -1)
    node.replace_input_with(1, add_constant(graph, f"{node.name or name_of(node.outputs[0])}.pads", pads.ravel()))
    node.resize_inputs(3)


def _grid_sample(graph: Graph, node: ir.Node) -> None:
    """Opset 20 renamed the modes."""
    mode = node.attributes.get_string("mode", "linear")
    node.attributes["mode"] = ir.AttrString("mode", {"linear": "bilinear", "cubic": "bicubic"}.get(mode, mode))


def _gelu(graph: Graph, node: ir.Node) -> None:
    """`x / 2 * (1 + erf(x / sqrt 2))`, or with `tanh(sqrt(2 / pi) * (x + 0.044715 x^3))` for the erf."""
    parts = Decomposition(graph, node)
    x = parts.data
    if node.attributes.get_string("approximate", "none") == "tanh":
        cubed = parts.add("Mul", "cubed", parts.add("Mul", "squared", x, x), x)
        bent = parts.add("Add", "bent", x, parts.add("Mul", "bend", cubed, parts.number("bend", 0.044715)))
        curve = parts.add("Tanh", "tanh", parts.add("Mul", "scaled", bent, parts.number("scale", np.sqrt(2 / np.pi))))
    else:
        curve = parts.add("Erf", "erf", parts.add("Div", "scaled", x, parts.number("scale", np.sqrt(2))))
    share = parts.add("Add", "share", curve, parts.number("one", 1))
    _finish(parts, parts.add("Mul", "halved", x, parts.number("half", 0.5)), share)


def _mish(graph: Graph, node: ir.Node) -> None:
    """`x * tanh(softplus(x))`."""
    parts = Decomposition(graph, node)
    _finish(parts, parts.data, parts.add("Tanh", "tanh", parts.add("Softplus", "softplus", parts.data)))


def _finish(parts: Decomposition, first: ir.Value, second: ir.Value) -> None:
    """Turn the node that is written out into the product of both, which keeps its name and that of its output."""
    parts.insert()
    node = parts.node
    node.op_type, node.overload = "Mul", ""
    node.attributes.clear()
    node.resize_inputs(2)
    node.replace_input_with(0, first)
    node.replace_input_with(1, second)


_FORMS: dict[str, tuple[int, Callable[[Graph, ir.Node], None]]] = {
    **dict.fromkeys(_REDUCTIONS, (18, _reduce)),
    "Split": (18, _split),
    "Pad": (18, _pad),
    "Mish": (18, _mish),
    "GridSample": (20, _grid_sample),
    "Gelu": (20, _gelu),
}
"""Operator -> the opset that introduced its newer form, and what writes the older one."""


def _drop_defaults(node: ir.Node, newer: int, older: int) -> None:
    """Drop attributes that the older form does not know where they say what it does anyway."""
    if not onnx.defs.has(node.op_type, older, ""):
        return
    known = onnx.defs.get_schema(node.op_type, older, "").attributes
    introduced = onnx.defs.get_schema(node.op_type, newer, "").attributes
    for name, attribute in list(node.attributes.items()):
        if name in known or name not in introduced:
            continue
        usual = onnx.helper.get_attribute_value(introduced[name].default_value)
        usual = usual.decode() if isinstance(usual, bytes) else usual
        ones = name == "dilations" and set(attribute.as_ints()) == {1}  # whose default the schema only tells in words
        if ones or attribute.value == usual:
            node.attributes.pop(name)


def _check_words(node: ir.Node, newest: int) -> None:
    for (operator, name, word), since in _NEW_WORDS.items():
        if node.op_type == operator and node.attributes.get_string(name, "") == word and since > newest:
            raise _no_form(node, f"{name} '{word}' came with opset {since}")


def _check(graph: Graph) -> None:
    """Hold every node against the operator of the opset that the graph names now."""
    context = onnx.checker.DEFAULT_CONTEXT
    context.ir_version, context.opset_imports = graph.model.ir_version, {"": graph.opset}
    for node in graph.nodes():
        if (problem := _problem(node, context)) is not None:
            raise _no_form(node, problem)


def _problem(node: ir.Node, context: onnx.checker.C.CheckerContext) -> str | None:
    try:
        onnx.checker.check_node(ir.serde.serialize_node(node), context)
    except onnx.checker.ValidationError as error:
        return first_line(error)
    return None


def _no_form(node: ir.Node, why: str) -> GraphError:
    return GraphError(
        f"node '{node.name or name_of(node.outputs[0])}' ({node.op_type}) has no form in the ONNX opset asked for",
        why=why,
        fix="export with opset_version=17, or choose a target with a newer TensorRT: edgehybrid targets",
    )
