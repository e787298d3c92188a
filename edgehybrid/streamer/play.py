"""Put a session together from what the user asked for, run it, and sum it up."""

import functools
import socket
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from edgehybrid.cores import available_cores
from edgehybrid.errors import StageError, UsageError
from edgehybrid.printable import counted
from edgehybrid.progress import Listener, listener
from edgehybrid.records import Stream
from edgehybrid.streamer.access import ANY, Door
from edgehybrid.streamer.address import Address
from edgehybrid.streamer.capture import Health
from edgehybrid.streamer.gallery import Gallery
from edgehybrid.streamer.gauge import Gauge
from edgehybrid.streamer.journal import Journal
from edgehybrid.streamer.network import Answer, Network, Subject
from edgehybrid.streamer.readers import open_reader
from edgehybrid.streamer.recorder import Recorder
from edgehybrid.streamer.server import Server
from edgehybrid.streamer.session import Ending, Limits, Session, Watcher
from edgehybrid.streamer.signals import heard_once
from edgehybrid.streamer.tally import FATES, Tally

_LOGGED = ("ended", "seconds", "captured", "frames", *FATES[1:], "late", "reconnects", "fps", "age_ms", "inference_ms")
"""Of the summary, in the log's last line."""


@dataclass(frozen=True)
class Play:
    """What a user asks of a stream; see the verb."""

    duration: float | None = None  # seconds
    max_fps: float | None = None
    max_age: float = 1.0  # seconds
    realtime: bool = False
    loop: bool = False
    still: bool = False
    web: bool = False
    address: str = "127.0.0.1"
    port: int = 8080
    record: Path | None = None
    json_lines: Path | None = None


def play(source: Address, subject: Subject, wish: Play) -> Stream:
    """Stream until the time is over, the source ends or a signal arrives.

    Args:
        source: Where frames come from.
        subject: What is asked about them.
        wish: How.

    Raises:
        UsageError: Options that make no sense.
        InputError: The source or the network cannot be opened.
        StageError: No frame was inferred, or something broke on the way.
        NotReadyError: A library is missing.
        ResourceError: A file cannot be written, or the page's port is taken.
    """
    _check(wish)
    live = source.is_live or wish.realtime
    threads = max(1, available_cores() - 1)  # one core for decoding and the page, else they delay every answer
    tally = Tally()
    with ExitStack() as stack:
        stack.enter_context(heard_once())
        network = stack.enter_context(Network(subject, threads))
        gauge = stack.enter_context(Gauge(threads))
        gallery = Gallery(
            subject, network, source.shown, live=live, synthetic=source.kind == "test", max_age=wish.max_age
        )
        journal = None if wish.json_lines is None else Journal(wish.json_lines, subject, source.shown, wish.max_age)
        watchers: list[Watcher] = [_Announcer(listener(), source.shown), gallery]
        if journal is not None:
            watchers.append(stack.enter_context(journal))
        if wish.record is not None:
            watchers.append(stack.enter_context(Recorder(wish.record, subject, tally, live=live)))
        session = Session(
            functools.partial(open_reader, source, realtime=wish.realtime),
            network,
            Limits(wish.duration, wish.max_fps, wish.max_age),
            tally=tally,
            live=live,
            has_end=not source.is_live,
            loop=wish.loop,
            still=wish.still,
            watchers=watchers,
        )
        if wish.web:
            gallery.figures, gallery.device = functools.partial(_figures, session, source), gauge.rows
            _serve(stack, gallery, wish)
        ending = session.run(functools.partial(_tick, session, source, listener()))
        found = _summary(session, network, source, subject, gauge=gauge, ending=ending, film=wish.record)
        if journal is not None:
            journal.finish({name: getattr(found, name) for name in _LOGGED})
    if found.frames == 0 and ending not in ("interrupted", "terminated"):
        raise StageError(
            f"no frame of {source.shown} was inferred",
            why=_why_nothing(session),
            fix="check the source; --max-age and --duration may be too short for it",
        )
    return found


def _serve(stack: ExitStack, gallery: Gallery, wish: Play) -> None:
    """Start the page, and say where it is."""
    door = Door(wish.address)
    server = stack.enter_context(Server(gallery, door, wish.address, wish.port))
    listener().announce(f"page: {server.url}")
    if door.token is not None:
        if wish.address in ANY:
            listener().note(f"on another machine, write this one's name ({socket.gethostname()}) or address instead")
        listener().note("everybody with this token sees the camera; nothing is encrypted")


def _figures(session: Session, source: Address) -> dict[str, object]:
    """What the page shows of rates and counters."""
    counts, rates = session.counts(), {"fps": session.recent_fps(), "reconnects": _reconnects(session, source)}
    return {**counts, **session.tally.quantiles(), **rates}


