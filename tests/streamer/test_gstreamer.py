"""GStreamer's road with elements that every installation has; NVIDIA's are checked as text, as no Jetson is here."""

import io
import itertools
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from edgehybrid.errors import InputError, NotReadyError
from edgehybrid.streamer import gstreamer, readers
from edgehybrid.streamer.address import Address, parse
from edgehybrid.streamer.capture import Capture
from edgehybrid.streamer.frame import Mailbox
from edgehybrid.streamer.gstreamer import GstReader, csi_pipeline, has, rtsp_pipeline
from edgehybrid.streamer.gstreamer_child import HEADER
from edgehybrid.streamer.source import LostError
from edgehybrid.streamer.tally import Tally
from tests.streamer.cameras import free_port, rtsp_server, why_no_rtsp_server
from tests.streamer.scenes import write_clip

needs_gst = pytest.mark.skipif(
    not has("videotestsrc", "videoconvert", "appsink", "decodebin"),
    reason="needs GStreamer and its base plugins with PyGObject",
)
needs_rtsp = pytest.mark.skipif(why_no_rtsp_server() is not None, reason="needs gir1.2-gst-rtsp-server-1.0")
SINK = "videoconvert ! video/x-raw,format=RGB ! appsink name=sink drop=true max-buffers=1 sync=true"


@needs_gst
def test_frames_arrive_as_rgb_unpadded_with_the_time_they_were_taken() -> None:
    text = f"videotestsrc pattern=red is-live=true ! video/x-raw,width=50,height=30,framerate=30/1 ! {SINK}"
    reader = GstReader(parse("csi://0"), text)
    assert reader.title == "GStreamer csi 50x30"
    shots, last = reader.shots(lambda: True), 0.0
    for _ in range(5):
        shot = next(shots)
        assert shot.pixels is not None
        assert shot.pixels.shape == (30, 50, 3)  # 150 bytes a row, which GStreamer pads to 152
        assert np.abs(shot.pixels.astype(int) - (255, 0, 0)).max() <= 3
        assert last < shot.captured <= time.monotonic()
        last = shot.captured
    reader.close()
    assert reader._child.poll() is not None


@pytest.mark.parametrize("sent", [b"", b"F", HEADER.pack(b"F", 4, 4, 0.0) + b"rgb", HEADER.pack(b"E", 99, 0, 0.0)])
def test_a_process_that_crashes_in_the_midst_of_a_message_is_a_lost_source(sent: bytes) -> None:
    reader = GstReader.__new__(GstReader)
    reader._pipe = io.BytesIO(sent)
    reader._address = parse("csi://0")
    with pytest.raises(LostError, match="process ended"):
        next(reader._frames())


@needs_gst
def test_a_slow_taker_gets_the_newest_and_the_rest_is_counted() -> None:
    text = f"videotestsrc is-live=true ! video/x-raw,width=64,height=48,framerate=100/1 ! {SINK}"
    reader = GstReader(parse("csi://0"), text)
    skipped = 0
    for number, shot in enumerate(reader.shots(lambda: True)):
        time.sleep(0.1)
        skipped += shot.skipped
        if number == 5:
            break
    assert skipped >= 10
    reader.close()


@needs_gst
def test_the_end_of_a_stream_ends_it() -> None:
    text = f"videotestsrc num-buffers=4 is-live=true ! video/x-raw,width=64,height=48,framerate=30/1 ! {SINK}"
    reader = GstReader(parse("csi://0"), text)
    assert len(list(reader.shots(lambda: True))) <= 4
    reader.close()


@needs_gst
@pytest.mark.parametrize("text", [f"filesrc location=/no/such/file ! decodebin ! {SINK}", "no such ! pipeline"])
def test_an_error_of_the_pipeline_is_a_loss(text: str) -> None:
    with pytest.raises(LostError):
        GstReader(parse("csi://0"), text)


@needs_gst
def test_a_process_that_dies_is_a_loss() -> None:
    text = f"videotestsrc is-live=true ! video/x-raw,width=64,height=48,framerate=30/1 ! {SINK}"
    reader = GstReader(parse("csi://0"), text)
    reader._child.kill()
    with pytest.raises(LostError, match="ended"):
        list(reader.shots(lambda: True))
    reader.close()


