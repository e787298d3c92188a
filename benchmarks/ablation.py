"""What each step of tuning to int8 is worth, as a build does it, and what it costs in time.

    python benchmarks/ablation.py --weights cmt_ti_cifar10_64.safetensors --input-size 64 --crop-pct 1.0 \
        --calib cifar10_calib.npz --eval cifar10_eval.npz --output benchmarks/results/ablation/cmt_ti-cifar10.json
    python benchmarks/ablation.py --table benchmarks/results/ablation/*.json

Each row is the whole of `prepare` with other options. Logits are compared with the float32 network's in canonical
numerics (ONNX Runtime, graph optimisation disabled); layers as the report has them. `over_forwards` is how many times
the bare forward passes of all calibration images the stages of a row took that no row before it had done already.
With `--kernels`, TensorRT-RTX compiles the typed graph of each row, and what it chose is counted (`kernels.py`).
"""

import argparse
import dataclasses
import json
import os
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from kernels import compile_apart

from edgehybrid import dataset, device, evaluator, graph, stages
from edgehybrid.calibrator.session import open_session
from edgehybrid.dataset import Images
from edgehybrid.records import Equalize, Preprocess, Refine, Rounding

STEPS: Sequence[tuple[str, Equalize, Refine, Rounding]] = (
    ("--equalize off --refine off", "off", "off", "nearest"),
    ("--equalize off --refine biases", "off", "biases", "nearest"),
    ("--equalize all --refine off", "all", "off", "nearest"),
    ("--equalize folded --refine biases", "folded", "biases", "nearest"),
    ("--equalize all --refine biases (default)", "all", "biases", "nearest"),
    ("--equalize all --refine all", "all", "all", "nearest"),
    ("default and --rounding optimized", "all", "biases", "optimized"),
)


def main() -> None:
    """Build every step, score it, print, write; or print the table of what was written."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="cmt_ti")
    parser.add_argument("--weights", default="fashion-mnist")
    parser.add_argument("--input-size", type=int)
    parser.add_argument("--crop-pct", type=float)
    parser.add_argument("--calib", default="fashion-mnist")
    parser.add_argument("--eval", default="fashion-mnist")
    parser.add_argument("--num-calib", type=int, default=128)
    parser.add_argument("--num-eval", type=int)
    parser.add_argument("--kernels", action="store_true", help="count what TensorRT-RTX makes of each")
    parser.add_argument("--output", type=Path)
    parser.add_argument("--table", type=Path, nargs="*", help="print the table of these results, and nothing else")
    options = parser.parse_args()
    if options.table:
        print_table([json.loads(path.read_text()) for path in options.table])
        return
    with tempfile.TemporaryDirectory() as cache:
        os.environ["EDGEHYBRID_CACHE_DIR"] = cache  # nothing done before may be reused
        document = measure(options)
    text = json.dumps(document, indent=1, default=dict) + "\n"
    if options.output is not None:
        options.output.parent.mkdir(parents=True, exist_ok=True)
        options.output.write_text(text)


def measure(options: argparse.Namespace) -> dict[str, object]:
    """Every step of one network."""
    images = dataset.load(options.calib, limit=options.num_calib, seed=0, split="calib")
    scored = dataset.load(options.eval, limit=options.num_eval, seed=0, split="eval")
    stated = dataset.read_stated(
        preprocess=None,
        labels=None,
        size=options.input_size,
        crop_pct=options.crop_pct,
        mean=None,
        std=None,
        interpolation=None,
    )
    run = stages.Run()
    made = stages.export(run, stages.Source(options.model, options.weights, None, stated, 1, 0), images)
    baseline, crop = stages.rewrite(run, made.path), made.spec.preprocess
    truth = stages.labels_for(scored, made.spec)
    reference = stages.predict(run, "fp32", baseline, scored, crop)
    forwards = time_forwards(baseline, images, crop)
    print(f"{made.spec.name}: bare forward passes of {len(images)} images: {forwards:.2f} s", flush=True)
    rows = []
    for name, equalize, refine, rounding in STEPS:
        run.stages.clear()
        ready = stages.prepare(run, baseline, images, crop, "mse", equalize=equalize, refine=refine, rounding=rounding)
        seconds = sum(stage.seconds for stage in run.stages if not stage.cached)
        quantized = stages.quantize(run, ready.path, "int8", ready.ranges, None, tuning=ready.tuning)
        logits = stages.predict(run, "int8", quantized.runnable, scored, crop)
        noise = [x.sqnr_db for x in stages.layer_noise(run, ready.path, quantized, images, crop)]
        row: dict[str, object] = {
            "step": name,
            "seconds": seconds,
            "over_forwards": seconds / forwards,
            "layer_sqnr_db": float(np.mean(noise)),
            "worst_layer_db": min(noise),
            "fidelity": dataclasses.asdict(evaluator.fidelity(reference, logits)),
            "image_sqnr_db": float(np.median(image_sqnr(reference, logits))),
        }
        if options.kernels:
            row["engine"] = compile_apart(quantized.typed.read_bytes())
        if truth is not None:
            row["drop"] = dataclasses.asdict(evaluator.drop(reference, logits, truth))
        rows.append(row)
        print_row(row)
    return {
        "model": made.spec.name,
        "weights": Path(options.weights).name,
        "calibration": {"name": images.spec.name, "images": len(images), "sha256": images.spec.sha256},
        "evaluation": {"name": scored.spec.name, "images": len(scored), "sha256": scored.spec.sha256},
        "forward_seconds": forwards,
        "device": dataclasses.asdict(device.state()),
        "rows": rows,
    }


def image_sqnr(reference: np.ndarray, logits: np.ndarray) -> np.ndarray:
    """DB of each image's logits, (images,): no image outweighs the others as in the sum over all of them."""
    noise = np.square((logits - reference).astype(np.float64)).sum(axis=1)
    return 10 * np.log10(np.square(reference.astype(np.float64)).sum(axis=1) / np.maximum(noise, 1e-30))


