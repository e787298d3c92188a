"""Film every answer with its bars: an MP4 that plays even if the process was killed while writing it."""

import contextlib
import queue
import threading
from fractions import Fraction
from pathlib import Path
from types import TracebackType

import av
import av.error
import numpy as np
from numpy.typing import NDArray

from edgehybrid.errors import ResourceError, UsageError
from edgehybrid.streamer.capture import Health
from edgehybrid.streamer.drawing import annotate
from edgehybrid.streamer.network import Answer, Subject
from edgehybrid.streamer.tally import Tally

_CODECS = ("libx264", "mpeg4")
_PIECES = {"movflags": "empty_moov+default_base_moof", "frag_duration": "1000000", "flush_packets": "1"}
_CLUSTERS = {"cluster_time_limit": "1000", "flush_packets": "1"}
"""A film is written in pieces of a second that stand for themselves: what was filmed before a power cut plays."""
_TICKS = 1000
"""Of the film's clock, per second."""
_WAITING = 8
"""Answers that may wait to be filmed; a camera's further ones are left out and counted, a clip waits."""
_MOST_WIDTH = 1280
_PATIENCE_S = 1.0


class Recorder:
    """A watcher that films in a thread of its own; the size of the first frame is the size of the film.

    Args:
        path: A new file.
        subject: For labels.
        tally: Counts what was left out.
        live: Leave answers out rather than hold the network up.

    Raises:
        UsageError: The file exists, or its name is no film's.
        ResourceError: It cannot be written.
    """

    def __init__(self, path: Path, subject: Subject, tally: Tally, *, live: bool) -> None:
        if path.suffix.lower() not in (".mp4", ".mkv", ".mov"):
            raise UsageError(f"cannot record to {path}", why="needed .mp4, .mkv or .mov", fix="--record out.mp4")
        if path.exists():
            raise UsageError(f"{path} exists", why="a film is never overwritten", fix="remove it, or name another file")
        self.path, self._subject, self._tally, self._live = path, subject, tally, live
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._film = av.open(str(path), "w", options=_CLUSTERS if path.suffix.lower() == ".mkv" else _PIECES)
        except (OSError, av.error.FFmpegError) as error:
            raise _unwritable(path, error) from error
        self._waiting: queue.Queue[Answer | None] = queue.Queue(_WAITING)
        self._problem: BaseException | None = None
        self._frames = 0
        self._thread = threading.Thread(target=self._run, name="recorder", daemon=True)
        self._thread.start()

    def answered(self, answer: Answer, *, late: bool) -> None:
        """Queue it.

        Raises:
            ResourceError: Writing failed.
        """
        if self._problem is not None:
            raise _unwritable(self.path, self._problem) from self._problem
        try:
            self._waiting.put(answer, block=not self._live, timeout=10)
        except queue.Full:
            self._tally.count("unrecorded")

    def changed(self, health: Health) -> None:
        """Not on film: the gap shows."""

    def __enter__(self) -> "Recorder":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Film what waits and finish the file; none is left where there was nothing to film.

        Raises:
            ResourceError: Writing failed, unless something else had failed before.
        """
        with contextlib.suppress(queue.Full):
            self._waiting.put(None, timeout=_PATIENCE_S)
        self._thread.join(_PATIENCE_S)
        if self._thread.is_alive():
            self._problem = self._problem or TimeoutError("the disk does not take it in time")
        elif self._frames == 0:
            self.path.unlink(missing_ok=True)
        if self._problem is not None and error is None:
            raise _unwritable(self.path, self._problem) from self._problem

    def _run(self) -> None:
        try:
            self._write()
        except BaseException as error:  # told to the next who calls
            self._problem = error
            while self._waiting.get() is not None:
                pass

    def _write(self) -> None:
        stream = None
        began, last = 0.0, -1
        while (answer := self._waiting.get()) is not None:
            if stream is None:
                stream = self._begin(answer.frame.pixels)
                began = answer.frame.captured
            ticks = max(last + 1, round((answer.frame.captured - began) * _TICKS))
            last = ticks
            bars = tuple((self._subject.label(number), share) for number, share in answer.top)
            caption = f"#{answer.frame.id}  {answer.variant}  age {answer.age_ms:.0f} ms"
            picture = annotate(answer.frame.pixels, (stream.width, stream.height), bars, caption)
            frame = av.VideoFrame.from_ndarray(picture, format="rgb24")
            frame.pts = ticks
            self._frames += 1
            frame.time_base = Fraction(1, _TICKS)  # the muxer changes its own
            for packet in stream.encode(frame):
                self._film.mux(packet)
        if stream is not None:
            for packet in stream.encode():
                self._film.mux(packet)
        self._film.close()

    def _begin(self, pixels: NDArray[np.uint8]) -> av.VideoStream:
        codec = next(name for name in _CODECS if name in av.codecs_available)
        stream = self._film.add_stream(codec, rate=30)
        assert isinstance(stream, av.VideoStream)  # as the codec says
        height, width = pixels.shape[:2]
        scale = min(1.0, _MOST_WIDTH / width)
        stream.width, stream.height = (max(2, round(side * scale) // 2 * 2) for side in (width, height))
        stream.pix_fmt = "yuv420p"
        if codec == "libx264":  # it must not take the network's time, and nothing may wait inside it when all ends
            stream.options = {"preset": "veryfast", "tune": "zerolatency"}
        stream.codec_context.time_base = Fraction(1, _TICKS)
        return stream


def _unwritable(path: Path, error: BaseException) -> ResourceError:
    why = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return ResourceError(f"cannot record to {path}", why=why, fix="choose another place, or free some space")
