"""Open an address with the reader that its kind needs."""

import importlib

from edgehybrid.errors import NotReadyError
from edgehybrid.streamer.address import Address
from edgehybrid.streamer.pictures import PicturesReader
from edgehybrid.streamer.source import Reader
from edgehybrid.streamer.synthetic import SyntheticReader
from edgehybrid.streamer.video import VideoReader

GSTREAMER_FIX = (
    "sudo apt install python3-gi gir1.2-gst-plugins-base-1.0, and make the environment with "
    "python3 -m venv --system-site-packages"
)


def open_reader(address: Address, *, realtime: bool = False) -> Reader:
    """Connect.

    Args:
        address: Where to.
        realtime: Read a clip or a folder at its own pace.

    Raises:
        LostError: It cannot be opened now.
        NotReadyError: It needs GStreamer, which is not there.
        ImagesError: A folder without usable images.
    """
    if address.kind == "test":
        return SyntheticReader(address.options)
    if address.kind == "pictures":
        return PicturesReader(address.target, realtime=realtime)
    if address.kind == "csi" or (address.kind == "rtsp" and _decodes_in_hardware()):
        reader: Reader = _gstreamer(address).GstReader(address)  # type: ignore[attr-defined]
        return reader
    return VideoReader(address, realtime=realtime)


def _decodes_in_hardware() -> bool:
    """Whether GStreamer is here and has NVIDIA's decoder."""
    try:
        home = importlib.import_module("edgehybrid.streamer.gstreamer")
    except (ImportError, ValueError):  # ValueError: PyGObject without GStreamer's description
        return False
    return bool(home.has(*home.NVIDIA_DECODER))


def _gstreamer(address: Address) -> object:
    try:
        return importlib.import_module("edgehybrid.streamer.gstreamer")
    except (ImportError, ValueError) as error:
        raise NotReadyError(
            f"{address.shown} needs GStreamer", why=f"PyGObject does not load it: {error}", fix=GSTREAMER_FIX
        ) from error
