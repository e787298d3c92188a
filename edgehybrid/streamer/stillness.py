"""Tell a camera that hangs by what no working one does: to repeat its picture to the last bit for seconds."""

from typing import Literal

import numpy as np
from numpy.typing import NDArray

PROOF_S = 1.0
"""After a freeze, a new connection is believed once its picture still changes after so long. An encoder begins each
connection with a picture that it then refines: so do the first moments of a frozen one."""

Verdict = Literal["moving", "same", "frozen"]


class Stillness:
    """How long the picture has been the same, across connections.

    The noise of a sensor changes some pixel in every frame, also of a scene in which nothing moves, and an encoder that
    drops the noise starts from a new picture every second or two: x264 at 20 fps repeated a still scene with noise of
    1 to 2 of 255 for 1.1 s at most, and for 3.9 s at CRF 38 with a new picture every 12.5 s only. What this cannot see:
    a hung sensor behind an encoder that works, whose pictures differ by the encoder's own rounding.

    Args:
        limit: Seconds after which a repeated picture counts as frozen.
    """

    def __init__(self, limit: float) -> None:
        self._limit = limit
        self._last: NDArray[np.uint8] | None = None
        self._since = 0.0
        self._distrusted = False

    def judge(self, pixels: NDArray[np.uint8], now: float, connected: float) -> Verdict:
        """Compare a picture with the one before.

        Args:
            pixels: (H, W, 3), not changed afterwards.
            now: Seconds of the monotonic clock.
            connected: When this connection gave its first picture.
        """
        moved = self._last is None or not _same(self._last, pixels)
        if moved:
            self._last, self._since = pixels, now
            self._distrusted = self._distrusted and now - connected < PROOF_S
        elif now - self._since > self._limit:
            self._distrusted = True
        if self._distrusted:
            return "frozen"
        return "moving" if moved else "same"


def _same(one: NDArray[np.uint8], other: NDArray[np.uint8]) -> bool:
    """Whether every bit is; a few rows nearly always tell."""
    return np.array_equal(one[::64], other[::64]) and np.array_equal(one, other)
