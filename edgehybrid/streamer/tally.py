"""Count what became of every frame, and keep the distribution of ages in a fixed amount of memory."""

import math
import threading
from collections.abc import Mapping

import numpy as np

_STEP = 1.005
"""Width of a bin: a quantile is off by at most half a percent of its value."""
_LEAST, _MOST = 0.01, 1e7  # ms
_BINS = math.ceil(math.log(_MOST / _LEAST) / math.log(_STEP))

FATES = ("inferred", "dropped", "stale", "blank", "damaged", "frozen")
"""What can become of a frame: inferred; replaced by a newer one; too old; no picture on it; not vouched for by its
decoder; the very picture of seconds ago. Only the first is ever shown to the network."""


class Distribution:
    """Positive milliseconds, any number of them."""

    def __init__(self) -> None:
        self.n = 0
        self.max = 0.0
        self._counts = np.zeros(_BINS, np.int64)

    def add(self, ms: float) -> None:
        """Take one value."""
        place = int(math.log(max(ms, _LEAST) / _LEAST) / math.log(_STEP))
        self._counts[min(place, _BINS - 1)] += 1
        self.n += 1
        self.max = max(self.max, ms)

    def quantile(self, q: float) -> float | None:
        """The value below which a share `q` lies, to within half a percent; None without any value."""
        if self.n == 0:
            return None
        place = int(np.searchsorted(np.cumsum(self._counts), max(1, math.ceil(q * self.n))))
        return float(min(_LEAST * _STEP ** (place + 0.5), self.max))


class Tally:
    """Counters of one run; safe to use from several threads."""

    def __init__(self) -> None:
        self.age, self.inference = Distribution(), Distribution()
        self._lock = threading.Lock()
        self._counts = dict.fromkeys((*FATES, "captured", "late", "connects", "stalls", "unrecorded"), 0)

    def count(self, what: str, by: int = 1) -> None:
        """Add to a counter."""
        with self._lock:
            self._counts[what] += by

    def result(self, age_ms: float, inference_ms: float) -> None:
        """Take one inferred frame."""
        with self._lock:
            self._counts["inferred"] += 1
            self.age.add(age_ms)
            self.inference.add(inference_ms)

    def counts(self) -> Mapping[str, int]:
        """All counters at one moment."""
        with self._lock:
            return dict(self._counts)

    def quantiles(self) -> Mapping[str, float | None]:
        """Quantiles in ms at one moment."""
        with self._lock:
            return {
                "age_p50": self.age.quantile(0.5),
                "age_p99": self.age.quantile(0.99),
                "age_max": self.age.max if self.age.n else None,
                "inference_p50": self.inference.quantile(0.5),
                "inference_p99": self.inference.quantile(0.99),
            }
