"""What each step of tuning to int8 is worth, added one after another, and what it costs in time.

    python benchmarks/ablation.py --weights cmt_ti_cifar10_64.safetensors --crop-pct 1.0 \
        --calib cifar10_calib.npz --eval cifar10_eval.npz
    python benchmarks/ablation.py --weights fashion-mnist --calib fashion-mnist --eval fashion-mnist

Steps: weights clipped nowhere (`none`), weight scales of least squared error, channels equalized, biases corrected,
which is the default; then ranges re-ranked at layer outputs, and in its place weights rounded by closed form. Every
graph is scored in ONNX Runtime with graph optimisation disabled, against the same float32 network. Seconds are of this
process and of one step each; `over_forwards` is how many times the bare forward passes of all calibration images that
is. Writes `benchmarks/results/ablation-<weights>.json`.
"""

import argparse
import dataclasses
import json
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgehybrid import calibrator, dataset, device, evaluator, exporter, placement, quantizer, rewrites, tuner, zoo
from edgehybrid.calibrator.session import open_session
from edgehybrid.dataset import Images
from edgehybrid.graph import Graph, label_nodes, name_of
from edgehybrid.graph.products import Product, product_at
from edgehybrid.graph.tuning import Tuning
from edgehybrid.records import Plan, Preprocess, Ranges
from edgehybrid.stages.tuning import ROUNDING_IMAGES, ROUNDING_ROWS, STRETCHES, TUNING_IMAGES

RESULTS = Path(__file__).parent / "results"
LAYER_IMAGES = 16


@dataclasses.dataclass(frozen=True)
class Step:
    """One quantized network and how it came about."""

    name: str
    graph: Graph  # float32
    ranges: Ranges
    tuning: Tuning | None
    seconds: float  # beyond the step before


