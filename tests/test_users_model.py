"""A user's own ONNX file through every verb: open shapes, own preprocessing, own class names, and no torch."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from onnx import TensorProto, helper, numpy_helper
from PIL import Image

import edgehybrid
from edgehybrid import stages
from edgehybrid.dataset import load
from edgehybrid.errors import ArtifactError, GraphError, ImagesError, InputError, UsageError
from edgehybrid.graph import load as load_graph
from edgehybrid.progress import listening
from edgehybrid.records import ModelSpec, Preprocess, Provenance, Report
from tests.fakes import Notes
from tests.graph.test_adoption import make
from tests.single import SingleNet

NAMES = ("ant", "bee", "cat", "dog", "eel")
OPTIONS = {"mean": "0.5,0.5,0.5", "std": "0.25,0.25,0.25", "crop_pct": 1.0, "interpolation": "bilinear"}
OWN = Preprocess(16, 1.0, (0.5, 0.5, 0.5), (0.25, 0.25, 0.25), "bilinear")


@pytest.fixture(scope="module", autouse=True)
def home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A working folder with a model that leaves batch and size open, labelled images and class names."""
    folder = tmp_path_factory.mktemp("users")
    before = Path.cwd()
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("EDGEHYBRID_CACHE_DIR", str(folder / "cache"))
        os.chdir(folder)
        Path("open.onnx").write_bytes(make(("n", 3, "h", "w")).SerializeToString())
        Path("fixed.onnx").write_bytes(make((1, 3, 16, 16)).SerializeToString())
        Path("names.txt").write_text("\n".join(NAMES))
        Path("mine.toml").write_text(
            'crop_pct = 1.0\nmean = [0.5, 0.5, 0.5]\nstd = [0.25, 0.25, 0.25]\ninterpolation = "bilinear"\n'
            'labels = "names.txt"\nsize = 16\n'
        )
        rng = np.random.default_rng(0)
        np.savez("eval.npz", x=rng.integers(0, 256, (12, 20, 20, 3), dtype=np.uint8), y=np.arange(12) % 5)
        yield folder
        os.chdir(before)


@pytest.fixture(scope="module")
def built(home: Path) -> Report:
    return edgehybrid.build(
        model="open.onnx", preprocess=Path("mine.toml"), num_calib=8, eval="eval.npz", output=home / "bundle"
    )


def test_what_the_user_says_is_in_report_and_manifest(built: Report) -> None:
    assert (built.model.preprocess, built.model.labels, built.model.notes) == (OWN, NAMES, ())
    manifest = json.loads(Path(built.bundle, "manifest.json").read_bytes())
    assert manifest["labels"] == list(NAMES)
    assert manifest["preprocess"] == json.loads(json.dumps(vars(OWN)))
    assert manifest["recipe"]["preprocess"] == "mine.toml"
    assert json.loads(Path(built.bundle, "report.json").read_bytes())["details"]["model"]["labels"] == list(NAMES)
    assert "ant, bee, cat, dog, eel" in Path(built.bundle, "report.html").read_text()
    assert edgehybrid.report([Path(built.bundle)]).model == built.model


def test_the_shown_commands_make_the_same_model_again(built: Report) -> None:
    for command in (built.command, built.next_command):
        words = command.split()
        assert words[words.index("--model") + 1] == "open.onnx"
        assert words[words.index("--input-size") + 1] == "16"
        assert words[words.index("--preprocess") + 1] == "mine.toml"
        assert words[words.index("--num-calib") + 1] == "8"


def test_options_say_the_same_as_the_file(built: Report, home: Path) -> None:
    made = edgehybrid.quantize(
        model="open.onnx", input_size=16, num_calib=8, target="cpu", output=home / "q.onnx", **OPTIONS
    )
    assert Path(made.path).read_bytes() == Path(built.bundle, "model.onnx").read_bytes()
    assumed = edgehybrid.quantize(model="open.onnx", input_size=16, num_calib=8, target="cpu", output=home / "a.onnx")
    assert any("assumed: crop_pct 0.875, mean 0.485" in note for note in assumed.notes)
    assert Path(assumed.path).read_bytes() != Path(made.path).read_bytes()


