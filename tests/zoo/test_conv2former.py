"""Conv2Former computes what the official implementation computes, at any size that leaves a position."""

import argparse

import pytest
import torch
from torch import nn

from edgehybrid import zoo
from edgehybrid.errors import UsageError
from edgehybrid.zoo import conv2former
from tests import golden


@pytest.mark.parametrize(("name", "kernel"), [("conv2former_b", 11), ("conv2former_b_22k", 7), ("conv2former_l", 11)])
def test_the_weights_for_imagenet_22k_have_a_kernel_of_their_own(name: str, kernel: int) -> None:
    with torch.device("meta"):
        module = conv2former.create(name, 10, 224)
    kernels = {m.kernel_size for path, m in module.named_modules() if path.endswith("att.2")}
    assert kernels == {(kernel, kernel)}


@pytest.mark.parametrize("size", [31, 32, 50])
def test_any_size_that_leaves_a_position_is_an_input_size(size: int) -> None:
    module = conv2former.create("conv2former_n", 7, size).eval()
    with torch.inference_mode():
        assert module(torch.zeros(2, 3, size, size)).shape == (2, 7)
    assert conv2former.stored_size(module.state_dict()) is None


def test_a_smaller_image_leaves_none() -> None:
    with pytest.raises(ValueError, match="at least 31 px"):
        conv2former.create("conv2former_n", 7, 30)
    with pytest.raises(UsageError, match="cannot take 30 px") as error:
        zoo.load("conv2former_n", input_size=30)
    assert error.value.fix == "--input-size 31"
    module = conv2former.create("conv2former_n", 7, 31).eval()
    with pytest.raises(RuntimeError, match="greater than actual input size"):
        module(torch.zeros(1, 3, 30, 30))


def test_every_norm_but_that_of_the_stem_has_the_small_epsilon() -> None:
    module = conv2former.create("conv2former_n", 7, 32)
    found = {(type(m), m.eps) for m in module.modules() if isinstance(m, nn.LayerNorm | nn.BatchNorm2d)}
    assert found == {(conv2former.ChannelNorm, 1e-6), (nn.BatchNorm2d, 1e-5)}


def test_the_layout_of_the_authors_checkpoints_loads(tmp_path) -> None:
    module = conv2former.create("conv2former_n", 10, 32)
    golden.fill(module)
    state = module.state_dict()
    other = {name: value + 1 for name, value in state.items()}
    path = tmp_path / "model_best.pth.tar"
    saved = {"epoch": 299, "arch": "conv2former_n", "optimizer": {"state": {}}, "version": 2, "metric": 81.5}
    torch.save(saved | {"args": argparse.Namespace(lr=1e-3), "state_dict": other, "state_dict_ema": state}, path)
    loaded, spec = zoo.load("conv2former_n", str(path), input_size=64)
    assert (spec.classes, spec.preprocess.size, spec.preprocess.crop_pct) == (10, 64, 0.875)
    assert spec.weights.note == "weights taken from 'state_dict_ema'"
    assert all(torch.equal(loaded.state_dict()[k], v) for k, v in conv2former.resize(state, 64).items())


def test_weights_behind_a_browser_are_explained() -> None:
    heard: list[str] = []
    source = zoo.find_weights("conv2former_l", "auto", notify=heard.append)
    assert heard == [source.note]
    assert "UNTRAINED" in source.note
    assert "https://github.com/HVision-NKU/Conv2Former" in source.note
