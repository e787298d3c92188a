"""Mixed precision: which layers of a build go back to float so that it stays within its accuracy budget."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgehybrid.errors import InputError, UsageError
from edgehybrid.records import Drop, GroupLoss, Look, ModelSpec, Precision, Search, Target

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from edgehybrid.dataset import Images
    from edgehybrid.stages import Prepared, Quantized, Run


@dataclass(frozen=True)
class Mixed:
    """The plan that was chosen, and the whole in int8 as its control."""

    quantized: "Quantized"
    int8: "Quantized"
    search: Search

    @property
    def scored_as(self) -> str:
        """What the search called the plan when it scored it, so that it need not be scored again."""
        return "mixed" if self.search.kept else "int8"


def check_mixed(precision: Precision, max_drop: float | None, dla: int | None) -> None:
    """Refuse a search without an aim, and one for hardware that knows no mixture."""
    if precision != "mixed":
        return
    if max_drop is None:
        raise UsageError(
            "--precision mixed needs a budget",
            why="it takes as many layers back to float as the budget asks for, and none was given",
            fix="add --max-drop 0.5 (points of top-1) and --eval with labelled images",
        )
    if max_drop <= 0:
        raise UsageError(
            f"--max-drop {max_drop:g} makes no sense with --precision mixed",
            why="no number of images shows that nothing at all is lost",
            fix="allow a little, --max-drop 0.5",
        )
    if dla is not None:
        raise UsageError(
            "--precision mixed and --dla exclude each other",
            why="NVDLA takes its int8 scales from one table and decides itself what runs in fp16",
            fix="--precision int8 --dla, or leave --dla out",
        )


def check_profile(precision: Precision, profile: Path | None) -> None:
    """Refuse a profile that nothing would read, or that cannot be read, before any work."""
    if profile is None:
        return
    if precision != "mixed":
        raise UsageError(
            f"--profile makes no sense with --precision {precision}",
            why="it tells mixed precision what each layer gains by int8",
            fix="leave it out, or use --precision mixed",
        )
    read_profile(profile)


def check_trained(precision: Precision, spec: ModelSpec) -> None:
    """Refuse to search with untrained weights for what holds a budget of accuracy."""
    if precision == "mixed" and not spec.weights.trained:
        raise UsageError(
            "--precision mixed needs trained weights",
            why="untrained weights have no accuracy to lose, so no budget can be searched for",
            fix="give trained weights with --weights FILE, or use --precision int8",
        )


def read_profile(path: Path) -> dict[str, dict[str, float]]:
    """Per-layer times of engines, as `bench BUNDLE --layers N --json` prints them on the device.

    Returns:
        "int8" and "fp16" -> layer -> milliseconds per call.

    Raises:
        InputError: The file is not there, is no such document, or lacks one of the two.
    """
    try:
        document = json.loads(path.read_text(encoding="utf-8"))
        found = {
            str(timing["precision"]): {str(layer["name"]): float(layer["ms"]) for layer in timing["layers"]}
            for timing in document["timings"]
        }
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError) as error:
        raise InputError(
            f"{path} is not a profile",
            why=f"{type(error).__name__}: {error}",
            fix="on the device: edgehybrid bench BUNDLE --layers 1000 --json > profile.json",
        ) from error
    for precision in ("int8", "fp16"):
        if not found.get(precision):
            raise InputError(
                f"{path} has no layers of {precision}",
                why="what int8 gains is the difference of an int8 engine and its fp16 control",
                fix="on the device: edgehybrid bench BUNDLE --layers 1000 --json, of an int8 bundle with its control",
            )
    return found


def mix(
    run: "Run",
    baseline: Path,
    prepared: "Prepared",
    peaks: Mapping[str, float] | None,
    calibration: "Images",
    scored: "Images",
    labels: "NDArray[np.int64]",
    spec: ModelSpec,
    target: Target,
    max_drop: float,
    seed: int,
    profile: Path | None,
) -> Mixed:
    """Rank groups on calibration images, then look at plans on evaluation images until one holds the budget.

    Args:
        run: The chain.
        baseline: The float32 graph, the reference.
        prepared: The graph that is quantized, ranges of all its activations, and how it was tuned.
        peaks: Of all float tensors: what float16 cannot hold.
        calibration: Images to rank on.
        scored: Images to judge on.
        labels: Of these.
        spec: Of the model.
        target: Whose data sheet says what a group gains by int8.
        max_drop: Points of top-1, against the upper end of the 95 % interval of the drop.
        seed: Of the ranking.
        profile: Measured per-layer times, for `read_profile`.

    Returns:
        The plan with the fewest groups in float that holds the budget; where none does, the closest.
    """
    import numpy as np

    from edgehybrid import evaluator, proportions, search, stages
    from edgehybrid.graph.counting import count_macs

    path, ranges, tuning = prepared.path, prepared.ranges, prepared.tuning
    int8 = stages.quantize(run, path, "int8", ranges, peaks, tuning=tuning)
    ranking = stages.rank_groups(run, path, int8, calibration, spec.preprocess, seed=seed)
    model = run.open(path)
    gains = search.estimate_gains(model, [loss.group for loss in ranking.groups], target)
    if profile is not None:
        times = read_profile(profile)
        gains = search.measure_gains([loss.group for loss in ranking.groups], times["int8"], times["fp16"], gains)
    order = search.order_groups(np.array([loss.nats for loss in ranking.groups]), gains.values)
    ordered = [ranking.groups[i] for i in order]
    reference = stages.predict(run, "fp32", baseline, scored, spec.preprocess)
    drops: dict[int, Drop] = {}

    def quantized(kept: int) -> "Quantized":
        if not kept:
            return int8
        return stages.quantize(run, path, "mixed", ranges, peaks, _reasons(ordered, kept), tuning)

    def worst_case(kept: int) -> float:
        logits = stages.predict(run, "mixed" if kept else "int8", quantized(kept).runnable, scored, spec.preprocess)
        drops[kept] = evaluator.drop(reference, logits, labels)
        return drops[kept].ci95[1]

    found = search.walk(len(ordered), max_drop, worst_case, least=proportions.smallest_bound(len(scored)))
    kept = found.closest if found.kept is None else found.kept
    return Mixed(
        quantized(kept),
        int8,
        Search(
            max_drop=max_drop,
            groups=len(ordered),
            kept=tuple(loss.group.name for loss in ordered[:kept]),
            int8_macs=100 * sum(loss.group.macs for loss in ordered[kept:]) / max(count_macs(model), 1),
            looks=tuple(Look(k, drops[k], passed=upper <= max_drop) for k, upper in found.looks),
            reached=found.kept is not None,
            ranking=ranking.how,
            ranked_on=ranking.images,
            gains=gains.source,
        ),
    )


def _reasons(ordered: list[GroupLoss], kept: int) -> dict[str, str]:
    """Operator -> why it stays float, for the first groups of the search's order."""
    return {
        node: f"kept float: in int8 '{loss.group.name}' makes {loss.share:.1f} % of the estimated loss, number {place} "
        f"of {len(ordered)} by sensitivity per time (mixed precision search)"
        for place, loss in enumerate(ordered[:kept], 1)
        for node in loss.group.nodes
    }
