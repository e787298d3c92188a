"""Build an engine where this machine can, have NVIDIA's compiler check the graph where it cannot."""

import functools
import importlib
import importlib.util
from dataclasses import dataclass, replace
from pathlib import Path

from edgehybrid import device
from edgehybrid.engine.order import Made, Order
from edgehybrid.engine.process import ask, make
from edgehybrid.errors import NotFoundError, NotReadyError, UsageError
from edgehybrid.records import Engine, EngineOptions, Precision, Target
from edgehybrid.store import cache_root

TENSORRT_MODULES = ("tensorrt",)
RTX_MODULES = ("tensorrt_rtx", "tensorrt_rtx_bindings")
"""NVIDIA's Python modules, most complete package first."""

RTX_CAPABILITIES = ("SM75", "SM80", "SM86", "SM89", "SM120", "SM121")
"""Cards an RTX engine is built for: Turing, the first with int8 tensor cores, to Blackwell."""

CHECK_CAPABILITIES = ("SM86",)
"""For a check alone: TensorRT-RTX has no 8.7 (Orin); 8.6 is the same architecture, Ampere."""

RTX_COMMAND = "pip install 'edgehybrid[rtx]'"
TYPED_SINCE = 10
"""First release of TensorRT that builds strongly typed graphs."""


@dataclass(frozen=True)
class Builders:
    """NVIDIA's builders on a machine."""

    tensorrt: str | None  # Python module of full TensorRT
    rtx: str | None  # Python module of TensorRT-RTX
    capability: str | None  # of the first CUDA device, as "8.7"; None: no driver or no device


def build(
    onnx_path: Path,
    target: Target,
    output: Path | None,
    *,
    precision: Precision = "int8",
    options: EngineOptions | None = None,
    calibration_cache: Path | None = None,
    builders: Builders | None = None,
) -> tuple[Engine, Made | None]:
    """Build the engine where this machine can, else have the graph checked by NVIDIA's parser and compiler.

    Args:
        onnx_path: In the dialect of the target. External data lies beside it.
        target: Where the engine will run.
        output: Where to put the engine, written atomically; None builds without keeping it.
        precision: What the builder may use if the graph is not strongly typed (TensorRT 8): Q/DQ needs `int8`.
        options: Of the builder; a check alone ignores those that only a device can honour.
        calibration_cache: NVDLA's int8 scales; needed with `options.dla_core` and int8.
        builders: What to build with; found on this machine by default.

    Returns:
        The engine, and what the builder said about it. The engine is
        `built` with path and bytes: a TensorRT engine on a device of the target's compute capability, or a
        TensorRT-RTX engine for the `tensorrt-rtx` backend, which needs no GPU.
        `checked`: TensorRT-RTX compiled the graph on this machine, which is not the target; no file.
        `deferred`: no NVIDIA builder is installed here.

    Raises:
        NotFoundError: No such ONNX file.
        StageError: NVIDIA's parser or compiler refuses the graph (names the node), or crashed.
        NotReadyError: An NVIDIA module is installed whose libraries do not load.
        ResourceError: Out of memory, or the engine cannot be written.
        UsageError: The target has no such DLA core.
    """
    if not onnx_path.is_file():
        raise NotFoundError(f"no file {onnx_path}", why="found nothing to build from", fix="check the path")
    options = options or EngineOptions()
    check_dla(target, options)
    found = find_builders() if builders is None else builders
    path = None if output is None else str(output)
    typed = target.dialect == "typed" and options.dla_core is None
    order = Order("", str(onnx_path), typed=typed, precision=precision)
    if target.backend == "tensorrt" and found.tensorrt and fits(target, found.capability):
        order = replace(
            order,
            module=found.tensorrt,
            options=options,
            timing_cache=str(_timing_cache(found)),
            calibration_cache=None if calibration_cache is None else str(calibration_cache),
        )
        made = make(order, output)
        reason = f"built by TensorRT {made.version} on this device"
        return Engine("tensorrt", "built", reason, path, made.bytes), made
    if found.rtx is None:
        reason = f"no NVIDIA builder can be used here; {RTX_COMMAND} adds one that needs no GPU"
        return Engine(None, "deferred", reason), None
    if target.backend == "tensorrt-rtx":
        made = make(replace(order, module=found.rtx, capabilities=RTX_CAPABILITIES, options=options), output)
        cards = ", ".join(capability_of(name) for name in made.capabilities)
        reason = f"built by TensorRT-RTX {made.version} for compute capabilities {cards}; not run here"
        return Engine("tensorrt-rtx", "built", reason, path, made.bytes), made
    if options.dla_core is not None:  # what NVDLA gets is the float graph: a check of it would say nothing
        return Engine(None, "deferred", "NVDLA's part is built on the device"), None
    made = make(replace(order, module=found.rtx, capabilities=CHECK_CAPABILITIES), None)
    ends = {"tensorrt": "the engine itself is built on the device", "onnxruntime": "ONNX Runtime needs no engine"}
    checked = f"NVIDIA's TensorRT-RTX {made.version} parser and compiler accept this graph"
    return Engine("tensorrt-rtx", "checked", f"{checked}; {ends[target.backend]}"), made


