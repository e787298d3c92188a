"""Factors of images and groups: exact where losses are products, and not decided by a few loud images."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgehybrid.search import spearman, weigh

ROOTS = pytest.mark.parametrize("root", [1, 2])
TABLES = st.tuples(st.integers(1, 12), st.integers(1, 12), st.integers(0, 10**6))


def drawn(shape: tuple[int, int, int], spread: float = 2.0) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Factors of images and of groups."""
    rng = np.random.default_rng(shape[2])
    return np.exp(rng.normal(size=shape[0]) * spread), np.exp(rng.normal(size=shape[1]) * spread)


@ROOTS
@given(TABLES)
def test_products_are_found_exactly(root: int, shape: tuple[int, int, int]) -> None:
    images, groups = drawn(shape)
    np.testing.assert_allclose(weigh(np.outer(images, groups), root=root), images.mean() * groups, rtol=1e-9)


@ROOTS
@given(TABLES)
def test_the_sum_is_that_of_the_means_in_any_order_of_images(root: int, shape: tuple[int, int, int]) -> None:
    images, groups = drawn(shape)
    losses = np.outer(images, groups) * np.random.default_rng(1).chisquare(1, (len(images), len(groups)))
    found = weigh(losses, root=root)
    assert found.sum() == pytest.approx(losses.sum() / len(images))
    assert (found >= 0).all()
    np.testing.assert_allclose(weigh(losses[::-1], root=root), found, rtol=1e-9)


@ROOTS
def test_loud_images_do_not_decide(root: int) -> None:
    """Among a hundred sets of 30 images whose loudness spreads by e**2, means are behind on nearly all."""
    ahead, behind = [], []
    for seed in range(100):
        images, groups = drawn((30, 25, seed))
        losses = np.outer(images, groups) * np.random.default_rng(seed).chisquare(4, (30, 25))
        ahead.append(spearman(weigh(losses, root=root), groups))
        behind.append(spearman(losses.mean(axis=0), groups))
    assert np.mean(np.array(ahead) > np.array(behind)) > 0.9
    assert np.mean(ahead) > np.mean(behind) + 0.01


def test_squares_of_normal_slopes_are_fitted_better_than_by_their_means() -> None:
    ahead, behind = [], []
    for seed in range(50):
        images, groups = drawn((100, 25, seed))
        squares = np.outer(images, groups) * np.random.default_rng(seed).normal(size=(100, 25)) ** 2
        ahead.append(np.std(np.log(weigh(squares) / groups)))
        behind.append(np.std(np.log(squares.mean(axis=0) / groups)))
    assert np.mean(ahead) < 0.17  # sqrt(2 / 100) is the least that any estimate has, Cramer-Rao
    assert np.mean(behind) > 2 * np.mean(ahead)


@ROOTS
@pytest.mark.parametrize("touched", [1, 10, 48, 90])
def test_a_group_that_touches_few_images_is_not_lost(root: int, touched: int) -> None:
    """Its cost is less than its mean, as on the other images it costs nothing, by a bounded factor."""
    losses = np.full((96, 25), 1e-3)
    losses[touched:, 7] = 0
    found = weigh(losses, root=root)
    mean = losses[:, 7].mean()
    assert mean * (touched / 96) ** (root - 1) / 8**root < found[7] <= mean * 1.01


@ROOTS
def test_a_group_that_costs_much_on_half_of_the_images_leads(root: int) -> None:
    losses = np.full((16, 5), 1e-3)
    losses[:, 2] = np.arange(16) % 2
    assert weigh(losses, root=root).argmax() == 2


@ROOTS
def test_images_and_groups_without_any_loss_take_no_part(root: int) -> None:
    images, groups = drawn((8, 5, 3))
    losses = np.outer(images, groups)
    losses[2], losses[:, 4] = 0, 0
    found = weigh(losses, root=root)
    assert found[4] == 0
    np.testing.assert_allclose(found[:4] / groups[:4], np.delete(images, 2).sum() / 8, rtol=1e-9)


@ROOTS
@pytest.mark.parametrize("shape", [(0, 3), (4, 3)])
def test_no_losses_at_all_cost_nothing(root: int, shape: tuple[int, int]) -> None:
    np.testing.assert_array_equal(weigh(np.zeros(shape), root=root), np.zeros(3))


@ROOTS
def test_a_group_that_ran_on_some_images_is_compared_on_those(root: int) -> None:
    images, groups = drawn((40, 6, 5))
    dealt = np.random.default_rng(0).permuted(np.tile(np.arange(6), (40, 1)), axis=1)[:, :3]
    losses = images[:, None] * groups[dealt]
    found = weigh(losses, dealt, 6, root=root)
    np.testing.assert_array_equal(np.argsort(found), np.argsort(groups))
