"""Latency statistics and the order of calls; the clock is a fake, so no assertion depends on this machine's speed."""

import math
from collections import Counter
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgehybrid.benchmark import (
    BLOCK,
    compare,
    keep_busy,
    measure,
    measure_interleaved,
    summarise,
    unsteady_note,
    variation,
)
from edgehybrid.errors import InputError
from tests.fakes import FakeClock, FakeRunner

FEEDS = {"input": np.zeros((1, 3, 2, 2), np.float32)}
samples_ms = st.lists(st.floats(1e-3, 1e4), min_size=1, max_size=300)


@given(samples_ms)
def test_no_sample_is_dropped_and_every_statistic_is_numpys(times: list[float]) -> None:
    latency = summarise(times)
    assert latency.samples == tuple(times)
    assert latency.n == len(times)
    for name, percent in (("p50", 50), ("p90", 90), ("p95", 95), ("p99", 99)):
        assert math.isclose(getattr(latency, name), float(np.percentile(times, percent)), rel_tol=1e-9)
    assert latency.p50 == pytest.approx(float(np.median(times)), rel=1e-12)
    assert (latency.min, latency.max) == (min(times), max(times))
    assert latency.mean == pytest.approx(float(np.mean(times)), rel=1e-12)
    assert latency.std == pytest.approx(float(np.std(times)), rel=1e-9, abs=1e-12)


@given(samples_ms)
def test_percentiles_are_ordered(times: list[float]) -> None:
    x = summarise(times)
    assert x.min <= x.p50 <= x.p90 <= x.p95 <= x.p99 <= x.max


def test_percentiles_on_a_case_worked_by_hand() -> None:
    x = summarise([4.0, 1.0, 3.0, 2.0])
    assert (x.p50, x.p90, x.p99) == pytest.approx((2.5, 3.7, 3.97))  # the middle two; 0.9 * 3 = 2.7 steps above 1


@pytest.mark.parametrize("times", [[], [1.0, float("nan")], [float("inf")]])
def test_statistics_of_nothing_or_of_no_number_are_refused(times: list[float]) -> None:
    with pytest.raises(ValueError, match="sample"):
        summarise(times)


def test_measured_are_the_calls_after_warm_up_and_only_they() -> None:
    clock = FakeClock()
    warm = [1.0] * 5  # slow first calls: 5 calls and more than 0.2 s
    runner = FakeRunner(clock=clock, seconds=[*warm, *(0.010 + 0.001 * i for i in range(50))])
    latency = measure(runner, FEEDS, duration=0.0, clock=clock)
    assert latency.samples == pytest.approx([10 + i for i in range(50)])
    assert runner.calls == 55


@pytest.mark.parametrize(
    ("seconds", "options", "warm", "n"),
    [
        (1 / 8, {}, 5, 50),  # 5 calls take longer than 0.2 s, 50 longer than 3 s
        (1 / 64, {}, 13, 192),  # 0.2 s take more than 5 calls, 3 s more than 50
        (1 / 64, {"duration": 0.1}, 13, 50),
        (1 / 64, {"iterations": 400}, 13, 400),
        (1 / 64, {"duration": 5.0, "iterations": 1}, 13, 320),
        (1 / 64, {"warmup": 0.0}, 5, 192),
        (1 / 64, {"warmup": 0.0, "warmup_calls": 0}, 0, 192),
        (16.0, {}, 4, 4),  # the limit of 60 s ends both
        (16.0, {"limit": 25.0}, 2, 2),
        (128.0, {}, 1, 1),  # one call of each is always made
        (16.0, {"duration": 90.0, "iterations": 1}, 5, 6),  # the default limit yields to a longer duration
    ],
)
def test_it_stops_by_time_and_by_calls(seconds: float, options: dict[str, float], warm: int, n: int) -> None:
    clock = FakeClock()
    runner = FakeRunner(clock=clock, seconds=[seconds])
    latency = measure(runner, FEEDS, clock=clock, **options)  # type: ignore[arg-type]
    assert (runner.calls - latency.n, latency.n) == (warm, n)


def test_a_feed_that_does_not_fit_is_refused_before_anything_is_measured() -> None:
    runner = FakeRunner()
    with pytest.raises(InputError):
        measure(runner, {"input": np.zeros((1, 3, 2, 3), np.float32)})
    assert runner.calls == 0


@pytest.mark.parametrize(
    "options", [{"iterations": 0}, {"duration": -1.0}, {"warmup": -1.0}, {"warmup_calls": -1}, {"limit": -1.0}]
)
def test_senseless_limits_are_refused(options: dict[str, float]) -> None:
    with pytest.raises(ValueError, match="needs a runner"):
        measure(FakeRunner(), FEEDS, **options)  # type: ignore[arg-type]


def test_interleaving_without_a_runner_is_refused() -> None:
    with pytest.raises(ValueError, match="needs a runner"):
        measure_interleaved((), FEEDS)


def test_interleaved_calls_alternate_in_blocks_and_who_begins_rotates() -> None:
    clock, diary = FakeClock(), list[str]()
    runners = [FakeRunner(clock=clock, diary=diary, name=name) for name in "abc"]
    measure_interleaved(runners, FEEDS, block=2, warmup=0.0, warmup_calls=0, iterations=12, duration=0.0, clock=clock)
    rounds = ["".join(diary[i : i + 9]) for i in range(0, len(diary), 9)]
    assert rounds == [
        "aaabbbccc", "bbbcccaaa", "cccaaabbb",  # each block: one untimed call, two timed ones
        "cccbbbaaa", "aaacccbbb", "bbbaaaccc",
    ]  # fmt: skip


