"""Models of timm: their card, data config and weights, and the whole road of eleven of them."""

import functools
import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from edgehybrid import exporter, rewrites, stages, zoo
from edgehybrid.engine import build
from edgehybrid.errors import NotFoundError, NotReadyError, UsageError, WeightsError
from edgehybrid.graph import Graph
from edgehybrid.graph.counting import count_macs
from edgehybrid.placement import plan
from edgehybrid.quantizer import quantize, to_fp16
from edgehybrid.records import Stated
from edgehybrid.zoo.download import DownloadError
from edgehybrid.zoo.sources import needs_timm
from tests.golden import fill
from tests.no_torchvision import stand_in
from tests.single import draw, observe
from tests.test_families import ORIN, error, needs_rtx

HERE = importlib.util.find_spec("timm") is not None
if HERE:
    stand_in()
with_timm = pytest.mark.skipif(not HERE, reason="timm (extra 'timm') is not installed")

SIZES = {
    "resnet18": 64,
    "convnext_atto": 64,
    "mobilevit_xxs": 64,  # its last attention has one token, which TensorRT-RTX 1.7.1 fails to compile as exported
    "efficientformer_l1": 224,  # its position table takes no other size
    "coatnet_nano_rw_224": 64,
    "maxvit_rmlp_pico_rw_256": 64,
    "levit_128s": 144,  # at 64 px its last attention has one token; at 128 float32 noise alone is 1.2e-5 of the logits
    "edgenext_xx_small": 64,
    "deit_tiny_patch16_224": 64,
    "swin_tiny_patch4_window7_224": 64,
    "mobileone_s0": 64,  # trained with up to six branches per layer, which become one
}
"""Model -> the smallest usable input side in px."""
COMPILED = ("mobilevit_xxs", "edgenext_xx_small", "convnext_atto")
"""Those that NVIDIA's compiler sees here, two hybrids and a baseline; benchmarks/timm_models.py has it see them all."""
CONSTANT = {"maxvit_rmlp_pico_rw_256": 589_824, "edgenext_xx_small": 196_608, "mobilevit_xxs": 1_152}
"""Multiply-accumulates that torch makes for every image although no pixel enters them, and the export makes once: the
networks behind MaxViT's relative positions and EdgeNeXt's Fourier encoding. MobileViT's are logits of one token, whose
softmax is 1 whatever they are."""


# --- without timm --------------------------------------------------------------------------------


def test_where_timm_is_missing_the_error_says_how_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    monkeypatch.delitem(sys.modules, "edgehybrid.zoo.from_timm", raising=False)
    with pytest.raises(NotReadyError, match="timm is not installed") as caught:
        zoo.find_weights("timm/resnet18", "random")
    assert caught.value.fix == "pip install 'edgehybrid[timm]'"


@pytest.mark.parametrize(
    ("problem", "words"),
    [
        (ModuleNotFoundError("No module named 'torchvision'", name="torchvision"), "torchvision is not installed"),
        (ModuleNotFoundError("No module named 'torch'", name="torch"), "torch is not installed"),
        (RuntimeError("operator torchvision::nms does not exist"), "its import failed"),
        (ImportError("cannot import name 'x' from 'torch'", name="torch"), "its import failed"),
    ],
)
def test_what_timm_lacks_is_named(problem: ImportError | RuntimeError, words: str) -> None:
    assert words in needs_timm(problem).what


def test_a_fault_of_our_own_is_no_missing_library() -> None:
    with pytest.raises(ImportError):
        needs_timm(ImportError("cannot import name 'x' from 'edgehybrid.records'", name="edgehybrid.records"))


def test_files_and_bundles_can_carry_the_name() -> None:
    source = stages.Source("timm/resnet18.a1_in1k", "random", None, Stated(), 1, 0)
    assert source.name == "timm-resnet18.a1_in1k"


# --- card and preprocessing ----------------------------------------------------------------------


@with_timm
def test_the_card_says_what_timm_says() -> None:
    _, spec = zoo.load("timm/resnet18", "random", input_size=64)
    card = spec.card
    assert card is not None
    assert (spec.name, card.name, card.family, card.input_size) == ("timm-resnet18", "timm-resnet18", "timm", 224)
    assert (card.params, round(card.macs / 1e9, 2)) == (11_689_512, 1.81)  # as timm's tables print it
    assert card.weights_url == "https://huggingface.co/timm/resnet18.a1_in1k/resolve/main/model.safetensors"
    assert "2110.00476" in card.paper
    assert "apache-2.0" in card.licence


@with_timm
def test_a_model_that_hands_parameters_to_its_modules_is_counted() -> None:
    """Torch's counter takes a parameter as input for a tensor that a gradient is wanted of, and finds none.

    Han et al. 2021, arXiv:2103.00112, table 2: 23.8 M, 5.2 B.
    """
    card = zoo.load("timm/tnt_s_legacy_patch16_224", "random", input_size=32)[1].card
    assert card is not None
    assert (card.params, round(card.macs / 1e9, 2)) == (23_755_336, 5.22)


