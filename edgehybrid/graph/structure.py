"""What a graph is built of beyond single operators: attention, residual additions, scores; who makes and reads what."""

from collections.abc import Container, Iterator
from dataclasses import dataclass

import onnx_ir as ir

from edgehybrid.errors import GraphError
from edgehybrid.graph import CHECK, Graph, constant, holds_floats, label_nodes, name_of, shape_of

FUSED_HEAD_SIZES = (16, 32, 64)
FUSED_MAX_LENGTH = 512
"""What TensorRT's fused int8 attention takes (developer guide, quoted in TensorRT #2981 and #4167)."""
FUSED_FLOAT16_HEAD_SIZES = range(16, 257, 8)
"""What its fused float16 attention takes (the same)."""

RESHAPES = {"Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze"}
MOVES = RESHAPES | {"Transpose", "Dropout"}
KEEPS_INT8 = MOVES | {"Relu", "Clip", "MaxPool", "Slice", "Split", "Concat", "Pad"}
_POINTWISE = {
    *("Add", "Sub", "Mul", "Div", "Pow", "Neg", "Abs", "Exp", "Sqrt", "Clip", "Identity", "Cast", "Erf", "Gelu"),
    *("Sigmoid", "Tanh", "Relu", "HardSigmoid", "HardSwish", "Softplus", "Mish"),
}
_ACTIVATIONS = {"Gelu", "HardSwish", "Mish", "Swish", "Elu", "Selu", "Celu"}
_CHOOSING = ("TopK", "NonMaxSuppression", "ArgMax", "ArgMin", "NonZero")
SCORES = MOVES | {"Add", "Sub", "Mul", "Div", "Where", "Slice", "Pad", "Cast", "Expand", "Concat", "Gather"}
"""What may stand between the product of queries and keys and its softmax."""
_BOUNDED = SCORES | {"Clip", "Min", "Max", "Tanh"}
"""The same, with what bounds the scores."""
_WEIGHED = MOVES | {"Cast", "Where", "Mul", "Div", "Slice"}
"""What may stand between a softmax and the product of its weights and the values."""


@dataclass(frozen=True)
class Attention:
    """The matrix products around one softmax."""

    softmax: ir.Node
    scores: tuple[ir.Node, ...]  # they make its logits; terms with a constant operand included
    sums: tuple[ir.Node, ...]  # they read its result
    plain: bool  # scaled and masked before the softmax, moved behind it: what fused kernels are documented for


def find_choosers(graph: Graph) -> dict[str, str]:
    """Output of the graph -> label of a node on which it depends and which chooses places by values.

    A detector without anchors, such as RT-DETR, puts out what belongs to the places of its largest scores: numbers
    hardly changed may change their order.
    """
    labels = label_nodes(graph)
    chosen: dict[ir.Value, str] = {}
    for node in graph.nodes():
        label = next((chosen[value] for value in node.inputs if value in chosen), None)
        label = labels[node] if node.op_type in _CHOOSING else label
        chosen |= {} if label is None else dict.fromkeys(node.outputs, label)
    return {name_of(value): chosen[value] for value in graph.body.outputs if value in chosen}


def scores_of(graph: Graph) -> ir.Value | None:
    """The output that is taken for the class scores: the first of floats (N, classes); None where there is none."""
    return next((value for value in graph.body.outputs if len(shape_of(value)) == 2 and holds_floats(value)), None)


def class_scores(graph: Graph) -> ir.Value:
    """The same, of a network that must have some.

    Raises:
        GraphError: It has none.
    """
    scores = scores_of(graph)
    if scores is None:
        raise GraphError(
            "the network has no class scores",
            why="none of its outputs is of floats (N, classes)",
            fix="give the network with its classification head",
        )
    return scores


