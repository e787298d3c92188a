"""Time a network: one runner alone, or several side by side so that their ratio is fair.

Timed is one synchronous call after another, from arrays in host memory to arrays in host memory: what a
camera loop pays. Every timed call is a sample and none is dropped, so a disturbance shows in p99 and max.
"""

import time
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

from edgehybrid.benchmark.statistics import BLOCK, summarise
from edgehybrid.records import Latency
from edgehybrid.runtime import Runner, Split, Splitting, Tensors

Clock = Callable[[], float]
"""Seconds, monotonic."""


def measure(
    runner: Runner,
    feeds: Tensors,
    *,
    warmup: float = 0.2,
    warmup_calls: int = 5,
    iterations: int = 50,
    duration: float = 3.0,
    limit: float | None = None,
    clock: Clock = time.perf_counter,
) -> Latency:
    """Time synchronous calls of one open runner.

    Warm-up ends when both its time and its calls are reached, the measurement when both `duration` and
    `iterations` are; either ends at `limit`. So a network of 10 s per call gives few samples, and `n` says
    so.

    Args:
        runner: Open; `run` returns only when the outputs are in host memory.
        feeds: One batch by input name, shapes and dtypes as the runner wants them.
        warmup: Seconds of untimed calls first, so that clocks, caches and lazy initialisation settle.
        warmup_calls: Untimed calls, at least.
        iterations: Timed calls, at least 1.
        duration: Seconds of timed calls, at least.
        limit: Seconds after which no further call begins, in the warm-up and again in the measurement;
            60, or `duration` where that is longer, by default.
        clock: Seconds, monotonic; a test passes a fake.

    Returns:
        Milliseconds per call (per batch, not per image), samples in order of measurement.

    Raises:
        InputError: The feeds do not fit (raised by the runner).
        StageError: The network fails while running (raised by the runner).
        ValueError: A count or a duration makes no sense.

    Source:
        trtexec's defaults and stopping rule (TensorRT 8.2 to 10: --warmUp=200 --duration=3).
    """
    return measure_interleaved(
        (runner,),
        feeds,
        block=1,
        warmup=warmup,
        warmup_calls=warmup_calls,
        iterations=iterations,
        duration=duration,
        limit=limit,
        clock=clock,
    )[0]


class Callee(Protocol):
    """What can be timed: a runner, or a runner with something before it."""

    def run(self, feeds: Tensors) -> object:
        """One synchronous call."""


