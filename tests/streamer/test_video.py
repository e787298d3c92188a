"""Clips are read whole, at their own pace where asked; RTSP from a real server; a backlog shows as age."""

import functools
import json
import signal
import struct
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import av
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgehybrid.errors import InputError
from edgehybrid.streamer import capture, video
from edgehybrid.streamer.address import parse
from edgehybrid.streamer.network import Network
from edgehybrid.streamer.newest import Newest
from edgehybrid.streamer.readers import open_reader
from edgehybrid.streamer.session import Limits, Session
from edgehybrid.streamer.synthetic import Scene
from edgehybrid.streamer.video import ArrivalClock
from tests.streamer.cameras import free_port, rtsp_server, why_no_rtsp_server
from tests.streamer.scenes import Diary, subject, write_clip, write_pictures

NO_RTSP = why_no_rtsp_server()
needs_rtsp = pytest.mark.skipif(NO_RTSP is not None, reason=f"needs gir1.2-gst-rtsp-server-1.0: {NO_RTSP}")


@pytest.fixture
def network(tmp_path: Path) -> Network:
    return Network(subject(tmp_path), threads=1)


def test_a_clip_gives_every_frame_once_and_in_order(tmp_path: Path, network: Network) -> None:
    clip = write_clip(tmp_path / "a clip: 1.mp4", frames=30)
    diary = Diary()
    session = Session(
        functools.partial(open_reader, parse(f"file://{clip}")), network, Limits(), live=False, watchers=[diary]
    )
    session.run()
    assert diary.ids == list(range(30))
    assert session.counts()["dropped"] == 0
    scene = Scene(96, 64)
    for number in (0, 29):
        true, found = scene.draw(number / 20).astype(int), diary.answers[number].frame.pixels
        assert np.abs(true - found).mean() < 12  # H.264 at its default quality


def test_a_clip_that_a_phone_held_upright_is_shown_upright(tmp_path: Path) -> None:
    plain = write_clip(tmp_path / "plain.mp4", frames=1)
    identity = struct.pack(">9i", 1 << 16, 0, 0, 0, 1 << 16, 0, 0, 0, 1 << 30)
    clockwise = struct.pack(">9i", 0, 1 << 16, 0, -1 << 16, 0, 0, 0, 0, 1 << 30)  # as phones write it
    data = plain.read_bytes()
    at = data.rindex(identity)  # of the track; the film's own comes first
    turned = tmp_path / "turned.mp4"
    turned.write_bytes(data[:at] + clockwise + data[at + len(identity) :])
    before, after = (next(iter(open_reader(parse(str(path))).shots(lambda: True))).pixels for path in (plain, turned))
    assert before is not None
    assert after is not None
    assert after.shape == (96, 64, 3)
    assert np.array_equal(after, np.rot90(before, -1))


def test_a_clip_at_its_own_pace_takes_its_own_time(tmp_path: Path) -> None:
    reader = open_reader(parse(str(write_clip(tmp_path / "clip.mp4", frames=10, fps=20))), realtime=True)
    began = time.monotonic()
    assert len(list(reader.shots(lambda: True))) == 10
    assert time.monotonic() - began >= 0.44
    reader.close()


def test_a_loop_begins_again(tmp_path: Path, network: Network) -> None:
    clip, diary = write_clip(tmp_path / "clip.mp4", frames=5), Diary()
    connect = functools.partial(open_reader, parse(str(clip)))
    session = Session(connect, network, Limits(duration=3.0), live=False, loop=True, watchers=[diary])
    session.run()
    assert len(diary.ids) > 10
    assert diary.ids == list(range(len(diary.ids)))
    assert "connecting" not in [health.phase for health in diary.healths]  # not gone in between


@pytest.mark.parametrize("content", [b"", b"not a video at all" * 100])
def test_what_is_no_video_is_refused(tmp_path: Path, network: Network, content: bytes) -> None:
    path = tmp_path / "clip.mp4"
    path.write_bytes(content)
    with pytest.raises(InputError, match="cannot be opened"):
        Session(functools.partial(open_reader, parse(str(path))), network, Limits(), live=False).run()


def test_sound_alone_is_refused(tmp_path: Path, network: Network) -> None:
    path = tmp_path / "sound.mp4"
    with av.open(str(path), "w") as container:
        sound = container.add_stream("aac", rate=48000)
        frame = av.AudioFrame.from_ndarray(np.zeros((1, 1024), np.float32), format="fltp", layout="mono")
        frame.sample_rate = 48000
        for packet in [*sound.encode(frame), *sound.encode()]:
            container.mux(packet)
    with pytest.raises(InputError) as caught:
        Session(functools.partial(open_reader, parse(str(path))), network, Limits(), live=False).run()
    assert "no video" in caught.value.why


def test_a_missing_camera_is_named(network: Network) -> None:
    with pytest.raises(InputError) as caught:
        Session(functools.partial(open_reader, parse("v4l2:///dev/video63")), network, Limits(), live=True).run()
    assert caught.value.why == "/dev/video63: no such file or directory"
    assert "v4l2-ctl" in caught.value.fix


