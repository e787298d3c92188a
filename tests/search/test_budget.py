"""The search for a budget: it holds it, ends soon, and takes no plan by luck."""

import math

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from edgehybrid.search import rungs, walk


class Plans:
    """Worst cases by number of groups in float, and how often each was looked at."""

    def __init__(self, worst: list[float]) -> None:
        self.worst = worst
        self.looks: list[int] = []

    def __call__(self, kept: int) -> float:
        self.looks.append(kept)
        return self.worst[kept]


@given(st.lists(st.floats(-5, 5), min_size=2, max_size=200), st.floats(-5, 5), st.floats(-5, 5))
def test_whatever_is_taken_holds_the_budget_and_the_search_ends(
    worst: list[float], budget: float, least: float
) -> None:
    groups, plans = len(worst) - 1, Plans(worst)
    found = walk(groups, budget, plans, least=least)
    assert found.kept is None or worst[found.kept] <= budget
    assert [look[0] for look in found.looks] == plans.looks
    assert len(plans.looks) == len(set(plans.looks)) <= 3 + math.log2(groups)
    assert worst[found.closest] == min(worst[kept] for kept in plans.looks)
    assert walk(groups, budget, Plans(worst), least=least) == found


@given(st.integers(1, 500), st.integers(0, 500))
def test_where_more_float_is_never_worse_the_answer_is_at_most_twice_the_best(groups: int, needed: int) -> None:
    needed = min(needed, groups)
    plans = Plans([1.0 if kept < needed else 0.0 for kept in range(groups + 1)])
    found = walk(groups, 0.5, plans, least=0.0)
    if needed <= max(rungs(groups), default=0):
        assert found.kept is not None
        assert needed <= found.kept <= max(2 * needed - 1, 0) + 1
    else:
        assert found.kept is None  # only a network without int8 would do


def test_nothing_is_looked_at_twice_where_no_plan_can_pass() -> None:
    plans = Plans([1.0] * 11)
    found = walk(10, 0.3, plans, least=0.38)
    assert (plans.looks, found.kept) == ([0], None)


def test_the_first_failure_ends_the_search() -> None:
    """A bolder plan that would pass by luck is not tried any more."""
    worst = {0: 9.0, 12: 0.0, 8: 0.0, 4: 9.0, 2: 0.0, 1: 0.0}
    found = walk(16, 1.0, lambda kept: worst[kept], least=0.0)
    assert [kept for kept, _ in found.looks] == [0, 12, 8, 4]
    assert found.kept == 8


def test_a_bad_plan_seldom_passes_however_many_there_are() -> None:
    """Every plan is just beyond the budget, and each look passes one by luck in 2.5 of 100: all looks, in 5."""
    rng = np.random.default_rng(0)
    passed = sum(
        walk(64, 0.0, lambda kept: 1.0 if rng.random() > 0.025 else -1.0, least=-1.0).kept is not None
        for _ in range(4000)
    )
    assert passed / 4000 < 0.06


@given(st.integers(0, 10_000))
def test_rungs_fall_from_careful_to_bold(groups: int) -> None:
    found = rungs(groups)
    assert list(found) == sorted(set(found), reverse=True)
    assert all(0 < rung < groups for rung in found)
    assert not found or found[-1] == 1
