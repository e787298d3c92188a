"""Arrays that wait on disk: memory is for those that are being worked on."""

import tempfile
import weakref
from collections.abc import Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from edgehybrid.store.files import cache_root, guarding


class Shelf(Mapping[str, NDArray[np.float32]]):
    """The same arrays under the same names, each read anew whenever it is asked for.

    The file lies in the cache's folder, has no name, and is gone with the shelf or with the process.
    """

    def __init__(self, arrays: Mapping[str, NDArray[np.float32]]) -> None:
        """Write them.

        Raises:
            ResourceError: The disk is full or cannot be written.
        """
        self._places: dict[str, tuple[int, tuple[int, ...]]] = {}
        folder = cache_root()
        with guarding(folder):
            folder.mkdir(parents=True, exist_ok=True)
            self._file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115 - open as long as this object is there
            weakref.finalize(self, self._file.close)
            for name, array in arrays.items():
                self._places[name] = self._file.tell(), array.shape
                left = np.ascontiguousarray(array, np.float32).reshape(-1).view(np.uint8).data
                while len(left):  # a disk that is nearly full takes a part
                    left = left[self._file.write(left) :]

    def __getitem__(self, name: str) -> NDArray[np.float32]:
        place, shape = self._places[name]
        found = np.empty(shape, np.float32)
        self._file.seek(place)
        self._file.readinto(found.reshape(-1).view(np.uint8).data)
        return found

    def __iter__(self) -> Iterator[str]:
        return iter(self._places)

    def __len__(self) -> int:
        return len(self._places)
