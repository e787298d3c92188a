"""Keep a source connected: read it, refuse what is no picture, see stalls and freezes, come back with backoff."""

import queue
import random
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Literal, NoReturn

import numpy as np
from numpy.typing import NDArray

from edgehybrid.errors import InputError, StageError
from edgehybrid.printable import counted
from edgehybrid.streamer.frame import Frame, Mailbox
from edgehybrid.streamer.source import LostError, Reader, Shot
from edgehybrid.streamer.stillness import Stillness
from edgehybrid.streamer.tally import Tally

STALL_S = 5.0
"""A live source without a sound frame for so long is lost, as is one whose picture is the very same for so long."""
CONNECT_S = 10.0
"""So long may a connection take, with all that a camera does before its first frame."""
FIRST_RETRY_S, LONGEST_RETRY_S = 0.5, 30.0
HEALTHY_S = 2.0
"""A connection that gave sound frames for so long resets the backoff."""
BLANK_SPREAD = 8
"""A picture whose values differ by no more than this, of 255, in every channel is no picture: black before a camera
wakes, green or grey from a decoder without its reference. The noise of any sensor that sees anything is larger."""
MAX_STUCK = 8
"""So many reader threads may hang in a driver at once; each holds a connection."""

Phase = Literal["connecting", "live", "blank", "frozen", "waiting", "ended"]


@dataclass(frozen=True)
class Health:
    """How the connection is."""

    phase: Phase
    title: str = ""
    reason: str = ""  # of the last loss
    retry_s: float | None = None  # from the loss to the next attempt


@dataclass
class _Link:
    """One connection, read by a thread of its own, which may hang in a driver for ever."""

    events: "queue.SimpleQueue[Health | BaseException | None]" = field(default_factory=queue.SimpleQueue)
    abandoned: threading.Event = field(default_factory=threading.Event)
    connected: float | None = None  # when
    first: float | None = None  # when its first picture came
    heard: float = field(default_factory=time.monotonic)  # when the newest sound frame came, or the connection

    def is_healthy(self) -> bool:
        """Whether it gave sound frames for a while."""
        return self.connected is not None and self.heard - self.connected > HEALTHY_S


