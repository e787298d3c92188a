"""Tuning to int8 on a few images, as cached stages: channels equalized before calibration, choices refined after."""

import functools
import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from edgehybrid import memory
from edgehybrid.dataset import Images
from edgehybrid.progress import listener
from edgehybrid.records import Adjustment, Equalize, ImageSet, Method, Plan, Preprocess, Ranges, Refine, Rounding
from edgehybrid.stages.calibration import reuse_calibration
from edgehybrid.stages.gradients import weigh_outputs
from edgehybrid.stages.product import calibrate
from edgehybrid.stages.run import FORWARD_BATCH, Run
from edgehybrid.store import decode, sha256_of, to_json, write_atomic
from edgehybrid.store.shelf import Shelf

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from edgehybrid.calibrator import Samples
    from edgehybrid.graph import Graph

TUNING_IMAGES = 64
"""Images on which choices are compared, half of them to choose and half to judge."""
TUNING_ROWS = 768
"""Positions per layer: choices differ by tenths of a dB, which so many settle."""
ROUNDING_IMAGES = 128
ROUNDING_ROWS = 2048
"""Rounding solves for as many unknowns as a layer has inputs, so it gets more of both."""
SAME_DB = 70.0
"""From here on two float32 networks count as one function: where factors were lost, 50 dB and less were left."""
STRETCHES = (1.19, 1.41)
"""A quarter and half of an octave above the range chosen so far."""


@dataclass(frozen=True)
class Changes:
    """What makes a network kinder to int8 and leaves its function as it is; what each is stands at `Ranges`."""

    factors: Mapping[str, str]
    offsets: Mapping[str, str]
    zero_points: Mapping[str, float]
    adjustments: tuple[Adjustment, ...]  # all that was tried


NOTHING_CHANGED = Changes({}, {}, {}, ())


@dataclass(frozen=True)
class Equalized:
    """The same function, with its channels equalized and centred and its tensors shifted by zero points."""

    path: Path
    changes: Changes


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
    few = _Few(baseline, images, preprocess, TUNING_IMAGES, TUNING_ROWS)
    equalized = equalize_channels(run, few, equalize)
    if rounding == "nearest":
        few.close()
    else:
        few = _Few(baseline, images, preprocess, ROUNDING_IMAGES, ROUNDING_ROWS)
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
    ranges, about = reuse_calibration(path, baseline, preprocess, method)
    path = apply_known(run, baseline, ranges)
    return Prepared(path, ranges, compensate_zero_points(run, path, ranges)), about


@dataclass
class _Few:
    """A few images of the network before it is tuned; what its layers read is sampled once, when first asked for."""

    baseline: Path
    images: Images
    preprocess: Preprocess
    count: int
    rows: int

    @functools.cached_property
    def opened(self) -> "tuple[Graph, Plan]":
        """The network and its placement."""
        from edgehybrid import graph, placement

        model = graph.load(self.baseline)
        return model, placement.plan(model, "fp32")

    @functools.cached_property
    def picked(self) -> Images:
        """The same ones in the same order however the set is ordered."""
        return self.images.pick(self.count)

    @functools.cached_property
    def samples(self) -> "Samples":
        """Rows of what every int8 product reads, which wait on disk."""
        from edgehybrid import calibrator
        from edgehybrid.graph.products import find_products

        batches = self.picked.batches(self.preprocess, FORWARD_BATCH)
        products = list(find_products(*self.opened).values())
        found = calibrator.sample(self.opened[0], batches, products, len(self.picked), rows=self.rows)
        return replace(found, rows=Shelf(found.rows))

    def close(self) -> None:
        """Make room: the network is read again when it is asked for."""
        vars(self).pop("opened", None)


def equalize_channels(run: Run, few: _Few, sites: Equalize) -> Equalized:
    """Equalize, centre and shift where that measures better; accuracy is still compared with the baseline.

    `folded` centres and shifts nothing, not even at norms, where that adds no operator.
    """
    made: Graph | None = None

    def produce(folder: Path) -> None:
        nonlocal made
        model = few.opened[0]
        made, changes = _transform(few, sites)
        memory.trim(cycles=False)  # of the samples
        if made is not model and (same := _agreement(model, made, few)) < SAME_DB:
            listener().note(
                f"channels are not equalized: float32 would differ from itself at {same:.0f} dB, needed {SAME_DB:.0f}; "
                "either the network makes much of the last bit, or this is a bug worth reporting"
            )
            made, changes = model, NOTHING_CHANGED
        write_atomic(folder / "equalized.onnx", made.pieces())
        write_atomic(folder / "changes.json", to_json(changes))

    if sites == "off":
        return Equalized(few.baseline, NOTHING_CHANGED)
    inputs = {
        "model": sha256_of(few.baseline),
        "images": few.images.spec.sha256,
        "preprocess": few.preprocess,
        "sites": sites,
    }
    folder = run.do("equalize", inputs, produce)
    if made is not None:
        run.keep(folder / "equalized.onnx", made)
    return Equalized(folder / "equalized.onnx", decode(Changes, json.loads((folder / "changes.json").read_bytes())))


