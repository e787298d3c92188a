"""What measurements mean: rows of a report, and the notes that keep a reader from misreading them."""

import shlex
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgehybrid import benchmark, evaluator
from edgehybrid.errors import GateError
from edgehybrid.records import (
    Adjustment,
    Answers,
    Drop,
    Engine,
    ImageSet,
    Latency,
    ModelSpec,
    Plan,
    Precision,
    RankCheck,
    Ratio,
    Recipe,
    Report,
    Row,
    Search,
    Target,
)

HOST = "onnxruntime-cpu"
"""The backend that every machine has."""
WORTHWHILE = 1.05
"""int8 that is not at least this much faster than the float it replaces is not worth its accuracy."""
FEW_CALIBRATION_IMAGES = 32
LITTLE_INT8 = 25
"""Percent of the multiply-accumulates in int8 below which mixed precision is fp16 with extra conversions."""
NAMED = 5
"""Groups named in a note; the report has all."""
_ADJUSTMENTS = {
    "equalization": "tensors equalized",
    "range": "ranges changed",
    "bias": "biases corrected",
    "rounding": "weights rounded anew",
}
GOOD_RANKING = 0.8
"""Spearman's correlation with leave-one-out from which on an estimated ranking is relied on."""
FORWARDS = 5
"""Forward passes per image that a ranking should take."""


def accuracy_rows(
    files: Mapping[Precision, Path],
    logits: Mapping[Precision, NDArray[np.float32]],
    labels: NDArray[np.int64] | None,
    trained: bool,
) -> tuple[Row, ...]:
    """One row per precision; the first is the reference of drop and fidelity.

    Untrained weights get no accuracy: a number there would only look like one.
    """
    reference = next(iter(logits))
    rows = []
    for precision, values in logits.items():
        row = Row(precision, HOST, "measured", bytes=files[precision].stat().st_size)
        if labels is not None and trained:
            row = replace(row, accuracy=evaluator.accuracy(values, labels))
        if precision != reference:
            row = replace(row, fidelity=evaluator.fidelity(logits[reference], values))
            if row.accuracy is not None and labels is not None:
                row = replace(row, drop=evaluator.drop(logits[reference], values, labels))
        if precision == "fp16":
            row = replace(row, reason="ONNX Runtime's CPU computes fp16 in float32: only stored values are rounded")
        rows.append(row)
    return tuple(rows)


def answers(
    logits: Mapping[Precision, NDArray[np.float32]], labels: NDArray[np.int64] | None, order: str, trained: bool
) -> Answers | None:
    """The class that each network gave each image; None where no accuracy is told.

    Args:
        logits: Precision -> (images, classes).
        labels: (images,).
        order: Digest of the images in their order.
        trained: Whether the weights are.
    """
    if labels is None or not trained:
        return None
    given: dict[str, tuple[int, ...]] = {
        precision: tuple(map(int, values.argmax(axis=1))) for precision, values in logits.items()
    }
    return Answers(order, tuple(map(int, labels)), given)


def timed_rows(
    files: Mapping[Precision, tuple[Path, str]],
    latencies: Mapping[Precision, Latency],
    whole: Mapping[Precision, Latency | None],
) -> tuple[Row, ...]:
    """Two rows per network measured on this machine: alone, and together with its preprocessing.

    Args:
        files: Precision -> file and backend.
        latencies: Of the network alone.
        whole: From decoded pictures to outputs; None where the network takes no pictures.
    """
    alone, together = [], []
    for precision, (path, backend) in files.items():
        place, size = (HOST if backend == "onnxruntime" else backend), path.stat().st_size
        ratio = _ratio(precision, latencies) if backend == "onnxruntime" else None
        latency = latencies[precision]
        alone.append(Row(precision, place, "measured", latency=latency, ratio=ratio, bytes=size))
        if (found := whole[precision]) is not None:
            reason = "end to end: preprocessing of decoded pictures, copies and the network, by the host's clock"
            together.append(Row(precision, f"{place} end-to-end", "measured", reason, latency=found, bytes=size))
    return (*alone, *together)


def control_notes(
    files: Mapping[Precision, tuple[Path, str]], latencies: Mapping[Precision, Latency]
) -> tuple[str, ...]:
    """Whether an int8 engine is worth it: it must beat fp16, which costs next to no accuracy."""
    low = next((precision for precision in files if precision in ("int8", "mixed")), None)
    if low is None or files[low][1] == "onnxruntime":
        return ()
    if "fp16" not in files:
        return (f"there is no fp16 control engine here: whether {low} is worth it is not known",)
    ratio = benchmark.compare(latencies["fp16"], latencies[low])
    bounds = ratio.ci95
    interval = "" if bounds is None else f" (95 %: {1 / bounds[1]:.2f} to {1 / bounds[0]:.2f})"
    pace = f"{low} is {1 / ratio.value:.2f}x as fast as fp16 on this device{interval}"
    return (pace if 1 / ratio.value >= WORTHWHILE else f"{pace}: under 5 % gain is not worth it, use fp16",)


