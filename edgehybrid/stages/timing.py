"""Time the networks of a bundle on this machine: graphs by the host's clock, engines by events on the device."""

import csv
import io
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edgehybrid.dataset import Images, preprocess_pixels
from edgehybrid.errors import UsageError
from edgehybrid.progress import listener
from edgehybrid.records import BenchOptions, Latency, LayerTime, Precision, Preprocess, Timing
from edgehybrid.stages.measurement import measure_power
from edgehybrid.store import write_atomic

if TYPE_CHECKING:
    from edgehybrid.runtime import Runner, Tensors

PROFILED_CALLS = 10


@dataclass(frozen=True)
class Timed:
    """What was found out about one network."""

    latency: Latency
    timing: Timing
    end_to_end: Latency | None  # preprocessing of every image, copies, network; None: its input is no picture


def time_networks(
    files: Mapping[Precision, tuple[Path, str]],
    options: BenchOptions,
    preprocess: Preprocess,
    images: Images,
    samples: Path | None = None,
) -> dict[Precision, Timed]:
    """Time networks side by side, their blocks of calls taking turns.

    Args:
        files: Precision -> file and backend; all on one kind of backend, with the same input.
        options: How.
        preprocess: Of the model.
        images: The first ones are what the networks see.
        samples: A CSV file for every single call.

    Raises:
        UsageError: An option that the backend cannot honour.
    """
    from edgehybrid import device
    from edgehybrid.runtime import Splitting, open_runner

    with ExitStack() as stack:
        runners: dict[Precision, Runner] = {
            precision: stack.enter_context(
                open_runner(path, backend, cuda_graph=options.cuda_graph, streams=options.streams)
            )
            for precision, (path, backend) in files.items()
        }
        backends = {precision: backend for precision, (_, backend) in files.items()}
        name, info = next(iter(next(iter(runners.values())).inputs.items()))
        pictures = _pictures(info.shape, preprocess, images)
        batch = _batch(info.shape, info.dtype, pictures, preprocess)
        listener().begin("bench")
        with device.Sampler(interval=None) as window:
            if all(isinstance(runner, Splitting) for runner in runners.values()):
                found = _time_devices(runners, {name: batch}, backends, options)
            else:
                found = _time_hosts(runners, {name: batch}, backends, options)
        powers = measure_power(list(runners.values()), {name: batch}, options.duration)
        timed = {}
        for (precision, runner), power in zip(runners.items(), powers, strict=True):
            latency, timing = found[precision]
            whole = None
            if options.end_to_end and pictures is not None:
                whole = _end_to_end(runner, name, pictures, preprocess, options)
            timing = replace(timing, layers=_profile(runner, {name: batch}, options))
            timed[precision] = Timed(replace(latency, conditions=window.conditions(power)), timing, whole)
    if samples is not None:
        write_atomic(samples, _as_csv(timed))
    return timed


def _time_devices(
    runners: Mapping[Precision, "Runner"],
    feeds: "Tensors",
    backends: Mapping[Precision, str],
    options: BenchOptions,
) -> dict[Precision, tuple[Latency, Timing]]:
    from edgehybrid import benchmark
    from edgehybrid.runtime import Splitting

    devices = [runner for runner in runners.values() if isinstance(runner, Splitting)]
    times = benchmark.measure_devices(
        devices,
        feeds,
        transfers=options.transfers,
        warmup=options.warmup,
        iterations=options.iterations,
        duration=options.duration,
        progress=_tell,
    )
    found: dict[Precision, tuple[Latency, Timing]] = {}
    for precision, runner, measured in zip(runners, devices, times, strict=True):
        timing = _timing(precision, backends[precision], measured.latency, measured.throughput, options)
        graphed = options.cuda_graph and not runner.graph_reason
        parts = {name: measured.part(name) for name in ("h2d", "compute", "d2h", "enqueue")}
        found[precision] = (measured.latency, replace(timing, parts=parts, cuda_graph=graphed))
    return found


