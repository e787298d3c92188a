"""What the child process is told to do and what it answers: plain records, no NVIDIA library."""

from dataclasses import dataclass, field
from typing import Literal

from edgehybrid.records import EngineOptions, Precision

REFUSED = 5
"""Exit code of a child whose builder does not take the graph, or whose runtime does not take the engine."""
ERROR, REFUSAL, PROGRESS = "error: ", "refused: ", "progress: "
"""How a line of the child's stderr begins: an error of NVIDIA's log, a refusal, steps as JSON; others are warnings."""


class RefusedError(Exception):
    """NVIDIA's parser or compiler does not take the graph; empty where its log says why."""


@dataclass(frozen=True)
class Order:
    """What the child is to do."""

    module: str  # `tensorrt`, `tensorrt_rtx`, ...
    onnx: str = ""
    engine: str | None = None  # file to write; for `load`, the file to read
    typed: bool = False
    precision: Precision = "fp32"
    capabilities: tuple[str, ...] = ()  # TensorRT-RTX only: "SM86", ...
    options: EngineOptions = field(default_factory=EngineOptions)
    timing_cache: str | None = None  # file, shared by every build of this release on this device
    calibration_cache: str | None = None  # file of NVDLA's int8 scales
    task: Literal["build", "load", "version", "torch-tensorrt"] = "build"


@dataclass(frozen=True)
class Made:
    """What the child made."""

    version: str  # of the builder
    bytes: int = 0
    capabilities: tuple[str, ...] = ()
    log: tuple[str, ...] = ()  # NVIDIA's warnings and errors, in order; filled in by the parent
