"""Conformer computes what the official implementation computes, at any size that its patches divide."""

import pytest
import torch
from torch import Tensor, nn

from edgehybrid import zoo
from edgehybrid.errors import UsageError, WeightsError
from edgehybrid.zoo import conformer
from tests import golden

RECORDED = [name for name in golden.recorded() if name in conformer.SIZES]


class Heads(nn.Module):
    """A Conformer that returns both heads, under its own names."""

    def __init__(self, network: conformer.Conformer) -> None:
        super().__init__()
        self.network = network

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        return self.network.forward_heads(x)

    def state_dict(self) -> dict[str, Tensor]:  # type: ignore[override]
        return self.network.state_dict()

    def load_state_dict(self, state: dict[str, Tensor], strict: bool) -> None:  # type: ignore[override]
        self.network.load_state_dict(state, strict=strict)


@pytest.fixture(scope="module")
def filled() -> conformer.Conformer:
    """The smallest variant, 10 classes, nothing at its initial value; not to be changed."""
    module = conformer.create("conformer_ti", 10, 32).eval()
    golden.fill(module)
    return module


@pytest.mark.parametrize("name", RECORDED)
def test_both_heads_are_the_official_ones(name: str) -> None:
    recorded = golden.read(name)
    module = Heads(conformer.create(name, recorded.num_classes, recorded.input_size))
    found = golden.run_double(module, recorded)
    for head, expected in zip(found, (recorded.heads["conv_cls"], recorded.heads["tran_cls"]), strict=True):
        assert abs(head - expected).max() <= 1e-11 * abs(expected).max()


@pytest.mark.parametrize("name", conformer.SIZES)
def test_epsilons_are_the_official_ones(name: str) -> None:
    """The outputs cannot tell that of `trans_norm`: the class token has been doubled eleven times before it."""
    with torch.device("meta"):
        module = conformer.create(name, 10, 224)
    odd = {path for path, part in module.named_modules() if getattr(part, "eps", 1e-6) == 1e-5}
    assert odd == {"bn1", "trans_norm"}


def test_the_sum_of_both_heads_is_the_prediction(filled: conformer.Conformer) -> None:
    image = torch.from_numpy(golden.golden_input(32))
    with torch.inference_mode():
        conv, tran = filled.forward_heads(image)
        assert torch.equal(filled(image), conv + tran)
    assert not torch.equal(conv, tran)


@pytest.mark.parametrize(("name", "size"), [("conformer_ti", 16), ("conformer_ti", 48), ("conformer_s32", 96)])
def test_any_multiple_of_the_patch_is_an_input_size(name: str, size: int) -> None:
    module = conformer.create(name, 7, size).eval()
    with torch.inference_mode():
        assert module(torch.zeros(2, 3, size, size)).shape == (2, 7)
    assert conformer.stored_size(module.state_dict()) is None


@pytest.mark.parametrize(("name", "size"), [("conformer_ti", 0), ("conformer_ti", 40), ("conformer_s32", 48)])
def test_other_input_sizes_are_refused(name: str, size: int) -> None:
    with pytest.raises(ValueError, match="multiple of"):
        conformer.create(name, 7, size)


def test_the_larger_patch_suggests_sizes_of_its_own() -> None:
    for name, fix in (("conformer_s32", "224 or 256"), ("conformer_ti", "240 or 256")):
        with pytest.raises(UsageError, match="cannot take 250 px") as error:
            zoo.load(name, input_size=250)
        assert error.value.fix == f"--input-size {fix}"


def test_weights_of_one_size_are_weights_of_every_size(filled: conformer.Conformer) -> None:
    state = filled.state_dict()
    assert golden.list_keys(conformer.create("conformer_ti", 10, 64)) == golden.list_keys(filled)
    assert all(torch.equal(v, state[k]) for k, v in conformer.resize(state, 64).items())


def test_classes_are_inferred_and_both_heads_have_as_many(filled: conformer.Conformer, tmp_path) -> None:
    path = tmp_path / "net.pth"
    state = filled.state_dict()
    torch.save({"model": state}, path)
    module, spec = zoo.load("conformer_ti", str(path), input_size=32)
    assert (spec.classes, spec.preprocess.size) == (10, 32)
    assert isinstance(module, conformer.Conformer)
    assert module.trans_cls_head.out_features == module.conv_cls_head.out_features == 10
    torch.save(state | {"trans_cls_head.weight": torch.zeros(9, 384), "trans_cls_head.bias": torch.zeros(9)}, path)
    with pytest.raises(WeightsError, match="does not fit conformer_ti") as error:
        zoo.load("conformer_ti", str(path))
    assert "trans_cls_head.weight (9, 384) instead of (10, 384)" in error.value.why


def test_weights_behind_a_browser_are_explained() -> None:
    heard: list[str] = []
    source = zoo.find_weights("conformer_ti", "auto", notify=heard.append)
    assert source.path is None
    assert heard == [source.note]
    assert "UNTRAINED" in source.note
    assert "https://drive.google.com/file/d/19SxGhKcWOR5oQSxNUWUM2MGYiaWMrF1z" in source.note
    with pytest.raises(UsageError, match="no ImageNet weights can be downloaded for conformer_s32") as error:
        zoo.find_weights("conformer_s32", "imagenet")
    assert "neither a checkpoint nor figures" in error.value.why
