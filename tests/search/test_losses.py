"""Losses: nats, and the agreement of two rankings."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgehybrid.divergence import divergence
from edgehybrid.search import quadratic, spearman


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


@given(st.lists(st.integers(-50, 50), min_size=2, max_size=30))
def test_ranks_ignore_scale_and_reverse_with_sign(numbers: list[int]) -> None:
    x = np.array(numbers, np.float64)
    varied = 1.0 if len(set(numbers)) > 1 else 0.0
    assert spearman(x, x**3) == pytest.approx(varied)
    assert spearman(x, -x) == pytest.approx(-varied)


def test_ties_share_their_rank() -> None:
    """The textbook's example: ranks 1.5, 1.5, 3 against 1, 2, 3."""
    assert spearman(np.array([1.0, 1, 2]), np.array([1.0, 2, 3])) == pytest.approx(np.sqrt(3) / 2)
