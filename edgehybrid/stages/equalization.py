"""The network made kinder to int8 before it is calibrated, its function left as it is, as cached stages."""

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
from edgehybrid.records import Adjustment, Equalize, Plan, Preprocess, Ranges
from edgehybrid.stages.run import FORWARD_BATCH, Run
from edgehybrid.store import decode, to_json, write_atomic
from edgehybrid.store.shelf import Shelf

if TYPE_CHECKING:
    from edgehybrid.calibrator import Samples
    from edgehybrid.graph import Graph

SAME_DB = 70.0
"""From here on two float32 networks count as one function: where factors were lost, 50 dB and less were left."""


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


@dataclass
class Few:
    """A few images of the network before it is tuned; what its layers read is sampled once, when first asked for."""

    run: Run
    baseline: Path
    images: Images
    preprocess: Preprocess
    count: int
    rows: int

    @functools.cached_property
    def model(self) -> "Graph":
        """The network."""
        return self.run.open(self.baseline)

    @functools.cached_property
    def plan(self) -> Plan:
        """Its placement."""
        from edgehybrid import placement

        return placement.plan(self.model, "fp32")

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
        products = list(find_products(self.model, self.plan).values())
        found = calibrator.sample(self.model, batches, products, len(self.picked), rows=self.rows)
        return replace(found, rows=Shelf(found.rows))

    def close(self) -> None:
        """Make room: the network is read again when it is asked for."""
        for name in ("model", "plan"):
            vars(self).pop(name, None)


def equalize_channels(run: Run, few: Few, sites: Equalize) -> Equalized:
    """Equalize, centre and shift where that measures better; accuracy is still compared with the baseline.

    `folded` centres and shifts nothing, not even at norms, where that adds no operator.
    """
    made: Graph | None = None

    def produce(folder: Path) -> None:
        nonlocal made
        model = few.model
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
        "model": run.digest(few.baseline),
        "images": few.images.spec.sha256,
        "preprocess": few.preprocess,
        "sites": sites,
    }
    folder = run.do("equalize", inputs, produce)
    if made is not None:
        run.keep(folder / "equalized.onnx", made)
    return Equalized(folder / "equalized.onnx", decode(Changes, json.loads((folder / "changes.json").read_bytes())))


def _transform(few: Few, sites: Equalize) -> "tuple[Graph, Changes]":
    """The graph with every change that measures better, and these; the graph as it is, where none does."""
    from edgehybrid import calibrator, placement, quantizer, tuner

    model, plan = few.model, few.plan
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


def _agreement(before: "Graph", after: "Graph", few: Few) -> float:
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
        from edgehybrid import tuner

        nonlocal made
        plain = run.open(baseline) if model is None else model
        centred = tuner.apply_offsets(tuner.apply_factors(plain, ranges.factors), ranges.offsets)
        made = tuner.apply_zero_points(centred, ranges.zero_points)
        write_atomic(folder / "equalized.onnx", made.pieces())

    if not (ranges.factors or ranges.offsets or ranges.zero_points):
        return baseline
    inputs = {
        "model": run.digest(baseline),
        "factors": ranges.factors,
        "offsets": ranges.offsets,
        "zero_points": ranges.zero_points,
    }
    path = run.do("factors", inputs, produce) / "equalized.onnx"
    if made is not None:
        run.keep(path, made)
    return path


def align_zero_points(run: Run, few: Few, calibrated: Path, ranges: Ranges) -> tuple[Path, Ranges]:
    """The graph whose zero points are multiples of the scales that were found since, and its ranges."""
    from edgehybrid import tuner

    if not ranges.zero_points:
        return calibrated, ranges
    ranges = tuner.align(run.open(calibrated), ranges)
    return apply_known(run, few.baseline, ranges, few.model), ranges


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
    return run.do("compensate", {"model": run.digest(path), "ranges": ranges}, produce) / "tuning.npz"
