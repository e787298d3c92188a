"""The main job end to end, on real photographs: what a bundle holds, what a second build does, what goes wrong."""

import functools
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

import edgehybrid
from edgehybrid import store
from edgehybrid.errors import ArtifactError, GateError, ImagesError, UsageError
from edgehybrid.records import Report

SMALL = {"input_size": 64, "num_classes": 10, "num_calib": 8}
ROW_KEYS = {"precision", "backend", "status", "reason", "latency_ms", "accuracy", "drop", "fidelity", "bytes"} | {
    "conditions"
}


@pytest.fixture(scope="module", autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An empty working folder and cache for the whole module, so that stages are shared."""
    folder = tmp_path_factory.mktemp("work")
    before = Path.cwd()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGEHYBRID_CACHE_DIR", str(folder / "cache"))
        os.chdir(folder)
        yield folder
        os.chdir(before)


@pytest.fixture(scope="module")
def labelled(home: Path) -> Path:
    """Photographs cut to 64 px with made-up labels."""
    rng = np.random.default_rng(0)
    np.savez(home / "eval.npz", x=rng.integers(0, 256, (12, 64, 64, 3), dtype=np.uint8), y=np.arange(12) % 10)
    return home / "eval.npz"


@pytest.fixture(scope="module")
def checkpoint(home: Path) -> Path:
    """A checkpoint file: random weights that a user's training could have written."""
    import torch

    from edgehybrid import zoo

    module, _ = zoo.load("cmt_ti", "random", num_classes=10, input_size=64, seed=1)
    torch.save({"model": module.state_dict()}, home / "mine.pth")
    return home / "mine.pth"


@pytest.fixture(scope="module")
def built(home: Path, checkpoint: Path, labelled: Path) -> Report:
    return edgehybrid.build(weights=str(checkpoint), num_calib=8, eval=str(labelled), output=home / "bundle")


def test_the_bundle_holds_what_the_design_lists(built: Report) -> None:
    names = {p.name for p in Path(built.bundle).iterdir()}
    assert names >= {"manifest.json", "baseline.onnx", "model.onnx", "calibration.json", "engine.json"}
    assert names >= {"report.json", "report.html"}
    calibration = json.loads((Path(built.bundle) / "calibration.json").read_bytes())
    assert calibration.keys() >= {"schema", "method", "images", "sha256", "tensors"}
    assert calibration["histograms"] is None  # a bundle stays small
    assert calibration["images"] == 8
    assert all(amax > 0 for amax in calibration["tensors"].values())


def test_the_report_has_the_agreed_shape(built: Report) -> None:
    document = json.loads((Path(built.bundle) / "report.json").read_bytes())
    assert document["schema"] == "edgehybrid.report/1"
    assert [row["precision"] for row in document["rows"]] == ["fp32", "int8"]
    for row in document["rows"]:
        assert row.keys() >= ROW_KEYS
        assert row["status"] == "measured"
        assert row["latency_ms"].keys() == {"p50", "p90", "p95", "p99", "min", "max", "mean", "std", "n"}
        assert row["accuracy"].keys() == {"top1", "top5", "n", "ci95"}
    assert document["rows"][0]["drop"] is None
    assert document["rows"][1]["drop"].keys() == {"points", "ci95", "mcnemar_p", "discordant"}
    assert document["rows"][1]["fidelity"].keys() == {"agreement", "sqnr_db", "logit_kl", "n"}
    assert document["model"]["input"] == [1, 3, 64, 64]
    assert document["engine"]["status"] in ("checked", "deferred")


def test_every_decision_has_a_reason_and_every_int8_layer_a_noise_figure(built: Report) -> None:
    assert all(decision.reason for decision in built.placement)
    int8 = {d.node for d in built.placement if d.kind == "weight"}
    assert {layer.node for layer in built.layers} == int8
    assert len(int8) > 50


def test_a_second_identical_build_does_no_stage_again(built: Report, checkpoint: Path, labelled: Path) -> None:
    before = (Path(built.bundle) / "model.onnx").read_bytes()
    again = edgehybrid.build(weights=str(checkpoint), num_calib=8, eval=str(labelled), output=Path(built.bundle))
    assert [s.name for s in again.stages if not s.cached] == []
    assert again.rows == built.rows
    assert (Path(built.bundle) / "model.onnx").read_bytes() == before


def test_another_method_reuses_the_forward_passes(built: Report, checkpoint: Path, labelled: Path, home: Path) -> None:
    other = edgehybrid.build(
        weights=str(checkpoint), num_calib=8, eval=str(labelled), method="minmax", output=home / "minmax"
    )
    assert {s.name: s.cached for s in other.stages}["calibrate"]
    assert (home / "minmax" / "model.onnx").read_bytes() != (Path(built.bundle) / "model.onnx").read_bytes()


def test_a_bundle_can_be_verified_reported_benched_and_evaluated(built: Report, labelled: Path, home: Path) -> None:
    bundle = Path(built.bundle)
    assert edgehybrid.verify(bundle).loads == ("baseline.onnx", "model.onnx")
    shown = edgehybrid.report([bundle], output=home / "page.html")
    assert shown.rows == built.rows
    assert (home / "page.html").read_text().startswith("<!")
    timed = edgehybrid.bench(bundle, warmup=0, duration=0, iterations=3)
    assert [(row.precision, row.backend.removeprefix("onnxruntime-cpu")) for row in timed.rows] == [
        ("fp32", ""),
        ("int8", ""),
        ("fp32", " end-to-end"),
        ("int8", " end-to-end"),
    ]
    scored = edgehybrid.evaluate(bundle, eval=str(labelled))
    assert [row.accuracy for row in scored.rows] == [row.accuracy for row in built.rows]


def test_a_flipped_bit_is_found(built: Report, home: Path) -> None:
    copy = shutil.copytree(built.bundle, home / "flipped")
    data = bytearray((copy / "model.onnx").read_bytes())
    data[len(data) // 2] ^= 1
    (copy / "model.onnx").write_bytes(data)
    for use in (edgehybrid.verify, edgehybrid.bench, edgehybrid.report):
        with pytest.raises(ArtifactError, match=r"model\.onnx is damaged"):
            use(copy)


def test_a_bundle_that_vouches_for_nonsense_is_refused(built: Report, labelled: Path, home: Path) -> None:
    def forge(name: str, content: bytes) -> Path:
        copy = shutil.copytree(built.bundle, home / "forged", dirs_exist_ok=True)
        (copy / name).write_bytes(content)
        manifest = json.loads((copy / "manifest.json").read_bytes())
        manifest["files"][name] = {"sha256": store.sha256_of(copy / name), "bytes": len(content)}
        (copy / "manifest.json").write_text(json.dumps(manifest))
        return copy

    for name in ("report.json", "answers.json"):
        with pytest.raises(ArtifactError, match=rf"{name} is not one this version wrote"):
            edgehybrid.verify(forge(name, b"{}"))
        shutil.rmtree(home / "forged")
    damaged = forge("model.onnx", b"\xff" * 100)
    for use in (edgehybrid.verify, edgehybrid.bench, functools.partial(edgehybrid.evaluate, eval=str(labelled))):
        with pytest.raises(ArtifactError, match=r"model\.onnx is not a usable ONNX file"):
            use(damaged)


def test_a_budget_that_cannot_be_shown_fails_the_gate_after_the_bundle_is_written(
    checkpoint: Path, labelled: Path, home: Path
) -> None:
    with pytest.raises(GateError, match="points") as caught:
        edgehybrid.build(
            weights=str(checkpoint), num_calib=8, eval=str(labelled), max_drop=-100.0, output=home / "gated"
        )
    assert isinstance(caught.value.report, Report)
    assert edgehybrid.verify(home / "gated").model == "cmt_ti"


def test_untrained_weights_give_no_number_that_looks_like_accuracy(labelled: Path, home: Path) -> None:
    report = edgehybrid.build(
        weights="random", input_size=64, num_classes=10, num_calib=8, eval=str(labelled), output=home / "untrained"
    )
    assert not report.model.weights.trained
    assert [row.accuracy for row in report.rows] == [None, None]
    assert [row.drop for row in report.rows] == [None, None]
    assert any("UNTRAINED" in note for note in report.notes)
    assert json.loads((home / "untrained" / "manifest.json").read_bytes())["trained"] is False


@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_a_jetson_target_gets_the_typed_dialect_and_no_latency_of_this_machine(
    precision: str, checkpoint: Path, home: Path
) -> None:
    report = edgehybrid.build(
        weights=str(checkpoint), num_calib=8, precision=precision, target="orin-nano-8gb", output=home / precision
    )
    assert all(row.latency is None for row in report.rows)
    assert [row.status for row in report.rows] == ["deferred", "measured", *["deferred"] * (len(report.rows) - 2)]
    assert (report.rows[-1].backend, report.rows[-1].status) == ("tensorrt", "deferred")
    assert report.engine.status in ("checked", "deferred")
    import onnx

    model = onnx.load(home / precision / "model.onnx")
    assert model.opset_import[0].version >= 19
    assert any(i.data_type == onnx.TensorProto.FLOAT16 for i in model.graph.initializer)


def test_a_users_onnx_file_takes_the_same_road(built: Report, home: Path) -> None:
    plain = edgehybrid.export(weights=str(home / "mine.pth"), rewrite=False, output=home / "mine.onnx")
    report = edgehybrid.build(model=plain.path, num_calib=8, output=home / "from-onnx")
    assert report.model.name == "mine"
    assert (home / "from-onnx" / "baseline.onnx").read_bytes() == (Path(built.bundle) / "baseline.onnx").read_bytes()
    for options in ({"num_classes": 7}, {"input_size": 96}, {"batch": 2}):
        with pytest.raises(UsageError, match="does not fit"):
            edgehybrid.export(model=plain.path, output=home / "other.onnx", **options)


def test_weights_in_a_file_of_their_own_are_part_of_what_a_users_model_is(built: Report, home: Path) -> None:
    import onnx

    plain = edgehybrid.export(weights=str(home / "mine.pth"), rewrite=False, output=home / "whole.onnx")
    model = onnx.load(plain.path)
    onnx.save_model(model, home / "split.onnx", save_as_external_data=True, location="split.bin", size_threshold=0)
    found = []
    for value in (0, 1):
        data = bytearray((home / "split.bin").read_bytes())
        data[-4:] = np.float32(value).tobytes()  # other weights, the same .onnx file
        (home / "split.bin").write_bytes(data)
        made = edgehybrid.export(model=str(home / "split.onnx"), rewrite=False, output=home / f"again-{value}.onnx")
        found.append(Path(made.path).read_bytes())
    assert found[0] != found[1]


def test_the_single_stages_write_what_build_writes(built: Report, checkpoint: Path, home: Path) -> None:
    made = edgehybrid.quantize(weights=str(checkpoint), num_calib=8, target="cpu", output=home / "q.onnx")
    assert Path(made.path).read_bytes() == (Path(built.bundle) / "model.onnx").read_bytes()
    made = edgehybrid.calibrate(weights=str(checkpoint), num_calib=8, output=home / "c.json")
    alone, bundled = (json.loads(p.read_bytes()) for p in (Path(made.path), Path(built.bundle) / "calibration.json"))
    assert alone["factors"] == {}
    assert bundled["factors"].keys() <= bundled["tensors"].keys() == alone["tensors"].keys()
    assert {k: alone[k] for k in ("graph", "sha256", "method")} == {
        k: bundled[k] for k in ("graph", "sha256", "method")
    }


def test_what_tuning_tried_is_in_the_report(built: Report) -> None:
    kinds = {a.kind for a in built.adjustments}
    assert kinds == {"equalization", "centering", "zero point", "bias"}
    equalized = sum(a.accepted for a in built.adjustments if a.kind == "equalization")
    bundle = Path(built.bundle)
    calibration = json.loads((bundle / "calibration.json").read_bytes())
    assert equalized == len(calibration["factors"]) > 0
    assert sum(a.accepted for a in built.adjustments if a.kind == "zero point") == len(calibration["zero_points"]) > 0
    assert len(json.loads((bundle / "report.json").read_bytes())["details"]["adjustments"]) == len(built.adjustments)
    assert any("tensors equalized" in note for note in built.notes)
    assert "adjustments measured better" in (bundle / "report.html").read_text()


def test_the_ranges_of_an_equalized_bundle_equalize_again(built: Report, checkpoint: Path, home: Path) -> None:
    common = {"weights": str(checkpoint), "num_calib": 8, "target": "cpu"}
    plain = edgehybrid.quantize(**common, refine="off", output=home / "level.onnx")  # type: ignore[arg-type]
    ranges = Path(built.bundle) / "calibration.json"
    again = edgehybrid.quantize(**common, ranges=ranges, output=home / "reused.onnx")  # type: ignore[arg-type]
    assert Path(plain.path).read_bytes() == Path(again.path).read_bytes()


def test_labels_beyond_the_models_classes_are_refused(checkpoint: Path, home: Path) -> None:
    np.savez(home / "many.npz", x=np.zeros((2, 64, 64, 3), np.uint8), y=np.array([3, 10]))
    with pytest.raises(ImagesError, match="labels up to 10"):
        edgehybrid.build(weights=str(checkpoint), num_calib=8, eval=str(home / "many.npz"), output=home / "many")
    assert not (home / "many").exists()


def test_an_output_in_use_is_refused_before_any_work(home: Path, built: Report) -> None:
    (home / "taken").write_text("x")
    with pytest.raises(UsageError, match="is a file"):
        edgehybrid.build(output=home / "taken", weights="random")
    with pytest.raises(ArtifactError, match="another model"):
        edgehybrid.build(model="cmt_xs", output=Path(built.bundle), weights="random")


def start(home: Path, *words: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "edgehybrid", "build", "--weights", "random", "--input-size", "64"]
    return subprocess.Popen(
        [*command, "--num-calib", "16", "--output", str(home / "killed"), *words],
        env={**os.environ, "EDGEHYBRID_CACHE_DIR": str(home / "cache-killed")},
        stderr=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize(("sent", "code"), [(signal.SIGINT, 130), (signal.SIGTERM, 143), (signal.SIGKILL, -9)])
def test_a_build_that_is_stopped_loses_nothing_and_goes_on_from_there(home: Path, sent: int, code: int) -> None:
    shutil.rmtree(home / "cache-killed", ignore_errors=True)
    process = start(home)
    assert process.stderr is not None
    for line in process.stderr:
        if line.strip().startswith("rewrite"):
            break
    time.sleep(0.2)
    process.send_signal(sent)
    _, errors = process.communicate(timeout=60)
    assert process.returncode == code, errors
    assert "Traceback" not in errors
    assert not (home / "killed").exists()
    resumed = start(home, "--json")
    out, errors = resumed.communicate(timeout=300)
    assert resumed.returncode == 0, errors
    stages = {s["name"]: s["cached"] for s in json.loads(out)["stages"]}
    assert stages["export"]
    assert stages["rewrite"]
    shutil.rmtree(home / "killed")
