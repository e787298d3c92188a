"""What each rewrite is worth in ONNX Runtime, float32, CPU: ratios measured side by side.

    python benchmarks/rewrites.py [--models NAME ...] [--as-written] [--seconds 8] [--threads 1 2] [--leave-one-out]
                                  [--cpu-time]

For the smallest variant of each family: the baseline is the file that plain `torch.onnx.export` writes, not simplified.
All graphs are open at once and take turns (`benchmark.measure_interleaved`); a ratio is the median over rounds of the
ratio within a round, with a 95 % interval (`benchmark.compare`). Single rewrites start from the simplified export, as
`build` does, and are also given relative to it; a rewrite that finds nothing in a model is not timed there. Writes
`benchmarks/results/rewrites.json` after each model. `--as-written` exports the layers as the authors' and timm's code
write them (`tests/official.py`), which is what a user's ONNX file holds. `--cpu-time` counts the processor time of this
process instead of wall-clock time: the better choice where other programs run, and only with 1 thread. Models of timm
are named as `timm/NAME`.

"all" and "all on plain" are the same network but for names and order: how far their ratio is from 1 says how little
a third digit means, interval or not (it was 1.012 on a busy machine).
"""

import argparse
import contextlib
import dataclasses
import json
import sys
import tempfile
import time
import warnings
from contextlib import ExitStack
from pathlib import Path

import numpy as np
import torch
from figures import speedup

from edgehybrid import benchmark, device, exporter, rewrites, zoo
from edgehybrid.graph import Graph, load, shape_of
from edgehybrid.records import Latency
from edgehybrid.runtime import open_runner

sys.path.insert(0, str(Path(__file__).parents[1]))  # tests: official, no_torchvision

SMALLEST = ("cmt_ti", "conformer_ti", "conv2former_n", "botnet26t")
RESULT = Path(__file__).parent / "results" / "rewrites.json"


def main() -> None:
    """Measure, print, write, model after model."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=SMALLEST, metavar="NAME")
    parser.add_argument("--as-written", action="store_true", help="export the layers as the authors write them")
    parser.add_argument("--seconds", type=float, default=8.0, help="timed per graph and thread count")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--leave-one-out", action="store_true", help="also measure all rewrites but one")
    parser.add_argument("--cpu-time", action="store_true", help="processor time, 1 thread")
    parser.add_argument("--output", type=Path, default=RESULT)
    options = parser.parse_args()
    if options.cpu_time and options.threads != [1]:
        parser.error("--cpu-time needs --threads 1: two threads would be counted twice")
    clock = time.process_time if options.cpu_time else time.perf_counter

    document: dict[str, object] = json.loads(options.output.read_text()) if options.output.exists() else {}
    for model in options.models:
        variants, lines = make_variants(model, as_written=options.as_written, leave_one_out=options.leave_one_out)
        side = shape_of(variants["plain"].input)[-1]
        runs = []
        for threads in options.threads:
            state = device.state(threads)
            latencies = measure(variants, threads, options.seconds, clock)
            rows = compare(latencies)
            runs.append({"threads": threads, "device": dataclasses.asdict(state), "rows": rows})
            print_rows(f"{model}@{side}, {threads} thread(s), load average {state.load}", rows)
        document[model] = {
            "input": side,
            "batch": 1,
            "as_written": options.as_written,
            "clock": clock.__name__,
            "rewrites": lines,
            "runs": runs,
        }
        options.output.parent.mkdir(parents=True, exist_ok=True)
        temporary = options.output.with_suffix(".part")
        temporary.write_text(json.dumps(document, indent=1) + "\n")
        temporary.replace(options.output)


def make_variants(model: str, *, as_written: bool, leave_one_out: bool) -> tuple[dict[str, Graph], tuple[str, ...]]:
    """The graphs to compare by name, "plain" first, and what the rewrites found in the simplified export."""
    from tests import official
    from tests.no_torchvision import stand_in

    if model.startswith("timm/"):
        stand_in()
    module, spec = zoo.load(model)
    fill(module)
    with official.write(model) if as_written else contextlib.nullcontext():
        plain = export_plainly(module, spec.preprocess.size)
        simplified = exporter.trace(module, spec)
    variants = {"plain": plain, "simplified": simplified}
    everything, lines = rewrites.apply(simplified)
    names = [line.split(":")[0] for line in lines if ": 0 sites" not in line]
    for name in names:
        variants[name] = rewrites.apply(simplified, only=[name])[0]
    if leave_one_out:
        for name in names:
            rest = [other for other, _ in rewrites.REWRITES if other != name]
            variants[f"all but {name}"] = rewrites.apply(simplified, only=rest)[0]
    variants["all on plain"] = rewrites.apply(plain)[0]
    variants["all"] = everything
    return variants, lines


def fill(module: torch.nn.Module) -> None:
    """Biases, gains and statistics as a trained network has them: an exporter drops a bias of zeros by itself."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for tensor in (*module.parameters(), *module.buffers()):
            if tensor.ndim == 1:
                tensor.copy_(0.5 + torch.rand(tensor.shape, generator=generator))


