"""Means over windows: of a whole map by its own operator, and before a 1x1 convolution instead of after it."""

import onnx_ir as ir

from edgehybrid.graph import Graph, known_shape, name_of
from edgehybrid.graph.structure import input_of
from edgehybrid.rewrites.layer import Layer, layer_at
from edgehybrid.rewrites.pattern import bypass, can_bypass, only_user


def pool_globally(graph: Graph) -> int:
    """A mean over one window that holds the whole map becomes GlobalAveragePool.

    With ceil_mode a window may be larger than the map and is cut to it: Hugging Face's EfficientNet pools 7x7 positions
    with a window of 1280x1280, which TensorRT refuses for its size.

    Source: the definition of both operators.
    """
    sites = 0
    for pool in tuple(graph.nodes("AveragePool")):
        read, made = input_of(pool, 0), pool.outputs[0]
        before, after = known_shape(read), known_shape(made)
        if before is None or after is None or set(after[2:]) != {1} or _is_padded(pool, ceil_mode=False):
            continue
        kernel = pool.attributes.get_ints("kernel_shape", ())
        if any(size < side for size, side in zip(kernel, before[2:], strict=True)):
            continue
        mean = ir.node("GlobalAveragePool", [read], name=pool.name)
        mean.outputs[0].shape, mean.outputs[0].type = made.shape, made.type
        graph.body.insert_before(pool, mean)
        name = name_of(made)
        bypass(graph, pool, mean.outputs[0])
        mean.outputs[0].name = name
        sites += 1
    return sites


def pool_first(graph: Graph) -> int:
    """mean(W x + b) over a window becomes W mean(x) + b.

    A 1x1 convolution and a mean are both linear and act on different axes, and the mean of a constant is the constant.
    The convolution then works on one position per window: in Conformer, where features go from the convolutional to
    the transformer branch, that is 1/16 or 1/4 of its products. Only without padding, whose zeros know no bias. Worth
    1.03x [1.01, 1.04] on Conformer-Ti@224 in ONNX Runtime (CPU, 1 thread, benchmarks/rewrites.py); a float16 engine of
    TensorRT-RTX 1.7 needs 25.8 MiB for its activations instead of 28.0 (benchmarks/kernels.py).

    Source: linearity.
    """
    sites = 0
    for pool in tuple(graph.nodes("AveragePool", "GlobalAveragePool")):
        layer = layer_at(input_of(pool, 0).producer())
        if layer is None or not _is_pointwise(layer) or only_user(layer.output) is not pool:
            continue
        before, after = known_shape(layer.input), known_shape(pool.outputs[0])
        if _is_padded(pool) or before is None or after is None or not can_bypass(pool, layer.output):
            continue
        pooled = ir.Value(
            name=f"{name_of(pool.outputs[0])}_before", shape=ir.Shape([*before[:2], *after[2:]]), type=layer.input.type
        )
        attributes = list(pool.attributes.values())
        first = ir.Node("", pool.op_type, [layer.input], attributes, outputs=[pooled], name=pool.name)
        graph.body.insert_before(layer.node, first)
        layer.node.replace_input_with(0, pooled)
        layer.output.shape = ir.Shape(after)
        bypass(graph, pool, layer.output)
        sites += 1
    return sites


def _is_pointwise(layer: Layer) -> bool:
    """Whether each output position of a convolution depends on the same input position alone."""
    if layer.node.op_type != "Conv" or layer.padded:
        return False
    kernel = layer.weight.shape[2:]
    return set(kernel) == {1} and set(layer.node.attributes.get_ints("strides", (1,))) == {1}


def _is_padded(pool: ir.Node, *, ceil_mode: bool = True) -> bool:
    """Whether a window may reach over the border; without `ceil_mode` only into a border of zeros."""
    attributes = pool.attributes
    return (
        any(attributes.get_ints("pads", ()))
        or attributes.get_string("auto_pad", "NOTSET").startswith("SAME")
        or (ceil_mode and bool(attributes.get_int("ceil_mode", 0)))
    )
