"""Divergence of the answers of two classifiers."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgehybrid.divergence import divergence
from edgehybrid.search import quadratic


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
