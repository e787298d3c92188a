"""The rule tables of placement: what may run in int8, what stays float, each with its reason.

A table is read from the top, the first rule that applies decides. Sources are named at each rule; "TensorRT #n" and
"Model Optimizer" are NVIDIA's public repositories.
"""

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Generic, TypeVar

from edgehybrid.graph.structure import fits_fused_float16, fits_fused_int8

SiteT = TypeVar("SiteT")

MIN_WIDTH = 16
"""Channels of one int8 tensor-core step; narrower operators are padded to it."""


LARGE_KERNEL = 7
"""Side of a depthwise kernel from which on little is known about int8."""


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
    reach: int  # longest side of the kernel
    positions: int  # of the output of one image
    pad: str  # what keeps its Q/DQ from moving before a Pad that it reads; empty: nothing


@dataclass(frozen=True)
class Linear:
    """What the rules see of a Gemm, or of a MatMul with one constant operand."""

    weight: int  # which input is the constant; -1: none
    stacked: bool  # the constant is more than one matrix
    position_term: bool  # feeds the logits of an attention
    m: int  # rows of the activation of one image
    k: int
    n: int  # columns of the weight


@dataclass(frozen=True)
class Core:
    """What the rules see of a MatMul of two computed tensors."""

    attention: bool  # scores or weighted sum around a softmax
    plain: bool  # nothing bounds the scores before the softmax or changes its weights behind
    head_size: int
    queries: int
    keys: int
    asked: bool  # for int8


@dataclass(frozen=True)
class Residual:
    """What the rules see of an Add of two computed tensors."""

    branch: str  # operator that made the branch
    branch_int8: bool
    exchange: str  # operator through which another branch's features arrive; empty: an ordinary skip
    reader: str  # first reader of the sum
    reader_int8: bool  # some reader of the sum quantizes it
    levels: float | None = None  # of the skip, as `Uneven.levels`, where it is such a tensor


@dataclass(frozen=True)
class Uneven:
    """What the rules see of an operator that reads a tensor which a few images fill and the others hardly use."""

    op: str
    levels: float  # of 127, that the median image reaches


@dataclass(frozen=True)
class Passage:
    """What the rules see of pooling and Resize."""

    op: str
    window: str  # "3x3" of a pooling, "nearest, 4 times as large" of a Resize
    copies: bool  # no value of the result is a mean of others
    maker: str  # operator before it
    reader: str  # first operator that reads the result
    reader_int8: bool  # every reader quantizes it


@dataclass(frozen=True)
class Hadamard:
    """What the rules see of a Mul of two computed tensors that is no part of an activation function."""

    first: str  # operator that made the first factor
    second: str
    gate: bool  # one factor has a value per channel, not per position
    reader: str
    reader_int8: bool


CONVOLUTION_RULES: tuple[Rule[Convolution], ...] = (
    Rule("computed-weight", False, lambda s: not s.constant_weight,
         "convolution stays float: its weight is computed, and int8 scales of weights are fixed at build time"),
    Rule("conv-not-2d", False, lambda s: s.spatial != 2,
         "convolution stays float: it has {spatial} spatial dimensions, and only 2 are checked here"),
    # 121 products per output may be enough work for int8 to pay, and NVIDIA documents no int8 kernel for such windows:
    # only a timing on the device can tell. Conv2Former's are 7x7 and 11x11.
    Rule("large-depthwise", False, lambda s: s.groups > 1 and s.inputs == 1 and s.reach >= LARGE_KERNEL,
         "depthwise {kernel} convolution stays float: no int8 kernel is documented for windows this large, and without "
         "a timing on the device fp16 is the safe choice"),
    # Speed, not accuracy: grouped int8 runs group by group (TensorRT #4529, #1409), and Orin has no kernel for some
    # (#4060). On CMT-Ti at 64 px int8 depthwise convolutions cost only 0.06 dB of logit SQNR. A timing on the device
    # may overrule this; without one fp16 is the safe choice.
    Rule("depthwise", False, lambda s: s.groups > 1 and s.inputs == 1,
         "depthwise {kernel} convolution stays float: int8 depthwise kernels are reported slower than fp16 in TensorRT "
         "(#4529) or missing on Orin (#4060)"),
    Rule("grouped", False, lambda s: s.groups > 1,
         "convolution in {groups} groups stays float: TensorRT is reported to run int8 groups one by one, slower than "
         "fp16 (#4529, #1409)"),
    # Model Optimizer excludes these as well, multiples of 8 apart. The first convolution of CMT-Ti (3 channels) would
    # cost 1.5 dB of logit SQNR.
    Rule("thin-conv", False, lambda s: min(s.inputs, s.outputs) < MIN_WIDTH and bool(s.inputs % 8 or s.outputs % 8),
         "convolution from {inputs} to {outputs} channels stays float: int8 tensor cores work on 16 channels at once, "
         "so most of the work would be padding"),
    Rule("conv-on-vector", False, lambda s: s.positions == 1,
         "convolution over a single position stays float: a matrix-vector product is bound by memory, not arithmetic"),
    # Q/DQ between Pad and Conv keeps TensorRT from fusing the two (TensorRT #2592).
    Rule("after-pad", False, lambda s: bool(s.pad),
         "convolution stays float: {pad}, and no Q/DQ may stand between Pad and convolution"),
    # TensorRT stores int8 channels 32 at a time (NC/32HW32), fp16 ones 8 at a time, and a step of its int8 tensor cores
    # takes twice as many. On a MobileViT-XXS of CIFAR-10 the first two such layers cost 2 dB of logit SQNR, the two of
    # CMT-Ti's stem, 5 % of its multiply-accumulates, made 56 % of its loss.
    Rule("thin-input", False, lambda s: s.inputs <= MIN_WIDTH,
         "{kernel} convolution of {inputs} channels stays float: int8 channels are stored 32 at a time, so these take "
         "as many bytes and tensor-core steps as in fp16"),
    Rule("conv-int8", True, lambda s: True,
         "{kernel} convolution from {inputs} to {outputs} channels runs in int8"),
)  # fmt: skip

