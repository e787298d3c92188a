"""Read in a thread and keep only the newest: what a slow reader leaves behind must not pile up unseen."""

import threading
import time
from collections.abc import Callable, Iterator
from typing import Generic, TypeVar

T = TypeVar("T")


class Newest(Generic[T]):
    """Reads in a thread and keeps the newest: of a stream in which every packet is a whole picture.

    What a decoder that is slower than the camera leaves behind would pile up unseen in the system's buffers, where no
    clock shows it; here it is left out before it is decoded.
    """

    def __init__(self, items: Iterator[T]) -> None:
        self._changed = threading.Condition()
        self._item: tuple[T, float] | None = None
        self._skipped = 0
        self._ended = self._stopped = False
        self._error: Exception | None = None
        self._thread = threading.Thread(target=self._read, args=(items,), name="read packets", daemon=True)
        self._thread.start()

    def take(self, wanted: Callable[[], bool]) -> Iterator[tuple[T, float, int]]:
        """The newest item, when it arrived, and how many were left out before it; until the end.

        Raises:
            Exception: What reading raised, after the last item.
        """
        while wanted():
            with self._changed:
                if self._item is None and not self._ended:
                    self._changed.wait(0.1)
                item, self._item = self._item, None
                skipped = self._skipped
                if item is not None:
                    self._skipped = 0
                elif self._ended:
                    break
            if item is not None:
                yield *item, skipped
        if self._error is not None and wanted():
            raise self._error

    def stop(self) -> None:
        """End reading; returns when the thread has ended, which a read that is under way may delay."""
        self._stopped = True
        self._thread.join()

    def _read(self, items: Iterator[T]) -> None:
        try:
            for item in items:
                with self._changed:
                    self._skipped += self._item is not None
                    self._item = (item, time.monotonic())
                    self._changed.notify()
                if self._stopped:
                    return
        except Exception as error:  # carried to whoever takes
            self._error = error
        finally:
            with self._changed:
                self._ended = True
                self._changed.notify()
