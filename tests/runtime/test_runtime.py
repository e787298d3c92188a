"""How a backend is found by name."""

import re
import sys
from pathlib import Path

import pytest

from edgehybrid import runtime
from edgehybrid.errors import NotFoundError, NotReadyError
from edgehybrid.runtime import BACKENDS, INSTALL, open_runner


def test_every_backend_says_where_it_lives_and_how_it_is_installed() -> None:
    assert BACKENDS.keys() == INSTALL.keys()
    for place in BACKENDS.values():
        assert re.fullmatch(r"edgehybrid\.runtime\.\w+:\w+", place)


def test_an_unknown_backend_suggests_the_near_miss(tmp_path: Path) -> None:
    with pytest.raises(NotFoundError) as caught:
        open_runner(tmp_path / "net.onnx", "onnxruntme")
    assert caught.value.why == "did you mean onnxruntime?"


def test_a_missing_library_is_not_ready_and_names_the_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delitem(sys.modules, "edgehybrid.runtime.ort", raising=False)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)  # Python's own way to say: not installed
    with pytest.raises(NotReadyError) as caught:
        open_runner(tmp_path / "net.onnx")
    assert "onnxruntime" in caught.value.why
    assert caught.value.fix == "pip install onnxruntime"


def test_a_bug_of_ours_is_not_mistaken_for_a_missing_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(runtime.BACKENDS, "onnxruntime", "edgehybrid.runtime.nowhere:Runner")
    with pytest.raises(ModuleNotFoundError):
        open_runner(tmp_path / "net.onnx")
