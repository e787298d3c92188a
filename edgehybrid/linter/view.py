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
from edgehybrid.linter.carriers import axis_of, dependents, find_carriers
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
        self.carriers = tuple(find_carriers(graph))
        self.bare = graph.clone()
        self.names = label_nodes(self.bare)
        self.edges: dict[tuple[ir.Node, int], Edge] = {}
        self._strip()
        self.reads = self.follow(KEEPS_INT8)

    def _strip(self) -> None:
        """Let the readers of a DequantizeLinear read what was quantized."""
        computed = dependents(self.bare)
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


def dims(value: ir.Value | None) -> tuple[int, ...] | None:
    """The shape of a value; None where it is unknown or open."""
    return None if value is None else known_shape(value)
