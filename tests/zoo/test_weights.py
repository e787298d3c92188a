"""Weights end up in the model they were made for, or nowhere."""

import argparse
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from edgehybrid import dataset, resources, zoo
from edgehybrid.errors import ResourceError, UsageError, WeightsError
from edgehybrid.zoo import cmt


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "net.pth"


def check_same(module: nn.Module, state: dict[str, Tensor]) -> None:
    loaded = module.state_dict()
    assert loaded.keys() == state.keys()
    for name, value in state.items():
        assert loaded[name].dtype == value.dtype
        assert torch.equal(loaded[name], value)


def test_the_official_layout_loads_and_the_width_of_the_classifier_is_inferred(
    path: Path, state: dict[str, Tensor]
) -> None:
    args = argparse.Namespace(model="cmt_ti", input_size=64)
    torch.save({"model": state, "optimizer": {}, "epoch": 1, "args": args}, path)
    module, spec = zoo.load("cmt_ti", str(path))
    check_same(module, state)
    assert not module.training
    assert (spec.classes, spec.preprocess.size, spec.preprocess.crop_pct) == (10, 64, 0.875)
    assert (spec.weights.trained, spec.weights.source) == (True, str(path))
    assert spec.weights.sha256 == zoo.find_weights("cmt_ti", str(path)).sha256
    assert spec.weights.note == "weights taken from 'model'"
    assert spec.card is not None
    assert spec.card.name == "cmt_ti"


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_other_precisions_become_float32(path: Path, state: dict[str, Tensor], dtype: torch.dtype) -> None:
    stored = {k: v.to(dtype) if v.is_floating_point() else v for k, v in state.items()}
    save_file(stored, path)
    module, _ = zoo.load("cmt_ti", str(path))
    check_same(module, {k: v.float() if v.is_floating_point() else v for k, v in stored.items()})


def test_weights_are_not_tied_to_the_file(path: Path, state: dict[str, Tensor]) -> None:
    save_file(state, path)
    module, _ = zoo.load("cmt_ti", str(path))
    path.write_bytes(bytes(path.stat().st_size))
    check_same(module, state)


def test_step_counters_do_not_matter(path: Path, state: dict[str, Tensor]) -> None:
    counters = {k for k in state if k.endswith("num_batches_tracked")}
    assert counters
    save_file({k: v for k, v in state.items() if k not in counters}, path)
    module, _ = zoo.load("cmt_ti", str(path))
    check_same(module, state)


def test_tables_of_another_size_are_resized_and_said_so(path: Path, state: dict[str, Tensor]) -> None:
    save_file(state, path)
    heard: list[str] = []
    module, spec = zoo.load("cmt_ti", str(path), input_size=96, notify=heard.append)
    assert heard == ["relative-position tables resized from 64 to 96 px: accuracy may differ"]
    assert heard[0] in spec.weights.note
    assert spec.preprocess.size == 96
    expected = cmt.resize_relative_pos(state["relative_pos_b"], 96)
    torch.testing.assert_close(module.get_parameter("relative_pos_b").detach(), expected)
    torch.testing.assert_close(module.get_parameter("head.weight").detach(), state["head.weight"])
    with torch.inference_mode():
        assert module(torch.zeros(1, 3, 96, 96)).shape == (1, 10)


def test_the_same_size_resizes_nothing(path: Path, state: dict[str, Tensor]) -> None:
    save_file(state, path)
    heard: list[str] = []
    module, spec = zoo.load("cmt_ti", str(path), input_size=64, notify=heard.append)
    check_same(module, state)
    assert heard == []
    assert spec.weights.note == ""


@pytest.mark.parametrize("name", ["conformer_ti", "conv2former_n"])
def test_a_checkpoint_without_tables_does_not_tell_its_size(path: Path, name: str) -> None:
    heard: list[str] = []
    module, _ = zoo.load(name, "random", 10)
    save_file(module.state_dict(), path)
    _, spec = zoo.load(name, str(path), notify=heard.append)
    assert heard == [
        "the checkpoint does not tell for which images it was trained: 224 px as published; "
        "give --input-size if it was for others"
    ]
    assert "224 px as published" in spec.weights.note
    _, told = zoo.load(name, str(path), input_size=64, notify=heard.append)
    assert told.weights.note == ""
    assert len(heard) == 1


def test_another_number_of_classes_than_the_checkpoint_has_is_refused(path: Path, state: dict[str, Tensor]) -> None:
    save_file(state, path)
    zoo.load("cmt_ti", str(path), 10)
    with pytest.raises(UsageError, match=r"net\.pth has 10 classes, --num-classes asks for 1000"):
        zoo.load("cmt_ti", str(path), 1000)


