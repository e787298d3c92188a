"""What several verbs do with the same options."""

import inspect
import math
import shlex
from collections.abc import Callable, Container, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from edgehybrid.errors import NotFoundError, UsageError
from edgehybrid.printable import counted
from edgehybrid.progress import listener
from edgehybrid.records import (
    BenchOptions,
    Dialect,
    EngineOptions,
    Precision,
    Refine,
    Rounding,
    Target,
)

if TYPE_CHECKING:
    from edgehybrid.dataset import Images

DEFAULT_CALIB_IMAGES = 128
LEAST_CHECK_IMAGES, CHECK_RUNS = 16, 1100
"""Leave-one-out runs every group on every image, so few groups can have more. On 16 images a few loud ones decide: a
BoTNet's ranking agrees with 0.89 there and with 0.95 on 32."""
OF_A_BUNDLE = {
    "bundle",
    "eval",
    "workspace",
    "opt_level",
    "hardware_compatible",
    "version_compatible",
    "dla",
    "host",
}
"""What `build` may be told beside a bundle."""
OPSETS: dict[Dialect, int] = {"fp32": 17, "typed": 19}
"""ONNX opset that a parser must read, per dialect."""


def check_counts(
    batch: int, num_calib: int | None, num_eval: int | None, max_drop: float | None, eval: str | None
) -> None:
    """Refuse counts below one, and a budget that is none or that nothing could be held against."""
    for name, value in (("batch", batch), ("num-calib", num_calib), ("num-eval", num_eval)):
        if value is not None and value < 1:
            raise UsageError(f"--{name} {value} makes no sense", why="it counts images", fix=f"--{name} 1 or more")
    if max_drop is not None and math.isnan(max_drop):
        raise UsageError("--max-drop nan makes no sense", why="every drop would pass", fix="--max-drop 0.5")
    if max_drop is not None and eval is None:
        raise UsageError(
            "--max-drop needs labelled images",
            why="without them no accuracy is measured, so no budget can be checked",
            fix="add --eval with a folder of classes, an .npz file or a named set",
        )


def check_roles(bundle: Path | None, model: str) -> None:
    """Tell who gave a model as a bundle, or a bundle as a model; the name of a model is one whatever lies here."""
    from edgehybrid import zoo

    if bundle is not None and not bundle.is_dir() and (zoo.knows(str(bundle)) or bundle.suffix == ".onnx"):
        raise UsageError(
            f"{bundle} is a model, not a bundle",
            why="what stands without an option is a bundle that was built before",
            fix=f"edgehybrid build --model {shlex.quote(str(bundle))}",
        )
    if bundle is None and model and Path(model).is_dir() and not zoo.knows(model):
        raise UsageError(
            f"--model {model} is a folder",
            why="a model is a name or an .onnx file; a bundle stands without an option",
            fix=f"edgehybrid build {shlex.quote(model)}, or edgehybrid models",
        )


def refuse_beside(
    sole: str, verb: Callable[..., object], given: Mapping[str, object], allowed: Container[str], why: str
) -> None:
    """Refuse every option that would be ignored beside what says it all.

    Args:
        sole: What that is, as the user gave it.
        verb: Whose defaults count as not given.
        given: Its arguments by name.
        allowed: Those that mean something beside it.
        why: The reason.
    """
    for name, parameter in inspect.signature(verb).parameters.items():
        if given[name] != parameter.default and name not in allowed:
            raise UsageError(
                f"{sole} and --{name.replace('_', '-')} {given[name]} contradict each other",
                why=why,
                fix="leave one of them out",
            )


def engine_options(
    workspace: int | None, opt_level: int | None, hardware_compatible: bool, version_compatible: bool, dla: int | None
) -> EngineOptions:
    """What the engine's builder is told, or an error about an option that makes no sense."""
    if workspace is not None and workspace < 1:
        raise UsageError(f"--workspace {workspace} makes no sense", why="it is a number of MiB", fix="--workspace 1024")
    if opt_level is not None and not 0 <= opt_level <= 5:
        raise UsageError(f"--opt-level {opt_level} does not exist", why="TensorRT knows 0 to 5", fix="--opt-level 3")
    if dla is not None and dla < 0:
        raise UsageError(f"--dla {dla} does not exist", why="cores are numbered from 0", fix="--dla 0")
    return EngineOptions(workspace, opt_level, hardware_compatible, version_compatible, dla)


def check_check(check: int | None, images: int) -> None:
    """Refuse a check of a ranking on images that are not there."""
    if check is not None and not 0 <= check <= images:
        fix = f"--check 0 to {images}"
        raise UsageError(f"--check {check} makes no sense", why=f"found {counted(images, 'image')}", fix=fix)