LINEAR_RULES: tuple[Rule[Linear], ...] = (
    Rule("computed-weight", False, lambda s: s.weight < 0,
         "matrix product stays float: neither operand is constant"),
    Rule("weight-first", False, lambda s: s.weight == 0,
         "matrix product stays float: its constant is the first operand, and int8 kernels take the weight second"),
    Rule("position-term", False, lambda s: s.position_term,
         "position term of attention stays float: it is added to the logits of a softmax, as the core is"),
    Rule("stacked-weight", False, lambda s: s.stacked,
         "matrix product stays float: its constant is a stack of matrices, which one scale per column cannot describe"),
    # Model Optimizer leaves products with M or N of 1 alone, and those with K or N below 16.
    Rule("gemv", False, lambda s: s.m == 1 or s.n == 1,
         "matrix-vector product ({m}x{k} by {k}x{n}) stays float: it is bound by memory, not arithmetic"),
    Rule("thin-gemm", False, lambda s: min(s.k, s.n) < MIN_WIDTH,
         "matrix product {m}x{k} by {k}x{n} stays float: int8 tensor cores work on 16 columns at once, so padding "
         "would eat the gain"),
    Rule("gemm-int8", True, lambda s: True,
         "matrix product {m}x{k} by {k}x{n} runs in int8"),
)  # fmt: skip

CORE_RULES: tuple[Rule[Core], ...] = (
    Rule("computed-product", False, lambda s: not s.attention,
         "product of two computed tensors stays float: it is no attention around a softmax, so no fused int8 kernel "
         "takes it"),
    # The guide's fused attention is softmax(q k + mask) v, with the scale on q or k.
    Rule("attention-altered", False, lambda s: not s.plain,
         "attention core stays fp16: something bounds its scores before the softmax or changes its weights behind, and "
         "fused kernels are documented for neither; head size {head_size}, lengths {queries} and {keys}"),
    # TensorRT-RTX 1.7 pads 46 to 48 to fuse it, with copies around each core (benchmarks/kernels.py); the guide of the
    # older releases names no such thing. `rewrites.head_size` pads where it can.
    Rule("attention-odd-size", False, lambda s: not fits_fused_float16(s.head_size),
         "attention core stays fp16: its head size {head_size} is none that fused kernels are documented for (fp16: 16 "
         "to 256 in steps of 8; int8: 16/32/64), so the compiler pads it or runs separate products; lengths {queries} "
         "and {keys}"),
    Rule("attention-fp16", False,
         lambda s: not fits_fused_int8(s.head_size, s.queries, s.keys),
         "attention core stays fp16, for which its head size fits a fused kernel: the int8 one needs head size "
         "16/32/64 and both lengths <= 512; here {head_size}, {queries}, {keys}"),
    # fp16 has a fused kernel as well (head sizes 16 to 256 in steps of 8), at <= 512 positions the core is a small
    # share of the work, and int8 builds on Orin lost the fused kernel (TensorRT #4167). Faster here needs a timing.
    Rule("attention-default", False, lambda s: not s.asked,
         "attention core stays fp16: head size {head_size}, lengths {queries} and {keys} fit a fused int8 kernel, but "
         "fp16 has one too, and int8 builds on Orin were reported to lose it (#4167)"),
    Rule("attention-int8", True, lambda s: True,
         "attention core runs in int8: head size {head_size}, lengths {queries} and {keys} fit the fused kernel"),
)  # fmt: skip

