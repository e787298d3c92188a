"""Time the networks of a bundle on this machine: graphs by the host's clock, engines by events on the device."""

import csv
import io
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from edgehybrid.dataset import Images, preprocess_pixels
from edgehybrid.errors import UsageError
from edgehybrid.progress import listener
from edgehybrid.records import BenchOptions, Latency, LayerTime, Precision, Preprocess, Runnable, Timing
from edgehybrid.sizes import sides
from edgehybrid.stages.measurement import measure_power
from edgehybrid.store import write_atomic

if TYPE_CHECKING:
    from edgehybrid.runtime import Runner, Tensors

PROFILED_CALLS = 10
PARTS = ("h2d", "compute", "d2h", "enqueue")
"""Of a call, as `runtime.Split` names them."""


@dataclass(frozen=True)
class Timed:
    """What was found out about one network."""

    latency: Latency
    timing: Timing
    end_to_end: Latency | None  # preprocessing of every image, copies, network; None: its input is no picture
    batch: int  # images per call


def time_networks(
    files: Mapping[Precision, Runnable],
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
    from edgehybrid import benchmark, device
    from edgehybrid.runtime import Splitting, open_runner

    with ExitStack() as stack:
        runners: dict[Precision, Runner] = {
            precision: stack.enter_context(
                open_runner(
                    file.path,
                    file.backend,
                    cuda_graph=options.cuda_graph,
                    streams=options.streams,
                    dla_core=file.dla_core,
                )
            )
            for precision, file in files.items()
        }
        name, info = next(iter(next(iter(runners.values())).inputs.items()))
        pictures = _pictures(info.shape, preprocess, images)
        feeds = {name: _batch(info.shape, info.dtype, pictures, preprocess)}
        listener().begin("bench")
        with device.Sampler(interval=None) as window:
            measured = _measure(list(runners.values()), feeds, options)
        powers = measure_power(list(runners.values()), feeds, options.duration)
        whole: Sequence[Latency | None] = [None for _ in runners]
        if options.end_to_end and pictures is not None:
            whole = _measure_whole([Whole(runner, pictures, preprocess) for runner in runners.values()], options)
        timed = {}
        for precision, found, power, together in zip(runners, measured, powers, whole, strict=True):
            runner, backend = runners[precision], files[precision].backend
            timing = Timing(
                precision=precision,
                backend=backend,
                throughput=found.throughput,
                variation=benchmark.variation(found.latency),
                percentiles={f"{p:g}": benchmark.nearest_percentile(found.latency, p) for p in options.percentiles},
                parts=found.parts,
                layers=_profile(runner, feeds, options),
                streams=options.streams,
                cuda_graph=options.cuda_graph and isinstance(runner, Splitting) and not runner.graph_reason,
                transfers=options.transfers,
            )
            timed[precision] = Timed(
                replace(found.latency, conditions=window.conditions(power)), timing, together, info.shape[0]
            )
    if samples is not None:
        write_atomic(samples, _as_csv(timed))
        listener().note(f"written to {samples}")
    return timed


class _Measured(NamedTuple):
    latency: Latency
    throughput: float  # calls per second
    parts: Mapping[str, Latency]  # empty where nothing tells them apart


def _measure(runners: Sequence["Runner"], feeds: "Tensors", options: BenchOptions) -> list[_Measured]:
    """Time the networks alone: engines by events on the device, all else by the host's clock.

    Raises:
        UsageError: Copies cannot be left out of what the host's clock times.
    """
    from edgehybrid import benchmark
    from edgehybrid.runtime import Splitting

    engines = [runner for runner in runners if isinstance(runner, Splitting)]
    warmup, iterations, duration = options.warmup, options.iterations, options.duration
    if len(engines) == len(runners):
        times = benchmark.measure_devices(
            engines,
            feeds,
            transfers=options.transfers,
            warmup=warmup,
            iterations=iterations,
            duration=duration,
            progress=_tell,
        )
        return [_Measured(t.latency, t.throughput, {part: t.part(part) for part in PARTS}) for t in times]
    if not options.transfers:
        raise UsageError(
            "there are no copies to leave out",
            why="this backend is timed from host memory to host memory",
            fix="leave --no-transfers out, or bench an engine (.plan) with it",
        )
    latencies = benchmark.measure_interleaved(
        runners, feeds, warmup=warmup, iterations=iterations, duration=duration, progress=_tell
    )
    return [_Measured(latency, 1e3 / latency.mean, {}) for latency in latencies]


class Whole(NamedTuple):
    """A network together with the preprocessing of its pictures."""

    runner: "Runner"
    pictures: Sequence[NDArray[np.uint8]]
    preprocess: Preprocess

    def run(self, feeds: "Tensors") -> object:
        """From decoded pictures to outputs in host memory; whatever is fed is not looked at."""
        name, info = next(iter(self.runner.inputs.items()))
        return self.runner.run({name: _batch((), info.dtype, self.pictures, self.preprocess)})


def _measure_whole(wholes: Sequence[Whole], options: BenchOptions) -> tuple[Latency, ...]:
    """By the host's clock, in turns."""
    from edgehybrid import benchmark

    return benchmark.measure_interleaved(
        wholes, {}, warmup=options.warmup, iterations=options.iterations, duration=options.duration
    )


def _pictures(shape: tuple[int, ...], preprocess: Preprocess, images: Images) -> list[NDArray[np.uint8]] | None:
    """As many decoded pictures as a batch holds; None where the input takes none of this model's."""
    if len(shape) != 4 or shape[1:] != (3, *sides(preprocess.size)):
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
    return np.stack([preprocess_pixels(pixels, preprocess) for pixels in pictures]).astype(dtype, copy=False)


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
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(["precision", "backend", "call", "latency_ms", *(f"{part}_ms" for part in PARTS)])
    for precision, found in timed.items():
        columns = [found.timing.parts[part].samples if found.timing.parts else () for part in PARTS]
        for index, latency in enumerate(found.latency.samples):
            cells = [f"{column[index]:.6f}" if column else "" for column in columns]
            writer.writerow([precision, found.timing.backend, index, f"{latency:.6f}", *cells])
    return text.getvalue().encode()
