"""Decide which tensors carry Q/DQ and which stay in floating point, by tables of rules with a reason each.

The rules follow TensorRT's explicit quantization: a convolution or matrix product runs in int8 when its activation
and its weight are both dequantized int8 tensors; its bias, its output, and everything that is neither a convolution
nor a matrix product stay float. Sources are named at each rule; "TensorRT #n" and "Model Optimizer" are NVIDIA's
public repositories.
"""

import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass, fields
from typing import Generic, Literal, TypeVar

import onnx_ir as ir

from edgehybrid.errors import GraphError
from edgehybrid.graph import Graph, constant, label_nodes, name_of, shape_of
from edgehybrid.records import Decision, Dialect, Plan

SiteT = TypeVar("SiteT")

FUSED_HEAD_SIZES = (16, 32, 64)
FUSED_MAX_LENGTH = 512
"""What TensorRT's fused int8 attention takes (developer guide, quoted in TensorRT #2981 and #4167)."""

MIN_WIDTH = 16
"""Channels of one int8 tensor-core step; narrower operators are padded to it."""


@dataclass(frozen=True)
class Rule(Generic[SiteT]):
    """One row of a table: the first row that applies decides."""

    name: str
    int8: bool
    applies: Callable[[SiteT], bool]
    reason: str  # a format string over the fields of the site


@dataclass(frozen=True)
class Convolution:
    """What the rules see of a Conv."""

    constant_weight: bool
    spatial: int  # 2 for images
    inputs: int  # channels per group
    outputs: int
    groups: int
    kernel: str  # "3x3"
    positions: int  # batch * height * width of the output
    pad: str  # "none", "zero", or what keeps a Pad before it from being absorbed


@dataclass(frozen=True)
class Product:
    """What the rules see of a Gemm, or of a MatMul with one constant operand."""

    weight: int  # which input is the constant; -1: none
    stacked: bool  # the constant is more than one matrix
    position_term: bool  # feeds the logits of an attention
    m: int  # rows of the activation
    k: int
    n: int  # columns of the weight


@dataclass(frozen=True)
class Core:
    """What the rules see of a MatMul of two computed tensors."""

    attention: bool  # scores or weighted sum around a softmax
    head_size: int
    queries: int
    keys: int
    asked: bool  # for int8


@dataclass(frozen=True)
class Residual:
    """What the rules see of an Add of two computed tensors."""

    branch: str  # operator that made the branch
    branch_int8: bool
    reader: str  # first reader of the sum
    reader_int8: bool  # some reader of the sum quantizes it


CONVOLUTION_RULES: tuple[Rule[Convolution], ...] = (
    Rule("computed-weight", False, lambda s: not s.constant_weight,
         "convolution stays float: its weight is computed, and int8 scales of weights are fixed at build time"),
    Rule("conv-not-2d", False, lambda s: s.spatial != 2,
         "convolution stays float: it has {spatial} spatial dimensions, and only 2 are checked here"),
    # Grouped int8 convolutions are split per group (TensorRT #4529, #1409), some int8 depthwise ones have no kernel on
    # Orin (#4060). They are memory-bound either way, and few weights per channel leave the error little to average over.
    Rule("depthwise", False, lambda s: s.groups > 1 and s.inputs == 1,
         "depthwise {kernel} convolution stays fp16: int8 depthwise kernels are slower than fp16 in TensorRT or missing "
         "on Orin, and {kernel} weights per channel average out little rounding error"),
    Rule("grouped", False, lambda s: s.groups > 1,
         "convolution in {groups} groups stays fp16: TensorRT runs int8 groups one by one, slower than fp16"),
    # Model Optimizer excludes these as well, multiples of 8 apart.
    Rule("thin-conv", False, lambda s: min(s.inputs, s.outputs) < MIN_WIDTH and bool(s.inputs % 8 or s.outputs % 8),
         "convolution from {inputs} to {outputs} channels stays float: int8 tensor cores work on 16 channels at once, "
         "so padding would eat the gain"),
    Rule("conv-on-vector", False, lambda s: s.positions == 1,
         "convolution over a single position stays float: a matrix-vector product is bound by memory, not arithmetic"),
    # Q/DQ between Pad and Conv keeps TensorRT from fusing the two (TensorRT #2592).
    Rule("after-pad", False, lambda s: s.pad not in ("none", "zero"),
         "convolution stays float: {pad}, and Q/DQ may not stand between Pad and convolution"),
    Rule("conv-int8", True, lambda s: True,
         "{kernel} convolution from {inputs} to {outputs} channels runs in int8"),
)  # fmt: skip

