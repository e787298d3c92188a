"""What every source of frames has in common: how it is opened, read, and how it says that it cannot."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray


@dataclass(frozen=True)
class Shot:
    """A picture as a source gives it.

    Attributes:
        pixels: (H, W, 3) RGB, not changed afterwards; None where nothing could be decoded.
        captured: When, in seconds of the monotonic clock.
        damaged: Why the decoder does not vouch for it; None where it does.
        skipped: How many pictures were left out before it, undecoded, because this one was there already.
    """

    pixels: NDArray[np.uint8] | None
    captured: float
    damaged: str | None = None
    skipped: int = 0


class Reader(Protocol):
    """One open connection."""

    title: str
    """What is connected, in a few words without credentials: codec, size, frame rate."""

    def shots(self, wanted: Callable[[], bool]) -> Iterator[Shot]:
        """Pictures until the source ends or `wanted` turns false.

        Raises:
            LostError: The connection broke.
        """

    def close(self) -> None:
        """Free the connection; must not raise."""


class LostError(Exception):
    """A source that cannot be opened or broke off; the message is the reason on one line, without credentials.

    Args:
        reason: What happened.
        lasting: Trying again will not help: a refused password, a file that is no video.
        fix: What the user can do about it.
    """

    def __init__(self, reason: str, *, lasting: bool = False, fix: str = "") -> None:
        super().__init__(reason)
        self.lasting = lasting
        self.fix = fix
