"""The nouns that stages exchange: frozen dataclasses without logic. Units stand in names or comments."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

Precision = Literal["fp32", "fp16", "int8", "mixed"]
"""`mixed`: int8 where placement asks for it, apart from the groups of layers that cost too much accuracy."""
Method = Literal["mse", "minmax", "percentile", "entropy"]
Dialect = Literal["fp32", "typed"]
"""`fp32`: float32-typed Q/DQ, opset 17 (ONNX Runtime, TensorRT 8.5 and 8.6). `typed`: strongly typed float16
with Q/DQ, opset 19 (TensorRT 10, 11 and RTX)."""
Interpolation = Literal["bicubic", "bilinear"]
Equalize = Literal["all", "folded", "off"]
Refine = Literal["biases", "all", "off"]
Rounding = Literal["nearest", "optimized"]
Status = Literal["measured", "estimated", "deferred", "failed"]


# --- models and images ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Preprocess:
    """How an image becomes network input; one object for calibration, evaluation and stream.

    Resize the shorter side to int(size / crop_pct), cut the centre size x size, scale to [0, 1],
    subtract mean, divide by std. RGB order.
    """

    size: int  # px
    crop_pct: float = 0.875
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    interpolation: Interpolation = "bicubic"


@dataclass(frozen=True)
class Stated:
    """What the user says of a model's input and classes; None or empty where the model is to tell."""

    size: int | None = None  # px
    crop_pct: float | None = None
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    interpolation: Interpolation | None = None
    labels: tuple[str, ...] = ()  # class names
    labels_from: str = ""  # the file that names the classes


@dataclass(frozen=True)
class Provenance:
    """Where weights came from."""

    source: str  # path, URL or "random (seed 0)"
    sha256: str  # of the file; of the name and seed for random weights
    trained: bool
    note: str = ""  # what the user must know: a resized table, an untrained network


@dataclass(frozen=True)
class ModelCard:
    """What is known about one architecture variant without building it."""

    name: str
    family: str  # the file in edgehybrid/zoo/ that builds it; "timm" for one of timm
    input_size: int  # px, as published
    params: int  # counted by this code at the published size, 1000 classes
    macs: int  # counted likewise: convolutions, linear layers and attention products of one image
    published: Mapping[str, str]  # "top1", "params", "macs" as printed by the authors
    paper: str
    licence: str
    weights_url: str | None  # direct download, None where a browser is needed
    weights_note: str = ""
    size_step: int = 32  # px; the input side is a multiple of it
    least_size: int = 1  # px; no smaller input, whatever the step
    crop_pct: float = 0.875  # of `Preprocess`, as the authors evaluate


@dataclass(frozen=True)
class ModelSpec:
    """One concrete network: an architecture or a file, with its weights and preprocessing."""

    name: str
    preprocess: Preprocess
    classes: int  # 0: a user's backbone without a classifier
    weights: Provenance
    card: ModelCard | None = None  # None for a user's ONNX file
    labels: tuple[str, ...] = ()  # class names, may be empty
    notes: tuple[str, ...] = ()  # what is not as the model has it, or had to be assumed


@dataclass(frozen=True)
class ImageSet:
    """Which images were used."""

    name: str
    source: str  # folder, file or URL
    images: int
    sha256: str  # over the chosen images' bytes, independent of their order
    labelled: bool = False
    classes: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()  # "path: reason" for each image that could not be read
    licence: str = ""
    note: str = ""


@dataclass(frozen=True)
class SetFile:
    """One file of a bundled image set."""

    path: str  # inside the folder of the set
    sha256: str  # of the file
    source: str  # where it was taken from
    licence: str = ""  # where it differs from file to file


@dataclass(frozen=True)
class SetPart:
    """The images of a bundled set that serve one use, calibration or evaluation."""

    kind: Literal["images", "npz"]
    images: int
    files: tuple[SetFile, ...]


@dataclass(frozen=True)
class SetCard:
    """What the manifest of a bundled image set says."""

    name: str
    title: str
    licence: str
    note: str  # what the user must know: a small sample, not the data the model was trained on
    classes: tuple[str, ...]  # empty: no labels
    parts: Mapping[str, SetPart]  # "calib", "eval"