def images_to_check(groups: int, images: int) -> int:
    """On how many images a ranking is checked where nobody says: on more of them where there are few groups to run."""
    affordable = min(CHECK_RUNS // (groups + 1), images // 4)
    return min(max(LEAST_CHECK_IMAGES, affordable), images)


def check_ranking_format(output: Path | None) -> None:
    """Refuse a file whose format nobody could guess."""
    from edgehybrid.reporter import RANKING_FORMATS

    if output is not None and output.suffix not in RANKING_FORMATS:
        raise UsageError(
            f"--output {output} is of no known format",
            why=f"the name ends in '{output.suffix}', needed one of {', '.join(RANKING_FORMATS)}",
            fix=f"--output {output.stem or 'ranking'}.csv",
        )


def bench_options(
    warmup: float,
    duration: float,
    iterations: int,
    percentile: str,
    streams: int,
    cuda_graph: bool,
    transfers: bool,
    layers: int,
) -> BenchOptions:
    """How a latency is taken, or an error about an option that makes no sense."""
    for name, value, least in (
        ("warmup", warmup, 0),
        ("duration", duration, 0),
        ("iterations", iterations, 1),
        ("streams", streams, 1),
        ("layers", layers, 0),
    ):
        if not least <= value < math.inf:
            raise UsageError(f"--{name} {value} makes no sense", why=f"it is {least} or more", fix=f"--{name} {least}")
    try:
        percents = tuple(float(part) for part in percentile.split(",") if part.strip())
    except ValueError:
        percents = ()
    if not percents or not all(0 < percent <= 100 for percent in percents):
        raise UsageError(
            f"--percentile {percentile} makes no sense",
            why="it is a list of numbers above 0 and at most 100",
            fix="--percentile 50,99,99.9",
        )
    return BenchOptions(warmup, duration, iterations, percents, streams, cuda_graph, transfers, layers)


def load_target(name: str, precision: Precision) -> Target:
    """The target of a name, a file or this machine (`auto`), which must run the precision and read what we write.

    Where it is this machine, its dialect is that of the TensorRT installed here.
    """
    from edgehybrid import resources, stages

    goal = here() if name == "auto" else resources.load_target(name)
    newest, needed = goal.figures.get("onnx_opset_max"), OPSETS[goal.dialect]
    if newest is not None and isinstance(newest.value, int) and newest.value < needed:
        others = [stack for stack in goal.stacks if stack.opset_max >= OPSETS[stack.dialect]]
        raise UsageError(
            f"{goal.name} cannot read what is written here",
            why=f"its TensorRT reads ONNX opset {newest.value} at most, needed {needed}",
            fix=f"--target {goal.name.split('@')[0]}@jp{others[-1].jetpack.split(' to ')[-1]}"
            if others
            else "choose a newer board: edgehybrid targets",
        )
    if precision not in goal.precisions:
        raise UsageError(
            f"{goal.name} does not run {precision}",
            why=f"it runs {', '.join(goal.precisions)}",
            fix=f"--precision {goal.precisions[-1]}",
        )
    return stages.suit_builder(goal)


def here() -> Target:
    """The target that this machine is, in the power mode and under the JetPack it runs."""
    from edgehybrid import device, resources

    goal = resources.load_target(device.detect_target())
    goal = _refine(goal, resources.at_mode, device.detect_mode())
    return _refine(goal, resources.at_jetpack, device.detect_jetpack())


def _refine(goal: Target, choose: Callable[[Target, str], Target], choice: str | None) -> Target:
    """The target as chosen; as it stands, with a note, where its profile does not know what this board runs."""
    try:
        return goal if choice is None else choose(goal, choice)
    except NotFoundError as error:
        listener().note(f"{error.what}: the figures and the dialect of {goal.name} are used as they stand")
        return goal


def calibration_images(calib: str, count: int | None, seed: int) -> "Images":
    """`count` images, or all there are up to the default."""
    from edgehybrid import dataset

    at_most = DEFAULT_CALIB_IMAGES if count is None else None
    return dataset.load(calib, limit=count, at_most=at_most, seed=seed, split="calib")


def check_tuning(ranges: Path | None, precision: Precision, refine: Refine, rounding: Rounding) -> None:
    """Refuse ranges where nothing has any, a file that holds none, and tuning that would not be done."""
    if rounding == "optimized" and (refine == "off" or ranges is not None):
        other = "--refine off" if ranges is None else f"--ranges {ranges}"
        raise UsageError(
            f"--rounding optimized and {other} contradict each other",
            why="weights are rounded on calibration images, and biases corrected for it",
            fix="leave one of them out",
        )
    if ranges is not None and precision not in ("int8", "mixed"):
        raise UsageError(
            f"--ranges has no meaning with --precision {precision}",
            why="ranges belong to int8",
            fix="leave --ranges out, or use --precision int8",
        )
    if ranges is not None:
        from edgehybrid import stages

        stages.require("onnx_ir", "onnx", "handle ONNX graphs")
        from edgehybrid import calibrator

        calibrator.read_document(ranges)