def test_weights_for_grayscale_are_refused_with_a_fix_that_computes_the_same(
    path: Path, state: dict[str, Tensor]
) -> None:
    key = "stem_conv1.weight"
    grey = state | {key: state[key][:, :1].clone()}
    save_file(grey, path)
    with pytest.raises(WeightsError, match="is for grayscale images") as error:
        zoo.load("cmt_ti", str(path))
    assert error.value.why.startswith(f"{key} takes 1 channel")
    fix = error.value.fix.split(" computes")[0]
    exec(fix, {"state": grey})  # as the user would
    save_file(grey, path)
    module, _ = zoo.load("cmt_ti", str(path))
    kernel, picture = module.get_submodule("stem_conv1"), torch.randn(1, 1, 8, 8)
    ours = kernel(picture.expand(1, 3, 8, 8))
    want = torch.nn.functional.conv2d(picture, state[key][:, :1], state["stem_conv1.bias"], stride=2, padding=1)
    torch.testing.assert_close(ours, want)


def test_weights_of_another_model_are_recognised(path: Path, state: dict[str, Tensor]) -> None:
    save_file(state, path)
    with pytest.raises(WeightsError, match="does not fit cmt_xs") as error:
        zoo.load("cmt_xs", str(path))
    assert "missing: blocks_a.2." in error.value.why
    assert "stem" not in error.value.why.split("missing")[1].split(";")[0]
    assert error.value.fix == "it looks like cmt_ti: --model cmt_ti"


def test_weights_of_no_model_of_the_zoo_name_what_is_missing_and_what_is_not_wanted(path: Path) -> None:
    save_file({"conv1.weight": torch.zeros(64, 3, 7, 7), "fc.weight": torch.zeros(1000, 512)}, path)
    with pytest.raises(WeightsError, match="does not fit cmt_ti") as error:
        zoo.load("cmt_ti", str(path))
    assert "2 unexpected: conv1.weight, fc.weight" in error.value.why
    assert "missing: relative_pos_a, relative_pos_b, relative_pos_c, ..." in error.value.why
    assert "cmt_ti" in error.value.fix


@pytest.mark.parametrize("change", ["missing", "extra", "shape", "integer"])
def test_one_wrong_tensor_is_enough(path: Path, state: dict[str, Tensor], change: str) -> None:
    changed = dict(state)
    name = "blocks_c.4.attn.q.weight"
    if change == "missing":
        del changed[name]
    elif change == "extra":
        changed["blocks_c.10.attn.q.weight"] = state[name].clone()
    elif change == "shape":
        changed[name] = state[name][1:].clone()
    else:
        changed[name] = (state[name] * 127).to(torch.int8)
    save_file(changed, path)
    with pytest.raises(WeightsError, match="does not fit cmt_ti") as error:
        zoo.load("cmt_ti", str(path))
    assert "attn.q.weight" in error.value.why
    assert error.value.exit_code == 4


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_values_that_are_not_finite_are_refused(path: Path, state: dict[str, Tensor], value: float) -> None:
    broken = state["blocks_b.1.mlp.proj.weight"].clone()
    broken[3, 0, 1, 1] = value
    save_file(state | {"blocks_b.1.mlp.proj.weight": broken}, path)
    with pytest.raises(WeightsError, match="NaN or infinite") as error:
        zoo.load("cmt_ti", str(path))
    assert error.value.why == "in blocks_b.1.mlp.proj.weight"


@pytest.mark.parametrize("kind", ["sparse", "complex"])
def test_tensors_that_are_not_plain_are_refused(path: Path, state: dict[str, Tensor], kind: str) -> None:
    weight = state["head.weight"]
    torch.save(state | {"head.weight": weight.to_sparse() if kind == "sparse" else weight.to(torch.cfloat)}, path)
    with pytest.raises(WeightsError, match=r"holds 'head\.weight' in a form"):
        zoo.load("cmt_ti", str(path))


def test_a_score_in_the_file_is_passed_on(path: Path, state: dict[str, Tensor]) -> None:
    save_file(state, path, {"top1": "93.25"})
    assert zoo.load("cmt_ti", str(path))[1].weights.note == "top-1 93.25 % as recorded in the file"
    save_file(state, path, {"top1": "<script>"})
    assert zoo.load("cmt_ti", str(path))[1].weights.note == ""


BUNDLED = resources.find_image_set("fashion-mnist") / "cmt_ti_64.safetensors"


