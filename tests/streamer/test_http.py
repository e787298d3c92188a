"""A network camera that is killed, falls silent, refuses, changes size, sends rubbish: nothing wrong is inferred."""

import functools
import json
import threading
import time
from collections.abc import Callable
from pathlib import Path

import av
import numpy as np
import pytest
from numpy.typing import NDArray

from edgehybrid.errors import InputError
from edgehybrid.streamer import address, capture, stillness, video
from edgehybrid.streamer.drawing import jpeg
from edgehybrid.streamer.network import Network
from edgehybrid.streamer.readers import open_reader
from edgehybrid.streamer.session import Limits, Session
from tests.streamer.cameras import MjpegCamera, flat_jpeg, free_port, scene_jpeg
from tests.streamer.scenes import Diary, picture, subject


@pytest.fixture
def network(tmp_path: Path) -> Network:
    return Network(subject(tmp_path), threads=1)


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capture, "FIRST_RETRY_S", 0.1)
    monkeypatch.setattr(capture, "LONGEST_RETRY_S", 0.4)
    monkeypatch.setattr(capture, "STALL_S", 1.0)
    monkeypatch.setattr(capture, "CONNECT_S", 2.0)
    monkeypatch.setattr(stillness, "PROOF_S", 0.2)
    monkeypatch.setattr(video, "PATIENCE_S", 1.0)


class Stream:
    """A session on a camera, running in a thread."""

    def __init__(self, url: str, network: Network, *, still: bool = False) -> None:
        self.diary = Diary()
        connect = functools.partial(open_reader, address.parse(url))
        self.session = Session(connect, network, Limits(), live=True, still=still, watchers=[self.diary])
        self._thread = threading.Thread(target=self.session.run)

    def __enter__(self) -> "Stream":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.session.stop()
        self._thread.join(5)
        assert not self._thread.is_alive()
        ids = self.diary.ids
        assert ids == sorted(set(ids))

    def wait(self, until: Callable[[], bool], seconds: float = 15.0) -> None:
        end = time.monotonic() + seconds
        while not until():
            assert time.monotonic() < end, (self.session.health, self.session.counts())
            time.sleep(0.02)

    def wait_for_answers(self, more: int) -> None:
        enough = len(self.diary.answers) + more
        self.wait(lambda: len(self.diary.answers) >= enough)


def test_a_camera_is_watched_with_the_pixels_it_sent(network: Network) -> None:
    with MjpegCamera() as camera, Stream(camera.url, network) as stream:
        stream.wait_for_answers(10)
        assert stream.session.health.phase == "live"
        assert stream.session.health.title == "mjpeg 160x96"
        assert stream.diary.answers[-1].frame.pixels.shape == (96, 160, 3)
        assert stream.diary.answers[-1].age_ms < 1000


def test_a_camera_that_is_killed_and_started_again_is_found_again(network: Network) -> None:
    port = free_port()
    with Stream(f"http://127.0.0.1:{port}/video.mjpeg", network) as stream:
        stream.wait(lambda: stream.session.health.phase == "waiting")  # nobody is there yet: a camera that boots
        for _ in range(3):
            with MjpegCamera(port=port):
                stream.wait_for_answers(3)
            stream.wait(lambda: stream.session.health.phase == "waiting")
        assert stream.session.counts()["connects"] == 3


def test_a_half_open_connection_is_left(network: Network) -> None:
    with MjpegCamera() as camera, Stream(camera.url, network) as stream:
        stream.wait_for_answers(3)
        camera.silent = True
        stream.wait(lambda: stream.session.health.phase == "waiting")
        assert "no" in stream.session.health.reason
        camera.silent = False
        stream.wait_for_answers(3)
        assert camera.connections >= 2


def test_every_one_of_many_cuts_is_recovered_from(network: Network) -> None:
    with MjpegCamera(fps=60) as camera, Stream(camera.url, network) as stream:
        held: list[int] = []
        for cuts in range(1, 9):
            held.append(sum(1 for _ in Path("/proc/self/fd").iterdir()) + threading.active_count())
            stream.wait_for_answers(2)
            camera.cut()
            stream.wait(lambda cuts=cuts: stream.session.counts()["connects"] > cuts)  # type: ignore[misc]
        stream.wait_for_answers(2)
        assert held[-1] - held[2] <= 4  # files and threads: those of a connection that just ended may linger


