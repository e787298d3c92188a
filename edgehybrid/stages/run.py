"""A chain of cached stages: what each cost, and what all of them depend on."""

import functools
import importlib.metadata
import importlib.util
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edgehybrid.errors import NotReadyError
from edgehybrid.progress import listener
from edgehybrid.records import DeviceState, Stage
from edgehybrid.store import run_stage, sha256_of

if TYPE_CHECKING:
    from edgehybrid.graph import Graph

FORWARD_BATCH = 16
"""Images decoded at a time; the graph's own batch decides what one call computes."""
LIBRARIES = (
    "numpy",
    "onnxruntime",
    "onnx",
    "onnx-ir",
    "onnxsim",
    "torch",
    "timm",
    "tensorrt-rtx-cu13-libs",
    "tensorrt",
    "torch-tensorrt",
)
"""Packages whose version shapes a result."""


@dataclass
class Run:
    """One chain of stages and what they cost."""

    stages: list[Stage] = field(default_factory=list)
    _last: "tuple[Path, Graph] | None" = field(default=None, repr=False)
    _digests: dict[Path, str] = field(default_factory=dict, repr=False)

    def do(self, name: str, inputs: Mapping[str, object], produce: Callable[[Path], None]) -> Path:
        """Run a stage through the cache; the folder with its files."""
        listener().begin(name)
        folder, stage = run_stage(
            name,
            {**inputs, "versions": versions()},
            produce,
            waiting=lambda: listener().note(f"another process is doing '{name}'; waiting for its result"),
        )
        self.stages.append(stage)
        listener().end(stage)
        return folder

    def digest(self, path: Path) -> str:
        """SHA-256 of a file that a stage left, read once: nobody changes it while the chain lasts."""
        if path not in self._digests:
            self._digests[path] = sha256_of(path)
        return self._digests[path]

    def open(self, path: Path) -> "Graph":
        """A graph that a stage left, to be read, not edited; the last one is kept, as stages in a row want the same."""
        from edgehybrid import graph

        if self._last is None or self._last[0] != path:
            self._last = None  # two at once would be held
            self._last = path, graph.load(path)
        return self._last[1]

    def keep(self, path: Path, graph: "Graph") -> None:
        """Have `open` give the graph that was written to a path, which saves reading it."""
        self._last = path, graph


def require(module: str, extra: str, purpose: str) -> None:
    """Make sure a library of an extra is installed, before a long chain of imports says so less kindly.

    Raises:
        NotReadyError: It is not.
    """
    if importlib.util.find_spec(module) is None:
        raise NotReadyError(
            f"cannot {purpose}: {module} is not installed",
            why=f"it comes with the extra [{extra}]",
            fix=f"pip install 'edgehybrid[{extra}]'",
        )


@functools.cache
def versions() -> Mapping[str, str]:
    """Installed version of each of LIBRARIES that is there."""
    installed = {d.name: d.version for name in LIBRARIES for d in importlib.metadata.distributions(name=name)}
    return dict(sorted(installed.items()))


def place_of(state: DeviceState) -> str:
    """The machine in the state that decides its speed: another power mode is measured anew."""
    mode = state.power_mode or "no power mode"
    return f"{state.name} {state.cores} {state.threads} {mode} {os.uname().nodename} {os.uname().machine}"


def with_progress(batches: Iterator[NDArray[np.float32]], total: int) -> Iterator[NDArray[np.float32]]:
    """Pass batches on and tell the listener how many images went by."""
    done = 0
    for batch in batches:
        yield batch
        done += len(batch)
        listener().advance(done, total)
