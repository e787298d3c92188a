"""Run a TensorRT engine: one execution context, one stream and one set of buffers per lane.

    __init__.py   TrtRunner: load, run, time, profile, close
    current.py    the device's context, current on the calling thread
    buffers.py    host and device memory of inputs and outputs
    lane.py       upload, compute, download on one stream, timed by events
    graphs.py     the compute step captured as a CUDA graph
    layers.py     time per layer from the profiler, what a layer is from the inspector

TensorRT 8.5 and newer and TensorRT-RTX through the I/O-tensor API, which all of them have. pycuda owns memory, streams
and events; CUDA graphs go through cuda-bindings on pycuda's stream, as pycuda has none.
"""

import importlib
import importlib.util
from collections.abc import Mapping
from contextlib import ExitStack
from pathlib import Path
from types import ModuleType, TracebackType
from typing import Any

import numpy as np
import pycuda.driver as cuda
from numpy.typing import NDArray

from edgehybrid.errors import ArtifactError, GraphError, NotFoundError, NotReadyError, ResourceError
from edgehybrid.progress import listener
from edgehybrid.records import LayerTime
from edgehybrid.runtime import Split, TensorInfo, Tensors, check_feeds
from edgehybrid.runtime.trt.current import Current
from edgehybrid.runtime.trt.graphs import GraphUnavailableError
from edgehybrid.runtime.trt.lane import Lane
from edgehybrid.runtime.trt.layers import describe_layers, profile_layers

_DTYPES = {
    "FLOAT": "float32",
    "HALF": "float16",
    "INT8": "int8",
    "INT32": "int32",
    "INT64": "int64",
    "BOOL": "bool",
    "UINT8": "uint8",
}
"""TensorRT's element types -> numpy's; `trt.nptype` of 8.5 fails under numpy 1.24 and newer."""


class TrtRunner:
    """An engine on the first CUDA device."""

    def __init__(
        self,
        path: Path,
        *,
        module: str = "tensorrt",
        cuda_graph: bool = False,
        streams: int = 1,
        mapped: bool | None = None,
        dla_core: int | None = None,
    ) -> None:
        """Load the engine. The caller vouches for the file: an engine is executable input.

        Args:
            path: A plan.
            module: NVIDIA's Python module that built it.
            cuda_graph: Capture the compute step once and launch it as one graph; where that fails, the reason is
                noted, kept in `graph_reason`, and every call is enqueued instead.
            streams: Lanes, each with its own stream, context and buffers.
            mapped: Use host memory that the GPU reads directly instead of copying; by default where CPU and GPU
                share their memory, as on a Jetson.
            dla_core: NVDLA core that runs what was built for one; the runtime must be told before it loads the engine.

        Raises:
            NotFoundError: No such file.
            NotReadyError: No module, no driver or no device.
            ArtifactError: TensorRT does not take the engine.
            GraphError: Its shapes are dynamic, or a type has no counterpart in numpy.
            ResourceError: Out of device memory.
        """
        if not path.is_file():
            raise NotFoundError(f"no file {path}", why="found no engine there", fix="edgehybrid build BUNDLE")
        if streams < 1:
            raise ValueError(f"streams must be 1 or more, got {streams}")
        self.path, self.graph_reason = path, ""
        self._trt = _import(module, path)
        self._lanes: list[Lane] = []
        self._closing = ExitStack()
        device = _first_device(path)
        self._primary: Any = device.retain_primary_context()  # the one that TensorRT and the runtime API use
        self._current = Current(self._primary, path)
        try:
            shared = bool(device.get_attribute(cuda.device_attribute.INTEGRATED)) if mapped is None else mapped
            with self._current:
                self._open(cuda_graph, streams, shared, dla_core)
        except BaseException:
            self._close()
            raise

    @property
    def lanes(self) -> int:
        """How many calls can be under way at once."""
        return len(self._lanes)

    @property
    def staging(self) -> Mapping[str, NDArray[np.generic]]:
        """Host memory that the inputs are uploaded from: whoever fills it and feeds it to `run` spares a copy."""
        self._check_open()
        return {name: buffer.host for name, buffer in self._lanes[0].inputs.items()}

    def run(self, feeds: Tensors) -> dict[str, NDArray[np.generic]]:
        """One synchronous call; see `edgehybrid.runtime.Runner.run`."""
        self._check_open()
        check_feeds(self.inputs, feeds)
        with self._current:
            return self._lanes[0].run(feeds)

    def load(self, feeds: Tensors) -> None:
        """Put one batch into the host buffers of every lane, for `start`.

        Raises:
            InputError: It does not fit.
        """
        self._check_open()
        check_feeds(self.inputs, feeds)
        for lane in self._lanes:
            lane.load(feeds)

    def start(self, lane: int, *, transfers: bool = True) -> None:
        """Enqueue a call of a lane and return; see `edgehybrid.runtime.Splitting`."""
        self._check_open()
        with self._current:
            self._lanes[lane].start(transfers=transfers)

    def finish(self, lane: int) -> Split:
        """Wait for the call of a lane; see `edgehybrid.runtime.Splitting`."""
        self._check_open()
        with self._current:
            return self._lanes[lane].finish()

    def profile(self, feeds: Tensors, calls: int) -> tuple[LayerTime, ...]:
        """Time per layer; see `edgehybrid.runtime.Profiling`.

        By plain calls in a context of their own: a graph has no layers to report, and a profiler would slow every call
        that follows.
        """
        self.load(feeds)
        with self._current:
            lane = self._lanes[0]
            for buffer in lane.inputs.values():
                buffer.upload(lane.stream)
            context = self._new_context()
            lane.bind(context)
            return profile_layers(self._trt, self._engine, context, lane.stream, calls)

    def layers(self) -> tuple[Mapping[str, object], ...]:
        """What the inspector says about each layer; its keys differ between releases of TensorRT."""
        self._check_open()
        return describe_layers(self._trt, self._engine, self._lanes[0].context)

    def __enter__(self) -> "TrtRunner":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Free graphs, buffers, streams, contexts and the engine, in this order, and let the device go."""
        self._close()

    def _close(self) -> None:
        if self._primary is None:
            return
        with self._current:
            self._closing.close()
        self._primary.detach()
        self._primary = None

    def _check_open(self) -> None:
        if not self._lanes:
            raise ValueError(f"the runner of {self.path} is closed")

    def _open(self, cuda_graph: bool, streams: int, shared: bool, dla_core: int | None) -> None:
        """Everything that `_closing` undoes in reverse."""
        trt = self._trt
        self._log = _make_log(trt)
        runtime = trt.Runtime(self._log)
        if dla_core is not None:
            runtime.DLA_core = dla_core
        engine = runtime.deserialize_cuda_engine(self.path.read_bytes())
        if engine is None:
            raise ArtifactError(
                f"{self.path} does not load",
                why=self._log.last or "TensorRT gave no reason",
                fix="build the engine again on this device: edgehybrid build BUNDLE",
            )
        self._engine, self._runtime = engine, runtime
        self._closing.callback(self._forget)
        self.inputs, self.outputs = _ports(trt, engine, self.path)
        for _ in range(streams):
            lane = Lane(self._new_context(), self.inputs, self.outputs, mapped=shared, complain=self._complain)
            self._closing.callback(lane.close)
            self._lanes.append(lane)
        if cuda_graph:
            self._capture()

    def _new_context(self) -> Any:
        context = self._engine.create_execution_context()
        if context is None:
            raise ResourceError(
                f"not enough device memory to run {self.path}",
                why=self._log.last or "TensorRT made no execution context",
                fix="close other programs, or use fewer --streams or a smaller batch",
            )
        return context

    def _capture(self) -> None:
        """Every lane's graph, or none."""
        try:
            for lane in self._lanes:
                lane.capture()
        except GraphUnavailableError as error:
            for lane in self._lanes:
                lane.drop_graph()
            self.graph_reason = str(error)
            listener().note(f"no CUDA graph: {error}; calls are enqueued one by one")

    def _complain(self) -> str:
        return self._log.last or "TensorRT gave no reason"

    def _forget(self) -> None:
        self._lanes = []
        del self._engine, self._runtime


