"""Write what happened to every frame and to the connection as JSON lines, each on disk before the next begins."""

import json
import time
from collections.abc import Mapping
from pathlib import Path

from edgehybrid.store import guarding
from edgehybrid.streamer.capture import Health
from edgehybrid.streamer.network import Answer, Subject

SCHEMA = "edgehybrid.stream-log/1"


class Journal:
    """Appends to a file: one `start`, then `frame` and `connection` lines, then one `end`.

    Args:
        path: The file; lines of earlier runs stay.
        subject: For the names of classes.
        facts: Of the `start` line.

    Raises:
        ResourceError: It cannot be written.
    """

    def __init__(self, path: Path, subject: Subject, facts: Mapping[str, object]) -> None:
        self._path, self._subject = path, subject
        with guarding(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("a", encoding="utf-8", buffering=1)
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

    def close(self, summary: Mapping[str, object]) -> None:
        """The last line."""
        self._write("end", summary)
        self._file.close()

    def _write(self, event: str, facts: Mapping[str, object]) -> None:
        with guarding(self._path):
            line = {"event": event, "time": round(time.time(), 3), **facts}
            self._file.write(json.dumps(line, ensure_ascii=False, allow_nan=False) + "\n")