def _reconnects(session: Session, source: Address) -> int:
    """How often a camera came back; a clip that begins anew was not lost."""
    return max(0, session.counts()["connects"] - 1) if source.is_live else 0


def _check(wish: Play) -> None:
    for name, value in (("duration", wish.duration), ("max-fps", wish.max_fps), ("max-age", wish.max_age)):
        if value is not None and not 0 < value < float("inf"):
            raise UsageError(f"--{name} {value:g} makes no sense", why="it must be above 0", fix=f"--{name} 1")
    if not wish.address:
        raise UsageError("--address is empty", why="needed one of this machine", fix="--address 0.0.0.0 is all of them")
    if not 0 <= wish.port <= 65535:
        raise UsageError(f"--port {wish.port} makes no sense", why="needed 0 to 65535", fix="--port 0 takes a free one")


def _summary(
    session: Session,
    network: Network,
    source: Address,
    subject: Subject,
    *,
    gauge: Gauge,
    ending: Ending,
    film: Path | None,
) -> Stream:
    counts, times = session.counts(), session.tally.quantiles()
    age = {name: times[f"age_{name}"] for name in ("p50", "p99", "max")}
    inference = {name: times[f"inference_{name}"] for name in ("p50", "p99")}
    notes = list(subject.notes)
    if source.kind == "test":
        notes.append("the source is a synthetic scene: its frames are computed, no camera saw them")
    if not subject.trained:
        notes.append("the weights are untrained: the answers mean nothing")
    if counts["frozen"]:
        notes.append(
            f"{counted(counts['frozen'], 'frame')} had the very picture of seconds before: a hung camera, else --still"
        )
    if counts["unrecorded"]:
        notes.append(f"{counted(counts['unrecorded'], 'answer')} not on the film: it could not be written in time")
    return Stream(
        source=source.shown,
        engine=subject.title,
        variant=network.current.name,
        backend=network.current.backend,
        device=gauge.first,
        seconds=time.monotonic() - session.began,
        captured=counts["captured"],
        frames=counts["inferred"],
        fps=session.fps(),
        age_ms={name: value for name, value in age.items() if value is not None} or None,
        inference_ms={name: value for name, value in inference.items() if value is not None} or None,
        dropped=counts["dropped"],
        stale=counts["stale"],
        blank=counts["blank"],
        damaged=counts["damaged"],
        frozen=counts["frozen"],
        late=counts["late"],
        reconnects=_reconnects(session, source),
        longest_gap_s=session.longest_gap,
        ended=ending,
        power_w=gauge.mean_watts(),
        recorded=None if film is None or counts["inferred"] == 0 else str(film),
        notes=tuple(notes),
    )


def _why_nothing(session: Session) -> str:
    counts = session.counts()
    if counts["captured"] == 0:
        return session.health.reason or f"none had arrived; the connection was {session.health.phase}"
    refused = [f"{counts[fate]} {fate}" for fate in FATES[1:] if counts[fate]]
    return f"of {counts['captured']} captured: {', '.join(refused) or 'none was ready in time'}"


def _tick(session: Session, source: Address, to: Listener) -> None:
    times, age = session.tally.quantiles(), "no answer yet"
    if times["age_p50"] is not None:
        age = f"age p50 {times['age_p50']:.0f} p99 {times['age_p99']:.0f} ms"
    dropped, reconnects = session.counts()["dropped"], _reconnects(session, source)
    rates = f"{session.recent_fps():.1f} fps | {age} | {dropped} dropped | {reconnects} reconnects"
    to.status(f"{session.health.phase} | {rates}")


class _Announcer:
    """Tells the terminal of losses and returns."""

    def __init__(self, to: Listener, source: str) -> None:
        self._to, self._source = to, source
        self._lost_at: float | None = None
        self._met = False

    def answered(self, answer: Answer, *, late: bool) -> None:
        """Nothing to tell."""

    def changed(self, health: Health) -> None:
        """A line for each loss and each return."""
        now = time.strftime("%H:%M:%S")
        if health.phase == "waiting":
            self._lost_at = time.monotonic() if self._lost_at is None else self._lost_at
            self._to.note(f"{now} {self._source} lost: {health.reason}; next attempt in {health.retry_s or 0:.1f} s")
        elif health.phase == "live":
            if self._lost_at is not None:
                self._to.note(f"{now} {self._source} live again after {time.monotonic() - self._lost_at:.1f} s")
            elif not self._met:  # a clip in a loop comes here again and again
                self._to.note(f"{now} {self._source} live: {health.title}")
            self._lost_at, self._met = None, True
        elif health.phase == "frozen":
            self._to.note(f"{now} {self._source}: still the very same picture, which is not inferred (--still does)")
        elif health.phase == "blank":
            self._to.note(f"{now} {self._source}: frames without a picture (black, or one colour) are not inferred")
