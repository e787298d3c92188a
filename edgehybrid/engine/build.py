"""Build an engine where this machine can, have NVIDIA's compiler check the graph where it cannot.

NVIDIA's libraries end the process on some errors (a missing driver among them), so they are only ever loaded in a
child: `build` starts `python -m edgehybrid.engine`, which answers with one JSON document on its stdout.
"""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from edgehybrid import device
from edgehybrid.engine.compiler import REFUSED, Made, Order, last_words
from edgehybrid.errors import EdgeHybridError, NotFoundError, NotReadyError, ResourceError, StageError
from edgehybrid.records import Engine, Precision, Target
from edgehybrid.store import write_atomic

TENSORRT_MODULES = ("tensorrt",)
RTX_MODULES = ("tensorrt_rtx", "tensorrt_rtx_bindings")
"""NVIDIA's Python modules, most complete package first."""

RTX_CAPABILITIES = ("SM75", "SM80", "SM86", "SM89", "SM120", "SM121")
"""Cards an RTX engine is built for: Turing, the first with int8 tensor cores, to Blackwell."""

CHECK_CAPABILITIES = ("SM86",)
"""For a check alone: TensorRT-RTX has no 8.7 (Orin); 8.6 is the same architecture, Ampere."""

RTX_COMMAND = "pip install 'edgehybrid[rtx]'"


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
    builders: Builders | None = None,
) -> Engine:
    """Build the engine where this machine can, else have the graph checked by NVIDIA's parser and compiler.

    Args:
        onnx_path: In the dialect of the target. External data lies beside it.
        target: Where the engine will run.
        output: Where to put the engine, written atomically; None builds without keeping it.
        precision: What the builder may use if the graph is not strongly typed (TensorRT 8): Q/DQ needs `int8`.
        builders: What to build with; found on this machine by default.

    Returns:
        `built` with path and bytes: a TensorRT engine on a device of the target's compute capability, or a
        TensorRT-RTX engine for the `tensorrt-rtx` backend, which needs no GPU.
        `checked`: TensorRT-RTX compiled the graph on this machine, which is not the target; no file.
        `deferred`: no NVIDIA builder is installed here.

    Raises:
        NotFoundError: No such ONNX file.
        StageError: NVIDIA's parser or compiler refuses the graph (names the node), or crashed.
        NotReadyError: An NVIDIA module is installed whose libraries do not load.
        ResourceError: Out of memory, or the engine cannot be written.
    """
    if not onnx_path.is_file():
        raise NotFoundError(f"no file {onnx_path}", why="found nothing to build from", fix="check the path")
    found = find_builders() if builders is None else builders
    path = None if output is None else str(output)
    order = Order("", str(onnx_path), None, target.dialect == "typed", precision, ())
    if target.backend == "tensorrt" and found.tensorrt and _fits(target, found.capability):
        made = _make(replace(order, module=found.tensorrt), output)
        reason = f"built by TensorRT {made.version} on this device"
        return Engine("tensorrt", "built", reason, path, made.bytes)
    if found.rtx is None:
        return Engine(None, "deferred", f"no NVIDIA builder can be used here; {RTX_COMMAND} adds one that needs no GPU")
    if target.backend == "tensorrt-rtx":
        made = _make(replace(order, module=found.rtx, capabilities=RTX_CAPABILITIES), output)
        cards = ", ".join(f"{name[2:-1]}.{name[-1]}" for name in made.capabilities)  # SM86 is 8.6
        reason = f"built by TensorRT-RTX {made.version} for compute capabilities {cards}; not run here"
        return Engine("tensorrt-rtx", "built", reason, path, made.bytes)
    made = _make(replace(order, module=found.rtx, capabilities=CHECK_CAPABILITIES), None)
    ends = {"tensorrt": "the engine itself is built on the device", "onnxruntime": "ONNX Runtime needs no engine"}
    checked = f"NVIDIA's TensorRT-RTX {made.version} parser and compiler accept this graph"
    return Engine("tensorrt-rtx", "checked", f"{checked}; {ends[target.backend]}")


def find_builders() -> Builders:
    """NVIDIA's builders on this machine, found without importing them; the driver is asked in a child."""

    def first(names: tuple[str, ...]) -> str | None:
        return next((name for name in names if importlib.util.find_spec(name) is not None), None)

    return Builders(first(TENSORRT_MODULES), first(RTX_MODULES), device.capability())


def _fits(target: Target, capability: str | None) -> bool:
    """Whether a GPU has the compute capability of the target; a target that names none takes any GPU."""
    figure = target.figures.get("compute_capability")
    wanted = None if figure is None else figure.value
    return capability is not None and (wanted is None or capability in str(wanted).replace(" ", "").split(","))


def _make(order: Order, output: Path | None) -> Made:
    """Have a child carry out the order; the engine arrives at `output` in one piece."""
    with tempfile.TemporaryDirectory(prefix="edgehybrid-engine-") as folder:
        engine = Path(folder) / "engine.plan"
        made = _ask(order if output is None else replace(order, engine=str(engine)))
        if output is not None:
            write_atomic(output, engine)
    return made


def _ask(order: Order) -> Made:
    """Run the child and read its answer; errors as in `build`."""
    root = str(Path(__file__).parents[2])  # where the package lies: the child must find the same one
    paths = os.pathsep.join(filter(None, (root, os.environ.get("PYTHONPATH"))))
    child = subprocess.Popen(
        [sys.executable, "-m", "edgehybrid.engine", json.dumps(asdict(order))],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        errors="replace",
        env={**os.environ, "PYTHONPATH": paths},
    )
    with child:
        try:
            answer, log = child.communicate()
        except BaseException:  # Ctrl-C above all: no builder may outlive the command
            child.kill()
            raise
    if child.returncode == 0:
        made = json.loads(answer)
        return Made(made["version"], made["bytes"], tuple(made["capabilities"]))
    raise _explain(order, child.returncode, last_words(log))


def _explain(order: Order, code: int, why: str) -> EdgeHybridError:
    """What the exit code of the child means, with the last words of NVIDIA's log."""
    name = Path(order.onnx).name
    if code == -signal.SIGKILL:
        return ResourceError(
            f"{order.module} was killed while building {name}",
            why="signal 9, most likely out of memory",
            fix="close other programs, or build with a smaller batch or input size",
        )
    if code < 0:
        return StageError(
            f"{order.module} crashed while building {name}",
            why=f"{signal.Signals(-code).name}; {why}",
            fix="check the driver with `edgehybrid doctor`; if it is fine, report this with the ONNX file",
        )
    if code == NotReadyError.exit_code:
        return NotReadyError(
            f"{order.module} is installed and cannot be loaded",
            why=why,
            fix="install NVIDIA's libraries of the same release beside the Python module",
        )
    if code == REFUSED:
        return StageError(
            f"{order.module} refuses {name}",
            why=why,
            fix="change or exclude the operator named above, or report this with the ONNX file",
        )
    return StageError(f"{order.module} failed on {name}", why=why, fix="report this with the ONNX file")