def feeding(graph: Graph, value: ir.Value) -> tuple[ir.Node, ...]:
    """The nodes that a value depends on, in the order of the graph."""
    wanted, found = {value}, []
    for node in reversed(tuple(graph.nodes())):
        if wanted.intersection(node.outputs):
            found.append(node)
            wanted.update(v for v in node.inputs if v is not None)
    return tuple(reversed(found))


def computed(graph: Graph) -> dict[str, ir.Value]:
    """Every tensor that a node computes, by name."""
    return {name_of(out): out for node in graph.nodes() for out in node.outputs}


def find_attentions(graph: Graph) -> tuple[Attention, ...]:
    """Every softmax with products of two computed tensors before it and products after it."""
    found = []
    for softmax in graph.nodes("Softmax"):
        scores, sums = _products_around(softmax, SCORES, MOVES)
        plain = bool(sums) and not all(map(is_weighted, scores))
        if not plain:
            around = _products_around(softmax, _BOUNDED, _WEIGHED)
            scores, sums = (tuple(node for node in side if not is_weighted(node)) for side in around)
        if scores and sums:
            found.append(Attention(softmax, scores, sums, plain))
    return tuple(found)


def _products_around(
    softmax: ir.Node, before: set[str], after: set[str]
) -> tuple[tuple[ir.Node, ...], tuple[ir.Node, ...]]:
    """The matrix products that make the logits of a softmax, and those that read its result."""
    sides = producers(input_of(softmax, 0), before), readers(softmax.outputs[0], after)
    scores, sums = (tuple(node for node in side if node.op_type == "MatMul") for side in sides)
    return scores, sums


def core_sizes(attention: Attention) -> dict[ir.Node, tuple[int, int, int]]:
    """Each product of an attention -> (head size, queries, keys).

    Raises:
        GraphError: A shape is not static.
    """
    sizes = {}
    for node in attention.scores:
        first, out = shape_of(input_of(node, 0)), shape_of(node.outputs[0])
        sizes[node] = (first[-1], out[-2], out[-1])
    for node in attention.sums:
        first, out = shape_of(input_of(node, 0)), shape_of(node.outputs[0])
        sizes[node] = (out[-1], out[-2], first[-1])
    return sizes


def fits_fused_int8(head_size: int, queries: int, keys: int) -> bool:
    """Whether TensorRT's fused int8 attention takes a core of these sizes."""
    return head_size in FUSED_HEAD_SIZES and max(queries, keys) <= FUSED_MAX_LENGTH


def fits_fused_float16(head_size: int) -> bool:
    """Whether TensorRT's fused float16 attention takes heads of this size, whatever the lengths."""
    return head_size in FUSED_FLOAT16_HEAD_SIZES


def residual_makers(node: ir.Node) -> tuple[ir.Node, ir.Node] | None:
    """The operators that make the two inputs of a residual Add; None for any other Add.

    Residual is an Add of two computed tensors of one shape.

    Raises:
        GraphError: A shape is not static.
    """
    first, second = input_of(node, 0), input_of(node, 1)
    if any(constant(v) is not None or v.producer() is None for v in (first, second)):
        return None
    if shape_of(first) != shape_of(second):
        return None
    return _maker(first), _maker(second)


def _maker(value: ir.Value) -> ir.Node:
    """The operator whose result this is, moves apart."""
    node = value.producer()
    while node is not None and node.op_type in MOVES and input_of(node, 0).producer() is not None:
        node = input_of(node, 0).producer()
    if node is None:
        raise ValueError(f"'{value.name}' is not computed")
    return node


def is_activation(node: ir.Node) -> bool:
    """Whether a node computes an activation function of more than two slopes: an operator, or a product that ends one.

    GELU and SiLU are often written as a product of two functions of one tensor.
    """
    if node.op_type != "Mul":
        return node.op_type in _ACTIVATIONS
    first, second = input_of(node, 0), input_of(node, 1)
    return constant(first) is None and constant(second) is None and _root(first) is _root(second)


