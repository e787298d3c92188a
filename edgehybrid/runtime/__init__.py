"""Run a network on a backend: the Runner protocol, the table of backends, and how one is opened by name."""

import importlib
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from edgehybrid.errors import InputError, NotReadyError, UsageError, unknown_name
from edgehybrid.records import LayerTime

Tensors = Mapping[str, NDArray[np.generic]]
"""Tensor name -> array."""

BACKENDS = {
    "onnxruntime": "edgehybrid.runtime.ort:OrtRunner",
    "tensorrt": "edgehybrid.runtime.trt:TrtRunner",
    "tensorrt-rtx": "edgehybrid.runtime.trt:TrtRunner",
    "torch": "edgehybrid.runtime.torch:TorchRunner",
    "torch-tensorrt": "edgehybrid.runtime.torch:TorchRunner",
}
"""Backend name -> "module:class"."""

INSTALL = {
    "onnxruntime": "pip install onnxruntime",
    "tensorrt": "pip install 'edgehybrid[jetson]' in an environment made with --system-site-packages",
    "tensorrt-rtx": "pip install 'edgehybrid[rtx,jetson]'",
    "torch": "pip install 'edgehybrid[host]'",
    "torch-tensorrt": "pip install 'edgehybrid[torch-tensorrt]'",
}
"""Backend name -> the command that installs its library."""

SUFFIXES = {".plan": "tensorrt", ".engine": "tensorrt", ".pt2": "torch"}
"""End of a file's name -> the backend that opens it; ONNX Runtime opens all others."""
_OPTIONS = {
    "onnxruntime": ("threads", "canonical", "spin"),
    "tensorrt": ("cuda_graph", "streams", "dla_core"),
    "tensorrt-rtx": ("cuda_graph", "streams"),
    "torch": ("threads",),
    "torch-tensorrt": (),
}
"""Backend name -> the options of `open_runner` that mean something there."""


class TensorInfo(NamedTuple):
    """Static shape and element type of one input or output."""

    shape: tuple[int, ...]
    dtype: np.dtype[np.generic]


def scores_of(outputs: Mapping[str, TensorInfo]) -> str | None:
    """Name of the output that is taken for class scores: the first of floats (N, classes); None where there is none."""
    return next((name for name, info in outputs.items() if len(info.shape) == 2 and info.dtype.kind == "f"), None)


class Split(NamedTuple):
    """Milliseconds of one call's parts on the device's clock, as trtexec defines them."""

    h2d: float  # inputs to the device
    compute: float
    d2h: float  # outputs to the host
    enqueue: float  # on the host's clock: how long it took to hand the work over

    @property
    def latency(self) -> float:
        """What trtexec calls latency: the three parts, without what the host did in between."""
        return self.h2d + self.compute + self.d2h


@runtime_checkable
class Runner(Protocol):
    """One network, loaded and ready; a context manager that frees it on leaving."""

    @property
    def inputs(self) -> Mapping[str, TensorInfo]:
        """What `run` needs, by name."""

    @property
    def outputs(self) -> Mapping[str, TensorInfo]:
        """What `run` returns, by name."""

    def run(self, feeds: Tensors) -> dict[str, NDArray[np.generic]]:
        """One synchronous call: it returns only when every output is in host memory.

        Args:
            feeds: Every input by name, with exactly its shape and dtype. Not modified.

        Returns:
            Every output by name; arrays that later calls do not overwrite.

        Raises:
            InputError: A name, shape or dtype does not fit; nothing was run.
            StageError: The network failed while running.
            ResourceError: Out of memory while running.
        """

    def __enter__(self) -> "Runner": ...

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None: ...


@runtime_checkable
class Profiling(Protocol):
    """A runner whose backend can say what each layer costs."""

    def profile(self, feeds: Tensors, calls: int) -> tuple[LayerTime, ...]:
        """Median time of every layer over `calls` calls, in the order of execution."""


@runtime_checkable
class Splitting(Protocol):
    """A runner that times the parts of a call on the device, and keeps several calls under way."""

    graph_reason: str  # why there is no CUDA graph although one was asked for

    @property
    def lanes(self) -> int:
        """How many calls can be under way at once."""

    def load(self, feeds: Tensors) -> None:
        """Put one batch into the host buffers of every lane."""

    def start(self, lane: int, *, transfers: bool = True) -> None:
        """Enqueue a call and return; `transfers` copies inputs and outputs."""

    def finish(self, lane: int) -> Split:
        """Wait for the call that was started on a lane."""