def export_plainly(module: torch.nn.Module, size: int) -> Graph:
    """`torch.onnx.export` with nothing after it."""
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        path = Path(folder) / "plain.onnx"
        torch.onnx.export(
            module,
            (torch.zeros(1, 3, size, size),),
            path,
            opset_version=exporter.OPSET,
            dynamo=False,
            input_names=["input"],
            output_names=["logits"],
        )
        return load(path)


def measure(variants: dict[str, Graph], threads: int, seconds: float, clock: benchmark.Clock) -> dict[str, Latency]:
    """Open every variant and time them in turn."""
    shape = shape_of(variants["plain"].input)
    feeds = {"input": np.random.default_rng(0).normal(size=shape).astype(np.float32)}
    with tempfile.TemporaryDirectory() as folder, ExitStack() as stack:
        runners = []
        for i, graph in enumerate(variants.values()):
            path = Path(folder) / f"{i}.onnx"
            path.write_bytes(graph.to_bytes())
            runners.append(stack.enter_context(open_runner(path, threads=threads)))
            path.unlink()
        limit = max(60.0, 2 * seconds)
        latencies = benchmark.measure_interleaved(runners, feeds, duration=seconds, limit=limit, clock=clock)
    return dict(zip(variants, latencies, strict=True))


def compare(latencies: dict[str, Latency]) -> list[dict[str, object]]:
    """Speed-up of every variant over the plain and over the simplified export."""
    rows: list[dict[str, object]] = []
    for name, latency in latencies.items():
        rows.append(
            {
                "variant": name,
                "p50_ms": latency.p50,
                "min_ms": latency.min,
                "calls": latency.n,
                "speedup_over_plain": speedup(latencies["plain"], latency),
                "speedup_over_simplified": speedup(latencies["simplified"], latency),
                "speedup_of_all_over_this": speedup(latency, latencies["all"]),
            }
        )
    return rows


def print_rows(title: str, rows: list[dict[str, object]]) -> None:
    """One line per variant."""
    print(f"\n{title}")
    columns = {key: key.removeprefix("speedup_").replace("_", " ") for key in rows[0] if key.startswith("speedup")}
    print(f"{'variant':28} {'p50 ms':>8}", *(f"{title:>22}" for title in columns.values()))
    for row in rows:
        print(f"{row['variant']:28} {row['p50_ms']:8.2f}", *(f"{show(row[key]):>22}" for key in columns))


def show(cell: object) -> str:
    """1.234 [1.200, 1.260]."""
    assert isinstance(cell, dict)
    interval = cell["ci95"]
    suffix = f" [{interval[0]:.3f}, {interval[1]:.3f}]" if isinstance(interval, list) else ""
    return f"{cell['value']:.3f}{suffix}"


if __name__ == "__main__":
    main()
