"""Run a torch module or an exported program (.pt2), on the CPU or the GPU: the float32 reference."""

import importlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from types import TracebackType

import numpy as np
import torch
from numpy.typing import NDArray

from edgehybrid.cores import available_cores
from edgehybrid.errors import GraphError, NotFoundError, ResourceError, StageError
from edgehybrid.runtime import TensorInfo, Tensors, check_feeds


class TorchRunner:
    """A torch module in evaluation mode, without gradients."""

    def __init__(
        self,
        path: Path | None,
        *,
        threads: int = 0,
        module: torch.nn.Module | None = None,
        shape: Sequence[int] = (),
        device: str = "cpu",
        names: tuple[str, str] = ("input", "logits"),
        extension: str = "",
    ) -> None:
        """Load a file, or take a module as it is.

        Args:
            path: A program of `torch.export.save`, or of Torch-TensorRT once its library is imported; None with
                `module`. The caller vouches for the file.
            threads: CPU threads; 0 means every physical core this process may use.
            module: To run instead of a file; float32 input of `shape`.
            shape: Of the module's input, (N, 3, H, W); of a file's, its example input says it.
            device: `cpu` or `cuda`.
            names: Of input and output.
            extension: A Python module whose import registers the operators of the program, as `torch_tensorrt`.

        Raises:
            ImportError: The extension is not installed.
            NotFoundError: No such file.
            GraphError: The file is no exported program.
            StageError: The module does not run.
        """
        self.path, self.threads, self._device = path, threads or available_cores(), device
        if extension:
            importlib.import_module(extension)
        before = torch.get_num_threads()
        torch.set_num_threads(self.threads)
        self._restore = before
        try:
            if module is None:
                module, shape = _load(path)
            self._module: torch.nn.Module | None = module.eval() if path is None else module
            if path is None:
                module.to(device)
            self.inputs: Mapping[str, TensorInfo] = {names[0]: TensorInfo(tuple(shape), np.dtype("float32"))}
            example = self._call(np.zeros(tuple(shape), np.float32))
        except BaseException:
            torch.set_num_threads(before)
            raise
        self.outputs: Mapping[str, TensorInfo] = {names[1]: TensorInfo(example.shape, example.dtype)}
        self._names = names

    def run(self, feeds: Tensors) -> dict[str, NDArray[np.generic]]:
        """One synchronous call; see `edgehybrid.runtime.Runner.run`."""
        if self._module is None:
            raise ValueError(f"the runner of {self.path or 'the module'} is closed")
        check_feeds(self.inputs, feeds)
        return {self._names[1]: self._call(feeds[self._names[0]])}

    def __enter__(self) -> "TorchRunner":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Let the module go and give torch its threads back."""
        if self._module is not None:
            torch.set_num_threads(self._restore)
        self._module = None

    def _call(self, array: NDArray[np.generic]) -> NDArray[np.generic]:
        assert self._module is not None
        given = torch.from_numpy(np.array(array, np.float32)).to(self._device)
        try:
            with torch.inference_mode():
                found = self._module(given)
            while isinstance(found, tuple | list):
                found = found[0]
            answer: NDArray[np.generic] = found.float().cpu().numpy().copy()
        except torch.OutOfMemoryError as error:
            raise ResourceError(
                "not enough memory to run the module", why=str(error), fix="use a smaller batch"
            ) from error
        except RuntimeError as error:
            why = str(error).splitlines()[0]
            raise StageError("the torch module failed while running", why=why, fix="check its input size") from error
        return answer


def _load(path: Path | None) -> tuple[torch.nn.Module, tuple[int, ...]]:
    """The module of an exported program, and the shape of its input."""
    if path is None or not path.is_file():
        raise NotFoundError(f"no file {path}", why="needed a program of torch.export.save", fix="check the path")
    try:
        program = torch.export.load(path)
        arguments, _ = program.example_inputs
        return program.module(), tuple(int(side) for side in arguments[0].shape)
    except Exception as error:  # torch names no common class for a file it cannot read
        why = (str(error).splitlines() or [type(error).__name__])[0]
        raise GraphError(f"{path} is not an exported program", why=why, fix="torch.export.save writes one") from error
