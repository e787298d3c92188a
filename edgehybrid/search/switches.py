"""One network in which every group can be int8 or float: the switches are inputs, so no graph is built per choice."""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgehybrid.errors import GraphError
from edgehybrid.graph import Graph, constant, name_of, tidy, unused, values
from edgehybrid.graph.structure import MOVES

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
    group: int
    float: ir.Value | None  # of the float network; None: only the twin has this input
    int8: ir.Value  # of the twin
    constants: tuple[Array, Array] | None  # float and int8, where it is a weight or a bias


def find_sites(reference: Graph, twin: Graph, owner: Mapping[str, int]) -> tuple[Site, ...]:
    """Where the operators of a network and of its float32-typed int8 twin read different things.

    Args:
        reference: The float network.
        twin: Its float32-typed int8 graph, from `quantizer.quantize`.
        owner: First output of an operator -> the number of its group. An operator that is not there and differs (an
            addition whose bias was corrected) goes with the one that makes what it reads.

    Raises:
        GraphError: The two are not one network, or what differs belongs to no group.
    """
    twins = {name_of(node.outputs[0]): node for node in twin.nodes()}
    found = []
    for node in reference.nodes():
        name = name_of(node.outputs[0])
        other = twins.get(name)
        if other is None or len(other.inputs) < len(node.inputs):
            raise _unrelated(name)
        for index, after in enumerate(other.inputs):
            before = node.inputs[index] if index < len(node.inputs) else None
            if after is None:
                continue
            old, new = constant(before), _dequantized(after)
            if before is None and new is not None:
                old = np.zeros_like(new)  # a bias that the twin was given
            if old is None and new is None and before is not None and before.name == after.name:
                continue
            if old is not None and new is not None and np.array_equal(old, new):
                continue
            if (old is None) != (new is None):
                raise _unrelated(name)
            pair = None if old is None or new is None else (old, new)
            found.append(Site(name, index, _group_of(node, owner), before, after, pair))
    return tuple(found)


def _unrelated(name: str) -> GraphError:
    return GraphError(
        f"'{name}' of the float network is not in its int8 twin",
        why="the two were not made from one another",
        fix="quantize the very graph that is examined",
    )


def _group_of(node: ir.Node, owner: Mapping[str, int]) -> int:
    """The group of an operator, or of what makes its input."""
    pending = [node]
    while pending:
        near = pending.pop(0)
        group = owner.get(name_of(near.outputs[0]))
        if group is not None:
            return group
        if near is node or near.op_type in MOVES:
            makers = [value.producer() for value in near.inputs if value is not None and constant(value) is None]
            pending += [maker for maker in makers if maker is not None]
    raise GraphError(
        f"node '{node.name}' ({node.op_type}) differs in the int8 twin and belongs to no group",
        why="nothing that it reads is made by an int8 operator",
        fix="report this with the ONNX file",
    )


def switch(reference: Graph, twin: Graph, owner: Mapping[str, int]) -> Switched:
    """Put a switch at every place where an int8 twin differs from its network.

    Activations get a Where between the tensor and its Q/DQ; weights, and whatever other constants differ, become
    inputs that are fed in either version. With every switch at int8 the network computes what the twin does.

    Args:
        reference: The float network.
        twin: Its float32-typed int8 graph, from `quantizer.quantize`.
        owner: First output of an operator -> the number of its group.

    Raises:
        GraphError: As `find_sites`.
    """
    result = twin.clone()
    nodes = {name_of(node.outputs[0]): node for node in result.nodes()}
    named = {name_of(value): value for value in values(result)}
    taken: set[str | None] = set(named)
    flags: dict[int, ir.Value] = {}
    swaps = []
    for site in find_sites(reference, twin, owner):
        reader = nodes[site.reader]
        if site.constants is not None:
            old, new = site.constants
            name = unused(f"{site.reader}_switched_{site.index}", taken)
            fed = ir.Value(name=name, shape=ir.Shape(old.shape), type=ir.TensorType(ir.DataType.FLOAT))
            result.body.inputs.append(fed)
            swaps.append(Swap(name, site.group, np.ascontiguousarray(new, old.dtype), np.ascontiguousarray(old)))
            reader.replace_input_with(site.index, fed)
            continue
        if site.group not in flags:
            name = unused(f"int8_group_{site.group}", taken)
            flags[site.group] = ir.Value(name=name, shape=ir.Shape(()), type=ir.TensorType(ir.DataType.BOOL))
            result.body.inputs.append(flags[site.group])
        original = None if site.float is None else named[name_of(site.float)]
        either = [flags[site.group], reader.inputs[site.index], original]
        chosen = ir.node("Where", either, name=unused(f"{site.reader}_switch_{site.index}", taken))
        chosen.outputs[0].name = unused(f"{site.reader}_switched_{site.index}", taken)
        reader.prepend(chosen)
        reader.replace_input_with(site.index, chosen.outputs[0])
    pairs = tuple((name_of(value), group) for group, value in flags.items())
    return Switched(tidy(result), name_of(reference.input), pairs, tuple(swaps))


def _dequantized(value: ir.Value) -> Array | None:
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
