"""Read clips, RTSP and HTTP cameras and V4L2 devices with PyAV, and find out when each frame was taken."""

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import av
import av.error
import av.logging
import numpy as np
from av.container import InputContainer
from av.video.stream import VideoStream
from numpy.typing import NDArray

from edgehybrid.streamer.address import Address
from edgehybrid.streamer.newest import Newest
from edgehybrid.streamer.source import LostError, Shot

PATIENCE_S = 5.0
"""So long may a connection be opened, or be silent, before it counts as lost."""

_LIVE = {"flags": "low_delay", "analyzeduration": "1000000"}
_OPTIONS = {
    # TCP: a lost UDP packet is a damaged picture. RTP's own clock says how long a frame has waited.
    "rtsp": {**_LIVE, "rtsp_transport": "tcp"},
    # These streams carry no time: FFmpeg notes when it read each packet, also of those it read ahead to probe.
    "http": {**_LIVE, "use_wallclock_as_timestamps": "1", "reconnect": "0"},
    "v4l2": _LIVE,  # the driver stamps each buffer
    "clip": {},
}
_LASTING = (
    av.error.HTTPUnauthorizedError,
    av.error.HTTPForbiddenError,
    av.error.HTTPNotFoundError,
    av.error.FileNotFoundError,
    av.error.PermissionError,
    av.error.InvalidDataError,
    av.error.ProtocolNotFoundError,
    av.error.DemuxerNotFoundError,
    av.error.DecoderNotFoundError,
    av.error.IsADirectoryError,
)
_WHOLE_PICTURES = ("mjpeg", "rawvideo", "png")
_SKEW = 2e-4
"""By how much a camera's clock may run slow, in seconds per second; a backlog grows faster than that."""
_WAITED_S, _LONGEST_BACKLOG_S = 0.003, 2.0
_END_OF_JPEG = b"\xff\xd9"

av.logging.set_level(None)  # FFmpeg would print addresses, credentials included


class VideoReader:
    """One open container with a video stream.

    Args:
        address: Of kind clip, rtsp, http or v4l2.
        realtime: Read a clip at its own pace, as a camera would.

    Raises:
        LostError: It cannot be opened.
    """

    def __init__(self, address: Address, *, realtime: bool = False) -> None:
        self._address, self._paced = address, realtime
        try:
            self._container = _open(address)
            videos = self._container.streams.video
            if not videos:
                self._container.close()
                raise LostError("it holds no video", lasting=True, fix="give a video, or a folder of images")
            self._stream = videos[0]
            # Frame threads are faster and hold back one frame each: right for a clip, wrong for a camera.
            self._stream.thread_type = "AUTO" if address.kind == "clip" else "SLICE"
        except av.error.FFmpegError as error:
            raise _lost(address, error) from error
        self._newest: Newest[av.Packet[VideoStream]] | None = None
        codec = self._stream.codec_context
        rate = self._stream.average_rate or self._stream.guessed_rate
        fps = f", {float(rate):.3g} fps" if rate and address.kind != "http" else ""
        self.title = f"{codec.name} {codec.width}x{codec.height}{fps}"

    def shots(self, wanted: Callable[[], bool]) -> Iterator[Shot]:
        """Decoded pictures in order; see `source.Reader`."""
        clock, pace = ArrivalClock(), _Pace()
        arrivals: dict[int, float] = {}
        backlog = _Backlog() if self._address.kind == "rtsp" else None
        try:
            for packet, arrived, skipped in self._packets(wanted):
                if not wanted():
                    return
                if backlog is not None and backlog.is_through(arrived):
                    backlog = None
                if packet.pts is not None and packet.time_base is not None:
                    arrivals[packet.pts] = self._taken(clock, arrived, float(packet.pts * packet.time_base))
                damage = self._damage(packet)
                try:
                    frames = packet.decode()
                except av.error.InvalidDataError as error:
                    if not self._address.is_live:
                        raise
                    yield Shot(None, arrived, f"cannot be decoded ({error.strerror})", skipped)
                    continue
                if backlog is not None:
                    backlog.asked = time.monotonic()
                    continue
                for frame in frames:
                    if self._paced and frame.time is not None and not pace.wait(frame.time, wanted):
                        return
                    taken = arrivals.pop(frame.pts, arrived) if frame.pts is not None else arrived
                    when = taken if self._address.is_live else time.monotonic()
                    yield Shot(_pixels(frame), when, damage or ("corrupt" if frame.is_corrupt else None), skipped)
                    skipped = 0
                if len(arrivals) > 64:  # packets that gave no frame
                    arrivals.pop(min(arrivals))
        except av.error.EOFError:
            return
        except av.error.FFmpegError as error:
            raise _lost(self._address, error) from error

    def close(self) -> None:
        """Free the container, once nothing reads it any more."""
        if self._newest is not None:
            self._newest.stop()
        self._container.close()

    def _packets(self, wanted: Callable[[], bool]) -> "Iterator[tuple[av.Packet[VideoStream], float, int]]":
        """Packets, when each arrived, and how many were left out before it."""
        packets = self._container.demux(self._stream)
        if self._address.kind in ("http", "v4l2") and self._stream.codec_context.name in _WHOLE_PICTURES:
            self._newest = Newest(packets)
            yield from self._newest.take(wanted)
        else:
            for packet in packets:
                yield packet, time.monotonic(), 0

    def _taken(self, clock: "ArrivalClock", arrived: float, stamp: float) -> float:
        """When a packet was taken, by the clock that this kind of source stamps with."""
        if self._address.kind == "rtsp":
            return clock.taken(arrived, stamp)
        for now in (time.monotonic(), time.time()):  # a driver's clock is either of these
            if 0 <= now - stamp < PATIENCE_S:
                return time.monotonic() - (now - stamp)
        return arrived

    def _damage(self, packet: "av.Packet[VideoStream]") -> str | None:
        if packet.is_corrupt:
            return "incomplete packet"
        if self._address.kind == "http" and self._stream.codec_context.name == "mjpeg" and packet.size:
            # A decoder fills the missing half of a cut JPEG with grey and says nothing.
            return None if bytes(packet).rstrip(b"\0\r\n").endswith(_END_OF_JPEG) else "cut JPEG"
        return None


