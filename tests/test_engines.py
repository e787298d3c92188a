"""Engines in a build: the product, its fp16 control, and both built again from a bundle alone."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import edgehybrid
from edgehybrid.delivery.names import OWN
from edgehybrid.engine import find_builders
from edgehybrid.errors import NotReadyError, UsageError
from edgehybrid.records import EngineStamp, Report
from edgehybrid.store import MANIFEST, decode, sha256_of
from tests.single import SingleNet

needs_rtx = pytest.mark.skipif(find_builders().rtx is None, reason="TensorRT-RTX (extra 'rtx') is not installed")


@pytest.fixture(scope="module", autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A working folder with a user's small network and an empty cache."""
    folder, before = tmp_path_factory.mktemp("work"), Path.cwd()
    net = SingleNet(1, 3, 16, 16)
    pooled = net.op("GlobalAveragePool", net.op("Relu", net.conv("input", 3, 32, 3, pads=[1, 1, 1, 1])))
    wide = net.conv(pooled, 32, 32)
    flat = net.op("Flatten", wide)
    (folder / "tiny.onnx").write_bytes(net.graph(net.op("Gemm", flat, net.weight(32, 10))).to_bytes())
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGEHYBRID_CACHE_DIR", str(folder / "cache"))
        os.chdir(folder)
        yield folder
        os.chdir(before)


def make(target: str, output: Path) -> Report:
    return edgehybrid.build(model="tiny.onnx", num_calib=8, target=target, output=output)


@pytest.fixture(scope="module")
def rtx(home: Path) -> Report:
    return make("rtx", home / "rtx")


def facts(bundle: Path) -> dict[str, dict[str, object]]:
    found: dict[str, dict[str, object]] = json.loads((bundle / "engine.json").read_bytes())
    return found


@needs_rtx
def test_the_bundle_carries_the_engine_its_control_and_their_stamps(rtx: Report) -> None:
    bundle = Path(rtx.bundle)
    said = facts(bundle)
    recipe = json.loads((bundle / "manifest.json").read_bytes())["recipe"]
    assert recipe["precision"] == "int8"
    for entry, plan, model in ((said, "engine.plan", "model.onnx"), (said["control"], "control.plan", "control.onnx")):
        mark = decode(EngineStamp, entry["stamp"])
        assert mark.engine_sha256 == sha256_of(bundle / plan)
        assert mark.model_sha256 == sha256_of(bundle / model)
        assert (mark.flavor, "8.6" in mark.capabilities, len(mark.recipe_sha256)) == ("tensorrt-rtx", True, 64)
    rows = [(row.precision, row.backend, row.status) for row in rtx.rows if row.backend == "tensorrt-rtx"]
    assert rows == [("int8", "tensorrt-rtx", "deferred"), ("fp16", "tensorrt-rtx", "deferred")]


@needs_rtx
def test_a_bundle_alone_builds_its_engines_again(rtx: Report, home: Path) -> None:
    """As on a board: nothing but the base package, the bundle and NVIDIA's builder."""
    bundle = Path(rtx.bundle)
    before = {p.name: p.read_bytes() for p in bundle.iterdir()}
    hidden = "import sys; sys.modules.update(torch=None, onnx=None, onnx_ir=None)\n"
    code = hidden + "import edgehybrid, sys, pathlib; edgehybrid.build(pathlib.Path(sys.argv[1]), opt_level=1)"
    root = str(Path(edgehybrid.__file__).parents[1])
    done = subprocess.run(
        [sys.executable, "-c", code, str(bundle)],
        env={**os.environ, "PYTHONPATH": root},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    after = {p.name: p.read_bytes() for p in bundle.iterdir()}
    assert after.keys() == before.keys()
    assert facts(bundle)["stamp"]["options"]["optimization_level"] == 1  # type: ignore[index]
    for name in ("baseline.onnx", "model.onnx", "control.onnx", "calibration.json"):
        assert after[name] == before[name]
    report = edgehybrid.report(bundle)
    assert [s.name for s in report.stages].count("engine") == 1
    assert edgehybrid.verify(bundle).files["engine.plan"] == sha256_of(bundle / "engine.plan")


def test_a_jetson_bundle_holds_what_the_board_will_build_from(home: Path) -> None:
    built = make("orin-nx-16gb", home / "orin")
    names = {p.name for p in Path(built.bundle).iterdir()}
    assert {"control.onnx", "calibration.cache"} <= names
    assert names - {MANIFEST} <= OWN
    assert not names & {"engine.plan", "control.plan"}
    assert facts(Path(built.bundle))["control"]["engine"]["status"] == "deferred"  # type: ignore[index]
    if find_builders().capability is None:
        with pytest.raises(NotReadyError, match="cannot build engines for orin-nx-16gb") as caught:
            edgehybrid.build(Path(built.bundle))
        assert "no CUDA device" in caught.value.why
        assert "--host" in caught.value.fix


@needs_rtx
def test_contradictions_are_refused(rtx: Report, home: Path) -> None:
    with pytest.raises(UsageError, match="contradict"):
        edgehybrid.build(Path(rtx.bundle), model="tiny.onnx")
    with pytest.raises(UsageError, match="--opt-level 7"):
        edgehybrid.build(Path(rtx.bundle), opt_level=7)
    with pytest.raises(UsageError, match="--dla 0 does not exist on rtx"):
        edgehybrid.build(Path(rtx.bundle), dla=0)
    for target in ("cpu", "orin-nano-8gb"):  # before any work: there are no such images
        with pytest.raises(UsageError, match=f"--dla 0 does not exist on {target}"):
            edgehybrid.build(target=target, dla=0, calib="no/images")
    cpu = make("cpu", home / "cpu")
    assert "control.onnx" not in {p.name for p in Path(cpu.bundle).iterdir()}
    with pytest.raises(UsageError, match="runs ONNX files as they are"):
        edgehybrid.build(Path(cpu.bundle))
