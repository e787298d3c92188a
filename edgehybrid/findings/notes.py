"""The notes that keep a reader from misreading a measurement."""

from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from edgehybrid import benchmark, evaluator
from edgehybrid.printable import counted
from edgehybrid.records import (
    UNTRAINED,
    WORTHWHILE,
    Adjustment,
    ImageSet,
    Latency,
    ModelSpec,
    Plan,
    Precision,
    Ranges,
    RankCheck,
    Recipe,
    Row,
    Runnable,
    Search,
    Target,
)

FEW_CALIBRATION_IMAGES = 32
LITTLE_INT8 = 25
"""Percent of the multiply-accumulates in int8 below which the whole is fp16 with extra conversions."""
SHOWN_OUTPUTS = 6
NAMED = 5
"""Groups named in a note; the report has all."""
_ADJUSTMENTS = {
    "equalization": "tensors equalized",
    "centering": "tensors centred",
    "zero point": "tensors given a zero point",
    "range": "ranges changed",
    "bias": "biases corrected",
    "rounding": "weights rounded anew",
}
LEAST_SQUARES = 2
"""Exponent of ranges of method "mse" unless few images outweigh the others."""
GOOD_RANKING = 0.8
"""Spearman's correlation with leave-one-out from which on an estimated ranking is relied on."""
FORWARDS = 5
"""Forward passes per image that a ranking should take."""


def control_notes(files: Mapping[Precision, Runnable], latencies: Mapping[Precision, Latency]) -> tuple[str, ...]:
    """Whether an int8 engine is worth it: it must beat fp16, which costs next to no accuracy."""
    low = next((precision for precision in files if precision in ("int8", "mixed")), None)
    if low is None or files[low].backend == "onnxruntime":
        return ()
    if "fp16" not in files:
        return (f"there is no fp16 control engine here: whether {low} is worth it is not known",)
    return (f"{low} is {against_control(latencies['fp16'], latencies[low])}",)


def against_control(control: Latency, latency: Latency) -> str:
    """How many times as fast as its fp16 control an engine is, both timed in turns, and whether that is worth it."""
    ratio = benchmark.compare(control, latency)
    bounds = ratio.ci95
    interval = "" if bounds is None else f" (95 %: {1 / bounds[1]:.2f} to {1 / bounds[0]:.2f})"
    pace = f"{1 / ratio.value:.2f}x as fast as fp16 on this device{interval}"
    return pace if 1 / ratio.value >= WORTHWHILE else f"{pace}: under 5 % gain is not worth it, use fp16"


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
        notes += [] if images is None else set_notes(images)
    if calibration is not None and recipe.calib == "photos" and recipe.ranges is None:
        notes.append("calibrated on the bundled photographs, not your camera's: give your own with --calib DIR")
    if calibration is not None and calibration.images < FEW_CALIBRATION_IMAGES:
        found = counted(calibration.images, "calibration image")
        notes.append(f"only {found}: {FEW_CALIBRATION_IMAGES} or more are advised")
    if shared:
        notes.append(f"{counted(shared, 'image')} of the evaluation served calibration, too: the drop is optimistic")
    if evaluation is None:
        seen = "the calibration images" if recipe.ranges is None else f"images of {recipe.calib}"
        notes.append(f"no --eval given: accuracy is not measured; fidelity is on {seen}")
    return tuple(dict.fromkeys(notes))  # one set of images may serve both


def set_notes(images: ImageSet) -> list[str]:
    """What was left out of a set of images, and what it is like; of `photos` where they matter."""
    notes = []
    if images.skipped:
        skipped = counted(len(images.skipped), "unreadable image")
        notes.append(f"{images.name}: skipped {skipped}, first {images.skipped[0]}")
    if images.note and images.name != "photos":
        notes.append(f"{images.name}: {images.note}")
    return notes


def int8_notes(precision: Precision, plan: Plan, work: Mapping[str, int]) -> tuple[str, ...]:
    """Whether the rules left a network of int8 in float, all of it or most; why most of its layers are.

    Args:
        precision: That was asked for; how much mixed has in int8 is told by its search, unless it is nothing.
        plan: Of the network.
        work: Multiply-accumulates of every layer.
    """
    if precision not in ("int8", "mixed"):
        return ()
    if not work:
        return ("no layer is int8: the network has no convolution and no matrix product",)
    int8 = {d.node for d in plan.decisions if d.kind in ("activation", "weight") and d.node in work}
    share = 100 * sum(work[node] for node in int8) / max(sum(work.values()), 1)
    if share >= LITTLE_INT8 or (int8 and precision == "mixed"):
        return ()
    reasons: dict[str, dict[str, str]] = {}
    for decision in plan.decisions:
        if decision.node in work.keys() - int8 and decision.kind == "float" and decision.rule != "bias":
            reasons.setdefault(decision.rule, {}).setdefault(decision.node, decision.reason)
    commonest = max(reasons.values(), key=len, default={"": "no rule takes it"})
    why, others = next(iter(commonest.values())), len(work) - len(int8)
    many, whose = counted(len(work), "layer"), "the others" if int8 else "them"
    told = f": {why}" if len(commonest) == others else f"; {len(commonest)} of {whose}: {why}"
    if not int8:
        return (f"none of {many} is int8{told}",)
    verb = "is" if len(int8) == 1 else "are"
    return (f"only {len(int8)} of {many} {verb} int8, {share:.0f} % of the multiply-accumulates{told}",)


