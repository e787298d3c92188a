"""Capture what is enqueued on a stream as a CUDA graph, through cuda-bindings, as pycuda has none."""

import importlib
from collections.abc import Callable
from types import ModuleType
from typing import Any

from edgehybrid.errors import EdgeHybridError, StageError


class GraphUnavailableError(Exception):
    """No CUDA graph can be had; the message says why."""


class ComputeGraph:
    """A captured and instantiated graph on one stream."""

    def __init__(self, stream: int, enqueue: Callable[[], None]) -> None:
        """Capture.

        Args:
            stream: Handle of pycuda's stream; cuda-bindings takes it as it is.
            enqueue: Enqueues the work on that stream.

        Raises:
            GraphUnavailableError: No cuda-bindings, or the work cannot be captured.

        Source:
            trtexec's captureGraph: thread-local mode, after one plain enqueue.
        """
        self._cudart = _import_cudart()
        self._launch = self._cudart.cudaGraphLaunch
        self._stream = stream
        self._graph: Any = None
        self._launchable: Any = None
        mode = self._cudart.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._ask("cudaStreamBeginCapture", stream, mode)
        problem = ""
        try:
            enqueue()
        except EdgeHybridError as error:
            problem = error.why
        code, self._graph = self._cudart.cudaStreamEndCapture(stream)  # also after a failure, or the stream is lost
        if problem or int(code):
            self.close()
            raise GraphUnavailableError(problem or self._text(code))
        try:
            (self._launchable,) = self._ask("cudaGraphInstantiate", self._graph, 0)
        except GraphUnavailableError:
            self.close()
            raise

    def launch(self) -> None:
        """Enqueue the whole graph on its stream."""
        (code,) = self._launch(self._launchable, self._stream)
        if code:
            raise StageError("the CUDA graph failed", why=self._text(code), fix="run without --cuda-graph")

    def close(self) -> None:
        """Destroy what was made."""
        if self._launchable is not None:
            self._cudart.cudaGraphExecDestroy(self._launchable)
        if self._graph is not None and int(self._graph):
            self._cudart.cudaGraphDestroy(self._graph)
        self._launchable = self._graph = None

    def _ask(self, name: str, *arguments: object) -> tuple[Any, ...]:
        code, *found = getattr(self._cudart, name)(*arguments)
        if int(code):
            raise GraphUnavailableError(f"{name}: {self._text(code)}")
        return tuple(found)

    def _text(self, code: Any) -> str:
        _, text = self._cudart.cudaGetErrorString(code)
        return text.decode() if isinstance(text, bytes) else str(text)


def _import_cudart() -> ModuleType:
    try:
        return importlib.import_module("cuda.bindings.runtime")
    except ImportError as error:
        raise GraphUnavailableError(f"cuda-bindings is not installed ({error})") from error