# The kernel of an int8 branch adds the skip in its epilogue and then quantizes the sum, if the skip is int8 as well
# (TensorRT #1293, #1144). Where the sum is read as float, as in pre-norm transformers, there is nothing to win. The
# int8 skips at the ends of CMT-Ti's four stages cost 0.17 dB of logit SQNR.
RESIDUAL_RULES: tuple[Rule[Residual], ...] = (
    # Conformer adds the features of its other branch to the map behind a ReLU, and to the tokens behind a LayerNorm and
    # GELU: on neither side ends a convolution whose kernel could add. The pointwise kernel that does quantizes the sum.
    Rule("exchange", False, lambda s: bool(s.exchange),
         "sum of two branches stays float: what comes from the other branch arrives through {exchange}, and no int8 "
         "kernel ends here that could add it before it rounds; {reader} reads the sum"),
    Rule("residual-float-branch", False, lambda s: not s.branch_int8,
         "skip stays float: the branch ends in {branch}, which has no int8 kernel to fuse this addition into"),
    Rule("residual-float-sum", False, lambda s: not s.reader_int8,
         "skip stays float: the sum is read by {reader} in float, so int8 here would cost accuracy and save no kernel"),
    Rule("uneven", False, lambda s: s.levels is not None,
         "skip stays float: a few calibration images fill its range, and the median one reaches {levels:.1f} of the "
         "127 levels"),
    Rule("residual-int8", True, lambda s: True,
         "skip is int8 and the branch is not: the {branch} adds it and quantizes the sum for {reader} in one kernel"),
)  # fmt: skip

# Accuracy: on trained BoTNets one or two of 30 layers are such, and in float they lift the median image's logits by
# 4 to 5 dB (benchmarks/README.md, Ranges).
UNEVEN_RULES: tuple[Rule[Uneven], ...] = (
    Rule("uneven", False, lambda s: True,
         "{op} stays float: a few calibration images fill the range of what it reads, and the median one reaches "
         "{levels:.1f} of the 127 levels"),
)  # fmt: skip

# TensorRT moves Q backward over operators that only choose or move values, as long as one scale stands on both sides.
PASSAGE_RULES: tuple[Rule[Passage], ...] = (
    Rule("max-pooling", False, lambda s: s.op in ("MaxPool", "GlobalMaxPool") and s.reader_int8,
         "max pooling ({window}) has no Q/DQ of its own: it only chooses values, so TensorRT moves the one of {reader} "
         "before it"),
    Rule("max-pooling", False, lambda s: s.op in ("MaxPool", "GlobalMaxPool"),
         "max pooling ({window}) stays float: {reader} reads it as float, so int8 would round and save nothing"),
    Rule("pooling", False, lambda s: s.op != "Resize",
         "mean ({window}) stays float: its sum needs more than 8 bits, and its result is small"),
    Rule("resize", False, lambda s: not s.copies,
         "resize ({window}) stays float: it computes means of neighbours, and its result is rounded only where a layer "
         "reads it"),
    Rule("resize", False, lambda s: s.reader_int8,
         "resize ({window}) stays float: it only copies what {maker} computes, and {reader} quantizes its result"),
    Rule("resize", False, lambda s: True,
         "resize ({window}) stays float: it only copies what {maker} computes, and {reader}, which reads it, adds or "
         "moves in float; int8 through it would need one scale on both sides"),
)  # fmt: skip

HADAMARD_RULES: tuple[Rule[Hadamard], ...] = (
    Rule("channel-gate", False, lambda s: s.gate,
         "gate per channel stays float: it scales {first} by {second} in one pointwise kernel, and int8 would round "
         "twice"),
    Rule("hadamard", False, lambda s: s.reader_int8,
         "product of two branches ({first} times {second}) stays float: rounding both factors costs more than rounding "
         "their product, which the same pointwise kernel does for {reader}"),
    Rule("hadamard", False, lambda s: True,
         "product of two branches ({first} times {second}) stays float: {reader} reads it as float"),
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


def choose(rules: tuple[Rule[SiteT], ...], site: SiteT) -> tuple[Rule[SiteT], str]:
    """The first rule that applies, and its reason with the numbers of this site."""
    rule = next(rule for rule in rules if rule.applies(site))
    found = {f.name: getattr(site, f.name) for f in fields(site)}  # type: ignore[arg-type]
    return rule, rule.reason.format(**found)
