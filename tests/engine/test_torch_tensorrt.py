"""Torch-TensorRT: refused early where it cannot work, told only what its release knows, loaded only where it fits.

The library needs a GPU build of torch and never ran here: what it is told is held against the parameters that
torch_tensorrt.dynamo.compile has in the wheels of 2.8.0 and 2.14.0.
"""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

import edgehybrid
from edgehybrid import stages
from edgehybrid.engine.order import Order, RefusedError
from edgehybrid.engine.torch_tensorrt import export_program, settings
from edgehybrid.errors import NotReadyError, UsageError
from edgehybrid.records import EngineOptions
from edgehybrid.runtime import open_runner


def compile_2_8(
    exported_program: object,
    inputs: object = None,
    *,
    enabled_precisions: object = None,
    workspace_size: int = 0,
    version_compatible: bool = False,
    optimization_level: int | None = None,
    hardware_compatible: bool = False,
) -> None:
    """Those parameters of 2.8.0 that matter here."""


def compile_2_14(
    exported_program: object,
    inputs: object = None,
    *,
    workspace_size: int = 0,
    version_compatible: bool = False,
    optimization_level: int | None = None,
    hardware_compatible: bool = False,
    enable_autocast: bool = False,
    autocast_low_precision_type: object = None,
) -> None:
    """Those parameters of 2.14.0 that matter here."""


def release(version: str, compiler: Callable[..., None]) -> object:
    return SimpleNamespace(__version__=version, dynamo=SimpleNamespace(compile=compiler))


@pytest.mark.parametrize(
    ("compiler", "half"),
    [
        (compile_2_8, {"enabled_precisions": {torch.float32, torch.float16}}),
        (compile_2_14, {"enable_autocast": True, "autocast_low_precision_type": torch.float16}),
    ],
)
def test_every_release_is_told_what_it_knows(compiler: Callable[..., None], half: dict[str, object]) -> None:
    trt = release("x", compiler)
    assert settings(trt, Order("torch_tensorrt", precision="fp32")) == {}  # type: ignore[arg-type]
    assert settings(trt, Order("torch_tensorrt", precision="fp16")) == half  # type: ignore[arg-type]
    told = settings(
        trt,  # type: ignore[arg-type]
        Order("torch_tensorrt", precision="fp32", options=EngineOptions(64, 2, True, True)),
    )
    assert told == {
        "workspace_size": 64 << 20,
        "optimization_level": 2,
        "hardware_compatible": True,
        "version_compatible": True,
    }


def test_what_a_release_lacks_is_refused() -> None:
    def bare(exported_program: object, inputs: object = None) -> None:
        """A release that takes no options."""

    order = Order("torch_tensorrt", precision="fp32", options=EngineOptions(optimization_level=2))
    with pytest.raises(RefusedError, match="has no optimization_level"):
        settings(release("9", bare), order)  # type: ignore[arg-type]
    with pytest.raises(RefusedError, match="int8 and DLA go through ONNX"):
        settings(release("2.8", compile_2_8), Order("torch_tensorrt", precision="int8"))  # type: ignore[arg-type]


def test_the_program_that_is_handed_over_computes_the_module(tmp_path: Path) -> None:
    module = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(12, 4))
    export_program(module, (2, 3, 2, 2), tmp_path / "program.pt2")
    images = torch.randn(2, 3, 2, 2)
    with open_runner(tmp_path / "program.pt2") as runner:
        found = runner.run({"input": images.numpy()})["logits"]
    torch.testing.assert_close(torch.from_numpy(found), module(images).detach())


@pytest.mark.parametrize(
    ("options", "error", "said"),
    [
        ({"precision": "int8"}, UsageError, "builds fp32 and fp16"),
        ({"precision": "fp16", "dla": 0}, UsageError, "builds fp32 and fp16"),
        ({"precision": "fp16", "model": "mine.onnx"}, UsageError, "compiles torch modules"),
        ({"precision": "fp16", "target": "cpu"}, UsageError, "needs a target with TensorRT"),
    ],
)
def test_what_cannot_work_is_refused_before_any_work(
    options: dict[str, object], error: type[Exception], said: str, tmp_path: Path
) -> None:
    given = {"target": "orin-nano-8gb", "model": "cmt_ti", **options}
    with pytest.raises(error, match=said):
        edgehybrid.build(flavor="torch-tensorrt", output=tmp_path / "out", **given)  # type: ignore[arg-type]
    assert not (tmp_path / "out").exists()


def test_the_missing_library_is_named_with_its_extra(tmp_path: Path) -> None:
    if __import__("importlib.util").util.find_spec("torch_tensorrt") is not None:
        pytest.skip("torch_tensorrt is installed")
    with pytest.raises(NotReadyError, match="torch_tensorrt is not installed") as caught:
        edgehybrid.build(flavor="torch-tensorrt", precision="fp16", target="orin-nano-8gb", output=tmp_path / "out")
    assert caught.value.exit_code == 3
    assert caught.value.fix == "pip install 'edgehybrid[torch-tensorrt]'"


def test_a_board_needs_no_torch_for_the_other_roads() -> None:
    code = "import sys, edgehybrid.engine.child; print('torch' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "False"
    assert callable(stages.compile_torch)
