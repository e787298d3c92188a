"""Find which int8 operators go back to float together: those that TensorRT fuses, and those that share one Q/DQ."""

import math
from collections.abc import Iterable, Mapping

import onnx_ir as ir

from edgehybrid.graph import PRODUCTS, Graph, constant, label_nodes, name_of, shape_of
from edgehybrid.graph.counting import macs_of
from edgehybrid.graph.structure import (
    KEEPS_INT8,
    MOVES,
    find_attentions,
    input_of,
    is_weight_transposed,
    producers,
    readers,
    residual_makers,
    weight_index,
)
from edgehybrid.records import LayerGroup, Plan

_INT8 = ("activation", "weight")
_POINTWISE = MOVES | {"Add", "Sub", "Mul", "Div", "Erf", "Gelu", "Relu", "Clip", "Sigmoid", "Tanh", "HardSigmoid"}
_POINTWISE |= {"HardSwish", "Softplus", "Mish", "BatchNormalization"}
"""What may stand between the two products of an MLP."""


def find_groups(graph: Graph, plan: Plan, *, single: bool = False) -> tuple[LayerGroup, ...]:
    """The groups of a plan, in the order of the graph.

    Together are: convolutions and products that read one tensor (query, key and value become one product, and one
    Q/DQ serves all); an MLP's widening and narrowing products with what lies between; the products of one attention.
    What hangs on a convolution (its normalisation, activation, residual addition and padding) goes with it: see
    `owners`.

    Args:
        graph: The one the plan was made for.
        plan: From `placement.plan`.
        single: Every convolution and product for itself.

    Returns:
        Every int8 convolution and matrix product in exactly one group.
    """
    labels = label_nodes(graph)
    int8 = {d.node for d in plan.decisions if d.kind in _INT8 and d.op in PRODUCTS}
    nodes = [node for node, label in labels.items() if label in int8]
    if single:
        return tuple(_describe([node], "single", labels, graph) for node in nodes)
    parts = _Parts(nodes)
    for siblings in _by_input(nodes, plan, labels).values():
        parts.join(siblings, "shared input")
    for first in parts.lists():
        parts.join([*first, *_narrowing(first, set(nodes))], "mlp")
    for attention in find_attentions(graph):
        parts.join([n for n in (*attention.scores, *attention.sums) if n in parts.where], "attention")
    found = [_describe(part, parts.why(part), labels, graph) for part in parts.lists()]
    return tuple(_named(found))


def owners(graph: Graph, plan: Plan, groups: Iterable[LayerGroup]) -> dict[str, int]:
    """First output of every operator that reads int8 -> the number of its group.

    A residual addition belongs to the convolution that adds the skip in its epilogue, a Pad to the convolution after
    it, anything else to its first int8 reader, or to what makes its input.
    """
    group_of = {node: i for i, group in enumerate(groups) for node in group.nodes}
    labels = label_nodes(graph)
    wanted = {d.node for d in plan.decisions if d.kind in _INT8}
    floats = {(d.node, d.input) for d in plan.decisions if d.kind == "float"}
    found = {}
    for node, label in labels.items():
        if label not in wanted:
            continue
        near = [label]
        makers = residual_makers(node) if node.op_type == "Add" else None
        if makers is not None:
            near += [labels[makers[i]] for i in (0, 1) if (label, i) in floats]
        near += [labels[reader] for output in node.outputs for reader in readers(output, KEEPS_INT8)]
        near += [labels[maker] for value in node.inputs if value is not None for maker in producers(value, KEEPS_INT8)]
        found[name_of(node.outputs[0])] = next((group_of[name] for name in near if name in group_of), 0)
    return found


