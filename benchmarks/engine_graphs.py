"""Graphs of a zoo model in the dialect of this machine's TensorRT, and engines of them, for benchmarks with a GPU."""

import sys
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from plain import choose_ranges

from edgehybrid import calibrator, dataset, engine, exporter, graph, placement, quantizer, rewrites, stages, zoo
from edgehybrid.engine.build import RTX_CAPABILITIES, capability_of, installed_version
from edgehybrid.records import EngineOptions, Figure, Plan, Precision, Target

sys.path.insert(0, str(Path(__file__).parents[1]))  # tests.golden: weights without a bias or gain at its initial value

CALIBRATED = 32
"""Photographs behind the int8 ranges; latency does not depend on them."""


@dataclass(frozen=True)
class Graphs:
    """One network in every precision."""

    paths: dict[Precision, Path]
    feed: dict[str, NDArray[np.float32]]  # one photograph
    size: int  # px


def here() -> tuple[Target, engine.Builders]:
    """This machine as a target: full TensorRT where it is installed, else TensorRT-RTX.

    Raises:
        SystemExit: There is no GPU, or none of the two that builds for it.
    """
    found = engine.find_builders()
    if found.capability is None:
        raise SystemExit("no CUDA device: there is nothing to measure here")
    figures = {"compute_capability": Figure(found.capability, "this GPU")}
    precisions: tuple[Precision, ...] = ("fp32", "fp16", "int8")
    if found.tensorrt is not None:
        figures["tensorrt"] = Figure(installed_version(found.tensorrt), "this machine")
        full = Target("here", "this GPU", "tensorrt", "typed", precisions, figures)
        return engine.dialect_for(full, found), found
    if found.rtx is None or found.capability not in map(capability_of, RTX_CAPABILITIES):
        raise SystemExit(f"no TensorRT for compute capability {found.capability} is installed: edgehybrid doctor")
    return Target("here", "this GPU", "tensorrt-rtx", "typed", precisions, figures), found


def make_graphs(model: str, folder: Path, target: Target, size: int | None = None) -> Graphs:
    """Write fp32.onnx, fp16.onnx and int8.onnx of a model with seeded weights, batch 1.

    Args:
        model: A name of the zoo.
        folder: Where.
        target: This machine, whose dialect they are in; TensorRT 8 makes fp16 of the float32 graph.
        size: Input side, px; the published one by default.
    """
    from tests.golden import fill

    module, spec = zoo.load(model, "random", input_size=size)
    fill(module)
    baseline, _ = rewrites.apply(exporter.trace(module, spec))
    images = dataset.load("photos", limit=CALIBRATED)
    plan = placement.plan(baseline, "fp32")
    ranges = choose_ranges(baseline, plan, images, images.batches(spec.preprocess, 8))
    peaks = calibrator.find_peaks(baseline, images.take(range(8)).batches(spec.preprocess, 8))
    kept = placement.keep_float32(baseline, peaks)
    planned = placement.plan(baseline, target.dialect)
    half, plan = baseline, planned
    if target.dialect == "typed":
        half = quantizer.to_fp16(baseline, Plan("typed", kept))
        plan = Plan("typed", (*planned.decisions, *kept))
    quantized = quantizer.quantize(baseline, ranges, plan)
    made: dict[Precision, graph.Graph] = {"fp32": baseline, "fp16": half, "int8": quantized}
    paths = {}
    for precision, content in made.items():
        path = folder / f"{precision}.onnx"
        path.write_bytes(content.to_bytes())
        paths[precision] = stages.suit_parser(stages.Run(), path, target)
    return Graphs(paths, {"input": next(images.batches(spec.preprocess, 1))}, spec.preprocess.size)


def build_engine(onnx_path: Path, target: Target, builders: engine.Builders, precision: Precision, plan: Path) -> str:
    """Build for this GPU; what it was built by."""
    made, _ = engine.build(onnx_path, target, plan, precision=precision, options=EngineOptions(), builders=builders)
    if made.status != "built":
        raise SystemExit(f"no engine was built: {made.reason}")
    return str(made.reason)
