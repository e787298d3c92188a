"""A run: what is inferred, what is not, in which order, and how it ends."""

import itertools
import queue
import threading
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from edgehybrid.errors import InputError, StageError
from edgehybrid.streamer import capture, stillness
from edgehybrid.streamer.capture import is_blank
from edgehybrid.streamer.network import Network
from edgehybrid.streamer.session import Limits, Session
from edgehybrid.streamer.source import LostError, Reader
from edgehybrid.streamer.synthetic import SyntheticReader
from edgehybrid.streamer.tally import FATES
from tests.streamer.scenes import Diary, ListReader, picture, subject


@pytest.fixture
def network(tmp_path: Path) -> Network:
    return Network(subject(tmp_path), threads=1)


class Enough:
    """A watcher that ends a run after some answers."""

    def __init__(self, answers: int) -> None:
        self._left, self.session = answers, None

    def answered(self, answer: object, *, late: bool) -> None:
        self._left -= 1
        if self._left == 0 and self.session is not None:
            self.session.stop()

    def changed(self, health: object) -> None:
        pass

    session: Session | None


def run(
    connect: Callable[[], Reader], network: Network, limits: Limits, *, live: bool = True, answers: int = 10**9
) -> tuple[Session, Diary]:
    """Run to the end of the limits, or until there are so many answers."""
    diary, enough = Diary(), Enough(answers)
    session = Session(connect, network, limits, live=live, watchers=[diary, enough])
    enough.session = session
    session.run()
    counts = session.counts()
    assert counts["captured"] == sum(counts[fate] for fate in FATES)
    assert counts["inferred"] == len(diary.answers)
    assert diary.ids == sorted(set(diary.ids))
    return session, diary


def test_a_test_scene_is_inferred_until_the_time_is_over(network: Network) -> None:
    session, diary = run(lambda: SyntheticReader({"fps": "100"}), network, Limits(duration=20), answers=10)
    assert len(diary.answers) >= 10
    assert all(answer.age_ms >= answer.inference_ms for answer in diary.answers)
    assert session.health.phase == "live"


def test_every_picture_of_a_finite_source_is_inferred_once(network: Network) -> None:
    pictures = [picture(n) for n in range(40)]
    session, diary = run(lambda: ListReader(pictures), network, Limits(), live=False)
    assert diary.ids == list(range(40))
    assert session.health.phase == "ended"


def test_a_slow_network_gets_the_newest_frame_and_the_rest_is_dropped(network: Network) -> None:
    session, diary = run(lambda: SyntheticReader({"fps": "200"}), network, Limits(duration=20, max_fps=10), answers=6)
    assert session.counts()["dropped"] > len(diary.answers)
    gaps = np.diff([answer.finished for answer in diary.answers])
    assert gaps.mean() >= 0.09


def test_no_frame_without_a_picture_is_inferred(network: Network) -> None:
    flat = [np.full((48, 64, 3), colour, np.uint8) for colour in ((0, 0, 0), (0, 135, 0), (128, 128, 128))]
    grain = [np.random.default_rng(0).integers(0, 8, (48, 64, 3), np.uint8)]
    cut = [None]
    pictures = [*flat, picture(1), *grain, picture(2), *flat, *cut]
    session, diary = run(lambda: ListReader(pictures), network, Limits(), live=False)
    assert diary.ids == [3, 5]
    assert (session.counts()["blank"], session.counts()["damaged"]) == (7, 1)


def test_no_frame_that_the_decoder_does_not_vouch_for_is_inferred(network: Network) -> None:
    session, diary = run(lambda: ListReader([picture()] * 3, damaged="corrupt"), network, Limits(), live=False)
    assert (diary.answers, session.counts()["damaged"]) == ([], 3)


def test_no_stale_frame_is_inferred(network: Network) -> None:
    session, diary = run(
        lambda: ListReader([picture()] * 5, age=2.0, then="hang"), network, Limits(duration=0.4, max_age=0.5)
    )
    assert (diary.answers, session.counts()["stale"]) == ([], 5)


