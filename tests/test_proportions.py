"""Intervals and tests of shares: against published values and exact arithmetic."""

import math
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgehybrid.proportions import mcnemar, paired_interval, wilson


def test_wilsons_interval_is_the_published_one() -> None:
    """Newcombe, Statistics in Medicine 17 (1998) 857-872, table I, method 3."""
    assert wilson(81, 263) == pytest.approx((0.2553, 0.3662), abs=5e-5)
    assert wilson(15, 148) == pytest.approx((0.0624, 0.1605), abs=5e-5)
    assert wilson(0, 20) == pytest.approx((0.0, 0.1611), abs=5e-5)
    assert wilson(1, 29) == pytest.approx((0.0061, 0.1718), abs=5e-5)


def test_wilsons_interval_stays_inside_and_is_never_empty() -> None:
    for n in (1, 2, 50, 10_000):
        for right in {0, 1, n // 2, n - 1, n}:
            low, high = wilson(right, n)
            assert 0 <= low <= right / n <= high <= 1
            assert high - low > 1e-5


@given(st.integers(0, 40), st.integers(0, 40))
def test_mcnemars_p_is_the_exact_binomial(lost: int, gained: int) -> None:
    n = lost + gained
    tail = Fraction(sum(math.comb(n, i) for i in range(min(lost, gained) + 1)), 2**n)
    assert mcnemar(lost, gained) == pytest.approx(float(min(Fraction(1), 2 * tail)), rel=1e-9)


def test_mcnemars_p_of_a_whole_imagenet_is_a_number() -> None:
    n, k = 50_000, 24_500
    p = mcnemar(n - k, k)
    normal = math.erfc((n / 2 - k - 0.5) / math.sqrt(n / 4) / math.sqrt(2))
    assert p == pytest.approx(normal, rel=1e-2)
    assert mcnemar(40_000, 0) == 0.0


@pytest.mark.parametrize(("b", "c", "n"), [(0, 0, 20), (3, 1, 50), (12, 2, 50), (0, 9, 64), (40, 25, 1000), (5, 5, 10)])
def test_the_ends_of_tangos_interval_solve_his_equation_with_the_rates_that_are_likeliest(
    b: int, c: int, n: int
) -> None:
    """The constrained rate is found by search here, by a formula there."""
    z = 1.959963984540054
    for end in (float(x) for x in paired_interval(b, c, n)):
        rates = np.linspace(max(0.0, -end), (1 - end) / 2, 400_001)[1:-1]
        with np.errstate(divide="ignore"):
            likelihood = b * np.log(rates + end) + c * np.log(rates) + (n - b - c) * np.log(1 - 2 * rates - end)
        rate = rates[np.argmax(likelihood)]
        score = (b - c - n * end) / math.sqrt(n * (2 * rate + end * (1 - end)))
        assert abs(score) == pytest.approx(z, rel=2e-3)
