"""Targets, what is asked for them, and the engines built for them."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from edgehybrid.records.choices import Dialect, Equalize, Interpolation, Method, Precision, Refine, Rounding
from edgehybrid.sizes import Size


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
    input_size: Size
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


@dataclass(frozen=True)
class EngineOptions:
    """What the builder of an engine may be told; None leaves it to NVIDIA's default."""

    workspace_mib: int | None = None  # device memory for trying out kernels
    optimization_level: int | None = None  # 0 (fast build) to 5 (fast engine)
    hardware_compatible: bool = False  # runs on every GPU from Ampere on, slower
    version_compatible: bool = False  # loads in the lean runtime of later releases; holds no code of its own
    dla_core: int | None = None  # NVDLA core that gets what it can take; the GPU does the rest

    @property
    def words(self) -> list[str]:
        """What `edgehybrid build` is told to get them."""
        said = (("workspace", self.workspace_mib), ("opt-level", self.optimization_level), ("dla", self.dla_core))
        words = [word for name, value in said if value is not None for word in (f"--{name}", str(value))]
        words += ["--hardware-compatible"] if self.hardware_compatible else []
        return words + (["--version-compatible"] if self.version_compatible else [])


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
class Runnable:
    """A graph or an engine that this machine may run, and on what."""

    path: Path
    backend: str  # a name of `runtime.BACKENDS`
    dla_core: int | None = None  # NVDLA core that an engine was built for


@dataclass(frozen=True)
class EngineBuild:
    """A graph put to NVIDIA's builder: what became of it, and the files."""

    engine: Engine
    onnx: Path  # what was built
    plan: Path | None = None
    stamp: EngineStamp | None = None
    log: tuple[str, ...] = ()  # the builder's warnings and errors
