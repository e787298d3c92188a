"""One of two things that are compared: its rows, and what its numbers depend on."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

from edgehybrid.errors import ArtifactError
from edgehybrid.printable import counted
from edgehybrid.records import Answers, DeviceState, ImageSet, Measurement, Report, Row, Timing
from edgehybrid.sizes import spelled

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

    Raises:
        ArtifactError: It holds a latency that is none; others are divided by it.
    """
    for row in found.rows:
        times = () if row.latency is None else (row.latency.p50, row.latency.mean, *row.latency.samples)
        if not all(0 < time < math.inf for time in times):
            raise ArtifactError(
                f"{path} holds a latency that is none",
                why=f"{row.precision} on {row.backend}: found a time that is not above 0, or has no end",
                fix="measure again: edgehybrid bench BUNDLE --json",
            )
    if isinstance(found, Measurement):
        batch = found.subject.get("batch", "")
        return Side(
            path,
            found.rows,
            found.device,
            int(batch) if batch.isdecimal() else None,
            found.evaluation,
            answers,
            {**found.subject, **_machine(found.device)},
            _way(found.timings),
        )
    model = found.model
    settings = {
        "model": model.name,
        "weights": model.weights.source,
        "input": f"{spelled(model.preprocess.size)} px",
        "batch": str(found.batch),
        "target": found.target.name,
        "calibration": "none" if found.calibration is None else f"{found.calibration.name}, {found.method}",
        "evaluation": "none" if found.evaluation is None else found.evaluation.name,
        "edgehybrid": found.version,
    }
    return Side(
        path, found.rows, found.device, found.batch, found.evaluation, answers, settings | _machine(found.device)
    )


def disturbances(side: Side) -> list[str]:
    """What makes a latency say more about the machine's state than about the network."""
    found, device = [], side.device
    if device.is_busy:
        found.append(f"the machine was busy (load {device.load:.1f} on {counted(device.cores, 'core')})")
    seen = [row.latency.conditions for row in side.rows if row.latency is not None and row.latency.conditions]
    if any(c.cooling or any((c.throttle or {}).values()) for c in seen):
        found.append("the machine throttled while it was measured")
    return found


def _way(timings: tuple[Timing, ...]) -> str:
    """How `bench` was told to call: numbers of different ways are different quantities."""
    told = timings[0] if timings else None
    if told is None or (told.streams, told.cuda_graph, told.transfers) == (1, False, True):
        return PLAIN
    calls = f"{told.streams} calls at a time" if told.streams > 1 else "one call at a time"
    return f"{calls}, {'CUDA graph, ' if told.cuda_graph else ''}copies {'included' if told.transfers else 'left out'}"


def _machine(device: DeviceState) -> dict[str, str]:
    return {
        "machine": device.name,
        "power mode": device.power_mode or "unknown",
        "threads": str(device.threads),
        "system": device.system,
        **{f"{name} version": version for name, version in device.versions.items() if name != "edgehybrid"},
    }