class _Parts:
    """A partition of nodes that only ever gets coarser; parts and their nodes keep the order of the graph."""

    def __init__(self, nodes: list[ir.Node]) -> None:
        self.order = {node: i for i, node in enumerate(nodes)}
        self.where = dict(self.order)
        self.reasons: dict[int, str] = {}

    def join(self, nodes: list[ir.Node], why: str) -> None:
        """Make one part of all parts that these nodes are in."""
        numbers = {self.where[node] for node in nodes}
        if len(numbers) < 2:
            return
        kept = min(numbers)
        for node, number in self.where.items():
            if number in numbers:
                self.where[node] = kept
        self.reasons[kept] = why

    def lists(self) -> list[list[ir.Node]]:
        """The parts."""
        found: dict[int, list[ir.Node]] = {}
        for node, number in self.where.items():
            found.setdefault(number, []).append(node)
        return [found[number] for number in sorted(found)]

    def why(self, part: list[ir.Node]) -> str:
        """Why the part is one."""
        return self.reasons.get(self.where[part[0]], "single")


def _by_input(nodes: list[ir.Node], plan: Plan, labels: Mapping[ir.Node, str]) -> dict[str, list[ir.Node]]:
    """Quantized tensor -> the weighted operators that read it."""
    tensors = {d.node: d.tensor for d in plan.decisions if d.kind == "activation"}
    found: dict[str, list[ir.Node]] = {}
    for node in nodes:
        if _has_weight(node) and labels[node] in tensors:
            found.setdefault(tensors[labels[node]], []).append(node)
    return found


def _narrowing(first: list[ir.Node], int8: set[ir.Node]) -> list[ir.Node]:
    """The second products of an MLP whose first ones are given; none where they do not widen."""
    if not all(_has_weight(node) and _widths(node)[0] < _widths(node)[1] for node in first):
        return []
    reached = {node.outputs[0] for node in first}
    pending, found = list(reached), []
    while pending:
        for use in pending.pop(0).uses():
            node = use.node
            if node in int8 and _has_weight(node) and _widths(node)[0] > _widths(node)[1]:
                found.append(node)
            elif (node.op_type in _POINTWISE or _is_depthwise(node)) and node.outputs[0] not in reached:
                computed = [v for v in node.inputs if v is not None and constant(v) is None]
                if all(v in reached for v in computed):  # a skip from outside ends the MLP
                    reached.add(node.outputs[0])
                    pending.append(node.outputs[0])
    return list(dict.fromkeys(found))


def _has_weight(node: ir.Node) -> bool:
    return constant(node.inputs[1]) is not None


def _is_depthwise(node: ir.Node) -> bool:
    return node.op_type == "Conv" and node.attributes.get_int("group", 1) > 1 and shape_of(input_of(node, 1))[1] == 1


def _widths(node: ir.Node) -> tuple[int, int]:
    """Channels read and made by a product; a convolution over several pixels mixes more than channels: (0, 0)."""
    weight = shape_of(input_of(node, 1))
    if node.op_type == "Conv":
        return (weight[1], weight[0]) if math.prod(weight[2:]) == 1 else (0, 0)
    if weight_index(node) != 1 or len(weight) < 2:
        return 0, 0
    return (weight[-1], weight[-2]) if is_weight_transposed(node) else (weight[-2], weight[-1])


def _describe(part: list[ir.Node], why: str, labels: Mapping[ir.Node, str], graph: Graph) -> LayerGroup:
    batch = shape_of(graph.input)[0]
    names = tuple(labels[node] for node in part)
    reading = len({name_of(input_of(node, 0)) for node in part}) == 1
    kind = "shared input" if why == "mlp" and reading else why
    return LayerGroup(names[0], kind, names, sum(macs_of(node) for node in part) // batch)


def _named(groups: list[LayerGroup]) -> list[LayerGroup]:
    """Groups named by the path that their operators have in common, where that is theirs alone."""
    paths = [_common(group.nodes) for group in groups]
    return [
        LayerGroup(path, group.kind, group.nodes, group.macs)
        if path and len(group.nodes) > 1 and paths.count(path) == 1
        else group
        for group, path in zip(groups, paths, strict=True)
    ]


def _common(nodes: tuple[str, ...]) -> str:
    """`/block/attn` of `/block/attn/k/MatMul` and `/block/attn/v/MatMul`."""
    kept = []
    for words in zip(*(node.split("/") for node in nodes), strict=False):
        if len(set(words)) > 1:
            break
        kept.append(words[0])
    return "/".join(kept)
