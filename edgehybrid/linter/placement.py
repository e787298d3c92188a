"""The rules about where Q/DQ stands: what keeps TensorRT from its int8 kernels, or rounds and saves nothing.

All of these are warnings: TensorRT builds the graph. "TensorRT #n" is NVIDIA's public repository.
"""

from collections.abc import Iterable, Iterator

import onnx_ir as ir

from edgehybrid.errors import GraphError
from edgehybrid.graph import constant
from edgehybrid.graph.structure import (
    FUSED_HEAD_SIZES,
    FUSED_MAX_LENGTH,
    KEEPS_INT8,
    MOVES,
    Attention,
    core_sizes,
    find_attentions,
    fits_fused_int8,
    is_weight_transposed,
    is_weighted,
    readers,
    residual_makers,
    weight_index,
)
from edgehybrid.linter.moves import axis_after, inputs_back, maker_of
from edgehybrid.linter.view import Edge, Rule, Site, View, dims

_POINTWISE = {"Relu", "LeakyRelu", "PRelu", "Clip", "Elu", "Selu", "BatchNormalization", "Add", "Sub"}
"""Operators that run in the epilogue of the product before them, where no Q/DQ stands between."""

_FLOAT_ONLY = {
    "LayerNormalization", "InstanceNormalization", "GroupNormalization", "Softmax", "LogSoftmax", "Erf", "Gelu",
    "Sigmoid", "Tanh", "HardSwish", "HardSigmoid", "Mish", "Softplus", "Exp", "Log", "Pow", "Sqrt", "Reciprocal",
}  # fmt: skip
"""Operators without int8 kernels: TensorRT dequantizes what they read."""

_COPIES = {"Identity", "Dropout"}
"""Operators that a build leaves out."""

_SAME_SCALE = MOVES | {"MaxPool", "AveragePool", "Resize", "Slice", "Split", "Pad", "Concat"}
"""Operators that pass int8 through where the scale is the same on both sides."""


def _illegal_attentions(view: View) -> Iterator[Site]:
    for attention in find_attentions(view.bare):
        for node, sizes in _sizes(attention).items():
            touched = any(view.reads_int8(node, index) for index in (0, 1))
            if touched and not is_weighted(node) and not fits_fused_int8(*sizes):
                head, queries, keys = sizes
                yield view.label(node), f"int8 attention of head size {head}, {queries} queries and {keys} keys"


def _partial_attentions(view: View) -> Iterator[Site]:
    for attention in find_attentions(view.bare):
        sizes = _sizes(attention)
        cores = [node for node in sizes if not is_weighted(node)]
        if not cores or not all(fits_fused_int8(*sizes[node]) for node in cores):
            continue
        inputs = [view.reads_int8(node, index) for node in cores for index in (0, 1)]
        if any(inputs) and not all(inputs):
            yield view.label(attention.softmax), f"{sum(inputs)} of the {len(inputs)} inputs of its products are int8"


def _sizes(attention: Attention) -> dict[ir.Node, tuple[int, int, int]]:
    """Sizes of the products; none where a shape is open, which is a finding of its own."""
    try:
        return core_sizes(attention)
    except GraphError:
        return {}


def _half_products(view: View) -> Iterator[Site]:
    for node in view.products():
        first, second = view.reads_int8(node, 0), view.reads_int8(node, 1)
        if first != second:
            yield view.label(node), f"{node.op_type} reads input {0 if first else 1} as int8 and the other as float"


def _weight_axes(view: View) -> Iterator[Site]:
    for node in view.products():
        path, shape = list(inputs_back(node, 1)), dims(node.inputs[1])
        place = next((i for i, step in enumerate(path) if step in view.edges), None)
        edge = None if place is None else view.edges[path[place]]
        if edge is None or not edge.weight or edge.scale is None or edge.scale.size == 1 or shape is None:
            continue  # scales per channel of an activation: another rule
        axis = axis_after(edge.axis, [mover for mover, _ in path[place:0:-1]])
        flipped = is_weight_transposed(node)
        wanted = {"Conv": 0, "ConvTranspose": 1}.get(node.op_type, 0 if flipped else len(shape) - 1)
        if axis is not None and axis % len(shape) != wanted:
            yield edge.carrier, f"scales of the weight of '{view.label(node)}' lie along axis {axis}, not {wanted}"


def _grouped(view: View) -> Iterator[Site]:
    for node in view.bare.nodes("Conv"):
        groups = node.attributes.get_int("group", 1)
        if groups > 1 and view.is_int8(node):
            yield view.label(node), f"int8 convolution in {groups} groups"


def _padded(view: View) -> Iterator[Site]:
    for node in view.bare.nodes("Conv", "ConvTranspose"):
        path = list(inputs_back(node, 0, _COPIES))
        maker = maker_of(*path[-1])
        if maker is not None and maker.op_type == "Pad" and any(step in view.edges for step in path):
            yield view.label(maker), f"Q/DQ stands between this Pad and '{view.label(node)}'"


def _float_skips(view: View) -> Iterator[Site]:
    for node in view.bare.nodes("Add", "Sum"):
        makers = _makers(view, node) if len(node.inputs) == 2 else None
        if makers is None or view.reads_int8(node, 0) or view.reads_int8(node, 1):
            continue
        reader = next((r for r in readers(node.outputs[0], KEEPS_INT8) if view.is_int8(r)), None)
        branch = next((maker for maker in makers if view.is_int8(maker)), None)
        if reader is not None and branch is not None:
            yield view.label(node), f"int8 '{view.label(branch)}' adds a float skip for int8 '{view.label(reader)}'"


