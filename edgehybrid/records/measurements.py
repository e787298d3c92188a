"""Measurements, and what they must be quoted with."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from edgehybrid.records.choices import Precision, Status

BUSY = 0.5
"""Load per core above which a latency is disturbed."""
WORTHWHILE = 1.05
"""A lower precision that is not at least this much faster is not worth its accuracy, and not called faster."""


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

    @property
    def is_busy(self) -> bool:
        """Whether other programs disturbed what was measured."""
        return self.load is not None and self.load > BUSY * self.cores


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
    end_to_end: bool = True  # preprocessing and network together are timed, too


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

    agreement: float | None  # percent of images with the same top-1; None, as the next but one, for no classifier
    sqnr_db: float  # of the logits; of the output where it is lowest for no classifier
    logit_kl: float | None  # mean KL(reference || this) of the softmax, nats
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
class Answers:
    """The class that each network gave each image of an evaluation; kept in the bundle so that two can be paired."""

    order: str  # sha256 over the images in order: equal only for the same images in the same order
    labels: tuple[int, ...]
    top1: Mapping[str, tuple[int, ...]]  # what `key` makes of a row -> class per image

    @staticmethod
    def key(precision: str, backend: str) -> str:
        """The name of a row here: a graph's is its precision, an engine's says where it ran, too."""
        return precision if backend == "onnxruntime-cpu" else f"{precision}/{backend}"
