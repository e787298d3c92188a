"""Make a constant vector that multiplies a layer's output part of the layer."""

from edgehybrid.graph import Graph, known_shape
from edgehybrid.graph.structure import input_of
from edgehybrid.rewrites.layer import float64
from edgehybrid.rewrites.pattern import bypass, can_bypass, only_user
from edgehybrid.rewrites.trace import origin


def fold_layer_scale(graph: Graph) -> int:
    """(W x + b) g becomes (diag(g) W) x + g b, also through a split, slice, reshape or transpose in between.

    The gain per channel at the end of a residual branch (layer scale) of Conv2Former, ConvNeXt and CaiT is one. g may
    differ between channels only.

    Source: associativity of products; layer scale: Touvron et al. 2021, arXiv:2103.17239.
    """
    sites = 0
    for node in tuple(graph.nodes("Mul")):
        for data, vector in (input_of(node, 0), input_of(node, 1)), (input_of(node, 1), input_of(node, 0)):
            gain, shape = float64(vector), known_shape(data)
            if gain is None or gain.size == 1 or shape is None or shape != known_shape(node.outputs[0]):
                continue
            found = origin(data) if only_user(data) is node else None
            if found is None:
                continue
            factors = found.per_channel(gain, shape, otherwise=1.0)
            if factors is None:
                continue
            weight = found.layer.weight * factors.reshape(-1, *[1] * (found.layer.weight.ndim - 1))
            bias = None if found.layer.bias is None else found.layer.bias * factors
            if can_bypass(node, data) and found.layer.write(graph, weight, bias):
                bypass(graph, node, data)
                sites += 1
                break
    return sites