@with_timm
@pytest.mark.parametrize(
    ("name", "size", "crop", "mean"),
    [
        ("resnet18", 224, 0.95, (0.485, 0.456, 0.406)),
        ("mobilevit_xxs", 256, 0.9, (0.0, 0.0, 0.0)),
        ("levit_128s", 224, 0.9, (0.485, 0.456, 0.406)),
    ],
)
def test_preprocessing_is_that_of_timm(name: str, size: int, crop: float, mean: tuple[float, ...]) -> None:
    _, spec = zoo.load(f"timm/{name}")
    assert (spec.preprocess.size, spec.preprocess.crop_pct, spec.preprocess.mean) == (size, crop, mean)
    assert spec.preprocess.std == ((1.0, 1.0, 1.0) if mean[0] == 0 else (0.229, 0.224, 0.225))
    assert zoo.load(f"timm/{name}", crop_pct=1.0)[1].preprocess.crop_pct == 1.0


@with_timm
def test_preprocessing_that_is_done_otherwise_is_said() -> None:
    told: list[str] = []
    _, spec = zoo.load("timm/convnext_tiny.fb_in22k_ft_in1k_384", input_size=32, notify=told.append)
    assert any("'squash'" in line for line in told)
    assert "'squash'" in spec.weights.note


@with_timm
@pytest.mark.parametrize(
    ("name", "suggestion"),
    [("mobilvit_xxs", "timm/mobilevit_xxs"), ("resnet18.nope", "timm/resnet18.a1_in1k"), ("xyzzy", "none of its")],
)
def test_unknown_names_get_near_misses(name: str, suggestion: str) -> None:
    with pytest.raises(NotFoundError, match=f"no model named '{name}'") as caught:
        zoo.load(f"timm/{name}")
    assert suggestion in caught.value.why


@with_timm
@pytest.mark.parametrize(
    ("name", "size"), [("efficientformer_l1", 64), ("deit_tiny_patch16_224", 8), ("resnet18", 0), ("levit_128s", 100)]
)
def test_a_size_that_the_model_cannot_take_is_refused(name: str, size: int) -> None:
    with pytest.raises(UsageError, match=f"cannot take {size} px"):
        zoo.load(f"timm/{name}", input_size=size)


# --- weights -------------------------------------------------------------------------------------


@functools.cache
def weights_of(name: str) -> dict[str, Tensor]:
    """Seven classes, nothing at its initial value; not to be changed."""
    module, _ = zoo.load(f"timm/{name}", "random", num_classes=7)
    fill(module)
    return {key: value.clone() for key, value in module.state_dict().items()}


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "net.safetensors"


