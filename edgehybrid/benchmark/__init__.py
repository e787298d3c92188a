"""Measure how long a network takes.

timing.py      calls one after another, or of several networks in turns
statistics.py  what the samples say: percentiles, scatter, ratios with their interval
"""

from edgehybrid.benchmark.statistics import (
    BLOCK,
    UNSTEADY,
    compare,
    nearest_percentile,
    summarise,
    unsteady_note,
    variation,
)
from edgehybrid.benchmark.timing import (
    Clock,
    DeviceTimes,
    keep_busy,
    measure,
    measure_devices,
    measure_interleaved,
)

__all__ = [
    "BLOCK",
    "Clock",
    "DeviceTimes",
    "UNSTEADY",
    "compare",
    "keep_busy",
    "measure",
    "measure_devices",
    "measure_interleaved",
    "nearest_percentile",
    "summarise",
    "unsteady_note",
    "variation",
]
