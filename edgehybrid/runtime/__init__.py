"""Run a network on a backend: the Runner protocol, the table of backends, and how one is opened by name."""

import importlib
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from edgehybrid.errors import InputError, NotReadyError, unknown_name

Tensors = Mapping[str, NDArray[np.generic]]
"""Tensor name -> array."""

BACKENDS = {"onnxruntime": "edgehybrid.runtime.ort:OrtRunner"}
"""Backend name -> "module:class". The class takes (path, *, threads, canonical, spin)."""

INSTALL = {"onnxruntime": "pip install onnxruntime"}
"""Backend name -> the command that installs its library."""


class TensorInfo(NamedTuple):
    """Static shape and element type of one input or output."""

    shape: tuple[int, ...]
    dtype: np.dtype[np.generic]


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


def open_runner(
    path: Path, backend: str = "onnxruntime", *, threads: int = 0, canonical: bool = False, spin: bool = False
) -> Runner:
    """Load a network on a backend.

    Args:
        path: An `.onnx` file, or what the backend calls an engine.
        backend: A name of `BACKENDS`.
        threads: CPU threads of one call; 0 means every physical core this process may use.
        canonical: Run the graph as written, without optimisation: the numerics in which accuracy is judged.
        spin: Let idle worker threads spin instead of sleep. It saves microseconds per operator when this
            runner has every core to itself, and costs whole scheduler slices when it has not: another open
            runner's spinning threads, or another process, made calls 3 times as long (2-core AMD EPYC, 2
            threads, 12 convolutions: 11.2 ms spinning, 3.3 ms not, beside a niced background job).

    Returns:
        The runner, to be used in a `with` statement.

    Raises:
        NotFoundError: No such backend or file.
        NotReadyError: The backend's library is not installed or does not load.
        GraphError: The file is not a network this backend can run.
    """
    if backend not in BACKENDS:
        raise unknown_name("backend", backend, BACKENDS, fix="edgehybrid doctor")
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
    runner: Runner = getattr(home, name)(path, threads=threads, canonical=canonical, spin=spin)
    return runner


def check_feeds(inputs: Mapping[str, TensorInfo], feeds: Tensors) -> None:
    """Compare feeds with what a runner needs, before any of it reaches a native library.

    Raises:
        InputError: The first difference, in words: a name, a shape or a dtype.
    """
    missing, unknown = sorted(inputs.keys() - feeds.keys()), sorted(feeds.keys() - inputs.keys())
    if missing or unknown:
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
