"""Refuse, by the name of its node, what no engine can be built from or what only looks like a graph."""

import functools
from collections.abc import Callable, Iterator

import onnx
from google.protobuf.message import Message

from edgehybrid.errors import GraphError
from edgehybrid.graph import CHECK, check_domain, describe, opset_of

BROKEN = f"export it again, or see what `{CHECK}` (comes with onnx) says"
CONTROL_FLOW = ("If", "Loop", "Scan")
RANDOM = ("Bernoulli", "Multinomial", "RandomNormal", "RandomNormalLike", "RandomUniform", "RandomUniformLike")


def check_operators(proto: onnx.ModelProto, *, branching: bool = False) -> None:
    """Look at every node for itself.

    Args:
        proto: Of the standard operator set.
        branching: Let If pass, as its condition may turn out to be known.

    Raises:
        GraphError: An operator of another domain, unknown, random, control flow, or in training mode.
    """
    for node in proto.graph.node:
        if not (branching and node.op_type == "If"):
            _check_node(node, opset_of(proto))
    _check_dropout(proto)


def check_structure(proto: onnx.ModelProto) -> None:
    """Look at how nodes and weights hang together, and at every node but control flow as the standard has it.

    Raises:
        GraphError: As `check_wiring`; a wrong attribute; a sparse weight; no output.
    """
    check_wiring(proto)
    context = onnx.checker.DEFAULT_CONTEXT
    context.ir_version, context.opset_imports = proto.ir_version, {"": opset_of(proto)}
    if proto.graph.sparse_initializer:
        name = proto.graph.sparse_initializer[0].values.name
        raise GraphError(f"weight '{name}' is sparse", why="no kernel here reads such weights", fix="export it dense")
    for node in proto.graph.node:
        if node.op_type in CONTROL_FLOW:  # what its body reads from outside would seem to be missing
            continue
        _check_part(functools.partial(onnx.checker.check_node, node, context), describe(node))
        for tensor in (attribute.t for attribute in node.attribute if attribute.HasField("t")):
            _check_part(functools.partial(onnx.numpy_helper.to_array, tensor), describe(node))
    if not proto.graph.output:
        raise GraphError("the network has no output", why="nothing could be measured", fix=BROKEN)


def check_weights(proto: onnx.ModelProto) -> None:
    """Look at every weight for itself.

    Raises:
        GraphError: One does not fit its shape.
    """
    for tensor in proto.graph.initializer:
        _check_part(functools.partial(onnx.numpy_helper.to_array, tensor), f"weight '{tensor.name}'")


def check_wiring(proto: onnx.ModelProto) -> None:
    """Look at how nodes and weights hang together, whatever the nodes are.

    Raises:
        GraphError: A tensor that nothing computes, or two nodes do; a weight that does not fit its shape; text that is
            none.
    """
    for text in _texts(proto):
        if not isinstance(text, str):
            raise GraphError(f"the name {text!r} is no text", why="names in ONNX files are UTF-8", fix=BROKEN)
    check_weights(proto)
    known = {"", *(value.name for value in (*proto.graph.input, *proto.graph.initializer))}
    known |= {tensor.values.name for tensor in proto.graph.sparse_initializer}
    for node in proto.graph.node:
        loose = [name for name in node.input if name not in known]
        twice = [name for name in node.output if name and name in known]
        if loose or twice:
            why = (
                f"it reads '{loose[0]}', which nothing before it computes" if loose else f"'{twice[0]}' exists already"
            )
            raise GraphError(f"{describe(node)} does not fit into the graph", why=why, fix=BROKEN)
        known.update(node.output)
    for output in proto.graph.output:
        if output.name not in known:
            raise GraphError(
                f"nothing computes the output '{output.name}'", why="the graph has a loose end", fix=BROKEN
            )


def _check_node(node: onnx.NodeProto, opset: int) -> None:
    check_domain(node)
    if node.op_type in CONTROL_FLOW:
        raise GraphError(
            f"{describe(node)} is control flow ({node.op_type})",
            why="an engine here is one fixed sequence of operators",
            fix="export without branches and loops that depend on the image",
        )
    if node.op_type in RANDOM:
        raise GraphError(
            f"{describe(node)} draws random numbers ({node.op_type})",
            why="the same image would get another answer each time",
            fix="call model.eval() and export again",
        )
    if not onnx.defs.has(node.op_type, opset, ""):
        raise GraphError(
            f"{describe(node)} is an unknown operator, {node.op_type}",
            why=f"the ONNX standard has none of that name in opset {opset}",
            fix="export again with a newer opset_version, or without custom operators",
        )
    if any(a.name == "training_mode" and a.i for a in node.attribute):
        raise _training(node, "its result depends on the other images of a batch")


def _check_dropout(proto: onnx.ModelProto) -> None:
    """Refuse a Dropout that drops: its third input, unlike an attribute, is only known with the constants."""
    constants = {tensor.name: tensor for tensor in proto.graph.initializer}
    constants |= {n.output[0]: a.t for n in proto.graph.node if n.op_type == "Constant" for a in n.attribute}
    for node in proto.graph.node:
        if node.op_type == "Dropout" and len(node.input) > 2 and node.input[2]:
            mode = constants.get(node.input[2])
            if mode is None or onnx.numpy_helper.to_array(mode).any():
                raise _training(node, "it drops other values each time")


def _training(node: onnx.NodeProto, why: str) -> GraphError:
    return GraphError(
        f"{describe(node)} ({node.op_type}) is in training mode", why=why, fix="call model.eval() and export again"
    )


def _texts(message: Message) -> Iterator[object]:
    """What stands in every text field; protobuf hands out bytes where it is no UTF-8."""
    for field, value in message.ListFields():
        parts = value if field.is_repeated else [value]
        if field.type == field.TYPE_STRING:
            yield from parts
        elif field.type == field.TYPE_MESSAGE:
            for part in parts:
                yield from _texts(part)


def _check_part(check: Callable[[], object], what: str) -> None:
    try:
        check()
    except Exception as error:  # onnx raises its own types, and ValueError where the message cannot be written
        why = " ".join(str(error).split())[:200]
        raise GraphError(f"{what} is not valid", why=why or type(error).__name__, fix=BROKEN) from error