PRODUCT_RULES: tuple[Rule[Product], ...] = (
    Rule("computed-weight", False, lambda s: s.weight < 0,
         "matrix product stays float: neither operand is constant"),
    Rule("weight-first", False, lambda s: s.weight == 0,
         "matrix product stays float: its constant is the first operand, and int8 kernels take the weight second"),
    Rule("stacked-weight", False, lambda s: s.stacked,
         "matrix product stays float: its constant is a stack of matrices, which one scale per column cannot describe"),
    Rule("position-term", False, lambda s: s.position_term,
         "position term of attention stays fp16: it is added to the logits of a softmax, as the core is"),
    # Model Optimizer leaves products with M or N of 1 alone, and those with K or N below 16.
    Rule("gemv", False, lambda s: s.m == 1 or s.n == 1,
         "matrix-vector product ({m}x{k} by {k}x{n}) stays float: it is bound by memory, not arithmetic"),
    Rule("thin-gemm", False, lambda s: min(s.k, s.n) < MIN_WIDTH,
         "matrix product {m}x{k} by {k}x{n} stays float: int8 tensor cores work on 16 columns at once, so padding would "
         "eat the gain"),
    Rule("gemm-int8", True, lambda s: True,
         "matrix product {m}x{k} by {k}x{n} runs in int8"),
)  # fmt: skip

CORE_RULES: tuple[Rule[Core], ...] = (
    Rule("computed-product", False, lambda s: not s.attention,
         "product of two computed tensors stays fp16: it is no attention around a softmax, so no fused int8 kernel "
         "takes it"),
    Rule("attention-fp16", False,
         lambda s: s.head_size not in FUSED_HEAD_SIZES or max(s.queries, s.keys) > FUSED_MAX_LENGTH,
         "attention core stays fp16: fused int8 attention needs head size 16/32/64 and both lengths <= 512; here "
         "{head_size}, {queries}, {keys}"),
    # fp16 has a fused kernel as well (head sizes 16..256 in steps of 8). At <= 512 positions the core is a small share
    # of the work, its softmax weights suffer most from 8 bits, and on Orin int8 builds lost the fused kernel (#4167).
    Rule("attention-default", False, lambda s: not s.asked,
         "attention core stays fp16: a fused int8 kernel could take it (head size {head_size}, lengths {queries} and "
         "{keys}), yet the fused fp16 kernel keeps the accuracy of the softmax"),
    Rule("attention-int8", True, lambda s: True,
         "attention core runs in int8: head size {head_size}, lengths {queries} and {keys} fit the fused kernel"),
)  # fmt: skip

# The kernel of an int8 branch adds the skip in its epilogue and then quantizes the sum, if the skip is int8 as well
# (TensorRT #1293, #1144). Where the sum is read as float, as in pre-norm transformers, there is nothing to win.
RESIDUAL_RULES: tuple[Rule[Residual], ...] = (
    Rule("residual-float-branch", False, lambda s: not s.branch_int8,
         "skip stays float: the branch ends in {branch}, which has no int8 kernel to fuse this addition into"),
    Rule("residual-float-sum", False, lambda s: not s.reader_int8,
         "skip stays float: the sum is read by {reader} in float, so int8 here would cost accuracy and save no kernel"),
    Rule("residual-int8", True, lambda s: True,
         "skip is int8 and the branch is not: the {branch} adds it and quantizes the sum for {reader} in one kernel"),
)  # fmt: skip

FLOAT_OPS: dict[str, tuple[str, str]] = {
    "LayerNormalization": ("normalisation", "layer normalisation stays float: TensorRT has no int8 kernel for it"),
    "InstanceNormalization": ("normalisation", "normalisation stays float: TensorRT has no int8 kernel for it"),
    "GroupNormalization": ("normalisation", "normalisation stays float: TensorRT has no int8 kernel for it"),
    "BatchNormalization": ("pointwise", "batch normalisation that no convolution could absorb stays float: it is fused "
                           "with the pointwise work around it"),
    "Softmax": ("softmax", "softmax stays float: its small weights would vanish in 8 bits"),
    "Erf": ("activation", "GELU stays float: it is fused into one pointwise kernel"),
    "Gelu": ("activation", "GELU stays float: it is fused into one pointwise kernel"),
    "Sigmoid": ("activation", "sigmoid or SiLU stays float: it is fused into one pointwise kernel"),
    "Tanh": ("activation", "tanh stays float: it is fused into one pointwise kernel"),
    "HardSwish": ("activation", "hard swish stays float: it is fused into one pointwise kernel"),
    "Mish": ("activation", "Mish stays float: it is fused into one pointwise kernel"),
    "Pow": ("pointwise", "power stays float: its range grows too fast for 8 bits"),
    "ReduceMean": ("pooling", "mean stays float: it reads its input once, and its sum needs more than 8 bits"),
    "GlobalAveragePool": ("pooling", "mean stays float: it reads its input once, and its sum needs more than 8 bits"),
    "ConvTranspose": ("not-covered", "transposed convolution stays float: its int8 rules are not checked here"),
    "Einsum": ("not-covered", "Einsum stays float: TensorRT has no int8 kernel for it; export it as MatMul"),
}  # fmt: skip
"""Operators that never read int8: name of the rule and reason."""