@pytest.mark.skipif(not Path("/dev/video0").exists(), reason="no camera at /dev/video0")
def test_a_v4l2_camera_gives_frames_with_the_drivers_time() -> None:
    reader = open_reader(parse("0"))
    shot = next(iter(reader.shots(lambda: True)))
    assert shot.pixels is not None
    assert 0 <= time.monotonic() - shot.captured < 5
    reader.close()


# --- RTSP -----------------------------------------------------------------------------------------


@needs_rtsp
def test_rtsp_comes_back_after_its_server_was_killed(
    tmp_path: Path, network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(capture, "FIRST_RETRY_S", 0.2)
    monkeypatch.setattr(capture, "LONGEST_RETRY_S", 0.5)
    clip, port, diary = write_clip(tmp_path / "clip.mp4", frames=400, fps=20, size=(128, 96)), free_port(), Diary()
    connect = functools.partial(open_reader, parse(f"rtsp://127.0.0.1:{port}/clip"))
    session = Session(connect, network, Limits(duration=40), live=True, watchers=[diary])
    done = False

    def conduct() -> None:
        nonlocal done
        for turn in (1, 2):
            with rtsp_server(clip, port):
                wait(lambda turn=turn: session.counts()["connects"] >= turn)  # type: ignore[misc]
                seen = len(diary.answers)
                wait(lambda seen=seen: len(diary.answers) >= seen + 10)  # type: ignore[misc]
        done = True
        session.stop()

    run_beside(session, conduct)
    assert done
    assert session.counts()["connects"] == 2
    assert session.health.title.startswith("h264 128x96")
    assert diary.ids == sorted(set(diary.ids))
    assert max(answer.age_ms for answer in diary.answers) < 5000


@needs_rtsp
@pytest.mark.parametrize(("noise", "frozen"), [(0, True), (2, False)])
def test_rtsp_whose_picture_stays_the_same_is_frozen_and_noise_alone_is_not(
    tmp_path: Path, network: Network, monkeypatch: pytest.MonkeyPatch, noise: float, frozen: bool
) -> None:
    """An encoder sends nothing but "as before" for a scene without noise."""
    monkeypatch.setattr(capture, "STALL_S", 0.7)
    port, diary, scene = free_port(), Diary(), Scene(128, 96).draw(0)
    rng = np.random.default_rng(0)
    options = {"preset": "ultrafast", "crf": "38", "g": "250"} if noise == 0 else {}
    pictures = ((scene + rng.normal(0, noise, scene.shape)).clip(0, 255).astype(np.uint8) for _ in range(120))
    clip = write_pictures(tmp_path / "clip.mp4", pictures, (128, 96), options=options)
    connect = functools.partial(open_reader, parse(f"rtsp://127.0.0.1:{port}/clip"))
    session = Session(connect, network, Limits(duration=40), live=True, watchers=[diary])

    def conduct() -> None:
        wait(lambda: session.counts()["frozen"] > 5 if frozen else len(diary.answers) >= 30)
        session.stop()

    with rtsp_server(clip, port):
        run_beside(session, conduct)
    assert (session.counts()["frozen"] > 0) is frozen
    assert any("very same picture" in health.reason for health in diary.healths) is frozen


@needs_rtsp
def test_rtsp_that_falls_silent_is_left_and_found_again(
    tmp_path: Path, network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A stopped server keeps its connections open, as a camera does whose cable is pulled."""
    monkeypatch.setattr(capture, "STALL_S", 1.0)
    monkeypatch.setattr(capture, "CONNECT_S", 1.0)
    monkeypatch.setattr(capture, "FIRST_RETRY_S", 0.2)
    monkeypatch.setattr(video, "PATIENCE_S", 1.0)
    clip, port, diary = write_clip(tmp_path / "clip.mp4", frames=400, size=(128, 96)), free_port(), Diary()
    connect = functools.partial(open_reader, parse(f"rtsp://127.0.0.1:{port}/clip"))
    session = Session(connect, network, Limits(duration=40), live=True, watchers=[diary])

    def conduct() -> None:
        wait(lambda: len(diary.answers) >= 5)
        server.send_signal(signal.SIGSTOP)
        wait(lambda: session.health.phase == "waiting")
        assert session.health.reason.startswith("no ")
        server.send_signal(signal.SIGCONT)
        seen = len(diary.answers)
        wait(lambda: len(diary.answers) >= seen + 5)
        session.stop()

    with rtsp_server(clip, port) as server:
        run_beside(session, conduct)
    assert session.counts()["connects"] >= 2


@needs_rtsp
def test_rtsp_may_change_its_size(tmp_path: Path, network: Network) -> None:
    sizes, whole, port, diary = ((128, 96), (96, 128)), b"", free_port(), Diary()
    for number, size in enumerate(sizes):
        whole += write_clip(tmp_path / f"{number}.h264", frames=30, size=size).read_bytes()
    both = tmp_path / "both.h264"
    both.write_bytes(whole)
    connect = functools.partial(open_reader, parse(f"rtsp://127.0.0.1:{port}/clip"))
    session = Session(connect, network, Limits(duration=40), live=True, watchers=[diary])

    def shapes() -> set[tuple[int, ...]]:
        return {answer.frame.pixels.shape for answer in diary.answers}

    with rtsp_server(both, port):
        run_beside(session, lambda: (wait(lambda: len(shapes()) == 2), session.stop()))
    assert shapes() == {(96, 128, 3), (128, 96, 3)}
    assert session.counts()["connects"] == 1


@needs_rtsp
def test_rtsp_with_a_password_tells_it_nobody(tmp_path: Path, network: Network) -> None:
    clip, port, diary = write_clip(tmp_path / "clip.mp4", frames=100), free_port(), Diary()
    with rtsp_server(clip, port, "admin", "s3cr3t"):
        source = parse(f"rtsp://admin:wr0ng-w0rd@127.0.0.1:{port}/clip")
        with pytest.raises(InputError) as caught:
            Session(functools.partial(open_reader, source), network, Limits(duration=20), live=True).run()
        assert "401" in caught.value.why
        assert "wr0ng" not in str(caught.value)
        source = parse(f"rtsp://admin:s3cr3t@127.0.0.1:{port}/clip")
        connect = functools.partial(open_reader, source)
        session = Session(connect, network, Limits(duration=20), live=True, watchers=[diary])
        run_beside(session, lambda: (wait(lambda: len(diary.answers) >= 5), session.stop()))
    assert len(diary.answers) >= 5
    assert "s3cr3t" not in json.dumps([vars(health) for health in diary.healths])


def wait(until: Callable[[], bool], seconds: float = 20.0) -> None:
    end = time.monotonic() + seconds
    while not until():
        assert time.monotonic() < end
        time.sleep(0.02)


def run_beside(session: Session, conduct: Callable[[], object]) -> None:
    """Run a session while another thread conducts it; what either raises is raised here."""
    problems: list[BaseException] = []

    def guarded() -> None:
        try:
            conduct()
        except BaseException as error:
            problems.append(error)
            session.stop()

    conductor = threading.Thread(target=guarded)
    conductor.start()
    session.run()
    conductor.join(10)
    assert problems == []


# --- the clock that reveals a backlog ---------------------------------------------------------------


@given(
    delays=st.lists(st.floats(0, 0.3), min_size=2, max_size=60),
    start=st.floats(-1e5, 1e5),
    drift=st.floats(-1e-4, 1e-4),
)
def test_a_frame_is_never_younger_than_it_is_by_more_than_the_least_delay(
    delays: list[float], start: float, drift: float
) -> None:
    clock = ArrivalClock()
    for number, delay in enumerate(delays):
        true = 100 + number / 30
        taken = clock.taken(true + delay, start + number / 30 * (1 + drift))
        assert taken <= true + delay + 1e-6
        unseen = min(delays[: number + 1])  # a delay that every frame had cannot be seen
        assert taken == pytest.approx(true + unseen, abs=0.01 + 2e-4 * number)


def test_a_growing_backlog_shows_as_age() -> None:
    clock = ArrivalClock()
    ages = []
    for number in range(300):
        arrived = 10 + number / 15  # read at 15 fps what was sent at 30
        ages.append(arrived - clock.taken(arrived, number / 30))
    assert ages[-1] == pytest.approx(299 / 30, rel=0.01)


def test_a_sender_that_begins_anew_is_believed() -> None:
    clock = ArrivalClock()
    clock.taken(10.0, 500.0)
    assert clock.taken(11.0, 0.0) == 11.0
    assert clock.taken(11.5, 0.3) == pytest.approx(11.3, abs=1e-3)


# --- the newest packet ------------------------------------------------------------------------------


def test_a_slow_taker_gets_the_newest_and_every_item_is_accounted_for() -> None:
    def numbers() -> Iterator[int]:
        for number in range(60):
            time.sleep(0.005)
            yield number

    newest = Newest(numbers())
    taken = []
    for number, arrived, skipped in newest.take(lambda: True):
        assert time.monotonic() - arrived < 5
        taken.append((number, skipped))
        time.sleep(0.03)
    assert [number for number, _ in taken] == sorted({number for number, _ in taken})
    assert taken[-1][0] == 59
    assert sum(1 + skipped for _, skipped in taken) == 60
    assert len(taken) < 40
    newest.stop()


def test_what_reading_raises_comes_after_the_last_item() -> None:
    def broken() -> Iterator[int]:
        yield 7
        raise OSError("reset")

    taken: list[int] = []
    with pytest.raises(OSError, match="reset"):
        taken.extend(number for number, _, _ in Newest(broken()).take(lambda: True))
    assert taken == [7]


def test_patience_is_not_longer_than_a_stall() -> None:
    assert video.PATIENCE_S <= capture.STALL_S
