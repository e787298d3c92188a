"""Parse and compile one ONNX file with TensorRT (8.5 to 11) or TensorRT-RTX, in a process of its own.

One code path serves every release: names of flags come and go and their numbers were reassigned between 10 and 11,
so each is looked up by name where it is needed.
"""

import importlib
import json
import os
import sys
from dataclasses import asdict, dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

from edgehybrid.errors import NotReadyError
from edgehybrid.records import Precision

REFUSED = 5
"""Exit code of a child whose builder does not take the graph."""

_ERROR = "error: "
_REFUSAL = "refused: "


@dataclass(frozen=True)
class Order:
    """What the child is to do."""

    module: str  # `tensorrt`, `tensorrt_rtx`, ...
    onnx: str
    engine: str | None  # file to write
    typed: bool
    precision: Precision
    capabilities: tuple[str, ...]  # TensorRT-RTX only: "SM86", ...


@dataclass(frozen=True)
class Made:
    """What the child made."""

    version: str  # of the builder
    bytes: int
    capabilities: tuple[str, ...]


class RefusedError(Exception):
    """NVIDIA's parser or compiler does not take the graph; empty where its log says why."""


def main() -> None:
    """Carry out the order in `sys.argv[1]`: JSON of `Made` on stdout, NVIDIA's log on stderr."""
    fields = json.loads(sys.argv[1])
    order = Order(**{**fields, "capabilities": tuple(fields["capabilities"])})
    answer = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # NVIDIA's libraries print to stdout as well
    try:
        made = compile_engine(importlib.import_module(order.module), order)
    except ImportError as error:
        _log(f"{_ERROR}{error}")
        sys.exit(NotReadyError.exit_code)
    except RefusedError as refusal:
        _log(f"{_REFUSAL}{refusal}" if str(refusal) else "")
        sys.exit(REFUSED)
    json.dump(asdict(made), answer)
    answer.close()


def compile_engine(trt: ModuleType, order: Order) -> Made:
    """Parse and build.

    Args:
        trt: One of NVIDIA's modules.
        order: What to build.

    Returns:
        What was made; the engine is in the file that the order names.

    Raises:
        RefusedError: With the nodes that the parser stumbled over, or empty if the compiler returned nothing.
    """
    version = ".".join(str(trt.__version__).split(".")[:3])
    logger = _make_logger(trt)
    builder = trt.Builder(logger)
    network = builder.create_network(_network_flags(trt, order))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(order.onnx):
        raise RefusedError("; ".join(_describe_fault(parser.get_error(i)) for i in range(parser.num_errors)))
    config = builder.create_builder_config()
    _allow_precisions(trt, config, order)
    capabilities = _set_capabilities(trt, config, network, order.capabilities)
    engine = builder.build_serialized_network(network, config)
    if engine is None:
        raise RefusedError
    if order.engine is not None:
        Path(order.engine).write_bytes(engine)
    return Made(version, int(engine.nbytes), capabilities)


def last_words(log: str) -> str:
    """What the parser refused, else the last errors of NVIDIA's log, else its last lines; on one line."""
    lines = [line.strip() for line in log.splitlines() if line.strip()]
    for mark in (_REFUSAL, _ERROR):
        marked = [line.removeprefix(mark) for line in lines if line.startswith(mark)]
        if marked:
            return " | ".join(marked[-2:])
    return " | ".join(lines[-3:]) or "it left no message"


def _log(line: str) -> None:
    print(" ".join(line.split()), file=sys.stderr, flush=True)  # noqa: T201 - stderr of the child is its log


def _make_logger(trt: ModuleType) -> Any:
    """Warnings and errors to stderr, one line each."""
    severities = trt.ILogger.Severity

    class Log(trt.ILogger):  # type: ignore[name-defined,misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: object, message: str) -> None:
            if severity in (severities.INTERNAL_ERROR, severities.ERROR):
                _log(_ERROR + message)
            elif severity == severities.WARNING:
                _log(message)

    return Log()


def _network_flags(trt: ModuleType, order: Order) -> int:
    """Explicit batch where it must still be asked for (8.x), strong typing where it can be (10 and newer).

    Raises:
        RefusedError: A typed graph for a release that cannot build one.
    """
    known, flags = trt.NetworkDefinitionCreationFlag, 0
    if order.typed and not hasattr(known, "STRONGLY_TYPED"):
        raise RefusedError(f"TensorRT {trt.__version__} cannot build strongly typed graphs, needed 10 or newer")
    for name in ("EXPLICIT_BATCH", "STRONGLY_TYPED") if order.typed else ("EXPLICIT_BATCH",):
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
    products = (trt.LayerType.MATRIX_MULTIPLY, trt.LayerType.CONVOLUTION)
    layers = [network.get_layer(i) for i in range(network.num_layers)]
    single = any(la.type in products and la.get_output(0).dtype == trt.DataType.FLOAT for la in layers)
    names = tuple(
        name
        for name in wanted
        if hasattr(trt.ComputeCapability, name) and not (single and name == "SM75")  # RTX: no float32 GEMM on Turing
    )
    config.num_compute_capabilities = len(names)
    for index, name in enumerate(names):
        config.set_compute_capability(getattr(trt.ComputeCapability, name), index)
    return names


def _describe_fault(fault: Any) -> str:
    """One error of NVIDIA's parser, with the node where it knows it (10 and newer)."""
    name, op = (getattr(fault, ask)() if hasattr(fault, ask) else "" for ask in ("node_name", "node_operator"))
    code = str(fault.code()).removeprefix("ErrorCode.")
    text = f"{code}: {' '.join(fault.desc().split())}"
    return f"node '{name}' ({op}): {text}" if name else text