def test_the_picture_may_change_its_size(network: Network) -> None:
    sizes = {0: (96, 160), 1: (240, 320), 2: (120, 90)}

    def turn(number: int) -> bytes:
        return jpeg(picture(number, *sizes[number // 10 % 3]))

    with MjpegCamera(turn) as camera, Stream(camera.url, network) as stream:
        stream.wait(lambda: {a.frame.pixels.shape[:2] for a in stream.diary.answers} == set(sizes.values()))


def test_what_is_no_picture_is_never_inferred(network: Network) -> None:
    whole = scene_jpeg(0)
    kinds = [
        whole,
        flat_jpeg((0, 0, 0)),
        flat_jpeg((0, 135, 0)),
        whole[: len(whole) // 2],
        b"\xff\xd8 rubbish \xff\xd9",
    ]

    with MjpegCamera(lambda number: kinds[number % 5]) as camera, Stream(camera.url, network, still=True) as stream:
        stream.wait_for_answers(8)
        counts = stream.session.counts()
        assert counts["blank"] >= 8
        assert counts["damaged"] >= 4
        true = np.asarray(stream.diary.answers[0].frame.pixels, int)
        for answer in stream.diary.answers:
            assert np.abs(answer.frame.pixels - true).max() == 0


def test_a_decoder_slower_than_the_camera_leaves_frames_out_and_none_waits(
    network: Network, monkeypatch: pytest.MonkeyPatch
) -> None:
    decode = video._pixels

    def slowly(frame: av.VideoFrame) -> NDArray[np.uint8]:
        time.sleep(0.05)
        return decode(frame)

    monkeypatch.setattr(video, "_pixels", slowly)
    with MjpegCamera(fps=150) as camera, Stream(camera.url, network) as stream:
        stream.wait(lambda: stream.session.counts()["dropped"] > 60)
        counts, sent = stream.session.counts(), camera.number
        assert sent - counts["captured"] < 60  # those in flight: nothing has piled up


def test_only_blank_frames_say_so_and_keep_the_connection(network: Network) -> None:
    with MjpegCamera(lambda number: flat_jpeg((0, 0, 0))) as camera, Stream(camera.url, network) as stream:
        stream.wait(lambda: stream.session.health.phase == "blank")
        time.sleep(1.5)
        assert (stream.diary.answers, camera.connections) == ([], 1)
        camera.picture = scene_jpeg
        stream.wait_for_answers(2)
        assert stream.session.health.phase == "live"


def test_a_camera_whose_picture_is_frozen_is_left_and_noise_alone_keeps_it(network: Network) -> None:
    still = picture(3)

    def noisy(number: int) -> bytes:
        noise = np.random.default_rng(number).normal(0, 1, still.shape).round()
        return jpeg((still + noise).clip(0, 255).astype(np.uint8))

    with MjpegCamera(noisy) as camera, Stream(camera.url, network) as stream:
        stream.wait_for_answers(40)  # longer than a stall
        assert (camera.connections, stream.session.counts()["frozen"]) == (1, 0)
        camera.picture = lambda number: jpeg(still)
        stream.wait(lambda: stream.session.health.phase == "frozen")
        assert camera.connections == 2
        seen = len(stream.diary.answers)
        stream.wait(lambda: camera.connections >= 3)
        assert len(stream.diary.answers) == seen
        camera.picture = noisy
        stream.wait_for_answers(3)


@pytest.mark.parametrize(("status", "say"), [(401, "401"), (403, "403"), (404, "404")])
def test_a_refusal_is_named_at_once_and_waited_out_later(network: Network, status: int, say: str) -> None:
    with MjpegCamera() as camera:
        camera.status = status
        with pytest.raises(InputError, match="cannot be opened") as caught:
            Session(functools.partial(open_reader, address.parse(camera.url)), network, Limits(), live=True).run()
        assert say in caught.value.why
        camera.status = 200
        with Stream(camera.url, network) as stream:
            stream.wait_for_answers(2)
            camera.status = status
            camera.cut()
            stream.wait(lambda: say in stream.session.health.reason)
            camera.status = 200
            stream.wait_for_answers(2)


def test_credentials_reach_the_camera_and_nobody_else(network: Network) -> None:
    with MjpegCamera(protected=True) as camera:
        url = camera.url.replace("http://", "http://admin:s3cr3t-w0rd@")
        with Stream(url, network) as stream:
            stream.wait_for_answers(2)
            camera.kill()
            stream.wait(lambda: stream.session.health.phase == "waiting")
            told = json.dumps([vars(health) for health in stream.diary.healths])
        assert b"Authorization: Basic" in b"".join(camera.requests)
        assert "s3cr3t" not in told
        assert "admin" not in told
