"""Remove biases that softmax makes superfluous."""

import numpy as np

from edgehybrid.graph import Graph, known_shape
from edgehybrid.graph.structure import input_of
from edgehybrid.rewrites.attention import find_isolated
from edgehybrid.rewrites.trace import destination, origin


def drop_key_bias(graph: Graph) -> int:
    """The bias of the layer that computes k is removed.

    q (k + b)^T = q k^T + (q b) 1^T: the bias adds the same number to every logit of a row, and softmax does not
    change when a constant is added to a row, whatever else is added to the logits. Not where softmax runs over
    channels (cross-covariance attention), nor where k is read elsewhere.

    Where neither keys nor values have a bias, TensorRT-RTX 1.7 computes both in one kernel: CMT-Ti@160 in float16 has
    279 kernels, and 307 if either bias stays (benchmarks/kernels.py). In ONNX Runtime on a CPU it brings under 1 %.

    Source: the shift invariance of softmax.
    """
    sites = 0
    for attention in find_isolated(graph):
        key = origin(input_of(attention.logits, 1))
        if key is None or key.layer.bias is None or not key.whole or key.channels_without(-1) is None:
            continue
        if key.layer.write(graph, key.layer.weight, None):
            sites += 1
    return sites


def move_value_bias(graph: Graph) -> int:
    """The bias of the layer that computes v moves into the projection that follows attention.

    A (v + 1 b^T) = A v + 1 b^T, because each row of A = softmax(.) sums to 1; the projection turns b into
    P b, so its bias becomes c + P b. What it brings is said at `drop_key_bias`.

    Source: rows of softmax sum to 1.
    """
    sites = 0
    for attention in find_isolated(graph):
        value = origin(input_of(attention.context, 1))
        shape = known_shape(attention.context.outputs[0])
        if value is None or value.layer.bias is None or not value.whole or shape is None:
            continue
        channels = value.channels_without(-2)
        found = None
        if channels is not None:
            index = np.broadcast_to(np.expand_dims(channels, -2), shape)
            found = destination(attention.context.outputs[0], index)
        if found is None or found[0].padded or found[0].groups > 1:
            continue
        projection, order = found
        shift = projection.weight.reshape(*projection.weight.shape[:2], -1).sum(axis=2) @ value.layer.bias[order]
        bias = shift if projection.bias is None else projection.bias + shift
        if projection.write(graph, projection.weight, bias):
            value.layer.write(graph, value.layer.weight, None)
            sites += 1
    return sites
