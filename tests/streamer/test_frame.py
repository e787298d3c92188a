"""The mailbox: the newest frame wins, nothing is lost uncounted, nobody waits for ever."""

import threading
import time

from hypothesis import given
from hypothesis import strategies as st

from edgehybrid.streamer.frame import Frame, Mailbox
from tests.streamer.scenes import picture

PICTURE = picture()


def frame(number: int) -> Frame:
    return Frame(number, PICTURE, 0.0, live=True)


@given(st.lists(st.booleans(), max_size=40), st.integers(0, 2))
def test_what_is_taken_is_the_newest_and_the_rest_is_counted(puts: list[bool], late: int) -> None:
    """Also frames that come when the box is closed: a reader may have been on its way."""
    box, put, taken = Mailbox(), 0, []
    for is_put in puts:
        if is_put:
            box.put(frame(put))
            put += 1
        elif (got := box.take(0)) is not None:
            assert got.id == put - 1
            taken.append(got.id)
    box.close()
    for number in range(late):
        box.put(frame(put + number))
    assert taken == sorted(set(taken))
    assert put + late == len(taken) + box.dropped


def test_a_clip_is_handed_over_frame_by_frame() -> None:
    box, taken = Mailbox(), []

    def read() -> None:
        for number in range(50):
            assert box.hand_over(frame(number), lambda: True)

    reader = threading.Thread(target=read)
    reader.start()
    while len(taken) < 50:
        got = box.take(1)
        assert got is not None
        taken.append(got.id)
    reader.join()
    assert (taken, box.dropped) == (list(range(50)), 0)


def test_closing_wakes_everybody() -> None:
    box = Mailbox()
    results: list[object] = []
    box.put(frame(0))
    waiting = threading.Thread(target=lambda: results.append(box.hand_over(frame(1), lambda: True)))
    waiting.start()
    box.close()
    waiting.join(2)
    assert results == [False]
    assert box.take(5) is None
    box.put(frame(2))
    assert box.take(0) is None


def test_taking_from_an_empty_box_ends_in_time() -> None:
    began = time.monotonic()
    assert Mailbox().take(0.05) is None
    assert time.monotonic() - began >= 0.05
