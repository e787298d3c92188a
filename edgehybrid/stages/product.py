"""From a float32 graph to what is deployed: rewritten, calibrated, quantized, and put to NVIDIA's compiler."""

import json
from dataclasses import dataclass
from pathlib import Path

from edgehybrid.dataset import Images
from edgehybrid.progress import listener
from edgehybrid.records import Engine, Method, Plan, Precision, Preprocess, Ranges, Target
from edgehybrid.stages.run import FORWARD_BATCH, Run
from edgehybrid.store import decode, sha256_of, to_json, write_atomic


@dataclass(frozen=True)
class Quantized:
    """A deployable graph in both dialects, and how it came about."""

    runnable: Path  # fp32-typed, for ONNX Runtime and TensorRT 8; fp16 has only the typed form
    typed: Path  # strongly typed, for TensorRT 10, 11 and RTX
    plan: Plan
    ranges: Ranges | None
    float32: Path | None = None  # what TensorRT 8 makes fp16 of by itself: it reads no opset of the typed form

    def deployed(self, target: Target) -> Path:
        """The graph in the dialect of a target."""
        if target.dialect == "typed":
            return self.typed
        if target.backend == "tensorrt" and self.ranges is None and self.float32 is not None:
            return self.float32
        return self.runnable


def rewrite(run: Run, exported: Path) -> Path:
    """The same function as a graph that is faster and kinder to int8."""

    def produce(folder: Path) -> None:
        from edgehybrid import graph, rewrites

        rewritten, log = rewrites.apply(graph.load(exported))
        write_atomic(folder / "baseline.onnx", rewritten.to_bytes())
        write_atomic(folder / "log.json", to_json(list(log)))

    return run.do("rewrite", {"model": sha256_of(exported)}, produce) / "baseline.onnx"


def calibrate(run: Run, baseline: Path, images: Images, preprocess: Preprocess, method: Method) -> Ranges:
    """Observe activations once, then choose ranges; another method on the same images costs no forward pass."""

    def produce(folder: Path) -> None:
        from edgehybrid import calibrator, graph, placement

        model = graph.load(baseline)
        tensors = {d.tensor for d in placement.plan(model, "fp32").decisions if d.kind == "activation"}
        seen = calibrator.observe(
            model,
            images.batches(preprocess, FORWARD_BATCH),
            sorted(tensors),
            progress=lambda done: listener().advance(done, len(images)),
        )
        seen.save(folder / "observations.npz")

    def choose(folder: Path) -> None:
        from edgehybrid import calibrator

        seen = calibrator.Observations.load(observed / "observations.npz")
        ranges = calibrator.choose(seen, method, images=len(images), sha256=images.spec.sha256)
        write_atomic(folder / "ranges.json", to_json(ranges))

    inputs = {
        "model": sha256_of(baseline),
        "images": images.spec.sha256,
        "count": len(images),
        "preprocess": preprocess,
    }
    observed = run.do("calibrate", inputs, produce)
    chosen = run.do("ranges", {**inputs, "method": method}, choose)
    return decode(Ranges, json.loads((chosen / "ranges.json").read_bytes()))


def quantize(run: Run, baseline: Path, precision: Precision, ranges: Ranges | None) -> Quantized:
    """The deployable graphs of one precision; fp32 is the baseline itself."""
    if precision == "fp32":
        return Quantized(baseline, baseline, Plan("fp32", ()), None)

    def produce(folder: Path) -> None:
        from edgehybrid import graph, placement, quantizer

        model = graph.load(baseline)
        plan = placement.plan(model, "typed")
        if ranges is None:
            write_atomic(folder / "typed.onnx", quantizer.to_fp16(model).to_bytes())
            plan = Plan("typed", ())
        else:
            write_atomic(folder / "typed.onnx", quantizer.quantize(model, ranges, plan).to_bytes())
            twin = quantizer.quantize(model, ranges, placement.plan(model, "fp32"))
            write_atomic(folder / "runnable.onnx", twin.to_bytes())
        write_atomic(folder / "plan.json", to_json(plan))

    inputs = {"model": sha256_of(baseline), "precision": precision, "ranges": ranges}
    folder = run.do("quantize", inputs, produce)
    plan = decode(Plan, json.loads((folder / "plan.json").read_bytes()))
    typed = folder / "typed.onnx"
    return Quantized(typed if ranges is None else folder / "runnable.onnx", typed, plan, ranges, float32=baseline)


def build_engine(run: Run, onnx_path: Path, target: Target, precision: Precision) -> tuple[Engine, Path | None]:
    """What NVIDIA's compiler makes of a graph; and the engine file, where it is the product."""
    from edgehybrid import engine

    builders = engine.find_builders()

    def produce(folder: Path) -> None:
        made = engine.build(onnx_path, target, folder / "engine.plan", precision=precision, builders=builders)
        write_atomic(folder / "engine.json", to_json(made))

    inputs = {"model": sha256_of(onnx_path), "target": target, "precision": precision, "builders": builders}
    folder = run.do("engine", inputs, produce)
    made = decode(Engine, json.loads((folder / "engine.json").read_bytes()))
    plan = folder / "engine.plan"
    return made, plan if plan.is_file() else None
