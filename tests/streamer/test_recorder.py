"""A film plays at every moment of its making, and a camera is not held up by the disk."""

import time
from pathlib import Path

import av
import av.error
import pytest

from edgehybrid.streamer.frame import Frame
from edgehybrid.streamer.network import Answer
from edgehybrid.streamer.recorder import Recorder
from edgehybrid.streamer.synthetic import Scene
from edgehybrid.streamer.tally import Tally
from tests.streamer.scenes import subject

FPS = 20


def answers(count: int) -> list[Answer]:
    scene = Scene(128, 96)
    frames = [Frame(number, scene.draw(number / FPS), number / FPS, live=True) for number in range(count)]
    return [Answer(frame, "int8", ((0, 0.9), (1, 0.1)), 5.0, frame.captured + 0.02) for frame in frames]


def playable(film: Path) -> int:
    try:
        with av.open(str(film)) as shown:
            return sum(1 for _ in shown.decode(video=0))
    except av.error.InvalidDataError:
        return 0


@pytest.mark.parametrize("name", ["film.mp4", "film.MKV", "film.mov"])
def test_what_was_filmed_plays_if_the_process_is_killed(tmp_path: Path, name: str) -> None:
    film, copy = tmp_path / name, tmp_path / f"copy{name}"
    with Recorder(film, subject(tmp_path), Tally(), live=False) as recorder:
        for answer in answers(4 * FPS):
            recorder.answered(answer, late=False)
        end, seen = time.monotonic() + 10, 0
        while seen < 2.5 * FPS:  # all but the last piece
            assert time.monotonic() < end
            copy.write_bytes(film.read_bytes())  # what a kill would leave
            seen = playable(copy)
    assert playable(film) == 4 * FPS


def test_a_film_that_is_slow_leaves_a_cameras_answers_out_and_counts_them(tmp_path: Path) -> None:
    tally, told = Tally(), answers(60)
    with Recorder(tmp_path / "film.mp4", subject(tmp_path), tally, live=True) as recorder:
        for answer in told:
            recorder.answered(answer, late=False)
    missing = tally.counts()["unrecorded"]
    assert missing > 0
    assert playable(tmp_path / "film.mp4") == 60 - missing
