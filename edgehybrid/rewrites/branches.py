"""Merge branches that read one input, compute linear maps of it and are summed, into one convolution."""

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgehybrid.graph import Graph, known_shape
from edgehybrid.graph.batch_norm import scale_and_shift
from edgehybrid.graph.structure import input_of
from edgehybrid.rewrites.layer import Layer, layer_at
from edgehybrid.rewrites.pattern import bypass, can_bypass, is_op, only_user


@dataclass(frozen=True)
class Taps:
    """A convolution's kernel on the grid of its input, relative to the place of the output."""

    first: tuple[int, ...]  # offset of the first tap per axis
    step: tuple[int, ...]  # between taps
    count: tuple[int, ...]

    @classmethod
    def one(cls, axes: int) -> "Taps":
        """The kernel that reads what lies at the output's own place."""
        return cls((0,) * axes, (1,) * axes, (1,) * axes)


def merge_branches(graph: Graph) -> int:
    """W x + b + V x + c, both convolutions, becomes (W + V) x + (b + c), V among the taps of W; likewise differences.

    The smaller kernel lies on taps of the larger one, as a 1x1 in the middle of a 3x3 does; nothing else reads a
    branch. RepVGG, MobileOne, FastViT, RepViT and RepGhost are trained with such branches; the larger convolution does
    the work of all. A batch normalisation s x + t is the 1x1 diag(s), and is merged into depthwise convolutions only:
    among the taps of a dense one it is so much larger than they that int8 leaves them few levels (a RepVGG-A0 of
    CIFAR-10: logits at 22.9 dB with it, 26.7 without, 27.9 with every branch for itself). x itself is left to
    `residual`.

    Source: structural re-parameterisation, Ding et al. 2021, arXiv:2101.03697, section 3.3.
    """
    sites = 0
    for node in tuple(graph.nodes("Add", "Sub")):
        branches = [input_of(node, 0), input_of(node, 1)]
        signs = [1.0, 1.0 if node.op_type == "Add" else -1.0]
        shape = known_shape(node.outputs[0])
        if shape is None or any(only_user(x) is not node or known_shape(x) != shape for x in branches):
            continue
        for host, guest in ((0, 1), (1, 0)):
            layer = layer_at(branches[host].producer())
            if layer is None or layer.output is not branches[host] or not can_bypass(node, layer.output):
                continue
            added = _among_taps(layer, branches[guest])
            if added is None:
                continue
            weight = signs[host] * layer.weight + signs[guest] * added[0]
            bias = signs[guest] * added[1] + (0.0 if layer.bias is None else signs[host] * layer.bias)
            if layer.write(graph, weight, bias):
                bypass(graph, node, layer.output)
                sites += 1
                break
    return sites


def _among_taps(host: Layer, branch: ir.Value) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """Weight and bias of a branch in the form of a convolution's; None where it reads another input or does not fit."""
    taps, node = _taps(host), branch.producer()
    if taps is None or node is None or not node.inputs or node.inputs[0] is not host.input:
        return None
    weight: NDArray[np.float64] = np.zeros(host.weight.shape)
    if is_op(node, "BatchNormalization"):
        factors, same = scale_and_shift(node), known_shape(host.input) == known_shape(branch)
        middle = _slices(taps, Taps.one(len(taps.count)))
        depthwise = weight.shape[1] == 1 and host.groups == len(weight) and set(_strides(host)) == {1}
        if factors is None or middle is None or not same or not depthwise:
            return None
        weight[(slice(None), 0, *(axis.start for axis in middle))] = factors[0]
        return weight, factors[1]
    guest = layer_at(node)
    own = None if guest is None else _taps(guest)
    if guest is None or own is None or guest.groups != host.groups or _strides(guest) != _strides(host):
        return None
    found = _slices(taps, own)
    if found is None:
        return None
    weight[(slice(None), slice(None), *found)] = guest.weight
    return weight, np.zeros(len(weight)) if guest.bias is None else guest.bias


def _taps(layer: Layer) -> Taps | None:
    """Where a convolution's taps lie; None of another layer, or where the padding is not written down."""
    attributes = layer.node.attributes
    if layer.node.op_type != "Conv" or attributes.get_string("auto_pad", "NOTSET") != "NOTSET":
        return None
    count = layer.weight.shape[2:]
    pads = attributes.get_ints("pads", [0] * (2 * len(count)))[: len(count)]
    return Taps(tuple(-pad for pad in pads), tuple(attributes.get_ints("dilations", [1] * len(count))), count)


def _strides(layer: Layer) -> tuple[int, ...]:
    return tuple(layer.node.attributes.get_ints("strides", [1] * (layer.weight.ndim - 2)))


def _slices(taps: Taps, own: Taps) -> tuple[slice, ...] | None:
    """Which taps are the other kernel's, per axis; None where one of those falls beside, between or outside."""
    found = []
    for axis, count in enumerate(own.count):
        start, beside = divmod(own.first[axis] - taps.first[axis], taps.step[axis])
        stride, between = divmod(own.step[axis] if count > 1 else taps.step[axis], taps.step[axis])
        last = start + stride * (count - 1)
        if beside or between or start < 0 or last >= taps.count[axis]:
            return None
        found.append(slice(start, last + 1, stride))
    return tuple(found)
