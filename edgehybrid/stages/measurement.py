"""How long a graph takes on this machine, and what it draws."""

import json
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edgehybrid.dataset import Images
from edgehybrid.records import DeviceState, Latency, Power, Precision
from edgehybrid.stages.run import Run, place_of
from edgehybrid.stages.source import Exported
from edgehybrid.store import decode, sha256_of, to_json, write_atomic

if TYPE_CHECKING:
    from edgehybrid.runtime import Runner, Tensors

LATENCY = "latency.json"
"""What `Benched` is called in the cache."""


@dataclass(frozen=True)
class Benched:
    """Latencies, and the state of the machine when they were taken, which a cache may have kept for long."""

    latencies: Mapping[Precision, Latency]
    state: DeviceState


def bench(run: Run, files: Mapping[Precision, Path], images: Images, made: Exported, state: DeviceState) -> Benched:
    """Latency of several graphs on this machine, on a real image."""

    def produce(folder: Path) -> None:
        one = next(images.batches(made.spec.preprocess, 1))
        feed = np.repeat(one, made.batch, axis=0)
        write_atomic(folder / LATENCY, to_json(Benched(measure(files, feed), state)))

    inputs: dict[str, object] = {precision: sha256_of(path) for precision, path in files.items()}
    folder = run.do("bench", {**inputs, "machine": place_of(state)}, produce)
    return decode(Benched, json.loads((folder / LATENCY).read_bytes()))


def measure(
    files: Mapping[Precision, Path],
    feed: NDArray[np.float32] | None = None,
    *,
    warmup: float = 0.2,
    duration: float = 3.0,
    iterations: int = 50,
) -> dict[Precision, Latency]:
    """Time graphs on ONNX Runtime, their calls interleaved so that ratios are fair.

    Where the machine measures power, each network then runs once more alone, and its energy per call is taken from
    that. Sensors are read before and after the timed calls, never between them.

    Args:
        files: Precision -> ONNX file, all with the same input.
        feed: One batch (N, 3, H, W); seeded noise by default.
        warmup: Seconds of untimed calls first.
        duration: Seconds of timed calls, at least.
        iterations: Timed calls of each graph, at least.
    """
    from edgehybrid import benchmark, device
    from edgehybrid.runtime import open_runner

    with ExitStack() as stack:
        runners = [stack.enter_context(open_runner(path)) for path in files.values()]
        name, info = next(iter(runners[0].inputs.items()))
        batch = np.random.default_rng(0).standard_normal(info.shape).astype(info.dtype) if feed is None else feed
        with device.Sampler(interval=None) as window:
            latencies = benchmark.measure_interleaved(
                runners, {name: batch}, warmup=warmup, duration=duration, iterations=iterations
            )
        powers = measure_power(runners, {name: batch}, duration)
    conditions = [window.conditions(power) for power in powers]
    quoted = [replace(latency, conditions=c) for latency, c in zip(latencies, conditions, strict=True)]
    return dict(zip(files, quoted, strict=True))


def measure_power(
    runners: Sequence["Runner"], feeds: "Tensors", duration: float = 3.0, *, settle: float = 1.0
) -> list[Power | None]:
    """Power and energy per call of each network, running alone; None where nothing here measures power.

    Args:
        runners: Open and warm.
        feeds: One batch that all of them take.
        duration: Seconds per network.
        settle: Seconds of idling first, whose power is recorded beside, not subtracted.
    """
    from edgehybrid import benchmark, device

    if not device.tells_power():
        return [None for _ in runners]
    with device.Sampler() as idle:
        time.sleep(settle)
    powers = []
    for runner in runners:
        with device.Sampler() as window:
            calls = benchmark.keep_busy(runner, feeds, duration=duration)
        powers.append(window.power(calls, idle_w=idle.mean_watts()))
    return powers