_MOVES = {"Identity", "Reshape", "Flatten", "Squeeze", "Unsqueeze", "Transpose", "Dropout"}
_SCORES = _MOVES | {"Add", "Sub", "Mul", "Div", "Where", "Slice", "Pad", "Cast", "Expand", "Concat", "Gather"}
_KEEPS_INT8 = _MOVES | {"Relu", "Clip", "MaxPool", "Slice", "Split", "Concat", "Pad"}


def plan(graph: Graph, dialect: Dialect, *, attention: Literal["float", "int8"] = "float") -> Plan:
    """Decide for every input of every convolution, matrix product, attention core and residual addition.

    The decisions do not depend on the dialect, so the accuracy of the fp32-typed twin speaks for the typed graph.

    Args:
        graph: float32 with static shapes, before or after rewrites, or a user's.
        dialect: Which graph will be emitted.
        attention: `int8` quantizes attention cores that TensorRT's fused kernel can take.

    Returns:
        Decisions in the order of the nodes, one per (node, input). Of an int8 operator the activation has kind
        `activation` (per-tensor scale) and the weight `weight` (a scale per output channel, along `axis`). Operators
        that never run in int8 have one decision, for their first input.

    Raises:
        GraphError: A shape that a rule needs is not static.
    """
    names = label_nodes(graph)
    cores = _find_cores(graph)
    found: dict[ir.Node, list[Decision]] = {}
    for node in graph.nodes():
        if node.op_type == "Conv":
            found[node] = _decide_convolution(node, names)
        elif node.op_type in ("Gemm", "MatMul"):
            if _weight_index(node) < 0 and node.op_type == "MatMul":
                found[node] = _decide_core(node, names, cores.get(node), asked=attention == "int8")
            else:
                found[node] = _decide_product(node, names, position_term=node in cores)
        elif node.op_type in FLOAT_OPS and node.domain == "":
            rule, reason = FLOAT_OPS[node.op_type]
            found[node] = [_decision(node, names, 0, "float", rule, reason)]
    _move_before_pads(graph, names, found)
    depths = _measure_depths(graph)
    for node in graph.nodes("Add"):
        residual = _decide_residual(node, names, found, depths)
        if residual:
            found[node] = residual
    return Plan(dialect, tuple(decision for node in graph.nodes() for decision in found.get(node, ())))


def _choose(rules: tuple[Rule[SiteT], ...], site: SiteT) -> tuple[Rule[SiteT], str]:
    """The first rule that applies, and its reason with the numbers of this site."""
    rule = next(rule for rule in rules if rule.applies(site))
    found = {f.name: getattr(site, f.name) for f in fields(site)}  # type: ignore[arg-type]
    return rule, rule.reason.format(**found)


def _decision(
    node: ir.Node,
    names: dict[ir.Node, str],
    index: int,
    kind: Literal["activation", "weight", "float"],
    rule: str,
    reason: str,
    axis: int | None = None,
) -> Decision:
    return Decision(names[node], node.op_type, index, name_of(_input(node, index)), kind, rule, reason, axis)


def _decide_all(
    node: ir.Node, names: dict[ir.Node, str], rule: Rule[SiteT], reason: str, weight: int, axis: int
) -> list[Decision]:
    """One decision for each input of a convolution or matrix product."""
    decisions = []
    for index, value in enumerate(node.inputs):
        if value is None:
            continue
        if index > 1:
            text = "bias stays float: it is added to the 32-bit sums"
            decisions.append(_decision(node, names, index, "float", "bias", text))
        elif not rule.int8:
            decisions.append(_decision(node, names, index, "float", rule.name, reason))
        elif index == weight:
            decisions.append(_decision(node, names, index, "weight", rule.name, reason, axis))
        else:
            decisions.append(_decision(node, names, index, "activation", rule.name, reason))
    return decisions


