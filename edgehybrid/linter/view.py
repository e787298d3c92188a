"""A quantized graph read twice: as it is written, and as the float network that its Q/DQ pairs sit on."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Literal

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgehybrid.graph import Graph, constant, known_shape, label_nodes
from edgehybrid.graph.counting import COUNTED
from edgehybrid.graph.structure import KEEPS_INT8

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
    """A QuantizeLinear, or the DequantizeLinear of a constant: what gives a tensor its scale."""

    node: ir.Node
    name: str
    tensor: str  # what it quantizes
    dtype: ir.DataType | None  # of what is quantized: int8 where all is well; None: unknown
    scale: NDArray[np.generic] | None  # None: computed
    zero: NDArray[np.generic] | None  # None: left out or computed
    axis: int
    weight: bool  # of a constant


@dataclass(frozen=True)
class Edge:
    """What stands between a tensor and one input that reads it dequantized."""

    scale: NDArray[np.generic] | None
    axis: int
    carrier: str  # name of the node that gives the scale


class View:
    """A graph, its Q/DQ operators, and a copy without them: `edges` says which inputs of the copy read int8."""

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.carriers = tuple(_find_carriers(graph))
        self.bare = graph.clone()
        self.names = label_nodes(self.bare)
        self.edges: dict[tuple[ir.Node, int], Edge] = {}
        for node in list(self.bare.nodes("DequantizeLinear")):
            self._strip(node)

    def _strip(self, node: ir.Node) -> None:
        """Let the readers of a DequantizeLinear read what was quantized."""
        source = node.inputs[0]
        if source is None:
            return
        maker = source.producer()
        quantizer = maker if maker is not None and maker.op_type == "QuantizeLinear" else None
        if quantizer is None and constant(source) is None:
            return  # an operator that computes int8
        origin = source if quantizer is None else quantizer.inputs[0]
        giver = quantizer or node
        edge = Edge(constant(giver.inputs[1]), axis_of(giver), self.names[giver])
        for use in list(node.outputs[0].uses()):
            if use.node not in self.names:
                continue  # in the body of control flow, which is not examined
            self.edges[use.node, use.idx] = edge
            use.node.replace_input_with(use.idx, origin)

    def products(self) -> list[ir.Node]:
        """Convolutions and matrix products of the copy, in order."""
        return list(self.bare.nodes(*INT8_OPERATORS))

    def reads_int8(self, node: ir.Node, index: int) -> bool:
        """Whether an input is dequantized, directly or before operators that only move or cut values."""
        pending, seen = [(node, index)], {node}
        while pending:
            reader, at = pending.pop()
            if (reader, at) in self.edges:
                return True
            value = reader.inputs[at] if at < len(reader.inputs) else None
            maker = None if value is None else value.producer()
            if maker is not None and maker.op_type in KEEPS_INT8 and maker not in seen:
                seen.add(maker)
                pending += [(maker, i) for i in (range(len(maker.inputs)) if maker.op_type == "Concat" else (0,))]
        return False

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


def _find_carriers(graph: Graph) -> list[Carrier]:
    names = label_nodes(graph)
    found = []
    for node in graph.nodes("QuantizeLinear", "DequantizeLinear"):
        source = node.inputs[0]
        dequantizes = node.op_type == "DequantizeLinear"
        if source is None or (dequantizes and constant(source) is None):
            continue
        zero = node.inputs[2] if len(node.inputs) > 2 else None
        found.append(
            Carrier(
                node=node,
                name=names[node],
                tensor=str(source.name),
                dtype=source.dtype if dequantizes else _written_type(node, zero),
                scale=constant(node.inputs[1]),
                zero=constant(zero),
                axis=axis_of(node),
                weight=constant(source) is not None,
            )
        )
    return found


def _written_type(node: ir.Node, zero: ir.Value | None) -> ir.DataType | None:
    """The type a QuantizeLinear writes: that of its zero point, else `output_dtype`, else uint8 (ONNX standard)."""
    if zero is not None:
        array = constant(zero)
        return zero.dtype if array is None else ir.DataType.from_numpy(array.dtype)
    asked = node.attributes.get_int("output_dtype", 0)
    return ir.DataType(asked) if asked else ir.DataType.UINT8
