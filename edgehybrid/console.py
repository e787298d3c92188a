"""What the command line writes besides results, and what becomes of streams that are closed, full, unread or ASCII."""

import codecs
import contextlib
import io
import json
import os
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from edgehybrid.printable import plain
from edgehybrid.progress import Listener, Silence
from edgehybrid.records import Stage


def write_error(text: str) -> None:
    """Write to stderr; where that cannot be written, go on without: no work is lost because nobody watches it."""
    try:
        sys.stderr.write(text)
        sys.stderr.flush()
    except OSError:
        mute(sys.stderr)


def mute(stream: TextIO) -> None:
    """Let what a stream still holds and all that follows go nowhere: Python's own end must not stumble on it."""
    with contextlib.suppress(OSError, ValueError), Path(os.devnull).open("w") as nowhere:
        os.dup2(nowhere.fileno(), stream.fileno())


def open_missing_streams() -> None:
    """Give streams that were closed before the start (`2>&-`) a place: nowhere.

    Else Python has None for them, and the next file that is opened takes their number.
    """
    for number, name, mode in ((0, "stdin", "r"), (1, "stdout", "w"), (2, "stderr", "w")):
        if getattr(sys, name) is None:
            nowhere = os.open(os.devnull, os.O_RDONLY if mode == "r" else os.O_WRONLY)
            if nowhere != number:
                os.dup2(nowhere, number)
                os.close(nowhere)
            setattr(sys, name, open(number, mode, closefd=False))  # noqa: SIM115 - for as long as the program runs


def escape_strange_letters() -> None:
    """Let streams that do not know every letter (`LC_ALL=C`) write the others as JSON does, which suits documents too.

    What the user chose instead (`PYTHONIOENCODING=ascii:replace`) stays.
    """
    codecs.register_error("json", _escaped)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper) and stream.errors in ("strict", "surrogateescape"):
            stream.reconfigure(errors="json")


def _escaped(error: UnicodeError) -> tuple[str, int]:
    """What stands for letters that cannot be encoded, and where to go on: what `codecs` asks of its error handlers."""
    if not isinstance(error, UnicodeEncodeError):
        raise error
    return json.dumps(error.object[error.start : error.end]).strip('"'), error.end


class Quiet(Silence):
    """Tells stderr only what the user cannot go on without."""

    def __init__(self) -> None:
        self.stage = ""

    def begin(self, stage: str) -> None:
        """Remember it."""
        self.stage = stage

    def announce(self, text: str) -> None:
        """Leave one line."""
        write_error(f"{plain(text)}\n")


class Terminal:
    """Tells stderr how far a build is: a moving line on a terminal, one line per stage elsewhere."""

    def __init__(self) -> None:
        self.live = sys.stderr.isatty()
        self.stage = ""
        self.began = 0.0
        self.drawn = 0.0

    def begin(self, stage: str) -> None:
        """Name the stage that begins."""
        self.stage, self.began = stage, time.monotonic()
        self._draw(f"  {stage} ...")

    def advance(self, done: int, total: int, unit: str = "images") -> None:
        """Show a bar and the time left, ten times a second at most."""
        now = time.monotonic()
        if now - self.drawn < 0.1 and done < total:
            return
        self.drawn = now
        bar = "#" * (24 * done // total)
        left = (now - self.began) / max(done, 1) * (total - done)
        self._draw(f"  {self.stage:<14} [{bar:<24}] {done}/{total} {unit}, {left:.0f} s left")

    def end(self, stage: Stage) -> None:
        """Leave one line."""
        cost = "cached" if stage.cached else f"{stage.seconds:.1f} s, peak {stage.peak_rss_mb:.0f} MB"
        self._print(f"  {stage.name:<14} {cost}")

    def note(self, text: str) -> None:
        """Leave one line."""
        self._print(f"  note: {plain(text)}")

    def announce(self, text: str) -> None:
        """Leave one line."""
        self.note(text)

    def status(self, text: str) -> None:
        """Show a line that the next one replaces."""
        self._draw(f"  {plain(text)}")

    def _draw(self, text: str) -> None:
        if self.live:
            self._write(f"\r\x1b[K{text}")

    def _print(self, text: str) -> None:
        self._write(f"\r\x1b[K{text}\n" if self.live else f"{text}\n")

    def _write(self, text: str) -> None:
        write_error(text)


if TYPE_CHECKING:
    _: Listener = Terminal()
