"""Quantization: ranges, where Q/DQ goes, what was tuned, and which layers it costs."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from edgehybrid.records.choices import Dialect, Method
from edgehybrid.records.measurements import Drop

LEVELS = 127
"""Largest level of symmetric int8: a scale is amax / 127. The 128th negative one is not counted on."""


@dataclass(frozen=True)
class Ranges:
    """Calibrated activation ranges."""

    method: Method
    images: int
    sha256: str  # of the calibration images
    tensors: Mapping[str, float]  # tensor name -> amax; int8 scale = amax / 127
    tied: tuple[tuple[str, ...], ...] = ()  # tensors that share one range
    factors: Mapping[str, str] = field(default_factory=dict)
    """Of an equalized graph, to which the ranges then belong: tensor -> by how much each channel was multiplied, in
    eighths of an octave ("0 -3 12": 1, 2^(-3/8), 2^(12/8))."""
    offsets: Mapping[str, str] = field(default_factory=dict)
    """Of a centred graph, to which the ranges then belong: tensor -> what was taken off each channel."""
    zero_points: Mapping[str, float] = field(default_factory=dict)
    """Of a graph that was shifted, to which the ranges then belong: tensor -> what was taken off all of it."""
    exponent: int = 2
    """Of method "mse": ranges have the least mean of |error|**exponent; 3 where few images outreach the others."""
    uneven: Mapping[str, float] = field(default_factory=dict)
    """Tensor that few images fill and the others hardly use -> how many of the 127 levels the median image reaches."""


@dataclass(frozen=True)
class Decision:
    """What happens to one input of one node, and why."""

    node: str
    op: str
    input: int  # index into the node's inputs
    tensor: str
    kind: Literal["activation", "weight", "float", "float32"]
    """`float`: stays in the float type of the dialect; `float32`: in float32 even where that is float16."""
    rule: str  # short name of the row in the rule table
    reason: str
    axis: int | None = None  # channel axis of a weight's scales


@dataclass(frozen=True)
class Plan:
    """Where Q/DQ goes.

    Every input of every weighted or attention operator has one decision; every sum or product of branches, pooling,
    Resize and float-only operator at least one.
    """

    dialect: Dialect
    decisions: tuple[Decision, ...]


@dataclass(frozen=True)
class Adjustment:
    """One place where something better than the plain way was tried, and whether it measured better there."""

    kind: Literal["equalization", "centering", "zero point", "range", "bias", "rounding"]
    site: str  # tensor or node
    accepted: bool
    before_db: float  # signal to quantization noise at the output of the layers that it concerns
    after_db: float  # the same with the best that was tried
    note: str  # what was tried, and what was chosen


@dataclass(frozen=True)
class LayerError:
    """Signal to quantization noise at one layer output."""

    node: str
    op: str
    tensor: str
    sqnr_db: float
    input_db: float | None = None  # of what the layer reads, before its own Q/DQ; None: it reads the image itself


@dataclass(frozen=True)
class LayerGroup:
    """int8 operators that go back to float together, because TensorRT fuses them or they share one Q/DQ."""

    name: str  # of its only operator, or the path its operators have in common
    kind: str  # "single", "shared input", "mlp", "attention"
    nodes: tuple[str, ...]  # its convolutions and matrix products, in the order of the graph
    macs: int  # of one image


@dataclass(frozen=True)
class Look:
    """One plan of a search for mixed precision, held against the evaluation images."""

    kept: int  # groups left in float, in the order of the search
    drop: Drop
    passed: bool


@dataclass(frozen=True)
class Search:
    """How mixed precision was chosen."""

    max_drop: float  # points of top-1
    groups: int
    kept: tuple[str, ...]  # groups left in float, the most accuracy per time first
    int8_macs: float  # percent of the network's multiply-accumulates that are in int8
    looks: tuple[Look, ...]
    reached: bool
    ranking: Literal["fisher", "designs"]
    ranked_on: int  # calibration images
    gains: str  # where the time that a group gains by int8 comes from


@dataclass(frozen=True)
class GroupLoss:
    """What it costs to have one group of layers in int8, all others in float."""

    group: LayerGroup
    nats: float  # estimated divergence of the softmax from the float network's, mean over images
    share: float  # percent of the sum over all groups
    checked: float | None = None  # the same measured: leave-one-out, nats


@dataclass(frozen=True)
class RankCheck:
    """An estimated ranking beside the measured one."""

    images: int
    forwards: float  # passes per image that measuring took
    spearman: float
    disjoint: bool  # whether other images were used than for the estimate
