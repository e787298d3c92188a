"""Compare two measurements made apart: what differs for certain, what may be chance, and what must not be compared."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from edgehybrid import benchmark, proportions
from edgehybrid.records import (
    Accuracy,
    AccuracyChange,
    Answers,
    Comparison,
    Contrast,
    DeviceState,
    ImageSet,
    Latency,
    LatencyChange,
    Measurement,
    Precision,
    Report,
    Row,
    Timing,
)

MARGIN = 0.05
"""A difference of medians below this share is what two runs of one file may show on a quiet machine."""
BATCHES, RESAMPLES = 40, 4000
_FEWEST_BATCHES, _BATCH_CALLS = 6, 5
_BUSY = 0.5
"""Load per core above which a measurement was disturbed."""


PLAIN = "one call at a time, copies included"
"""How calls are made unless `bench` was told otherwise."""


@dataclass(frozen=True)
class Side:
    """One of the two, from a bundle, a report or a measurement."""

    path: str
    rows: tuple[Row, ...]
    device: DeviceState
    batch: int | None  # None: a single file was measured, which does not tell
    evaluation: ImageSet | None = None
    answers: Answers | None = None
    settings: Mapping[str, str] | None = None  # what the numbers depend on, by name
    way: str = PLAIN  # how calls were made


def side_of(path: str, found: Report | Measurement, answers: Answers | None) -> Side:
    """What of a result takes part in a comparison.

    Args:
        path: Where it was read.
        found: What stood there.
        answers: Class per image, where the bundle keeps them.
    """
    if isinstance(found, Measurement):
        batch = found.subject.get("batch", "")
        return Side(
            path,
            found.rows,
            found.device,
            int(batch) if batch.isdigit() else None,
            found.evaluation,
            answers,
            {**found.subject, **_machine(found.device)},
            _way(found.timings),
        )
    model = found.model
    settings = {
        "model": model.name,
        "weights": model.weights.source,
        "input": f"{model.preprocess.size} px",
        "batch": str(found.batch),
        "target": found.target.name,
        "calibration": "none" if found.calibration is None else f"{found.calibration.name}, {found.method}",
        "evaluation": "none" if found.evaluation is None else found.evaluation.name,
        "edgehybrid": found.version,
    }
    return Side(
        path, found.rows, found.device, found.batch, found.evaluation, answers, settings | _machine(found.device)
    )


def compare(a: Side, b: Side) -> Comparison:
    """Every pair of rows that belong together: the same precision and backend, and what each was built for.

    Args:
        a: The one that counts as before.
        b: The one that counts as after.

    Returns:
        Differences with 95 % intervals and a verdict each; `not compared`, with the reason, where a number of one
        machine, power mode or image set would stand beside one of another.
    """
    pairs = list(_pairs(a.rows, b.rows))
    contrasts = tuple(
        Contrast(_name(x), _name(y), _latency_change(a, b, x, y), _accuracy_change(a, b, x, y)) for x, y in pairs
    )
    mine, theirs = a.settings or {}, b.settings or {}
    differ = {key: (mine.get(key, "?"), theirs.get(key, "?")) for key in {**mine, **theirs}}
    return Comparison(
        a=a.path,
        b=b.path,
        contrasts=contrasts,
        differences={key: found for key, found in differ.items() if found[0] != found[1]},
        notes=_notes(a, b, contrasts),
    )


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


def unpaired_interval(a: Accuracy, b: Accuracy) -> tuple[float, float]:
    """95 % interval of the top-1 lost from one to the other, in points, of two independent samples.

    Source:
        Newcombe's hybrid score interval (method 10), Statistics in Medicine 17 (1998) 873-890, from Wilson's.
    """
    lost = a.top1 - b.top1
    down = math.hypot(a.top1 - a.ci95[0], b.ci95[1] - b.top1)
    up = math.hypot(a.ci95[1] - a.top1, b.top1 - b.ci95[0])
    return lost - down, lost + up


def _pairs(a: tuple[Row, ...], b: tuple[Row, ...]) -> Iterator[tuple[Row, Row]]:
    """Rows of one name; then what each side was built for, where that differs."""
    there = {_name(row): row for row in b}
    for row in a:
        if _name(row) in there:
            yield row, there[_name(row)]
    built = [[row for row in rows if row.precision != "fp32"][:1] for rows in (a, b)]
    if built[0] and built[1] and _name(built[0][0]) != _name(built[1][0]):
        yield built[0][0], built[1][0]


def _name(row: Row) -> str:
    return f"{row.precision}/{row.backend}"


def _latency_change(a: Side, b: Side, x: Row, y: Row) -> LatencyChange | None:
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
    shaken = [f"{side.path}: {why}" for side in (a, b) for why in _disturbances(side)]
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


def _way(timings: tuple[Timing, ...]) -> str:
    """How `bench` was told to call: numbers of different ways are different quantities."""
    told = timings[0] if timings else None
    if told is None or (told.streams, told.cuda_graph, told.transfers) == (1, False, True):
        return PLAIN
    calls = f"{told.streams} calls at a time" if told.streams > 1 else "one call at a time"
    return f"{calls}, {'CUDA graph, ' if told.cuda_graph else ''}copies {'included' if told.transfers else 'left out'}"


def _memory(device: DeviceState) -> str:
    return "untold" if device.memory_gib is None else f"{device.memory_gib:.0f} GiB"


def _batch(side: Side) -> str:
    return "untold" if side.batch is None else str(side.batch)


def _accuracy_change(a: Side, b: Side, x: Row, y: Row) -> AccuracyChange | None:
    if x.accuracy is None or y.accuracy is None:
        return None
    before, after = x.accuracy, y.accuracy
    if a.evaluation is None or b.evaluation is None or a.evaluation.name != b.evaluation.name:
        names = [side.evaluation.name if side.evaluation else "unknown" for side in (a, b)]
        reason = f"scored on different image sets: {names[0]} and {names[1]}"
        return AccuracyChange(before.top1, after.top1, None, None, False, None, "not compared", reason)
    right = _paired(a, b, x, y)
    if right is not None:
        lost, gained, n = int((right[0] & ~right[1]).sum()), int((~right[0] & right[1]).sum()), len(right[0])
        low, high = (100 * float(end) for end in proportions.paired_interval(lost, gained, n))
        points = 100 * (lost - gained) / n
        p = proportions.mcnemar(lost, gained)
        return AccuracyChange(before.top1, after.top1, points, (low, high), True, p, _verdict(low, high))
    low, high = unpaired_interval(before, after)
    same = a.evaluation.sha256 == b.evaluation.sha256
    reason = "unpaired: answers per image are not kept by both" if same else "unpaired: not the same images of the set"
    points = before.top1 - after.top1
    return AccuracyChange(before.top1, after.top1, points, (low, high), False, None, _verdict(low, high), reason)


def _paired(a: Side, b: Side, x: Row, y: Row) -> tuple[NDArray[np.bool_], NDArray[np.bool_]] | None:
    """Right or wrong per image on both sides, where both kept their answers to the same images in the same order."""
    if a.answers is None or b.answers is None or a.answers.order != b.answers.order:
        return None
    mine = a.answers.top1.get(Answers.key(x.precision, x.backend))
    theirs = b.answers.top1.get(Answers.key(y.precision, y.backend))
    if mine is None or theirs is None or a.answers.labels != b.answers.labels or len(mine) != len(theirs):
        return None
    labels = np.asarray(a.answers.labels)
    if len(labels) != len(mine):
        return None
    return np.asarray(mine) == labels, np.asarray(theirs) == labels


def _verdict(low: float, high: float) -> Literal["better", "worse", "no difference shown"]:
    """Of points lost from the first to the second."""
    return "worse" if low > 0 else "better" if high < 0 else "no difference shown"


def _medians(values: NDArray[np.float64], least: int) -> NDArray[np.float64]:
    """Medians of consecutive values, at most 40 batches of at least so many."""
    count = min(BATCHES, len(values) // least)
    return np.asarray([np.median(part) for part in np.array_split(values, count)]) if count else np.empty(0)


def _resampled(batches: list[NDArray[np.float64]], seed: int) -> list[NDArray[np.float64]]:
    """Medians of batches drawn with replacement, 4,000 times each."""
    draw = np.random.default_rng(seed)
    picks = [draw.integers(0, len(each), (RESAMPLES, len(each))) for each in batches]
    return [np.median(each[pick], axis=1) for each, pick in zip(batches, picks, strict=True)]


def _machine(device: DeviceState) -> dict[str, str]:
    return {
        "machine": device.name,
        "power mode": device.power_mode or "unknown",
        "threads": str(device.threads),
        "system": device.system,
        **{f"{name} version": version for name, version in device.versions.items() if name != "edgehybrid"},
    }


def _disturbances(side: Side) -> list[str]:
    """What makes a latency say more about the machine's state than about the network."""
    found, load, cores = [], side.device.load, side.device.cores
    if load is not None and load > _BUSY * cores:
        found.append(f"the machine was busy (load {load:.1f} on {cores} cores)")
    seen = [row.latency.conditions for row in side.rows if row.latency is not None and row.latency.conditions]
    if any(c.cooling or any((c.throttle or {}).values()) for c in seen):
        found.append("the machine throttled while it was measured")
    return found


def _notes(a: Side, b: Side, contrasts: tuple[Contrast, ...]) -> tuple[str, ...]:
    """What a reader must know before believing a difference."""
    notes = []
    if any(c.latency is not None and c.latency.ratio is not None for c in contrasts):
        notes.append(
            "the two were timed apart: the interval knows what varied within each run, not what changed between them; "
            "`edgehybrid bench` of one bundle times its graphs side by side"
        )
    for side in (a, b):
        notes += [f"{side.path}: {why}" for why in _disturbances(side)]
        steady = [benchmark.unsteady_note(row.latency) for row in side.rows if row.latency is not None]
        if any(note is not None for note in steady):
            notes.append(f"{side.path}: samples scatter by more than {benchmark.UNSTEADY} % of their mean")
    clocks = (a.device.clocks_mhz, b.device.clocks_mhz)
    for name in ("cpu_max", "gpu_max", "emc"):
        mine, theirs = clocks[0].get(name), clocks[1].get(name)
        if mine and theirs and abs(mine / theirs - 1) > 0.02:
            notes.append(f"clocks differ: {name} {mine:g} and {theirs:g} MHz")
    if not contrasts:
        notes.append("nothing to compare: no row of the two has the same precision and backend")
    return tuple(notes)
