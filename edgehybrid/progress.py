"""Who is told how far a build is: nobody by default, the terminal under the command line."""

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Protocol

from edgehybrid.records import Stage


class Listener(Protocol):
    """Told about a build as it goes; must not raise."""

    def begin(self, stage: str) -> None:
        """A stage begins."""

    def advance(self, done: int, total: int, unit: str = "images") -> None:
        """The running stage has finished `done` of `total` of something."""

    def end(self, stage: Stage) -> None:
        """A stage ended."""

    def note(self, text: str) -> None:
        """Something the user should know now, one sentence."""

    def announce(self, text: str) -> None:
        """What the user cannot go on without, one line; also where progress is not wanted."""

    def status(self, text: str) -> None:
        """How something without an end goes, one line that replaces the one before."""


class Silence:
    """Hears nothing."""

    def begin(self, stage: str) -> None:
        """Ignore."""

    def advance(self, done: int, total: int, unit: str = "images") -> None:
        """Ignore."""

    def end(self, stage: Stage) -> None:
        """Ignore."""

    def note(self, text: str) -> None:
        """Ignore."""

    def announce(self, text: str) -> None:
        """Ignore."""

    def status(self, text: str) -> None:
        """Ignore."""


_SILENCE = Silence()
_listener: ContextVar[Listener] = ContextVar("listener")


def listener() -> Listener:
    """The one who listens now."""
    return _listener.get(_SILENCE)


@contextlib.contextmanager
def listening(who: Listener) -> Iterator[None]:
    """Tell `who` about everything done inside the `with` block."""
    token = _listener.set(who)
    try:
        yield
    finally:
        _listener.reset(token)
