"""One part of the benchmark of one zoo variant, in a process of its own, so that its peak memory is its own.

    python benchmarks/variant.py export|exactness|compile|latency|build NAME FOLDER [--threads 1] [--seconds 3]

`export` leaves `exported.onnx` and `rewritten.onnx` in the folder, `compile` and `latency` add `int8.onnx`; `build`
needs none of them: it is the whole command, from nothing. What was found is printed as one JSON document. Weights are
those of the golden recordings (no bias, gain or statistic at its initial value), so a rewrite that forgets one changes
the logits. `benchmarks/zoo.py` calls this.
"""

import argparse
import dataclasses
import json
import os
import resource
import subprocess
import sys
import time
from contextlib import ExitStack
from pathlib import Path

import numpy as np
from figures import numbers, speedup
from plain import choose_ranges

from edgehybrid import benchmark, dataset, device, engine, graph, placement, quantizer, resources
from edgehybrid.errors import EdgeHybridError
from edgehybrid.graph import Graph
from edgehybrid.graph.counting import count_macs
from edgehybrid.records import ModelCard, Preprocess
from edgehybrid.runtime import open_runner
from edgehybrid.zoo.cards import CARDS

sys.path.insert(0, str(Path(__file__).parents[1]))  # tests.golden: how the official recordings were filled

CALIBRATED = 8
"""Photographs behind the int8 ranges; neither compile time nor latency depends on them."""

TARGET = "orin-nano-8gb"
GRAPHS = ("exported", "rewritten", "int8")


def main() -> None:
    """Do one part, print what was found."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("part", choices=("export", "exactness", "compile", "latency", "build"))
    parser.add_argument("name")
    parser.add_argument("folder", type=Path)
    parser.add_argument("--threads", type=int, nargs="+", default=[1])
    parser.add_argument("--seconds", type=float, default=3.0, help="timed per graph and thread count")
    parser.add_argument("--images", type=int, default=4, help="photographs on which exactness is judged")
    options = parser.parse_args()
    card = next(card for card in CARDS if card.name == options.name)
    state = device.state(0)
    if options.part == "export":
        found = export(card, options.folder)
    elif options.part == "exactness":
        found = judge_exactness(card, options.folder, options.images)
    elif options.part == "compile":
        found = compile_both(card, options.folder)
    elif options.part == "latency":
        found = time_graphs(card, options.folder, options.threads, options.seconds)
    else:
        found = {precision: build(card, options.folder, precision) for precision in ("int8", "fp16")}
    sys.stdout.write(json.dumps({**found, "device": dataclasses.asdict(state)}) + "\n")


# --- export and rewrite ---------------------------------------------------------------------------------


def export(card: ModelCard, folder: Path) -> dict[str, object]:
    """Export and rewrite with the seconds of each and the peak memory of this process, libraries included."""
    from edgehybrid import exporter, rewrites, zoo
    from tests.golden import fill

    module, spec = zoo.load(card.name)
    fill(module)
    begin = time.perf_counter()
    exported = exporter.trace(module, spec)
    traced = time.perf_counter()
    rewritten, lines = rewrites.apply(exported)
    done = time.perf_counter()
    peak = peak_mb(resource.RUSAGE_SELF)
    for name, made in (("exported", exported), ("rewritten", rewritten)):
        (folder / f"{name}.onnx").write_bytes(made.to_bytes())
    return {
        "params": sum(parameter.numel() for parameter in module.parameters()),
        "macs": count_macs(exported),
        "macs_rewritten": count_macs(rewritten),
        "nodes": sum(1 for _ in exported.nodes()),
        "nodes_rewritten": sum(1 for _ in rewritten.nodes()),
        "export_s": round(traced - begin, 2),
        "rewrite_s": round(done - traced, 2),
        "peak_rss_mb": peak,
        "rewrites": [line for line in lines if ": 0 sites" not in line],
    }


def peak_mb(who: int) -> float:
    """Largest resident memory so far, MiB."""
    return round(resource.getrusage(who).ru_maxrss / 1024, 1)


# --- exactness ------------------------------------------------------------------------------------------


def judge_exactness(card: ModelCard, folder: Path, images: int) -> dict[str, object]:
    """Rewritten against exported in float32 on photographs, and torch in float64 against the official recording."""
    worst = 0.0
    with ExitStack() as stack:
        before, after = (
            stack.enter_context(open_runner(folder / f"{name}.onnx", threads=1, canonical=True)) for name in GRAPHS[:2]
        )
        for image in photos(card, images):
            want, got = (runner.run({"input": image})["logits"] for runner in (before, after))
            worst = max(worst, float(np.abs(got - want).max() / np.abs(want).max()))
    return {"images": images, "relative_error": worst, "golden_error": judge_golden(card)}


def judge_golden(card: ModelCard) -> float | None:
    """Largest difference of a logit from the official network's, relative to the largest; None: not recorded."""
    from edgehybrid import zoo
    from tests import golden

    if card.name not in golden.recorded():
        return None
    recorded = golden.read(card.name)
    module, _ = zoo.load(card.name, input_size=recorded.input_size)
    logits = golden.run_double(module, recorded)[0]
    return float(np.abs(logits - recorded.logits).max() / np.abs(recorded.logits).max())


