"""What a card says is what the code counts."""

import subprocess
import sys

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from edgehybrid import zoo
from edgehybrid.records import ModelCard
from edgehybrid.zoo.weights import FAMILIES


@pytest.mark.parametrize("card", zoo.cards(), ids=lambda card: card.name)
def test_params_and_macs_are_counted(card: ModelCard) -> None:
    with torch.device("meta"):
        module = FAMILIES[card.family].create(card.name, 1000, card.input_size).eval()
        image = torch.zeros(1, 3, card.input_size, card.input_size)
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():
        assert module(image).shape == (1, 1000)
    assert card.params == sum(p.numel() for p in module.parameters())
    assert card.macs == counter.get_total_flops() // 2  # torch counts a multiply-accumulate as two


@pytest.mark.parametrize("card", zoo.cards(), ids=lambda card: card.name)
def test_published_figures_are_near_what_is_counted(card: ModelCard) -> None:
    printed = float(card.published["params"].removesuffix("M")) * 1e6
    assert abs(printed / card.params - 1) < 0.05
    if "top1" in card.published:  # not printed for variants without a checkpoint
        assert 70 < float(card.published["top1"]) < 90


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