def test_bundled_weights_bring_their_labels_and_preprocessing(
    tmp_path: Path, state: dict[str, Tensor], monkeypatch: pytest.MonkeyPatch
) -> None:
    shutil.copy(BUNDLED.with_name("manifest.toml"), tmp_path)
    monkeypatch.setattr(resources, "find_image_set", lambda _: tmp_path)
    save_file(state, tmp_path / BUNDLED.name, {"top1": "93.1"})
    _, spec = zoo.load("cmt_ti", "fashion-mnist")
    assert (spec.classes, spec.preprocess.size, spec.preprocess.crop_pct) == (10, 64, 1.0)
    assert spec.labels[0] == "T-shirt/top"
    assert len(spec.labels) == 10
    assert spec.weights.source == "bundled cmt_ti_64.safetensors"
    assert "all 10,000 test images; top-1 93.10 %" in spec.weights.note
    with pytest.raises(UsageError, match="has 10 classes, --num-classes asks for 1000"):
        zoo.load("cmt_ti", "fashion-mnist", 1000)


@pytest.mark.skipif(not BUNDLED.is_file(), reason="the bundled checkpoint is made by calib/fashion-mnist/train.py")
def test_bundled_weights_recognise_the_bundled_images() -> None:
    module, spec = zoo.load("cmt_ti", "fashion-mnist")
    images = dataset.load("fashion-mnist", split="eval", limit=200)
    with torch.inference_mode():
        logits = [module(torch.from_numpy(batch)) for batch in images.batches(spec.preprocess, 50)]
    top1 = (torch.cat(logits).argmax(1).numpy() == images.labels).mean()
    assert top1 > 0.85


def test_a_source_may_be_found_first_and_loaded_later(path: Path, state: dict[str, Tensor]) -> None:
    save_file(state, path)
    module, spec = zoo.load("cmt_ti", zoo.find_weights("cmt_ti", str(path)))
    check_same(module, state)
    assert spec.weights.sha256 == zoo.find_weights("cmt_ti", str(path)).sha256


def test_random_weights_repeat_and_disturb_nobody() -> None:
    torch.manual_seed(5)
    before = torch.get_rng_state()
    first, spec = zoo.load("cmt_ti", num_classes=3, input_size=32)
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(6)
    second, _ = zoo.load("cmt_ti", num_classes=3, input_size=32)
    check_same(second, first.state_dict())
    other, _ = zoo.load("cmt_ti", num_classes=3, input_size=32, seed=1)
    assert not torch.equal(other.get_parameter("head.weight"), first.get_parameter("head.weight"))
    assert not first.training
    assert (spec.classes, spec.preprocess.size, spec.weights.trained) == (3, 32, False)
    assert (spec.weights.source, spec.labels) == ("random (seed 0)", ())


def test_defaults_are_the_published_ones() -> None:
    _, spec = zoo.load("cmt_ti")
    assert (spec.classes, spec.preprocess.size, spec.preprocess.crop_pct) == (1000, 160, 0.875)
    assert int(spec.preprocess.size / spec.preprocess.crop_pct) == 182  # as the authors evaluate
    assert zoo.load("cmt_ti", crop_pct=1.0)[1].preprocess.crop_pct == 1.0


def test_auto_offline_is_untrained_in_every_record() -> None:
    heard: list[str] = []
    _, spec = zoo.load("cmt_ti", "auto", input_size=32, notify=heard.append)
    assert not spec.weights.trained
    assert heard == [spec.weights.note]
    assert "UNTRAINED" in heard[0]


@pytest.mark.parametrize(("size", "fix"), [(100, "96 or 128"), (31, "32"), (0, "32"), (-64, "32"), (161, "160 or 192")])
def test_an_input_size_that_does_not_fit_suggests_ones_that_do(size: int, fix: str) -> None:
    with pytest.raises(UsageError, match=f"cannot take {size} px") as error:
        zoo.load("cmt_ti", input_size=size)
    assert error.value.fix == f"--input-size {fix}"


@pytest.mark.parametrize("crop", [0.0, -0.5, 1.01, float("nan")])
def test_a_crop_out_of_range_is_refused(crop: float) -> None:
    with pytest.raises(UsageError, match="is no crop"):
        zoo.load("cmt_ti", crop_pct=crop)


@pytest.mark.parametrize("classes", [0, -1])
def test_a_classifier_without_classes_is_refused(classes: int) -> None:
    with pytest.raises(UsageError, match="makes no classifier"):
        zoo.load("cmt_ti", num_classes=classes)


@pytest.mark.parametrize("size", [32 * 1024, 32 * 10**6])
def test_tables_that_do_not_fit_into_memory_are_a_matter_of_resources(size: int) -> None:
    with pytest.raises(ResourceError, match=f"no memory for cmt_ti at {size} px"):
        zoo.load("cmt_ti", input_size=size)