def _import(module: str, path: Path) -> ModuleType:
    """NVIDIA's module, of which some installations have the bindings alone.

    Raises:
        NotReadyError: Neither is there, or it does not load.
    """
    try:
        names = (module, f"{module}_bindings")
        return importlib.import_module(next(filter(importlib.util.find_spec, names), module))
    except ImportError as error:
        raise NotReadyError(
            f"cannot run {path.name}: {module} does not load",
            why=str(error),
            fix="on a Jetson it comes with JetPack: python3 -m venv --system-site-packages; see `edgehybrid doctor`",
        ) from error


def _first_device(path: Path) -> Any:
    """The first CUDA device.

    Raises:
        NotReadyError: There is none.
    """
    try:
        cuda.init()
        if cuda.Device.count():
            return cuda.Device(0)
        reason = "the driver has no device"
    except cuda.Error as error:
        reason = str(error)
    raise NotReadyError(f"no CUDA device to run {path.name} on", why=reason, fix="edgehybrid doctor")


def _make_log(trt: ModuleType) -> Any:
    """Keeps the last error; TensorRT prints nothing."""
    severities = trt.ILogger.Severity

    class Log(trt.ILogger):  # type: ignore[name-defined,misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)
            self.last = ""

        def log(self, severity: object, message: str) -> None:
            if severity in (severities.INTERNAL_ERROR, severities.ERROR):
                self.last = " ".join(message.split())

    return Log()


def _ports(trt: ModuleType, engine: Any, path: Path) -> tuple[dict[str, TensorInfo], dict[str, TensorInfo]]:
    """Inputs and outputs in the engine's order.

    Raises:
        GraphError: A shape is dynamic, or a type or place cannot be served.
    """
    inputs: dict[str, TensorInfo] = {}
    outputs: dict[str, TensorInfo] = {}
    for index in range(engine.num_io_tensors):
        name = engine.get_tensor_name(index)
        shape, kind = tuple(engine.get_tensor_shape(name)), engine.get_tensor_dtype(name).name
        if kind not in _DTYPES or engine.get_tensor_location(name) != trt.TensorLocation.DEVICE:
            raise GraphError(
                f"{path}: '{name}' is {kind}",
                why=f"inputs and outputs must be device tensors of {', '.join(sorted(_DTYPES))}",
                fix="build the engine from a graph with ordinary inputs and outputs",
            )
        if any(side < 0 for side in shape):
            raise GraphError(
                f"{path}: the shape of '{name}' is not static",
                why=f"found {shape}; engines here run at one fixed size",
                fix="build the engine from a graph of fixed batch and input size",
            )
        side = inputs if engine.get_tensor_mode(name) == trt.TensorIOMode.INPUT else outputs
        side[name] = TensorInfo(shape, np.dtype(_DTYPES[kind]))
    return inputs, outputs
