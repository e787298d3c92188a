"""What int8 gains a group in time, and the order of the search."""

import numpy as np
import pytest

from edgehybrid.records import Figure, Target
from edgehybrid.search import estimate_gains, measure_gains, order_groups
from tests.search.nets import grouped, hybrid

SHEET = {
    "gpu_int8_dense": Figure(20.0, "here"),
    "gpu_fp16_dense": Figure(10.0, "here"),
    "memory_bandwidth": Figure(100.0, "here"),
}


def board(**figures: Figure) -> Target:
    return Target("board", "A board", "tensorrt", "typed", ("fp32", "int8"), figures=figures)


def test_a_group_bound_by_arithmetic_saves_half_its_time() -> None:
    graph = hybrid()
    groups = grouped(graph)[1]
    fast = board(**SHEET | {"memory_bandwidth": Figure(1e9, "here")})
    gains = estimate_gains(graph, groups, fast)
    expected = [2 * group.macs / 10e9 / 2 for group in groups]  # operations at 10e12 per second, in ms
    np.testing.assert_allclose(gains.values, expected)
    assert "roofline" in gains.source


def test_a_group_bound_by_memory_saves_what_it_need_not_read() -> None:
    graph = hybrid()
    groups = grouped(graph)[1]
    slow = board(**SHEET | {"memory_bandwidth": Figure(1e-3, "here")})
    gains = estimate_gains(graph, groups, slow)
    elements = 24 * 16 * 16 + 32 * 24 * 9  # the first convolution's input and weight
    assert gains.values[0] == pytest.approx(elements / 1e3)


@pytest.mark.parametrize("missing", SHEET)
def test_without_a_data_sheet_arithmetic_alone_is_compared_and_said_so(missing: str) -> None:
    graph = hybrid()
    groups = grouped(graph)[1]
    gains = estimate_gains(graph, groups, board(**SHEET | {missing: Figure(None, "nobody knows")}))
    np.testing.assert_allclose(gains.values / gains.values[0], [g.macs / groups[0].macs for g in groups])
    assert "board has no rates" in gains.source


def test_the_most_accuracy_per_time_goes_back_first() -> None:
    losses, gains = np.array([1.0, 4.0, 2.0, 0.0, 1.0]), np.array([1.0, 8.0, 1.0, 0.0, 1.0])
    assert order_groups(losses, gains) == (2, 0, 4, 1, 3)
    assert order_groups(np.array([0.1, 5.0]), np.array([0.0, 1.0])) == (0, 1)


def test_measured_layers_go_to_the_groups_they_name() -> None:
    graph = hybrid()
    groups = grouped(graph)[1]
    guess = estimate_gains(graph, groups, board(**SHEET))
    first, second, third = (group.nodes[0] for group in groups[:3])
    both = f"{second} + {third}"
    fp16 = {f"{first} + n_erf_1": 3.0, both: 4.0, "reformat": 9.0}
    int8 = {f"{first} + n_erf_1": 1.0, second: 0.5, third: 2.5, f"{{ForeignNode[{groups[4].nodes[0]}...n_x]}}": 1.0}
    gains = measure_gains(groups, int8, fp16, guess)
    share = groups[1].macs / (groups[1].macs + groups[2].macs)
    np.testing.assert_allclose(gains.values[:3], [2.0, max(4 * share - 0.5, 0), max(4 * (1 - share) - 2.5, 0)])
    np.testing.assert_allclose(gains.values[3:], guess.values[3:])
    assert gains.source.startswith("of 3 groups measured by the engines' profiler, of the other 4 estimated")


def test_a_profile_of_another_network_changes_nothing() -> None:
    graph = hybrid()
    groups = grouped(graph)[1]
    guess = estimate_gains(graph, groups, board(**SHEET))
    assert measure_gains(groups, {"x": 1.0}, {"y": 1.0}, guess) is guess
