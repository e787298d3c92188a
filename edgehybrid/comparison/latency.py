"""How two latencies of separate runs differ, and when they must not be set against each other."""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edgehybrid import benchmark
from edgehybrid.comparison.side import Side, disturbances
from edgehybrid.records import DeviceState, Latency, LatencyChange, Precision, Row

MARGIN = 0.05
"""A difference of medians below this share is what two runs of one file may show on a quiet machine."""
BATCHES, RESAMPLES = 40, 4000
_FEWEST_BATCHES, _BATCH_CALLS = 6, 5


def latency_ratio(a: Latency, b: Latency, *, seed: int = 0) -> tuple[float, tuple[float, float] | None]:
    """How many times as long the second takes, by medians, with a 95 % interval of two independent runs.

    Neighbouring samples resemble each other, so that single samples would make the interval too narrow: each run is
    cut into batches of consecutive calls, and whole batches are resampled (4,000 times).

    Args:
        a: With its samples in order of measurement.
        b: Likewise; any number of samples.
        seed: Of the resampling.

    Returns:
        The ratio, and its interval; None where a run has fewer than 30 samples. The interval knows what varied within
        each run, not what changed between them.
    """
    ratio = b.p50 / a.p50
    batches = [_medians(np.asarray(latency.samples, np.float64), _BATCH_CALLS) for latency in (a, b)]
    if any(len(medians) < _FEWEST_BATCHES for medians in batches):
        return ratio, None
    centres = _resampled(batches, seed)
    low, high = np.percentile(centres[1] / centres[0], (2.5, 97.5))
    return ratio, (min(float(low), ratio), max(float(high), ratio))


def latency_change(a: Side, b: Side, x: Row, y: Row) -> LatencyChange | None:
    """How many times as long the second row takes, with a verdict; None where either was not timed."""
    if x.latency is None or y.latency is None:
        return None
    reason = _incomparable(a, b, x, y)
    if reason is not None:
        return LatencyChange(x.latency.p50, y.latency.p50, None, None, "not compared", reason)
    against = _relative_change(a, b, x, y)
    if against is not None:
        return against
    ratio, interval = latency_ratio(x.latency, y.latency)
    if interval is None:
        few = "fewer than 30 samples are known of one run: no interval"
        return LatencyChange(x.latency.p50, y.latency.p50, ratio, None, "no difference shown", few)
    low, high = interval
    shaken = [f"{side.path}: {why}" for side in (a, b) for why in disturbances(side)]
    if shaken and (low > 1 or high < 1):
        why = f"what differs may be the machine's state ({shaken[0]}): measure both again at rest"
        return LatencyChange(x.latency.p50, y.latency.p50, ratio, interval, "no difference shown", why)
    if low > 1 + MARGIN or high < 1 - MARGIN:
        verdict: Literal["slower", "faster"] = "slower" if low > 1 else "faster"
        return LatencyChange(x.latency.p50, y.latency.p50, ratio, interval, verdict)
    reason = None
    if low > 1 or high < 1:
        reason = f"less than {MARGIN:.0%} apart for certain: two runs of one file may differ as much"
    return LatencyChange(x.latency.p50, y.latency.p50, ratio, interval, "no difference shown", reason)


def _relative_change(a: Side, b: Side, x: Row, y: Row) -> LatencyChange | None:
    """The change judged against a network that was timed in turns with each: what the machine did cancels.

    That is float32, or an engine's fp16 control; None unless both sides timed the same one on the same backend.
    """
    reference = _reference(a, b, x, y)
    if reference is None or x.latency is None or y.latency is None:
        return None
    rounds = [_rounds_against(side, row, reference) for side, row in ((a, x), (b, y))]
    if any(len(each) < 2 * _FEWEST_BATCHES for each in rounds):
        return None
    centres = _resampled([_medians(each, 2) for each in rounds], seed=0)
    relative = float(np.median(rounds[1]) / np.median(rounds[0]))
    low, high = (float(end) for end in np.percentile(centres[1] / centres[0], (2.5, 97.5)))
    low, high = min(low, relative), max(high, relative)
    verdict: Literal["faster", "slower", "no difference shown"] = "no difference shown"
    if low > 1 + MARGIN or high < 1 - MARGIN:
        verdict = "slower" if low > 1 else "faster"
    ratio, interval = latency_ratio(x.latency, y.latency)
    why = f"judged against {reference}, timed in turns with it on both sides"
    return LatencyChange(x.latency.p50, y.latency.p50, ratio, interval, verdict, why, relative, (low, high), reference)


