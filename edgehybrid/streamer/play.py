"""Put a session together from what the user asked for, run it, and sum it up."""

import functools
import time
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from edgehybrid import device
from edgehybrid.cores import available_cores
from edgehybrid.errors import StageError, UsageError
from edgehybrid.progress import Listener, listener
from edgehybrid.records import DeviceState, Stream
from edgehybrid.streamer.address import Address
from edgehybrid.streamer.capture import Health
from edgehybrid.streamer.journal import Journal
from edgehybrid.streamer.network import Answer, Network, Subject
from edgehybrid.streamer.readers import open_reader
from edgehybrid.streamer.session import Ending, Limits, Session, Watcher


@dataclass(frozen=True)
class Play:
    """What a user asks of a stream; see the verb."""

    duration: float | None = None  # seconds
    max_fps: float | None = None
    max_age: float = 1.0  # seconds
    realtime: bool = False
    loop: bool = False
    json_lines: Path | None = None


def play(address: Address, subject: Subject, wish: Play) -> Stream:
    """Stream until the time is over, the source ends or a signal arrives.

    Args:
        address: Where frames come from.
        subject: What is asked about them.
        wish: How.

    Raises:
        UsageError: Options that make no sense.
        InputError: The source or the network cannot be opened.
        StageError: No frame was inferred, or something broke on the way.
        NotReadyError: A library is missing.
        ResourceError: A file cannot be written.
    """
    _check(wish)
    live = address.is_live or wish.realtime
    threads = max(1, available_cores() - 1)  # one core for decoding and the page, else they delay every answer
    state = device.state(threads)
    with ExitStack() as stack:
        network = stack.enter_context(Network(subject, threads))
        watchers: list[Watcher] = [_Announcer(listener(), address.shown)]
        journal = None
        if wish.json_lines is not None:
            facts = {
                "source": address.shown,
                "engine": subject.title,
                "variant": subject.first,
                "max_age_s": wish.max_age,
            }
            journal = Journal(wish.json_lines, subject, facts)
            watchers.append(journal)
        session = Session(
            functools.partial(open_reader, address, realtime=wish.realtime),
            network,
            Limits(wish.duration, wish.max_fps, wish.max_age),
            live=live,
            loop=wish.loop,
            watchers=watchers,
        )
        ending = session.run(functools.partial(_tick, session, listener()))
        found = _summary(session, network, address, subject, state=state, ending=ending)
        if journal is not None:
            journal.close({"frames": found.frames, "ended": ending})
    if found.frames == 0:
        raise StageError(
            f"no frame of {address.shown} was inferred",
            why=_why_nothing(session),
            fix="check the source; --max-age and --duration may be too short for it",
        )
    return found


def _check(wish: Play) -> None:
    for name, value in (("duration", wish.duration), ("max-fps", wish.max_fps), ("max-age", wish.max_age)):
        if value is not None and not 0 < value < float("inf"):
            raise UsageError(f"--{name} {value:g} makes no sense", why="it must be above 0", fix=f"--{name} 1")


def _summary(
    session: Session, network: Network, address: Address, subject: Subject, *, state: DeviceState, ending: Ending
) -> Stream:
    counts, times = session.counts(), session.tally.quantiles()
    age = {name: times[f"age_{name}"] for name in ("p50", "p99", "max")}
    inference = {name: times[f"inference_{name}"] for name in ("p50", "p99")}
    notes = []
    if address.kind == "test":
        notes.append("the source is a synthetic scene: its frames are computed, no camera saw them")
    if not subject.trained:
        notes.append("the weights are untrained: the answers mean nothing")
    return Stream(
        source=address.shown,
        engine=subject.title,
        variant=network.current.name,
        backend=network.current.backend,
        device=state,
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
        late=counts["late"],
        reconnects=max(0, counts["connects"] - 1) if address.is_live else 0,
        longest_gap_s=session.longest_gap,
        ended=ending,
        notes=tuple(notes),
    )


def _why_nothing(session: Session) -> str:
    counts = session.counts()
    if counts["captured"] == 0:
        return session.health.reason or f"none had arrived; the connection was {session.health.phase}"
    refused = [f"{counts[fate]} {fate}" for fate in ("dropped", "stale", "blank", "damaged") if counts[fate]]
    return f"of {counts['captured']} captured: {', '.join(refused) or 'none was ready in time'}"


def _tick(session: Session, to: Listener) -> None:
    counts, times = session.counts(), session.tally.quantiles()
    age = (
        f"age p50 {times['age_p50']:.0f} p99 {times['age_p99']:.0f} ms"
        if times["age_p50"] is not None
        else "no answer yet"
    )
    to.status(
        f"{session.health.phase} | {session.fps():.1f} fps | {age} | {counts['dropped']} dropped | "
        f"{max(0, counts['connects'] - 1)} reconnects"
    )


class _Announcer:
    """Tells the terminal of losses and returns."""

    def __init__(self, to: Listener, source: str) -> None:
        self._to, self._source = to, source
        self._lost_at: float | None = None

    def answered(self, answer: Answer, *, late: bool) -> None:
        """Nothing to tell."""

    def changed(self, health: Health) -> None:
        """A line for each loss and each return."""
        now = time.strftime("%H:%M:%S")
        if health.phase == "waiting":
            self._lost_at = time.monotonic() if self._lost_at is None else self._lost_at
            self._to.note(f"{now} {self._source} lost: {health.reason}; next attempt in {health.retry_s or 0:.1f} s")
        elif health.phase == "live":
            if self._lost_at is None:
                self._to.note(f"{now} {self._source} live: {health.title}")
            else:
                self._to.note(f"{now} {self._source} live again after {time.monotonic() - self._lost_at:.1f} s")
            self._lost_at = None
        elif health.phase == "blank":
            self._to.note(f"{now} {self._source}: frames without a picture (black, or one colour) are not inferred")
