"""The steps of a build as cached work: what each depends on, what files it leaves, what it cost."""

import functools
import hashlib
import importlib.metadata
import importlib.util
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edgehybrid import zoo
from edgehybrid.dataset import Images
from edgehybrid.errors import ImagesError, NotFoundError, NotReadyError, StageError, UsageError
from edgehybrid.progress import listener
from edgehybrid.records import (
    DeviceState,
    Engine,
    Latency,
    LayerError,
    Method,
    ModelSpec,
    Plan,
    Precision,
    Preprocess,
    Provenance,
    Ranges,
    Stage,
    Target,
)
from edgehybrid.store import decode, run_stage, sha256_of, to_json, write_atomic

if TYPE_CHECKING:
    from edgehybrid.graph import Graph
    from edgehybrid.zoo.sources import Source as Weights

LAYER_IMAGES = 32
"""Images on which per-layer noise is measured: it is a mean over pixels, which 32 images settle."""
FORWARD_BATCH = 16
"""Images decoded at a time; the graph's own batch decides what one call computes."""
LIBRARIES = (
    "numpy",
    "onnxruntime",
    "onnx",
    "onnx-ir",
    "onnxsim",
    "torch",
    "timm",
    "tensorrt-rtx-cu13-libs",
    "tensorrt",
)
"""Packages whose version shapes a result."""


@dataclass(frozen=True)
class Source:
    """Which model is asked for."""

    model: str  # a zoo name, timm/NAME, or an ONNX file
    weights: str
    num_classes: int | None
    input_size: int | None
    crop_pct: float | None
    batch: int
    seed: int

    @property
    def is_file(self) -> bool:
        """Whether the model is a user's ONNX file."""
        return self.model.endswith(".onnx")

    @property
    def name(self) -> str:
        """The model's name as bundles show it."""
        return Path(self.model).stem if self.is_file else self.model.replace("/", "-")


@dataclass(frozen=True)
class Exported:
    """A model as an ONNX file."""

    path: Path
    spec: ModelSpec
    params: int
    macs: int
    batch: int


@dataclass(frozen=True)
class Quantized:
    """A deployable graph in both dialects, and how it came about."""

    runnable: Path  # fp32-typed, for ONNX Runtime and TensorRT 8; fp16 has only the typed form
    typed: Path  # strongly typed, for TensorRT 10, 11 and RTX
    plan: Plan
    ranges: Ranges | None

    def deployed(self, target: Target) -> Path:
        """The graph in the dialect of a target."""
        return self.typed if target.dialect == "typed" else self.runnable


@dataclass
class Run:
    """One chain of stages and what they cost."""

    stages: list[Stage] = field(default_factory=list)

    def do(self, name: str, inputs: Mapping[str, object], produce: Callable[[Path], None]) -> Path:
        """Run a stage through the cache; the folder with its files."""
        listener().begin(name)
        folder, stage = run_stage(
            name,
            {**inputs, "versions": versions()},
            produce,
            waiting=lambda: listener().note(f"another process is doing '{name}'; waiting for its result"),
        )
        self.stages.append(stage)
        listener().end(stage)
        return folder


def export(run: Run, source: Source, images: Images) -> Exported:
    """A zoo model with its weights, or a user's ONNX file, as one static float32 graph.

    Args:
        run: The chain.
        source: What to export.
        images: A few of them check the ONNX graph against torch.
    """
    if source.is_file and not Path(source.model).is_file():
        raise NotFoundError(
            f"no file {source.model}",
            why="a model that ends in .onnx is read as a file",
            fix="check the path",
        )
    found = None
    if not source.is_file:
        found = zoo.find_weights(
            source.model, source.weights, num_classes=source.num_classes, seed=source.seed, notify=listener().note
        )
    identity = _identity(Path(source.model)) if found is None else found.sha256

    def produce(folder: Path) -> None:
        require("onnx_ir", "host", "handle ONNX graphs")
        from edgehybrid import graph

        opened = _opened(source, identity) if found is None else _traced(source, found, images)
        exported, spec, params = opened
        write_atomic(folder / "model.onnx", exported.to_bytes())
        facts = {
            "params": params,
            "macs": graph.count_macs(exported),
            "batch": graph.shape_of(exported.input)[0],
        }
        write_atomic(folder / "spec.json", to_json({"spec": spec, **facts}))

    folder = run.do("export", {"source": source, "identity": identity}, produce)
    facts = json.loads((folder / "spec.json").read_bytes())
    spec = decode(ModelSpec, facts["spec"])
    return Exported(folder / "model.onnx", spec, facts["params"], facts["macs"], facts["batch"])