def _reference(a: Side, b: Side, x: Row, y: Row) -> Precision | None:
    """What both rows were timed beside: a graph of the same model, or the very same engine."""
    mine, theirs = a.settings or {}, b.settings or {}
    if x.backend != y.backend or not all(
        key in mine and mine[key] == theirs.get(key) for key in ("model", "weights", "input", "batch")
    ):
        return None
    known: tuple[Precision, ...] = ("fp32", "fp16")
    for precision in known:
        file = f"{precision}/{x.backend.split()[0]} file"
        is_same = mine[file] == theirs.get(file) if file in mine else x.backend.startswith("onnxruntime")
        if is_same and precision not in (x.precision, y.precision):
            return precision
    return None


def _rounds_against(side: Side, row: Row, reference: Precision) -> NDArray[np.float64]:
    """How many times as long as the reference each round of an interleaved measurement took; empty where none was."""
    other = [each for each in side.rows if each.precision == reference and each.backend == row.backend]
    if not other or row.latency is None or other[0].latency is None:
        return np.empty(0)
    samples = [np.asarray(latency.samples) for latency in (other[0].latency, row.latency)]
    if len(samples[0]) != len(samples[1]) or len(samples[0]) % benchmark.BLOCK:
        return np.empty(0)
    blocks = [np.median(np.reshape(each, (-1, benchmark.BLOCK)), axis=1) for each in samples]
    return np.asarray(blocks[1] / blocks[0])


def _incomparable(a: Side, b: Side, x: Row, y: Row) -> str | None:
    """Why two latencies must not be set against each other."""
    if x.status != "measured" or y.status != "measured":
        return "one of them is not measured"
    for what, mine, theirs in (
        ("ways of calling", a.way, b.way),
        ("machines", a.device.name, b.device.name),
        ("power modes", a.device.power_mode or "unknown", b.device.power_mode or "unknown"),
        ("numbers of cores", str(a.device.cores), str(b.device.cores)),
        ("memory sizes", _memory(a.device), _memory(b.device)),
        ("numbers of threads", str(a.device.threads), str(b.device.threads)),
        ("batch sizes", _batch(a), _batch(b)),
    ):
        if mine != theirs and "untold" not in (mine, theirs):
            return f"different {what}: {mine} and {theirs}"
    return None


def _memory(device: DeviceState) -> str:
    return "untold" if device.memory_gib is None else f"{device.memory_gib:.0f} GiB"


def _batch(side: Side) -> str:
    return "untold" if side.batch is None else str(side.batch)


def _medians(values: NDArray[np.float64], least: int) -> NDArray[np.float64]:
    """Medians of consecutive values, at most 40 batches of at least so many."""
    count = min(BATCHES, len(values) // least)
    return np.asarray([np.median(part) for part in np.array_split(values, count)]) if count else np.empty(0)


def _resampled(batches: list[NDArray[np.float64]], seed: int) -> list[NDArray[np.float64]]:
    """Medians of batches drawn with replacement, 4,000 times each."""
    draw = np.random.default_rng(seed)
    picks = [draw.integers(0, len(each), (RESAMPLES, len(each))) for each in batches]
    return [np.median(each[pick], axis=1) for each, pick in zip(batches, picks, strict=True)]
