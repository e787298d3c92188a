"""Ranges: each method against brute force, and the laws that hold for all of them."""

import math
from typing import get_args

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray

from edgehybrid.calibrator import choose, expected_error, range_of
from edgehybrid.calibrator.histogram import EDGES, Histogram, Tally
from edgehybrid.calibrator.observations import Observations
from edgehybrid.calibrator.ranges import DEAD_AMAX, ENTROPY_FLOOR, SLACK
from edgehybrid.records import Method

LAW = settings(deadline=None)
METHODS: tuple[Method, ...] = get_args(Method)
FLOATS = hnp.arrays(
    np.float32,
    st.integers(1, 300),
    elements=st.one_of(
        st.floats(-100, 100, width=32),
        st.floats(width=32, allow_nan=False, allow_infinity=False),
        st.just(0.0),
    ),
)


def tally(array: NDArray[np.float32]) -> Histogram:
    counter = Tally()
    counter.add(array)
    return counter.histogram()


def images_of(*peaks: float) -> Histogram:
    """A tensor of two values per image, one a tenth of the other."""
    counter = Tally()
    for image in np.outer(peaks, (0.1, -1)).astype(np.float32):
        counter.add(image)
    return counter.histogram()


def pick(histogram: Histogram, method: Method, percentile: float = 99.99, exponent: int = 2) -> float:
    other = images_of(1, 1, 1, 100 if exponent == 3 else 1)
    seen = Observations({"x": histogram, "other": other}, 4)
    ranges = choose(seen, method, images=4, sha256="", percentile=percentile)
    assert ranges.exponent == exponent
    return ranges.tensors["x"]


def quantize(array: NDArray[np.float64], amax: float) -> NDArray[np.float64]:
    scale = amax / 127
    return np.clip(np.rint(array / scale), -127, 127) * scale


def sample(name: str, size: int = 40_000) -> NDArray[np.float32]:
    random = np.random.default_rng(0)
    x = random.normal(size=size)
    arrays = {
        "normal": x,
        "uniform": random.uniform(-3, 3, size),
        "laplace": random.laplace(size=size),
        "student": random.standard_t(3, size),
        "lognormal": np.exp(2 * x),
        "gelu": 0.5 * x * (1 + np.tanh(0.8 * (x + 0.045 * x**3))),
        "relu": np.maximum(x - 1, 0),
        "outlier": np.append(x, 1000),
        "tiny": 1e-12 * random.laplace(size=size),
        "huge": 1e30 * random.laplace(size=size),
    }
    return arrays[name].astype(np.float32)


DISTRIBUTIONS = (
    "normal", "uniform", "laplace", "student", "lognormal", "gelu", "relu", "outlier", "tiny", "huge",
)  # fmt: skip
HEAVY_TAILS = ("laplace", "student", "lognormal", "outlier")


@settings(LAW)
@given(FLOATS)
def test_no_range_exceeds_the_observed_maximum_and_all_are_positive(array: NDArray[np.float32]) -> None:
    histogram = tally(array)
    for method in METHODS:
        amax = pick(histogram, method)
        assert 0 < amax <= (histogram.amax if histogram.amax >= 2.0**-100 else DEAD_AMAX)
        assert np.float32(amax / 127) > 0


@settings(LAW)
@given(FLOATS)
def test_the_least_error_is_never_above_that_of_minmax(array: NDArray[np.float32]) -> None:
    histogram = tally(array)
    least, most = (expected_error(histogram, amax) for amax in (range_of(array), pick(histogram, "minmax")))
    assert least <= most
    assert expected_error(histogram, pick(histogram, "mse")) <= most


@settings(LAW)
@given(FLOATS, st.floats(0.1, 100), st.floats(0.1, 100))
def test_percentiles_are_monotone(array: NDArray[np.float32], first: float, second: float) -> None:
    histogram = tally(np.append(array, np.float32(1)))
    ranges = [pick(histogram, "percentile", p) for p in sorted((first, second))]
    if ranges[0] < histogram.amax:  # the maximum also stands in for a percentile of zero
        assert ranges[0] <= ranges[1]


@settings(LAW)
@given(FLOATS, st.sampled_from(METHODS))
def test_a_value_inside_the_range_moves_by_at_most_half_a_step(array: NDArray[np.float32], method: Method) -> None:
    amax = pick(tally(array), method)
    inside = array[np.abs(array) <= amax].astype(np.float64)
    assert (np.abs(quantize(inside, amax) - inside) <= amax / 127 / 2 * (1 + 1e-12)).all()


@pytest.mark.parametrize("exponent", [2, 3])
@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_expected_error_is_the_error_of_the_data(name: str, exponent: int) -> None:
    array = sample(name)
    histogram = tally(array)
    for fraction in (1, 0.7, 0.3, 0.05):
        amax = fraction * histogram.amax
        exact = np.mean(np.abs(quantize(array.astype(np.float64), amax) - array) ** exponent)
        assert expected_error(histogram, amax, exponent) == pytest.approx(exact, rel=0.02)


