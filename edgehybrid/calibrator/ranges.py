"""Choose the int8 range of every tensor from its histogram: mse, minmax, percentile or entropy."""

import functools
import math
from collections.abc import Callable, Container, Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from edgehybrid.calibrator.histogram import EDGES, FINITE, Histogram, Tally
from edgehybrid.calibrator.observations import Observations
from edgehybrid.records import LEVELS, Method, Ranges

DEAD_AMAX = LEVELS * 2.0**-14
"""Range of a tensor that is zero everywhere. Any positive one is right; this one's scale, 2**-14, is the smallest
normal float16, so that it stays positive in either dialect."""

PERCENTILE = 99.99
"""Percent of the values that the range of method "percentile" covers."""

_DEAD = 2.0**-100  # below this a tensor is called zero; its int8 scale would end in float32's subnormals
_STEPS = 128  # bins per octave
_SEARCHED = 12  # octaves below the maximum; one outlier in 10**9 values does not ask for a deeper clip
_ROUNDED = 8  # octaves below a candidate's own in which values round to anything but zero: 2**8 > 2 * LEVELS

UNEVEN = 8.0
"""Range over what the median image reaches from which on a few images fill a tensor that the others hardly use: these
are left 16 of the 127 levels or fewer."""

EXPONENTS = (2, 3)
"""Of |error|, whose mean the ranges of method "mse" make least: on most networks, and where a few images are loud."""

LOUD, LOUD_SHARE = 2.2, 0.25
"""Maximum over that of the median image from which on a tensor is loud on a few images, and the share of such tensors
from which on a network is. A quarter of the tensors exceed 2.3 to 5.0 on three trained BoTNets, where what is clipped
of those images grows from layer to layer, and 1.7 to 2.1 on six other networks."""

SLACK = 1.04
"""How many times the least squared error the range of method "mse" may have: it is the widest within that. The error is
flat there, and images to come reach further than those of calibration: 22 small networks gained 1.6 dB at the output in
the mean, all images together, and nothing image by image. The third power of the error leaves that room itself."""

ENTROPY_FLOOR = 1 / 16
"""Smallest range that entropy may choose, as part of the maximum."""


def choose(
    observations: Observations,
    method: Method,
    *,
    images: int,
    sha256: str,
    percentile: float = PERCENTILE,
    tied: Sequence[Sequence[str]] = (),
    known: Mapping[str, float] | None = None,
    even: Container[str] = (),
) -> Ranges:
    """Choose the range of every tensor.

    - mse: the widest range whose expected squared error of rounding and clipping (`expected_error`) is within 4 % of
      the least (`SLACK`), searched exhaustively over all bin edges within 12 octaves of the maximum, and the maximum
      itself. Where a few images reach far beyond the rest in many tensors (`LOUD`), least third power of the error:
      what clipping does to those images, later layers amplify, and squares hide it among the many.
    - minmax: the exact absolute maximum.
    - percentile: what `percentile` percent of |x| lie below.
    - entropy: least Kullback-Leibler divergence of the distribution of non-zero |x| from its quantized version.

    No range exceeds the observed maximum. A tensor that is zero everywhere gets DEAD_AMAX.

    Args:
        observations: Of the calibration images.
        method: See above.
        images: How many images were observed.
        sha256: Of the images.
        percentile: Percent, above 0 and at most 100; used by method "percentile".
        tied: Groups of tensors that get one range, chosen for all their values together.
        known: Ranges that are not to be chosen.
        even: Tensors that are not loud on a few images. Of one that was shifted only the tensor before can tell: with
            the same taken off all images, those that reach far seem to reach further beyond the others.

    Returns:
        Ranges, tensors in alphabetical order; those that leave the median image few levels are marked.

    Raises:
        ValueError: The percentile makes no sense.
    """
    if not 0 < percentile <= 100:
        raise ValueError(f"percentile must be above 0 and at most 100, got {percentile}")
    histograms = observations.tensors
    typical = {name: each.median_peak if each.amax >= _DEAD else 0.0 for name, each in histograms.items()}
    loud = sum(histograms[name].amax > LOUD * peak > 0 for name, peak in typical.items() if name not in even)
    usual, careful = EXPONENTS
    exponent = careful if method == "mse" and loud >= max(1, LOUD_SHARE * len(histograms)) else usual
    methods: dict[Method, Callable[[Histogram], float]] = {
        "mse": lambda histogram: _least_error(histogram, exponent, SLACK if exponent == usual else 1.0),
        "minmax": lambda histogram: histogram.amax,
        "percentile": lambda histogram: _percentile(histogram, percentile),
        "entropy": _least_divergence,
    }
    search = methods[method]
    chosen = {}
    for name, histogram in sorted(histograms.items()):
        chosen[name] = DEAD_AMAX if histogram.amax < _DEAD else search(histogram)
    for group in tied:
        together = functools.reduce(Histogram.merge, (histograms[name] for name in sorted(group)))
        chosen.update(dict.fromkeys(group, DEAD_AMAX if together.amax < _DEAD else search(together)))
        typical.update(dict.fromkeys(group, max(typical[name] for name in group)))
    chosen.update(known or {})
    levels = {name: LEVELS * typical[name] / amax for name, amax in chosen.items() if name not in (known or {})}
    return Ranges(
        method,
        images,
        sha256,
        chosen,
        tied=tuple(tuple(group) for group in tied),
        exponent=exponent,
        uneven={name: round(reached, 1) for name, reached in levels.items() if 0 < reached < LEVELS / UNEVEN},
    )


