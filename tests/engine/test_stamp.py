"""An engine is loaded only where it was built for, and only after a child survived it."""

from dataclasses import replace
from pathlib import Path

import pytest

from edgehybrid.engine import Builders, calibration_cache, check_stamp, try_loading
from edgehybrid.errors import ArtifactError, NotReadyError
from edgehybrid.records import EngineOptions, EngineStamp, Ranges
from edgehybrid.store import sha256_of
from tests.engine.test_build import install

REBUILD = "edgehybrid build bundle"
STAMP = EngineStamp("tensorrt", "10.3.0", ("8.7",), "12.6", "Jetson Orin Nano", "m", "e", EngineOptions())
HERE = {"version": "10.3.0", "capability": "8.7", "board": "Jetson Orin Nano", "rebuild": REBUILD}


def test_an_engine_of_this_machine_fits_without_a_word() -> None:
    assert check_stamp(STAMP, **HERE) == ""  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("here", "what", "why"),
    [
        ({"version": "10.7.0"}, "built for TensorRT 10.3.0", "this machine has 10.7.0"),
        ({"version": None}, "built for TensorRT 10.3.0", "this machine has none"),
        ({"capability": "8.6"}, "compute capability 8.7", "this machine has 8.6"),
        ({"capability": None}, "compute capability 8.7", "no CUDA device"),
    ],
)
def test_a_misfit_says_what_was_found_needed_and_how_to_build_again(
    here: dict[str, str | None], what: str, why: str
) -> None:
    with pytest.raises(ArtifactError, match=what) as caught:
        check_stamp(STAMP, **{**HERE, **here})  # type: ignore[arg-type]
    assert why in caught.value.why
    assert REBUILD in caught.value.fix
    assert caught.value.exit_code == 7


def test_another_board_of_the_same_gpu_is_told() -> None:
    assert "tuned on Jetson Orin Nano" in check_stamp(STAMP, **{**HERE, "board": "Jetson Orin NX"})


@pytest.mark.parametrize(("capability", "fits"), [("8.6", True), ("12.0", True), ("7.5", False)])
def test_a_hardware_compatible_engine_fits_from_ampere_on(capability: str, fits: bool) -> None:
    wide = replace(STAMP, options=EngineOptions(hardware_compatible=True))
    if fits:
        check_stamp(wide, **{**HERE, "capability": capability})
    else:
        with pytest.raises(ArtifactError):
            check_stamp(wide, **{**HERE, "capability": capability})


LOADS = """
import sys, types
trt = types.ModuleType("fake"); trt.__version__ = "10.3.0"
class ILogger:
    class Severity: INTERNAL_ERROR, ERROR, WARNING = range(3)
class Context: pass
class Engine:
    def create_execution_context(self): return Context()
class Runtime:
    def __init__(self, logger): pass
    def deserialize_cuda_engine(self, plan): return Engine() if plan == b"good" else {bad}
trt.ILogger, trt.Runtime = ILogger, Runtime
sys.modules[__name__] = trt
"""


@pytest.mark.parametrize(
    ("content", "bad", "said"),
    [
        (b"good", "None", None),
        (b"bad", "None", "it left no message"),
        (b"bad", "__import__('os').kill(__import__('os').getpid(), 11)", "SIGSEGV"),
    ],
    ids=["loads", "refused", "segfault"],
)
def test_a_child_tries_the_engine_first(
    content: bytes, bad: str, said: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = install(tmp_path, monkeypatch, LOADS.replace("{bad}", bad))
    plan = tmp_path / "engine.plan"
    plan.write_bytes(content)
    mark = replace(STAMP, engine_sha256=sha256_of(plan))
    builders = Builders(module, None, "8.7")
    if said is None:
        assert try_loading(plan, mark, board=STAMP.board, rebuild=REBUILD, builders=builders) == (module, "")
        return
    with pytest.raises(ArtifactError, match="does not load") as caught:
        try_loading(plan, mark, board=STAMP.board, rebuild=REBUILD, builders=builders)
    assert said in caught.value.why


def test_another_file_than_the_stamped_one_is_refused_before_anything_is_loaded(tmp_path: Path) -> None:
    plan = tmp_path / "engine.plan"
    plan.write_bytes(b"swapped")
    with pytest.raises(ArtifactError, match="not the engine that"):
        try_loading(plan, STAMP, board="x", rebuild=REBUILD, builders=Builders("no_such_module", None, "8.7"))


def test_no_tensorrt_is_an_environment_to_fix(tmp_path: Path) -> None:
    with pytest.raises(NotReadyError, match="tensorrt is not installed"):
        try_loading(tmp_path / "p", STAMP, board="x", rebuild=REBUILD, builders=Builders(None, None, None))


def test_nvdla_reads_scales_as_big_endian_floats() -> None:
    """127 / 127 is 1.0, which is 3f800000."""
    cache = calibration_cache(Ranges("mse", 8, "sha", {"b": 127.0, "a/x": 63.5}))
    assert cache.decode().splitlines() == ["TRT-8501-EntropyCalibration2", "a/x: 3f000000", "b: 3f800000"]
