"""Every network with a recording is the official one: names, shapes, parameters, work and outputs."""

import numpy as np
import pytest
import torch
from torch import nn

from edgehybrid import zoo
from edgehybrid.zoo.weights import open_family
from tests import golden

CARDS = {card.name: card for card in zoo.cards()}
FEWER_MACS = {"botnet26t": 0.003, "botnet50": 0.003}
"""Part of the recorded work that ours saves: indexed tables leave out the distances that a row never has."""


def create(name: str, recorded: golden.Golden) -> nn.Module:
    return open_family(CARDS[name]).create(name, recorded.num_classes, recorded.input_size)


def test_each_recording_is_of_a_model_of_the_zoo() -> None:
    assert len(golden.recorded()) >= 11
    assert set(golden.recorded()) <= CARDS.keys()


@pytest.mark.parametrize("name", golden.recorded())
def test_names_and_shapes_are_the_official_ones(name: str) -> None:
    recorded = golden.read(name)
    with torch.device("meta"):
        module = create(name, recorded)
    assert sorted(golden.list_keys(module)) == sorted(recorded.keys)


@pytest.mark.parametrize("name", golden.recorded())
def test_the_card_counts_what_the_recording_counts(name: str) -> None:
    recorded, card = golden.read(name), CARDS[name]
    assert (card.params, card.input_size) == (recorded.params, recorded.input_size)
    saved = 1 - card.macs / recorded.macs
    assert 0 < saved < FEWER_MACS[name] if name in FEWER_MACS else saved == 0


@pytest.mark.parametrize("name", golden.recorded())
def test_logits_are_the_official_ones(name: str) -> None:
    """float64 tells a wrong epsilon (2e-6) or an approximate GELU (2e-4) from rounding; float32 does not."""
    recorded = golden.read(name)
    largest = np.abs(recorded.logits).max()
    (logits,) = golden.run_double(create(name, recorded), recorded)
    assert np.abs(logits - recorded.logits).max() <= 1e-11 * largest


@pytest.mark.parametrize("name", [name for name in golden.recorded() if CARDS[name].params < 13e6])
def test_single_precision_is_as_near_as_rounding_lets_it(name: str) -> None:
    recorded = golden.read(name)
    module = create(name, recorded).eval()
    golden.fill(module)
    with torch.inference_mode():
        single = module(torch.from_numpy(golden.golden_input(recorded.input_size)))[0].double().numpy()
    assert np.abs(single - recorded.logits).max() <= 2e-5 * np.abs(recorded.logits).max()
