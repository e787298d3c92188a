"""Build engines from ONNX files with TensorRT (8.5 to 11) or TensorRT-RTX, through one code path.

NVIDIA's libraries end the process on some errors (a missing driver among them), so they are only ever loaded in a
child: `build` starts `python -m edgehybrid.engine`, which answers with one JSON document on its stdout. Names of
flags differ from release to release and their numbers were reassigned, so every flag is looked up by name.
"""

import ctypes
import importlib
import importlib.util
import json
import os
import signal
import subprocess
import sys
import tempfile
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from types import ModuleType
from typing import Any

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

REFUSED = 5
"""Exit code of a child whose builder does not take the graph."""

_ERROR = "error: "
_REFUSAL = "refused: "

RTX_COMMAND = "pip install 'edgehybrid[rtx]'"


@dataclass(frozen=True)
class Order:
    """What the child is to do."""

    module: str
    onnx: str
    engine: str | None  # file to write
    typed: bool
    precision: Precision
    capabilities: tuple[str, ...]  # RTX only; empty: the device at hand


@dataclass(frozen=True)
class Made:
    """What the child made."""

    version: str
    bytes: int
    capabilities: tuple[str, ...]


def build(onnx_path: Path, target: Target, output: Path | None, *, precision: Precision = "int8") -> Engine:
    """Build the engine where this machine can, else have the graph checked by NVIDIA's parser and compiler.

    Args:
        onnx_path: In the dialect of the target. External data lies beside it.
        target: Where the engine will run.
        output: Where to put the engine, written atomically; None builds without keeping it.
        precision: What the builder may use if the graph is not strongly typed (TensorRT 8): Q/DQ needs `int8`.

    Returns:
        `built` with path and bytes: a TensorRT engine on a device of the target's compute capability, or a
        TensorRT-RTX engine for the `tensorrt-rtx` backend, which needs no GPU.
        `checked`: TensorRT-RTX compiled the graph on this machine, which is not the target; no file.
        `deferred`: no NVIDIA builder is installed here.

    Raises:
        NotFoundError: No such ONNX file.
        StageError: NVIDIA's parser or compiler refuses the graph (names the node), or crashed.
        ResourceError: Out of memory, or the engine cannot be written.
    """
    if not onnx_path.is_file():
        raise NotFoundError(f"no file {onnx_path}", why="found nothing to build from", fix="check the path")
    full, rtx = _find_module(TENSORRT_MODULES), _find_module(RTX_MODULES)
    if target.backend == "tensorrt" and full and _is_on(target):
        made = _make(Order(full, str(onnx_path), None, target.dialect == "typed", precision, ()), output)
        path = None if output is None else str(output)
        return Engine("tensorrt", "built", f"built by TensorRT {made.version} on this device", path, made.bytes)
    if rtx is None:
        return Engine(None, "deferred", f"no NVIDIA builder can be used here; {RTX_COMMAND} adds one that needs no GPU")
    typed = target.dialect == "typed"
    if target.backend == "tensorrt-rtx":
        made = _make(Order(rtx, str(onnx_path), None, typed, precision, RTX_CAPABILITIES), output)
        cards = ", ".join(_dotted(name) for name in made.capabilities)
        path = None if output is None else str(output)
        reason = f"built by TensorRT-RTX {made.version} for compute capabilities {cards}; not run here"
        return Engine("tensorrt-rtx", "built", reason, path, made.bytes)
    made = _make(Order(rtx, str(onnx_path), None, typed, precision, CHECK_CAPABILITIES), None)
    reason = f"NVIDIA's TensorRT-RTX {made.version} parser and compiler accept this graph; "
    where = (
        "ONNX Runtime needs no engine"
        if target.backend == "onnxruntime"
        else "the engine itself is built on the device"
    )
    return Engine("tensorrt-rtx", "checked", reason + where)


