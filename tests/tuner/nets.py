"""Small networks in which factors per channel can hide, or cannot."""

import numpy as np

from edgehybrid.graph import Graph
from tests.single import SingleNet


def normed(*, spread: float = 2.0, offset: float = 0.0) -> Graph:
    """LayerNormalization, read by a linear layer and, as a map, by a strided depthwise convolution; a residual sum."""
    net = SingleNet(1, 16, 32)
    gain = net.const(np.exp2(spread * net.random.normal(size=32)))
    bias = net.const(offset * net.random.choice([-1, 1], 32)) if offset else net.weight(32)
    x = net.op("LayerNormalization", "input", gain, bias, axis=-1)
    q = net.linear(x, 32, 48)
    maps = net.reshape(net.transpose(x, 0, 2, 1), 1, 32, 4, 4)
    small = net.conv(maps, 32, 32, 2, group=32, strides=[2, 2])
    k = net.linear(net.transpose(net.reshape(small, 1, 32, 4), 0, 2, 1), 32, 48)
    return net.graph(net.op("MatMul", q, net.transpose(k, 0, 2, 1)))


def rectified() -> Graph:
    """Convolution, batch norm, ReLU, pooling, padded convolution, GELU, convolution."""
    net = SingleNet(1, 16, 12, 12)
    x = net.op("Relu", net.conv("input", 16, 24, 3, pads=[1, 1, 1, 1]))
    x = net.op("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
    x = net.gelu(net.conv(x, 24, 32, 3, pads=[1, 1, 1, 1]))
    x = net.norm(x, 32)
    return net.graph(net.conv(x, 32, 16, 3, pads=[1, 1, 1, 1]))


def gated() -> Graph:
    """Conv2Former's product of an attention map and values, then a GELU without a norm."""
    net = SingleNet(1, 24, 8, 8)
    a = net.depthwise(net.gelu(net.conv("input", 24, 32)), 32, 5)
    x = net.conv(net.op("Mul", a, net.conv("input", 24, 32)), 32, 24)
    return net.graph(net.conv(net.gelu(x), 24, 16))


def fused() -> Graph:
    """GELU as one operator, as opset 20 has it: behind a convolution and, twice, in a chain of layers."""
    net = SingleNet(1, 24, 8, 8, opset=20)
    x = net.conv(net.gelu(net.conv("input", 24, 32), form="op"), 32, 24)
    x = net.gelu(net.conv(net.gelu(x, form="op"), 24, 16), form="op")
    return net.graph(net.conv(x, 16, 16))


def swished() -> Graph:
    """SiLU, a product of two tensors, and hard swish, an operator, each before a convolution."""
    net = SingleNet(1, 24, 8, 8)
    x = net.conv("input", 24, 32)
    x = net.conv(net.op("Mul", x, net.op("Sigmoid", x)), 32, 24)
    return net.graph(net.conv(net.op("HardSwish", x), 24, 16))


def parametric() -> Graph:
    """A ReLU with a slope of its own for each channel."""
    net = SingleNet(1, 24, 6, 6)
    x = net.op("PRelu", net.conv("input", 24, 16), net.const(net.random.uniform(0.1, 0.5, (16, 1, 1))))
    return net.graph(net.conv(x, 16, 16))


def attending(*, scores_int8: bool = False) -> Graph:
    """Heads with one layer for keys and values, split in two."""
    net = SingleNet(1, 16, 32)
    q = net.transpose(net.reshape(net.linear("input", 32, 32), 1, 16, 2, 16), 0, 2, 1, 3)
    both = net.linear("input", 32, 64)
    net.op("Split", both, net.ints(32, 32), outputs=2, axis=-1)
    k, v = net.last_outputs()
    k = net.transpose(net.reshape(k, 1, 16, 2, 16), 0, 2, 3, 1)
    v = net.transpose(net.reshape(v, 1, 16, 2, 16), 0, 2, 1, 3)
    x = net.op("MatMul", net.op("Softmax", net.op("MatMul", q, k), axis=-1), v)
    x = net.reshape(net.transpose(x, 0, 2, 1, 3), 1, 16, 32)
    return net.graph(net.linear(x, 32, 32))


def joined() -> Graph:
    """Two convolutions, concatenated, read by one."""
    net = SingleNet(1, 24, 6, 6)
    parts = [net.op("Relu", net.conv("input", 24, 16)) for _ in range(2)]
    return net.graph(net.conv(net.op("Concat", *parts, axis=1), 32, 16))


def overlapping() -> Graph:
    """Three tensors, of which the second is concatenated with either other."""
    net = SingleNet(1, 24, 6, 6)
    first, second, third = (net.op("Relu", net.conv("input", 24, channels)) for channels in (16, 8, 12))
    left = net.conv(net.op("Concat", first, second, axis=1), 24, 16)
    right = net.conv(net.op("Concat", second, third, axis=1), 20, 16)
    return net.graph(net.op("Mul", left, right))


def dense() -> Graph:
    """Every layer reads all before it, as in DenseNet and HGNet."""
    net = SingleNet(1, 24, 5, 5)
    parts = [net.op("Relu", net.conv("input", 24, 8))]
    for _ in range(3):
        before = net.op("Concat", *parts, axis=1) if len(parts) > 1 else parts[0]
        parts.append(net.op("Relu", net.conv(before, 8 * len(parts), 8, 3, pads=[1, 1, 1, 1])))
    return net.graph(net.conv(net.op("Concat", *parts, axis=1), 32, 16))


def half_fixed() -> Graph:
    """A sum, which nothing may scale, concatenated with a tensor that can be."""
    net = SingleNet(1, 24, 6, 6)
    x = net.conv("input", 24, 16)
    fixed = net.op("Add", x, net.conv(x, 16, 16))
    free = net.op("Relu", net.conv("input", 24, 16))
    return net.graph(net.conv(net.op("Concat", fixed, free, axis=1), 32, 16))


def prepended() -> Graph:
    """Tokens computed in two ways, one after the other."""
    net = SingleNet(1, 16, 24)
    tokens = net.op("Concat", net.linear("input", 24, 32), net.op("Relu", net.linear("input", 24, 32)), axis=1)
    return net.graph(net.linear(tokens, 32, 16))


def beside_itself() -> Graph:
    """A map beside what a constant made of it: both are in the region before either is visited."""
    net = SingleNet(1, 24, 6, 6)
    x = net.op("Relu", net.conv("input", 24, 16))
    y = net.op("Add", x, net.const(np.linspace(1, 2, 16).reshape(1, 16, 1, 1)))
    return net.graph(net.conv(net.op("Concat", x, y, axis=1), 32, 16))


def crossed() -> Graph:
    """An outer product per channel of what pooling along rows and along columns leaves."""
    net = SingleNet(1, 24, 6, 6)
    x = net.op("Relu", net.conv("input", 24, 16))
    rows = net.op("Relu", net.conv(net.op("ReduceMean", x, axes=[3], keepdims=1), 16, 16))
    columns = net.op("Relu", net.conv(net.op("ReduceMean", x, axes=[2], keepdims=1), 16, 16))
    gate = net.conv(rows, 16, 16)
    return net.graph(net.op("Mul", net.conv(net.op("MatMul", rows, columns), 16, 16), gate))


def averaged_channels() -> Graph:
    """A map with as many rows as channels, and the mean over its channels."""
    net = SingleNet(1, 24, 16, 16)
    x = net.op("Relu", net.conv("input", 24, 16))
    mean = net.op("ReduceMean", x, axes=[1], keepdims=0)
    layer = net.reshape(net.linear(net.transpose(mean, 0, 2, 1), 16, 16), 1, 16, 16, 1)
    return net.graph(net.op("Mul", net.conv(x, 16, 16), layer))


def compared() -> Graph:
    """Every position of a map held against the mean of all: a product with a vector."""
    net = SingleNet(1, 16, 32)
    tokens = net.op("Relu", net.linear("input", 32, 32))
    mean = net.reshape(net.op("ReduceMean", tokens, axes=[1], keepdims=0), 32)
    return net.graph(net.linear(net.op("Mul", net.reshape(net.op("MatMul", tokens, mean), 1, 16, 1), tokens), 32, 16))


def shared_stem() -> Graph:
    """A stem whose map is read by one layer and, pooled and beside a louder one, by another: one range for both."""
    net = SingleNet(1, 24, 8, 8)
    stem = net.op("Relu", net.conv("input", 24, 32))
    pooled = net.op("MaxPool", stem, kernel_shape=[2, 2], strides=[2, 2])
    loud = net.op("Conv", stem, net.const(4 * net.random.normal(size=(32, 32, 2, 2))), strides=[2, 2])
    return net.graph(net.conv(net.op("Concat", pooled, net.op("Relu", loud), axis=1), 64, 16))


def residual() -> Graph:
    """A sum that a norm and a layer read: nothing may scale it."""
    net = SingleNet(1, 16, 32)
    x = net.op("Add", net.linear("input", 32, 32), "input")
    y = net.linear(x, 32, 32)
    return net.graph(net.op("Add", y, x))