def _rounded_branches(view: View) -> Iterator[Site]:
    """Q/DQ between an int8 product and what its kernel would compute before it rounds."""
    for node, index in view.edges:
        value = node.inputs[index]
        maker = None if value is None else value.producer()
        if maker is None or node.op_type not in _POINTWISE or not view.is_int8(maker):
            continue
        makers = _makers(view, node) if node.op_type == "Add" else None
        if makers is not None and (node, 1 - index) not in view.edges and view.is_int8(makers[1 - index]):
            continue  # a shortcut convolution: the skip of an int8 branch is to be rounded
        yield view.label(maker), f"its result is rounded to int8 before {node.op_type} '{view.label(node)}' reads it"


def _makers(view: View, node: ir.Node) -> tuple[ir.Node, ir.Node] | None:
    """The operators whose kernels make the two inputs of a residual sum."""
    try:
        makers = residual_makers(node)
    except GraphError:
        return None  # an open shape, which is a finding of its own
    return None if makers is None else (_kernel(view, makers[0]), _kernel(view, makers[1]))


def _kernel(view: View, node: ir.Node) -> ir.Node:
    """The convolution that computes a batch normalisation or bias behind it as well; any other node itself.

    The reports are of convolutions; behind a matrix product and a bias of its own, placement leaves the skip float.
    """
    last = node
    while (index := _carried(last)) is not None and (last, index) not in view.edges:
        maker = maker_of(last, index)
        if maker is None:
            break
        last = maker
    return last if last.op_type in ("Conv", "ConvTranspose") else node


def _carried(node: ir.Node) -> int | None:
    """The input that a batch normalisation or a bias is computed of; a bias differs along one axis at most."""
    place = weight_index(node) if node.op_type == "Add" else -1
    bias = constant(node.inputs[place]) if place >= 0 else None
    if bias is not None and sum(side > 1 for side in bias.shape) < 2:
        return 1 - place
    return 0 if node.op_type == "BatchNormalization" else None


def _float_operators(view: View) -> Iterator[Site]:
    seen = set()
    for node, _ in view.edges:
        if node.op_type in _FLOAT_ONLY and node.domain == "" and node not in seen:
            seen.add(node)
            yield view.label(node), f"{node.op_type} reads a tensor that was rounded to int8"


def _unequal_scales(view: View) -> Iterator[Site]:
    """At the first operator where two scales meet; what follows it is not blamed for the same."""
    levels = view.follow(_SAME_SCALE)
    for node in view.bare.nodes(*_SAME_SCALE):
        read = [_scales(levels[node, index]) for index in range(len(node.inputs))]
        before = set().union(*(scales for scales in read if len(scales) == 1))
        uses = [(use.node, use.idx) for out in node.outputs for use in out.uses()]
        found = sorted(before | _scales(view.edges[use] for use in uses if use in view.edges)) if before else []
        if len(found) > 1:
            yield view.label(node), f"{node.op_type} between {len(found)} scales, {found[0]:.4g} to {found[-1]:.4g}"


def _scales(edges: Iterable[Edge]) -> set[float]:
    """The scales that stand for a whole tensor."""
    return {float(edge.scale.item()) for edge in edges if edge.scale is not None and edge.scale.size == 1}


PLACEMENT_RULES: tuple[Rule, ...] = (
    # Developer guide, quoted in TensorRT #2981 and #4167.
    Rule("illegal-int8-attention", "warning", "leave both products of this attention in float: the fused int8 kernel "
         f"takes head sizes {', '.join(map(str, FUSED_HEAD_SIZES))} and lengths up to {FUSED_MAX_LENGTH}",
         _illegal_attentions),
    Rule("partial-int8-attention", "warning", "quantize all inputs of both products (queries, keys, softmax, "
         "values) or none: the fused kernel needs them all", _partial_attentions),
    Rule("half-quantized", "warning", "quantize the activation and the weight, or neither: with one of them the "
         "product runs in float", _half_products),
    Rule("weight-axis", "warning", "one scale per output channel: axis 0 of Conv, 1 of ConvTranspose, the column of "
         "MatMul and Gemm (0 with transB)", _weight_axes),
    Rule("grouped-int8", "warning", "leave depthwise and grouped convolutions in float16: in int8 they are reported "
         "slower (TensorRT #4529, #1409) or without a kernel (#4060); measure before you keep it", _grouped),
    Rule("pad-conv", "warning", "quantize what the Pad reads instead, or fold it into the convolution (TensorRT #2592)",
         _padded),
    Rule("float-skip", "warning", "put Q/DQ on the skip: the kernel of the branch then adds it and quantizes the sum "
         "(TensorRT #1293, #1144)", _float_skips),
    Rule("rounded-output", "warning", "remove Q/DQ from the output of the product: it belongs on the input of the next "
         "one, after what is fused in between", _rounded_branches),
    # Model Optimizer quantizes the input of a layer norm on purpose, for a smaller tensor in memory.
    Rule("float-operator", "warning", "remove Q/DQ before operators that have no int8 kernel: it costs accuracy; keep "
         "it only where a timing shows that the smaller tensor pays", _float_operators),
    Rule("unequal-scales", "warning", "share one scale among all inputs and the output: int8 passes only where the "
         "scale is the same", _unequal_scales),
)  # fmt: skip
"""Where Q/DQ stands."""
