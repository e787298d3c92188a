"""Make a constant vector that is added to a layer's output the layer's bias."""

from edgehybrid.graph import Graph, known_shape
from edgehybrid.graph.structure import input_of
from edgehybrid.rewrites.layer import float64
from edgehybrid.rewrites.pattern import bypass, can_bypass, only_user
from edgehybrid.rewrites.trace import origin


def fold_added_vector(graph: Graph) -> int:
    """(W x + b) + c becomes W x + (b + c), also through a split, slice, reshape or transpose in between.

    Simplifiers that merge the products of q, k and v leave three additions behind the split; this makes one of
    them, in front of it, where it is part of the matrix product. c may differ between channels only: a position
    table stays where it is.

    Source: associativity of addition.
    """
    sites = 0
    for node in tuple(graph.nodes("Add")):
        for data, vector in (input_of(node, 0), input_of(node, 1)), (input_of(node, 1), input_of(node, 0)):
            added, shape = float64(vector), known_shape(data)
            if added is None or shape is None or shape != known_shape(node.outputs[0]):
                continue
            found = origin(data) if only_user(data) is node else None
            if found is None:
                continue
            bias = found.per_channel(added, shape, otherwise=0.0)
            if bias is None:
                continue
            if found.layer.bias is not None:
                bias += found.layer.bias
            if can_bypass(node, data) and found.layer.write(graph, found.layer.weight, bias):
                bypass(graph, node, data)
                sites += 1
                break
    return sites