def with_latency(rows: tuple[Row, ...], latencies: Mapping[Precision, Latency], target: Target) -> tuple[Row, ...]:
    """Rows with their latency, or with the reason why this machine's would be the wrong one to show."""
    elsewhere = f"scored on this machine; latency is {target.name}'s to measure"
    return tuple(
        replace(row, latency=latencies[row.precision], ratio=_ratio(row.precision, latencies))
        if row.precision in latencies
        else replace(row, reason=elsewhere)
        for row in rows
    )


def _ratio(precision: Precision, latencies: Mapping[Precision, Latency]) -> Ratio | None:
    """Against float32, timed side by side; None for the reference itself."""
    return (
        None
        if precision == "fp32" or "fp32" not in latencies
        else benchmark.compare(latencies["fp32"], latencies[precision])
    )


def target_rows(target: Target, engines: Mapping[Precision, Engine]) -> tuple[Row, ...]:
    """The rows of engines on a target that is not this machine: nothing measured, and why.

    Args:
        target: Where they will run.
        engines: By precision: the one asked for and, beside int8, its fp16 control.
    """
    if target.backend == "onnxruntime":
        return ()
    rows = []
    for precision, engine in engines.items():
        failed = engine.status == "failed"
        reason = engine.reason if failed else f"to be measured on {target.name} itself"
        rows.append(Row(precision, target.backend, "failed" if failed else "deferred", reason, bytes=engine.bytes))
    return tuple(rows)


def image_notes(
    recipe: Recipe, calibration: ImageSet | None, evaluation: ImageSet | None, shared: int
) -> tuple[str, ...]:
    """What to know about the images before believing a number made with them.

    Args:
        recipe: What was asked for.
        calibration: The images of calibration; None where nothing was calibrated.
        evaluation: The images of evaluation; None where there are none.
        shared: How many images are in both.
    """
    notes = []
    for images in (calibration, evaluation):
        if images is not None and images.skipped:
            notes.append(f"{images.name}: skipped {len(images.skipped)} unreadable images, first {images.skipped[0]}")
        if images is not None and images.note and images.name != "photos":  # which has its own line below
            notes.append(f"{images.name}: {images.note}")
    if calibration is not None and recipe.calib == "photos" and recipe.ranges is None:
        notes.append("calibrated on the bundled photographs, not your camera's: give your own with --calib DIR")
    if calibration is not None and calibration.images < FEW_CALIBRATION_IMAGES:
        notes.append(f"only {calibration.images} calibration images: {FEW_CALIBRATION_IMAGES} or more are advised")
    if shared:
        notes.append(f"{shared} images are in both calibration and evaluation: the drop is optimistic")
    if evaluation is None:
        notes.append("no --eval given: accuracy is not measured; fidelity is on the calibration images")
    return tuple(notes)


def tuning_notes(adjustments: tuple[Adjustment, ...]) -> tuple[str, ...]:
    """What was tried beyond the plain way, and how often it measured better where it acts."""
    parts = []
    for kind, plural in _ADJUSTMENTS.items():
        tried = [a for a in adjustments if a.kind == kind]
        kept = [a for a in tried if a.accepted]
        if tried:
            gain = f" (+{sum(a.after_db - a.before_db for a in kept) / len(kept):.1f} dB there)" if kept else ""
            parts.append(f"{len(kept)} of {len(tried)} {plural}{gain}")
    return (f"kept because they measured better at the layer: {', '.join(parts)}",) if parts else ()


def weight_notes(spec: ModelSpec) -> tuple[str, ...]:
    """What to know about the weights, and about a preprocessing that is not the model's own."""
    notes = [*([spec.weights.note] if spec.weights.note else []), *spec.notes]
    if not spec.weights.trained:
        notes.append("UNTRAINED WEIGHTS: latency is real, accuracy is not measured")
    return tuple(notes)


def sample_notes(rows: tuple[Row, ...]) -> tuple[str, ...]:
    """Whether the evaluation could have seen the drop it reports."""
    drops = [row.drop for row in rows if row.drop is not None]
    counts = [row.accuracy.n for row in rows if row.accuracy is not None]
    notes = [evaluator.small_sample_note(drop, counts[0]) for drop in drops[:1]]
    return tuple(note for note in notes if note is not None)


