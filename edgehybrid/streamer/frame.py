"""A frame, and the place of depth one through which the newest of them passes from one thread to the next."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Frame:
    """One picture and when it was taken.

    Attributes:
        id: Number of the frame in this run, from 0; grows by one with each frame read, across reconnects.
        pixels: (H, W, 3) RGB, owned by this frame and not changed after it was made.
        captured: Seconds of the monotonic clock: when its bytes arrived here, or earlier where the stream's own
            clock shows that they had waited (see `video.ArrivalClock`). The exposure itself nobody tells.
        live: Whether it ages: it came by itself and stands for the world as it was then.
    """

    id: int
    pixels: NDArray[np.uint8]
    captured: float
    live: bool


class Mailbox:
    """Room for one frame. A newer one replaces an unread one, which is counted as dropped."""

    def __init__(self) -> None:
        self.dropped = 0
        self._frame: Frame | None = None
        self._closed = False
        self._changed = threading.Condition()

    def put(self, frame: Frame) -> None:
        """Leave a frame; never waits. In a closed box it counts as dropped."""
        with self._changed:
            if self._closed:
                self.dropped += 1
                return
            self.dropped += self._frame is not None
            self._frame = frame
            self._changed.notify_all()

    def hand_over(self, frame: Frame, wanted: Callable[[], bool]) -> bool:
        """Leave a frame once the one before was taken: for clips, of which no frame is dropped.

        Returns:
            Whether it was left; False if the box was closed or `wanted` turned false meanwhile.
        """
        with self._changed:
            while self._frame is not None and not self._closed and wanted():
                self._changed.wait(0.1)
            if self._closed or not wanted():
                return False
            self._frame = frame
            self._changed.notify_all()
            return True

    def take(self, timeout: float) -> Frame | None:
        """The newest frame, or None after `timeout` seconds or when the box is closed and empty."""
        end = time.monotonic() + timeout
        with self._changed:
            while self._frame is None and not self._closed:
                left = end - time.monotonic()
                if left <= 0:
                    return None
                self._changed.wait(left)
            frame, self._frame = self._frame, None
            self._changed.notify_all()
            return frame

    def is_empty(self) -> bool:
        """Whether nothing waits to be taken."""
        with self._changed:
            return self._frame is None

    def close(self) -> None:
        """Wake everybody; nothing more is accepted, and what nobody took counts as dropped."""
        with self._changed:
            self._closed = True
            self.dropped += self._frame is not None
            self._frame = None
            self._changed.notify_all()
