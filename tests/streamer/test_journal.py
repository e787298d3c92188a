"""Every line of a log is whole, whoever writes it, and whatever a class is called."""

import threading
import time
from dataclasses import replace
from pathlib import Path

from edgehybrid.streamer.capture import Health
from edgehybrid.streamer.frame import Frame
from edgehybrid.streamer.journal import Journal
from edgehybrid.streamer.network import Answer
from tests.streamer.scenes import picture, read_lines, subject


def test_lines_of_two_threads_never_mix(tmp_path: Path) -> None:
    log, now = tmp_path / "log.jsonl", time.monotonic()
    answer = Answer(Frame(0, picture(), now, live=True), "int8", tuple((n, 0.1) for n in range(5)), 1.0, now)
    with Journal(log, subject(tmp_path), "test://", 1.0) as journal:

        def connect() -> None:
            for number in range(2000):
                journal.changed(Health("waiting", reason="x" * (number % 300)))

        thread = threading.Thread(target=connect)
        thread.start()
        for _ in range(2000):
            journal.answered(answer, late=False)
        thread.join()
    events = [line["event"] for line in read_lines(log)]
    assert (events.count("frame"), events.count("connection")) == (2000, 2000)


def test_a_name_that_is_no_utf8_is_escaped(tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    with Journal(log, replace(subject(tmp_path), title="b\udcff ü"), "test://", 1.0):
        pass
    assert read_lines(log)[0]["engine"] == "b\udcff ü"
