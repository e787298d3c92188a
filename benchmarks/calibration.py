"""What calibrating a network costs: time against bare forward passes of the same images, memory against their number.

    python benchmarks/calibration.py [--models cmt_ti conformer_ti botnet26t] [--images 128] [--rounds 8]
                                     [--threads 1 2] [--graphs exported rewritten] [--few 8] [--many 1000]

Time: a round runs the images through ONNX Runtime once without taps (session already open) and once through
`calibrator.observe` and `choose` (opening the session included), in turns. The ratio is the median over rounds of
the ratio within a round, with a 95 % interval (`benchmark.compare`). Session options, batch and images are the same.
It is given for wall-clock time and for processor time, which other programs disturb less; with an idle core the
first is the lower, since images are counted while the next one runs. Measured at the published size, on the graph as
exported and as rewritten, which is what `build` calibrates. What tuning (`--equalize`, `--refine`) adds is in
benchmarks/quantizers.py, which times the whole command.

Memory: peak resident set of a fresh process that calibrates the first model on few images, and of one that does on
many. Writes `benchmarks/results/calibration.json`.
"""

import argparse
import dataclasses
import json
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgehybrid import benchmark, calibrator, graph, placement
from edgehybrid.calibrator.session import open_session
from edgehybrid.graph import Graph

MODELS = ("cmt_ti", "conformer_ti", "botnet26t")
GRAPHS = ("exported", "rewritten")
RESULT = Path(__file__).parent / "results" / "calibration.json"
CHILD = "--child"


def main() -> None:
    """Measure, print, write."""
    from edgehybrid import device  # not needed in the child, whose memory is measured

    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--models", nargs="+", default=MODELS)
    parser.add_argument("--images", type=int, default=128)
    parser.add_argument("--rounds", type=int, default=8, help="6 or more give a 95 %% interval")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--graphs", nargs="+", choices=GRAPHS, default=GRAPHS)
    parser.add_argument("--few", type=int, default=8, help="images of the small process")
    parser.add_argument("--many", type=int, default=1000, help="images of the large process")
    parser.add_argument("--output", type=Path, default=RESULT)
    options = parser.parse_args()

    document: dict[str, object] = {"batch": 1, "images": options.images}
    runs = []
    with tempfile.TemporaryDirectory() as folder:
        files = {name: export_variants(name, Path(folder)) for name in options.models}
        for name in options.models:
            for threads in options.threads:
                for variant in options.graphs:
                    state, net = device.state(threads), graph.load(files[name][variant])
                    row = measure_time(net, options.images, options.rounds, threads)
                    about = {"model": name, "input": graph.shape_of(net.input)[-1], "graph": variant}
                    runs.append({**about, "threads": threads, "device": dataclasses.asdict(state), **row})
                    print_time(f"{name} {variant}", threads, row, state.load)
        document["time"] = runs
        first = files[options.models[0]]["rewritten"]
        peaks = {n: measure_peak(first, n) for n in (options.few, options.many)}
    growth = peaks[options.many] / peaks[options.few]
    memory = {"model": options.models[0], "peak_rss_mib": {str(n): peak for n, peak in peaks.items()}, "ratio": growth}
    document["memory"] = memory
    print(f"peak RSS: {', '.join(f'{peak:.0f} MiB for {n} images' for n, peak in peaks.items())}: {growth:.3f}x")
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(document, indent=1) + "\n")


def export_variants(model: str, folder: Path) -> dict[str, Path]:
    """The model with random weights at its published size, as exported and as rewritten."""
    import torch

    from edgehybrid import exporter, rewrites, zoo

    torch.set_num_threads(1)
    exported = exporter.trace(*zoo.load(model, "random"))
    rewritten, _ = rewrites.apply(exported)
    files = {}
    for name, variant in zip(GRAPHS, (exported, rewritten), strict=True):
        files[name] = folder / f"{model}-{name}.onnx"
        files[name].write_bytes(variant.to_bytes())
    return files


def find_tensors(net: Graph) -> list[str]:
    """What the default placement quantizes."""
    return sorted({d.tensor for d in placement.plan(net, "fp32").decisions if d.kind == "activation"})


def make_images(count: int, net: Graph) -> Iterator[NDArray[np.float32]]:
    """Batches of one image, made as they are asked for."""
    for seed in range(count):
        yield np.random.default_rng(seed).normal(size=graph.shape_of(net.input)).astype(np.float32)


def measure_time(net: Graph, count: int, rounds: int, threads: int) -> dict[str, object]:
    """Milliseconds per image of both, and their ratio."""
    images, tensors = list(make_images(count, net)), find_tensors(net)
    session = open_session(net, (), threads=threads)

    def run_bare() -> None:
        for image in images:
            session.run(None, {net.input.name: image})

    def run_calibration() -> None:
        seen = calibrator.observe(net, images, tensors, threads=threads)
        calibrator.choose(seen, "mse", images=count, sha256="")

    tasks = (run_bare, run_calibration)
    session.run(None, {net.input.name: images[0]})
    calibrator.observe(net, images[:2], tensors, threads=threads)
    wall: list[list[float]] = [[], []]
    processor: list[list[float]] = [[], []]
    for round_ in range(rounds):
        for i in (0, 1) if round_ % 2 else (1, 0):
            seconds = time_once(tasks[i])
            wall[i].append(1e3 * seconds[0] / count)
            processor[i].append(1e3 * seconds[1] / count)
    row: dict[str, object] = {"tensors": len(tensors), "rounds": rounds}
    for clock, times in (("wall", wall), ("processor", processor)):
        bare, calibration = (benchmark.summarise(samples) for samples in times)
        row[clock] = {
            "bare_ms": bare.p50,
            "calibration_ms": calibration.p50,
            "ratio": dataclasses.asdict(benchmark.compare(bare, calibration, block=1)),
        }
    return row


def time_once(task: Callable[[], None]) -> tuple[float, float]:
    """Seconds of wall-clock and of processor time."""
    wall, processor = time.perf_counter(), time.process_time()
    task()
    return time.perf_counter() - wall, time.process_time() - processor


def measure_peak(path: Path, count: int) -> float:
    """MiB that a fresh process had resident at most while it calibrated on `count` images."""
    command = [sys.executable, str(Path(__file__).resolve()), CHILD, str(path), str(count)]
    return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout)


def calibrate_alone(path: Path, count: int) -> None:
    """What the fresh process does; prints its peak in MiB."""
    net = graph.load(path)
    seen = calibrator.observe(net, make_images(count, net), find_tensors(net))
    calibrator.choose(seen, "mse", images=seen.images, sha256="")
    # Not getrusage: its peak includes that of the parent, which a child shares until it starts its own program.
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    print(int(status["VmHWM"].split()[0]) / 1024)


def print_time(variant: str, threads: int, row: dict[str, object], load: float | None) -> None:
    """One line per clock."""
    for clock in ("wall", "processor"):
        found = row[clock]
        assert isinstance(found, dict)
        ratio = found["ratio"]
        interval = "too few rounds" if ratio["ci95"] is None else "{:.2f} to {:.2f}".format(*ratio["ci95"])
        print(
            f"{variant}, {threads} threads, {clock} time: bare {found['bare_ms']:.1f} ms per image, calibration"
            f" {found['calibration_ms']:.1f} ms: {ratio['value']:.2f}x ({interval}; load {load})"
        )


if __name__ == "__main__":
    if sys.argv[1:2] == [CHILD]:
        calibrate_alone(Path(sys.argv[2]), int(sys.argv[3]))
    else:
        main()