def test_interleaving_is_fair_each_follows_each_equally_often() -> None:
    clock, diary = FakeClock(), list[str]()
    runners = [FakeRunner(clock=clock, diary=diary, name=name) for name in "abc"]
    measure_interleaved(runners, FEEDS, block=1, warmup=0.0, warmup_calls=0, iterations=60, duration=0.0, clock=clock)
    follows = Counter((x, y) for x, y in pairwise(diary) if x != y)
    assert len(follows) == 6
    assert max(follows.values()) - min(follows.values()) <= 12  # of 20 each, were it perfectly even


def test_interleaved_samples_belong_to_their_runner_and_none_is_lost() -> None:
    clock = FakeClock()
    fast = FakeRunner(clock=clock, seconds=[0.002])
    slow = FakeRunner(clock=clock, seconds=[0.006])
    a, b = measure_interleaved([fast, slow], FEEDS, duration=0.0, clock=clock)
    assert set(np.round(a.samples, 9)) == {2.0}
    assert set(np.round(b.samples, 9)) == {6.0}
    assert a.n == b.n == 50
    assert a.n % BLOCK == 0
    ratio = compare(a, b)
    assert ratio.value == pytest.approx(3.0)
    assert ratio.ci95 == pytest.approx((3.0, 3.0))
    assert ratio.rounds == 10


def test_a_drift_of_the_machine_cancels_in_the_ratio() -> None:
    """The machine slows down to a third; means over time would depend on who was measured when."""
    rng = np.random.default_rng(0)
    drift = np.repeat(np.linspace(1, 3, 40), BLOCK)
    a = summarise(list(10 * drift * rng.uniform(0.99, 1.01, 200)))
    b = summarise(list(8 * drift * rng.uniform(0.99, 1.01, 200)))
    ratio = compare(a, b)
    assert ratio.value == pytest.approx(0.8, rel=0.01)
    assert ratio.ci95 is not None
    assert 0.79 < ratio.ci95[0] <= ratio.value <= ratio.ci95[1] < 0.81


def test_one_disturbed_block_does_not_move_the_ratio() -> None:
    times = [10.0] * 100
    disturbed = [10.0] * 95 + [70.0] * 5
    ratio = compare(summarise(times), summarise(disturbed))
    assert (ratio.value, ratio.ci95) == (1.0, (1.0, 1.0))
    assert summarise(disturbed).max == 70.0  # it is not hidden either


def test_one_disturbed_call_in_every_block_does_not_move_the_ratio() -> None:
    assert compare(summarise([10.0] * 100), summarise([10.0, 10.0, 70.0, 10.0, 10.0] * 20)).value == 1.0


@pytest.mark.parametrize(("rounds", "known"), [(1, False), (5, False), (6, True), (10, True)])
def test_an_interval_needs_six_rounds(rounds: int, known: bool) -> None:
    x = summarise([1.0 + 0.01 * i for i in range(rounds * BLOCK)])
    assert (compare(x, x).ci95 is not None) == known


@pytest.mark.parametrize("n", [50, 52])
def test_a_ratio_of_unrelated_measurements_is_refused(n: int) -> None:
    with pytest.raises(ValueError, match="one interleaved measurement"):
        compare(summarise([1.0] * n), summarise([1.0] * 52))


@pytest.mark.parametrize("rounds", [6, 10, 17, 40])
def test_the_ratios_interval_holds_the_truth_in_at_least_95_percent_of_runs(rounds: int) -> None:
    """Skewed noise with outliers on a common random walk, as machines have it; 400 runs, truth 1.25."""
    rng = np.random.default_rng(rounds)
    held = 0
    for _ in range(400):
        walk = np.repeat(np.exp(np.cumsum(rng.normal(0, 0.05, rounds))), BLOCK)
        noise = rng.lognormal(0, 0.05, (2, rounds * BLOCK)) * np.where(rng.random((2, rounds * BLOCK)) < 0.03, 5, 1)
        a, b = summarise(list(10 * walk * noise[0])), summarise(list(12.5 * walk * noise[1]))
        low, high = compare(a, b).ci95 or (0.0, 0.0)
        held += low <= 1.25 <= high
    assert held >= 370  # 380 expected at least; 3.4 standard deviations of slack


def test_an_unsteady_latency_is_noted_at_trtexecs_threshold() -> None:
    steady, unsteady = summarise([100.0, 102.0] * 50), summarise([100.0, 106.0] * 50)
    assert variation(steady) == pytest.approx(100 / 101)
    assert unsteady_note(steady) is None
    assert "2.9 %" in (unsteady_note(unsteady) or "")


def test_a_network_is_kept_busy_for_a_time_or_a_number_of_calls() -> None:
    clock = FakeClock()
    runner = FakeRunner(clock=clock, seconds=(0.3,))
    assert keep_busy(runner, FEEDS, duration=1.0, clock=clock) == 4  # the fourth was running when the second was over
    assert keep_busy(runner, FEEDS, duration=1.0, limit=2, clock=clock) == 2
    assert keep_busy(runner, FEEDS, duration=0.0, clock=clock) == 1
    assert runner.calls == 7
