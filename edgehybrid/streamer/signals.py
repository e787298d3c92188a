"""Hear Ctrl-C and SIGTERM once, so that a second one does not cost the summary of a stream that is ending already."""

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

HEARD = (signal.SIGINT, signal.SIGTERM)


@contextlib.contextmanager
def heard_once() -> Iterator[None]:
    """Within it only the first signal does what it did before; the end that it begins takes less than two seconds.

    Signals that end the process without asking Python, and threads that get none, are left alone.
    """
    before = {number: signal.getsignal(number) for number in HEARD}
    heard = False

    def hear(number: int, frame: FrameType | None) -> None:
        nonlocal heard
        first, heard = not heard, True
        act = before[signal.Signals(number)]
        if first and callable(act):
            act(number, frame)

    changed = [number for number in HEARD if callable(before[number])]
    if threading.current_thread() is not threading.main_thread():
        changed = []
    for number in changed:
        signal.signal(number, hear)
    try:
        yield
    finally:
        for number in changed:
            signal.signal(number, before[number])