# --- targets and what to do -----------------------------------------------------------------------


@dataclass(frozen=True)
class Figure:
    """One number of a data sheet and where it was read."""

    value: str | float | None  # None: unknown
    source: str
    unit: str = ""
    confirmed: bool = True  # False: derived from something remembered, or said by one second-hand source only


@dataclass(frozen=True)
class PowerMode:
    """One of the modes that nvpmodel sets on a Jetson; None where nobody read it."""

    name: str
    source: str
    id: int | None = None  # not portable between modules
    watts: float | None = None
    cpu_cores: int | None = None
    cpu_mhz: float | None = None
    gpu_mhz: float | None = None
    emc_mhz: float | None = None  # of the memory
    dla_mhz: float | None = None
    gpu_int8_dense: float | None = None  # TOPS, where the maker says them for the mode
    default: bool = False
    confirmed: bool = True


@dataclass(frozen=True)
class Stack:
    """A range of JetPacks with one TensorRT, which decides the dialect of the graph."""

    jetpack: str  # "6.2", or "6.1 to 6.2.3"
    l4t: str  # the same range of Jetson Linux; empty: unknown
    tensorrt: str
    cuda: str
    opset_max: int
    dialect: Dialect
    source: str
    default: bool = False
    confirmed: bool = True


@dataclass(frozen=True)
class Target:
    """Where a model will run."""

    name: str
    title: str
    backend: Literal["onnxruntime", "tensorrt", "tensorrt-rtx"]
    dialect: Dialect
    precisions: tuple[Precision, ...]
    figures: Mapping[str, Figure] = field(default_factory=dict)
    notes: tuple[str, ...] = ()
    modes: tuple[PowerMode, ...] = ()
    stacks: tuple[Stack, ...] = ()  # oldest first
    mode: str | None = None  # the chosen one; figures are its
    jetpack: str | None = None  # the chosen range; dialect and figures are its


@dataclass(frozen=True)
class Recipe:
    """Every choice that shapes a bundle; two equal recipes on the same inputs give the same bundle."""

    model: str
    weights: str
    precision: Precision
    target: str
    batch: int
    input_size: int
    crop_pct: float
    num_classes: int
    calib: str
    num_calib: int
    method: Method
    eval: str | None
    num_eval: int
    seed: int
    ranges: str | None = None  # a calibration file that took the place of calibrating
    equalize: Equalize = "all"  # these three shape the graph only of int8
    refine: Refine = "biases"
    rounding: Rounding = "nearest"
    max_drop: float | None = None  # points of top-1; shapes the graph only of `mixed`
    mean: str | None = None  # this and the following as options, None: the model's own
    std: str | None = None
    interpolation: Interpolation | None = None
    preprocess: str | None = None  # TOML file
    labels: str | None = None  # file of class names
    profile: str | None = None  # file of measured per-layer times, for `mixed`


# --- quantization ---------------------------------------------------------------------------------


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

    kind: Literal["equalization", "range", "bias", "rounding"]
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


# --- measurements ---------------------------------------------------------------------------------


@dataclass(frozen=True)
class DeviceState:
    """What a latency must be quoted with; None where the machine does not tell."""

    name: str  # CPU or board name
    cores: int
    threads: int  # used by the runner
    memory_gib: float | None
    system: str
    load: float | None = None  # 1-minute load average when the measurement began
    clocks_mhz: Mapping[str, float] = field(default_factory=dict)
    temperature_c: float | None = None
    power_mode: str | None = None
    versions: Mapping[str, str] = field(default_factory=dict)
    memory_free_gib: float | None = None
    temperatures_c: Mapping[str, float] = field(default_factory=dict)  # per thermal zone
    power_w: float | None = None  # of the whole board, at this moment
    rails_w: Mapping[str, float] = field(default_factory=dict)
    throttle: Mapping[str, int] | None = None  # cause -> events since the machine was started
    cooling: Mapping[str, int] = field(default_factory=dict)  # what holds a clock down against heat now -> how far
    fan: Mapping[str, float] = field(default_factory=dict)  # "percent", "rpm"
    unknown: Mapping[str, str] = field(default_factory=dict)  # figure -> why this machine does not tell it


