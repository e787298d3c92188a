"""Sensitivity and mixed precision end to end, on the bundled trained model and a few of its images."""

import csv
import json
import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import pytest

import edgehybrid
from edgehybrid import dataset, evaluator
from edgehybrid.errors import GateError, InputError, UsageError
from edgehybrid.records import Report, Sensitivity
from edgehybrid.runtime import open_runner
from tests.single import SingleNet

MODEL = {"weights": "fashion-mnist", "calib": "fashion-mnist", "num_calib": 24}
MIXED = {**MODEL, "precision": "mixed", "eval": "fashion-mnist", "num_eval": 60}

PROFILE = json.dumps(
    {
        "timings": [
            {"precision": "int8", "layers": [{"name": "/patch_embed_b/proj/Conv + /patch_embed_b/norm", "ms": 0.5}]},
            {"precision": "fp16", "layers": [{"name": "/patch_embed_b/proj/Conv + /patch_embed_b/norm", "ms": 0.75}]},
        ]
    }
)
"""What `bench --layers --json` prints, as far as it is read."""


@pytest.fixture(scope="module", autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """An empty working folder and cache for the whole module, so that stages are shared."""
    folder = tmp_path_factory.mktemp("mixing")
    before = Path.cwd()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGEHYBRID_CACHE_DIR", str(folder / "cache"))
        os.chdir(folder)
        yield folder
        os.chdir(before)


@pytest.fixture(scope="module")
def ranked(home: Path) -> Sensitivity:
    return edgehybrid.sensitivity(**MODEL, check=3, output=home / "ranking.csv")


def test_the_ranking_is_cheap_and_agrees_with_leave_one_out(ranked: Sensitivity) -> None:
    assert ranked.how == "fisher"
    assert ranked.forwards <= 5
    assert ranked.check is not None
    assert ranked.check.disjoint
    assert ranked.check.spearman >= 0.8
    assert ranked.check.forwards > 10 * ranked.forwards
    assert [loss.nats for loss in ranked.groups] == sorted((loss.nats for loss in ranked.groups), reverse=True)
    assert sum(loss.share for loss in ranked.groups) == pytest.approx(100)


def test_the_file_holds_every_group(ranked: Sensitivity, home: Path) -> None:
    rows = list(csv.DictReader((home / "ranking.csv").read_text().splitlines()))
    assert [row["group"] for row in rows] == [loss.group.name for loss in ranked.groups]
    assert [float(row["checked_nats"]) for row in rows] == [loss.checked for loss in ranked.groups]


def test_single_group_runs_find_much_the_same_ranking(ranked: Sensitivity) -> None:
    other = edgehybrid.sensitivity(**MODEL, how="designs", check=3)
    assert other.how == "designs"
    assert other.check is not None
    assert other.check.spearman >= 0.7
    first = {loss.group.name for loss in ranked.groups[:20]}
    assert len(first & {loss.group.name for loss in other.groups[:20]}) >= 12
    assert any("forward passes instead of 5" in note for note in other.notes)  # 24 images for 66 groups


@pytest.mark.parametrize(("operator", "why"), [("Sign", "no gradient is known of Sign"), ("Pad", "padding of mode")])
def test_without_gradients_a_users_file_is_ranked_by_runs_and_says_so(operator: str, why: str, home: Path) -> None:
    net = SingleNet(1, 3, 32, 32)
    x = net.conv(net.op("Relu", net.conv("input", 3, 32, 3)), 32, 32, 3)
    x = net.op("Relu", net.conv(x, 32, 64, 3))
    if operator == "Pad":
        x = net.op("Pad", x, net.ints(0, 0, 1, 1, 0, 0, 1, 1), mode="reflect")
    else:
        x = net.op("Mul", net.op("Sign", x), x)
    head = net.op("Gemm", net.op("Flatten", net.op("GlobalAveragePool", x)), net.weight(64, 10))
    (home / f"{operator}.onnx").write_bytes(net.graph(head).to_bytes())
    found = edgehybrid.sensitivity(model=str(home / f"{operator}.onnx"), num_calib=8, check=2)
    assert found.how == "designs"
    assert len(found.groups) == 2
    assert any(why in note for note in found.notes)
    with pytest.raises(UsageError, match="--how fisher cannot be done"):
        edgehybrid.sensitivity(model=str(home / f"{operator}.onnx"), num_calib=8, check=2, how="fisher")


@pytest.mark.parametrize("images", [1, 5])
def test_without_a_number_few_images_are_checked_on_all_of_them(images: int, home: Path) -> None:
    net = SingleNet(1, 3, 32, 32)
    x = net.op("Relu", net.conv("input", 3, 32, 3))
    x = net.op("Relu", net.conv(x, 32, 64, 3))
    head = net.op("Gemm", net.op("Flatten", net.op("GlobalAveragePool", x)), net.weight(64, 10))
    (home / "few.onnx").write_bytes(net.graph(head).to_bytes())
    found = edgehybrid.sensitivity(model="few.onnx", num_calib=images)
    assert found.check is not None
    assert found.check.images == images
    assert edgehybrid.sensitivity(model="few.onnx", num_calib=images, check=0).check is None
    with pytest.raises(UsageError, match="--check 16 makes no sense"):
        edgehybrid.sensitivity(model="few.onnx", num_calib=images, check=16)


@pytest.mark.parametrize("how", ["fisher", "designs"])
def test_scores_are_the_first_output_of_floats(how: str, home: Path) -> None:
    net = SingleNet(1, 3, 32, 32)
    x = net.op("Relu", net.conv("input", 3, 32, 3))
    x = net.op("Relu", net.conv(x, 32, 64, 3))
    head = net.op("Gemm", net.op("Flatten", net.op("GlobalAveragePool", x)), net.weight(64, 10))
    proto = onnx.load_model_from_string(net.graph(head).to_bytes())
    proto.graph.node.append(onnx.helper.make_node("ArgMax", ["logits"], ["label"], axis=1, keepdims=1))
    label = onnx.helper.make_tensor_value_info("label", onnx.TensorProto.INT64, (1, 1))
    onnx.save(proto, home / "plain.onnx")
    proto.graph.output.insert(0, label)
    onnx.save(proto, home / "label.onnx")
    plain, labelled = (
        edgehybrid.sensitivity(model=f"{name}.onnx", num_calib=8, check=2, how=how)  # type: ignore[arg-type]
        for name in ("plain", "label")
    )
    assert [loss.nats for loss in labelled.groups] == [loss.nats for loss in plain.groups]
    assert all(loss.nats > 0 for loss in labelled.groups)
    assert [loss.checked for loss in labelled.groups] == [loss.checked for loss in plain.groups]


def test_options_that_make_no_sense_are_refused(home: Path) -> None:
    with pytest.raises(UsageError, match="makes no sense"):
        edgehybrid.sensitivity(**MODEL, check=25)
    with pytest.raises(UsageError, match="no known format"):
        edgehybrid.sensitivity(**MODEL, output=home / "ranking.xls")
    with pytest.raises(UsageError, match="needs a budget"):
        edgehybrid.build(**MIXED)
    with pytest.raises(UsageError, match="needs labelled images"):
        edgehybrid.build(**MODEL, precision="mixed", max_drop=1)
    with pytest.raises(UsageError, match="makes no sense with"):
        edgehybrid.build(**MIXED, max_drop=0)
    with pytest.raises(UsageError, match="needs trained weights"):
        edgehybrid.build(**MIXED | {"weights": "random"}, input_size=64, num_classes=10, max_drop=5)
    with pytest.raises(UsageError, match="--profile makes no sense"):
        edgehybrid.build(**MODEL, profile=home / "profile.json")
    for content, said in (
        ("no json", "is not a profile"),
        ("[" * 100_000, "is not a profile"),
        (PROFILE.replace("fp16", "fp32"), "no layers of fp16"),
    ):
        (home / "profile.json").write_text(content)
        with pytest.raises(InputError, match=said):
            edgehybrid.build(**MIXED, max_drop=5, profile=home / "profile.json")


@pytest.fixture(scope="module")
def made(ranked: Sensitivity, home: Path) -> Report:
    return edgehybrid.build(**MIXED, max_drop=20, output=home / "easy")


def test_a_budget_that_int8_holds_leaves_nothing_in_float(made: Report, home: Path) -> None:
    assert [row.precision for row in made.rows] == ["fp32", "mixed"]
    assert made.search is not None
    assert (made.search.kept, made.search.reached, len(made.search.looks)) == ((), True, 1)
    assert made.search.int8_macs > 90
    assert sum(stage.name == "evaluate int8" for stage in made.stages) == 2
    assert edgehybrid.verify(home / "easy").model == "cmt_ti"
    document = json.loads((home / "easy" / "report.json").read_bytes())
    assert document["rows"][1]["precision"] == "mixed"
    assert document["details"]["search"]["looks"][0]["passed"] is True
    assert edgehybrid.report(home / "easy").search == made.search
    assert "--max-drop 20" in made.command
    page = (home / "easy" / "report.html").read_text()
    assert "Mixed precision" in page
    assert "0 of 66 groups stay float" in page


def test_a_budget_that_so_few_images_cannot_show_fails_the_gate_with_the_bundle(made: Report, home: Path) -> None:
    with pytest.raises(GateError, match="60 images cannot show") as caught:
        edgehybrid.build(**MIXED, max_drop=1, output=home / "hard")
    assert isinstance(caught.value.report, Report)
    assert "381 images" in caught.value.fix
    assert edgehybrid.verify(home / "hard").model == "cmt_ti"


@pytest.fixture(scope="module")
def hesitant(made: Report, home: Path) -> Path:
    """60 images on the edge between two classes, labelled as float32 sees them: int8 loses at least one."""
    bundled = np.load(Path(dataset.__file__).parents[2] / "calib" / "fashion-mnist" / "test.npz")["x"]
    pictures = bundled if bundled.ndim == 4 else np.repeat(bundled[..., None], 3, axis=3)
    blends = (pictures[:150].astype(np.uint16) + pictures[150:300]) // 2
    np.savez(home / "blends.npz", x=blends.astype(np.uint8), y=np.zeros(150, np.int64))
    images = dataset.load(str(home / "blends.npz"), split="eval")
    model = {"weights": "fashion-mnist"}
    files = [
        edgehybrid.export(**model, output=home / "fp32.onnx").path,
        edgehybrid.quantize(**MODEL, method="entropy", target="cpu", output=home / "int8.onnx").path,
    ]
    answers = []
    for file in files:
        with open_runner(Path(file), canonical=True) as runner:
            answers.append(evaluator.predict(runner, images.batches(made.model.preprocess, 16)).argmax(axis=1))
    changed, same = (np.flatnonzero(x) for x in (answers[0] != answers[1], answers[0] == answers[1]))
    assert len(changed)
    chosen = np.sort(np.concatenate([changed[:5], same[: 60 - len(changed[:5])]]))
    np.savez(home / "hesitant.npz", x=blends[chosen].astype(np.uint8), y=answers[0][chosen].astype(np.int64))
    return home / "hesitant.npz"


def test_layers_go_back_to_float_until_the_budget_holds(hesitant: Path, home: Path) -> None:
    """6.1 points is what 60 images show of a network that changes no answer: 6.02."""
    (home / "profile.json").write_text(PROFILE)
    made = edgehybrid.build(
        **MIXED | {"eval": str(hesitant), "num_eval": None},
        profile=home / "profile.json",
        method="entropy",
        max_drop=6.1,
        target="orin-nano-8gb",
        output=home / "mixed",
    )
    search = made.search
    assert search is not None
    assert search.reached
    assert not search.looks[0].passed
    assert [look.kept for look in search.looks[1:]] == sorted((x.kept for x in search.looks[1:]), reverse=True)
    assert 0 < len(search.kept) < search.groups
    assert search.looks[-1].passed == (len(search.kept) == search.looks[-1].kept)
    assert search.gains.startswith(
        "of 1 groups measured by the engines' profiler, of the other 65 estimated by a roofline"
    )
    rows = {row.precision: row for row in made.rows if row.accuracy is not None}
    assert list(rows) == ["fp32", "int8", "mixed"]
    mixed, int8 = rows["mixed"].drop, rows["int8"].drop
    assert mixed is not None
    assert int8 is not None
    assert mixed.ci95[1] <= 6.1 < int8.ci95[1]
    left = {d.node for d in made.placement if d.rule == "mixed-precision"}
    assert left
    assert left.isdisjoint(d.node for d in made.placement if d.kind in ("activation", "weight"))
    assert all("mixed precision search" in d.reason for d in made.placement if d.rule == "mixed-precision")
    assert {layer.node for layer in made.layers} == {d.node for d in made.placement if d.kind == "weight"}
    assert edgehybrid.lint(home / "mixed" / "model.onnx", strict=True).int8 < 87