def range_of(values: NDArray[np.float32]) -> float:
    """The range of least expected squared error for some values at hand, by which choices are compared.

    Args:
        values: Finite, of any shape.
    """
    tally = Tally()
    tally.add(np.ascontiguousarray(values))
    histogram = tally.histogram()
    return DEAD_AMAX if histogram.amax < _DEAD else _least_error(histogram)


def expected_error(histogram: Histogram, amax: float, exponent: int = 2) -> float:
    """Mean of |error|**exponent of symmetric int8 with range `amax`, rounding and clipping together.

    Values are taken as uniform within their bin. (One representative per bin would not do: near `amax` a bin is
    as wide as a quantization step.)

    Args:
        histogram: Of at least one value.
        amax: Above 0; scale = amax / 127.
        exponent: 2 or more.
    """
    bins, low, high = _occupied(histogram)
    scale = amax / LEVELS
    width = np.maximum(high - low, np.finfo(np.float64).tiny)
    inside = _error_integral(high / scale, exponent) - _error_integral(low / scale, exponent)
    spread = scale ** (exponent + 1) * inside / width
    point = (scale * np.abs(low / scale - np.minimum(np.rint(low / scale), LEVELS))) ** exponent
    counts = histogram.counts[bins]
    return float(np.sum(counts * np.where(high > low, spread, point)) / counts.sum())


def _occupied(histogram: Histogram) -> tuple[NDArray[np.intp], NDArray[np.float64], NDArray[np.float64]]:
    """Bins that are not empty, and their edges; the last one ends at the exact maximum."""
    bins = np.flatnonzero(histogram.counts != 0)  # five times as fast as without the comparison
    return bins, EDGES[bins], np.minimum(EDGES[bins + 1], histogram.amax)


def _error_integral(y: NDArray[np.float64], exponent: int) -> NDArray[np.float64]:
    """Integral of |t - round(t)|**exponent from 0 to y >= 0, where round stops at LEVELS."""
    level = np.minimum(np.rint(y), LEVELS)
    rest = y - level
    return (level * 0.5**exponent + np.abs(rest) ** exponent * rest) / (exponent + 1)


# --- mse --------------------------------------------------------------------------------------------


@functools.cache
def _error_table(exponent: int) -> NDArray[np.float64]:
    """Expected error of a value in bin k with range c, for c = 1 + m / 128, as [m, k].

    k counts bins from 2**-_ROUNDED to 2. Bins are alike in every octave, so that this one table serves all.

    Returns:
        float64 (128, 128 * (_ROUNDED + 1)).
    """
    low = np.ldexp(np.tile(1 + np.arange(_STEPS) / _STEPS, _ROUNDED + 1), np.repeat(np.arange(-_ROUNDED, 1), _STEPS))
    high = np.append(low[1:], 2.0)
    scale = (1 + np.arange(_STEPS) / _STEPS)[:, np.newaxis] / LEVELS
    inside = _error_integral(high / scale, exponent) - _error_integral(low / scale, exponent)
    return np.asarray(scale ** (exponent + 1) * inside / (high - low))