def test_int8_that_is_not_int8_is_said_first(home: Path, built: Report) -> None:
    net = SingleNet(1, 3, 16, 16)
    pooled = net.op("Flatten", net.op("GlobalAveragePool", net.op("Relu", net.conv("input", 3, 8, 3))))
    Path("thin.onnx").write_bytes(net.graph(net.op("Gemm", pooled, net.weight(8, 5))).to_bytes())
    asked = {"model": "thin.onnx", "num_calib": 8, "target": "cpu", "preprocess": Path("mine.toml")}
    whole, alone = edgehybrid.build(**asked), edgehybrid.quantize(**asked)  # type: ignore[arg-type]
    assert whole.notes[0] == alone.notes[0]
    assert whole.notes[0].startswith(
        "none of 2 layers is int8; 1 of them: convolution from 3 to 8 channels stays float"
    )
    assert not any("int8:" in note or "int8;" in note for note in built.notes)


def test_a_norm_without_a_bias_gets_one_and_a_zero_point(home: Path) -> None:
    """What gives a tensor its zero point may have come with centring: the file itself could not be shifted there."""
    net = SingleNet(1, 3, 16, 16)
    x = net.op("Relu", net.conv("input", 3, 32))
    x = net.op("Relu", net.conv(x, 32, 32))
    x = net.op("Add", net.op("Mul", x, x), net.const(3 * net.random.normal(size=(1, 32, 1, 1))))
    tokens = net.transpose(net.reshape(x, 1, 32, 256), 0, 2, 1)
    normed = net.op("LayerNormalization", tokens, net.const(np.ones(32)), axis=-1)
    graph = net.graph(net.op("ReduceMean", net.op("Relu", net.linear(normed, 32, 32)), axes=[1], keepdims=0))
    Path("norm.onnx").write_bytes(graph.to_bytes())
    edgehybrid.quantize(
        model="norm.onnx", calib="eval.npz", num_calib=12, target="cpu", output=home / "norm-int8.onnx", **OPTIONS
    )
    assert list(load_graph(home / "norm-int8.onnx").nodes("QuantizeLinear"))


def test_evaluate_uses_the_bundles_preprocessing_unless_told_otherwise(built: Report) -> None:
    own, other = (edgehybrid.evaluate(Path(built.bundle), eval="eval.npz", **o) for o in ({}, {"mean": "0,0,0"}))
    assert [row.accuracy for row in own.rows] == [row.accuracy for row in built.rows]
    assert [row.fidelity for row in own.rows] == [row.fidelity for row in built.rows]
    assert any("mean 0,0,0 instead of 0.5,0.5,0.5" in note for note in other.notes)
    assert other.rows[1].fidelity != own.rows[1].fidelity


@pytest.mark.parametrize("name", ["open.onnx", "fixed.onnx"])
def test_a_file_is_evaluated_as_it_is_and_as_its_bundle_was(built: Report, name: str) -> None:
    found = edgehybrid.evaluate(Path(name), eval="eval.npz", preprocess=Path("mine.toml"))
    assert found.rows[0].accuracy == built.rows[0].accuracy
    assert found.path == name


def test_images_without_labels_give_no_accuracy_and_the_reason(built: Report) -> None:
    np.savez("plain.npz", x=np.zeros((3, 16, 16, 3), np.uint8))
    bundle, alone = (edgehybrid.evaluate(Path(what), eval="plain.npz") for what in (built.bundle, "fixed.onnx"))
    for found, rest in ((bundle, "only agreement with fp32 is shown"), (alone, "nothing was measured")):
        assert all(row.accuracy is None for row in found.rows)
        (said,) = (note for note in found.notes if "plain.npz has no labels" in note)
        assert said.endswith(rest)
    assert not any("labels" in note for note in edgehybrid.evaluate(Path(built.bundle), eval="eval.npz").notes)


def test_a_file_with_open_shapes_is_timed_at_those_asked_for() -> None:
    quick = {"warmup": 0, "duration": 0, "iterations": 2}
    timed = edgehybrid.bench(Path("open.onnx"), input_size=16, batch=2, **quick)
    assert timed.rows[0].latency is not None
    edgehybrid.bench(Path("fixed.onnx"), **quick)
    with pytest.raises(GraphError, match="leaves the image size open"):
        edgehybrid.bench(Path("open.onnx"), **quick)
    with pytest.raises(UsageError, match="--batch 2 does not fit"):
        edgehybrid.bench(Path("fixed.onnx"), batch=2, **quick)