def search_notes(search: Search | None, evaluation: ImageSet | None) -> tuple[str, ...]:
    """What mixed precision left in float, how that was chosen, and what the choice does to the drop it shows."""
    if search is None:
        return ()
    where = "gradients" if search.ranking == "fisher" else "single-group runs"
    ranked = f"ranked on {search.ranked_on:,} calibration images by {where}"
    looks = "once" if len(search.looks) == 1 else f"{len(search.looks)} times"
    images = 0 if evaluation is None else evaluation.images
    judged = f"the {images:,} evaluation images were looked at {looks}"
    if not search.kept and search.reached:
        return (f"mixed: int8 alone is within {search.max_drop:g} points, so nothing was left in float; {judged}",)
    more = len(search.kept) - NAMED
    names = ", ".join(search.kept[:NAMED]) + (f" and {more} more" if more > 0 else "")
    notes = [
        f"mixed: {len(search.kept)} of {search.groups} groups stay float, {search.int8_macs:.0f} % of the "
        f"multiply-accumulates are int8; in float: {names or 'none'}",
        f"groups were {ranked}; {judged}, in an order fixed beforehand, from careful to bold up to the first failure: "
        "a plan beyond the budget passes with at most twice the error of one look. The drop shown is that of the "
        "images the plan was chosen with: confirm it on others",
        f"the time that a group gains by int8 is {search.gains}",
    ]
    if search.int8_macs < LITTLE_INT8:
        notes.append(f"int8 is not worth it here: within the budget only {search.int8_macs:.0f} % of the work is int8")
    return tuple(notes)


def ranking_notes(forwards: float, check: RankCheck | None) -> tuple[str, ...]:
    """Whether a ranking of layers can be relied on, and whether it cost more than it should."""
    notes = []
    if check is not None and check.spearman < GOOD_RANKING:
        notes.append(
            f"the ranking agrees with leave-one-out only to Spearman {check.spearman:.2f} (good: {GOOD_RANKING}): "
            "rank and check on more images"
        )
    if forwards > FORWARDS + 0.5:
        notes.append(f"few images for so many groups: each took {forwards:.0f} forward passes instead of {FORWARDS}")
    return tuple(notes)


def range_notes(plan: Plan, target: Target) -> tuple[str, ...]:
    """Which operators float16 could overflow in, going by the images, and what becomes of them on the target."""
    seen = [d for d in plan.decisions if d.kind == "float32" and d.rule in ("fp16-range", "fp16-inner-range")]
    if not seen:
        return ()
    operators = "1 operator" if len(seen) == 1 else f"{len(seen)} operators"
    fate = "stay float32 in the float16 graph"
    if target.backend == "tensorrt" and target.dialect == "fp32":
        fate = (
            "are not protected on this target, as TensorRT 8 chooses float types itself: check them there, use "
            "--precision fp32, or a JetPack with TensorRT 10"
        )
    return (f"{operators} could overflow float16 and {fate}; first '{seen[0].node}': {seen[0].reason}",)


def speed_notes(rows: tuple[Row, ...]) -> tuple[str, ...]:
    """Whether lower precision was worth it where it was measured, and whether the clock could tell."""
    notes = []
    for row in rows:
        if row.ratio is not None and 1 / row.ratio.value < WORTHWHILE:
            bounds = row.ratio.ci95
            interval = "" if bounds is None else f" (95 %: {1 / bounds[1]:.2f} to {1 / bounds[0]:.2f})"
            pace = f"{1 / row.ratio.value:.2f}x as fast as fp32"
            notes.append(f"{row.precision} is {pace} on this CPU{interval}: not worth it here")
        unsteady = None if row.latency is None else benchmark.unsteady_note(row.latency)
        if unsteady is not None:
            notes.append(f"{row.precision}: {unsteady}")
    return (*notes, *_throttle_notes(rows))


def _throttle_notes(rows: tuple[Row, ...]) -> tuple[str, ...]:
    """Whether the machine slowed itself down while it was measured; interleaved rows share one answer."""
    notes = []
    for row in rows:
        seen = None if row.latency is None else row.latency.conditions
        if seen is None:
            continue
        events = [f"{count} x {cause}" for cause, count in (seen.throttle or {}).items() if count]
        if events or seen.cooling:
            what = ", ".join([*events, *(f"{name} held down" for name in seen.cooling)])
            notes.append(f"throttled while it was measured ({what}): cool it, or give it more power, and measure again")
    return tuple(dict.fromkeys(notes))