# --- convolutions -------------------------------------------------------------------------------------


def _decide_convolution(node: ir.Node, names: dict[ir.Node, str]) -> list[Decision]:
    weight = shape_of(_input(node, 1))
    out = shape_of(node.outputs[0])
    site = Convolution(
        constant_weight=constant(node.inputs[1]) is not None,
        spatial=len(weight) - 2,
        inputs=weight[1],
        outputs=weight[0],
        groups=node.attributes.get_int("group", 1),
        kernel="x".join(str(side) for side in weight[2:]),
        positions=out[0] * math.prod(out[2:]),
        pad=_describe_pad(node),
    )
    rule, reason = _choose(CONVOLUTION_RULES, site)
    return _decide_all(node, names, rule, reason, weight=1, axis=0)


def _describe_pad(node: ir.Node) -> str:
    """Whether the activation comes from a Pad, and if so, whether Q/DQ may move before it."""
    pad = _input(node, 0).producer()
    if pad is None or pad.op_type != "Pad":
        return "none"
    mode = pad.attributes.get_string("mode", "constant")
    fill = constant(pad.inputs[2]) if len(pad.inputs) > 2 and pad.inputs[2] is not None else None
    if mode == "constant" and len(pad.inputs) > 2 and pad.inputs[2] is not None and (fill is None or fill.any()):
        return "a Pad before it fills with a value other than zero"
    if any(use.node.op_type != "Conv" for use in pad.outputs[0].uses()):
        return "a Pad before it is read by other operators too"
    return "zero"


def _move_before_pads(graph: Graph, names: dict[ir.Node, str], found: dict[ir.Node, list[Decision]]) -> None:
    """Where an int8 convolution reads a Pad, quantize what the Pad reads instead."""
    for pad in graph.nodes("Pad"):
        readers = [use.node for use in pad.outputs[0].uses()]
        if not any(_is_int8(reader, found) for reader in readers if reader.op_type == "Conv"):
            continue
        reason = "the Pad reads int8 so that no Q/DQ stands between it and its convolution"
        found[pad] = [_decision(pad, names, 0, "activation", "before-pad", reason)]
        for reader in readers:
            first, *rest = found[reader]
            if first.kind == "activation":
                reason = f"{first.reason}; its Q/DQ stands before the Pad"
                found[reader] = [_decision(reader, names, 0, "float", "after-pad", reason), *rest]


# --- matrix products ----------------------------------------------------------------------------------


def _weight_index(node: ir.Node) -> int:
    """Which operand of a product is constant: 1, 0, or -1 for none."""
    return next((index for index in (1, 0) if constant(node.inputs[index]) is not None), -1)


def _decide_product(node: ir.Node, names: dict[ir.Node, str], *, position_term: bool) -> list[Decision]:
    weight_index = _weight_index(node)
    first, second = shape_of(_input(node, 0)), shape_of(_input(node, 1))
    out = shape_of(node.outputs[0])
    flipped = node.op_type == "Gemm" and bool(node.attributes.get_int("transB", 0))
    site = Product(
        weight=weight_index,
        stacked=math.prod((first if weight_index == 0 else second)[:-2]) > 1,
        position_term=position_term,
        m=math.prod(out[:-1]) if len(second) > 1 else math.prod(out),
        k=second[-1] if flipped or len(second) == 1 else second[-2],
        n=out[-1] if len(second) > 1 else 1,
    )
    rule, reason = _choose(PRODUCT_RULES, site)
    axis = 0 if flipped else len(second) - 1
    return _decide_all(node, names, rule, reason, weight=weight_index, axis=axis)


def _decide_core(
    node: ir.Node, names: dict[ir.Node, str], sizes: tuple[int, int, int] | None, *, asked: bool
) -> list[Decision]:
    head_size, queries, keys = sizes or (0, 0, 0)
    site = Core(sizes is not None, head_size, queries, keys, asked)
    rule, reason = _choose(CORE_RULES, site)
    kind: Literal["activation", "float"] = "activation" if rule.int8 else "float"
    return [_decision(node, names, index, kind, rule.name, reason) for index in (0, 1)]


