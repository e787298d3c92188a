"""Both BoTNets compute what the implementations they follow compute, at any size."""

from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.torch import save_file
from torch import Tensor

from edgehybrid import zoo
from edgehybrid.errors import UsageError, WeightsError
from edgehybrid.records import ModelCard
from edgehybrid.zoo import botnet
from tests import golden

NAMES = ("botnet50", "botnet26t")


def find_card(name: str) -> ModelCard:
    return next(card for card in zoo.cards() if card.name == name)


def filled_state(name: str, classes: int, size: int) -> dict[str, Tensor]:
    module = botnet.create(name, classes, size)
    golden.fill(module)
    return {key: value.detach().clone() for key, value in module.state_dict().items()}


@pytest.fixture(scope="module")
def state() -> dict[str, Tensor]:
    """botnet26t at 96 px with 10 classes; not to be changed."""
    return filled_state("botnet26t", 10, 96)


def test_botnet50_at_256_px_has_the_parameters_counted_on_the_reference() -> None:
    with torch.device("meta"):
        module = botnet.create("botnet50", 1000, 256)
    assert sum(p.numel() for p in module.parameters()) == 20_854_056


# --- attention, against the definition -----------------------------------------------------------


@settings(max_examples=20, derandomize=True)
@given(side=st.integers(1, 4), head=st.integers(1, 3), scaled=st.booleans(), seed=st.integers(0, 2**31))
def test_attention_is_the_one_of_the_paper_written_out(side: int, head: int, scaled: bool, seed: int) -> None:
    """Every pair of positions by itself: the query's row and column, the key's, and the distances between."""
    random = np.random.default_rng(seed)
    heads, length = botnet.HEADS, side * side
    qkv = random.normal(size=(2, 3, heads, head, side, side))
    rows, columns = random.normal(size=(2, 2 * side - 1, head))
    expected = np.empty((2, heads, head, side, side))
    for n, h, y, x in np.ndindex(2, heads, side, side):
        q = qkv[n, 0, h, :, y, x]
        logits = np.empty((side, side))
        for ky, kx in np.ndindex(side, side):
            place = q @ (rows[ky - y + side - 1] + columns[kx - x + side - 1])
            logits[ky, kx] = q @ qkv[n, 1, h, :, ky, kx] * head**-0.5 + place * (head**-0.5 if scaled else 1)
        weights = np.exp(logits) / np.exp(logits).sum()
        expected[n, h, :, y, x] = (qkv[n, 2, h] * weights).sum((1, 2))
    given_qkv = torch.from_numpy(qkv.reshape(2, 3 * heads * head, side, side))
    tables = botnet.Tables(side, head, ("rows", "columns"))
    tables.load_state_dict({"rows": torch.from_numpy(rows), "columns": torch.from_numpy(columns)}, assign=True)
    result = botnet.attend(given_qkv, tables, scaled_position=scaled)
    np.testing.assert_allclose(result.detach().numpy().reshape(expected.shape), expected, atol=1e-12 * length)


# --- sizes ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [32, 96])
def test_any_multiple_of_32_is_an_input_size(name: str, size: int) -> None:
    module = botnet.create(name, 7, size).eval()
    with torch.inference_mode():
        assert module(torch.zeros(2, 3, size, size)).shape == (2, 7)
    assert botnet.stored_size(module.state_dict()) == size


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("size", [0, -32, 31, 100])
def test_other_input_sizes_are_refused(name: str, size: int) -> None:
    with pytest.raises(ValueError, match="multiple of 32"):
        botnet.create(name, 7, size)
    with pytest.raises(UsageError, match="cannot take"):
        zoo.load(name, "random", input_size=size)


def test_a_network_needs_a_class() -> None:
    with pytest.raises(ValueError, match="at least 1 class"):
        botnet.create("botnet50", 0, 32)


