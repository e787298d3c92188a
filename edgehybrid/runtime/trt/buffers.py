"""Host and device memory of one input or output: pinned and copied, or mapped and shared."""

from typing import Any

import numpy as np
import pycuda.driver as cuda
from numpy.typing import NDArray

from edgehybrid.runtime import TensorInfo


class Buffer:
    """One tensor's memory on both sides.

    Pinned host memory is copied to and from the device. Mapped host memory has an address on the device: where CPU and
    GPU share their memory nothing is copied, where they do not every access would cross the bus.
    """

    def __init__(self, info: TensorInfo, *, mapped: bool) -> None:
        """Allocate.

        Args:
            info: Of the tensor.
            mapped: Share one memory instead of copying between two.
        """
        self.mapped = mapped
        flags = cuda.host_alloc_flags.DEVICEMAP if mapped else 0
        self.host: NDArray[np.generic] = cuda.pagelocked_empty(info.shape, info.dtype, mem_flags=flags)
        self._device: Any = None if mapped else cuda.mem_alloc(max(self.host.nbytes, 1))
        self._pinned: Any = self.host.base  # pycuda's allocation under the array
        place: Any = self._pinned.get_device_pointer() if mapped else self._device
        self.address = int(place)

    def upload(self, stream: Any) -> None:
        """Enqueue the copy to the device; nothing where the memory is shared."""
        if not self.mapped:
            cuda.memcpy_htod_async(self._device, self.host, stream)

    def download(self, stream: Any) -> None:
        """Enqueue the copy from the device; nothing where the memory is shared."""
        if not self.mapped:
            cuda.memcpy_dtoh_async(self.host, self._device, stream)

    def close(self) -> None:
        """Free both sides; no one may hold `host` any longer."""
        if self._device is not None:
            self._device.free()
            self._device = None
        self.host = np.empty(0)
        self._pinned.free()
