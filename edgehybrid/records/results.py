"""What the verbs return."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from edgehybrid.records.choices import Method, Precision
from edgehybrid.records.measurements import Answers, Check, DeviceState, Floor, Row, Timing
from edgehybrid.records.models import ImageSet, ModelCard, ModelSpec
from edgehybrid.records.quantization import Adjustment, Decision, GroupLoss, LayerError, RankCheck, Search
from edgehybrid.records.targets import Engine, Target


@dataclass(frozen=True)
class Stage:
    """What one step of a build cost."""

    name: str
    seconds: float
    peak_rss_mb: float
    cached: bool


@dataclass(frozen=True)
class Report:
    """Everything a build found out."""

    version: str
    model: ModelSpec
    params: int
    macs: int
    batch: int
    target: Target
    device: DeviceState
    calibration: ImageSet | None
    method: Method | None
    evaluation: ImageSet | None
    rows: tuple[Row, ...]
    engine: Engine
    stages: tuple[Stage, ...]
    bundle: str
    placement: tuple[Decision, ...] = ()
    layers: tuple[LayerError, ...] = ()
    adjustments: tuple[Adjustment, ...] = ()
    notes: tuple[str, ...] = ()
    next_command: str = ""
    command: str = ""  # makes this report again, every default spelled out
    roofline: tuple[Floor, ...] = ()  # per precision, on the target
    search: Search | None = None  # of mixed precision


@dataclass(frozen=True)
class Models:
    """Every architecture that can be named."""

    models: tuple[ModelCard, ...]


@dataclass(frozen=True)
class Targets:
    """Every target that can be named."""

    targets: tuple[Target, ...]


@dataclass(frozen=True)
class Diagnosis:
    """What this machine can do."""

    checks: tuple[Check, ...]
    can: tuple[str, ...] = ()
    cannot: tuple[str, ...] = ()  # yet; the checks say what is missing


@dataclass(frozen=True)
class Artifact:
    """A file that a single stage wrote."""

    path: str
    kind: Literal["onnx", "calibration", "html", "json"]
    bytes: int
    sha256: str
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Measurement:
    """Latency or accuracy of one existing file."""

    path: str
    device: DeviceState
    rows: tuple[Row, ...]
    evaluation: ImageSet | None = None
    notes: tuple[str, ...] = ()
    timings: tuple[Timing, ...] = ()  # of the rows that were timed, in their order
    shown_layers: int = 0
    subject: Mapping[str, str] = field(default_factory=dict)  # what the numbers belong to, by name, to compare by
    answers: Answers | None = None  # of the rows that were scored


@dataclass(frozen=True)
class Sensitivity:
    """Which layers cost accuracy in int8, the costliest first."""

    model: str
    trained: bool
    how: Literal["fisher", "designs"]
    images: int
    forwards: float  # passes of the float network per image that the estimate took, or as much arithmetic
    groups: tuple[GroupLoss, ...]
    check: RankCheck | None
    calibration: ImageSet
    method: Method
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class LatencyChange:
    """How two latencies of separate runs differ."""

    a: float  # median, ms
    b: float
    ratio: float | None  # how many times as long b takes; None: not compared
    ci95: tuple[float, float] | None
    verdict: Literal["faster", "slower", "no difference shown", "not compared"]  # of b
    reason: str | None = None
    relative: float | None = None  # the same ratio, each side divided by `relative_to` of the same rounds
    relative_ci95: tuple[float, float] | None = None
    relative_to: Precision | None = None  # fp32, or the fp16 control of an engine


@dataclass(frozen=True)
class AccuracyChange:
    """How two accuracies differ."""

    a: float  # top-1, percent
    b: float
    points: float | None  # lost from a to b (positive: b is worse); None: not compared
    ci95: tuple[float, float] | None
    paired: bool  # same images, answer by answer
    mcnemar_p: float | None
    verdict: Literal["better", "worse", "no difference shown", "not compared"]  # of b
    reason: str | None = None


@dataclass(frozen=True)
class Contrast:
    """Two rows set against each other; None where one of them has no such number."""

    a: str  # "int8/onnxruntime-cpu"
    b: str
    latency: LatencyChange | None
    accuracy: AccuracyChange | None


@dataclass(frozen=True)
class Comparison:
    """What differs between two bundles, reports or measurements, for certain or perhaps."""

    a: str
    b: str
    contrasts: tuple[Contrast, ...]
    differences: Mapping[str, tuple[str, str]]  # setting -> its value in a and in b, where they differ
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Summary:
    """Several reports."""

    reports: tuple[Report, ...]


@dataclass(frozen=True)
class Verification:
    """A bundle that was found whole."""

    path: str
    files: Mapping[str, str]  # name -> sha256
    loads: tuple[str, ...]  # which files were opened in a runtime as well
    model: str
    trained: bool


@dataclass(frozen=True)
class Issue:
    """One thing in a quantized graph that TensorRT refuses or runs badly."""

    rule: str
    severity: Literal["error", "warning"]  # error: refused, or computed differently; warning: slow or inaccurate
    node: str  # or the name of an input
    found: str
    fix: str


@dataclass(frozen=True)
class Lint:
    """What the rules say to a quantized ONNX file."""

    path: str
    opset: int
    pairs: int  # DequantizeLinear operators
    products: int  # convolutions and matrix products
    int8: int  # of these, how many read int8 on both sides
    rules: tuple[str, ...]  # every rule that was tried
    issues: tuple[Issue, ...]  # errors first


@dataclass(frozen=True)
class Stream:
    """What a camera stream was like. Every captured frame is counted once, as inferred or as left out for a reason."""

    source: str  # without credentials
    engine: str  # the bundle or file
    variant: str  # that ran last
    backend: str
    device: DeviceState
    seconds: float
    captured: int
    frames: int  # inferred
    fps: float  # of these, from the first answer to the last
    age_ms: Mapping[str, float] | None  # from capture to answer: p50, p99 (each to within 0.5 %), max
    inference_ms: Mapping[str, float] | None  # preprocessing and network: p50, p99
    dropped: int  # replaced by a newer frame before they were inferred
    stale: int  # older than max_age before they were inferred
    blank: int  # without a picture
    damaged: int  # not vouched for by the decoder
    late: int  # inferred, and older than max_age when the answer was there
    reconnects: int
    longest_gap_s: float  # between two answers, or from the start to the first
    ended: Literal["duration", "source", "interrupted", "terminated"]
    power_w: float | None = None  # mean, where the board tells
    recorded: str | None = None
    notes: tuple[str, ...] = ()
    frozen: int = 0  # the same to the last bit as seconds before


Listing = (
    Models
    | Targets
    | Diagnosis
    | Artifact
    | Measurement
    | Sensitivity
    | Verification
    | Lint
    | Stream
    | Comparison
    | Summary
)
"""What the smaller verbs return."""
Result = Report | Listing
"""What a verb returns."""
