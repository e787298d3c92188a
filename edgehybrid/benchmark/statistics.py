"""Statistics of latency samples: percentiles, scatter, and how many times as long one call takes as another."""

import math
from collections.abc import Sequence

import numpy as np

from edgehybrid.records import Latency, Ratio

BLOCK = 5
"""Timed calls in a row per runner and round of an interleaved measurement."""
UNSTEADY = 2.5
"""Percent. trtexec warns where the coefficient of variation exceeds this."""


def summarise(samples: Sequence[float]) -> Latency:
    """Statistics of latency samples.

    Percentiles interpolate linearly between the two nearest samples, exactly as `numpy.percentile` does by
    default, so p50 of an even number of samples is the mean of the middle two. trtexec's median is the same;
    its other percentiles are the nearest sample at or above instead, hence never smaller than ours.
    `std` is the population's (divided by n), as trtexec's is.

    Args:
        samples: Milliseconds in order of measurement, at least one, all finite.
    """
    times = np.asarray(samples, dtype=np.float64)
    if times.size == 0 or not np.isfinite(times).all():
        raise ValueError("latency statistics need at least one sample, all of them finite")
    p50, p90, p95, p99 = (float(p) for p in np.percentile(times, (50, 90, 95, 99)))
    return Latency(
        p50=p50,
        p90=p90,
        p95=p95,
        p99=p99,
        min=float(times.min()),
        max=float(times.max()),
        mean=float(times.mean()),
        std=float(times.std()),
        n=int(times.size),
        samples=tuple(float(t) for t in times),
    )


def compare(reference: Latency, latency: Latency, *, block: int = BLOCK) -> Ratio:
    """How many times as long as the reference a call takes, with a 95 % interval.

    Each round of the interleaved measurement gives one ratio of the two runners' block medians; `value` is
    the median of these. A slow drift of the machine cancels within a round, and a disturbance spoils one
    round, not the result. The interval is the sign test's: the k-th smallest to the k-th largest round,
    with k as large as 95 % allows. It holds whatever the distribution, as long as rounds are independent;
    it needs 6 rounds.

    Args:
        reference: One result of `measure_interleaved`.
        latency: Another of the same call.
        block: The same as there.

    Raises:
        ValueError: The two were not measured in one call with this block.

    Source:
        Interval of a median from order statistics: Conover, Practical Nonparametric Statistics, section 3.2.
    """
    if reference.n != latency.n or reference.n % block or len(reference.samples) != len(latency.samples):
        raise ValueError("a ratio needs two latencies of one interleaved measurement")
    medians = [np.median(np.reshape(x.samples, (-1, block)), axis=1) for x in (reference, latency)]
    ratios = np.sort(medians[1] / medians[0])
    rounds = len(ratios)
    k = _sign_test_rank(rounds)
    interval = (float(ratios[k - 1]), float(ratios[rounds - k])) if k else None
    return Ratio(float(np.median(ratios)), interval, rounds)


def nearest_percentile(latency: Latency, percent: float) -> float:
    """The sample that trtexec would print for a percentile: none is made up between two.

    Args:
        latency: With its samples.
        percent: Above 0, at most 100.

    Source:
        trtexec's findPercentile: of n sorted samples the one at n - 1 - int((1 - p / 100) n), counted from 0.
    """
    if not 0 < percent <= 100:
        raise ValueError(f"a percentile is above 0 and at most 100, got {percent}")
    times = sorted(latency.samples)
    return times[len(times) - 1 - min(int((100 - percent) * len(times) / 100), len(times) - 1)]


def variation(latency: Latency) -> float:
    """Coefficient of variation, in percent of the mean."""
    return 100 * latency.std / latency.mean


def unsteady_note(latency: Latency) -> str | None:
    """What to say about a latency whose samples scatter more than trtexec would pass over, else None."""
    spread = variation(latency)
    if spread <= UNSTEADY:
        return None
    return (
        f"unsteady: samples vary by {spread:.1f} % of their mean (above {UNSTEADY} %); compare medians, "
        "and measure again with other programs closed and clocks fixed"
    )


def _sign_test_rank(n: int) -> int:
    """Largest k so that the k-th smallest to the k-th largest of n values hold the median at 95 %, or 0."""
    tail, k = 0.0, 0
    while True:
        tail += math.exp(math.lgamma(n + 1) - math.lgamma(k + 1) - math.lgamma(n - k + 1) - n * math.log(2))
        if tail > 0.025 or k >= n:
            return k
        k += 1