def test_an_input_need_not_be_square(home: Path) -> None:
    asked = {"input_size": "16x24", "eval": "eval.npz", **OPTIONS}
    made = edgehybrid.build(model="open.onnx", **asked, num_calib=8, target="cpu", output=home / "wide")
    assert made.model.preprocess == replace(OWN, size=(16, 24))
    assert [row.status for row in made.rows] == ["measured", "measured"]
    document = json.loads((home / "wide" / "report.json").read_bytes())
    assert document["model"]["input"] == [1, 3, 16, 24]
    page = (home / "wide" / "report.html").read_text()
    assert "16 × 24 px · batch 1 · 5 classes" in page
    assert "to cover 16 × 24 px (bilinear), centre 16 px high and 24 px wide, RGB" in page
    assert edgehybrid.report([home / "wide"]).model == made.model
    for command in (made.command, made.next_command):
        words = command.split()
        assert words[words.index("--input-size") + 1] == "16x24"
    timed = edgehybrid.bench(home / "wide", warmup=0, duration=0, iterations=2)
    assert [row.status for row in timed.rows] == ["measured"] * 4  # two networks, each alone and end to end
    for name in ("wide", "open.onnx"):
        found = edgehybrid.evaluate(home / name, **asked)
        assert found.rows[0].accuracy == made.rows[0].accuracy


def test_a_model_by_name_takes_squares() -> None:
    with pytest.raises(UsageError, match="cmt_ti cannot take 64x96 px") as caught:
        edgehybrid.export(model="cmt_ti", weights="random", input_size="64x96")
    assert caught.value.fix.startswith("--input-size 96, or export it")


@pytest.mark.parametrize("weights", ["random", "fashion-mnist", "imagenet", "no.pth", "names.txt"])
def test_weights_are_not_for_a_file_that_holds_them(home: Path, weights: str) -> None:
    for verb in (
        edgehybrid.build,
        edgehybrid.export,
        edgehybrid.calibrate,
        edgehybrid.quantize,
        edgehybrid.sensitivity,
    ):
        with pytest.raises(UsageError, match=f"--weights {weights} has no meaning with fixed.onnx"):
            verb(model="fixed.onnx", weights=weights)


def test_shapes_are_not_for_a_bundle(built: Report) -> None:
    with pytest.raises(UsageError, match="do not fit"):
        edgehybrid.bench(Path(built.bundle), batch=2)
    with pytest.raises(UsageError, match="does not take 32 px"):
        edgehybrid.evaluate(Path(built.bundle), eval="eval.npz", input_size=32)


def test_names_that_are_not_the_models_are_refused(home: Path) -> None:
    (home / "four.txt").write_text("\n".join(NAMES[:4]))
    with pytest.raises(InputError, match="does not fit fixed"):
        edgehybrid.export(model="fixed.onnx", labels=home / "four.txt", output=home / "x.onnx")
    with pytest.raises(InputError, match="does not fit fixed"):
        edgehybrid.evaluate(Path("fixed.onnx"), labels=home / "four.txt", eval="eval.npz")


def test_another_network_of_the_same_name_does_not_replace_a_bundle(home: Path) -> None:
    options = {"num_calib": 2, "target": "cpu", "precision": "fp16"}
    for folder in ("one", "two"):
        Path(folder).mkdir()
        Path(folder, "net.onnx").write_bytes(make((1, 3, 16, 16)).SerializeToString())
    first = edgehybrid.build(model="one/net.onnx", **options)  # type: ignore[arg-type]
    again = edgehybrid.build(model="two/net.onnx", seed=1, **options)  # type: ignore[arg-type]
    assert first.bundle == again.bundle  # the same network, wherever it lies and however it is calibrated
    other = make((1, 3, 16, 16))
    other.graph.initializer[0].raw_data = bytes(len(other.graph.initializer[0].raw_data))
    Path("two/net.onnx").write_bytes(other.SerializeToString())
    before = Path(first.bundle, "manifest.json").read_bytes()
    with pytest.raises(ArtifactError, match="is a bundle of other weights"):
        edgehybrid.build(model="two/net.onnx", **options)  # type: ignore[arg-type]
    assert Path(first.bundle, "manifest.json").read_bytes() == before
    edgehybrid.build(model="two/net.onnx", output=Path(first.bundle), **options)  # type: ignore[arg-type]
    assert Path(first.bundle, "manifest.json").read_bytes() != before  # trained on, and told where


