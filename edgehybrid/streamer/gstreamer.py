"""Read a Jetson's CSI camera, or RTSP through its hardware decoder, with GStreamer from the system's PyGObject.

Loaded only where it is needed: PyGObject comes with the system, not from PyPI.
"""

import time
from collections.abc import Callable, Iterator

import gi
import numpy as np
from numpy.typing import NDArray

from edgehybrid.streamer.address import Address
from edgehybrid.streamer.source import LostError, Shot
from edgehybrid.streamer.video import PATIENCE_S

gi.require_version("Gst", "1.0")
gi.require_version("GstApp", "1.0")
from gi.repository import Gst, GstApp  # noqa: E402 - the versions must be chosen first

Gst.init(None)

NVIDIA_DECODER = ("nvv4l2decoder", "nvvidconv")
_CSI_ELEMENTS = ("nvarguscamerasrc", "nvvidconv")
_TO_RGB = "videoconvert ! video/x-raw,format=RGB ! appsink name=sink drop=true max-buffers=1 sync=false"


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


def has(*elements: str) -> bool:
    """Whether GStreamer elements are installed."""
    return all(Gst.ElementFactory.find(name) is not None for name in elements)


class GstReader:
    """A running pipeline that ends in an appsink named `sink`.

    Args:
        address: Of kind csi or rtsp.
        pipeline: What to run instead; a test passes one without NVIDIA's elements.

    Raises:
        LostError: It does not start.
    """

    def __init__(self, address: Address, pipeline: str | None = None) -> None:
        self._address = address
        if pipeline is None and address.kind == "csi" and not has(*_CSI_ELEMENTS):
            raise LostError(
                "GStreamer has no nvarguscamerasrc: this is no Jetson, or its multimedia package is missing",
                lasting=True,
                fix="on a Jetson: sudo apt install nvidia-l4t-gstreamer; elsewhere use v4l2:///dev/video0",
            )
        text = pipeline or (csi_pipeline(address.target) if address.kind == "csi" else rtsp_pipeline())
        self._pipeline = Gst.parse_launch(text)
        if camera := self._pipeline.get_by_name("camera"):
            camera.set_property("location", address.target)
        self._sink: GstApp.AppSink = self._pipeline.get_by_name("sink")
        self._pipeline.set_state(Gst.State.PLAYING)
        self._first = self._pull(PATIENCE_S)
        if self._first is None:
            self.close()
            raise LostError(f"no frame within {PATIENCE_S:g} s", fix="sudo systemctl restart nvargus-daemon")
        pixels = self._first.pixels
        size = "" if pixels is None else f" {pixels.shape[1]}x{pixels.shape[0]}"
        self.title = f"GStreamer {address.kind}{size}"

    def shots(self, wanted: Callable[[], bool]) -> Iterator[Shot]:
        """Pictures as they come; see `source.Reader`."""
        silent_since = time.monotonic()
        while wanted():
            shot = self._pull(0.1)
            if shot is not None:
                silent_since = time.monotonic()
                yield shot
            elif self._sink.get_property("eos"):
                return
            elif time.monotonic() - silent_since > PATIENCE_S:
                raise LostError(f"no data for {PATIENCE_S:g} s")

    def close(self) -> None:
        """Stop the pipeline."""
        self._pipeline.set_state(Gst.State.NULL)

    def _pull(self, timeout: float) -> Shot | None:
        """The newest picture, or None after `timeout` seconds.

        Raises:
            LostError: The pipeline reported an error.
        """
        sample = self._sink.emit("try-pull-sample", int(timeout * Gst.SECOND))
        message = self._pipeline.get_bus().pop_filtered(Gst.MessageType.ERROR)
        if message is not None:
            self.close()
            raise LostError(self._address.clean(message.parse_error()[0].message))
        if sample is None:
            return None
        shape = sample.get_caps().get_structure(0)
        width, height = shape.get_value("width"), shape.get_value("height")
        buffer = sample.get_buffer()
        mapped, view = buffer.map(Gst.MapFlags.READ)
        if not mapped:
            return Shot(None, time.monotonic(), "cannot be read")
        try:
            pixels = _unpadded(view.data, width, height)
        finally:
            buffer.unmap(view)
        return Shot(pixels, time.monotonic() - self._waited(buffer.pts))

    def _waited(self, stamp: int) -> float:
        """Seconds since the buffer was taken, by the pipeline's clock; 0 where it has no stamp."""
        clock = self._pipeline.get_clock()
        if clock is None or stamp == Gst.CLOCK_TIME_NONE:
            return 0.0
        waited = (clock.get_time() - self._pipeline.get_base_time() - stamp) / Gst.SECOND
        return waited if 0 <= waited < PATIENCE_S else 0.0


def _unpadded(data: bytes, width: int, height: int) -> NDArray[np.uint8]:
    """(H, W, 3) from rows that GStreamer pads to 4 bytes."""
    stride = (3 * width + 3) // 4 * 4
    rows = np.frombuffer(data, np.uint8, stride * height).reshape(height, stride)
    return rows[:, : 3 * width].reshape(height, width, 3).copy()
