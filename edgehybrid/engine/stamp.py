"""What an engine was built with and for, and whether that is what this machine has: asked before it is loaded."""

import importlib.util
from pathlib import Path

from edgehybrid.engine.build import Builders, capability_of, find_builders, installed_version
from edgehybrid.engine.order import Made, Order
from edgehybrid.engine.process import ask
from edgehybrid.errors import ArtifactError, NotReadyError, StageError
from edgehybrid.records import EngineOptions, EngineStamp
from edgehybrid.store import sha256_of

NAMES = {"tensorrt": "TensorRT", "tensorrt-rtx": "TensorRT-RTX", "torch-tensorrt": "Torch-TensorRT"}


def stamp(
    made: Made,
    builders: Builders,
    *,
    flavor: str,
    onnx_path: Path,
    plan: Path,
    options: EngineOptions,
    board: str,
    driver: str | None,
) -> EngineStamp:
    """What to write beside an engine.

    Args:
        made: What the builder said.
        builders: What it was built with.
        flavor: `tensorrt` or `tensorrt-rtx`.
        onnx_path: What was built.
        plan: The engine.
        options: Of the builder.
        board: Name of this machine.
        driver: Newest CUDA that the driver here supports.
    """
    cards = tuple(capability_of(name) for name in made.capabilities)
    here = () if builders.capability is None else (builders.capability,)
    return EngineStamp(
        flavor=flavor,
        version=made.version,
        capabilities=cards or here,
        driver=driver,
        board=board,
        model_sha256=sha256_of(onnx_path),
        engine_sha256=sha256_of(plan),
        options=options,
    )


def check_stamp(found: EngineStamp, *, version: str | None, capability: str | None, board: str, rebuild: str) -> str:
    """Compare what an engine was built with to what it is about to be loaded in.

    Args:
        found: The stamp of the engine.
        version: Of the TensorRT here; None where there is none.
        capability: Of the first CUDA device; None where there is none.
        board: Name of this machine.
        rebuild: The command that makes the engine again.

    Returns:
        What to know although it loads, or nothing.

    Raises:
        ArtifactError: TensorRT would refuse it, or worse; says what was found and needed.
    """

    def misfit(what: str, here: str, needed: str) -> ArtifactError:
        return ArtifactError(
            f"the engine was built for {what} {needed}",
            why=f"this machine has {here}; engines fit one release of TensorRT and one kind of GPU",
            fix=f"{rebuild} builds it again here",
        )

    if version is None or version != found.version:
        raise misfit(NAMES[found.flavor], version or "none", found.version)
    if capability is None or not fits_gpu(found, capability):
        needed = ", ".join(found.capabilities)
        raise misfit("compute capability", capability or "no CUDA device", needed)
    if found.flavor == "tensorrt" and board != found.board:
        return f"the engine was tuned on {found.board}, this is {board}: build it here for its best speed"
    return ""


def fits_gpu(found: EngineStamp, capability: str) -> bool:
    """Whether a GPU of this compute capability is one of those that an engine was built for."""
    wide = found.options.hardware_compatible and float(capability) >= 8.0
    return wide or capability in found.capabilities


def fits_machine(found: EngineStamp) -> bool:
    """Whether an engine was built for the GPU and the release of TensorRT of this machine."""
    here = find_builders()
    module = _module_of(found, here)
    fits = module is not None and here.capability is not None and fits_gpu(found, here.capability)
    return fits and module is not None and installed_version(module) == found.version


def try_loading(
    plan: Path, found: EngineStamp, *, board: str, rebuild: str, builders: Builders | None = None
) -> tuple[str, str]:
    """Make sure that an engine may be loaded into this process: its stamp fits, and a child could load it.

    Args:
        plan: The engine, whose hash the caller has checked.
        found: Its stamp.
        board: Name of this machine.
        rebuild: The command that makes the engine again.
        builders: What is installed; found on this machine by default.

    Returns:
        The Python module to load it with, and what to know although it loads.

    Raises:
        ArtifactError: It was built for another release or GPU, is not the file that was stamped, or does not load.
        NotReadyError: There is no TensorRT here.
    """
    here = find_builders() if builders is None else builders
    module = _module_of(found, here)
    if module is None:
        raise NotReadyError(
            f"{found.flavor} is not installed",
            why=f"{plan.name} was built by its release {found.version}",
            fix="edgehybrid doctor says how to install it",
        )
    if sha256_of(plan) != found.engine_sha256:
        raise ArtifactError(f"{plan} is not the engine that engine.json describes", why="its hash differs", fix=rebuild)
    note = check_stamp(
        found, version=installed_version(module), capability=here.capability, board=board, rebuild=rebuild
    )
    try:
        ask(Order(module, engine=str(plan), options=found.options, task="load"))
    except StageError as error:
        raise ArtifactError(f"{plan} does not load", why=error.why, fix=f"{rebuild} builds it again here") from error
    return module, note


def _module_of(found: EngineStamp, here: Builders) -> str | None:
    """The Python module that loads an engine; None where it is not installed."""
    if found.flavor == "torch-tensorrt":
        return "torch_tensorrt" if importlib.util.find_spec("torch_tensorrt") else None
    return here.tensorrt if found.flavor == "tensorrt" else here.rtx