def main() -> None:
    """Build every step, score it, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="cmt_ti")
    parser.add_argument("--weights", required=True)
    parser.add_argument("--crop-pct", type=float)
    parser.add_argument("--calib", required=True)
    parser.add_argument("--eval", required=True)
    parser.add_argument("--num-calib", type=int, default=128)
    parser.add_argument("--num-eval", type=int)
    parser.add_argument("--threads", type=int, default=0)
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()

    module, spec = zoo.load(options.model, options.weights, crop_pct=options.crop_pct)
    images = dataset.load(options.calib, at_most=options.num_calib, split="calib")
    scored = dataset.load(options.eval, limit=options.num_eval, split="eval")
    baseline, _ = rewrites.apply(exporter.trace(module, spec))
    inputs = np.concatenate(list(scored.batches(spec.preprocess, 16)))
    reference = predict(baseline, inputs, options.threads)
    forwards = time_forwards(baseline, images, spec.preprocess, options.threads)
    print(f"bare forward passes of {len(images)} images: {forwards:.2f} s")
    rows = []
    for step in build_steps(baseline, images, spec.preprocess, options.threads):
        plan = placement.plan(step.graph, "fp32")
        quantized = quantizer.quantize(step.graph, step.ranges, plan, step.tuning)
        logits = predict(quantized, inputs, options.threads)
        names = [name_of(p.node.outputs[0]) for p in find_products(step.graph, plan)]
        layers = calibrator.compare(step.graph, quantized, [inputs[:LAYER_IMAGES]], names, threads=options.threads)
        row: dict[str, object] = {
            "step": step.name,
            "seconds": step.seconds,
            "over_forwards": step.seconds / forwards,
            "layer_sqnr_db": float(np.mean([x.sqnr_db for x in layers])),
            "worst_layer_db": min(x.sqnr_db for x in layers),
            "fidelity": dataclasses.asdict(evaluator.fidelity(reference, logits)),
        }
        if scored.labels is not None:
            row["drop"] = dataclasses.asdict(evaluator.drop(reference, logits, scored.labels))
        rows.append(row)
        print_row(row)
    document = {
        "model": spec.name,
        "weights": Path(options.weights).name,
        "calibration": {"name": images.spec.name, "images": len(images), "sha256": images.spec.sha256},
        "evaluation": {"name": scored.spec.name, "images": len(scored), "sha256": scored.spec.sha256},
        "forward_seconds": forwards,
        "device": dataclasses.asdict(device.state(options.threads)),
        "rows": rows,
    }
    path = options.output or RESULTS / f"ablation-{Path(options.weights).stem}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(document, indent=1, default=dict) + "\n")


def build_steps(baseline: Graph, images: Images, preprocess: Preprocess, threads: int) -> Sequence[Step]:
    """Each step keeps what those before it did, but for the last, which leaves the re-ranked ranges."""
    few, more = images.pick(TUNING_IMAGES), images.pick(ROUNDING_IMAGES)
    steps = []
    clock = time.perf_counter()

    def add(name: str, graph: Graph, ranges: Ranges, tuning: Tuning | None) -> None:
        nonlocal clock
        steps.append(Step(name, graph, ranges, tuning, time.perf_counter() - clock))
        clock = time.perf_counter()

    plan = placement.plan(baseline, "fp32")
    ranges, others = observe(baseline, plan, images, preprocess, threads)
    add("none", baseline, ranges, clip_nothing(baseline, plan))
    add("+ weights by mse", baseline, ranges, None)
    kept = sample(baseline, plan, few, preprocess, threads)
    level, _, _ = tuner.equalize(baseline, plan, kept.rows, kept.reach, kept.early_reach, calibrator.range_of)
    plan = placement.plan(level, "fp32")
    ranges, others = observe(level, plan, images, preprocess, threads)
    add("+ equalized", level, ranges, None)
    kept = sample(level, plan, few, preprocess, threads)
    _, tuning, _ = refine(level, plan, ranges, (), kept)
    add("+ biases corrected (default)", level, ranges, tuning)
    ranked, tuning, _ = refine(level, plan, ranges, others, kept)
    add("and ranges re-ranked", level, ranked, tuning)
    kept = sample(level, plan, more, preprocess, threads, ROUNDING_ROWS)
    _, tuning, _ = refine(level, plan, ranges, (), kept, optimised=True)
    add("default + rounding optimized", level, ranges, tuning)
    return steps


def observe(
    graph: Graph, plan: Plan, images: Images, preprocess: Preprocess, threads: int
) -> tuple[Ranges, list[Ranges]]:
    """Ranges by mse, and the others to choose from."""
    tensors = sorted({d.tensor for d in plan.decisions if d.kind == "activation"})
    seen = calibrator.observe(graph, images.batches(preprocess, 16), tensors, threads=threads)
    ranges, minmax, percentile = (
        calibrator.choose(seen, method, images=len(images), sha256="", tied=placement.tie(graph, plan))
        for method in ("mse", "minmax", "percentile")
    )
    wider = ({name: amax * stretch for name, amax in ranges.tensors.items()} for stretch in STRETCHES)
    return ranges, [minmax, percentile, *(dataclasses.replace(ranges, tensors=tensors) for tensors in wider)]


def sample(
    graph: Graph, plan: Plan, images: Images, preprocess: Preprocess, threads: int, rows: int = 768
) -> calibrator.Samples:
    """Rows of what int8 products read."""
    products = find_products(graph, plan)
    batches = images.batches(preprocess, 16)
    return calibrator.sample(graph, batches, products, len(images), rows=rows, threads=threads)


def refine(
    graph: Graph,
    plan: Plan,
    ranges: Ranges,
    others: Sequence[Ranges],
    kept: calibrator.Samples,
    *,
    optimised: bool = False,
) -> tuple[Ranges, Tuning, object]:
    """As a build does it."""
    return tuner.refine(
        graph,
        plan,
        ranges,
        others,
        kept.rows,
        quantizer.choose_weight_scales,
        tied=placement.tie(graph, plan),
        rounding="optimized" if optimised else "nearest",
    )


def find_products(graph: Graph, plan: Plan) -> list[Product]:
    """The int8 products of a plan."""
    int8 = {d.node for d in plan.decisions if d.kind == "weight"}
    return [p for node, label in label_nodes(graph).items() if label in int8 and (p := product_at(node)) is not None]


def clip_nothing(graph: Graph, plan: Plan) -> Tuning:
    """Weights with the scale of the largest one in each channel, as most tools have it."""
    tuning = Tuning({}, {}, {})
    labels = label_nodes(graph)
    for product in find_products(graph, plan):
        scales = np.maximum(np.abs(product.weight).max(axis=2) / quantizer.QMAX, quantizer.MIN_SCALE)
        tuning.scales[labels[product.node]] = scales.reshape(-1).astype(np.float32)
        tuning.levels[labels[product.node]] = np.rint(product.weight / scales[..., np.newaxis]).astype(np.int8)
    return tuning


def predict(graph: Graph, inputs: NDArray[np.float32], threads: int) -> NDArray[np.float32]:
    """Logits in canonical numerics, image by image."""
    session = open_session(graph, (), threads=threads, optimise=False)
    return np.concatenate([session.run(None, {graph.input.name: x[np.newaxis]})[0] for x in inputs])


def time_forwards(graph: Graph, images: Images, preprocess: Preprocess, threads: int) -> float:
    """Seconds that the optimised float32 network takes for all images, decoding left out."""
    session = open_session(graph, (), threads=threads)
    batches = list(images.batches(preprocess, 1))
    session.run(None, {graph.input.name: batches[0]})
    start = time.perf_counter()
    for batch in batches:
        session.run(None, {graph.input.name: batch})
    return time.perf_counter() - start


def print_row(row: dict[str, object]) -> None:
    """One line of the table."""
    fidelity, drop = row["fidelity"], row.get("drop")
    assert isinstance(fidelity, dict)
    lost = (
        ""
        if not isinstance(drop, dict)
        else f"  drop {drop['points']:+.2f} [{drop['ci95'][0]:+.2f}, {drop['ci95'][1]:+.2f}]"
    )
    print(
        f"{row['step']:<30} logits {fidelity['sqnr_db']:.2f} dB  layers {row['layer_sqnr_db']:.2f} dB"
        f" (worst {row['worst_layer_db']:.2f})  agreement {fidelity['agreement']:.2f} %{lost}"
        f"  {row['seconds']:.1f} s = {row['over_forwards']:.2f} forwards",
        flush=True,
    )


if __name__ == "__main__":
    main()
