"""Fold an identity residual around a depthwise convolution into its kernel."""

import numpy as np

from edgehybrid.graph import Graph, known_shape
from edgehybrid.graph.structure import input_of
from edgehybrid.rewrites.layer import Layer, layer_at
from edgehybrid.rewrites.pattern import bypass, only_user


def fold_identity(graph: Graph) -> int:
    """The sum x + dw(x) becomes dw'(x), whose centre tap is one larger.

    sum_uv w[u, v] x[i + u, j + v] + x[i, j] is the same sum with w[0, 0] + 1. The kernel must be depthwise (one
    filter per channel), odd, of stride 1, padded so that its centre lies on the output position, and nothing
    may stand between it and the sum (Conv2Former has a GELU there).

    Source: structural re-parameterisation, Ding et al. 2021, arXiv:2101.03697, section 3.3.
    """
    sites = 0
    for add in tuple(graph.nodes("Add")):
        for value, skip in ((0, 1), (1, 0)):
            layer = layer_at(input_of(add, value).producer())
            if layer is None or layer.input is not input_of(add, skip) or not _is_centred_depthwise(layer):
                continue
            if only_user(layer.output) is not add:
                continue
            weight = layer.weight.copy()
            weight[(slice(None), 0, *(k // 2 for k in weight.shape[2:]))] += 1.0
            if layer.write(graph, weight, layer.bias):
                bypass(graph, add, layer.output)
                sites += 1
            break
    return sites


def _is_centred_depthwise(layer: Layer) -> bool:
    """Whether adding 1 to the centre tap adds x to the output."""
    shape = known_shape(layer.input)
    if layer.node.op_type != "Conv" or shape is None:
        return False
    channels = shape[1]
    kernel = layer.weight.shape[2:]
    if layer.groups != channels or layer.weight.shape[:2] != (channels, 1) or any(k % 2 == 0 for k in kernel):
        return False
    attributes = layer.node.attributes
    if set(attributes.get_ints("strides", (1,))) != {1}:
        return False
    auto = attributes.get_string("auto_pad", "NOTSET")
    if auto.startswith("SAME"):  # odd kernel, stride 1: the same number of zeros on both sides
        return True
    dilations = attributes.get_ints("dilations", (1,) * len(kernel))
    margins = [d * (k // 2) for d, k in zip(dilations, kernel, strict=True)]
    pads = [0] * (2 * len(kernel)) if auto == "VALID" else list(attributes.get_ints("pads", [0] * (2 * len(kernel))))
    return bool(np.array_equal(pads, margins + margins))