def branch_factors(node: ir.Node) -> tuple[ir.Node, ir.Node] | None:
    """The operators that make the two factors of a Mul of two branches; None for any other Mul.

    None for a constant factor, and where both factors are pointwise functions of one tensor: GELU and SiLU are
    written so.
    """
    first, second = input_of(node, 0), input_of(node, 1)
    if any(constant(v) is not None or v.producer() is None for v in (first, second)) or _root(first) is _root(second):
        return None
    return _maker(first), _maker(second)


def _root(value: ir.Value) -> ir.Value:
    """What a tensor is a pointwise function of."""
    while (node := value.producer()) is not None and node.op_type in _POINTWISE:
        computed = [v for v in node.inputs if v is not None and constant(v) is None]
        if len(computed) != 1:
            break
        value = computed[0]
    return value


def weight_index(node: ir.Node) -> int:
    """Which operand of a product or sum is constant: 1, 0, or -1 for none."""
    return next((index for index in (1, 0) if constant(node.inputs[index]) is not None), -1)


def is_weight_transposed(node: ir.Node) -> bool:
    """Whether a matrix product has its weight as (out, in), as a Gemm with `transB` does, not as (in, out)."""
    return node.op_type == "Gemm" and bool(node.attributes.get_int("transB", 0))


def permutation(node: ir.Node, rank: int) -> tuple[int, ...]:
    """Which axis of its input a Transpose puts at each place; without an attribute it turns all of them round."""
    return tuple(node.attributes.get_ints("perm", tuple(reversed(range(rank)))))


def is_weighted(node: ir.Node) -> bool:
    """Whether an operand of a product is constant, as it is or moved."""
    for index in (0, 1):
        value = input_of(node, index)
        while (maker := value.producer()) is not None and maker.op_type in MOVES:
            value = input_of(maker, 0)
        if constant(value) is not None:
            return True
    return False


def input_of(node: ir.Node, index: int) -> ir.Value:
    """An input that the operator cannot do without.

    Raises:
        GraphError: It is not there.
    """
    value = node.inputs[index] if index < len(node.inputs) else None
    if value is None:
        raise GraphError(
            f"node '{node.name}' ({node.op_type}) has no input {index}",
            why="the operator needs it",
            fix=f"check the file with `{CHECK}` or export it again",
        )
    return value


def reduced_axes(node: ir.Node) -> list[int]:
    """Which axes a reduction takes together, counted from the front; every one where it does not say."""
    rank = len(shape_of(input_of(node, 0)))
    given = constant(node.inputs[1]) if len(node.inputs) > 1 else None  # an input since opset 18
    axes = list(node.attributes.get_ints("axes", ())) if given is None else given.reshape(-1).tolist()
    return [int(axis) % rank for axis in axes] or list(range(rank))


def find_read(node: ir.Node, index: int, names: Container[str]) -> str | None:
    """Which of the tensors named an operator reads at an input, itself or through a Pad; None for neither."""
    value = input_of(node, index)
    pad = value.producer()
    before = input_of(pad, 0) if pad is not None and pad.op_type == "Pad" else value
    return next((each.name for each in (value, before) if each.name is not None and each.name in names), None)


def readers(value: ir.Value, through: set[str]) -> Iterator[ir.Node]:
    """Every node that reads the value, directly or through operators of the given types; those are not named."""
    pending, seen = [value], {value}
    while pending:
        for use in pending.pop(0).uses():
            if use.node.op_type not in through:
                yield use.node
                continue
            fresh = [out for out in use.node.outputs if out not in seen]
            seen.update(fresh)
            pending.extend(fresh)


def producers(value: ir.Value, through: set[str]) -> Iterator[ir.Node]:
    """Every node that computes the value, directly or through operators of the given types; those are not named."""
    pending, seen = [value], {value}
    while pending:
        node = pending.pop(0).producer()
        if node is None:
            continue
        if node.op_type not in through:
            yield node
            continue
        fresh = [v for v in node.inputs if v is not None and v not in seen]
        seen.update(fresh)
        pending.extend(fresh)
