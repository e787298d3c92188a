"""Find where a number can be taken off a whole tensor and given back by all that read it, and do so.

It comes off a constant: the bias of what makes the tensor, or of what makes the input of a ReLU, whose result is then a
Clip. Behind other activation functions it is subtracted. It is given back in the biases of products, and of sums.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from edgehybrid.graph import Graph, add_constant, constant, name_of, shape_of
from edgehybrid.graph.products import Product, bias_place, product_at, raise_bias, raise_constant
from edgehybrid.graph.structure import MOVES, input_of, is_activation, weight_index
from edgehybrid.tuner.region import put_behind

_PASSING = MOVES | {"MaxPool", "Slice", "GlobalAveragePool"}
"""What gives x - z where it gave x."""


@dataclass(frozen=True)
class Site:
    """A tensor that may be shifted."""

    value: ir.Value
    host: tuple[ir.Node, int] | None  # whose constant takes z off, before a ReLU or Clip; None: a subtraction behind
    products: Sequence[Product]  # z is given back in their biases
    sums: Sequence[tuple[ir.Node, int]]  # constants in which residual sums give it back


def find_site(value: ir.Value) -> Site | None:
    """The site at a tensor; None where there is none."""
    maker = value.producer()
    if maker is None or value is not maker.outputs[0]:
        return None
    rectified = maker.op_type == "Relu" or (maker.op_type == "Clip" and _is_bounded(maker))
    host = _find_constant(input_of(maker, 0)) if rectified else own_constant(maker)
    if host is None and (rectified or not _ends_activation(maker)):
        return None
    products, sums = find_readers(value)
    return Site(value, host, products, sums) if products else None


def _is_bounded(clip: ir.Node) -> bool:
    """Whether a Clip has constants for bounds."""
    return all(v is None or constant(v) is not None for v in clip.inputs[1:])


def _ends_activation(node: ir.Node | None) -> bool:
    """Whether a node makes the result of an activation function, products with constants behind it included."""
    while node is not None and node.op_type == "Mul":
        place = weight_index(node)
        if place < 0:
            break
        node = input_of(node, 1 - place).producer()
    return node is not None and is_activation(node)


def find_readers(value: ir.Value) -> tuple[list[Product], list[tuple[ir.Node, int]]]:
    """Who reads a tensor, as it is or moved about, and can give a zero point back; nobody if one of them cannot."""
    products: list[Product] = []
    sums: list[tuple[ir.Node, int]] = []
    pending, seen = [value], {value}
    while pending:
        tensor = pending.pop()
        if tensor.is_graph_output():
            return [], []
        for node, place in tensor.uses():
            product = product_at(node) if place == 0 else None
            if node.op_type in _PASSING:
                fresh = [out for out in node.outputs if out not in seen]
                seen.update(fresh)
                pending.extend(fresh)
            elif product is not None and bias_place(node) is not None and not any(node.attributes.get_ints("pads", ())):
                products.append(product)
            elif node.op_type == "Add" and (other := _other_constant(node, place)) is not None:
                sums.append(other)
            else:
                return [], []
    return products, sums


def _other_constant(add: ir.Node, place: int) -> tuple[ir.Node, int] | None:
    """What is added in a sum to one of its terms, or is added to the other one, if that is a constant."""
    own = own_constant(add)
    return own if own is not None and own[1] != place else _find_constant(input_of(add, 1 - place))


def _find_constant(value: ir.Value) -> tuple[ir.Node, int] | None:
    """A constant, by node and input, that adds what it is raised by to all of a tensor, and to nothing else."""
    node = value.producer()
    if node is None or value is not node.outputs[0] or len(value.uses()) != 1 or value.is_graph_output():
        return None
    found = own_constant(node)
    if found is not None:
        return found
    if node.op_type in _PASSING:
        return _find_constant(input_of(node, 0))
    if node.op_type != "Add" or any(constant(v) is not None for v in node.inputs):
        return None
    return _find_constant(input_of(node, 0)) or _find_constant(input_of(node, 1))


def own_constant(node: ir.Node) -> tuple[ir.Node, int] | None:
    """What a node adds to all of its first output."""
    if node.op_type in ("Conv", "Gemm"):
        return bias_place(node) if product_at(node) is not None else None
    if node.op_type in ("BatchNormalization", "LayerNormalization"):
        return (node, 2) if len(node.inputs) > 2 and constant(node.inputs[2]) is not None else None
    if node.op_type != "Add":
        return None
    place = weight_index(node)
    array = None if place < 0 else constant(node.inputs[place])
    return None if array is None or array.dtype != np.float32 else (node, place)


def take_off(graph: Graph, site: Site, zero_point: np.float32, taken: set[str | None]) -> None:
    """Take a zero point off a tensor, and have its readers give it back, in place."""
    if site.host is None:
        put_behind(graph, site.value, "Sub", np.array(zero_point, np.float32), "zero_point", taken)
    else:
        _raise(graph, site.host, -zero_point, taken)
        if site.host[0] is not site.value.producer():
            _lower_bounds(graph, site.value, zero_point, taken)
    for place in site.sums:
        _raise(graph, place, zero_point, taken)
    for product in site.products:
        raise_bias(graph, product.node, zero_point * product.weight.sum(axis=2).reshape(-1), taken)


def _raise(graph: Graph, place: tuple[ir.Node, int], amount: np.float32, taken: set[str | None]) -> None:
    """Raise every number of a constant; a convolution without a bias gets one."""
    node, index = place
    old = constant(node.inputs[index]) if index < len(node.inputs) else None
    shape = shape_of(input_of(node, 1))[:1] if old is None else old.shape
    raise_constant(graph, node, index, np.full(shape, amount, np.float32), taken)


def _lower_bounds(graph: Graph, value: ir.Value, zero_point: np.float32, taken: set[str | None]) -> None:
    """Make of a ReLU, or of a Clip, the Clip that gives what it gave less the zero point."""
    node = value.producer()
    if node is None:
        raise ValueError(f"'{value.name}' is not computed")
    name = name_of(value)
    bounds = [np.zeros(())] if node.op_type == "Relu" else [constant(v) for v in node.inputs[1:]]
    lowered = []
    for end, each in zip(("least", "most"), bounds, strict=False):
        bound = None if each is None else each.astype(np.float32) - zero_point
        lowered.append(None if bound is None else add_constant(graph, f"{name}_{end}", bound, taken=taken))
    clip = ir.node("Clip", [node.inputs[0], *lowered], name=node.name)
    out = clip.outputs[0]
    out.shape, out.type = value.shape, value.type
    ir.convenience.replace_all_uses_with(value, out)
    graph.body.insert_after(node, clip)
    graph.body.remove(node, safe=True)
    out.name = name