def _time_hosts(
    runners: Mapping[Precision, "Runner"],
    feeds: "Tensors",
    backends: Mapping[Precision, str],
    options: BenchOptions,
) -> dict[Precision, tuple[Latency, Timing]]:
    from edgehybrid import benchmark

    if not options.transfers:
        backend = next(iter(backends.values()))
        raise UsageError(
            f"{backend} has no transfers to leave out",
            why="it computes in host memory",
            fix="leave --no-transfers out, or bench an engine (.plan) with it",
        )
    times = benchmark.measure_interleaved(
        list(runners.values()),
        feeds,
        warmup=options.warmup,
        iterations=options.iterations,
        duration=options.duration,
        progress=_tell,
    )
    return {
        precision: (latency, _timing(precision, backends[precision], latency, 1e3 / latency.mean, options))
        for precision, latency in zip(runners, times, strict=True)
    }


def _timing(precision: Precision, backend: str, latency: Latency, throughput: float, options: BenchOptions) -> Timing:
    from edgehybrid import benchmark

    return Timing(
        precision=precision,
        backend=backend,
        throughput=throughput,
        variation=benchmark.variation(latency),
        percentiles={f"{p:g}": benchmark.nearest_percentile(latency, p) for p in options.percentiles},
        streams=options.streams,
        transfers=options.transfers,
    )


def _pictures(shape: tuple[int, ...], preprocess: Preprocess, images: Images) -> list[NDArray[np.uint8]] | None:
    """As many decoded pictures as a batch holds; None where the input takes none of this model's."""
    if len(shape) != 4 or shape[1:] != (3, preprocess.size, preprocess.size):
        return None
    return [images.image(index % len(images)) for index in range(shape[0])]


def _batch(
    shape: tuple[int, ...],
    dtype: np.dtype[np.generic],
    pictures: Sequence[NDArray[np.uint8]] | None,
    preprocess: Preprocess,
) -> NDArray[np.generic]:
    """The pictures as network input; seeded noise where there are none."""
    if pictures is None:
        return np.random.default_rng(0).standard_normal(shape).astype(dtype)
    return np.stack([preprocess_pixels(pixels, preprocess) for pixels in pictures]).astype(dtype)


def _end_to_end(
    runner: "Runner",
    name: str,
    pictures: Sequence[NDArray[np.uint8]],
    preprocess: Preprocess,
    options: BenchOptions,
) -> Latency:
    """From decoded pictures to outputs in host memory, by the host's clock."""
    from edgehybrid import benchmark

    dtype = runner.inputs[name].dtype

    def call() -> None:
        runner.run({name: _batch((), dtype, pictures, preprocess)})

    return benchmark.measure_calls(
        call, warmup=options.warmup, iterations=options.iterations, duration=options.duration
    )


def _profile(runner: "Runner", feeds: "Tensors", options: BenchOptions) -> tuple[LayerTime, ...]:
    """Time per layer, where it was asked for.

    Raises:
        UsageError: The backend has no profiler.
    """
    from edgehybrid.runtime import Profiling

    if not options.layers:
        return ()
    if not isinstance(runner, Profiling):
        raise UsageError("this backend tells no layers", why="it has no profiler", fix="leave --layers out")
    return runner.profile(feeds, PROFILED_CALLS)


def _tell(fraction: float) -> None:
    listener().advance(int(100 * fraction), 100, unit="percent")


def _as_csv(timed: Mapping[Precision, Timed]) -> bytes:
    """One line per call, in the order of measurement."""
    text = io.StringIO(newline="")
    parts = ("h2d", "compute", "d2h", "enqueue")
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["precision", "backend", "call", "latency_ms", *(f"{part}_ms" for part in parts)])
    for precision, found in timed.items():
        columns = [found.timing.parts[part].samples if found.timing.parts else () for part in parts]
        for index, latency in enumerate(found.latency.samples):
            cells = [f"{column[index]:.6f}" if column else "" for column in columns]
            writer.writerow([precision, found.timing.backend, index, f"{latency:.6f}", *cells])
    return text.getvalue().encode()