def photos(card: ModelCard, count: int) -> list[np.ndarray]:
    """Bundled photographs as the network takes them, (1, 3, S, S) each."""
    return list(dataset.load("photos", limit=count).batches(preprocess_of(card), 1))


def preprocess_of(card: ModelCard) -> Preprocess:
    """As published."""
    return Preprocess(card.input_size, card.crop_pct)


# --- quantize and compile -------------------------------------------------------------------------------


def compile_both(card: ModelCard, folder: Path) -> dict[str, object]:
    """What NVIDIA's compiler says to int8 and fp16, each with its seconds, bytes and peak memory."""
    rewritten = graph.load(folder / "rewritten.onnx")
    begin = time.perf_counter()
    typed = quantize(card, folder, rewritten)
    quantized = time.perf_counter() - begin
    found: dict[str, object] = {"calibrated_images": CALIBRATED, "quantize_s": round(quantized, 2)}
    target = resources.load_target(TARGET)
    for precision, made in (("int8", typed), ("fp16", quantizer.to_fp16(rewritten))):
        path = folder / f"{precision}-typed.onnx"
        path.write_bytes(made.to_bytes())
        begin = time.perf_counter()
        try:
            built = engine.build(path, target, None)
            verdict, reason = built.status, built.reason
        except EdgeHybridError as error:
            verdict, reason = "refused", f"{error.what}: {error.why}"
        found[precision] = {
            "verdict": verdict,
            "reason": reason,
            "seconds": round(time.perf_counter() - begin, 2),
            "peak_rss_mb": peak_mb(resource.RUSAGE_CHILDREN),
            "bytes": path.stat().st_size,
        }
        path.unlink()
    return found


def quantize(card: ModelCard, folder: Path, rewritten: Graph) -> Graph:
    """The typed int8 graph; its fp32-typed twin, which ONNX Runtime runs, goes to the folder."""
    plan = placement.plan(rewritten, "fp32")
    images = dataset.load("photos", limit=CALIBRATED)
    ranges = choose_ranges(rewritten, plan, images, images.batches(preprocess_of(card), 2))
    (folder / "int8.onnx").write_bytes(quantizer.quantize(rewritten, ranges, plan).to_bytes())
    return quantizer.quantize(rewritten, ranges, placement.plan(rewritten, "typed"))


# --- latency --------------------------------------------------------------------------------------------


def time_graphs(card: ModelCard, folder: Path, threads: list[int], seconds: float) -> dict[str, object]:
    """The three graphs in ONNX Runtime, all open at once and taking turns."""
    if not (folder / "int8.onnx").exists():
        quantize(card, folder, graph.load(folder / "rewritten.onnx"))
    feed = {"input": photos(card, 1)[0]}
    runs = []
    for count in threads:
        state = device.state(count)
        with ExitStack() as stack:
            runners = [stack.enter_context(open_runner(folder / f"{n}.onnx", threads=count)) for n in GRAPHS]
            found = dict(zip(GRAPHS, benchmark.measure_interleaved(runners, feed, duration=seconds), strict=True))
        runs.append(
            {
                "threads": count,
                "load": state.load,
                "latency_ms": {name: numbers(latency) for name, latency in found.items()},
                "speedup_rewritten": speedup(found["exported"], found["rewritten"]),
                "speedup_int8": speedup(found["rewritten"], found["int8"]),
            }
        )
    return {"runs": runs}


# --- the whole command ----------------------------------------------------------------------------------


def build(card: ModelCard, folder: Path, precision: str) -> dict[str, object]:
    """`edgehybrid build` for a Jetson, in a folder and with a cache of its own."""
    words = ["build", "--model", card.name, "--weights", "random", "--precision", precision, "--target", TARGET]
    begin = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "edgehybrid", *words, "--num-calib", str(CALIBRATED), "--json", "--quiet"],
        cwd=folder,
        env={**os.environ, "EDGEHYBRID_CACHE_DIR": str(folder / "cache")},
        capture_output=True,
        text=True,
        check=False,
    )
    found: dict[str, object] = {"command": ["edgehybrid", *words], "exit_code": done.returncode}
    found["seconds"] = round(time.perf_counter() - begin, 1)
    if done.returncode == 0:
        report = json.loads(done.stdout)
        found["rows"] = {row["precision"]: row["status"] for row in report["rows"]}
        found["engine"] = report["engine"]["status"]
    else:
        found["error"] = done.stderr.strip().splitlines()[-3:]
    return found


if __name__ == "__main__":
    main()
