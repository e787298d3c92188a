"""The torch runner: the contract with a file and with a module, and files that are none."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from numpy.typing import NDArray

from edgehybrid.errors import GraphError, NotFoundError, StageError
from edgehybrid.runtime import Runner, open_runner
from edgehybrid.runtime.torch import TorchRunner
from tests.runtime.contract import CLASSES, SHAPE, RunnerContract


@pytest.fixture
def module() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(int(np.prod(SHAPE[1:])), CLASSES))


@pytest.fixture
def file(module: torch.nn.Module, tmp_path: Path) -> Path:
    torch.export.save(torch.export.export(module.eval(), (torch.zeros(SHAPE),)), tmp_path / "net.pt2")
    return tmp_path / "net.pt2"


class TestTorchRunner(RunnerContract):
    @pytest.fixture(params=["file", "module", "one thread"])
    def opened(self, request: pytest.FixtureRequest, module: torch.nn.Module, file: Path) -> Callable[[], Runner]:
        ways: dict[str, Callable[[], Runner]] = {
            "file": lambda: open_runner(file),
            "module": lambda: TorchRunner(None, module=module, shape=SHAPE),
            "one thread": lambda: open_runner(file, threads=1),
        }
        return ways[request.param]

    @pytest.fixture
    def expected(self, module: torch.nn.Module) -> Callable[[NDArray[np.float32]], NDArray[np.float32]]:
        layer = module[1]  # type: ignore[index]
        weight, bias = layer.weight.detach().numpy(), layer.bias.detach().numpy()
        return lambda images: images.reshape(len(images), -1) @ weight.T + bias


def test_files_that_are_no_program_are_told(tmp_path: Path) -> None:
    (tmp_path / "bad.pt2").write_bytes(b"no zip")
    with pytest.raises(GraphError, match="not an exported program"):
        open_runner(tmp_path / "bad.pt2")
    with pytest.raises(NotFoundError):
        open_runner(tmp_path / "absent.pt2")


def test_a_module_of_another_input_size_fails_in_words_and_gives_the_threads_back(module: torch.nn.Module) -> None:
    before = torch.get_num_threads()
    with pytest.raises(StageError, match="failed while running"):
        TorchRunner(None, module=module, shape=(2, 3, 5, 5), threads=1)
    assert torch.get_num_threads() == before
