"""Ask a network what it sees in a frame, and change it for another variant while frames go on."""

import threading
import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgehybrid import dataset
from edgehybrid.errors import EdgeHybridError, InputError, StageError, UsageError
from edgehybrid.records import Drop, Fidelity, Latency, Preprocess
from edgehybrid.runtime import Runner, open_runner, scores_of
from edgehybrid.sizes import sides
from edgehybrid.streamer.frame import Frame

TOP = 5
CPU_BACKENDS = ("onnxruntime", "torch")
"""Backends whose calls take CPU threads: they leave one core to decoding and the page."""


@dataclass(frozen=True)
class Variant:
    """One runnable file of a bundle, and what its build measured.

    Attributes:
        name: Shown and chosen by: the precision.
        path: Of the ONNX file or engine.
        backend: A name of `runtime.BACKENDS`.
        drop: Against float32; None where it was not measured or this is float32.
        fidelity: Likewise.
        latency: Of the build, on the machine named in `measured_on`.
        measured_on: Name of that machine.
        dla_core: NVDLA core that an engine was built for.
    """

    name: str
    path: Path
    backend: str
    drop: Drop | None = None
    fidelity: Fidelity | None = None
    latency: Latency | None = None
    measured_on: str = ""
    dla_core: int | None = None


@dataclass(frozen=True)
class Subject:
    """What is run on the stream.

    Attributes:
        title: Name of the bundle or file.
        variants: At least one.
        first: Name of the one that runs first.
        preprocess: The object of calibration and evaluation.
        labels: Class names, or none.
        trained: Whether its answers mean anything.
        notes: What the user must know about the numbers.
    """

    title: str
    variants: tuple[Variant, ...]
    first: str
    preprocess: Preprocess
    labels: tuple[str, ...] = ()
    trained: bool = True
    notes: tuple[str, ...] = ()

    def variant(self, name: str) -> Variant:
        """By name.

        Raises:
            UsageError: There is none of that name.
        """
        for one in self.variants:
            if one.name == name:
                return one
        names = ", ".join(one.name for one in self.variants)
        raise UsageError(f"no variant {name}", why=f"this bundle has {names}", fix=f"choose one of {names}")

    def label(self, number: int) -> str:
        """Name of a class, or its number."""
        return self.labels[number] if number < len(self.labels) else f"class {number}"


@dataclass(frozen=True)
class Answer:
    """The most probable classes of one frame, best first: (class number, probability)."""

    frame: Frame
    variant: str
    top: tuple[tuple[int, float], ...]
    inference_ms: float  # preprocessing and the network
    finished: float  # seconds of the monotonic clock

    @property
    def age_ms(self) -> float:
        """From capture to this answer."""
        return (self.finished - self.frame.captured) * 1e3


class Network:
    """A loaded variant; `choose` replaces it between two frames. A context manager.

    Args:
        subject: What can be run.
        threads: CPU threads of one call; 0: every core.

    Raises:
        EdgeHybridError: The first variant cannot be loaded, or takes no single picture.
    """

    def __init__(self, subject: Subject, threads: int = 0) -> None:
        self._subject, self._threads = subject, threads
        self._lock = threading.Lock()
        self._loading: threading.Thread | None = None
        self._ready: tuple[Variant, Runner, str] | None = None
        self.problem = ""
        """Why the last choice could not be loaded."""
        self.wanted = subject.first
        self.current = subject.variant(subject.first)
        self._runner, self._scores = self._load(self.current)

    def choose(self, name: str) -> None:
        """Load another variant beside the running one, which the next frame after that will use.

        Ignored while another one loads.

        Raises:
            UsageError: There is none of that name.
        """
        variant = self._subject.variant(name)
        with self._lock:
            if self._loading is not None or self._ready is not None or name == self.current.name:
                return
            self.wanted, self.problem = name, ""
            self._loading = threading.Thread(target=self._prepare, args=(variant,), name="load variant", daemon=True)
            self._loading.start()

    def answer(self, frame: Frame) -> Answer:
        """Preprocess and run one frame; called from one thread only.

        Raises:
            EdgeHybridError: The network failed.
        """
        self._change_over()
        began = time.monotonic()
        name, info = next(iter(self._runner.inputs.items()))
        batch = tensor(frame.pixels, self._subject.preprocess).astype(info.dtype, copy=False)
        top = best(self._runner.run({name: batch})[self._scores])
        finished = time.monotonic()
        return Answer(frame, self.current.name, top, (finished - began) * 1e3, finished)

    def __enter__(self) -> "Network":
        return self

    def __exit__(self, *_: object) -> None:
        self._change_over()
        self._runner.__exit__(None, None, None)

    def _change_over(self) -> None:
        with self._lock:
            ready, self._ready = self._ready, None
        if ready is not None:
            self._runner.__exit__(None, None, None)
            self.current, self._runner, self._scores = ready

    def _prepare(self, variant: Variant) -> None:
        found, problem = None, ""
        try:
            found = self._load(variant)
        except EdgeHybridError as error:
            problem = f"{error.what}; {error.why}"
        except Exception as error:  # a backend's own: the page must say so, and offer the others on
            problem = f"{type(error).__name__}: {error}"
        with self._lock:
            self._loading = None
            if found is None:
                self.wanted, self.problem = self.current.name, f"{variant.name}: {problem}"
            else:
                self._ready = (variant, *found)

    def _load(self, variant: Variant) -> tuple[Runner, str]:
        """The runner, and the name of its class scores."""
        threads = self._threads if variant.backend in CPU_BACKENDS else 0
        runner = open_runner(variant.path, variant.backend, threads=threads, dla_core=variant.dla_core)
        height, width = sides(self._subject.preprocess.size)
        shapes, scores = [info.shape for info in runner.inputs.values()], scores_of(runner.outputs)
        if shapes == [(1, 3, height, width)] and scores is not None:
            return runner, scores
        gives = [info.shape for info in runner.outputs.values()]
        runner.__exit__(None, None, None)
        if scores is None:
            raise InputError(
                f"{variant.path.name} cannot run on a stream",
                why=f"found outputs {gives}, needed one of (1, classes): what is shown are class scores",
                fix="export it with its classification head",
            )
        raise InputError(
            f"{variant.path.name} cannot run on a stream",
            why=f"found inputs {shapes}, needed one of (1, 3, {height}, {width}): one frame per call",
            fix="build it with --batch 1",
        )


def tensor(pixels: NDArray[np.uint8], preprocess: Preprocess) -> NDArray[np.float32]:
    """Network input (1, 3, H, W) of a picture (H, W, 3): to the last bit what evaluation makes of it."""
    return dataset.preprocess_pixels(pixels, preprocess)[None]


def best(logits: NDArray[np.generic]) -> tuple[tuple[int, float], ...]:
    """The `TOP` most probable classes of one picture, best first, from logits or from probabilities (1, classes)."""
    values = np.asarray(logits, np.float64).reshape(-1)
    if not np.isfinite(values).all():
        raise StageError("the network's answer is no number", why="found NaN or infinity", fix="edgehybrid evaluate")
    order = np.argsort(-values, kind="stable")[:TOP]  # before they may underflow and tie
    if values.min() < 0 or abs(values.sum() - 1) > 1e-3:  # logits
        values = np.exp(values - values.max())
        values /= values.sum()
    return tuple((int(number), float(values[number])) for number in order)
