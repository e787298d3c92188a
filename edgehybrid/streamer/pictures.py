"""Read a folder of images as a stream: the very pixels that evaluation would see."""

import time
from collections.abc import Callable, Iterator

from edgehybrid import dataset
from edgehybrid.printable import counted
from edgehybrid.streamer.source import Shot

REALTIME_FPS = 2.0
"""Pace of `--realtime`: a folder has none of its own."""


class PicturesReader:
    """Yields the images of a folder, each once, in the order in which evaluation takes them.

    Args:
        folder: As `--eval` takes it.
        realtime: Show `REALTIME_FPS` of them per second.

    Raises:
        ImagesError: No images, or too many that cannot be read.
    """

    def __init__(self, folder: str, *, realtime: bool = False) -> None:
        self._images, self._paced = dataset.load(folder), realtime
        self.title = counted(len(self._images), "image")

    def shots(self, wanted: Callable[[], bool]) -> Iterator[Shot]:
        """Each image; see `source.Reader`."""
        for index in range(len(self._images)):
            if not wanted():
                return
            yield Shot(self._images.image(index), time.monotonic())
            end = time.monotonic() + 1 / REALTIME_FPS
            while self._paced and time.monotonic() < end and wanted():
                time.sleep(0.05)

    def close(self) -> None:
        """Nothing to free."""