class Capture:
    """Reads a source into a mailbox until told to stop.

    Args:
        connect: Opens a connection; raises LostError where that fails.
        mailbox: Where sound frames go.
        tally: Where all frames are counted.
        live: Frames age and are dropped; else each is handed over and none is lost.
        has_end: A live source is a clip at its own pace, which ends and may stand still; what is not live always is.
        max_age: Seconds after which a live frame is stale.
        loop: Begin a source that ended anew.
        still: A picture may stay the same for any time; else that is a camera that hangs.
        observe: Told of every change of health; called from capture's thread.
        jitter: A number in [0, 1) that spreads retries; a test passes its own.
    """

    def __init__(
        self,
        connect: Callable[[], Reader],
        mailbox: Mailbox,
        tally: Tally,
        *,
        live: bool,
        has_end: bool = False,
        max_age: float = 1.0,
        loop: bool = False,
        still: bool = False,
        observe: Callable[[Health], None] = lambda health: None,
        jitter: Callable[[], float] = random.random,
    ) -> None:
        self._connect, self._mailbox, self._tally = connect, mailbox, tally
        self._live, self._has_end, self._max_age = live, has_end or not live, max_age
        self._loop, self._observe, self._jitter = loop, observe, jitter
        self._stillness = None if still or self._has_end else Stillness(STALL_S)
        self._stop = threading.Event()
        self._ids = 0
        self._lock = threading.Lock()
        self._stuck: list[threading.Thread] = []
        self.health = Health("connecting")

    def stop(self) -> None:
        """End `run` soon."""
        self._stop.set()

    def run(self) -> None:
        """Read until the source ends, for one that has an end, or `stop` is called.

        Raises:
            InputError: The first attempt showed that no other can succeed.
            StageError: A clip broke off, or readers hang one after the other.
            NotReadyError: A library is missing.
        """
        attempt = 0
        while not self._stop.is_set():
            link, known = _Link(), self._ids
            lost = LostError("the stream ended")
            try:
                self._one_connection(link)
                if self._has_end and self._loop and self._ids > known:
                    continue
                if self._has_end:
                    self._say(Health("ended", self.health.title))
                    return
            except LostError as error:
                lost = error
            if self._stop.is_set():
                return
            if self._ids == 0 and (lost.lasting or self._has_end):
                raise InputError("the source cannot be opened", why=str(lost), fix=lost.fix or "check the address")
            if self._has_end:
                raise StageError("the clip cannot be read on", why=str(lost), fix=lost.fix or "check the file")
            attempt = 1 if link.is_healthy() else attempt + 1
            self._wait(str(lost), attempt)

    def _wait(self, reason: str, attempt: int) -> None:
        """Back off before the next attempt."""
        delay = min(LONGEST_RETRY_S, FIRST_RETRY_S * 2 ** (attempt - 1)) * (0.75 + 0.5 * self._jitter())
        self._say(Health("waiting", self.health.title, reason, delay))
        self._stop.wait(delay)

    def _one_connection(self, link: _Link) -> None:
        """Read one connection to its end.

        Raises:
            LostError: It could not be opened, broke, fell silent, or its picture froze.
        """
        if not (self._has_end and self._ids):  # a clip that begins anew was not gone
            self._say(Health("connecting", self.health.title, self.health.reason))
        thread = threading.Thread(target=self._read, args=(link,), name="read source", daemon=True)
        thread.start()
        try:
            while not self._stop.is_set():
                try:
                    event = link.events.get(timeout=0.1)
                except queue.Empty:
                    self._check_silence(link)
                    continue
                if event is None:
                    return
                if isinstance(event, BaseException):
                    raise event
                if event.phase == "frozen" and self.health.phase == "live":
                    self._stalled(f"the very same picture for {STALL_S:g} s")
                self._say(event)
        finally:
            link.abandoned.set()
            self._bury(thread)

    def _check_silence(self, link: _Link) -> None:
        patience = CONNECT_S if link.connected is None else STALL_S
        if self._has_end or time.monotonic() - link.heard <= patience:
            return
        if self.health.phase == "frozen":
            self._stalled("still the same picture")
        what = "connection" if link.connected is None else "sound frame"
        self._stalled(f"no {what} for {patience:g} s")

    def _stalled(self, reason: str) -> NoReturn:
        self._tally.count("stalls")
        raise LostError(reason)

    def _bury(self, thread: threading.Thread) -> None:
        """Let an abandoned reader go, and refuse to pile up readers that hang in a driver."""
        thread.join(0.2)
        self._stuck = [one for one in (*self._stuck, thread) if one.is_alive()]
        if len(self._stuck) > MAX_STUCK:
            raise StageError(
                "the source hangs",
                why=f"{counted(len(self._stuck), 'attempt')} to read it never came back",
                fix="unplug the camera, or restart its driver",
            )

    def _read(self, link: _Link) -> None:
        """The reader's thread: tell `link` of each change of phase, and of the end."""

        def wanted() -> bool:
            return not (link.abandoned.is_set() or self._stop.is_set())

        reader = None
        said = None
        try:
            reader = self._connect()
            link.connected = link.heard = time.monotonic()
            for shot in reader.shots(wanted):
                phase = self._place(link, shot, wanted)
                if phase is not None and phase != said:
                    link.events.put(Health(phase, reader.title))
                    said = phase
            link.events.put(None)
        except BaseException as error:  # carried to the thread that waits for it
            link.events.put(error)
        finally:
            if reader is not None:
                reader.close()

    def _place(self, link: _Link, shot: Shot, wanted: Callable[[], bool]) -> Phase | None:
        """Number a picture, pass it on if it is one, and say what it tells about the source."""
        with self._lock:  # an abandoned reader that comes back late must not number frames, or pass any on
            if not wanted():
                return None
            number = self._ids + shot.skipped
            self._ids = number + 1
            self._tally.count("captured", 1 + shot.skipped)
            self._tally.count("dropped", shot.skipped)
            if shot.pixels is None or shot.damaged:
                self._tally.count("damaged")
                return None
            if self._live and time.monotonic() - shot.captured > self._max_age:
                self._tally.count("stale")  # and not heard: only a new connection gets rid of a backlog
                return None
            now = time.monotonic()
            if link.first is None:
                link.first = now
                if self.health.phase == "connecting":  # here, as an answer to this picture can end the run
                    self._tally.count("connects")
            if is_blank(shot.pixels):
                link.heard = now
                self._tally.count("blank")
                return "blank"
            if self._stillness is not None and self._stillness.judge(shot.pixels, now, link.first) == "frozen":
                self._tally.count("frozen")  # and not heard: a new connection may wake the camera
                return "frozen"
            link.heard = now
            frame = Frame(number, shot.pixels, shot.captured, self._live)
            if self._live:
                self._mailbox.put(frame)
        if not self._live and not self._mailbox.hand_over(frame, wanted):
            self._tally.count("dropped")  # the run ended
        return "live"

    def _say(self, health: Health) -> None:
        if health != self.health:
            self.health = health
            self._observe(health)


def is_blank(pixels: NDArray[np.uint8]) -> bool:
    """Whether there is no picture in a frame (H, W, 3): every channel is flat. Looks at about a thousand points."""
    height, width = pixels.shape[:2]
    points = pixels[:: max(1, height // 32), :: max(1, width // 32)].reshape(-1, 3)
    spread = points.max(0).astype(int) - points.min(0)
    return bool((spread <= BLANK_SPREAD).all())
