"""Designs: losses of single groups from a few runs per image."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from edgehybrid.search import count_rounds, estimate, leave_one_out, owners, spearman, switch
from tests.search.nets import answering, grouped, hybrid, images, twin


class Additive:
    """A network in which the logit errors of the groups simply add up, larger on some images than on others."""

    def __init__(self, groups: int, seed: int) -> None:
        self.random = np.random.default_rng(seed)
        self.sizes = np.exp(self.random.normal(size=groups)) * 1e-3
        self.calls = 0

    def __call__(self, choice: NDArray[np.bool_], batch: NDArray[np.float32]) -> NDArray[np.float32]:
        self.calls += 1
        logits = np.zeros((len(batch), 8), np.float32)
        for group in np.flatnonzero(choice):
            noise = np.random.default_rng([group, int(batch[0, 0, 0, 0] * 1e6)]).normal(size=8)
            logits += np.float32(self.sizes[group] * batch[0, 0, 0, 0]) * noise.astype(np.float32)
        return logits


def pieces(count: int, seed: int = 0) -> list[NDArray[np.float32]]:
    scale = np.exp(np.random.default_rng(seed).normal(size=count))
    return [np.full((1, 1, 1, 1), s, np.float32) for s in scale]


def quiet(done: int) -> None:
    """Nobody watches."""


@given(st.integers(1, 40), st.integers(1, 60), st.integers(0, 5))
def test_the_runs_are_those_announced_and_every_group_gets_its_share(groups: int, count: int, seed: int) -> None:
    network = Additive(groups, seed)
    found = estimate(network, pieces(count), groups=groups, count=count, seed=seed, progress=quiet)
    assert network.calls == count * (1 + count_rounds(count, groups))
    assert found.shape == (groups,)
    assert np.isfinite(found).all()
    assert (found >= 0).all()


def test_a_hundred_images_cost_five_passes_each_for_two_hundred_groups() -> None:
    assert 1 + count_rounds(100, 200) == 5


@pytest.mark.parametrize("seed", range(3))
def test_the_ranking_is_found_although_images_differ_in_weight(seed: int) -> None:
    network = Additive(40, seed)
    found = estimate(network, pieces(100), groups=40, count=100, seed=seed, progress=quiet)
    assert spearman(found, network.sizes) > 0.9
    again = estimate(network, pieces(100), groups=40, count=100, seed=seed, progress=quiet)
    np.testing.assert_array_equal(found, again)


def test_a_group_without_any_effect_comes_last_and_spoils_nothing() -> None:
    network = Additive(10, 0)
    network.sizes[3] = 0.0
    found = estimate(network, pieces(60), groups=10, count=60, seed=0, progress=quiet)
    assert found.argmin() == 3
    assert spearman(np.delete(found, 3), np.delete(network.sizes, 3)) > 0.85


def test_leave_one_out_measures_every_group_on_every_image() -> None:
    network = Additive(12, 1)
    found = leave_one_out(network, pieces(20), groups=12, progress=quiet)
    assert network.calls == 20 * (1 + 12)
    assert found.shape == (20, 12)
    assert spearman(found.mean(axis=0), network.sizes) > 0.9


def test_a_real_network_is_ranked_as_leave_one_out_ranks_it() -> None:
    graph = hybrid()
    made, quantized = twin(graph)
    _, groups = grouped(graph)
    answer = answering(switch(graph, quantized, owners(graph, made, groups)))
    seen, others = [x[None] for x in images(40)], [x[None] for x in images(40, seed=1)]
    found = estimate(answer, seen, groups=len(groups), count=40, seed=0, progress=quiet)
    measured = leave_one_out(answer, others, groups=len(groups), progress=quiet).mean(axis=0)
    assert spearman(found, measured) >= 0.8
    assert 0.5 < found.sum() / measured.sum() < 2