def compile_torch(
    module: object, shape: tuple[int, ...], program: Path, plan: Path, precision: Precision, options: EngineOptions
) -> Made:
    """Export a torch module and have Torch-TensorRT compile it, in a child.

    Args:
        module: A `torch.nn.Module` in float32.
        shape: Of its input, (N, 3, H, W).
        program: Where to put the exported program.
        plan: Where to put the compiled one.
        precision: fp32 or fp16.
        options: Of the builder.

    Raises:
        StageError: Torch-TensorRT refuses it or crashed.
        ResourceError: Out of memory.
    """
    exporting = importlib.import_module("edgehybrid.engine.torch_tensorrt")  # torch is its business alone
    exporting.export_program(module, shape, program)
    order = Order("torch_tensorrt", str(program), precision=precision, options=options, task="torch-tensorrt")
    return make(order, plan)


def find_builders() -> Builders:
    """NVIDIA's builders on this machine, found without importing them; the driver is asked in a child."""

    def first(names: tuple[str, ...]) -> str | None:
        return next((name for name in names if importlib.util.find_spec(name) is not None), None)

    return Builders(first(TENSORRT_MODULES), first(RTX_MODULES), device.capability())


def can_build(target: Target, builders: Builders) -> bool:
    """Whether these builders make an engine for the target, not only check its graph."""
    if target.backend == "tensorrt-rtx":
        return builders.rtx is not None
    return target.backend == "tensorrt" and builders.tensorrt is not None and fits(target, builders.capability)


def release_for(target: Target, builders: Builders) -> str | None:
    """Release of the full TensorRT that builds engines for a target here; None where none does."""
    return tensorrt_version(builders) if target.backend == "tensorrt" and can_build(target, builders) else None


def dialect_for(target: Target, builders: Builders) -> Target:
    """The target, in the dialect that the TensorRT of this machine reads where this machine is the target.

    A profile names the dialect of the JetPack it was written for; a board that still has TensorRT 8 cannot build
    strongly typed graphs and gets float32-typed ones.
    """
    if target.backend != "tensorrt" or target.dialect != "typed" or not fits(target, builders.capability):
        return target
    if builders.tensorrt is None:
        return target
    major = int(tensorrt_version(builders).split(".")[0])
    return target if major >= TYPED_SINCE else replace(target, dialect="fp32")


def tensorrt_version(builders: Builders) -> str:
    """Release of full TensorRT here, asked of the module itself in a child.

    Raises:
        NotReadyError: There is none, or its libraries do not load.
    """
    if builders.tensorrt is None:
        raise NotReadyError("TensorRT is not installed", why="no module named tensorrt", fix="edgehybrid doctor")
    return installed_version(builders.tensorrt)


@functools.cache
def installed_version(module: str) -> str:
    """Release of one of NVIDIA's modules, asked of it in a child, once."""
    return ask(Order(module, task="version")).version


def fits(target: Target, capability: str | None) -> bool:
    """Whether a GPU has the compute capability of the target; a target that names none takes any GPU."""
    figure = target.figures.get("compute_capability")
    wanted = None if figure is None else figure.value
    return capability is not None and (wanted is None or capability in str(wanted).replace(" ", "").split(","))


def check_dla(target: Target, options: EngineOptions) -> None:
    """Refuse a DLA core that the target does not have.

    Raises:
        UsageError: It does not.
    """
    if options.dla_core is None:
        return
    cores = dla_cores(target)
    if not 0 <= options.dla_core < cores:
        raise UsageError(
            f"--dla {options.dla_core} does not exist on {target.name}",
            why=f"it has {cores} DLA cores" if cores else "its profile names no DLA",
            fix=f"--dla 0 to {cores - 1}" if cores else "leave --dla out: the GPU does it all",
        )


def dla_cores(target: Target) -> int:
    """NVDLA cores of a target, by its profile."""
    figure = target.figures.get("dla")
    return int(figure.value) if figure is not None and isinstance(figure.value, int | float) else 0


def capability_of(name: str) -> str:
    """Compute capability of a card's name at NVIDIA: SM86 is 8.6."""
    return f"{name[2:-1]}.{name[-1]}"


def _timing_cache(builders: Builders) -> Path:
    """The file that every build of this release on this kind of device shares."""
    return cache_root() / "timing" / f"{builders.tensorrt}-{tensorrt_version(builders)}-{builders.capability}.cache"
