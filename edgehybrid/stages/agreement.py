"""Whether what was made of a user's file computes what the file computes."""

import contextlib
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from edgehybrid import runtime
from edgehybrid.errors import EdgeHybridError, GraphError, StageError
from edgehybrid.progress import listener
from edgehybrid.store.files import guarding

if TYPE_CHECKING:
    from edgehybrid.graph import Graph

TOLERANCE = 1e-4
"""Largest difference, relative to the largest value of an output; sums of float32 that are added in another order."""


def check_agreement(path: Path, adopted: "Graph") -> None:
    """Run a file and the graph that was made of it on one image of noise.

    Args:
        path: As the user gave it.
        adopted: What was made of it: local functions inlined, shapes computed, perhaps another opset or channels first.

    Raises:
        StageError: An output differs by more than 1e-4 of its largest value.
        GraphError: One of the two does not run in ONNX Runtime, or an output of the file is not finite.
    """
    from edgehybrid.graph.adoption import as_written

    with tempfile.TemporaryDirectory(prefix="edgehybrid-") as name, guarding(folder := Path(name)):
        before, after = folder / "before.onnx", folder / "after.onnx"
        before.write_bytes(as_written(path, adopted).SerializeToString())
        after.write_bytes(adopted.to_bytes())
        with (
            _naming(path, before, after),
            _open_original(path, before) as old,
            runtime.open_runner(after, canonical=True) as new,
        ):
            ((image, wanted),) = new.inputs.items()
            ((_, written),) = old.inputs.items()
            noise = np.random.default_rng(0).standard_normal(wanted.shape, np.float32)
            turned = noise if written.shape == wanted.shape else noise.transpose(0, 2, 3, 1)
            want = old.run({image: np.ascontiguousarray(turned)})
            got = new.run({image: noise})
    worst = 0.0
    for output, array in want.items():
        reference, result = array.astype(np.float64), np.nan_to_num(got[output].astype(np.float64), nan=np.inf)
        if broken := int((~np.isfinite(reference)).sum()):
            raise GraphError(
                f"output '{output}' of {path} is not finite",
                why=f"{broken:,} of its {reference.size:,} values are NaN or infinite on an image of noise, in float32",
                fix="its weights are damaged or its training diverged: use another file",
            )
        worst = max(worst, float(np.abs(result - reference).max() / max(np.abs(reference).max(), 1e-30)))
    if worst > TOLERANCE:
        raise StageError(
            f"{path} computes something else in the form that is needed here",
            why=f"an output differs by {worst:.1e} of its largest value on an image of noise, allowed is {TOLERANCE:g}",
            fix="export it again with opset_version=17 and channels first",
        )
    listener().note(f"computes what {path} does: largest difference {worst:.1e} of an output, on one image of noise")


@contextlib.contextmanager
def _naming(path: Path, *written: Path) -> Iterator[None]:
    """Let errors name the user's file in place of those that were written for the comparison and will be gone."""
    try:
        yield
    except EdgeHybridError as error:
        for each in written:
            error.rename(str(each), str(path))
        raise


def _open_original(path: Path, written: Path) -> runtime.Runner:
    """What a file computes, to be held against; `written` is the file in a form that lies by itself."""
    try:
        return runtime.open_runner(written, canonical=True)
    except GraphError as error:
        raise GraphError(
            f"ONNX Runtime does not run {path}",
            why=error.why,
            fix="without a reference no change could be checked: export it in float32, of standard operators",
        ) from error