def backend_of(path: Path) -> str:
    """The backend that opens a file, by the end of its name."""
    return SUFFIXES.get(path.suffix, "onnxruntime")


def open_runner(
    path: Path,
    backend: str | None = None,
    *,
    threads: int = 0,
    canonical: bool = False,
    spin: bool = False,
    cuda_graph: bool = False,
    streams: int = 1,
    dla_core: int | None = None,
) -> Runner:
    """Load a network on a backend.

    Args:
        path: An `.onnx` file, or what the backend calls an engine.
        backend: A name of `BACKENDS`; the one that the end of the file's name says by default.
        threads: CPU threads of one call; 0 means every physical core this process may use.
        canonical: Run the graph as written, without optimisation: the numerics in which accuracy is judged.
        spin: Let idle worker threads spin instead of sleep. It saves microseconds per operator when this
            runner has every core to itself, and costs whole scheduler slices when it has not: another open
            runner's spinning threads, or another process, made calls 3 times as long (2-core AMD EPYC, 2
            threads, 12 convolutions: 11.2 ms spinning, 3.3 ms not, beside a niced background job).
        cuda_graph: Launch the network as one CUDA graph.
        streams: CUDA streams that calls can be under way on at once.
        dla_core: NVDLA core that the engine was built for.

    Returns:
        The runner, to be used in a `with` statement.

    Raises:
        NotFoundError: No such backend or file.
        NotReadyError: The backend's library is not installed or does not load.
        GraphError: The file is not a network this backend can run.
        UsageError: An option that the backend cannot honour.
    """
    backend = backend_of(path) if backend is None else backend
    if backend not in BACKENDS:
        raise unknown_name("backend", backend, BACKENDS, fix="edgehybrid doctor")
    given: dict[str, object] = {
        "threads": threads,
        "canonical": canonical,
        "spin": spin,
        "cuda_graph": cuda_graph,
        "streams": streams,
        "dla_core": dla_core,
    }
    options = _options_for(backend, given)
    module, name = BACKENDS[backend].split(":")
    try:
        home = importlib.import_module(module)
    except ImportError as error:
        if (error.name or "").startswith("edgehybrid"):
            raise  # our own bug, not the user's machine
        raise NotReadyError(
            f"backend '{backend}' is not ready",
            why=f"{error}; running {path.name} needs it",
            fix=INSTALL[backend],
        ) from error
    runner: Runner = getattr(home, name)(path, **options)
    return runner


def _options_for(backend: str, given: dict[str, object]) -> dict[str, object]:
    """The options that a backend takes.

    Raises:
        UsageError: One that it does not know is not at its default.
    """
    neutral = {"threads": 0, "canonical": False, "spin": False, "cuda_graph": False, "streams": 1, "dla_core": None}
    known = _OPTIONS[backend]
    for name, value in given.items():
        if name not in known and value != neutral[name]:
            raise UsageError(
                f"{backend} has no {name.replace('_', '-')}",
                why=f"it knows {', '.join(option.replace('_', '-') for option in known) or 'no options'}",
                fix=f"leave --{name.replace('_', '-')} out, or run an engine (.plan) with it",
            )
    own: dict[str, dict[str, object]] = {
        "tensorrt-rtx": {"module": "tensorrt_rtx"},
        "torch-tensorrt": {"extension": "torch_tensorrt", "device": "cuda"},
    }
    return {name: value for name, value in given.items() if name in known} | own.get(backend, {})


def check_feeds(inputs: Mapping[str, TensorInfo], feeds: Tensors) -> None:
    """Compare feeds with what a runner needs, before any of it reaches a native library.

    Raises:
        InputError: The first difference, in words: a name, a shape or a dtype.
    """
    if inputs.keys() != feeds.keys():
        raise InputError(
            "the feeds do not fit the network",
            why=f"found inputs {sorted(feeds)}, needed {sorted(inputs)}",
            fix="name each array after a network input, with none left over",
        )
    for name, need in inputs.items():
        array = feeds[name]
        if array.shape != need.shape:
            raise InputError(
                f"input '{name}' has the wrong shape",
                why=f"found {array.shape}, needed {need.shape}",
                fix="engines have one fixed batch and image size: resize the images or export again",
            )
        if array.dtype != need.dtype:
            raise InputError(
                f"input '{name}' has the wrong element type",
                why=f"found {array.dtype}, needed {need.dtype}",
                fix=f"convert it with astype('{need.dtype}') after preprocessing",
            )
