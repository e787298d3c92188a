"""A quantized graph read twice: as it is written, and as the float network that its Q/DQ pairs sit on."""

from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgehybrid.graph import Graph, constant, known_shape, label_nodes
from edgehybrid.graph.counting import COUNTED
from edgehybrid.graph.structure import KEEPS_INT8
from edgehybrid.linter.moves import quantizer_of

INT8_OPERATORS = COUNTED
"""Operators that have int8 kernels worth having."""

Site = tuple[str, str]
"""Name of a node, and what was found there."""


@dataclass(frozen=True)
class Rule:
    """One row of a table; every row is tried on every graph."""

    name: str
    severity: Literal["error", "warning"]
    fix: str
    find: Callable[["View"], Iterable[Site]]


@dataclass(frozen=True)
class Carrier:
    """What gives a tensor its scale: a QuantizeLinear, or a DequantizeLinear that does not repeat the one before it."""

    node: ir.Node
    name: str
    tensor: str  # what it quantizes or dequantizes
    dtype: ir.DataType | None  # of the levels: int8 where all is well; None: unknown
    scale: NDArray[np.generic] | None  # None: computed
    zero: NDArray[np.generic] | None  # None: left out or computed
    axis: int
    weight: bool  # of what does not depend on the image


@dataclass(frozen=True, eq=False)
class Edge:
    """What stands between a tensor and one input that reads it dequantized."""

    scale: NDArray[np.generic] | None
    axis: int
    carrier: str  # name of the node that gives the scale
    weight: bool  # of what does not depend on the image


class View:
    """A graph, its Q/DQ operators, and a copy without them.

    Of the copy, `edges` says which inputs read int8, and `reads` which do so directly or before operators that only
    move, choose or cut values.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.carriers = tuple(_find_carriers(graph))
        self.bare = graph.clone()
        self.names = label_nodes(self.bare)
        self.edges: dict[tuple[ir.Node, int], Edge] = {}
        self._strip()
        self.reads = self.follow(KEEPS_INT8)

    def _strip(self) -> None:
        """Let the readers of a DequantizeLinear read what was quantized."""
        computed = _dependents(self.bare)
        bypassed = []
        for node in self.bare.nodes("DequantizeLinear"):
            source, quantizer = node.inputs[0], quantizer_of(node)
            if source is None or (quantizer is None and source in computed):
                continue  # an operator that computes int8
            giver = quantizer or node
            edge = Edge(constant(giver.inputs[1]), axis_of(node), self.names[giver], source not in computed)
            bypassed += [node] if quantizer is None else [node, quantizer]
            self.edges |= dict.fromkeys(self._uses(node), edge)
        for node in bypassed:
            for reader, index in self._uses(node):
                reader.replace_input_with(index, node.inputs[0])

    def _uses(self, node: ir.Node) -> list[tuple[ir.Node, int]]:
        """Which inputs read a result, apart from the bodies of control flow, which are not examined."""
        return [(use.node, use.idx) for use in node.outputs[0].uses() if use.node in self.names]

    def follow(self, through: Collection[str]) -> dict[tuple[ir.Node, int], frozenset[Edge]]:
        """Through which edges an input of the copy is dequantized, directly or before operators of the given types.

        A Concat passes int8 on if all that it joins is int8.
        """
        found: dict[tuple[ir.Node, int], frozenset[Edge]] = {}
        passed: dict[ir.Value | None, frozenset[Edge]] = {}
        for node in self.bare.nodes():
            for index, value in enumerate(node.inputs):
                edge = self.edges.get((node, index))
                found[node, index] = passed.get(value, frozenset()) if edge is None else frozenset([edge])
            if node.op_type in through:
                edges = [found[node, index] for index in range(len(node.inputs) if node.op_type == "Concat" else 1)]
                passed |= dict.fromkeys(node.outputs, frozenset().union(*edges) if all(edges) else frozenset())
        return found

    def products(self) -> list[ir.Node]:
        """Convolutions and matrix products of the copy, in order."""
        return list(self.bare.nodes(*INT8_OPERATORS))

    def reads_int8(self, node: ir.Node, index: int) -> bool:
        """Whether an input is dequantized, directly or before operators that only move, choose or cut values."""
        return bool(self.reads.get((node, index)))

    def is_int8(self, node: ir.Node) -> bool:
        """Whether a product reads both operands dequantized."""
        return node.op_type in INT8_OPERATORS and self.reads_int8(node, 0) and self.reads_int8(node, 1)

    def label(self, node: ir.Node) -> str:
        """Name of a node of the copy."""
        return self.names[node]


def axis_of(node: ir.Node) -> int:
    """The axis along which the scales of a Q/DQ operator lie, should there be several."""
    return node.attributes.get_int("axis", 1)


def dims(value: ir.Value | None) -> tuple[int, ...] | None:
    """The shape of a value; None where it is unknown or open."""
    return None if value is None else known_shape(value)


def same_numbers(one: NDArray[np.generic] | None, other: NDArray[np.generic] | None) -> bool:
    """Whether two constants hold the same numbers, of which a single one stands for all."""
    if one is None or other is None or (one.size != other.size and 1 not in (one.size, other.size)):
        return False
    return bool(np.all(one.reshape(-1) == other.reshape(-1)))


def _find_carriers(graph: Graph) -> list[Carrier]:
    names, computed = label_nodes(graph), _dependents(graph)
    found = []
    for node in graph.nodes("QuantizeLinear", "DequantizeLinear"):
        source, quantizer = node.inputs[0], None
        if node.op_type == "DequantizeLinear":
            quantizer = quantizer_of(node)
        if source is None or (quantizer is not None and _says_the_same(node, quantizer)):
            continue
        writer = node if node.op_type == "QuantizeLinear" else quantizer
        found.append(
            Carrier(
                node=node,
                name=names[node],
                tensor=str(source.name),
                dtype=source.dtype or _type_of(_zero_of(node)) if writer is None else _written_type(writer),
                scale=constant(node.inputs[1]),
                zero=constant(_zero_of(node)),
                axis=axis_of(node),
                weight=source not in computed,
            )
        )
    return found


def _dependents(graph: Graph) -> set[ir.Value]:
    """What depends on an input of the graph."""
    found = set(graph.body.inputs)
    for node in graph.nodes():
        if not found.isdisjoint(node.inputs):
            found.update(node.outputs)
    return found


def _says_the_same(node: ir.Node, quantizer: ir.Node) -> bool:
    """Whether a DequantizeLinear has the scale and zero point of the QuantizeLinear before it."""
    for one, other in ((node.inputs[1], quantizer.inputs[1]), (_zero_of(node), _zero_of(quantizer))):
        if one is not other and not same_numbers(_numbers(one), _numbers(other)):
            return False
    return True


def _zero_of(node: ir.Node) -> ir.Value | None:
    return node.inputs[2] if len(node.inputs) > 2 else None


def _numbers(value: ir.Value | None) -> NDArray[np.generic] | None:
    """A constant; zero for one that is left out."""
    return np.zeros(1) if value is None else constant(value)


def _written_type(node: ir.Node) -> ir.DataType | None:
    """The type a QuantizeLinear writes: that of its zero point, else `output_dtype`, else uint8 (ONNX standard)."""
    zero = _zero_of(node)
    if zero is not None:
        return _type_of(zero)
    asked = node.attributes.get_int("output_dtype", 0)
    return ir.DataType(asked) if asked else ir.DataType.UINT8


def _type_of(value: ir.Value | None) -> ir.DataType | None:
    array = constant(value)
    if array is not None:
        return ir.DataType.from_numpy(array.dtype)
    return None if value is None else value.dtype
