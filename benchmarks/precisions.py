"""int8 and rewritten float32 against float32 as plain `torch.onnx.export` writes it, in ONNX Runtime on this CPU.

    python benchmarks/precisions.py [--seconds 8] [--threads 1 2] [--num-calib 32]

CMT-Ti@160 with seeded weights: latency does not depend on their values. All graphs are open at once and take turns;
a ratio is the median over rounds, with a 95 % interval. Writes `benchmarks/results/precisions.json`.
"""

import argparse
import dataclasses
import json
import tempfile
from contextlib import ExitStack
from pathlib import Path

from figures import numbers
from plain import choose_ranges
from rewrites import export_plainly, fill

from edgehybrid import benchmark, dataset, device, exporter, placement, quantizer, rewrites, zoo
from edgehybrid.runtime import open_runner

RESULT = Path(__file__).parent / "results" / "precisions.json"


def main() -> None:
    """Build the graphs, time them side by side, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="cmt_ti")
    parser.add_argument("--seconds", type=float, default=8.0, help="timed per graph and thread count")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--num-calib", type=int, default=32)
    parser.add_argument("--output", type=Path, default=RESULT)
    options = parser.parse_args()

    images = dataset.load("photos", limit=options.num_calib)
    module, spec = zoo.load(options.model)
    fill(module)
    exported = exporter.trace(module, spec)
    baseline, _ = rewrites.apply(exported)
    plan = placement.plan(baseline, "fp32")
    ranges = choose_ranges(baseline, plan, images, images.batches(spec.preprocess, 16))
    contents = {
        "fp32 plain": export_plainly(module, spec.preprocess.size).to_bytes(),
        "fp32 rewritten": baseline.to_bytes(),
        "int8": quantizer.quantize(baseline, ranges, plan).to_bytes(),
        "fp16": quantizer.to_fp16(baseline).to_bytes(),
    }
    feed = {"input": next(images.batches(spec.preprocess, 1))}
    runs = []
    with tempfile.TemporaryDirectory() as name:
        paths = {label: Path(name) / f"{i}.onnx" for i, label in enumerate(contents)}
        for label, path in paths.items():
            path.write_bytes(contents[label])
        for threads in options.threads:
            state = device.state(threads)
            with ExitStack() as stack:
                runners = [stack.enter_context(open_runner(path, threads=threads)) for path in paths.values()]
                latencies = benchmark.measure_interleaved(runners, feed, duration=options.seconds)
            rows = []
            for label, latency in zip(contents, latencies, strict=True):
                ratio = benchmark.compare(latencies[0], latency)
                bounds = ratio.ci95 or (float("nan"), float("nan"))
                print(
                    f"{threads} threads  {label:<16} p50 {latency.p50:7.2f} ms  p99 {latency.p99:7.2f} ms  "
                    f"{1 / ratio.value:.2f}x as fast [{1 / bounds[1]:.2f}, {1 / bounds[0]:.2f}]"
                )
                rows.append({"graph": label, "latency_ms": numbers(latency), "time_ratio": dataclasses.asdict(ratio)})
            runs.append({"threads": threads, "device": dataclasses.asdict(state), "rows": rows})
    options.output.parent.mkdir(parents=True, exist_ok=True)
    document = {"model": spec.name, "input": spec.preprocess.size, "batch": 1, "runs": runs}
    options.output.write_text(json.dumps(document, indent=1) + "\n")


if __name__ == "__main__":
    main()
