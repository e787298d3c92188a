"""One network in which every group can be int8 or float: the switches are inputs, so no graph is built per choice."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgehybrid.errors import GraphError
from edgehybrid.graph import Graph, constant, name_of, tidy, unused, values

Array = NDArray[np.generic]


@dataclass(frozen=True)
class Swap:
    """A constant input of an int8 operator in its two versions."""

    input: str  # of the switched graph
    group: int
    int8: Array
    float: Array


@dataclass(frozen=True)
class Switched:
    """The network, and what to feed for a choice."""

    graph: Graph
    image: str  # name of the image input
    flags: tuple[tuple[str, int], ...]  # boolean input -> group
    swaps: tuple[Swap, ...]

    def feeds(self, choice: NDArray[np.bool_]) -> dict[str, Array]:
        """Everything but the image.

        Args:
            choice: (groups,), True for int8.
        """
        fed: dict[str, Array] = {name: np.asarray(choice[group]) for name, group in self.flags}
        return fed | {swap.input: swap.int8 if choice[swap.group] else swap.float for swap in self.swaps}


@dataclass(frozen=True)
class Site:
    """One input of an operator that differs between the float network and its int8 twin."""

    reader: str  # the first output of the operator, the same in both
    index: int
    float: ir.Value  # of the float network
    int8: ir.Value  # of the twin

    @property
    def is_constant(self) -> bool:
        """Whether it is a weight or a bias."""
        return constant(self.float) is not None


def find_sites(reference: Graph, twin: Graph) -> Iterator[Site]:
    """Where the operators of a network and of its float32-typed int8 twin read different things.

    Raises:
        GraphError: An operator of the network is not in the twin, or reads a constant where the twin computes.
    """
    twins = {name_of(node.outputs[0]): node for node in twin.nodes()}
    for node in reference.nodes():
        name = name_of(node.outputs[0])
        other = twins.get(name)
        if other is None or len(other.inputs) != len(node.inputs):
            raise GraphError(
                f"'{name}' of the float network is not in its int8 twin",
                why="the two were not made from one another",
                fix="quantize the very graph that is examined",
            )
        for index, (before, after) in enumerate(zip(node.inputs, other.inputs, strict=True)):
            if before is None or after is None:
                continue
            old, new = constant(before), dequantized(after)
            if old is None and new is None and before.name == after.name:
                continue
            if old is not None and new is not None and np.array_equal(old, new):
                continue
            yield Site(name, index, before, after)


def switch(reference: Graph, twin: Graph, owner: Mapping[str, int]) -> Switched:
    """Put a switch at every place where an int8 twin differs from its network.

    Activations get a Where between the tensor and its Q/DQ; weights, and whatever other constants differ, become
    inputs that are fed in either version. With every switch at int8 the network computes what the twin does.

    Args:
        reference: The float network.
        twin: Its float32-typed int8 graph, from `quantizer.quantize`.
        owner: First output of an operator -> the number of its group; every operator that differs is there.

    Raises:
        GraphError: As `find_sites`.
    """
    sites = list(find_sites(reference, twin))
    result = twin.clone()
    nodes = {name_of(node.outputs[0]): node for node in result.nodes()}
    named = {name_of(value): value for value in values(result)}
    taken: set[str | None] = set(named)
    flags: dict[int, ir.Value] = {}
    swaps = []
    for site in sites:
        group, reader = owner[site.reader], nodes[site.reader]
        if site.is_constant:
            old, new = constant(site.float), dequantized(site.int8)
            if old is None or new is None:
                raise ValueError(f"input {site.index} of '{site.reader}' is constant in one graph only")
            name = unused(f"{site.float.name}_switched", taken)
            fed = ir.Value(name=name, shape=ir.Shape(old.shape), type=ir.TensorType(ir.DataType.FLOAT))
            result.body.inputs.append(fed)
            swaps.append(Swap(name, group, np.ascontiguousarray(new, old.dtype), np.ascontiguousarray(old)))
            reader.replace_input_with(site.index, fed)
            continue
        if group not in flags:
            name = unused(f"int8_group_{group}", taken)
            flags[group] = ir.Value(name=name, shape=ir.Shape(()), type=ir.TensorType(ir.DataType.BOOL))
            result.body.inputs.append(flags[group])
        either = [flags[group], reader.inputs[site.index], named[name_of(site.float)]]
        chosen = ir.node("Where", either, name=unused(f"{site.reader}_switch_{site.index}", taken))
        chosen.outputs[0].name = unused(f"{site.reader}_switched_{site.index}", taken)
        reader.prepend(chosen)
        reader.replace_input_with(site.index, chosen.outputs[0])
    pairs = tuple((name_of(value), group) for group, value in flags.items())
    return Switched(tidy(result), name_of(reference.input), pairs, tuple(swaps))


def dequantized(value: ir.Value) -> Array | None:
    """The array that a value always is: a constant, or one behind a DequantizeLinear; None for anything computed."""
    node = value.producer()
    if node is None or node.op_type != "DequantizeLinear":
        return constant(value)
    quantized, scale, zero = (constant(v) for v in (*node.inputs, None)[:3])
    if quantized is None or scale is None:
        return None
    axis = node.attributes.get_int("axis", 1)
    column = [-1 if i == axis else 1 for i in range(quantized.ndim)] if scale.ndim else []
    wide = quantized.astype(np.float32)
    if zero is not None:
        wide -= zero.astype(np.float32).reshape(column)
    return np.asarray(wide * scale.astype(np.float32).reshape(column), np.float32)
