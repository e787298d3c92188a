"""Factors of images and groups: exact where losses are products, and not decided by a few loud images."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgehybrid.search import fit_losses, fit_slopes, spearman

Fit = Callable[[NDArray[np.float64]], NDArray[np.float64]]


def of_losses(losses: NDArray[np.float64]) -> NDArray[np.float64]:
    """Every group ran on every image."""
    return fit_losses(losses)


def of_slopes(losses: NDArray[np.float64]) -> NDArray[np.float64]:
    """Slopes whose squares are the losses."""
    return fit_slopes(np.sqrt(losses))


FITS = pytest.mark.parametrize("fit", [of_losses, of_slopes])
TABLES = st.tuples(st.integers(1, 12), st.integers(1, 12), st.integers(0, 10**6))


def drawn(shape: tuple[int, int, int], spread: float = 2.0) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Factors of images and of groups."""
    rng = np.random.default_rng(shape[2])
    return np.exp(rng.normal(size=shape[0]) * spread), np.exp(rng.normal(size=shape[1]) * spread)


@FITS
@given(TABLES)
def test_products_are_found_exactly(fit: Fit, shape: tuple[int, int, int]) -> None:
    images, groups = drawn(shape)
    np.testing.assert_allclose(fit(np.outer(images, groups)), images.mean() * groups, rtol=1e-6)


@FITS
@given(TABLES)
def test_the_sum_is_that_of_the_means_and_the_order_of_images_is_nothing(fit: Fit, shape: tuple[int, int, int]) -> None:
    images, groups = drawn(shape)
    losses = np.outer(images, groups) * np.random.default_rng(1).chisquare(1, (len(images), len(groups)))
    found = fit(losses)
    assert found.sum() == pytest.approx(losses.sum() / len(images))
    assert (found >= 0).all()
    np.testing.assert_allclose(fit(losses[::-1]), found, rtol=1e-6)


@FITS
def test_loud_images_do_not_decide(fit: Fit) -> None:
    """Among a hundred sets of 30 images whose loudness spreads by e**2, means are behind on nearly all."""
    ahead, behind = [], []
    for seed in range(100):
        images, groups = drawn((30, 25, seed))
        losses = np.outer(images, groups) * np.random.default_rng(seed).chisquare(4, (30, 25))
        ahead.append(spearman(fit(losses), groups))
        behind.append(spearman(losses.mean(axis=0), groups))
    assert np.mean(np.array(ahead) > np.array(behind)) > 0.9
    assert np.mean(ahead) > np.mean(behind) + 0.01


def test_slopes_of_normal_noise_are_fitted_better_than_by_their_mean_squares() -> None:
    ahead, behind = [], []
    for seed in range(50):
        images, groups = drawn((100, 25, seed))
        slopes = np.sqrt(np.outer(images, groups)) * np.random.default_rng(seed).normal(size=(100, 25))
        ahead.append(np.std(np.log(fit_slopes(slopes) / groups)))
        behind.append(np.std(np.log(np.square(slopes).mean(axis=0) / groups)))
    assert np.mean(ahead) < 0.17  # sqrt(2 / 100) is the least that any estimate has, Cramer-Rao
    assert np.mean(behind) > 2 * np.mean(ahead)


def test_images_and_groups_without_any_slope_take_no_part() -> None:
    images, groups = drawn((8, 5, 3))
    slopes = np.sqrt(np.outer(images, groups))
    slopes[2], slopes[:, 4] = 0, 0
    found = fit_slopes(slopes)
    assert found[4] == 0
    np.testing.assert_allclose(found[:4] / groups[:4], np.delete(images, 2).sum() / 8, rtol=1e-6)


@pytest.mark.parametrize("shape", [(0, 3), (4, 3)])
def test_no_slopes_at_all_cost_nothing(shape: tuple[int, int]) -> None:
    np.testing.assert_array_equal(fit_slopes(np.zeros(shape)), np.zeros(3))


def test_a_group_that_ran_on_some_images_is_compared_on_those() -> None:
    images, groups = drawn((40, 6, 5))
    dealt = np.random.default_rng(0).permuted(np.tile(np.arange(6), (40, 1)), axis=1)[:, :3]
    losses = images[:, None] * groups[dealt]
    found = fit_losses(losses, dealt, 6)
    np.testing.assert_array_equal(np.argsort(found), np.argsort(groups))