def _identity(path: Path) -> str:
    """SHA-256 of an ONNX file; of it and of the files beside it where those hold its weights."""
    require("onnx_ir", "host", "handle ONNX graphs")
    from edgehybrid.graph.adoption import companions

    digest = sha256_of(path)
    hashes = [sha256_of(file) for file in companions(path) if file.is_file()]
    return hashlib.sha256(" ".join([digest, *hashes]).encode()).hexdigest() if hashes else digest


def _traced(source: Source, found: "Weights", images: Images) -> "tuple[Graph, ModelSpec, int]":
    """Graph, spec and number of parameters of a zoo model."""
    require("torch", "host", "export a model from torch")
    from edgehybrid import exporter

    module, spec = zoo.load(
        source.model,
        found,
        source.num_classes,
        source.input_size,
        crop_pct=source.crop_pct,
        seed=source.seed,
        notify=listener().note,
    )
    check = next(images.batches(spec.preprocess, min(8, len(images))))
    graph = exporter.trace(module, spec, batch=source.batch, images=check, notify=listener().note)
    return graph, spec, sum(p.numel() for p in module.parameters())


def _opened(source: Source, sha256: str) -> "tuple[Graph, ModelSpec, int]":
    """Graph, spec and number of weights of a user's file."""
    from edgehybrid import graph
    from edgehybrid.graph.adoption import adopt, scores_of

    path, size = Path(source.model), source.input_size
    opened = adopt(path, batch=source.batch, input_size=size, notify=listener().note)
    side = graph.shape_of(opened.input)[-1]
    classes = graph.shape_of(scores_of(opened))[-1]
    if source.num_classes not in (None, classes):
        raise UsageError(
            f"--num-classes {source.num_classes} does not fit {path}",
            why=f"its output has {classes} classes",
            fix="leave --num-classes out",
        )
    provenance = Provenance(source.model, sha256, trained=True, note="weights are those in the ONNX file")
    crop = Preprocess(side) if source.crop_pct is None else Preprocess(side, source.crop_pct)
    spec = ModelSpec(source.name, crop, classes, provenance)
    return opened, spec, graph.count_params(opened)


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
    return Quantized(typed if ranges is None else folder / "runnable.onnx", typed, plan, ranges)


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


def bench(
    run: Run, files: Mapping[Precision, Path], images: Images, made: Exported, state: DeviceState
) -> dict[Precision, Latency]:
    """Latency of several graphs on this machine, on a real image."""
    machine = f"{state.name} {state.cores} {state.threads} {os.uname().nodename} {os.uname().machine}"

    def produce(folder: Path) -> None:
        one = next(images.batches(made.spec.preprocess, 1))
        feed = np.repeat(one, made.batch, axis=0)
        write_atomic(folder / "latency.json", to_json(measure(files, feed)))

    inputs: dict[str, object] = {precision: sha256_of(path) for precision, path in files.items()}
    folder = run.do("bench", {**inputs, "machine": machine}, produce)
    stored = json.loads((folder / "latency.json").read_bytes())
    return {precision: decode(Latency, stored[precision]) for precision in files}


def measure(
    files: Mapping[Precision, Path],
    feed: NDArray[np.float32] | None = None,
    *,
    warmup: float = 0.2,
    duration: float = 3.0,
    iterations: int = 50,
) -> dict[Precision, Latency]:
    """Time graphs on ONNX Runtime, their calls interleaved so that ratios are fair.

    Args:
        files: Precision -> ONNX file, all with the same input.
        feed: One batch (N, 3, H, W); seeded noise by default.
        warmup: Seconds of untimed calls first.
        duration: Seconds of timed calls, at least.
        iterations: Timed calls of each graph, at least.
    """
    from edgehybrid import benchmark
    from edgehybrid.runtime import open_runner

    with ExitStack() as stack:
        runners = [stack.enter_context(open_runner(path)) for path in files.values()]
        name, info = next(iter(runners[0].inputs.items()))
        batch = np.random.default_rng(0).standard_normal(info.shape).astype(info.dtype) if feed is None else feed
        latencies = benchmark.measure_interleaved(
            runners, {name: batch}, warmup=warmup, duration=duration, iterations=iterations
        )
    return dict(zip(files, latencies, strict=True))


