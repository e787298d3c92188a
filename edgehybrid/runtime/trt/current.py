"""The device's context made current on the calling thread, whichever it is, for as long as a `with` lasts."""

from pathlib import Path
from types import TracebackType
from typing import Any

import pycuda.driver as cuda

from edgehybrid.errors import ResourceError, StageError


class Current:
    """Enter it as often as you like; errors of pycuda leave it in our words."""

    def __init__(self, primary: Any, path: Path) -> None:
        """Make nothing current yet.

        Args:
            primary: The retained primary context.
            path: Of the engine, for messages.
        """
        self._push, self._path = primary.push, path

    def __enter__(self) -> None:
        self._push()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        cuda.Context.pop()
        if isinstance(error, cuda.MemoryError):
            raise ResourceError(
                f"out of device memory while running {self._path}",
                why=str(error),
                fix="close other programs, or use fewer --streams or a smaller batch",
            ) from error
        if isinstance(error, cuda.Error):
            raise StageError(
                f"{self._path} failed while running", why=str(error), fix="check the driver with `edgehybrid doctor`"
            ) from error