@pytest.mark.parametrize("exponent", [2, 3])
@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_the_least_error_is_within_a_percent_of_the_best_for_the_data(name: str, exponent: int) -> None:
    array = sample(name).astype(np.float64)

    def error(amax: float) -> float:
        return float(np.mean(np.abs(quantize(array, amax) - array) ** exponent))

    amax = np.abs(array).max()
    best = min(error(candidate) for candidate in amax * np.geomspace(0.02, 1, 200))
    chosen = range_of(sample(name)) if exponent == 2 else pick(tally(sample(name)), "mse", exponent=exponent)
    assert error(chosen) <= 1.01 * best


@settings(LAW, max_examples=20)
@given(FLOATS, st.sampled_from((2, 3)))
def test_the_least_error_is_that_of_all_bin_edges(array: NDArray[np.float32], exponent: int) -> None:
    histogram = tally(np.append(array, np.float32(50)))
    top = int(np.flatnonzero(histogram.counts)[-1])
    errors = [expected_error(histogram, float(edge), exponent) for edge in EDGES[top - 1200 : top + 1 : 3]]
    amax = range_of(np.append(array, np.float32(50))) if exponent == 2 else pick(histogram, "mse", exponent=exponent)
    assert expected_error(histogram, amax, exponent) <= min(errors) * (1 + 1e-6)


@settings(LAW, max_examples=20)
@given(FLOATS)
def test_mse_is_the_widest_range_of_little_more_than_the_least_error(array: NDArray[np.float32]) -> None:
    histogram = tally(np.append(array, np.float32(50)))
    top = int(np.flatnonzero(histogram.counts)[-1])
    edges = [*EDGES[top - 1200 : top + 1].tolist(), histogram.amax]
    errors = np.array([expected_error(histogram, edge) for edge in edges])
    chosen = pick(histogram, "mse")
    within = SLACK * errors.min()
    assert expected_error(histogram, chosen) <= within * (1 + 1e-6)
    assert all(error >= within * (1 - 1e-6) for edge, error in zip(edges, errors, strict=True) if edge > chosen)


@pytest.mark.parametrize(
    ("peaks", "exponent"),
    [
        ([1, 2, 1, 3, 2], 2),
        ([1, 1, 1, 2.1], 2),
        ([1, 2, 1, 5, 2], 3),
        ([1, 2, 1, 300, 2], 3),
        ([7], 2),
        ([0, 0], 2),
        ([0, 0, 0, 5], 2),
    ],
)
def test_the_exponent_rises_where_few_images_reach_far_beyond_the_rest(peaks: list[float], exponent: int) -> None:
    seen = Observations({"x": tally(sample("student")), "y": images_of(*peaks)}, len(peaks))
    assert choose(seen, "mse", images=1, sha256="").exponent == exponent
    assert choose(seen, "minmax", images=1, sha256="").exponent == 2


@pytest.mark.parametrize(("even", "exponent"), [(3, 3), (4, 2)])
def test_the_exponent_rises_where_they_do_so_in_a_quarter_of_the_tensors(even: int, exponent: int) -> None:
    tensors = {"loud": images_of(1, 1, 300)} | {f"even {i}": images_of(1, 1, 2) for i in range(even)}
    assert choose(Observations(tensors, 3), "mse", images=3, sha256="").exponent == exponent


def test_a_tensor_that_is_known_to_be_even_does_not_raise_the_exponent() -> None:
    seen = Observations({"loud": images_of(1, 1, 300)}, 3)
    assert choose(seen, "mse", images=3, sha256="").exponent == 3
    assert choose(seen, "mse", images=3, sha256="", even={"loud"}).exponent == 2


def test_a_tensor_that_few_images_fill_is_marked_with_what_it_leaves_the_median_one() -> None:
    loud = [1.0, 2.0, 1.0, 100.0, 1.0]
    tensors = {"loud": images_of(*loud), "even": images_of(1, 2, 3), "dark": images_of(0, 0), "dead": images_of(1e-35)}
    seen = Observations(tensors, 5)
    assert choose(seen, "minmax", images=5, sha256="").uneven == {"loud": pytest.approx(127 / 100, abs=0.1)}
    assert choose(seen, "minmax", images=5, sha256="", known={"loud": 100.0}).uneven == {}
    assert choose(seen, "percentile", images=5, sha256="", percentile=60).uneven == {}  # which clips the loud image


def test_tensors_of_one_range_are_judged_by_the_loudest_of_them() -> None:
    seen = Observations({"quiet": images_of(1, 1, 1), "loud": images_of(50, 50, 50)}, 3)
    assert choose(seen, "minmax", images=3, sha256="", tied=[("loud", "quiet")]).uneven == {}


