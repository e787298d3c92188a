"""build, bench and evaluate where a GPU runs what was built: engines are timed, scored, and held against fp16."""

import json
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest

import edgehybrid
from edgehybrid import comparison, delivery
from edgehybrid.device import Cuda, Gpu
from edgehybrid.errors import ArtifactError, NotReadyError, UsageError
from edgehybrid.graph import opset_of
from edgehybrid.records import BenchOptions, Report, Row
from edgehybrid.stages import trial
from tests import board
from tests.runtime.fake_cuda import FakeDevice
from tests.single import SingleNet

CLASSES = 4
QUICK = BenchOptions(0, 0, 30, end_to_end=False)


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A working folder with a user's small network, labelled images that it tells apart, and an empty cache."""
    folder, before = tmp_path_factory.mktemp("work"), Path.cwd()
    net = SingleNet(1, 3, 16, 16)
    body = net.op("Relu", net.conv("input", 3, 32, 3, pads=[1, 1, 1, 1]))
    body = net.op("Relu", net.conv(body, 32, 32, 3, pads=[1, 1, 1, 1]))
    flat = net.op("Flatten", net.op("GlobalAveragePool", body))
    (folder / "tiny.onnx").write_bytes(net.graph(net.op("Gemm", flat, net.weight(32, CLASSES))).to_bytes())
    draw = np.random.default_rng(5)
    np.savez(folder / "val.npz", x=draw.integers(0, 256, (24, 16, 16, 3), np.uint8), y=np.arange(24) % CLASSES)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGEHYBRID_CACHE_DIR", str(folder / "cache"))
        os.chdir(folder)
        yield folder
        os.chdir(before)


@pytest.fixture
def gpu(home: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeDevice]:
    monkeypatch.setattr(trial, "OPTIONS", QUICK)
    yield from board.install(monkeypatch)


@pytest.fixture(scope="module")
def elsewhere(home: Path) -> Path:
    """A bundle made where there is no board."""
    return make("orin-nano-8gb", home / "elsewhere")


