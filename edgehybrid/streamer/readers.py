"""Open an address with the reader that its kind needs."""

from edgehybrid.streamer.address import Address
from edgehybrid.streamer.gstreamer import NVIDIA_DECODER, GstReader, has
from edgehybrid.streamer.pictures import PicturesReader
from edgehybrid.streamer.source import LostError, Reader
from edgehybrid.streamer.synthetic import SyntheticReader
from edgehybrid.streamer.video import VideoReader


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
    if address.kind == "csi":
        return GstReader(address)
    if address.kind == "rtsp" and has(*NVIDIA_DECODER):
        try:
            return GstReader(address)
        except LostError as error:  # the decoder's pipeline is H.264's
            reader = VideoReader(address)
            reader.title += f", decoded on the CPU, as the hardware's pipeline failed: {error}"
            return reader
    return VideoReader(address, realtime=realtime)
