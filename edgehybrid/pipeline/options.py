"""What several verbs do with the same options."""

from pathlib import Path
from typing import TYPE_CHECKING, Literal

from edgehybrid.errors import UsageError
from edgehybrid.records import Artifact, ModelSpec, Precision, Target

if TYPE_CHECKING:
    from edgehybrid.dataset import Images

DEFAULT_CALIB_IMAGES = 128


def check_counts(
    batch: int, num_calib: int | None, num_eval: int | None, max_drop: float | None, eval: str | None
) -> None:
    """Refuse counts below one, and a budget that nothing could be held against."""
    for name, value in (("batch", batch), ("num-calib", num_calib), ("num-eval", num_eval)):
        if value is not None and value < 1:
            raise UsageError(f"--{name} {value} makes no sense", why="it counts images", fix=f"--{name} 1 or more")
    if max_drop is not None and eval is None:
        raise UsageError(
            "--max-drop needs labelled images",
            why="without them no accuracy is measured, so no budget can be checked",
            fix="add --eval with a folder of classes, an .npz file or a named set",
        )


def load_target(name: str, precision: Precision) -> Target:
    """The target of a name, a file or this machine (`auto`), which must run the precision."""
    from edgehybrid import device, resources

    goal = resources.load_target(device.detect_target() if name == "auto" else name)
    if precision not in goal.precisions:
        raise UsageError(
            f"{goal.name} does not run {precision}",
            why=f"it runs {', '.join(goal.precisions)}",
            fix=f"--precision {goal.precisions[-1]}",
        )
    return goal


def calibration_images(calib: str, count: int | None, seed: int) -> "Images":
    """`count` images, or all there are up to the default."""
    from edgehybrid import dataset

    at_most = DEFAULT_CALIB_IMAGES if count is None else None
    return dataset.load(calib, limit=count, at_most=at_most, seed=seed, split="calib")


def deliver(path: Path, content: bytes | Path, kind: Literal["onnx", "calibration"], spec: ModelSpec) -> Artifact:
    """Write the one file that a single-stage verb is asked for."""
    from edgehybrid import findings, store

    if path.is_dir():
        raise UsageError(f"--output {path} is a folder", why="this command writes one file", fix="name a file")
    store.write_atomic(path, content)
    return Artifact(str(path), kind, path.stat().st_size, store.sha256_of(path), findings.weight_notes(spec))