@needs_gst
@pytest.mark.skipif(has("nvarguscamerasrc"), reason="this is a Jetson")
def test_csi_elsewhere_says_what_is_missing() -> None:
    capture = Capture(lambda: readers.open_reader(parse("csi://0")), Mailbox(), Tally(), live=True)
    with pytest.raises(InputError) as caught:
        capture.run()
    assert "nvarguscamerasrc" in caught.value.why
    assert "nvidia-l4t-gstreamer" in caught.value.fix


def test_nvidias_pipelines_are_as_documented() -> None:
    csi, rtsp = csi_pipeline("1"), rtsp_pipeline()
    assert csi.startswith("nvarguscamerasrc sensor-id=1 ! video/x-raw(memory:NVMM),width=(int)1280")
    assert "format=(string)NV12 ! nvvidconv flip-method=0 ! video/x-raw,format=(string)BGRx ! videoconvert" in csi
    assert "rtph264depay ! h264parse ! nvv4l2decoder" in rtsp
    for text in (csi, rtsp):
        assert text.endswith("appsink name=sink drop=true max-buffers=1 sync=false")
    assert "location" not in rtsp  # an address in the text could add elements of its own


def test_without_gstreamer_csi_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    bare = tmp_path / "python3"  # a Python that sees no PyGObject
    bare.write_text(f'#!/bin/sh\nexec {sys.executable} -S "$@"\n')
    bare.chmod(0o755)
    monkeypatch.setattr(gstreamer, "_python", lambda: str(bare))
    with pytest.raises(NotReadyError) as caught:
        readers.open_reader(parse("csi://0"))
    assert "python3-gi" in caught.value.fix
    monkeypatch.setattr(gstreamer, "_python", lambda: str(tmp_path / "none"))
    with pytest.raises(NotReadyError, match="cannot be started"):
        readers.open_reader(parse("csi://0"))


@needs_rtsp
@pytest.mark.skipif(not has("openh264dec"), reason="needs openh264dec of gstreamer1.0-plugins-bad")
def test_rtsp_pipeline_reads_a_camera_with_a_password(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A Jetson's pipeline with another decoder; the password has every sign that means something in an address."""
    hardware = "nvv4l2decoder enable-max-performance=1 ! nvvidconv ! video/x-raw,format=(string)BGRx"
    text = rtsp_pipeline().replace(hardware, "openh264dec")
    assert text != rtsp_pipeline()
    password = "s3c/r@t?#: %41"
    monkeypatch.setenv("EDGEHYBRID_LOGIN", f"admin:{password}")
    clip, port = write_clip(tmp_path / "clip.mp4", frames=100), free_port()
    with rtsp_server(clip, port, "admin", password):
        reader = GstReader(parse(f"rtsp://127.0.0.1:{port}/clip"), text)
        assert reader.title == "GStreamer rtsp 96x64"
        assert all(shot.pixels is not None for shot in itertools.islice(reader.shots(lambda: True), 5))
        reader.close()
        with pytest.raises(LostError) as caught:
            GstReader(parse(f"rtsp://admin:wr0ng@127.0.0.1:{port}/clip"), text)
    assert "wr0ng" not in str(caught.value)


@needs_rtsp
def test_rtsp_that_the_hardware_cannot_decode_is_decoded_on_the_cpu_and_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a Jetson with a camera that sends H.265: the hardware's reader is a stand-in that fails."""

    def fail(address: Address) -> None:
        raise LostError("not negotiated")

    monkeypatch.setattr(readers, "has", lambda *elements: True)
    monkeypatch.setattr(readers, "GstReader", fail)
    clip, port = write_clip(tmp_path / "clip.mp4", frames=100), free_port()
    with rtsp_server(clip, port):
        reader = readers.open_reader(parse(f"rtsp://127.0.0.1:{port}/clip"))
        assert "decoded on the CPU" in reader.title
        assert "not negotiated" in reader.title
        assert next(iter(reader.shots(lambda: True))).pixels is not None
        reader.close()