@with_timm
def test_random_weights_follow_the_seed_and_nothing_else() -> None:
    before = torch.get_rng_state()
    (a, spec), (b, _), (c, _) = (zoo.load("timm/resnet18", "random", 3, 64, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(before, torch.get_rng_state())
    assert torch.equal(a.get_parameter("fc.weight"), b.get_parameter("fc.weight"))
    assert not torch.equal(a.get_parameter("fc.weight"), c.get_parameter("fc.weight"))
    assert not a.training
    assert (spec.classes, spec.preprocess.size, spec.weights.trained) == (3, 64, False)


@with_timm
@pytest.mark.parametrize("name", ["resnet18", "levit_128s", "mobilenetv3_small_050", "dla34"])
def test_a_checkpoint_loads_completely_and_its_classes_are_counted(name: str, path: Path) -> None:
    """A linear layer, two heads, a family that takes no `pretrained_strict`, and one that is not strict."""
    state = weights_of(name)
    save_file(state, path)
    module, spec = zoo.load(f"timm/{name}", str(path))
    assert (spec.classes, spec.weights.trained) == (7, True)
    for key, value in module.state_dict().items():
        assert torch.equal(value, state[key]), key
    assert spec.weights.sha256 == zoo.find_weights(f"timm-{name}", str(path)).sha256  # the name that bundles carry


@with_timm
@pytest.mark.parametrize("name", ["resnet18", "mobilenetv3_small_050", "dla34"])
def test_a_checkpoint_that_lacks_a_layer_is_refused(name: str, path: Path) -> None:
    state = dict(weights_of(name))
    lost = [key for key in state if key.endswith(".weight")][5]
    del state[lost]
    save_file(state, path)
    with pytest.raises(WeightsError, match="does not fit") as caught:
        zoo.load(f"timm/{name}", str(path))
    assert lost in caught.value.why


@with_timm
def test_unusable_checkpoints_are_refused(path: Path, tmp_path: Path) -> None:
    save_file(weights_of("levit_128s"), path)
    with pytest.raises(WeightsError, match="does not fit timm/resnet18"):
        zoo.load("timm/resnet18", str(path))
    with pytest.raises(WeightsError, match="cannot be fitted to 96 px"):
        zoo.load("timm/levit_128s", str(path), input_size=96)
    with pytest.raises(UsageError, match="has 7 classes, --num-classes asks for 8"):
        zoo.load("timm/levit_128s", str(path), 8)
    save_file(weights_of("resnet18") | {"conv1.weight": torch.zeros(64, 1, 7, 7)}, path)
    with pytest.raises(WeightsError, match="is for grayscale images"):
        zoo.load("timm/resnet18", str(path))
    save_file(weights_of("resnet18") | {"fc.bias": torch.full((7,), torch.nan)}, path)
    with pytest.raises(WeightsError, match="NaN"):
        zoo.load("timm/resnet18", str(path))
    hostile = tmp_path / "net.pth"
    torch.save({"model": weights_of("resnet18"), "hook": print}, hostile)
    with pytest.raises(WeightsError, match="was refused"):
        zoo.load("timm/resnet18", str(hostile))


@with_timm
def test_tables_for_another_size_are_resampled_and_said_so(path: Path) -> None:
    save_file(weights_of("deit_tiny_patch16_224"), path)
    told: list[str] = []
    module, spec = zoo.load("timm/deit_tiny_patch16_224", str(path), input_size=64, notify=told.append)
    assert module.get_parameter("pos_embed").shape == (1, 17, 192)
    assert "pos_embed" in spec.weights.note
    assert told == [spec.weights.note]


@with_timm
def test_without_a_network_imagenet_is_an_error_and_auto_says_untrained() -> None:
    with pytest.raises(DownloadError, match=r"huggingface\.co"):
        zoo.load("timm/resnet18", "imagenet")
    told: list[str] = []
    _, spec = zoo.load("timm/resnet18", "auto", notify=told.append)
    assert not spec.weights.trained
    assert any("UNTRAINED" in line and "EDGEHYBRID_OFFLINE" in line for line in told)


@with_timm
def test_weights_that_are_no_imagenet_classifier_are_not_downloaded() -> None:
    with pytest.raises(UsageError, match="no ImageNet weights") as caught:
        zoo.find_weights("timm/vit_small_patch14_dinov2", "imagenet")
    assert "no classifier" in caught.value.why


# --- the whole road ------------------------------------------------------------------------------


@pytest.fixture(scope="module", params=SIZES)
def traced(request: pytest.FixtureRequest) -> tuple[Graph, int]:
    """The exported network with 10 classes, nothing at its initial value, and what torch counts of its work."""
    if not HERE:
        pytest.skip("timm (extra 'timm') is not installed")
    side = SIZES[request.param]
    module, spec = zoo.load(f"timm/{request.param}", "random", 10, side)
    fill(module)
    counter = FlopCounterMode(display=False)
    with counter, torch.inference_mode():
        module(torch.zeros(1, 3, side, side))
    return exporter.trace(module, spec), counter.get_total_flops() // 2 - CONSTANT.get(request.param, 0)


@pytest.fixture(scope="module")
def rewritten(traced: tuple[Graph, int]) -> Graph:
    return rewrites.apply(traced[0])[0]


def test_the_export_does_the_work_that_torch_counts(traced: tuple[Graph, int]) -> None:
    graph, macs = traced
    assert count_macs(graph) == macs


def test_rewriting_keeps_the_logits_and_is_done_after_once(traced: tuple[Graph, int], rewritten: Graph) -> None:
    assert error(traced[0], rewritten) < 1e-5
    again, lines = rewrites.apply(rewritten)
    assert all(line.endswith(": 0 sites") for line in lines)
    assert again.digest() == rewritten.digest()


def test_int8_stays_near_float32(rewritten: Graph) -> None:
    quantized = quantize(rewritten, observe(rewritten, draw(rewritten, seed=3)), plan(rewritten, "fp32"))
    found = error(rewritten, quantized)
    assert np.isfinite(found)
    assert 0 < found < 0.2  # noise of random weights; a wrong scale gives 1 and more


@needs_rtx
@pytest.mark.parametrize("traced", COMPILED, indirect=True, scope="module")
@pytest.mark.parametrize("precision", ["int8", "fp16"])
def test_nvidia_compiles_it(rewritten: Graph, precision: str, tmp_path: Path) -> None:
    if precision == "int8":
        typed = quantize(rewritten, observe(rewritten, draw(rewritten)), plan(rewritten, "typed"))
    else:
        typed = to_fp16(rewritten)
    path = tmp_path / "model.onnx"
    path.write_bytes(typed.to_bytes())
    made, _ = build(path, ORIN, None)
    assert (made.status, made.flavor) == ("checked", "tensorrt-rtx")
