"""From a float32 graph to its quantized forms: rewritten, calibrated, written with Q/DQ in both dialects."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from edgehybrid.dataset import Images
from edgehybrid.progress import listener
from edgehybrid.records import Method, Plan, Precision, Preprocess, Ranges, Target
from edgehybrid.stages.run import FORWARD_BATCH, Run
from edgehybrid.store import decode, to_json, write_atomic

if TYPE_CHECKING:
    from edgehybrid.graph import Graph

NOTHING_KEPT: Mapping[str, str] = {}
NOTHING_SHIFTED: Mapping[str, float] = {}
PLAN = "plan.json"
"""In the cache, beside what was quantized by it."""

PEAK_IMAGES = 8
"""Images on which the range of float16 is judged: placement's margin is for what these did not show."""


@dataclass(frozen=True)
class Quantized:
    """A deployable graph in both dialects, and how it came about."""

    runnable: Path  # fp32-typed, for ONNX Runtime and TensorRT 8; fp16 has only the typed form
    typed: Path  # strongly typed, for TensorRT 10, 11 and RTX
    plan: Plan
    ranges: Ranges | None
    float32: Path | None = None  # TensorRT 8 derives fp16 from this one, as it cannot read the typed graph's opset 19

    def deployed(self, target: Target) -> Path:
        """The graph in the dialect of a target."""
        if target.dialect == "typed":
            return self.typed
        if target.backend == "tensorrt" and self.ranges is None and self.float32 is not None:
            return self.float32
        return self.runnable


def rewrite(run: Run, exported: Path) -> Path:
    """The same function as a graph that is faster and kinder to int8."""
    made: Graph | None = None

    def produce(folder: Path) -> None:
        from edgehybrid import graph, rewrites

        nonlocal made
        made, log = rewrites.apply(graph.load(exported))
        write_atomic(folder / "baseline.onnx", made.pieces())
        write_atomic(folder / "log.json", to_json(list(log)))

    path = run.do("rewrite", {"model": run.digest(exported)}, produce) / "baseline.onnx"
    if made is not None:
        run.keep(path, made)
    return path


def calibrate(
    run: Run,
    baseline: Path,
    images: Images,
    preprocess: Preprocess,
    method: Method,
    *,
    shifted: Mapping[str, float] = NOTHING_SHIFTED,
) -> Ranges:
    """Observe activations once, then choose ranges; another method on the same images costs no forward pass.

    Args:
        run: The chain.
        baseline: float32.
        images: Of calibration.
        preprocess: Of the images.
        method: How ranges are chosen.
        shifted: Zero points by which the graph was shifted.
    """
    observed = observe(run, baseline, images, preprocess)

    def choose(folder: Path) -> None:
        from edgehybrid import calibrator, placement, tuner

        seen = calibrator.Observations.load(observed)
        model = run.open(baseline)
        plan = placement.plan(model, "fp32")
        ranges = calibrator.choose(
            seen,
            method,
            images=len(images),
            sha256=images.spec.sha256,
            tied=placement.tie(model, plan),
            known=placement.known_ranges(model, plan),
            even=set(chain.from_iterable(tuner.find_shifted(model, shifted).values())),
        )
        write_atomic(folder / "ranges.json", to_json(ranges))

    inputs = {**_observation_inputs(run, baseline, images, preprocess), "method": method, "shifted": shifted}
    chosen = run.do("ranges", inputs, choose)
    return decode(Ranges, json.loads((chosen / "ranges.json").read_bytes()))


def observe(run: Run, baseline: Path, images: Images, preprocess: Preprocess) -> Path:
    """Count the activations that int8 needs ranges of; the file with their histograms."""

    def produce(folder: Path) -> None:
        from edgehybrid import calibrator

        model = run.open(baseline)
        seen = calibrator.observe(
            model,
            images.batches(preprocess, FORWARD_BATCH),
            _quantized_tensors(model),
            progress=lambda done: listener().advance(done, len(images)),
        )
        seen.save(folder / "observations.npz")

    folder = run.do("calibrate", _observation_inputs(run, baseline, images, preprocess), produce)
    return folder / "observations.npz"


def _quantized_tensors(model: "Graph") -> list[str]:
    from edgehybrid import placement

    return sorted({d.tensor for d in placement.plan(model, "fp32").decisions if d.kind == "activation"})