@pytest.fixture(scope="module")
def engined(elsewhere: Path, home: Path) -> Path:
    """The same with engines, as the board leaves it."""
    bundle = Path(shutil.copytree(elsewhere, home / "engined"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(trial, "OPTIONS", QUICK)
        for _ in board.install(patch):
            edgehybrid.build(bundle)
    return bundle


def make(target: str, output: Path) -> Path:
    built = edgehybrid.build(model="tiny.onnx", num_calib=8, target=target, eval="val.npz", output=output)
    return Path(built.bundle)


def rows_of(report: Report) -> dict[tuple[str, str], Row]:
    return {(row.precision, row.backend): row for row in report.rows}


def test_a_build_times_and_scores_the_engine_it_can_run(gpu: FakeDevice, home: Path) -> None:
    report = delivery.read_report(make("orin-nano-8gb", home / "here"))
    rows = rows_of(report)
    int8, fp16 = rows["int8", "tensorrt"], rows["fp16", "tensorrt"]
    for row in (int8, fp16):
        assert row.status == "measured"
        assert row.latency is not None
        assert row.latency.n >= 30
        assert row.accuracy is not None
        assert row.drop is not None
        assert row.fidelity is not None
    assert int8.fidelity is not None
    assert int8.fidelity.sqnr_db < 60  # the engine ran int8, not its reference
    assert int8.reason is not None
    assert "as fast as fp16 on this device" in int8.reason
    assert rows["int8", "onnxruntime-cpu"].latency is None  # this CPU's would not be the target's
    answers = json.loads((home / "here" / "answers.json").read_bytes())["top1"]
    assert set(answers) == {"fp32", "int8", "int8/tensorrt", "fp16/tensorrt"}
    assert {"bench engines", "evaluate int8 engine", "evaluate fp16 engine"} <= {s.name for s in report.stages}
    assert (gpu.live, gpu.primary, gpu.stacked) == (0, 0, 0)
    side = comparison.side_of("a", *delivery.read_measured(home / "here"))
    compared = {contrast.a: contrast.accuracy for contrast in comparison.compare(side, side).contrasts}
    assert compared["int8/tensorrt"] is not None
    assert compared["int8/tensorrt"].paired  # by the engine's own answers


def test_quantize_writes_what_build_does_for_a_board_that_still_has_tensorrt_8(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in board.install(monkeypatch, release="8.6.1"):
        built = Path(make("orin-nano-8gb", home / "eight"), "model.onnx")
        alone = edgehybrid.quantize(model="tiny.onnx", num_calib=8, target="orin-nano-8gb", output=home / "eight.onnx")
        assert opset_of(onnx.load(built)) < 19  # the profile's own dialect needs 19
        assert Path(alone.path).read_bytes() == built.read_bytes()


def test_a_bundle_made_elsewhere_is_timed_and_scored_on_the_board(
    elsewhere: Path, engined: Path, gpu: FakeDevice, tmp_path: Path
) -> None:
    before, rows = rows_of(delivery.read_report(elsewhere)), rows_of(delivery.read_report(engined))
    assert before["int8", "tensorrt"].status == "deferred"
    assert rows["int8", "tensorrt"].latency is not None
    assert rows["fp16", "tensorrt"].drop is not None
    assert rows["int8", "onnxruntime-cpu"].accuracy == before["int8", "onnxruntime-cpu"].accuracy
    assert set(edgehybrid.verify(engined).loads) == {"baseline.onnx", "model.onnx", "engine.plan", "control.plan"}
    again = rows_of(edgehybrid.build(Path(shutil.copytree(engined, tmp_path / "bundle"))))
    assert again["int8", "tensorrt"] == rows["int8", "tensorrt"]  # an identical build measures nothing again


def test_scores_of_other_images_do_not_get_into_a_bundle(
    elsewhere: Path, gpu: FakeDevice, home: Path, tmp_path: Path
) -> None:
    bundle = Path(shutil.copytree(elsewhere, tmp_path / "bundle"))
    with pytest.raises(UsageError, match="other images"):
        edgehybrid.build(bundle, eval="fashion-mnist")
    away = (home / "val.npz").rename(home / "moved.npz")
    try:
        row = rows_of(edgehybrid.build(bundle))["int8", "tensorrt"]
        assert row.latency is not None
        assert row.accuracy is None
        row = rows_of(edgehybrid.build(bundle, eval=str(away)))["int8", "tensorrt"]
        assert row.accuracy is not None
    finally:
        away.rename(home / "val.npz")


def test_evaluate_runs_engines_where_they_load(engined: Path, gpu: FakeDevice) -> None:
    whole = edgehybrid.evaluate(engined, eval="val.npz")
    assert [(row.precision, row.backend) for row in whole.rows] == [
        ("fp32", "onnxruntime-cpu"), ("int8", "tensorrt"), ("fp16", "tensorrt"),
    ]  # fmt: skip
    assert all(row.accuracy is not None and row.accuracy.n == 24 for row in whole.rows)
    assert all(row.drop is not None for row in whole.rows[1:])
    assert whole.answers is not None
    assert set(whole.answers.top1) == {"fp32", "int8/tensorrt", "fp16/tensorrt"}
    alone = edgehybrid.evaluate(engined / "engine.plan", eval="val.npz")
    assert [row.backend for row in alone.rows] == ["onnxruntime-cpu", "tensorrt"]
    assert alone.rows[1] == whole.rows[1]
    timed = edgehybrid.bench(engined / "engine.plan", warmup=0, duration=0, iterations=30)
    alone_rows = [(row.precision, row.backend) for row in timed.rows if "end-to-end" not in row.backend]
    assert alone_rows == [("int8", "tensorrt"), ("fp16", "tensorrt")]  # never int8 without its control
    assert any("as fast as fp16 on this device" in note for note in timed.notes)
    control = edgehybrid.bench(engined / "control.plan", warmup=0, duration=0, iterations=30)
    assert {row.precision for row in control.rows} == {"fp16"}
    with pytest.raises(UsageError, match="does not take 32 px"):
        edgehybrid.evaluate(engined / "engine.plan", eval="val.npz", input_size=32)
    with pytest.raises(UsageError, match="--batch and --input-size"):
        edgehybrid.bench(engined / "engine.plan", batch=2)


@pytest.mark.parametrize(
    ("release", "cuda", "said"),
    [
        ("10.3.0", Cuda("12.6", (Gpu("other", (8, 6)),)), "compute capability 8.7"),
        ("10.3.0", Cuda(None, reason="no driver"), "compute capability 8.7"),
        ("10.7.0", board.ORIN, "TensorRT 10.3.0"),
    ],
    ids=["gpu", "none", "release"],
)
def test_an_engine_that_was_named_is_refused_where_it_does_not_fit(
    engined: Path, release: str, cuda: Cuda, said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in board.install(monkeypatch, release, cuda):
        with pytest.raises(ArtifactError, match=said) as caught:
            edgehybrid.evaluate(engined / "engine.plan", eval="val.npz")
    assert caught.value.exit_code == 7
    assert f"edgehybrid build {engined}" in caught.value.fix


def test_an_upgrade_of_tensorrt_builds_anew(engined: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(trial, "OPTIONS", QUICK)
    bundle = Path(shutil.copytree(engined, tmp_path / "bundle"))
    for _ in board.install(monkeypatch, "10.7.0"):
        assert rows_of(edgehybrid.build(bundle))["int8", "tensorrt"].latency is not None
    assert json.loads((bundle / "engine.json").read_bytes())["stamp"]["version"] == "10.7.0"


def test_without_a_device_a_bundle_is_scored_by_its_graphs_and_says_so(
    engined: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for _ in board.install(monkeypatch, cuda=Cuda(None, reason="no driver")):
        found = edgehybrid.evaluate(engined, eval="val.npz")
        assert edgehybrid.verify(engined).loads == ("baseline.onnx", "model.onnx")
    assert {row.backend for row in found.rows} == {"onnxruntime-cpu"}
    assert any("not its engine" in note for note in found.notes)


def test_without_pycuda_the_engine_is_built_and_says_what_is_missing(
    engined: Path, gpu: FakeDevice, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("pycuda", "pycuda.driver"):
        monkeypatch.setitem(sys.modules, name, None)
    monkeypatch.setenv("EDGEHYBRID_CACHE_DIR", str(tmp_path / "cache"))  # else the last measurement stands
    row = rows_of(edgehybrid.build(Path(shutil.copytree(engined, tmp_path / "bundle"))))["int8", "tensorrt"]
    assert (row.status, row.latency) == ("deferred", None)
    assert row.reason is not None
    assert "edgehybrid[jetson]" in row.reason
    with pytest.raises(NotReadyError, match="not ready"):
        edgehybrid.evaluate(engined, eval="val.npz")


@pytest.mark.parametrize(
    "options", [{"precision": "fp16"}, {"target": "cuda"}, {"batch": 2}, {"model": "tiny.onnx"}, {"num_eval": 3}]
)
def test_what_a_bundle_has_already_is_not_ignored_in_silence(elsewhere: Path, options: dict[str, object]) -> None:
    with pytest.raises(UsageError, match="contradict"):
        edgehybrid.build(elsewhere, **options)  # type: ignore[arg-type]
