"""What gives tensors their scales: the Q/DQ operators of a graph and what each of them says."""

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgehybrid.graph import Graph, constant, label_nodes
from edgehybrid.linter.moves import quantizer_of


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


def find_carriers(graph: Graph) -> list[Carrier]:
    """The carriers of a graph, in its order."""
    names, computed = label_nodes(graph), dependents(graph)
    found = []
    for node in graph.nodes("QuantizeLinear", "DequantizeLinear"):
        source = node.inputs[0]
        writer = node if node.op_type == "QuantizeLinear" else quantizer_of(node)
        repeated = writer is not None and writer is not node and _says_the_same(node, writer)
        if source is None or repeated:
            continue
        kind = source.dtype or _type_of(_zero_of(node)) if writer is None else _written_type(writer)
        found.append(
            Carrier(
                node=node,
                name=names[node],
                tensor=str(source.name),
                dtype=kind,
                scale=constant(node.inputs[1]),
                zero=constant(_zero_of(node)),
                axis=axis_of(node),
                weight=source not in computed,
            )
        )
    return found


def dependents(graph: Graph) -> set[ir.Value]:
    """What depends on an input of the graph."""
    found = set(graph.body.inputs)
    for node in graph.nodes():
        if not found.isdisjoint(node.inputs):
            found.update(node.outputs)
    return found


def axis_of(node: ir.Node) -> int:
    """The axis along which the scales of a Q/DQ operator lie, should there be several."""
    return node.attributes.get_int("axis", 1)


def same_numbers(one: NDArray[np.generic] | None, other: NDArray[np.generic] | None) -> bool:
    """Whether two constants hold the same numbers, of which a single one stands for all."""
    if one is None or other is None or (one.size != other.size and 1 not in (one.size, other.size)):
        return False
    return bool(np.all(one.reshape(-1) == other.reshape(-1)))


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
