"""From a float32 graph to what is deployed: ranges, tuning, the search of mixed precision, both dialects."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from edgehybrid.pipeline.mixing import Mixed, mix
from edgehybrid.records import (
    Equalize,
    ImageSet,
    Method,
    ModelSpec,
    Precision,
    Preprocess,
    Ranges,
    Recipe,
    Refine,
    Rounding,
    Search,
    Target,
)

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from edgehybrid.dataset import Images
    from edgehybrid.stages import Prepared, Quantized, Run


@dataclass(frozen=True)
class Lowered:
    """The deployable graphs of one recipe, and how they came about."""

    baseline: Path  # float32, the reference
    precision: Precision
    prepared: "Prepared"
    quantized: "Quantized"
    mixed: Mixed | None
    calibration: ImageSet | None  # None: nothing was calibrated
    scales: Ranges | None  # of the baseline, which NVDLA takes
    peaks: Mapping[str, float] | None  # of the baseline, from which the fp16 control is made

    @property
    def search(self) -> Search | None:
        """Of mixed precision."""
        return self.mixed.search if self.mixed else None

    @property
    def scored(self) -> dict[Precision, Path]:
        """What is scored against each other; the first is the reference."""
        files: dict[Precision, Path] = {"fp32": self.baseline}
        if self.mixed is not None and self.mixed.search.kept:
            files["int8"] = self.mixed.int8.runnable  # the control: the search scored it anyway
        files[self.precision] = self.quantized.runnable
        return files


def lower(
    run: "Run",
    recipe: Recipe,
    baseline: Path,
    single: Path,
    images: "Images",
    scored: "Images",
    truth: "NDArray[np.int64] | None",
    spec: ModelSpec,
    target: Target,
) -> Lowered:
    """Calibrate and quantize as the recipe says; fp32 is the baseline itself.

    Args:
        run: The chain.
        recipe: Every choice.
        baseline: The rewritten float32 graph.
        single: The same for one image at a time, on which it is calibrated.
        images: Of calibration.
        scored: Of evaluation, on which mixed precision judges its plans.
        truth: Labels of these; None where there are none.
        spec: Of the model.
        target: Where it will run.
    """
    from edgehybrid import engine, stages

    precision, preprocess, profile = recipe.precision, spec.preprocess, recipe.profile
    prepared, calibration = prepare(
        run,
        baseline,
        single,
        images,
        preprocess,
        precision,
        recipe.method,
        None if recipe.ranges is None else Path(recipe.ranges),
        equalize=recipe.equalize,
        refine=recipe.refine,
        rounding=recipe.rounding,
    )
    ranges = prepared.ranges
    peaks = None if precision == "fp32" else stages.find_peaks(run, prepared.path, images, preprocess)
    mixed = None
    if precision == "mixed" and truth is not None and recipe.max_drop is not None:
        times = None if profile is None else Path(profile)
        mixed = mix(
            run, baseline, prepared, peaks, images, scored, truth, spec, target, recipe.max_drop, recipe.seed, times
        )
    quantized = (
        mixed.quantized
        if mixed
        else stages.quantize(run, prepared.path, precision, ranges, peaks, tuning=prepared.tuning)
    )
    if prepared.path != baseline and target.backend != "onnxruntime":
        peaks = stages.find_peaks(run, baseline, images, preprocess)
        if engine.dla_cores(target) > 0:  # NVDLA takes the float graph and its ranges
            ranges = stages.calibrate(run, single, images, preprocess, recipe.method)
    return Lowered(baseline, precision, prepared, quantized, mixed, calibration, ranges, peaks)


def calibrates(precision: Precision, ranges: Path | None) -> bool:
    """Whether images decide how a network becomes int8."""
    return precision in ("int8", "mixed") and ranges is None


def prepare(
    run: "Run",
    baseline: Path,
    single: Path,
    images: "Images",
    preprocess: Preprocess,
    precision: Precision,
    method: Method,
    ranges: Path | None,
    *,
    equalize: Equalize,
    refine: Refine,
    rounding: Rounding,
) -> "tuple[Prepared, ImageSet | None]":
    """The graph that is quantized with its ranges, and the images that these are from: none where nothing has any."""
    from edgehybrid import stages

    if ranges is not None:
        return stages.reuse(run, ranges, baseline, preprocess, method)
    if not calibrates(precision, ranges):
        return stages.Prepared(baseline), None
    prepared = stages.prepare(
        run, single, images, preprocess, method, equalize=equalize, refine=refine, rounding=rounding
    )
    return prepared if single == baseline else stages.carry_over(run, prepared, baseline), images.spec
