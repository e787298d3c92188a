"""Histograms of |x| by the top 16 bits of its float32: no range to guess, integer counts, merged by addition.

A bin is (sign dropped) the 8 exponent bits and the first 7 mantissa bits, so it spans 1/128 of an octave's lower
edge: at most 0.8 % of its value, at any magnitude. Counts are integers, so their sums do not depend on the order
of images, on how they were batched, or on how they were spread over processes.
"""

import functools
import math
import sys
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

BINS = 1 << 15
FINITE = 0x7F80
"""The first bin of infinities and NaNs; never counted."""

EDGES: NDArray[np.float64] = np.append(
    (np.arange(FINITE, dtype=np.uint32) << 16).view(np.float32).astype(np.float64), 2.0**128
)
"""Bin b holds EDGES[b] <= |x| < EDGES[b + 1]; bin 0 holds zeros and what is below 2**-133."""

STAGE = 1 << 17
"""Activations of a tensor kept as 16-bit bin numbers until they are worth one call of bincount."""

RECENT = 1 << 8
"""Peaks of images kept as they are until they are worth one call that finds their bins."""

SAMPLED = 1 << 14
"""Activations of a tensor that are counted per image, at most."""

_TOP = 1 if sys.byteorder == "little" else 0
"""Which of a float32's two 16-bit halves holds its sign, its exponent and the first 7 bits of its mantissa."""

_UNSIGNED = BINS - 1  # all bits of a bin number but the sign

UNLIKE, FEW, TRIES = math.log(1.3), 8, 64
"""A place along an axis may be counted 1.3 times as often as its share or 1 / 1.3 times, if its share is FEW or more;
the first stride of TRIES that keeps to this is taken, else the best of them."""


@dataclass(frozen=True, eq=False)
class Histogram:
    """What was seen of one tensor.

    Args:
        counts: int64 (BINS,), how many activations fell in each bin; estimated where a sample of them was counted.
        amax: The largest |x| of all activations, exactly.
        peaks: Bin of the largest |x| of an image -> images whose own lies there; empty where none was told apart.
    """

    counts: NDArray[np.int64]
    amax: float
    peaks: Mapping[int, int] = field(default_factory=dict)

    def merge(self, other: "Histogram") -> "Histogram":
        """Both together."""
        peaks = Counter(self.peaks) + Counter(other.peaks)
        return Histogram(self.counts + other.counts, max(self.amax, other.amax), peaks)

    @property
    def median_peak(self) -> float:
        """Largest |x| of the median image among those that put anything else than zeros here; 0 where none is known."""
        held = sorted(number for number in self.peaks if number > 0)
        if not held:
            return 0.0
        below = np.cumsum([self.peaks[number] for number in held])
        middle = held[int(np.searchsorted(below, below[-1] / 2))]
        return float(EDGES[middle] + EDGES[middle + 1]) / 2


@functools.cache
def stride_of(shape: tuple[int, ...]) -> int:
    """The smallest distance at which no more than SAMPLED values of an image's tensor of this shape are counted.

    It has no factor in common with any dimension and does not beat with them either, so that every channel, row and
    token is counted about as often as any other, however they are laid out: 1,147 divides nothing of (244, 265, 290),
    but 67 steps of it are 265 x 290 less one, and 141 of the 265 places would never be met.
    """
    size = math.prod(shape)
    stride = max(1, -(-size // SAMPLED))
    tried: dict[int, float] = {}
    while not tried or (min(tried.values()) > UNLIKE and len(tried) < TRIES):
        if math.gcd(stride, size) == 1:
            tried[stride] = _unlikeness(shape, stride)
        stride += 1
    return min(tried, key=lambda each: tried[each])


def _unlikeness(shape: tuple[int, ...], stride: int) -> float:
    """How much more or less often than its share any place along an axis is counted, as a logarithm."""
    size, worst = math.prod(shape), 0.0
    coordinates = np.unravel_index(np.arange(0, size, stride), shape) if shape else ()
    for axis, places in enumerate(coordinates):
        share = size / shape[axis] / stride
        if share >= FEW:
            counts = np.bincount(places, minlength=shape[axis]) / share
            worst = max(worst, math.log(counts.max()), -math.log(max(counts.min(), math.ulp(0))))
    return worst


def _signed_bins(values: NDArray[np.float32]) -> NDArray[np.uint16]:
    """Bin number of each value of a contiguous array, the value's sign in the highest bit: (N,), nothing is copied."""
    return values.reshape(-1).view(np.uint16)[_TOP::2]


class Tally:
    """Counts the activations of one tensor as they stream by.

    Args:
        stride: Every so many values one is counted, and stands for as many.
        scratch: (STAGE,), which tallies of one thread may share; bincount would allocate it at every call.
    """

    def __init__(self, stride: int = 1, scratch: NDArray[np.intp] | None = None) -> None:
        self._stride = stride
        self._scratch = np.empty(STAGE, np.intp) if scratch is None else scratch
        self._counts = np.zeros(BINS, np.int64)
        self._amax = 0.0
        self._peaks: Counter[int] = Counter()
        self._recent: list[float] = []
        self._stage = np.empty(STAGE, np.uint16)
        self._staged = 0

    def add(self, values: NDArray[np.float32], copies: int = 1, phase: int = 0, *, one: bool = True) -> None:
        """Count activations.

        Args:
            values: Contiguous, of any shape.
            copies: How many times everything is in `values`; it is counted once.
            phase: 0 or more, by which the first value that is counted is chosen.
            one: Whether they are of one image; else its largest |x| is not known.

        Raises:
            FloatingPointError: An infinity or a NaN; the tally is spoilt.
            ValueError: The copies differ.
        """
        if not values.size:
            return
        amax = max(float(values.max()), -float(values.min()))
        if not amax < math.inf:  # as a NaN is not
            raise FloatingPointError
        self._amax = max(self._amax, amax)
        if one:
            self._recent.append(amax)
        if len(self._recent) >= RECENT:
            self._sort_peaks()
        numbers = _signed_bins(values)[phase % self._stride :: self._stride]
        if copies == 1:
            self._add(numbers)
            return
        self._flush()
        before = self._counts.copy()
        self._add(numbers)
        self._flush()
        added, rest = np.divmod(self._counts - before, copies)
        if rest.any():
            raise ValueError("copies of one image gave different activations")
        self._counts = before + added

    def histogram(self) -> Histogram:
        """What was counted so far."""
        self._flush()
        self._sort_peaks()
        return Histogram(self._counts * self._stride, self._amax, dict(self._peaks))

    def _add(self, numbers: NDArray[np.uint16]) -> None:
        """Stage bin numbers (N,), their sign still in the highest bit."""
        while numbers.size:
            block = numbers[: STAGE - self._staged]
            numbers = numbers[block.size :]
            bins = self._stage[self._staged : self._staged + block.size]
            np.copyto(bins, block)
            np.bitwise_and(bins, _UNSIGNED, out=bins)
            self._staged += block.size
            if self._staged == STAGE:
                self._flush()

    def _sort_peaks(self) -> None:
        self._peaks.update((_signed_bins(np.array(self._recent, np.float32)) & _UNSIGNED).tolist())
        self._recent.clear()

    def _flush(self) -> None:
        numbers = self._scratch[: self._staged]
        np.copyto(numbers, self._stage[: self._staged])
        counts = np.bincount(numbers)
        self._counts[: counts.size] += counts
        self._staged = 0