def measure_interleaved(
    runners: Sequence[Callee],
    feeds: Tensors,
    *,
    block: int = BLOCK,
    warmup: float = 0.2,
    warmup_calls: int = 5,
    iterations: int = 50,
    duration: float = 3.0,
    limit: float | None = None,
    progress: Callable[[float], None] | None = None,
    clock: Clock = time.perf_counter,
) -> tuple[Latency, ...]:
    """Time several open runners in turn, so that a change of the machine's speed meets all of them alike.

    A round gives every runner one block of `block` timed calls. Who begins moves on by one each round, and
    every other cycle runs backwards, so that no runner always follows the same one. Before a block, one
    untimed call brings the runner's weights back into the caches that its predecessor has just filled:
    without it every block would begin with a call that a runner measured alone never makes. The runners
    must not keep threads spinning while others are measured (`open_runner(..., spin=False)`, the default).

    Why: on a busy 2-core machine the ratio of plain and rewritten CMT-Ti, one thread, came out between 0.66 and 1.02
    in 8 tries measured one after the other, and between 0.72 and 0.81 in 11 tries interleaved.

    Args:
        runners: Open, at least one; all take the same `feeds`.
        feeds: One batch, as in `measure`.
        block: Timed calls in a row, at least 1.
        warmup: Seconds of untimed calls per runner; the other limits are per runner, too.
        warmup_calls: As in `measure`.
        iterations: As in `measure`; rounded up to whole rounds.
        duration: As in `measure`.
        limit: As in `measure`; looked at after each round, so that one round is always measured.
        progress: Told which fraction is done, after each round.
        clock: As in `measure`.

    Returns:
        One latency per runner in the order given, all with equally many samples; `compare` takes two of them.

    Raises:
        InputError: The feeds do not fit one of the runners.
        StageError: A network fails while running.
        ValueError: No runner, or a count or duration that makes no sense.
    """
    limit = max(60.0, duration) if limit is None else limit
    if not runners or min(block, iterations) < 1 or min(warmup, warmup_calls, duration, limit) < 0:
        raise ValueError("needs a runner, counts of at least 1 and no negative duration")
    for runner in runners:
        _warm_up(runner, feeds, warmup, warmup_calls, limit, clock)
    samples: list[list[float]] = [[] for _ in runners]
    begin = clock()
    while True:
        for i in _order(len(runners), len(samples[0]) // block):
            if len(runners) > 1:
                runners[i].run(feeds)
            samples[i] += _time_calls(runners[i], feeds, block, clock)
        elapsed = (clock() - begin) / len(runners)
        if progress is not None:
            wanted = min(elapsed / duration if duration else 1.0, len(samples[0]) / iterations)
            progress(min(max(wanted, elapsed / limit if limit else 1.0), 1.0))
        if elapsed >= limit or (elapsed >= duration and len(samples[0]) >= iterations):
            return tuple(summarise(times) for times in samples)


class DeviceTimes(NamedTuple):
    """Calls of one engine as the device timed them."""

    splits: tuple[Split, ...]  # in order
    seconds: float  # on the host's clock, of all blocks of this engine

    @property
    def latency(self) -> Latency:
        """Upload, compute and download of each call, which is what trtexec calls latency."""
        return summarise([split.latency for split in self.splits])

    @property
    def throughput(self) -> float:
        """Calls per second."""
        return len(self.splits) / self.seconds

    def part(self, name: str) -> Latency:
        """Of "h2d", "compute", "d2h" or "enqueue" alone."""
        return summarise([float(getattr(split, name)) for split in self.splits])


def measure_devices(
    runners: Sequence[Splitting],
    feeds: Tensors,
    *,
    transfers: bool = True,
    block: int = BLOCK,
    warmup: float = 0.2,
    iterations: int = 50,
    duration: float = 3.0,
    progress: Callable[[float], None] | None = None,
    clock: Clock = time.perf_counter,
) -> tuple[DeviceTimes, ...]:
    """Time engines by events on the device, their blocks taking turns as in `measure_interleaved`.

    All lanes of a runner are kept under way: a lane starts again as soon as its call has finished.

    Args:
        runners: Open, at least one; all take the same `feeds`.
        feeds: One batch, uploaded again by every call.
        transfers: Copy inputs and outputs in every call; without, only the first call of the warm-up does.
        block: Timed calls in a row, at least 1 per lane.
        warmup: Seconds of untimed calls per runner.
        iterations: Timed calls per runner, at least.
        duration: Seconds of timed calls per runner, at least.
        progress: Told which fraction is done, after each round.
        clock: Seconds, monotonic; a test passes a fake.

    Returns:
        One record per runner in the order given, all with equally many calls; none is dropped.

    Source:
        trtexec (TensorRT 8.2 to 10): latency is the sum of host-to-device, GPU compute and device-to-host times
        between events of each query.
    """
    if not runners or min(block, iterations) < 1 or min(warmup, duration) < 0:
        raise ValueError("needs a runner, counts of at least 1 and no negative duration")
    for runner in runners:
        runner.load(feeds)
        _keep_lanes_going(runner, runner.lanes, transfers=True)  # the device needs its inputs once in any case
        begin = clock()
        while clock() - begin < warmup:
            _keep_lanes_going(runner, block, transfers=transfers)
    splits: list[list[Split]] = [[] for _ in runners]
    seconds = [0.0 for _ in runners]
    while True:
        for i in _order(len(runners), len(splits[0]) // block):
            if len(runners) > 1:
                _keep_lanes_going(runners[i], 1, transfers=transfers)
            begin = clock()
            splits[i] += _keep_lanes_going(runners[i], block, transfers=transfers)
            seconds[i] += clock() - begin
        done = min(min(seconds) / duration if duration else 1.0, len(splits[0]) / iterations)
        if progress is not None:
            progress(min(done, 1.0))
        if done >= 1:
            return tuple(DeviceTimes(tuple(found), spent) for found, spent in zip(splits, seconds, strict=True))


def keep_busy(
    runner: Runner, feeds: Tensors, *, duration: float, limit: int | None = None, clock: Clock = time.perf_counter
) -> int:
    """Call one runner again and again, untimed, so that the power of the board is this network's.

    Args:
        runner: Open.
        feeds: One batch, as in `measure`.
        duration: Seconds; the call that is running then is finished.
        limit: Calls, at most.
        clock: As in `measure`.

    Returns:
        How many calls were made, at least 1.
    """
    begin, calls = clock(), 0
    while True:
        runner.run(feeds)
        calls += 1
        if clock() - begin >= duration or calls == limit:
            return calls


def _keep_lanes_going(runner: Splitting, calls: int, *, transfers: bool) -> list[Split]:
    """`calls` calls in the order of their start, with as many under way as there are lanes."""
    lanes = min(runner.lanes, calls)
    for lane in range(lanes):
        runner.start(lane, transfers=transfers)
    splits = []
    for index in range(calls):
        splits.append(runner.finish(index % lanes))
        if index + lanes < calls:
            runner.start(index % lanes, transfers=transfers)
    return splits


def _warm_up(runner: Callee, feeds: Tensors, seconds: float, calls: int, limit: float, clock: Clock) -> None:
    """Untimed calls until both `seconds` and `calls` are reached, or `limit` is."""
    begin, done, elapsed = clock(), 0, 0.0
    while elapsed < limit and (done < calls or elapsed < seconds):
        runner.run(feeds)
        done, elapsed = done + 1, clock() - begin


def _order(runners: int, round_: int) -> tuple[int, ...]:
    """Who runs when in a round: 012 120 201, then 210 021 102, and again."""
    cycle, shift = divmod(round_, runners)
    order = tuple((i + shift) % runners for i in range(runners))
    return order[::-1] if cycle % 2 else order


def _time_calls(runner: Callee, feeds: Tensors, calls: int, clock: Clock) -> list[float]:
    """Milliseconds of each of `calls` calls in a row."""
    times = []
    for _ in range(calls):
        begin = clock()
        runner.run(feeds)
        times.append((clock() - begin) * 1e3)
    return times