def _find_cores(graph: Graph) -> dict[ir.Node, tuple[int, int, int]]:
    """Products around a softmax -> (head size, queries, keys); terms with a constant operand included."""
    cores: dict[ir.Node, tuple[int, int, int]] = {}
    for softmax in graph.nodes("Softmax"):
        sums = [node for node in _readers(softmax.outputs[0], _MOVES) if node.op_type == "MatMul"]
        scores = [node for node in _producers(_input(softmax, 0), _SCORES) if node.op_type == "MatMul"]
        if not sums or not any(_weight_index(node) < 0 for node in scores):
            continue
        for node in scores:
            first, out = shape_of(_input(node, 0)), shape_of(node.outputs[0])
            cores[node] = (first[-1], out[-2], out[-1])
        for node in sums:
            first, out = shape_of(_input(node, 0)), shape_of(node.outputs[0])
            cores[node] = (out[-1], out[-2], first[-1])
    return cores


# --- residual additions -------------------------------------------------------------------------------


def _decide_residual(
    node: ir.Node, names: dict[ir.Node, str], found: dict[ir.Node, list[Decision]], depths: dict[ir.Node, int]
) -> list[Decision]:
    """Decisions for an Add of two computed tensors of one shape; none for any other Add."""
    values = [_input(node, 0), _input(node, 1)]
    if any(constant(v) is not None or v.producer() is None for v in values):
        return []
    if shape_of(values[0]) != shape_of(values[1]):
        return []
    makers = [_maker(value) for value in values]
    # The branch is what an int8 kernel makes; of two, the longer one: a shortcut convolution is the skip.
    branch = max((0, 1), key=lambda i: (_is_int8(makers[i], found), depths[makers[i]]))
    readers = list(_readers(node.outputs[0], _KEEPS_INT8))
    int8 = [reader for reader in readers if _is_int8(reader, found)]
    site = Residual(
        branch=makers[branch].op_type,
        branch_int8=_is_int8(makers[branch], found),
        reader=(int8 or readers)[0].op_type if readers else "the output",
        reader_int8=bool(int8),
    )
    rule, reason = _choose(RESIDUAL_RULES, site)
    if not rule.int8:
        return [_decision(node, names, 1 - branch, "float", rule.name, reason)]
    text = "branch stays float: its kernel adds the skip before it rounds"
    both = {
        1 - branch: _decision(node, names, 1 - branch, "activation", rule.name, reason),
        branch: _decision(node, names, branch, "float", "residual-branch", text),
    }
    return [both[0], both[1]]


def _maker(value: ir.Value) -> ir.Node:
    """The operator whose result this is, moves apart."""
    node = value.producer()
    while node is not None and node.op_type in _MOVES and _input(node, 0).producer() is not None:
        node = _input(node, 0).producer()
    if node is None:
        raise ValueError(f"'{value.name}' is not computed")
    return node


def _measure_depths(graph: Graph) -> dict[ir.Node, int]:
    """Operators on the longest path from an input to each node."""
    depths: dict[ir.Node, int] = {}
    for node in graph.nodes():
        before = [v.producer() for v in node.inputs if v is not None]
        depths[node] = 1 + max((depths[p] for p in before if p is not None), default=0)
    return depths


# --- walking the graph --------------------------------------------------------------------------------


def _is_int8(node: ir.Node, found: dict[ir.Node, list[Decision]]) -> bool:
    return any(decision.kind != "float" for decision in found.get(node, ()))


def _input(node: ir.Node, index: int) -> ir.Value:
    value = node.inputs[index]
    if value is None:
        raise GraphError(
            f"node '{node.name}' ({node.op_type}) has no input {index}",
            why="the operator needs it",
            fix="check the file with `python -m onnx.checker` or export it again",
        )
    return value


def _readers(value: ir.Value, through: set[str]) -> Iterator[ir.Node]:
    """Every node that reads the value, directly or through operators of the given types; those are not named."""
    pending, seen = [value], {value}
    while pending:
        for use in pending.pop(0).uses():
            if use.node.op_type not in through:
                yield use.node
                continue
            fresh = [out for out in use.node.outputs if out not in seen]
            seen.update(fresh)
            pending.extend(fresh)


def _producers(value: ir.Value, through: set[str]) -> Iterator[ir.Node]:
    """Every node that computes the value, directly or through operators of the given types; those are not named."""
    pending, seen = [value], {value}
    while pending:
        node = pending.pop(0).producer()
        if node is None:
            continue
        if node.op_type not in through:
            yield node
            continue
        fresh = [v for v in node.inputs if v is not None and v not in seen]
        seen.update(fresh)
        pending.extend(fresh)