def _moment(low: NDArray[np.float64], high: NDArray[np.float64], order: int) -> NDArray[np.float64]:
    """Mean of x**order between each `low` and `high`."""
    terms = [low**i * high ** (order - i) for i in range(order + 1)]
    return np.asarray(sum(terms) / (order + 1))


@functools.cache
def _moments(order: int) -> NDArray[np.float64]:
    """Mean of x**order in every bin."""
    return _moment(EDGES[:-1], EDGES[1:], order)


def _least_error(histogram: Histogram, exponent: int = 2, slack: float = 1.0) -> float:
    """The widest range of at most `slack` times the least expected error, of all bin edges below the maximum, and it.

    Values below half a step of a candidate c round to zero and leave their own power; values an octave above it are
    clipped and leave (x - c)**exponent: both come from sums of moments. The nine octaves between take the table.
    Octaves in which clipping alone costs more than the maximum does are left out: usually all but three.
    """
    bins, _, _ = _occupied(histogram)
    top = int(bins[-1])
    if EDGES[top] < _DEAD:  # all that was counted; the maximum was not
        return histogram.amax
    octaves = np.arange(top // _STEPS - _SEARCHED, top // _STEPS + 1)
    counts = histogram.counts[:FINITE].astype(np.float64)
    # The bin that holds the maximum ends there, so its moments are its own.
    last, end = slice(top, top + 1), np.array([min(EDGES[top + 1], histogram.amax)])
    excess = [counts[top] * float((_moment(EDGES[last], end, k) - _moments(k)[last])[0]) for k in range(exponent + 1)]
    lowest = int(bins[0]) // _STEPS
    held = slice(lowest * _STEPS, (top // _STEPS + 1) * _STEPS)  # nothing lies in the octaves below and above
    sums = []
    for k in range(exponent + 1):
        terms = counts[held] * _moments(k)[held]
        terms[top - held.start] += excess[k]
        sums.append(_sum_octaves(terms, lowest))
    candidates = EDGES[octaves[0] * _STEPS : (octaves[-1] + 1) * _STEPS].reshape(-1, _STEPS)
    clipped = sum(
        math.comb(exponent, k) * (-candidates) ** (exponent - k) * (sums[k][-1] - sums[k][octaves + 1])[:, np.newaxis]
        for k in range(exponent + 1)
    )

    bound = expected_error(histogram, histogram.amax, exponent)
    hopeful = clipped[:, -1] <= bound * counts.sum()
    octaves, candidates, clipped = octaves[hopeful], candidates[hopeful], clipped[hopeful]
    table = _error_table(exponent)
    windows = np.lib.stride_tricks.sliding_window_view(counts, table.shape[1])[(octaves - _ROUNDED) * _STEPS]
    # Not a matrix product: BLAS would wake threads for it, and its order of summation is its own.
    between = candidates[:, :1] ** exponent * np.einsum("ok,mk->om", windows, table)
    errors = sums[exponent][octaves - _ROUNDED, np.newaxis] + between + clipped
    # In its own octave the last bin came from the table, which takes it whole; all of it lies above every candidate.
    own = octaves == top // _STEPS
    errors[own] += sum(
        math.comb(exponent, k) * (-candidates[own]) ** (exponent - k) * excess[k] for k in range(1, exponent + 1)
    )
    edges = candidates.reshape(-1)[: top + 1 - octaves[0] * _STEPS]
    found = errors.reshape(-1)[: edges.size] / counts.sum()
    least = min(float(found.min()), bound)
    within = max(slack * least, least)  # sums of moments may leave less than nothing
    if bound <= within:
        return histogram.amax
    widest = float(edges[np.flatnonzero(found <= within)[-1]])
    return widest if expected_error(histogram, widest, exponent) < bound else histogram.amax


def _sum_octaves(terms: NDArray[np.float64], first: int) -> NDArray[np.float64]:
    """Sum of the terms of all bins below each octave; the last element is the sum of all.

    Args:
        terms: From octave `first` on to the last in which there are any.
        first: The octaves below have none.
    """
    return np.append(np.zeros(first + 1), np.cumsum(terms.reshape(-1, _STEPS).sum(axis=1)))


# --- percentile and entropy ---------------------------------------------------------------------------


def _percentile(histogram: Histogram, percent: float) -> float:
    """What `percent` of |x| lie below, values taken as uniform within their bin.

    Where so few values are not zero that it would be 0, the maximum.
    """
    bins, low, high = _occupied(histogram)
    below = np.cumsum(histogram.counts[bins])
    wanted = percent / 100 * below[-1]
    i = int(np.searchsorted(below, wanted))
    part = 1 - (below[i] - wanted) / histogram.counts[bins[i]]
    found = float(low[i] + part * (high[i] - low[i]))
    return found if found >= _DEAD else histogram.amax


def _least_divergence(histogram: Histogram) -> float:
    """The range whose quantized distribution diverges least, among every fourth bin edge and the maximum.

    As in TensorRT's entropy calibration, what lies above a range c is added to the last cell of P below c, while Q
    spreads the mass of each quantization level evenly over the cells that are not empty in it. The cells are the
    histogram's own bins, so every candidate is judged at the same resolution: with cells of equal width a small c
    has few cells per level, little to lose, and wins too often. Zeros are left out: int8 has a zero. No candidate is
    below 1/16 of the maximum, where TensorRT's search begins too (128 of 2048 bins): the magnitudes that follow a
    GELU end in a cliff at 0.17, where its negative values do, and without a floor such a cliff can win.

    Source:
        Szymon Migacz, "8-bit Inference with TensorRT", GTC 2017.
    """
    bins, low, high = _occupied(histogram)
    kept = (bins > 0) & (high > low)
    if not kept.any():
        return histogram.amax
    low, high, mass = low[kept], high[kept], histogram.counts[bins[kept]].astype(np.float64)
    edges = EDGES[bins[-1] - _SEARCHED * _STEPS : bins[-1] + 1 : 4]
    candidates = np.append(edges[edges > max(low[0], ENTROPY_FLOOR * histogram.amax)], histogram.amax)
    return float(candidates[np.argmin(_divergences(low, high, mass, candidates))])


def _divergences(
    low: NDArray[np.float64], high: NDArray[np.float64], mass: NDArray[np.float64], candidates: NDArray[np.float64]
) -> NDArray[np.float64]:
    """KL(P || Q) of each candidate range, in nats.

    With n_i values in cell i of width w_i, and N_l values in W_l of level l, Q's density in a level is N_l / W_l, so
    sum n log(p / q) = sum n_i log(n_i / w_i) - sum N_l log(N_l / W_l) + constants. Prefix sums over the cells give
    the first for all candidates at once, and the second takes 128 look-ups per candidate.
    """
    middle, width = (low + high) / 2, high - low
    mass_below, width_below, entropy_below = (
        np.append(0.0, np.cumsum(term)) for term in (mass, width, mass * np.log(mass / width))
    )
    inside = np.searchsorted(middle, candidates)  # cells below each candidate, at least one
    borders = (np.arange(LEVELS) + 0.5) / LEVELS * candidates[:, np.newaxis]
    starts = np.minimum(np.searchsorted(middle, borders), inside[:, np.newaxis])
    levels = np.column_stack((np.zeros_like(inside), starts, inside))
    level_mass, level_width = np.diff(mass_below[levels]), np.diff(width_below[levels])
    filled = level_mass > 0
    log_density = np.log(np.divide(level_mass, level_width, out=np.ones_like(level_mass), where=filled))
    spread = entropy_below[inside] - np.sum(level_mass * log_density, axis=1)

    last, covered, everything = inside - 1, mass_below[inside], mass_below[-1]
    clipped = everything - covered
    last_level = LEVELS - np.argmax(filled[:, ::-1], axis=1)
    grown = mass[last] + clipped
    added = grown * np.log(grown / width[last]) - mass[last] * np.log(mass[last] / width[last])
    added -= clipped * log_density[np.arange(len(candidates)), last_level]
    return np.asarray((spread + added) / everything + np.log(covered / everything))
