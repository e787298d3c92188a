"""What a card says is what the code counts."""

import subprocess
import sys

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from edgehybrid import zoo
from edgehybrid.errors import UsageError
from edgehybrid.records import ModelCard
from edgehybrid.zoo.weights import open_family


@pytest.mark.parametrize("card", zoo.cards(), ids=lambda card: card.name)
def test_params_and_macs_are_counted(card: ModelCard) -> None:
    with torch.device("meta"):
        module = open_family(card).create(card.name, 1000, card.input_size).eval()
        image = torch.zeros(1, 3, card.input_size, card.input_size)
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        assert module(image).shape == (1, 1000)
    assert card.params == sum(p.numel() for p in module.parameters())
    assert card.macs == counter.get_total_flops() // 2  # torch counts a multiply-accumulate as two


OTHERWISE_PRINTED = {
    ("cmt_s", "params"): "the paper prints 25.1M; the official code has 26.3M",
    ("conv2former_n", "macs"): "the README prints 2.2G; the official code, with kernel 7, makes 2.33G",
    ("conv2former_b_22k", "params"): "printed are those of conv2former_b, which has larger kernels",
    ("conv2former_b_22k", "macs"): "printed are those of conv2former_b, which has larger kernels",
}
"""Where what is published and what the official code counts differ by more than 1 % and the rounding."""


def differs(printed: str, counted: int) -> bool:
    """Whether a count is off a printed figure by more than 1 % and more than the figure's rounding."""
    unit = {"M": 1e6, "G": 1e9}[printed[-1]]
    _, _, decimals = printed[:-1].partition(".")
    return abs(float(printed[:-1]) * unit - counted) > max(0.01 * counted, 0.5 * unit / 10 ** len(decimals))


@pytest.mark.parametrize("card", zoo.cards(), ids=lambda card: card.name)
def test_published_figures_are_what_is_counted(card: ModelCard) -> None:
    counted = {"params": card.params, "macs": card.macs}
    for figure in counted.keys() & card.published.keys():
        assert differs(card.published[figure], counted[figure]) == ((card.name, figure) in OTHERWISE_PRINTED)
    assert 70 < float(card.published.get("top1", "80")) < 90


@pytest.mark.parametrize("card", zoo.cards(), ids=lambda card: card.name)
def test_weights_can_be_downloaded_or_the_card_says_why_not(card: ModelCard) -> None:
    assert (card.weights_url is None) == bool(card.weights_note)


@pytest.mark.parametrize("card", [c for c in zoo.cards() if "browser" in c.weights_note], ids=lambda card: card.name)
def test_weights_behind_a_browser_are_refused_with_their_place(card: ModelCard) -> None:
    with pytest.raises(UsageError, match="no ImageNet weights can be downloaded") as caught:
        zoo.find_weights(card.name, "imagenet")
    assert "https://" in caught.value.why
    assert "--weights FILE" in caught.value.why


def test_names_are_unique() -> None:
    names = [card.name for card in zoo.cards()]
    assert len(set(names)) == len(names)


def test_listing_models_and_finding_weights_loads_no_torch() -> None:
    code = (
        "import sys; from edgehybrid import zoo; zoo.cards(); zoo.find_weights('cmt_ti', 'auto');"
        "print(sorted({'torch', 'safetensors', 'onnx', 'onnxruntime'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
