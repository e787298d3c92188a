"""Run a GStreamer pipeline and write its frames to a pipe: a program for the system's Python, which has PyGObject.

    python3 -I gstreamer_child.py FD        with {"pipeline": "...", "location": "...", "elements": ["..."]} on stdin
    python3 -I gstreamer_child.py --has ELEMENT...

A process of its own, for two reasons: no virtual environment sees the system's PyGObject, and GStreamer loads
libunwind, under which an exception inside ONNX Runtime ended the whole process. It imports nothing of this package and
runs on Python 3.8.

Each message is `HEADER` (kind, two numbers, a time) and bytes. F is a frame: width, height, when it was taken on the
monotonic clock, RGB rows without padding. E is an error, M something missing, X the end: length, 0, 0, text.
"""

import importlib
import json
import os
import struct
import sys
import time
from typing import Any, List  # noqa: UP035 - Python 3.8

HEADER = struct.Struct("<cIId")
_POLL_S = 0.1
_LONGEST_WAIT_S = 5.0


def main(words: List[str]) -> int:  # noqa: UP006 - Python 3.8
    """Answer `--has` with the exit code, or stream."""
    try:
        gi = importlib.import_module("gi")
        gi.require_version("Gst", "1.0")
        gi.require_version("GstApp", "1.0")
        gst: Any = importlib.import_module("gi.repository.Gst")
        importlib.import_module("gi.repository.GstApp")
    except (ImportError, ValueError) as error:
        return 1 if words[0] == "--has" else _tell(int(words[0]), b"M", str(error))
    gst.init(None)
    if words[0] == "--has":
        return 0 if all(gst.ElementFactory.find(name) for name in words[1:]) else 1
    order, out = json.load(sys.stdin), int(words[0])
    missing = [name for name in order["elements"] if gst.ElementFactory.find(name) is None]
    if missing:
        return _tell(out, b"E", f"GStreamer has no {', '.join(missing)}")
    return _stream(gst, order, out)


def _stream(gst: Any, order: Any, out: int) -> int:
    """Write every frame that comes; where the pipe is full, the sink drops older ones."""
    try:
        pipeline = gst.parse_launch(order["pipeline"])
    except Exception as error:  # GLib.Error, a class that only exists once GStreamer does
        return _tell(out, b"E", str(error))
    camera = pipeline.get_by_name("camera")
    if camera is not None:
        camera.set_property("location", order["location"])
    sink, bus, parent = pipeline.get_by_name("sink"), pipeline.get_bus(), os.getppid()
    pipeline.set_state(gst.State.PLAYING)
    try:
        while os.getppid() == parent:
            sample = sink.emit("try-pull-sample", int(_POLL_S * gst.SECOND))
            message = bus.pop_filtered(gst.MessageType.ERROR)
            if message is not None:
                return _tell(out, b"E", message.parse_error()[0].message)
            if sample is not None:
                _write_frame(gst, pipeline, sample, out)
            elif sink.get_property("eos"):
                return _tell(out, b"X", "")
    except BrokenPipeError:
        return 0
    finally:
        pipeline.set_state(gst.State.NULL)
    return 0


def _write_frame(gst: Any, pipeline: Any, sample: Any, out: int) -> None:
    shape, buffer = sample.get_caps().get_structure(0), sample.get_buffer()
    width, height = shape.get_value("width"), shape.get_value("height")
    data = buffer.extract_dup(0, buffer.get_size())
    row = 3 * width
    padded = (row + 3) // 4 * 4  # GStreamer's rows
    if padded != row:
        data = b"".join(data[y * padded : y * padded + row] for y in range(height))
    clock, waited = pipeline.get_clock(), 0.0
    if clock is not None and buffer.pts != gst.CLOCK_TIME_NONE:
        waited = (clock.get_time() - pipeline.get_base_time() - buffer.pts) / gst.SECOND
    taken = time.monotonic() - (waited if 0 <= waited < _LONGEST_WAIT_S else 0.0)
    _write(out, HEADER.pack(b"F", width, height, taken) + data[: row * height])


def _tell(out: int, kind: bytes, text: str) -> int:
    data = text.encode()
    _write(out, HEADER.pack(kind, len(data), 0, 0.0) + data)
    return 1


def _write(out: int, data: bytes) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(out, view) :]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