def test_dark_scenes_with_detail_are_pictures() -> None:
    night = np.random.default_rng(0).normal(6, 3, (480, 640, 3)).clip(0, 255).astype(np.uint8)
    assert not is_blank(night)
    assert is_blank(np.zeros((480, 640, 3), np.uint8))
    assert is_blank(np.zeros((1, 1, 3), np.uint8))


def test_a_broken_connection_is_made_again_and_ids_go_on(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capture, "FIRST_RETRY_S", 0.05)
    opened = []

    def connect() -> Reader:
        opened.append(ListReader([picture(n) for n in range(3)], then="break", pause=0.02))
        return opened[-1]

    session, diary = run(connect, network, Limits(duration=20), answers=8)
    assert len(opened) >= 3
    assert all(reader.closed for reader in opened[:-1])
    assert [health.phase for health in diary.healths][:5] == ["live", "waiting", "connecting", "live", "waiting"]
    assert {health.reason for health in diary.healths if health.phase == "waiting"} == {"connection reset"}
    assert session.counts()["connects"] == len([h for h in diary.healths if h.phase == "live"])


def test_a_silent_connection_is_seen_and_left(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capture, "FIRST_RETRY_S", 0.05)
    monkeypatch.setattr(capture, "STALL_S", 0.3)
    numbers = itertools.count()
    session, diary = run(
        lambda: ListReader([picture(next(numbers))], then="hang"), network, Limits(duration=20), answers=3
    )
    assert session.counts()["stalls"] >= 2
    assert any("no sound frame" in health.reason for health in diary.healths)


