"""Latencies and ratios as the files of results hold them."""

import dataclasses

from edgehybrid import benchmark
from edgehybrid.records import Latency


def numbers(latency: Latency) -> dict[str, float]:
    """The statistics, without single samples and what the machine did meanwhile."""
    return {key: value for key, value in dataclasses.asdict(latency).items() if key not in ("samples", "conditions")}


def speedup(slow: Latency, fast: Latency) -> dict[str, object]:
    """How many times as fast the second is, both timed in turns."""
    ratio = benchmark.compare(slow, fast)
    interval = None if ratio.ci95 is None else [1 / ratio.ci95[1], 1 / ratio.ci95[0]]
    return {"value": 1 / ratio.value, "ci95": interval, "rounds": ratio.rounds}
