"""A picture that is the same to the last bit for too long is frozen; one that changes by a single bit is not."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from edgehybrid.streamer.stillness import PROOF_S, Stillness
from tests.streamer.scenes import picture

ONE, OTHER = picture(1), picture(2)
LIMIT = 5.0


@given(gaps=st.lists(st.floats(0.01, 100), min_size=1, max_size=50))
def test_what_always_changes_never_freezes(gaps: list[float]) -> None:
    stillness, now = Stillness(LIMIT), 0.0
    for number, gap in enumerate(gaps):
        now += gap
        assert stillness.judge((ONE, OTHER)[number % 2], now, 0.0) == "moving"


@given(gaps=st.lists(st.floats(0.01, 2), min_size=2, max_size=50))
def test_what_repeats_freezes_exactly_after_the_limit(gaps: list[float]) -> None:
    stillness, now, since = Stillness(LIMIT), 0.0, gaps[0]
    for number, gap in enumerate(gaps):
        now += gap
        expected = "moving" if number == 0 else "frozen" if now - since > LIMIT else "same"
        assert stillness.judge(ONE.copy(), now, 0.0) == expected


def test_one_bit_anywhere_is_a_change() -> None:
    stillness = Stillness(LIMIT)
    stillness.judge(ONE, 0, 0)
    changed = ONE.copy()
    changed[37, 11, 2] ^= 1
    assert stillness.judge(changed, 6, 0) == "moving"
    assert stillness.judge(np.ascontiguousarray(changed[:, ::-1]), 12, 0) == "moving"
    assert stillness.judge(changed[:40], 18, 0) == "moving"


def test_a_frozen_camera_is_believed_once_a_new_connection_keeps_changing() -> None:
    stillness = Stillness(LIMIT)
    assert [stillness.judge(ONE, now, 0) for now in (0, 4, 6)] == ["moving", "same", "frozen"]
    assert stillness.judge(OTHER, 10, 10) == "frozen"  # an encoder's first picture of a connection
    assert stillness.judge(OTHER, 10 + 2 * PROOF_S, 10) == "frozen"
    assert stillness.judge(ONE, 10.1 + 2 * PROOF_S, 10) == "moving"
