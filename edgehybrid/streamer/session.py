"""Run a stream: a thread that reads, a thread that infers, and whoever watches; ends within two seconds when told."""

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol

from edgehybrid.errors import Terminated
from edgehybrid.streamer.capture import Capture, Health
from edgehybrid.streamer.frame import Mailbox
from edgehybrid.streamer.network import Answer, Network
from edgehybrid.streamer.source import Reader
from edgehybrid.streamer.tally import Tally

Ending = Literal["duration", "source", "interrupted", "terminated"]

FAREWELL_S = 1.2
"""So long, in all, may threads take to end; one that hangs in a driver or a network is left behind."""
RECENT_S = 2.0


class Watcher(Protocol):
    """Told what happens; must return quickly. What it raises ends the run."""

    def answered(self, answer: Answer, *, late: bool) -> None:
        """A frame was inferred; `late`: its answer is older than the maximal age, so do not act on it."""

    def changed(self, health: Health) -> None:
        """The connection changed."""


@dataclass(frozen=True)
class Limits:
    """When to end and what to leave out."""

    duration: float | None = None  # seconds
    max_fps: float | None = None
    max_age: float = 1.0  # seconds


class Session:
    """One run of a network on a source.

    Args:
        connect: Opens a connection to the source.
        network: Loaded.
        limits: When to end and what to leave out.
        tally: Where frames are counted.
        live: Frames age; else every frame is inferred.
        has_end: A live source is a clip at its own pace, which ends.
        loop: Begin a source that ended anew.
        still: A picture may stay the same for any time.
        watchers: Told of everything.
    """

    def __init__(
        self,
        connect: Callable[[], Reader],
        network: Network,
        limits: Limits,
        *,
        tally: Tally | None = None,
        live: bool,
        has_end: bool = False,
        loop: bool = False,
        still: bool = False,
        watchers: Sequence[Watcher] = (),
    ) -> None:
        self.tally, self._mailbox = tally or Tally(), Mailbox()
        self._network, self._limits, self._watchers = network, limits, watchers
        self._capture = Capture(
            connect,
            self._mailbox,
            self.tally,
            live=live,
            has_end=has_end,
            max_age=limits.max_age,
            loop=loop,
            still=still,
            observe=self._changed,
        )
        self._stop, self._captured_all = threading.Event(), threading.Event()
        self._error: BaseException | None = None
        self.began = time.monotonic()
        self.first_answer: float | None = None
        self.last_answer: float | None = None
        self.longest_gap = 0.0
        self._recent: deque[float] = deque(maxlen=1000)

    @property
    def health(self) -> Health:
        """How the connection is."""
        return self._capture.health

    def stop(self) -> None:
        """End `run` soon."""
        self._stop.set()

    def run(self, tick: Callable[[], None] = lambda: None) -> Ending:
        """Stream until the time is over, the source ends, or a signal arrives.

        Args:
            tick: Called about once a second, from the calling thread.

        Returns:
            Why it ended.

        Raises:
            EdgeHybridError: What reading, inferring or a watcher raised.
        """
        self.began = time.monotonic()
        threads = [
            threading.Thread(target=self._guard, args=(work,), name=name, daemon=True)
            for name, work in (("capture", self._read), ("inference", self._infer))
        ]
        for thread in threads:
            thread.start()
        ending: Ending = "source"
        try:
            ending = self._wait(tick)
        except KeyboardInterrupt:
            ending = "interrupted"
        except Terminated:
            ending = "terminated"
        finally:
            self._stop.set()
            self._capture.stop()
            self._mailbox.close()
            end = time.monotonic() + FAREWELL_S
            for thread in threads:
                thread.join(max(0.0, end - time.monotonic()))
        if self._error is not None:
            raise self._error
        return ending

    def counts(self) -> dict[str, int]:
        """What became of every frame."""
        counts = dict(self.tally.counts())
        counts["dropped"] += self._mailbox.dropped
        return counts

    def fps(self) -> float:
        """Inferred frames per second, from the first answer to the last."""
        inferred = self.counts()["inferred"]
        if self.first_answer is None or self.last_answer is None or inferred < 2:
            return 0.0
        return (inferred - 1) / (self.last_answer - self.first_answer)

    def recent_fps(self) -> float:
        """Inferred frames per second over about the last two seconds."""
        now = time.monotonic()
        times = [at for at in tuple(self._recent) if now - at < RECENT_S]
        return len(times) / RECENT_S if now - self.began > RECENT_S else len(times) / max(0.1, now - self.began)

    def _wait(self, tick: Callable[[], None]) -> Ending:
        end = None if self._limits.duration is None else self.began + self._limits.duration
        while not self._stop.is_set():
            left = 1.0 if end is None else min(1.0, end - time.monotonic())
            if left <= 0:
                return "duration"
            self._stop.wait(left)
            tick()
        return "source"

    def _guard(self, work: Callable[[], None]) -> None:
        """Carry what a thread raises to `run`."""
        try:
            work()
        except BaseException as error:
            self._error = self._error or error
            self._stop.set()

    def _read(self) -> None:
        self._capture.run()
        self._captured_all.set()

    def _infer(self) -> None:
        due = 0.0
        while not self._stop.is_set():
            if (early := due - time.monotonic()) > 0:
                self._stop.wait(early)
                continue
            frame = self._mailbox.take(0.1)
            if frame is None:
                if self._captured_all.is_set() and self._mailbox.is_empty():
                    self._stop.set()
                continue
            now = time.monotonic()
            if frame.live and now - frame.captured > self._limits.max_age:
                self.tally.count("stale")
                continue
            if self._limits.max_fps is not None:
                interval = 1 / self._limits.max_fps
                due = (due if now - due < interval else now) + interval  # keeps the beat, never catches up
            answer = self._network.answer(frame)
            late = frame.live and answer.age_ms > self._limits.max_age * 1e3
            self._record(answer, late)
            for watcher in self._watchers:
                watcher.answered(answer, late=late)

    def _record(self, answer: Answer, late: bool) -> None:
        self.tally.result(answer.age_ms, answer.inference_ms)
        if late:
            self.tally.count("late")
        before = self.began if self.last_answer is None else self.last_answer
        self.longest_gap = max(self.longest_gap, answer.finished - before)
        self.last_answer = answer.finished
        self._recent.append(answer.finished)
        if self.first_answer is None:
            self.first_answer = answer.finished

    def _changed(self, health: Health) -> None:
        for watcher in self._watchers:
            watcher.changed(health)