@dataclass(frozen=True)
class Power:
    """Electric power of the whole board while one network ran alone, call after call."""

    mean_w: float
    max_w: float
    idle_w: float | None  # just before, with nothing running; None: not measured
    energy_mj: float  # per call: mean power x seconds / calls, so what the board draws at idle is in it
    seconds: float
    samples: int
    calls: int
    rails: tuple[str, ...]  # what was added up: one total rail, or all rails of a board without one
    source: str  # "ina3221", "ina238", "tegrastats"


@dataclass(frozen=True)
class Conditions:
    """What the machine did while it was timed."""

    seconds: float
    readings: int  # of every sensor; 2: at the beginning and at the end
    temperature_c: float | None  # hottest sensor, highest reading
    clocks_mhz: Mapping[str, float]  # lowest reading
    throttle: Mapping[str, int] | None  # cause -> events during the measurement; None: nothing counts them
    cooling: Mapping[str, int]  # what held a clock down against heat -> how far
    memory_gib: float | None  # in use by all programs, highest reading
    power: Power | None = None
    unknown: Mapping[str, str] = field(default_factory=dict)  # figure -> why there is none


@dataclass(frozen=True)
class Check:
    """One line of `doctor`."""

    name: str
    status: Literal["ok", "warn", "fail"]
    found: str
    fix: str | None = None  # what to run; None where there is nothing to do


@dataclass(frozen=True)
class Latency:
    """Milliseconds per batch of synchronous calls; no sample is dropped."""

    p50: float
    p90: float
    p95: float
    p99: float
    min: float
    max: float
    mean: float
    std: float
    n: int
    samples: tuple[float, ...] = ()  # in order of measurement
    conditions: Conditions | None = None  # None: nobody looked


@dataclass(frozen=True)
class LayerTime:
    """What one layer costs, by the backend's own profiler."""

    name: str
    kind: str  # what the backend calls it; empty where it does not tell
    ms: float  # median per call
    percent: float  # of all layers


@dataclass(frozen=True)
class BenchOptions:
    """How a latency is taken."""

    warmup: float = 0.2  # seconds of untimed calls
    duration: float = 3.0  # seconds of timed calls, at least
    iterations: int = 50  # timed calls, at least
    percentiles: tuple[float, ...] = (90.0, 95.0, 99.0)
    streams: int = 1  # calls under way at once, each on a CUDA stream of its own
    cuda_graph: bool = False
    transfers: bool = True  # copies to and from the device belong to the call
    layers: int = 0  # how many of the slowest layers are shown; 0: no profile is taken


@dataclass(frozen=True)
class Timing:
    """What is known about one row's latency besides the latency itself."""

    precision: Precision
    backend: str
    throughput: float  # calls per second
    variation: float  # coefficient of variation of the latency, percent
    percentiles: Mapping[str, float]  # as asked for: percent -> ms, the nearest sample at or above as trtexec takes it
    parts: Mapping[str, Latency] = field(default_factory=dict)  # "h2d", "compute", "d2h", "enqueue"
    layers: tuple[LayerTime, ...] = ()  # in order of execution
    streams: int = 1
    cuda_graph: bool = False
    transfers: bool = True


@dataclass(frozen=True)
class Ratio:
    """How many times as long as the reference a call takes (below 1: faster), both timed side by side."""

    value: float
    ci95: tuple[float, float] | None  # None: too few rounds for a 95 % interval
    rounds: int


@dataclass(frozen=True)
class Accuracy:
    """Top-1 and top-5 in percent; `ci95` is Wilson's interval of top-1."""

    top1: float
    top5: float
    n: int
    ci95: tuple[float, float]


@dataclass(frozen=True)
class Drop:
    """Paired loss of top-1 against the reference, in percentage points (positive: worse)."""

    points: float
    ci95: tuple[float, float]
    mcnemar_p: float
    discordant: int


