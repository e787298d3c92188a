"""Fold batch normalisation into the layer before or after it."""

import numpy as np
import onnx_ir as ir

from edgehybrid.graph import Graph
from edgehybrid.graph.batch_norm import scale_and_shift
from edgehybrid.graph.structure import input_of
from edgehybrid.rewrites.layer import Layer
from edgehybrid.rewrites.pattern import bypass, can_bypass
from edgehybrid.rewrites.trace import Index, along, destination, number, origin


def fold_into_previous(graph: Graph) -> int:
    """Batch normalisation of a layer's output becomes part of the layer.

    With s = gamma / sqrt(var + eps) and t = beta - mean s:  s (W x + b) + t = (s W) x + (s b + t), where s
    scales the rows of W. Holds for any layer, padded and grouped convolutions included, and through reshapes
    and transposes that keep channels apart.

    Source: Jacob et al. 2018, arXiv:1712.05877, section 3.2.
    """
    sites = 0
    for node in tuple(graph.nodes("BatchNormalization")):
        found = origin(input_of(node, 0))
        rows = None if found is None else along(found.index, 1)
        if found is not None and rows is not None:
            sites += absorb(graph, node, found.layer, rows)
    return sites


def fold_into_next(graph: Graph) -> int:
    """Batch normalisation of a layer's input becomes part of the layer.

    W (s x + t) + b = (W diag s) x + (b + W t), with W t summed over the kernel. Only in front of an unpadded
    layer: at the border of a padded convolution part of the window sees 0 instead of t, and the constant W t
    is wrong there (relative error 7e-2 in CMT's stem). Only where nothing else reads the normalised map.

    Source: the linearity of the layer; the border case was measured on the official CMT.
    """
    sites = 0
    for node in tuple(graph.nodes("BatchNormalization")):
        factors = scale_and_shift(node)
        index = number(node.outputs[0], 1)
        found = None if index is None else destination(node.outputs[0], index)
        if factors is None or found is None or found[0].padded:
            continue
        layer, channels = found
        s, t = (f[channels] for f in factors)
        grouped = layer.weight.reshape(layer.groups, -1, *layer.weight.shape[1:])
        trailing = [1] * (layer.weight.ndim - 2)
        weight = grouped * s.reshape(layer.groups, 1, -1, *trailing)
        shift = (grouped * t.reshape(layer.groups, 1, -1, *trailing)).reshape(len(layer.weight), -1).sum(axis=1)
        bias = shift if layer.bias is None else layer.bias + shift
        if can_bypass(node, input_of(node, 0)) and layer.write(graph, weight.reshape(layer.weight.shape), bias):
            bypass(graph, node, input_of(node, 0))
            sites += 1
    return sites


def absorb(graph: Graph, node: ir.Node, layer: Layer, rows: Index) -> bool:
    """Move a batch normalisation into the rows of the layer that its channels come from: W' = s W, b' = s b + t.

    Args:
        graph: Edited.
        node: The BatchNormalization.
        layer: Where its input comes from.
        rows: Row of the layer's weight per channel of the normalisation.

    Returns:
        Whether it was done: not where a row serves two channels, or the result would not be finite.
    """
    factors = scale_and_shift(node)
    if factors is None or np.unique(rows).size != rows.size:
        return False
    s, t = factors
    weight = layer.weight.copy()
    bias = np.zeros(len(weight)) if layer.bias is None else layer.bias.copy()
    weight[rows] *= s.reshape(-1, *[1] * (weight.ndim - 1))
    bias[rows] = s * bias[rows] + t
    if not (can_bypass(node, input_of(node, 0)) and layer.write(graph, weight, bias)):
        return False
    bypass(graph, node, input_of(node, 0))
    return True