@dataclass
class ArrivalClock:
    """Finds out how long frames had waited before they were read, from the stamps their sender gave them.

    Arrival minus stamp is the sender's clock offset plus the delay on the way. Its least value seen so far belongs to
    the frame with the least delay; what a later frame has more than that, it waited: in a buffer that the reader did
    not empty in time. The least value may rise by `_SKEW`, as no two clocks run alike.
    """

    offset: float | None = None
    stamp: float = 0.0
    arrived: float = 0.0

    def taken(self, arrived: float, stamp: float) -> float:
        """When the frame was taken, at most `arrived`, both in seconds of the reader's clock."""
        offset = arrived - stamp
        if self.offset is None or stamp < self.stamp - 1:  # the sender began anew; B-frames step back by less
            self.offset = offset
        else:
            self.offset = min(offset, self.offset + _SKEW * (arrived - self.arrived))
        self.stamp, self.arrived = stamp, arrived
        return stamp + self.offset


@dataclass
class _Backlog:
    """What an RTSP source gave at once when it was opened: read ahead to probe it, or kept by the server.

    How long these frames had waited, no clock tells yet. They are decoded, as later ones build on them, and passed over
    until reading had to wait for the first time.
    """

    opened: float = field(default_factory=time.monotonic)
    asked: float = field(default_factory=time.monotonic)

    def is_through(self, arrived: float) -> bool:
        """Whether the packet that arrived then was a fresh one."""
        return arrived - self.asked > _WAITED_S or arrived - self.opened > _LONGEST_BACKLOG_S


class _Pace:
    """Makes a clip take the time that its stamps say."""

    def __init__(self) -> None:
        self._began: float | None = None

    def wait(self, stamp: float, wanted: Callable[[], bool]) -> bool:
        """Sleep until it is time; False if `wanted` turned false."""
        if self._began is None:
            self._began = time.monotonic() - stamp
        while wanted():
            left = self._began + stamp - time.monotonic()
            if left <= 0:
                return True
            time.sleep(min(left, 0.1))
        return False


def _open(address: Address) -> InputContainer:
    target = f"file:{address.target}" if address.kind == "clip" else address.target  # a name may hold a colon
    device = "v4l2" if address.kind == "v4l2" else None
    return av.open(target, format=device, options=dict(_OPTIONS[address.kind]), timeout=(PATIENCE_S, PATIENCE_S))


def _pixels(frame: av.VideoFrame) -> NDArray[np.uint8]:
    """Upright RGB: a phone's clip says how it was held."""
    pixels = np.asarray(frame.to_ndarray(format="rgb24"), np.uint8)
    turns = round(frame.rotation / 90) % 4
    return np.ascontiguousarray(np.rot90(pixels, turns)) if turns else pixels


def _lost(address: Address, error: av.error.FFmpegError) -> LostError:
    if isinstance(error, av.error.ExitError | av.error.TimeoutError):
        return LostError(f"no data for {PATIENCE_S:g} s")
    reason = address.clean((error.strerror or str(error)).lower())
    if address.kind == "v4l2":  # which was perhaps called 0
        reason = f"{address.target}: {reason}"
    fix = {
        "v4l2": "v4l2-ctl --list-devices shows the cameras; your user must be in the group video",
        "rtsp": "check address, user and password with another player",
        "http": "check address, user and password in a browser",
    }.get(address.kind, "play it with another program to see whether it is whole")
    return LostError(reason, lasting=isinstance(error, _LASTING), fix=fix)