def test_a_camera_that_repeats_its_picture_is_a_stall_and_is_not_inferred_until_it_moves(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(capture, "FIRST_RETRY_S", 0.05)
    monkeypatch.setattr(capture, "STALL_S", 0.3)
    monkeypatch.setattr(stillness, "PROOF_S", 0.1)
    hung = [picture()] * 40
    turns = iter([[picture(1), *hung], hung, [picture(99), *hung], [picture(n) for n in range(60)]])
    session, diary = run(
        lambda: ListReader(next(turns), pause=0.05, then="hang"), network, Limits(duration=20), answers=20
    )
    phases = [health.phase for health in diary.healths]
    again = ["waiting", "connecting", "frozen"]
    assert phases[:9] == ["live", *again, *again, "waiting", "connecting"]
    assert phases[-1] == "live"
    lost = [health for health in diary.healths if health.phase == "waiting"]
    assert [health.reason for health in lost] == [
        "the very same picture for 0.3 s", "still the same picture", "still the same picture"
    ]  # fmt: skip
    assert lost[0].retry_s < lost[1].retry_s < lost[2].retry_s  # type: ignore[operator]
    counts = session.counts()
    assert (counts["stalls"], counts["connects"]) == (3, 4)
    shown = [answer.frame for answer in diary.answers if (answer.frame.pixels == hung[0]).all()]
    assert shown[-1].captured - shown[0].captured < 0.4
    assert not any((answer.frame.pixels == picture(99)).all() for answer in diary.answers)
    assert counts["frozen"] >= 10


@pytest.mark.parametrize(("live", "has_end", "still"), [(True, False, True), (True, True, False), (False, True, False)])
def test_a_still_scene_is_inferred_where_it_may_be_still(
    network: Network, monkeypatch: pytest.MonkeyPatch, live: bool, has_end: bool, still: bool
) -> None:
    monkeypatch.setattr(capture, "STALL_S", 0.2)
    reader = ListReader([picture()] * 20, pause=0.05)
    session = Session(lambda: reader, network, Limits(duration=0.8), live=live, has_end=has_end, still=still)
    session.run()
    assert (session.counts()["frozen"], session.counts()["stalls"]) == (0, 0)
    assert session.counts()["inferred"] > 8


def test_a_connection_that_hangs_is_given_up_and_does_not_come_back(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(capture, "FIRST_RETRY_S", 0.05)
    monkeypatch.setattr(capture, "CONNECT_S", 0.3)
    released, turns = threading.Event(), iter([True, False])

    def connect() -> Reader:
        if next(turns, False):
            released.wait(20)
            return ListReader([picture(9)] * 50, then="hang")  # late: nobody waits for it any more
        released.set()
        return ListReader([picture(n) for n in range(3)], then="hang", pause=0.2)

    _, diary = run(connect, network, Limits(duration=20), answers=3)
    assert [health.reason for health in diary.healths if health.phase == "waiting"] == ["no connection for 0.3 s"]
    assert not any((answer.frame.pixels == picture(9)).all() for answer in diary.answers)


def test_backoff_doubles_up_to_its_limit_with_jitter(monkeypatch: pytest.MonkeyPatch) -> None:
    waited: list[float] = []
    one = capture.Capture(
        lambda: (_ for _ in ()).throw(LostError("refused")),  # type: ignore[arg-type]
        mailbox=None,  # type: ignore[arg-type]
        tally=None,  # type: ignore[arg-type]
        live=True,
        observe=lambda health: waited.append(health.retry_s) if health.retry_s is not None else None,
        jitter=lambda: 0.5,
    )
    monkeypatch.setattr(one._stop, "wait", lambda seconds: one.stop() if len(waited) == 9 else None)
    one.run()
    assert waited == [0.5, 1, 2, 4, 8, 16, 30, 30, 30]


def test_a_refusal_that_will_last_is_an_error_at_once(network: Network) -> None:
    def connect() -> Reader:
        raise LostError("401 unauthorized", lasting=True, fix="check the password")

    with pytest.raises(InputError, match="cannot be opened") as caught:
        run(connect, network, Limits())
    assert (caught.value.why, caught.value.fix) == ("401 unauthorized", "check the password")


def test_a_connection_counts_though_its_picture_is_answered_before_it_is_announced(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Slow(queue.Queue[object]):
        def put(self, item: object, block: bool = True, timeout: float | None = None) -> None:
            time.sleep(0.5)
            super().put(item, block, timeout)

    monkeypatch.setattr(capture, "_Link", lambda link=capture._Link: link(events=Slow()))
    session, _ = run(lambda: ListReader([picture()], then="hang"), network, Limits(duration=20), answers=1)
    assert session.counts()["connects"] == 1


def test_a_refusal_after_frames_is_tried_again(network: Network, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capture, "FIRST_RETRY_S", 0.05)
    turns: list[Reader | LostError] = [
        ListReader([picture()], then="break"),
        LostError("404 not found", lasting=True),
        ListReader([picture()], then="hang"),
    ]

    def connect() -> Reader:
        turn = turns.pop(0)
        if isinstance(turn, LostError):
            raise turn
        return turn

    session, _ = run(connect, network, Limits(duration=20), answers=2)
    assert session.counts()["connects"] == 2


def test_a_loop_of_nothing_ends(network: Network) -> None:
    session = Session(lambda: ListReader([]), network, Limits(duration=20), live=False, loop=True)
    assert session.run() == "source"


def test_a_clip_that_breaks_off_is_an_error(network: Network) -> None:
    with pytest.raises(StageError, match="cannot be read on"):
        run(lambda: ListReader([picture()], then="break"), network, Limits(), live=False)


def test_what_a_watcher_raises_ends_the_run(network: Network) -> None:
    class Full(Diary):
        def answered(self, answer: object, *, late: bool) -> None:
            raise OSError("disk full")

    session = Session(lambda: SyntheticReader({}), network, Limits(), live=True, watchers=[Full()])
    with pytest.raises(OSError, match="disk full"):
        session.run()


@pytest.mark.parametrize("state", ["connecting", "waiting", "silent", "live"])
def test_it_ends_within_two_seconds_in_every_state(network: Network, state: str) -> None:
    released = threading.Event()

    def connect() -> Reader:
        if state == "connecting":
            released.wait(30)  # as in a driver or a name server that does not answer
        if state == "waiting":
            raise LostError("refused")
        return SyntheticReader({}) if state == "live" else ListReader([picture()], then="hang")

    diary = Diary()
    session = Session(connect, network, Limits(), live=True, watchers=[diary])
    threading.Timer(0.5, session.stop).start()
    began = time.monotonic()
    session.run()
    assert time.monotonic() - began < 2.5
    released.set()