def time_forwards(path: Path, images: Images, preprocess: Preprocess) -> float:
    """Seconds that the optimised float32 network takes for all images, decoding left out."""
    net = graph.load(path)
    session = open_session(net, ())
    batches = list(images.batches(preprocess, 1))
    session.run(None, {net.input.name: batches[0]})
    start = time.perf_counter()
    for batch in batches:
        session.run(None, {net.input.name: batch})
    return time.perf_counter() - start


def print_row(row: dict[str, object]) -> None:
    """One line of one network."""
    fidelity, drop = row["fidelity"], row.get("drop")
    assert isinstance(fidelity, dict)
    engine = row.get("engine")
    built = f"  {engine['kernels']} kernels" if isinstance(engine, dict) else ""
    lost = f"  drop {drop['points']:+.2f} {drop['ci95']}" if isinstance(drop, dict) else ""
    print(
        f"{row['step']:<42} logits {fidelity['sqnr_db']:.2f} dB, {row['image_sqnr_db']:.2f} an image  layers "
        f"{row['layer_sqnr_db']:.2f} dB (worst {row['worst_layer_db']:.2f})  "
        f"agreement {fidelity['agreement']:.2f} %{lost}  {row['seconds']:.1f} s = {row['over_forwards']:.2f} forwards"
        f"{built}",
        flush=True,
    )


def print_table(documents: Sequence[dict[str, object]]) -> None:
    """Markdown: options down, networks across; dB of the logits, the median image's and the mean layer; kernels."""
    print("| |" + "".join(f" {d['model']}, {d['weights']} |" for d in documents))
    print("|---|" + "---|" * len(documents))
    for step, *_ in STEPS:
        cells = []
        for document in documents:
            rows = document["rows"]
            assert isinstance(rows, list)
            row = next((r for r in rows if r["step"] == step), None)
            if row is None:  # of a step that is newer than the result
                cells.append("")
                continue
            engine = f" / {row['engine']['kernels']}" if "engine" in row else ""
            levels = (row["fidelity"]["sqnr_db"], row["image_sqnr_db"], row["layer_sqnr_db"])
            cells.append(" / ".join(f"{level:.1f}" for level in levels) + engine)
        print(f"| {step} | " + " | ".join(cells) + " |")


if __name__ == "__main__":
    main()
