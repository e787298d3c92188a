"""CMT computes what the official implementation computes."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from edgehybrid.zoo import cmt


@pytest.mark.parametrize("size", [32, 64, 96, 224])
def test_any_multiple_of_32_is_an_input_size(size: int) -> None:
    module = cmt.create("cmt_ti", 7, size).eval()
    with torch.inference_mode():
        logits = module(torch.zeros(2, 3, size, size))
    assert logits.shape == (2, 7)
    assert cmt.stored_size(module.state_dict()) == size


@pytest.mark.parametrize("size", [0, -32, 31, 100])
def test_other_input_sizes_are_refused(size: int) -> None:
    with pytest.raises(ValueError, match="multiple of 32"):
        cmt.create("cmt_ti", 7, size)


def test_a_checkpoint_without_tables_tells_no_size(state: dict[str, Tensor]) -> None:
    assert cmt.stored_size(state) == 64
    assert cmt.stored_size({}) is None
    assert cmt.stored_size(state | {"relative_pos_c": state["relative_pos_c"][:, 1:]}) is None
    assert cmt.stored_size(state | {"relative_pos_d": state["relative_pos_d"][0]}) is None
    other = torch.zeros(8, 9, 9)  # of 96 px, beside tables of 64 px
    assert cmt.stored_size(state | {"relative_pos_d": other}) is None


sides = st.integers(1, 5)
ratios = st.sampled_from(cmt.SR_RATIOS)


@settings(deadline=None, max_examples=30)
@given(old=sides, new=sides, sr=ratios)
def test_resized_tables_have_the_shape_that_the_new_size_needs(old: int, new: int, sr: int) -> None:
    table = torch.randn(2, (old * sr) ** 2, old**2)
    resized = cmt.resize_relative_pos(table, new * 32)
    assert resized.shape == (2, (new * sr) ** 2, new**2)


@settings(deadline=None, max_examples=20)
@given(side=sides, sr=ratios)
def test_a_table_resized_to_its_own_size_stays(side: int, sr: int) -> None:
    table = torch.randn(2, (side * sr) ** 2, side**2)
    torch.testing.assert_close(cmt.resize_relative_pos(table, side * 32), table, rtol=0, atol=1e-5)


@settings(deadline=None, max_examples=20)
@given(old=sides, new=sides, sr=ratios, value=st.floats(-3, 3))
def test_a_constant_table_stays_constant(old: int, new: int, sr: int, value: float) -> None:
    resized = cmt.resize_relative_pos(torch.full((1, (old * sr) ** 2, old**2), value), new * 32)
    torch.testing.assert_close(resized, torch.full_like(resized, value))


def test_a_table_that_falls_off_with_distance_still_does_after_resizing() -> None:
    """Queries and keys are grids: a table of distances, resized, is the table of the same distances."""

    def distances(side: int) -> Tensor:
        grid = (torch.arange(side) + 0.5) / side
        points = torch.stack(torch.meshgrid(grid, grid, indexing="ij"), -1).reshape(-1, 2)
        return torch.cdist(points, points).square()[None]

    resized, exact = cmt.resize_relative_pos(distances(6), 12 * 32), distances(12)
    assert float(torch.corrcoef(torch.stack([resized.flatten(), exact.flatten()]))[0, 1]) > 0.99
    swapped = resized.reshape(1, 12, 12, 12, 12).transpose(1, 2).reshape(exact.shape)  # rows for columns
    assert float(torch.corrcoef(torch.stack([swapped.flatten(), exact.flatten()]))[0, 1]) < 0.6


def test_stochastic_depth_acts_only_in_training() -> None:
    torch.manual_seed(0)
    module = cmt.CMT(cmt.SIZES["cmt_ti"], 5, 32, drop_path=0.9)
    image = torch.randn(4, 3, 32, 32)
    with torch.inference_mode():
        module.eval()
        assert torch.equal(module(image), module(image))
        module.train()
        assert not torch.equal(module(image), module(image))


def test_a_dropped_branch_is_made_up_for_by_the_kept_ones() -> None:
    torch.manual_seed(0)
    block = cmt.Block(8, 1, 1, 16, drop_path=0.25).train()
    kept = block.drop(torch.ones(4000, 1))
    values = set(kept.flatten().tolist())
    assert values == {0.0, torch.tensor(1 / 0.75).item()}
    assert math.isclose(kept.mean().item(), 1, abs_tol=0.03)