def command(recipe: Recipe) -> str:
    """What to run to get this report again, every default spelled out."""
    options = {
        "model": recipe.model,
        "weights": recipe.weights,
        "num-classes": recipe.num_classes,
        "input-size": recipe.input_size,
        "crop-pct": recipe.crop_pct,
        "mean": recipe.mean,
        "std": recipe.std,
        "interpolation": recipe.interpolation,
        "preprocess": recipe.preprocess,
        "labels": recipe.labels,
        "batch": recipe.batch,
        "precision": recipe.precision,
        "target": recipe.target,
        "calib": recipe.calib,
        "num-calib": recipe.num_calib,
        "method": recipe.method,
        "ranges": recipe.ranges,
        "equalize": recipe.equalize,
        "refine": recipe.refine,
        "rounding": recipe.rounding,
        "eval": recipe.eval,
        "num-eval": recipe.num_eval or None,
        "max-drop": recipe.max_drop,
        "profile": recipe.profile,
        "seed": recipe.seed,
    }
    return shlex.join(
        ["edgehybrid", "build", *(w for k, v in options.items() if v is not None for w in (f"--{k}", str(v)))]
    )


def bench_command(folder: Path) -> str:
    """What measures the engine of a bundle on the device that built it."""
    return shlex.join(["edgehybrid", "bench", str(folder)])


def next_command(recipe: Recipe, target: Target, folder: Path) -> str:
    """What to run next to get closer to a number on the board."""
    if target.backend == "tensorrt":
        return shlex.join(["edgehybrid", "verify", str(folder)])
    options = ["--model", recipe.model, "--weights", recipe.weights, "--input-size", str(recipe.input_size)]
    options += ["--precision", recipe.precision]
    kept = ("mean", "std", "interpolation", "preprocess", "labels")
    options += [word for name in kept if (value := getattr(recipe, name)) for word in (f"--{name}", value)]
    options += ["--calib", recipe.calib] if recipe.calib != "photos" else []
    options += ["--eval", recipe.eval] if recipe.eval else []
    options += ["--max-drop", f"{recipe.max_drop:g}"] if recipe.precision == "mixed" else []
    return shlex.join(["edgehybrid", "build", *options, "--target", "orin-nano-8gb"])


def gate(report: Report, max_drop: float | None) -> None:
    """Hold the report against an accuracy budget.

    Args:
        report: With a measured drop.
        max_drop: Points of top-1; None passes.

    Raises:
        GateError: The upper end of the drop's 95 % interval exceeds the budget: not shown to be non-inferior.
    """
    judged = [row for row in report.rows if report.search is None or row.precision == "mixed"]
    drops = [row.drop for row in judged if row.drop is not None]
    if max_drop is None or (report.rows[-1].precision == "fp32" and not drops):
        return
    if not drops:
        raise GateError(
            "the accuracy budget cannot be checked",
            why="accuracy was not measured: the weights are untrained",
            fix="give trained weights with --weights FILE",
            report=report,
        )
    worst = max(drops, key=lambda d: d.ci95[1])
    if worst.ci95[1] > max_drop:
        proven = worst.ci95[0] > max_drop
        if report.search is not None:
            raise _unreached(report, report.search, worst, max_drop)
        raise GateError(
            f"the drop is {'over' if proven else 'not shown to be within'} {max_drop:g} points",
            why=f"measured {worst.points:+.2f}, 95 % interval {worst.ci95[0]:+.2f} to {worst.ci95[1]:+.2f}",
            fix="use --precision fp16 or another --method"
            if proven
            else "use more images with --eval, or another --method",
            report=report,
        )


def _unreached(report: Report, search: Search, drop: Drop, max_drop: float) -> GateError:
    """The error for a budget that no plan of the search held."""
    images = 0 if report.evaluation is None else report.evaluation.images
    least = evaluator.smallest_bound(images)
    if least > max_drop:
        return GateError(
            f"{images:,} images cannot show a drop within {max_drop:g} points",
            why=f"even a network that changes no answer leaves {least:.2f} points open",
            fix=f"evaluate on {evaluator.images_for_bound(max_drop):,} images or more, or allow more with --max-drop",
            report=report,
        )
    return GateError(
        f"no mixture of int8 and float is shown to stay within {max_drop:g} points",
        why=f"the closest of {len(search.looks)} plans leaves {len(search.kept)} of {search.groups} groups in float: "
        f"{drop.points:+.2f}, 95 % interval {drop.ci95[0]:+.2f} to {drop.ci95[1]:+.2f}",
        fix="use --precision fp16, more images with --eval, or allow more with --max-drop",
        report=report,
    )