def test_a_checkpoint_without_sound_tables_tells_no_size(state: dict[str, Tensor]) -> None:
    first, *_, last = botnet.POSITIONS_TIMM
    assert botnet.stored_size(state) == 96
    assert botnet.stored_size({}) is None
    assert botnet.stored_size({k: v for k, v in state.items() if k != first}) is None
    assert botnet.stored_size(state | {first: state[first][1:]}) is None  # of no map: an even number of distances
    assert botnet.stored_size(state | {last: state[first]}) is None  # of another size than the others
    assert botnet.stored_size(state | dict.fromkeys(botnet.POSITIONS_TIMM, torch.zeros(()))) is None
    assert botnet.stored_size(state | {k: v[1:-1] for k, v in state.items() if k in botnet.POSITIONS_TIMM}) is None


sides = st.integers(1, 9)


@given(old=sides, new=sides)
def test_resized_tables_keep_the_middle_and_the_direction(old: int, new: int) -> None:
    distance = torch.arange(-old + 1, old, dtype=torch.float64)[:, None] / (2 * old - 1)
    resized = botnet.resize_table(torch.cat([distance, distance**0], dim=1), new)
    assert resized.shape == (2 * new - 1, 2)
    torch.testing.assert_close(resized[:, 1], torch.ones(2 * new - 1, dtype=torch.float64))
    torch.testing.assert_close(resized[:, 0], -resized[:, 0].flip(0))  # distance 0 stays 0
    inner = torch.arange(-new + 1, new, dtype=torch.float64) / (2 * new - 1)
    inside = inner.abs() <= distance.max()
    torch.testing.assert_close(resized[inside, 0], inner[inside], rtol=0, atol=1e-6)
    assert (resized.diff(dim=0)[:, 0] >= 0).all()


@pytest.mark.parametrize("name", NAMES)
def test_resizing_a_checkpoint_changes_its_tables_only(name: str) -> None:
    state = filled_state(name, 3, 64)
    resized = botnet.resize(state, 96)
    assert botnet.stored_size(resized) == 96
    changed = {key for key in state if not torch.equal(resized[key], state[key])}
    assert changed == set(botnet.POSITIONS if name == "botnet50" else botnet.POSITIONS_TIMM)
    same = botnet.resize(state, 64)
    assert all(torch.equal(same[key], state[key]) for key in state)
    botnet.create(name, 3, 96).load_state_dict(resized, strict=True)


# --- loading -------------------------------------------------------------------------------------


def test_a_fine_tuned_checkpoint_tells_its_size_and_classes(tmp_path: Path, state: dict[str, Tensor]) -> None:
    save_file(state, tmp_path / "net.safetensors")
    module, spec = zoo.load("botnet26t", str(tmp_path / "net.safetensors"))
    assert (spec.classes, spec.preprocess.size, spec.preprocess.crop_pct) == (10, 96, 0.95)
    with torch.inference_mode():
        assert module(torch.zeros(1, 3, 96, 96)).shape == (1, 10)
    _, larger = zoo.load("botnet26t", str(tmp_path / "net.safetensors"), input_size=128, crop_pct=1.0)
    assert (larger.preprocess.size, larger.preprocess.crop_pct) == (128, 1.0)
    assert "relative-position tables resized from 96 to 128 px" in larger.weights.note


def test_the_other_botnet_is_recognised(tmp_path: Path, state: dict[str, Tensor]) -> None:
    save_file(state, tmp_path / "net.safetensors")
    with pytest.raises(WeightsError) as caught:
        zoo.load("botnet50", str(tmp_path / "net.safetensors"))
    assert "--model botnet26t" in caught.value.fix


def test_official_weights_exist_for_one_of_them() -> None:
    with pytest.raises(UsageError) as caught:
        zoo.find_weights("botnet50", "imagenet")
    assert "published no checkpoint" in caught.value.why
    assert (find_card("botnet26t").weights_url or "").endswith("v0.1-attn-weights/botnet26t_c1_256-167a0e9f.pth")


def test_fresh_weights_follow_the_seed_and_make_a_living_network() -> None:
    first, _ = zoo.load("botnet50", "random", num_classes=5, input_size=64, seed=1)
    again, spec = zoo.load("botnet50", "random", num_classes=5, input_size=64, seed=1)
    assert spec.preprocess.crop_pct == 0.875
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(0))
    with torch.inference_mode():
        logits = first(images)
        assert torch.equal(logits, again(images))
    assert torch.isfinite(logits).all()
    assert (logits[0] - logits[1]).abs().max() > 1e-3