def _observation_inputs(run: Run, baseline: Path, images: Images, preprocess: Preprocess) -> dict[str, object]:
    return {
        "model": run.digest(baseline),
        "images": images.spec.sha256,
        "count": len(images),
        "preprocess": preprocess,
    }


def find_peaks(run: Run, baseline: Path, images: Images, preprocess: Preprocess) -> dict[str, float]:
    """The largest value of every float tensor, on `PEAK_IMAGES` of the images: what float16 would have to hold.

    The images are those of lowest digest, so that neither order nor file names matter.
    """
    sample = images.pick(PEAK_IMAGES)

    def produce(folder: Path) -> None:
        from edgehybrid import calibrator

        found = calibrator.find_peaks(run.open(baseline), sample.batches(preprocess, FORWARD_BATCH))
        write_atomic(folder / "peaks.json", to_json(found))

    inputs = {"model": run.digest(baseline), "images": sample.spec.sha256, "preprocess": preprocess}
    folder = run.do("peaks", inputs, produce)
    found: dict[str, float] = json.loads((folder / "peaks.json").read_bytes())
    return found


def quantize(
    run: Run,
    baseline: Path,
    precision: Precision,
    ranges: Ranges | None,
    peaks: Mapping[str, float] | None,
    keep: Mapping[str, str] = NOTHING_KEPT,
    tuning: Path | None = None,
) -> Quantized:
    """The deployable graphs of one precision; fp32 is the baseline itself.

    Args:
        run: The chain.
        baseline: The float32 graph.
        precision: What to make of it.
        ranges: Of int8 and mixed; None for fp16.
        peaks: Of every float tensor: what float16 cannot hold stays float32. None for fp32.
        keep: Operators that `mixed` leaves float -> why.
        tuning: What `tune` left for the quantizer.
    """
    if precision == "fp32":
        return Quantized(baseline, baseline, Plan("fp32", ()), None)

    def produce(folder: Path) -> None:
        from edgehybrid import placement, quantizer
        from edgehybrid.graph.tuning import load_tuning

        model = run.open(baseline)
        kept = placement.keep_float32(model, peaks or {})
        plan = Plan("typed", kept)
        tuned = None if tuning is None else load_tuning(tuning)
        if ranges is None:
            write_atomic(folder / "typed.onnx", quantizer.to_fp16(model, plan).pieces())
        else:
            twin_plan = placement.plan(model, "fp32", keep=keep, uneven=ranges.uneven)
            plan = Plan("typed", (*twin_plan.decisions, *kept))  # the dialect decides nothing
            write_atomic(folder / "typed.onnx", quantizer.quantize(model, ranges, plan, tuned).pieces())
            twin = quantizer.quantize(model, ranges, twin_plan, tuned)
            write_atomic(folder / "runnable.onnx", twin.pieces())
        write_atomic(folder / PLAN, to_json(plan))

    inputs = {
        "model": run.digest(baseline),
        "precision": precision,
        "ranges": ranges,
        "peaks": peaks,
        "keep": dict(keep),
        "tuning": None if tuning is None else run.digest(tuning),
    }
    folder = run.do("quantize", inputs, produce)
    plan = decode(Plan, json.loads((folder / PLAN).read_bytes()))
    typed = folder / "typed.onnx"
    return Quantized(typed if ranges is None else folder / "runnable.onnx", typed, plan, ranges, float32=baseline)


def quantize_alone(run: Run, baseline: Path, ranges: Ranges, tuning: Path | None = None) -> tuple[Path, Plan]:
    """`Quantized.runnable` and its plan without the typed twin: nothing is float16 there, so no peaks matter.

    Args:
        run: The chain.
        baseline: The float32 graph.
        ranges: Of its activations.
        tuning: What `tune` left for the quantizer.
    """

    def produce(folder: Path) -> None:
        from edgehybrid import placement, quantizer
        from edgehybrid.graph.tuning import load_tuning

        model = run.open(baseline)
        tuned = None if tuning is None else load_tuning(tuning)
        plan = placement.plan(model, "fp32", uneven=ranges.uneven)
        write_atomic(folder / "model.onnx", quantizer.quantize(model, ranges, plan, tuned).pieces())
        write_atomic(folder / PLAN, to_json(plan))

    inputs = {
        "model": run.digest(baseline),
        "ranges": ranges,
        "tuning": None if tuning is None else run.digest(tuning),
    }
    folder = run.do("quantize", inputs, produce)
    return folder / "model.onnx", decode(Plan, json.loads((folder / PLAN).read_bytes()))