def probe_cuda() -> str | None:
    """Compute capability of the first CUDA device, as "8.7"; None without a driver or device.

    Asked of the driver itself, because full TensorRT ends the process when there is none.
    """
    try:
        driver = ctypes.CDLL("libcuda.so.1")
    except OSError:
        return None
    device, numbers = ctypes.c_int(), (ctypes.c_int(), ctypes.c_int())
    if driver.cuInit(0) or driver.cuDeviceGet(ctypes.byref(device), 0):
        return None
    for number, attribute in zip(numbers, (75, 76), strict=True):  # CU_DEVICE_ATTRIBUTE_COMPUTE_CAPABILITY_*
        if driver.cuDeviceGetAttribute(ctypes.byref(number), attribute, device):
            return None
    return f"{numbers[0].value}.{numbers[1].value}"


def _find_module(names: tuple[str, ...]) -> str | None:
    """The first of NVIDIA's modules that is installed, found without importing it."""
    return next((name for name in names if importlib.util.find_spec(name) is not None), None)


def _is_on(target: Target) -> bool:
    """Whether this machine's GPU has the compute capability of the target; a target without one takes any GPU."""
    found = probe_cuda()
    figure = target.figures.get("compute_capability")
    wanted = None if figure is None else figure.value
    return found is not None and (wanted is None or found in str(wanted).replace(" ", "").split(","))


def _dotted(capability: str) -> str:
    """'SM86' -> '8.6'."""
    return f"{capability[2:-1]}.{capability[-1]}"


# --- the parent's side --------------------------------------------------------------------------------


def _make(order: Order, output: Path | None) -> Made:
    """Have a child carry out the order; the engine arrives at `output` in one piece."""
    with tempfile.TemporaryDirectory(prefix="edgehybrid-engine-") as folder:
        engine = Path(folder) / "engine.plan"
        made = _ask(order if output is None else replace(order, engine=str(engine)))
        if output is not None:
            write_atomic(output, engine)
    return made


def _ask(order: Order) -> Made:
    """Run the child and read its answer.

    Raises:
        StageError: It refused the graph, or crashed.
        NotReadyError: It could not load NVIDIA's libraries.
        ResourceError: It was killed for want of memory.
    """
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
    raise _explain(order, child.returncode, log)


def _explain(order: Order, code: int, log: str) -> EdgeHybridError:
    """What the end of the child means, in the last words of NVIDIA's log."""
    name, why = Path(order.onnx).name, _last_words(log)
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
            fix="install the libraries of the same release beside the Python module",
        )
    if code == REFUSED:
        return StageError(
            f"{order.module} refuses {name}",
            why=why,
            fix="change or exclude the operator named above, or report this with the ONNX file",
        )
    return StageError(f"{order.module} failed on {name}", why=why, fix="report this with the ONNX file")


def _last_words(log: str) -> str:
    """What the parser refused, else the last errors of NVIDIA's log, else its last lines; on one line."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    for mark in (_REFUSAL, _ERROR):
        marked = [line.removeprefix(mark) for line in lines if line.startswith(mark)]
        if marked:
            return " | ".join(marked[-2:])
    return " | ".join(lines[-3:]) or "it left no message"


# --- the child's side ---------------------------------------------------------------------------------


def main() -> None:
    """Carry out the order in `sys.argv[1]`: JSON of `Made` on stdout, NVIDIA's log on stderr."""
    fields = json.loads(sys.argv[1])
    order = Order(**{**fields, "capabilities": tuple(fields["capabilities"])})
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # NVIDIA's libraries print to stdout as well
    try:
        made = compile_engine(importlib.import_module(order.module), order)
    except ImportError as error:
        print(f"{_ERROR}{error}", file=sys.stderr)  # noqa: T201 - the child's log
        sys.exit(NotReadyError.exit_code)
    except RefusedError as refusal:
        print(f"{_REFUSAL}{refusal}" if str(refusal) else "", file=sys.stderr)  # noqa: T201
        sys.exit(REFUSED)
    json.dump(asdict(made), answer)
    answer.close()


class RefusedError(Exception):
    """NVIDIA's parser or compiler does not take the graph; empty where its log says why."""


