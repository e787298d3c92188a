"""Run ONNX files on the CPU with ONNX Runtime: the default backend, and the one accuracy is judged on."""

import json
import re
import statistics
import tempfile
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import cast

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from edgehybrid.cores import available_cores
from edgehybrid.errors import EdgeHybridError, GraphError, NotFoundError, ResourceError, StageError
from edgehybrid.records import LayerTime
from edgehybrid.runtime import TensorInfo, Tensors, check_feeds

_SILENT = 4  # fatal only: every error also arrives as an exception, and stderr belongs to the progress display
_DTYPES = {
    "tensor(float)": "float32",
    "tensor(float16)": "float16",
    "tensor(double)": "float64",
    "tensor(int64)": "int64",
    "tensor(int32)": "int32",
    "tensor(int8)": "int8",
    "tensor(uint8)": "uint8",
    "tensor(bool)": "bool",
}

onnxruntime.set_default_logger_severity(_SILENT)


class OrtRunner:
    """An ONNX file on the CPU execution provider."""

    def __init__(self, path: Path, *, threads: int = 0, canonical: bool = False, spin: bool = False) -> None:
        """Load the file; arguments and errors as in `edgehybrid.runtime.open_runner`."""
        if threads < 0:
            raise ValueError(f"threads must be 0 (all physical cores) or more, got {threads}")
        if not path.is_file():
            raise NotFoundError(
                f"no file {path}",
                why="found nothing to load there, needed an .onnx file",
                fix="check the path, or make one with `edgehybrid export`",
            )
        self.path = path
        self.threads = threads or available_cores()
        self._canonical, self._spin = canonical, spin
        options = _options(self.threads, canonical=canonical, spin=spin)
        try:
            session = onnxruntime.InferenceSession(path, options, providers=["CPUExecutionProvider"])
        except Exception as error:  # ONNX Runtime's exceptions share no base class but Exception
            raise _load_error(path, error) from error
        self._session: onnxruntime.InferenceSession | None = session
        self.inputs: Mapping[str, TensorInfo] = {port.name: _info(path, port) for port in session.get_inputs()}
        self.outputs: Mapping[str, TensorInfo] = {port.name: _info(path, port) for port in session.get_outputs()}

    def run(self, feeds: Tensors) -> dict[str, NDArray[np.generic]]:
        """One synchronous call; see `edgehybrid.runtime.Runner.run`."""
        if self._session is None:
            raise ValueError(f"the runner of {self.path} is closed")
        check_feeds(self.inputs, feeds)
        try:
            arrays = self._session.run(None, dict(feeds))  # every output, in the order of `outputs`
        except Exception as error:
            raise _run_error(self.path, error) from error
        return dict(zip(self.outputs, cast(list[NDArray[np.generic]], arrays), strict=True))

    def profile(self, feeds: Tensors, calls: int) -> tuple[LayerTime, ...]:
        """Time per operator; see `edgehybrid.runtime.Profiling`. In a session of its own: profiling slows calls."""
        check_feeds(self.inputs, feeds)
        with tempfile.TemporaryDirectory(prefix="edgehybrid-profile-") as folder:
            options = _options(self.threads, canonical=self._canonical, spin=self._spin)
            options.enable_profiling = True
            options.profile_file_prefix = f"{folder}/ort"
            try:
                session = onnxruntime.InferenceSession(self.path, options, providers=["CPUExecutionProvider"])
                for _ in range(calls):
                    session.run(list(self.outputs), dict(feeds))
                events = json.loads(Path(session.end_profiling()).read_bytes())
            except Exception as error:
                raise _run_error(self.path, error) from error
        return _layer_times(events)

    def __enter__(self) -> "OrtRunner":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Free the session, its memory and its threads."""
        self._session = None


def _options(threads: int, *, canonical: bool, spin: bool) -> onnxruntime.SessionOptions:
    """Session options: explicit threads, one operator at a time, silent."""
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.inter_op_num_threads = 1
    options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
    options.log_severity_level = _SILENT
    level = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = level.ORT_DISABLE_ALL if canonical else level.ORT_ENABLE_ALL
    options.add_session_config_entry("session.intra_op.allow_spinning", "1" if spin else "0")
    return options


def _layer_times(events: list[dict[str, object]]) -> tuple[LayerTime, ...]:
    """Medians of ONNX Runtime's kernel events, in the order of the first call."""
    times: dict[tuple[str, str], list[float]] = {}
    for event in events:
        name, told = str(event.get("name", "")), event.get("args")
        if event.get("cat") == "Node" and name.endswith("_kernel_time") and isinstance(told, dict):
            key = (name.removesuffix("_kernel_time"), str(told.get("op_name", "")))
            times.setdefault(key, []).append(float(str(event["dur"])) / 1e3)
    medians = {key: statistics.median(values) for key, values in times.items()}
    total = sum(medians.values()) or 1.0
    return tuple(LayerTime(name, kind, ms, 100 * ms / total) for (name, kind), ms in medians.items())


def _info(path: Path, port: onnxruntime.NodeArg) -> TensorInfo:
    """Shape and dtype of a graph input or output.

    Raises:
        GraphError: A dynamic shape, or not a tensor of numbers.
    """
    if port.type not in _DTYPES:
        raise GraphError(
            f"{path}: '{port.name}' is a {port.type}",
            why=f"inputs and outputs must be tensors of {', '.join(sorted(set(_DTYPES.values())))}",
            fix="export the network without preprocessing or sequence outputs",
        )
    if not all(isinstance(dim, int) for dim in port.shape):
        raise GraphError(
            f"{path}: the shape of '{port.name}' is not static",
            why=f"found {port.shape}; networks here run at one fixed size",
            fix="export with a fixed batch and input size",
        )
    return TensorInfo(tuple(port.shape), np.dtype(_DTYPES[port.type]))


def _load_error(path: Path, error: Exception) -> EdgeHybridError:
    """What a failure to load means to the user."""
    reason = _reason(error)
    if isinstance(error, MemoryError) or "Failed to allocate memory" in str(error):
        return ResourceError(f"not enough memory to load {path}", why=reason, fix="close other programs")
    if type(error).__name__ == "NotImplemented":  # onnxruntime's class: the operator exists, not for this type
        return GraphError(
            f"ONNX Runtime cannot run {path} on the CPU",
            why=reason,
            fix="use another precision or backend for this graph",
        )
    return GraphError(
        f"{path} is not a usable ONNX file",
        why=reason,
        fix=f"export it again, or see what is wrong with `check-model {path}` (comes with onnx)",
    )


def _run_error(path: Path, error: Exception) -> EdgeHybridError:
    """What a failure to run means to the user."""
    reason = _reason(error)
    if isinstance(error, MemoryError) or "Failed to allocate memory" in str(error):
        return ResourceError(f"not enough memory to run {path}", why=reason, fix="use a smaller batch or input size")
    return StageError(
        f"{path} failed while running",
        why=reason,
        fix=f"check the file with `check-model {path}` (comes with onnx); if it passes, report this",
    )


def _reason(error: Exception) -> str:
    """The message on one line, without the prefix "[ONNXRuntimeError] : 7 : INVALID_PROTOBUF : "."""
    text = " ".join(str(error).split()) or type(error).__name__
    return re.sub(r"^\[ONNXRuntimeError\] : \d+ : \w+ : ", "", text)
