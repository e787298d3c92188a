"""Losses: nats, and the agreement of two rankings."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgehybrid.search import divergence, quadratic, spearman


@given(st.integers(0, 1000))
def test_the_quadratic_loss_is_the_divergence_of_small_noise(seed: int) -> None:
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(5, 10)).astype(np.float32) * 3
    noisy = logits + rng.normal(size=(5, 10)).astype(np.float32) * 0.01
    np.testing.assert_allclose(quadratic(logits, noisy), divergence(logits, noisy), rtol=0.1, atol=1e-9)


def test_a_shift_of_all_logits_costs_nothing() -> None:
    logits = np.random.default_rng(0).normal(size=(3, 10)).astype(np.float32)
    np.testing.assert_allclose(quadratic(logits, logits + 1), 0, atol=1e-12)
    np.testing.assert_allclose(divergence(logits, logits + 1), 0, atol=1e-7)


@pytest.mark.parametrize("size", [1e-3, 1e-5, 1e-7])
def test_the_divergence_keeps_its_digits_however_small_and_sure(size: float) -> None:
    """The first order cancels; what is left of a probability of 1 - 1e-9 would be lost in its rounding."""
    logits = np.array([[20.0, 0, -1, 1], [0, 0, 1, 2]])
    noisy = logits + np.random.default_rng(0).normal(size=logits.shape) * size
    np.testing.assert_allclose(divergence(logits, noisy), quadratic(logits, noisy), rtol=3 * size + 1e-6)


@given(st.integers(0, 1000), st.sampled_from([1e-12, 1e-8, 1e-4, 1.0, 100.0]))
def test_the_divergence_is_never_negative(seed: int, size: float) -> None:
    rng = np.random.default_rng(seed)
    logits = rng.normal(size=(4, 10)) * 10
    assert (divergence(logits, logits + rng.normal(size=(4, 10)) * size) >= 0).all()


def test_the_divergence_of_answers_that_exclude_each_other_is_finite() -> None:
    logits = np.array([[0.0, 2000, 0]], np.float32)
    np.testing.assert_array_equal(divergence(logits, logits[:, [1, 0, 2]]), [2000])


@given(st.lists(st.integers(-50, 50), min_size=2, max_size=30))
def test_ranks_ignore_scale_and_reverse_with_sign(numbers: list[int]) -> None:
    x = np.array(numbers, np.float64)
    varied = 1.0 if len(set(numbers)) > 1 else 0.0
    assert spearman(x, x**3) == pytest.approx(varied)
    assert spearman(x, -x) == pytest.approx(-varied)


def test_ties_share_their_rank() -> None:
    """The textbook's example: ranks 1.5, 1.5, 3 against 1, 2, 3."""
    assert spearman(np.array([1.0, 1, 2]), np.array([1.0, 2, 3])) == pytest.approx(np.sqrt(3) / 2)