def test_clipping_pays_on_a_heavy_tail_and_not_on_a_uniform_distribution() -> None:
    for name in ("laplace", "student", "outlier"):
        histogram = tally(sample(name, 1_000_000))
        assert pick(histogram, "mse") < 0.9 * histogram.amax
    assert pick(tally(sample("uniform")), "mse") > 0.99 * 3


def divergence(histogram: Histogram, amax: float) -> float:
    """KL(P || Q) by the definition, cell by cell."""
    bins = np.flatnonzero(histogram.counts)
    bins = bins[bins > 0]
    low, high = EDGES[bins], np.minimum(EDGES[bins + 1], histogram.amax)
    bins, low, high = bins[high > low], low[high > low], high[high > low]
    counts = histogram.counts[bins].astype(np.float64)
    inside = (low + high) / 2 < amax
    p = counts[inside].copy()
    p[-1] += counts[~inside].sum()
    level = np.rint((low + high)[inside] / 2 / amax * 127)
    q = np.zeros_like(p)
    for i in np.unique(level):
        cells = level == i
        width = (high - low)[inside][cells]
        q[cells] = counts[inside][cells].sum() * width / width.sum()
    p, q = p / p.sum(), q / q.sum()
    return float(np.sum(p * np.log(p / q)))


@pytest.mark.parametrize("name", DISTRIBUTIONS)
def test_entropy_is_the_least_divergence_of_many_candidates(name: str) -> None:
    histogram = tally(sample(name))
    top = int(np.flatnonzero(histogram.counts)[-1])
    edges = EDGES[top - 6 * 128 : top + 1 : 8]
    candidates = [*edges[edges > ENTROPY_FLOOR * histogram.amax].tolist(), histogram.amax]
    found = divergence(histogram, pick(histogram, "entropy"))
    assert found <= min(divergence(histogram, candidate) for candidate in candidates) * (1 + 1e-6) + 1e-9


def test_entropy_does_not_fall_for_the_cliff_where_the_negative_values_of_a_gelu_end() -> None:
    rng = np.random.default_rng(0)
    x = np.concatenate([rng.normal(-2, 1, 100_000), rng.normal(4, 4, 2_000)])
    array = (x / 2 * (1 + np.vectorize(math.erf)(x / math.sqrt(2)))).astype(np.float32)
    assert pick(tally(array), "entropy") > array.max() / 16


@pytest.mark.parametrize("name", HEAVY_TAILS)
def test_entropy_differs_from_the_maximum_on_a_heavy_tail(name: str) -> None:
    histogram = tally(sample(name, 1_000_000))
    assert pick(histogram, "entropy") < 0.9 * histogram.amax


@pytest.mark.parametrize("name", DISTRIBUTIONS)
@pytest.mark.parametrize("percent", [50, 90, 99, 99.9, 100])
def test_percentile_is_that_of_the_data_within_a_bin(name: str, percent: float) -> None:
    array = sample(name)
    exact = float(np.percentile(np.abs(array), percent, method="inverted_cdf"))
    if exact > 0:
        assert pick(tally(array), "percentile", percent) == pytest.approx(exact, rel=1 / 128)


@pytest.mark.parametrize("method", METHODS)
def test_a_tensor_of_zeros_gets_a_positive_range(method: Method) -> None:
    for value in (0.0, 1e-45, 1e-38):
        assert pick(tally(np.full(100, value, np.float32)), method) == DEAD_AMAX
    assert np.float16(DEAD_AMAX / 127) == np.finfo(np.float16).smallest_normal


@pytest.mark.parametrize("method", METHODS)
def test_a_tensor_of_one_value_gets_a_range_that_holds_it(method: Method) -> None:
    for value in (0.3, -1.0, 65504.0):
        amax = pick(tally(np.full(100, value, np.float32)), method)
        assert abs(float(quantize(np.array(value), amax)) - value) <= 0.01 * abs(value)


def test_percentile_of_a_tensor_that_is_nearly_always_zero_is_the_maximum() -> None:
    array = np.zeros(1_000_000, np.float32)
    array[3] = 5
    assert pick(tally(array), "percentile") == 5


@pytest.mark.parametrize("percentile", [0.0, -1.0, 100.1, float("nan")])
def test_a_percentile_out_of_range_is_refused(percentile: float) -> None:
    with pytest.raises(ValueError, match="percentile"):
        pick(tally(np.ones(3, np.float32)), "percentile", percentile)


def test_ranges_are_in_alphabetical_order_and_say_where_they_come_from() -> None:
    ones = tally(np.ones(3, np.float32))
    ranges = choose(Observations({"b": ones, "a": ones}, 7), "minmax", images=7, sha256="f00")
    assert list(ranges.tensors) == ["a", "b"]
    assert (ranges.method, ranges.images, ranges.sha256) == ("minmax", 7, "f00")