@dataclass(frozen=True)
class Fidelity:
    """How close outputs are to the reference, labels or not."""

    agreement: float  # percent of images with the same top-1
    sqnr_db: float  # of the logits
    logit_kl: float  # mean KL(reference || this) of the softmax, nats
    n: int


@dataclass(frozen=True)
class Row:
    """One line of the report: one precision on one backend."""

    precision: Precision
    backend: str
    status: Status
    reason: str | None = None
    latency: Latency | None = None
    accuracy: Accuracy | None = None
    drop: Drop | None = None
    fidelity: Fidelity | None = None
    bytes: int | None = None
    ratio: Ratio | None = None  # of this latency to the fp32 row's, where both were timed side by side


@dataclass(frozen=True)
class EngineOptions:
    """What the builder of an engine may be told; None leaves it to NVIDIA's default."""

    workspace_mib: int | None = None  # device memory for trying out kernels
    optimization_level: int | None = None  # 0 (fast build) to 5 (fast engine)
    hardware_compatible: bool = False  # runs on every GPU from Ampere on, slower
    version_compatible: bool = False  # loads in the lean runtime of later releases; holds no code of its own
    dla_core: int | None = None  # NVDLA core that gets what it can take; the GPU does the rest


@dataclass(frozen=True)
class Floor:
    """The least time a call can take on a target: an estimate from its data sheet, never a latency."""

    precision: Precision
    target: str
    ms: float | None  # None: a figure that is needed is unknown, see `reason`
    bound: Literal["compute", "memory"] | None
    compute_ms: float | None  # products alone, at dense rates
    memory_ms: float | None  # weights, input and output alone, at full bandwidth
    ops: Mapping[str, int]  # "int8", "fp16", "fp32" -> operations, two per multiply-accumulate
    bytes: int
    rates: Mapping[str, float] = field(default_factory=dict)  # figures of the target that were used
    confirmed: bool = True  # False: one of them is not
    reason: str | None = None
    status: Literal["estimated"] = "estimated"


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
class Engine:
    """The engine, or why there is none."""

    flavor: Literal["tensorrt", "tensorrt-rtx", "torch-tensorrt"] | None
    status: Literal["built", "checked", "deferred", "failed"]
    reason: str | None = None
    path: str | None = None
    bytes: int | None = None


@dataclass(frozen=True)
class EngineStamp:
    """What an engine was built with and for: compared with the machine before the engine is loaded."""

    flavor: str  # `tensorrt`, `tensorrt-rtx` or `torch-tensorrt`
    version: str  # of the builder, which must be the runtime's
    capabilities: tuple[str, ...]  # compute capabilities it runs on
    driver: str | None  # newest CUDA of the driver where it was built; None: built without a GPU
    board: str
    model_sha256: str  # of the ONNX file it was built from
    engine_sha256: str
    options: EngineOptions
    recipe_sha256: str = ""  # of the bundle's recipe


@dataclass(frozen=True)
class Product:
    """A graph put to NVIDIA's builder: what became of it, and the files."""

    engine: Engine
    onnx: Path  # what was built
    plan: Path | None = None
    stamp: EngineStamp | None = None
    log: tuple[str, ...] = ()  # the builder's warnings and errors


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


# --- what the smaller verbs return ------------------------------------------------------------------


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
class Answers:
    """The class that each network gave each image of an evaluation; kept in the bundle so that two can be paired."""

    order: str  # sha256 over the images in order: equal only for the same images in the same order
    labels: tuple[int, ...]
    top1: Mapping[str, tuple[int, ...]]  # precision -> class per image


@dataclass(frozen=True)
class LatencyChange:
    """How two latencies of separate runs differ."""

    a: float  # median, ms
    b: float
    ratio: float | None  # how many times as long b takes; None: not compared
    ci95: tuple[float, float] | None
    verdict: Literal["faster", "slower", "no difference shown", "not compared"]  # of b
    reason: str | None = None
    relative: float | None = None  # the same ratio, each side divided by fp32 of the same rounds
    relative_ci95: tuple[float, float] | None = None


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