def test_a_backbone_is_exported_and_quantized_but_not_scored(home: Path) -> None:
    model = make((1, 3, 16, 16))
    del model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info("wider", TensorProto.FLOAT, None))
    (home / "backbone.onnx").write_bytes(model.SerializeToString())
    made = edgehybrid.quantize(model="backbone.onnx", num_calib=4, target="cpu", output=home / "backbone-int8.onnx")
    assert edgehybrid.lint(Path(made.path)).int8 == 1
    with pytest.raises(GraphError, match="is no classifier"):
        edgehybrid.evaluate(home / "backbone.onnx", eval="eval.npz")
    with pytest.raises(GraphError, match="is no classifier"):
        edgehybrid.build(model="backbone.onnx", eval="eval.npz", num_calib=4, output=home / "backbone")


def test_a_network_that_is_no_classifier_is_built_and_held_against_float32(home: Path) -> None:
    model = make((1, 3, 16, 16))
    del model.graph.output[:]
    for name in ("wider", "active"):
        model.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    (home / "maps.onnx").write_bytes(model.SerializeToString())
    found = edgehybrid.build(model="maps.onnx", num_calib=6, target="cpu", output=home / "maps")
    reference, int8 = found.rows
    assert reference.fidelity is None
    assert int8.fidelity is not None
    assert (int8.fidelity.agreement, int8.fidelity.logit_kl, int8.fidelity.n) == (None, None, 6)
    assert 20 < int8.fidelity.sqnr_db < 60
    assert int8.latency is not None
    (told,) = (note for note in found.notes if note.startswith("signal to noise of int8: "))
    assert f"wider {int8.fidelity.sqnr_db:.1f} dB" in told
    assert "active 200.0 dB" in told  # the first convolution, which stays float here, and its ReLU
    page = (home / "maps" / "report.html").read_text()
    assert "no classifier: accuracy is not measured" in page
    assert "0 classes" not in page
    again = edgehybrid.report([home / "maps"])
    assert json.loads((home / "maps" / "report.json").read_bytes())["rows"][1]["fidelity"]["agreement"] is None
    assert again is not None


def test_outputs_whose_places_are_chosen_are_named(home: Path) -> None:
    """RT-DETR puts out what belongs to its largest scores, in their order: one change of rank moves whole rows."""
    model = make((1, 3, 16, 16))
    model.graph.initializer.extend([numpy_helper.from_array(np.array([2]), "two")])
    model.graph.node.append(helper.make_node("TopK", ["wider", "two"], ["top", "places"], name="pick", axis=1))
    del model.graph.output[:]
    for name in ("wider", "top"):
        model.graph.output.append(helper.make_tensor_value_info(name, TensorProto.FLOAT, None))
    (home / "picked.onnx").write_bytes(model.SerializeToString())
    found = edgehybrid.build(model="picked.onnx", num_calib=4, target="cpu", output=home / "picked")
    (told,) = (note for note in found.notes if "chosen by" in note)
    assert told.startswith("places in top are chosen by pick: ")


def test_a_network_without_numbers_to_compare_is_refused(home: Path) -> None:
    model = make((1, 3, 16, 16))
    model.graph.node.append(helper.make_node("ArgMax", ["class scores"], ["best"], axis=1))
    del model.graph.output[:]
    model.graph.output.append(helper.make_tensor_value_info("best", TensorProto.INT64, None))
    (home / "places.onnx").write_bytes(model.SerializeToString())
    with pytest.raises(GraphError, match="no output of floats"):
        edgehybrid.build(model="places.onnx", num_calib=4, target="cpu", output=home / "places")


@pytest.mark.parametrize(
    ("dims", "kind", "words"),
    [
        ((1, 1, 8, 8), TensorProto.FLOAT, "grayscale: begin the network with x.mean(1, keepdim=True)"),
        ((1, 8, 8, 3), TensorProto.FLOAT, "channels last"),
        ((1, 3, 8, 8), TensorProto.UINT8, "without its preprocessing"),
    ],
)
def test_evaluate_names_the_fix_for_other_inputs(home: Path, dims: tuple[int, ...], kind: int, words: str) -> None:
    (home / "odd.onnx").write_bytes(make(dims, kind=kind).SerializeToString())
    with pytest.raises(GraphError) as caught:
        edgehybrid.evaluate(home / "odd.onnx", eval="eval.npz")
    assert words in caught.value.fix