def predict(run: Run, label: str, path: Path, images: Images, preprocess: Preprocess) -> NDArray[np.float32]:
    """Logits (images, classes) of a graph, in canonical numerics and in the order of the images."""

    def produce(folder: Path) -> None:
        from edgehybrid import evaluator
        from edgehybrid.runtime import open_runner

        with open_runner(path, canonical=True) as runner:
            batches = _counted(images.batches(preprocess, FORWARD_BATCH), len(images))
            np.save(folder / "logits.npy", evaluator.predict(runner, batches), allow_pickle=False)

    inputs = {"model": sha256_of(path), "images": images.order, "preprocess": preprocess}
    folder = run.do(f"evaluate {label}", inputs, produce)
    logits: NDArray[np.float32] = np.load(folder / "logits.npy", allow_pickle=False)
    return logits


def check_collapse(logits: Mapping[Precision, NDArray[np.float32]], spec: ModelSpec) -> None:
    """Refuse to report on a network that no longer tells images apart.

    Raises:
        StageError: Quantization broke a trained network. Of an untrained one it is only noted: its logits hardly
            depend on the image, and 8 bits may not hold what little they do.
    """
    from edgehybrid import evaluator

    reference = next(iter(logits.values()))
    for precision, values in logits.items():
        problem = evaluator.collapse_note(reference, values)
        if problem is not None and not spec.weights.trained:
            listener().note(f"{precision}: {problem}; the weights are untrained")
        elif problem is not None:
            raise StageError(
                f"{precision} broke the network",
                why=problem,
                fix="try --method percentile, other --calib images, or --precision fp16",
            )


def labels_for(images: Images, spec: ModelSpec) -> NDArray[np.int64]:
    """Labels of the evaluation images, which must be classes of the model."""
    if images.labels is None:
        raise ImagesError(
            f"{images.spec.name} has no labels",
            why="accuracy needs one folder per class, or an array y in the .npz file",
            fix="leave --eval out to measure agreement with float32 only",
        )
    highest = int(images.labels.max())
    if highest >= spec.classes:
        raise ImagesError(
            f"{images.spec.name} has labels up to {highest}",
            why=f"the model has {spec.classes} classes, numbered from 0",
            fix="give images of the classes that the model was trained on, or its own --weights",
        )
    labels: NDArray[np.int64] = images.labels
    return labels


def layer_noise(
    run: Run, baseline: Path, quantized: Quantized, images: Images, preprocess: Preprocess
) -> tuple[LayerError, ...]:
    """Signal to quantization noise at the output of every int8 layer; nothing where there is none."""
    if quantized.ranges is None:
        return ()

    def produce(folder: Path) -> None:
        from edgehybrid import calibrator, graph

        reference = graph.load(baseline)
        layers = {d.node for d in quantized.plan.decisions if d.kind == "weight"}
        labels = graph.label_nodes(reference)
        outputs = [graph.name_of(node.outputs[0]) for node, label in labels.items() if label in layers]
        first = next(images.batches(preprocess, min(LAYER_IMAGES, len(images))))
        found = calibrator.compare(reference, graph.load(quantized.runnable), [first], outputs)
        write_atomic(folder / "layers.json", to_json(list(found)))

    inputs = {
        "baseline": sha256_of(baseline),
        "quantized": sha256_of(quantized.runnable),
        "images": images.order,
    }
    folder = run.do("layers", {**inputs, "preprocess": preprocess}, produce)
    return tuple(decode(LayerError, x) for x in json.loads((folder / "layers.json").read_bytes()))


def require(module: str, extra: str, purpose: str) -> None:
    """Make sure a library of an extra is installed, before a long chain of imports says so less kindly.

    Raises:
        NotReadyError: It is not.
    """
    if importlib.util.find_spec(module) is None:
        raise NotReadyError(
            f"cannot {purpose}: {module} is not installed",
            why=f"it comes with the extra [{extra}]",
            fix=f"pip install 'edgehybrid[{extra}]'",
        )


@functools.cache
def versions() -> Mapping[str, str]:
    """Installed version of each of LIBRARIES that is there."""
    installed = {d.name: d.version for name in LIBRARIES for d in importlib.metadata.distributions(name=name)}
    return dict(sorted(installed.items()))


def _counted(batches: Iterator[NDArray[np.float32]], total: int) -> Iterator[NDArray[np.float32]]:
    """Pass batches on and tell the listener how many images went by."""
    done = 0
    for batch in batches:
        yield batch
        done += len(batch)
        listener().advance(done, total)
