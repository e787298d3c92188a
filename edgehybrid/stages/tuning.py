"""From a float32 graph to the one that is quantized and how: equalized, calibrated, and refined on a few images."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from edgehybrid.dataset import Images
from edgehybrid.records import Adjustment, Equalize, ImageSet, Method, Preprocess, Ranges, Refine, Rounding
from edgehybrid.stages.calibration import reuse_calibration
from edgehybrid.stages.equalization import (
    Few,
    align_zero_points,
    apply_known,
    compensate_zero_points,
    equalize_channels,
)
from edgehybrid.stages.gradients import weigh_outputs
from edgehybrid.stages.quantization import calibrate
from edgehybrid.stages.run import Run
from edgehybrid.store import decode, to_json, write_atomic
from edgehybrid.store.shelf import Shelf

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from edgehybrid.graph import Graph

TUNING_IMAGES = 64
"""Images on which choices are compared, half of them to choose and half to judge."""
TUNING_ROWS = 768
"""Positions per layer: choices differ by tenths of a dB, which so many settle."""
ROUNDING_IMAGES = 128
ROUNDING_ROWS = 2048
"""Rounding solves for as many unknowns as a layer has inputs, so it gets more of both."""
STRETCHES = (1.19, 1.41)
"""A quarter and half of an octave above the range chosen so far."""


@dataclass(frozen=True)
class Tuned:
    """Refined ranges, and what else the quantizer is to write."""

    ranges: Ranges
    tuning: Path
    adjustments: tuple[Adjustment, ...]


@dataclass(frozen=True)
class Prepared:
    """The graph that is quantized, and how."""

    path: Path
    ranges: Ranges | None = None  # None: nothing is
    tuning: Path | None = None
    adjustments: tuple[Adjustment, ...] = ()


def prepare(
    run: Run,
    baseline: Path,
    images: Images,
    preprocess: Preprocess,
    method: Method,
    *,
    equalize: Equalize = "all",
    refine: Refine = "biases",
    rounding: Rounding = "nearest",
) -> Prepared:
    """Everything between the rewritten graph and its int8 form: equalize, calibrate, refine; as `build` by default."""
    few = Few(run, baseline, images, preprocess, TUNING_IMAGES, TUNING_ROWS)
    equalized = equalize_channels(run, few, equalize)
    if rounding == "nearest":
        few.close()
    else:
        few = Few(run, baseline, images, preprocess, ROUNDING_IMAGES, ROUNDING_ROWS)
    changes = equalized.changes
    ranges = calibrate(run, equalized.path, images, preprocess, method, shifted=changes.zero_points)
    ranges = replace(ranges, factors=changes.factors, offsets=changes.offsets, zero_points=changes.zero_points)
    path, ranges = align_zero_points(run, few, equalized.path, ranges)
    if refine == "off" and rounding == "nearest":
        return Prepared(path, ranges, compensate_zero_points(run, path, ranges), changes.adjustments)
    tuned = tune(run, path, ranges, few, refine, rounding)
    return Prepared(path, tuned.ranges, tuned.tuning, changes.adjustments + tuned.adjustments)


def reuse(run: Run, path: Path, baseline: Path, preprocess: Preprocess, method: Method) -> tuple[Prepared, ImageSet]:
    """The graph and the ranges of a calibration file, and its images.

    Biases stay, as correcting them needs images, but for what zero points and rounded weights make of them.
    """
    ranges, about = reuse_calibration(run, path, baseline, preprocess, method)
    path = apply_known(run, baseline, ranges)
    return Prepared(path, ranges, compensate_zero_points(run, path, ranges)), about


def tune(run: Run, prepared: Path, ranges: Ranges, few: Few, refine: Refine, rounding: Rounding) -> Tuned:
    """Correct biases, round weights if asked, re-rank ranges if asked.

    Ranges stay as they are by default: re-ranking them gains -0.3 to +0.6 dB at the logits (benchmarks/README.md).

    Args:
        run: The chain.
        prepared: The graph that was calibrated.
        ranges: As chosen.
        few: Images of calibration.
        refine: `all` re-ranks the ranges of method mse; another method was asked for by name and stays.
        rounding: `optimized` costs about as much again as everything else in calibration, see the README.
    """
    others = _others(run, prepared, few.images, few.preprocess, ranges) if refine == "all" else []

    def produce(folder: Path) -> None:
        from edgehybrid import placement, quantizer, tuner
        from edgehybrid.graph.products import find_products
        from edgehybrid.graph.tuning import save_tuning

        model = run.open(prepared)
        rows = Shelf(_move_rows(few.model, model, ranges, few.samples.rows))
        few.close()
        plan = placement.plan(model, "fp32", uneven=ranges.uneven)
        products = list(find_products(model, plan).values())
        refined, found, records = tuner.refine(
            model,
            plan,
            ranges,
            others,
            rows,
            quantizer.choose_weight_scales,
            tied=placement.tie(model, plan),
            importance=weigh_outputs(prepared, model, products, few.picked, few.preprocess, few.rows)
            if others
            else None,
            rounding=rounding,
        )
        save_tuning(found, folder / "tuning.npz")
        write_atomic(folder / "tuned.json", to_json({"ranges": refined, "adjustments": records}))

    inputs = {
        "model": run.digest(prepared),
        "images": few.images.spec.sha256,
        "preprocess": few.preprocess,
        "ranges": ranges,
        "others": others,
        "rounding": rounding,
    }
    folder = run.do("tune", inputs, produce)
    kept = json.loads((folder / "tuned.json").read_bytes())
    adjustments = tuple(decode(Adjustment, x) for x in kept["adjustments"])
    return Tuned(decode(Ranges, kept["ranges"]), folder / "tuning.npz", adjustments)


def _move_rows(
    before: "Graph", after: "Graph", ranges: Ranges, rows: "Mapping[str, NDArray[np.float32]]"
) -> "Mapping[str, NDArray[np.float32]]":
    """Samples of the network before, as the one that the ranges belong to would give them."""
    from edgehybrid import tuner

    moved = tuner.scale_rows(before, ranges.factors, rows)
    if ranges.offsets:
        moved = tuner.center_rows(tuner.apply_factors(before, ranges.factors), ranges.offsets, moved)
    return tuner.shift_rows(after, ranges.zero_points, moved)


def _others(run: Run, prepared: Path, images: Images, preprocess: Preprocess, ranges: Ranges) -> list[Ranges]:
    """Other ranges to choose from, of the same histograms; none where a method other than mse was asked for by name."""
    if ranges.method != "mse":
        return []
    methods: tuple[Method, ...] = ("minmax", "percentile")
    found = [calibrate(run, prepared, images, preprocess, m, shifted=ranges.zero_points) for m in methods]
    stretched = ({name: amax * stretch for name, amax in ranges.tensors.items()} for stretch in STRETCHES)
    return [*found, *(replace(ranges, tensors=tensors) for tensors in stretched)]
