"""Write every answer and every change of the connection as JSON lines, each written out before the next."""

import contextlib
import json
import threading
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType

from edgehybrid.errors import EdgeHybridError, ResourceError
from edgehybrid.store import guarding
from edgehybrid.streamer.capture import Health
from edgehybrid.streamer.network import Answer, Subject

SCHEMA = "edgehybrid.stream-log/1"


class Journal:
    """Appends to a file: one `start`, then `frame` and `connection` lines, then one `end`.

    Args:
        path: The file; lines of earlier runs stay.
        subject: For the names of classes.
        source: What is shown of the address.
        max_age: Seconds.

    Raises:
        ResourceError: It cannot be written.
    """

    def __init__(self, path: Path, subject: Subject, source: str, max_age: float) -> None:
        self._path, self._subject, self._lock = path, subject, threading.Lock()
        with guarding(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            # a name that is no UTF-8 is written as JSON escapes it
            self._file = path.open("a", encoding="utf-8", errors="backslashreplace", buffering=1)
        facts = {"source": source, "engine": subject.title, "variant": subject.first, "max_age_s": max_age}
        self._write("start", {"schema": SCHEMA, **facts})

    def answered(self, answer: Answer, *, late: bool) -> None:
        """One inferred frame."""
        top = [
            {"class": number, "label": self._subject.label(number), "probability": round(share, 6)}
            for number, share in answer.top
        ]
        self._write(
            "frame",
            {
                "id": answer.frame.id,
                "variant": answer.variant,
                "age_ms": round(answer.age_ms, 3),
                "inference_ms": round(answer.inference_ms, 3),
                "late": late,
                "top": top,
            },
        )

    def changed(self, health: Health) -> None:
        """A change of the connection."""
        self._write("connection", {"phase": health.phase, "reason": health.reason, "retry_s": health.retry_s})

    def finish(self, summary: Mapping[str, object]) -> None:
        """The last line."""
        self._write("end", summary)

    def __enter__(self) -> "Journal":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the file; a run that broke leaves its reason as the last line, where the disk takes one."""
        if isinstance(error, EdgeHybridError):
            with contextlib.suppress(ResourceError):
                self._write("end", {"error": error.what, "why": error.why})
        with contextlib.suppress(OSError):
            self._file.close()

    def _write(self, event: str, facts: Mapping[str, object]) -> None:
        with guarding(self._path), self._lock:  # two threads write: one infers, one reads the source
            line = {"event": event, "time": round(time.time(), 3), **facts}
            self._file.write(json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n")