def _transform(few: _Few, sites: Equalize) -> "tuple[Graph, Changes]":
    """The graph with every change that measures better, and these; the graph as it is, where none does."""
    from edgehybrid import calibrator, placement, quantizer, tuner

    model, plan = few.opened
    kept, pick = few.samples, calibrator.range_of
    made, factors, records = tuner.equalize(
        model,
        plan,
        kept.rows,
        kept.span,
        kept.early_span,
        pick,
        tied=placement.tie(model, plan),
        sites=sites,
    )
    offsets: dict[str, str] = {}
    zero_points: dict[str, float] = {}
    if sites == "all":
        rows = tuner.scale_rows(model, factors, kept.rows)
        equalized = made
        made, offsets, more = tuner.center(equalized, plan, rows, pick)
        rows = tuner.center_rows(equalized, offsets, rows)
        made, zero_points, last = tuner.shift(made, plan, rows, pick, quantizer.choose_weight_scales, loud=kept.loud)
        records += more + last
    changes = Changes(factors, offsets, zero_points, records)
    return made if factors or offsets or zero_points else model, changes


def _agreement(before: "Graph", after: "Graph", few: _Few) -> float:
    """Signal to noise of the outputs in dB where only rounding of float32 should differ, on one image.

    Outputs whose places are chosen by value are left out: a change in the last bit may put others there.
    """
    from edgehybrid import calibrator
    from edgehybrid.graph import holds_floats, name_of
    from edgehybrid.graph.structure import computed, find_choosers

    chosen, made = find_choosers(before), computed(before)
    names = [name for out in before.body.outputs if holds_floats(out) and (name := name_of(out)) in made]
    image = few.picked.pick(1).batches(few.preprocess, 1)
    errors = calibrator.compare(before, after, image, [name for name in names if name not in chosen])
    return min((error.sqnr_db for error in errors), default=math.inf)


def apply_known(run: Run, baseline: Path, ranges: Ranges, model: "Graph | None" = None) -> Path:
    """The graph that ranges with factors, offsets and zero points belong to; `model`: the baseline, if it is open."""
    made: Graph | None = None

    def produce(folder: Path) -> None:
        from edgehybrid import graph, tuner

        nonlocal made
        plain = graph.load(baseline) if model is None else model
        centred = tuner.apply_offsets(tuner.apply_factors(plain, ranges.factors), ranges.offsets)
        made = tuner.apply_zero_points(centred, ranges.zero_points)
        write_atomic(folder / "equalized.onnx", made.pieces())

    if not (ranges.factors or ranges.offsets or ranges.zero_points):
        return baseline
    inputs = {
        "model": sha256_of(baseline),
        "factors": ranges.factors,
        "offsets": ranges.offsets,
        "zero_points": ranges.zero_points,
    }
    path = run.do("factors", inputs, produce) / "equalized.onnx"
    if made is not None:
        run.keep(path, made)
    return path


def align_zero_points(run: Run, few: _Few, calibrated: Path, ranges: Ranges) -> tuple[Path, Ranges]:
    """The graph whose zero points are multiples of the scales that were found since, and its ranges."""
    from edgehybrid import tuner

    if not ranges.zero_points:
        return calibrated, ranges
    ranges = tuner.align(run.open(calibrated), ranges)
    return apply_known(run, few.baseline, ranges, few.opened[0]), ranges


def compensate_zero_points(run: Run, path: Path, ranges: Ranges) -> Path | None:
    """Biases for zero points where no images correct them; None without zero points."""

    def produce(folder: Path) -> None:
        from edgehybrid import placement, quantizer, tuner
        from edgehybrid.graph.tuning import save_tuning

        model = run.open(path)
        plan = placement.plan(model, "fp32", uneven=ranges.uneven)
        found = tuner.compensate_zero_points(model, plan, ranges.zero_points, quantizer.choose_weight_scales)
        save_tuning(found, folder / "tuning.npz")

    if not ranges.zero_points:
        return None
    return run.do("compensate", {"model": sha256_of(path), "ranges": ranges}, produce) / "tuning.npz"


def tune(run: Run, prepared: Path, ranges: Ranges, few: _Few, refine: Refine, rounding: Rounding) -> Tuned:
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
        rows = Shelf(_move_rows(few.opened[0], model, ranges, few.samples.rows))
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
        "model": sha256_of(prepared),
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
