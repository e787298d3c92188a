"""Masks that hide nothing go, and guards of softmaxes that never fail; those that do something stay."""

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from edgehybrid import rewrites
from edgehybrid.graph.adoption import adopt
from edgehybrid.graph.structure import find_attentions
from tests.exports import export
from tests.rewrites.net import Net, ops, rewrite, sites
from tests.single import draw, run

NAME = "attention-mask"
ROWS, KEYS = 3, 5
INF = np.inf


def attend(net: Net, mask: object = None, *, guarded: bool = True, axis: int = -1) -> str:
    """Softmax of what comes in, (1, 2, 3, 5), with a constant mask, and what torch writes after it."""
    scores = net.op("Abs", "input")
    if mask is not None:
        scores = net.op("Add", scores, net.const(mask))
    weights = net.op("Softmax", scores, axis=axis)
    if guarded:
        weights = net.op("Where", net.op("IsNaN", weights), net.const(0.0), weights)
    return net.op("MatMul", weights, net.weight(KEYS, 4))


def hidden(*rows: int) -> np.ndarray:
    """A mask that leaves one key in the given rows, and hides nothing in the others."""
    mask = np.zeros((1, 1, ROWS, KEYS))
    for row in rows:
        mask[..., row, 1:] = -INF
    return mask


@pytest.mark.parametrize("guarded", [True, False])
@pytest.mark.parametrize(
    "mask",
    [np.zeros((1, 1, ROWS, KEYS)), np.zeros(()), np.full((1, 1, ROWS, 1), 7.0), np.arange(ROWS).reshape(ROWS, 1)],
)
def test_a_mask_that_hides_nothing_goes(mask: np.ndarray, guarded: bool) -> None:
    net = Net(1, 2, ROWS, KEYS)
    after, n = rewrite(net.graph(attend(net, mask, guarded=guarded)), NAME)
    assert (n, ops(after)) == (1 + guarded, ["Abs", "Softmax", "MatMul"])


def test_a_mask_along_another_axis_goes_by_that_axis() -> None:
    net = Net(1, 2, ROWS, KEYS)
    over_rows = np.arange(KEYS, dtype=float).reshape(1, KEYS)  # the same for every row
    after, n = rewrite(net.graph(attend(net, over_rows, axis=2, guarded=False)), NAME)
    assert (n, ops(after)) == (1, ["Abs", "Softmax", "MatMul"])
    net = Net(1, 2, ROWS, KEYS)
    assert sites(net.graph(attend(net, over_rows, guarded=False)), NAME) == 0


def test_the_guard_of_rows_that_see_something_goes_and_their_mask_stays() -> None:
    net = Net(1, 2, ROWS, KEYS)
    after, n = rewrite(net.graph(attend(net, hidden(0, 2))), NAME)
    assert (n, ops(after)) == (1, ["Abs", "Add", "Softmax", "MatMul"])


def test_a_guard_without_a_mask_goes() -> None:
    net = Net(1, 2, ROWS, KEYS)
    after, n = rewrite(net.graph(attend(net)), NAME)
    assert (n, ops(after)) == (1, ["Abs", "Softmax", "MatMul"])


@pytest.mark.parametrize(
    "mask",
    [
        np.full((1, 1, 1, KEYS), -INF),  # hides every row whole
        np.concatenate([hidden(0)[:, :, :2], np.full((1, 1, 1, KEYS), -INF)], axis=2),  # the last one
        np.full((1, 1, ROWS, 1), np.nan),
        np.array([0, 0, 0, 0, INF]),
    ],
)
def test_a_guard_that_may_be_needed_stays(mask: np.ndarray) -> None:
    net = Net(1, 2, ROWS, KEYS)
    graph = net.graph(attend(net, mask))
    after, lines = rewrites.apply(graph, only=[NAME])
    assert lines == (f"{NAME}: 0 sites",)
    assert ops(after) == ops(graph)


def test_a_guard_behind_scores_that_are_hidden_otherwise_stays() -> None:
    """Two constants that hide a row together, and a choice by a constant."""
    for op in ("Add", "Where"):
        net = Net(1, 2, ROWS, KEYS)
        half, other = hidden(0), np.where(np.isfinite(hidden(0)), -INF, 0)
        scores = net.op("Abs", "input")
        if op == "Add":
            scores = net.op("Add", scores, net.const(other))
        else:
            scores = net.op("Where", net.const(np.isfinite(other), np.bool_), scores, net.const(-INF))
        weights = net.op("Softmax", net.op("Add", scores, net.const(half)), axis=-1)
        out = net.op("Where", net.op("IsNaN", weights), net.const(0.0), weights)
        _, lines = rewrites.apply(net.graph(out), only=[NAME])
        assert lines == (f"{NAME}: 0 sites",)


def test_a_guard_that_repeats_the_weights_stays() -> None:
    net = Net(1, 1, ROWS, KEYS)
    weights = net.op("Softmax", net.op("Abs", "input"), axis=-1)
    out = net.op("Where", net.op("IsNaN", weights), net.const(np.zeros((1, 2, ROWS, KEYS))), weights)
    assert sites(net.graph(out), NAME) == 0


def test_a_sum_that_others_read_or_that_repeats_the_scores_stays() -> None:
    net = Net(1, 1, ROWS, KEYS)
    total = net.op("Add", "input", net.const(np.zeros((1, 2, ROWS, KEYS))))
    assert sites(net.graph(net.op("Softmax", total, axis=-1)), NAME) == 0
    net = Net(1, 2, ROWS, KEYS)
    total = net.op("Add", "input", net.const(np.zeros((1, 2, ROWS, KEYS))))
    assert sites(net.graph(net.op("Mul", total, net.op("Softmax", total, axis=-1))), NAME) == 0


def test_attention_with_a_mask_is_attention_as_torch_writes_it(tmp_path: Path) -> None:
    class Masked(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.qkv = nn.Linear(32, 96)
            self.register_buffer("mask", torch.ones(1, 1, 64, 64, dtype=torch.bool))

        def forward(self, x: Tensor) -> Tensor:
            tokens = functional.unfold(x, 4, stride=4)[:, :32].transpose(1, 2)
            q, k, v = self.qkv(tokens).reshape(-1, 64, 3, 2, 16).permute(2, 0, 3, 1, 4)
            made: Tensor = functional.scaled_dot_product_attention(q, k, v, attn_mask=self.mask)
            return made.transpose(1, 2).flatten(2).mean(1)

    path = tmp_path / "masked.onnx"
    export(Masked().eval(), torch.zeros(2, 3, 32, 32), path, dynamo=True)
    before = adopt(path, batch=1)
    after, _ = rewrites.apply(before)
    assert [attention.plain for attention in find_attentions(before)] == [False]
    assert [attention.plain for attention in find_attentions(after)] == [True]
    assert not {"IsNaN", "Where"} & set(ops(after))
    image = draw(before)
    np.testing.assert_allclose(run(after, image)[0], run(before, image)[0], rtol=1e-5, atol=1e-6)
