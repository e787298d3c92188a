"""Read a Jetson's CSI camera, or RTSP through its hardware decoder, from GStreamer in a process of its own."""

import contextlib
import functools
import importlib.util
import json
import os
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

import numpy as np

from edgehybrid.errors import NotReadyError
from edgehybrid.streamer.address import Address
from edgehybrid.streamer.gstreamer_child import HEADER
from edgehybrid.streamer.newest import Newest
from edgehybrid.streamer.source import LostError, Shot

NVIDIA_DECODER = ("nvv4l2decoder", "nvvidconv")
NVIDIA_CAMERA = ("nvarguscamerasrc", "nvvidconv")
PATIENCE_S = 5.0
"""So long may the first frame take."""
SYSTEM_PYTHON = "/usr/bin/python3"
"""JetPack's and Debian's PyGObject is made for this one."""
_CHILD = Path(__file__).with_name("gstreamer_child.py")
_TO_RGB = "videoconvert ! video/x-raw,format=RGB ! appsink name=sink drop=true max-buffers=1 sync=false"
_FIX = "sudo apt install python3-gi gir1.2-gst-plugins-base-1.0 gstreamer1.0-plugins-good"


def csi_pipeline(sensor: str) -> str:
    """From the sensor through the ISP: NVMM memory until `nvvidconv` copies it to the CPU.

    Source:
        gstCamera.cpp of jetson-utils; `nvvidconv` is what can read NVMM memory.
    """
    return (
        f"nvarguscamerasrc sensor-id={sensor} ! "
        "video/x-raw(memory:NVMM),width=(int)1280,height=(int)720,framerate=30/1,format=(string)NV12 ! "
        f"nvvidconv flip-method=0 ! video/x-raw,format=(string)BGRx ! {_TO_RGB}"
    )


def rtsp_pipeline() -> str:
    """H.264 over RTSP through NVDEC; the address is set as a property, never put into this text."""
    return (
        "rtspsrc name=camera latency=200 protocols=tcp ! queue ! rtph264depay ! h264parse ! "
        f"nvv4l2decoder enable-max-performance=1 ! nvvidconv ! video/x-raw,format=(string)BGRx ! {_TO_RGB}"
    )


@functools.cache
def has(*elements: str) -> bool:
    """Whether GStreamer is here and has these elements; asks once."""
    try:
        done = subprocess.run(
            [_python(), "-I", str(_CHILD), "--has", *elements], capture_output=True, timeout=20, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return False
    return done.returncode == 0


class GstReader:
    """A running pipeline that ends in an appsink named `sink`.

    Args:
        address: Of kind csi or rtsp.
        pipeline: What to run instead; a test passes one without NVIDIA's elements.

    Raises:
        NotReadyError: There is no PyGObject with GStreamer.
        LostError: It does not start, or gives no frame.
    """

    def __init__(self, address: Address, pipeline: str | None = None) -> None:
        self._address = address
        own = csi_pipeline(address.target) if address.kind == "csi" else rtsp_pipeline()
        needed = NVIDIA_CAMERA if address.kind == "csi" else NVIDIA_DECODER
        order = {"pipeline": pipeline or own, "location": address.target, "elements": [] if pipeline else needed}
        self._child, self._pipe = _start(json.dumps(order).encode())  # not in its arguments, which everybody can read
        self._newest = Newest(self._frames())
        end = time.monotonic() + PATIENCE_S
        try:
            first = next(self._newest.take(lambda: time.monotonic() < end), None)
        except BaseException:
            self.close()
            raise
        if first is None or first[0].pixels is None:
            self.close()
            raise LostError(f"no frame within {PATIENCE_S:g} s", fix="sudo systemctl restart nvargus-daemon")
        self._first = first[0]
        height, width = first[0].pixels.shape[:2]
        self.title = f"GStreamer {address.kind} {width}x{height}"

    def shots(self, wanted: Callable[[], bool]) -> Iterator[Shot]:
        """Pictures as they come; see `source.Reader`."""
        yield self._first
        for shot, _, skipped in self._newest.take(wanted):
            yield Shot(shot.pixels, shot.captured, skipped=skipped)

    def close(self) -> None:
        """End the process; one that hangs in a driver is left to the system."""
        self._child.kill()
        self._newest.stop()
        self._pipe.close()
        self._child.wait()

    def _frames(self) -> Iterator[Shot]:
        """What the child says, until it ends.

        Raises:
            NotReadyError: It has no GStreamer.
            LostError: Its pipeline failed, or it crashed.
        """
        while len(head := self._pipe.read(HEADER.size)) == HEADER.size:
            kind, first, second, at = HEADER.unpack(head)
            size = 3 * first * second if kind == b"F" else first
            if len(data := self._pipe.read(size)) < size:
                break  # it crashed in the midst of a message
            if kind == b"F":
                yield Shot(np.frombuffer(data, np.uint8).reshape(second, first, 3), at)
                continue
            text = self._address.clean(data.decode(errors="replace"))
            if kind == b"X":
                return
            if kind == b"M":
                raise NotReadyError(f"{self._address.shown} needs GStreamer", why=f"{_python()}: {text}", fix=_FIX)
            lasting = text.startswith("GStreamer has no ")
            raise LostError(text, lasting=lasting, fix="on a Jetson: sudo apt install nvidia-l4t-gstreamer")
        raise LostError("the GStreamer process ended")


def _start(order: bytes) -> tuple["subprocess.Popen[bytes]", BinaryIO]:
    """Start the child with a pipe of its own: NVIDIA's elements print on stdout."""
    out, into = os.pipe()
    try:
        child = subprocess.Popen(
            [_python(), "-I", str(_CHILD), str(into)],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            pass_fds=(into,),
            start_new_session=True,  # Ctrl-C is for the parent, which ends it
        )
    except OSError as error:
        os.close(out)
        raise NotReadyError("GStreamer cannot be started", why=f"{_python()}: {error.strerror}", fix=_FIX) from error
    finally:
        os.close(into)
    assert child.stdin is not None
    with contextlib.suppress(BrokenPipeError), child.stdin as order_to:  # a child that has ended says why on its pipe
        order_to.write(order)
    return child, os.fdopen(out, "rb")


def _python() -> str:
    """An interpreter that has PyGObject: this one, or else the system's."""
    return sys.executable if importlib.util.find_spec("gi") is not None else SYSTEM_PYTHON