def test_zoo_models_take_the_same_options_and_say_so(home: Path) -> None:
    made = edgehybrid.export(
        weights="random", num_classes=5, input_size=32, labels=Path("names.txt"), mean="0,0,0", output=home / "z.onnx"
    )
    assert any("mean 0,0,0 instead of 0.485,0.456,0.406" in note for note in made.notes)


# --- images whose folders carry the names of classes ---------------------------------------------------


def spec(*labels: str) -> ModelSpec:
    return ModelSpec("net", OWN, 5, Provenance("", "0" * 64, trained=True), labels=labels)


@pytest.fixture(scope="module")
def folders(home: Path) -> Path:
    """Two classes of five, in an order that is not the model's."""
    for name in ("eel", "bee"):
        (home / "few" / name).mkdir(parents=True)
        for i in range(2):
            Image.new("RGB", (8, 8), (i, 0, len(name))).save(home / "few" / name / f"{i}.png")
    return home / "few"


def test_folders_named_as_classes_get_the_numbers_of_the_classes(folders: Path) -> None:
    images = load(str(folders), limit=None, seed=0, split="eval")
    assert stages.labels_for(images, spec(*NAMES)).tolist() == [1, 1, 4, 4]
    assert stages.labels_for(images, spec()).tolist() == [0, 0, 1, 1]
    notes = Notes()
    with listening(notes):
        assert stages.labels_for(images, spec("v", "w", "x", "y", "z")).tolist() == [
            0,
            0,
            1,
            1,
        ]  # other names: by order
    assert notes.told == ["no image class is named as one of net: 'bee' is taken for its first"]


def test_one_folder_of_images_has_no_labels_and_the_reason_is_that_it_is_one(home: Path) -> None:
    (home / "alone" / "bee").mkdir(parents=True)
    Image.new("RGB", (8, 8), (1, 2, 3)).save(home / "alone" / "bee" / "0.png")
    with pytest.raises(ImagesError, match="alone has no labels") as caught:
        stages.labels_for(load(str(home / "alone"), split="eval"), spec(*NAMES))
    assert caught.value.why.startswith("all images lie in one folder, 'bee', which gives no class number")
    assert "one folder" not in load(str(home / "alone")).spec.note  # of calibration it is no matter


def test_a_folder_that_is_no_class_among_some_that_are_is_refused(folders: Path) -> None:
    images = load(str(folders), limit=None, seed=0, split="eval")
    for labels in (("ant", "bee", "cat", "dog", "Eel"), ("eel", "bee", "bee", "dog", "cat")):
        with pytest.raises(ImagesError, match="is not one class of net"):
            stages.labels_for(images, spec(*labels))


# --- without torch --------------------------------------------------------------------------------------

WITHOUT_TORCH = """
import sys
for name in ("torch", "onnxscript", "safetensors", "timm", "torchvision"):
    sys.modules[name] = None
from edgehybrid import cli
for line in sys.argv[1:]:
    try:
        cli.app(line.split())
    except SystemExit as left:
        if left.code:
            sys.exit(f"{line}: exit code {left.code}")
assert sys.modules["torch"] is None
"""


def test_no_verb_needs_torch_for_an_onnx_file() -> None:
    own = "--model open.onnx --preprocess mine.toml --num-calib 4 --quiet"
    lines = [
        f"build {own} --target orin-nano-8gb --eval eval.npz --output free",
        f"export {own.replace('--num-calib 4', '')} --output free.onnx",
        f"calibrate {own} --output free.json",
        f"quantize {own} --output free-int8.onnx",
        f"quantize {own} --precision fp16 --target orin-nano-8gb --output free-fp16.onnx",
        "bench open.onnx --input-size 16 --duration 0 --iterations 2",
        "evaluate free --eval eval.npz",
        "evaluate open.onnx --preprocess mine.toml --eval eval.npz",
        "lint free-int8.onnx --strict",
        "verify free",
        "report free",
        "models",
        "doctor",
    ]
    done = subprocess.run([sys.executable, "-c", WITHOUT_TORCH, *lines], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_zoo_model_without_torch_is_refused_with_the_install_command() -> None:
    line = "export --model cmt_ti --weights random --input-size 96"
    done = subprocess.run([sys.executable, "-c", WITHOUT_TORCH, line], capture_output=True, text=True, check=False)
    assert "exit code 3" in done.stderr
    assert "pip install 'edgehybrid[host]'" in done.stderr
