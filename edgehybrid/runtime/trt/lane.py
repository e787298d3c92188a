"""One call at a time on one stream: upload, compute, download, each between two events."""

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pycuda.driver as cuda
from numpy.typing import NDArray

from edgehybrid.errors import StageError
from edgehybrid.runtime import Split, TensorInfo, Tensors
from edgehybrid.runtime.trt.buffers import Buffer
from edgehybrid.runtime.trt.graphs import ComputeGraph

REBUILD = "build the engine again on this device: edgehybrid build BUNDLE"


class Lane:
    """An execution context with its stream, buffers and events."""

    def __init__(
        self,
        context: Any,
        inputs: Mapping[str, TensorInfo],
        outputs: Mapping[str, TensorInfo],
        *,
        mapped: bool,
        complain: Callable[[], str],
    ) -> None:
        """Allocate buffers and tell the context where they are.

        Args:
            context: An execution context of its own.
            inputs: Of the engine.
            outputs: Of the engine.
            mapped: See `Buffer`.
            complain: Says what TensorRT logged last.
        """
        self.context: Any = context
        self.stream: Any = cuda.Stream()
        self._complain = complain
        self._handle: int = self.stream.handle
        self._graph: ComputeGraph | None = None
        self._compute: Callable[[], None] = self._enqueue
        self._marks = [cuda.Event(cuda.event_flags.BLOCKING_SYNC) for _ in range(4)]
        self._enqueue_ms = 0.0
        self.inputs: dict[str, Buffer] = {}
        self._outputs: dict[str, Buffer] = {}
        try:
            for kept, tensors in ((self.inputs, inputs), (self._outputs, outputs)):
                for name, info in tensors.items():
                    kept[name] = Buffer(info, mapped=mapped)
            self.bind(context)
        except BaseException:
            self.close()
            raise

    def bind(self, context: Any) -> None:
        """Tell an execution context where this lane's buffers are.

        Raises:
            StageError: TensorRT takes one of them not.
        """
        for name, buffer in {**self.inputs, **self._outputs}.items():
            if not context.set_tensor_address(name, buffer.address):
                raise StageError(f"the engine takes no buffer for '{name}'", why=self._complain(), fix=REBUILD)

    def load(self, feeds: Tensors) -> None:
        """Copy a batch into the host buffers; nothing where it lies there already."""
        for name, buffer in self.inputs.items():
            given = feeds[name]
            if given is not buffer.host:
                np.copyto(buffer.host, given)

    def run(self, feeds: Tensors) -> dict[str, NDArray[np.generic]]:
        """One call from host memory to host memory, without the events that only a measurement needs.

        It waits as the driver's own synchronisation does: an event that blocks would wake up later.
        """
        self.load(feeds)
        stream = self.stream
        for buffer in self.inputs.values():
            buffer.upload(stream)
        self._compute()
        for buffer in self._outputs.values():
            buffer.download(stream)
        stream.synchronize()
        return {name: np.array(buffer.host) for name, buffer in self._outputs.items()}

    def start(self, *, transfers: bool) -> None:
        """Enqueue one call and return.

        Args:
            transfers: Copy inputs and outputs; without, the device computes on what was copied last.
        """
        before_upload, before, after, after_download = self._marks
        before_upload.record(self.stream)
        if transfers:
            for buffer in self.inputs.values():
                buffer.upload(self.stream)
        before.record(self.stream)
        begin = time.perf_counter()
        self._compute()
        self._enqueue_ms = (time.perf_counter() - begin) * 1e3
        after.record(self.stream)
        if transfers:
            for buffer in self._outputs.values():
                buffer.download(self.stream)
        after_download.record(self.stream)

    def finish(self) -> Split:
        """Wait for the call; milliseconds of its parts on the device's clock."""
        before_upload, before, after, after_download = self._marks
        after_download.synchronize()
        return Split(
            h2d=float(before.time_since(before_upload)),
            compute=float(after.time_since(before)),
            d2h=float(after_download.time_since(after)),
            enqueue=self._enqueue_ms,
        )

    def capture(self) -> None:
        """Capture the compute step as a CUDA graph, after one plain call as TensorRT asks.

        Raises:
            GraphUnavailableError: It cannot be captured here.
        """
        self._enqueue()
        self.stream.synchronize()
        self._graph = ComputeGraph(self._handle, self._enqueue)
        self._compute = self._graph.launch

    def drop_graph(self) -> None:
        """Go back to enqueueing."""
        if self._graph is not None:
            self._graph.close()
            self._graph, self._compute = None, self._enqueue

    def close(self) -> None:
        """Wait for what is under way and free everything."""
        if self.stream is None:
            return
        self.stream.synchronize()
        self.drop_graph()
        for buffer in (*self.inputs.values(), *self._outputs.values()):
            buffer.close()
        self.inputs, self._outputs, self._marks = {}, {}, []
        self.context = self.stream = None

    def _enqueue(self) -> None:
        if not self.context.execute_async_v3(self._handle):
            raise StageError("the engine failed while running", why=self._complain(), fix=REBUILD)