def output_notes(
    values: Mapping[Precision, NDArray[np.float32]], outputs: Mapping[str, int], choosers: Mapping[str, str]
) -> tuple[str, ...]:
    """What the fidelity of a network says that is no classifier, and how it is at each of its outputs.

    Args:
        values: Precision -> (images, values); the first is the reference.
        outputs: How many of the columns belong to each output; empty for a classifier.
        choosers: Output -> the node that chose which places of the image it tells of.
    """
    if not outputs:
        return ()
    (_, reference), *others = values.items()
    notes = ["the network is no classifier: what is compared with fp32 are its outputs, not answers"]
    for precision, found in others:
        ratios = sorted(evaluator.output_sqnr(reference, found, outputs).items(), key=lambda pair: pair[1])
        listed = ", ".join(f"{name} {ratio:.1f} dB" for name, ratio in ratios[:SHOWN_OUTPUTS])
        more = f" and {len(ratios) - SHOWN_OUTPUTS} more" if len(ratios) > SHOWN_OUTPUTS else ""
        notes.append(f"signal to noise of {precision}: {listed}{more}")
    if choosers:
        shown, who = ", ".join(list(choosers)[:SHOWN_OUTPUTS]), ", ".join(sorted(set(choosers.values())))
        notes.append(
            f"places in {shown} are chosen by {who}: where int8 ranks two of them otherwise, whole rows differ, and "
            "signal to noise says little; compare what you make of them"
        )
    return tuple(notes)


def tuning_notes(adjustments: tuple[Adjustment, ...]) -> tuple[str, ...]:
    """What was tried beyond the plain way, and how often it measured better where it acts."""
    parts = []
    for kind, plural in _ADJUSTMENTS.items():
        tried = [a for a in adjustments if a.kind == kind]
        kept = [a for a in tried if a.accepted]
        if kept:
            gain = sum(a.after_db - a.before_db for a in kept) / len(kept)
            parts.append(f"{len(kept)} of {len(tried)} {plural} (+{gain:.1f} dB there)")
    return (f"kept because they measured better at the layer: {', '.join(parts)}",) if parts else ()


def uneven_notes(plan: Plan, ranges: Ranges | None) -> tuple[str, ...]:
    """What was done about calibration images that reach far beyond the others."""
    parts = []
    if ranges is not None and ranges.exponent > LEAST_SQUARES:
        parts.append("ranges clip them less than least squared error would")
    left = len({d.node for d in plan.decisions if d.rule == "uneven"})
    if left:
        stay = "1 layer stays" if left == 1 else f"{left} layers stay"
        parts.append(f"{stay} float, where they would leave the others few of the 127 levels")
    return (f"a few calibration images reach far beyond the others: {'; '.join(parts)}",) if parts else ()


def weight_notes(spec: ModelSpec) -> tuple[str, ...]:
    """What to know about the weights, and about a preprocessing that is not the model's own."""
    notes = [*([spec.weights.note] if spec.weights.note else []), *spec.notes]
    if not spec.weights.trained:
        notes.append(UNTRAINED)
    return tuple(notes)


def sample_notes(rows: tuple[Row, ...]) -> tuple[str, ...]:
    """Whether the evaluation could have seen the drop it reports."""
    drops = [row.drop for row in rows if row.drop is not None]
    counts = [row.accuracy.n for row in rows if row.accuracy is not None]
    notes = [evaluator.small_sample_note(drop, counts[0]) for drop in drops[:1]]
    return tuple(note for note in notes if note is not None)


def label_notes(evaluation: ImageSet, rows: tuple[Row, ...]) -> tuple[str, ...]:
    """Why images without labels gave no accuracy, and what they gave instead."""
    if evaluation.labelled:
        return ()
    needed = evaluation.note or "it needs one folder per class, or an array y in the .npz file"
    rest = "only agreement with fp32 is shown" if any(row.fidelity for row in rows) else "nothing was measured"
    return (f"{evaluation.name} has no labels, so there is no accuracy: {needed}; {rest}",)


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
            whole = " end to end" if row.backend.endswith("end-to-end") else ""
            notes.append(f"{row.precision}{whole}: {unsteady}")
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