def compile_engine(trt: ModuleType, order: Order) -> Made:
    """Parse and build with one of NVIDIA's modules.

    Args:
        trt: `tensorrt` 8.5 to 11, or `tensorrt_rtx`.
        order: What to build.

    Returns:
        What was made; the engine is in the file that the order names.

    Raises:
        RefusedError: With the node that the parser stumbled over, or without more than the log says.
    """
    version = ".".join(str(trt.__version__).split(".")[:3])
    logger = _make_logger(trt)
    builder = trt.Builder(logger)
    network = builder.create_network(_network_flags(trt, order))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(order.onnx):
        faults = [_describe_fault(parser.get_error(i)) for i in range(parser.num_errors)]
        raise RefusedError("; ".join(faults) or "the parser gave no reason")
    config = builder.create_builder_config()
    _allow_precisions(trt, config, order)
    capabilities = _set_capabilities(trt, config, network, order.capabilities)
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        raise RefusedError
    if order.engine is not None:
        Path(order.engine).write_bytes(engine)
    return Made(version, int(engine.nbytes), capabilities)


def _make_logger(trt: ModuleType) -> Any:
    """Warnings and errors to stderr, one line each."""

    class Log(trt.ILogger):  # type: ignore[name-defined,misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: object, message: str) -> None:
            if severity in (trt.ILogger.Severity.INTERNAL_ERROR, trt.ILogger.Severity.ERROR):
                print(_ERROR + " ".join(message.split()), file=sys.stderr, flush=True)  # noqa: T201 - the child's log
            elif severity == trt.ILogger.Severity.WARNING:
                print(" ".join(message.split()), file=sys.stderr, flush=True)  # noqa: T201

    return Log()


def _network_flags(trt: ModuleType, order: Order) -> int:
    """Explicit batch where it must still be asked for (8.x), strong typing where it may still be (10.x).

    The bit of a flag was reassigned between 10 and 11, so it is read from the enumeration.
    """
    known, flags = trt.NetworkDefinitionCreationFlag, 0
    names = ["EXPLICIT_BATCH", "STRONGLY_TYPED"] if order.typed else ["EXPLICIT_BATCH"]
    if order.typed and not hasattr(known, "STRONGLY_TYPED") and int(str(trt.__version__).split(".")[0]) < 10:
        raise RefusedError(f"TensorRT {trt.__version__} cannot build strongly typed graphs, needed 10 or newer")
    for name in names:
        if hasattr(known, name):
            flags |= 1 << int(getattr(known, name))
    return flags


def _allow_precisions(trt: ModuleType, config: Any, order: Order) -> None:
    """Allow float16 and int8 where the graph does not fix its types; TensorRT 11 and RTX always take them from it."""
    wanted = {"fp32": (), "fp16": ("FP16",), "int8": ("FP16", "INT8")}[order.precision]
    for name in () if order.typed else wanted:
        if hasattr(trt.BuilderFlag, name):
            config.set_flag(getattr(trt.BuilderFlag, name))


def _set_capabilities(trt: ModuleType, config: Any, network: Any, wanted: tuple[str, ...]) -> tuple[str, ...]:
    """Tell TensorRT-RTX which cards to compile for; full TensorRT builds for the device at hand."""
    if not wanted:
        return ()
    multiplies = (trt.LayerType.MATRIX_MULTIPLY, trt.LayerType.CONVOLUTION)
    layers = [network.get_layer(i) for i in range(network.num_layers)]
    single = any(la.type in multiplies and la.get_output(0).dtype == trt.DataType.FLOAT for la in layers)
    names = tuple(
        name
        for name in wanted
        if hasattr(trt.ComputeCapability, name) and not (single and name == "SM75")  # no float32 GEMM for Turing
    )
    config.num_compute_capabilities = len(names)
    for index, name in enumerate(names):
        config.set_compute_capability(getattr(trt.ComputeCapability, name), index)
    return names


def _describe_fault(fault: Any) -> str:
    """One error of NVIDIA's parser, with the node where it knows it (10 and newer)."""
    name, op = (getattr(fault, ask)() if hasattr(fault, ask) else "" for ask in ("node_name", "node_operator"))
    text = f"{fault.code()}".removeprefix("ErrorCode.") + ": " + " ".join(fault.desc().split())
    return f"node '{name}' ({op}): {text}" if name else text
