"""Layers as the authors' and timm's code write them, where ours are written so that they export well.

A user's ONNX file was exported from these. `write(name)` swaps them in for one family while it is open.
"""

import contextlib
from collections.abc import Iterator

import torch
from torch import Tensor
from torch.nn import functional

from edgehybrid.zoo import botnet, conformer, conv2former
from edgehybrid.zoo.parts import to_map, to_tokens


@contextlib.contextmanager
def write(name: str) -> Iterator[None]:
    """Swap the forward functions of a variant's family; does nothing for CMT, whose layers are the authors'."""
    swaps = [
        (owner, forward)
        for family, owner, forward in (
            ("conv2former", conv2former.ChannelNorm, norm_by_hand),
            ("botnet", botnet.Tables, shift_by_padding),
            ("conformer", conformer.Down, pool_always),
            ("conformer", conformer.Up, resize_always),
        )
        if name.startswith(family)
    ]
    before = [owner.forward for owner, _ in swaps]
    for owner, forward in swaps:
        owner.forward = forward
    try:
        yield
    finally:
        for (owner, _), forward in zip(swaps, before, strict=True):
            owner.forward = forward


def norm_by_hand(self: conv2former.ChannelNorm, x: Tensor) -> Tensor:
    """Layer norm over channels, step by step (Conv2Former and ConvNeXt)."""
    mean = x.mean(1, keepdim=True)
    variance = (x - mean).pow(2).mean(1, keepdim=True)
    x = (x - mean) / torch.sqrt(variance + self.eps)
    return self.weight[:, None, None] * x + self.bias[:, None, None]


def shift_by_padding(self: botnet.Tables, q: Tensor) -> Tensor:
    """Relative positions for all distances, then shifted into place by pads and reshapes (timm, lucidrains)."""
    side, (height, width) = self.side, (self.get_parameter(name) for name in self.names)
    grid = q.reshape(-1, side, side, self.head)
    columns = shift(grid, width).permute(0, 1, 3, 2, 4)
    rows = shift(grid.transpose(1, 2), height).permute(0, 3, 1, 4, 2)
    return (rows + columns).reshape(-1, botnet.HEADS, side * side, side * side)


def shift(grid: Tensor, table: Tensor) -> Tensor:
    """(B, S, S, d) and (2 S - 1, d) -> (B, S, S, S, S), the same in its third dimension."""
    side = grid.shape[2]
    x = (grid @ table.transpose(0, 1)).reshape(-1, side, 2 * side - 1)
    x = functional.pad(functional.pad(x, [0, 1]).flatten(1), [0, side - 1])
    x = x.reshape(-1, side + 1, 2 * side - 1)[:, :side, side - 1 :]
    return x.reshape(-1, side, 1, side, side).expand(-1, -1, side, -1, -1)


def pool_always(self: conformer.Down, x: Tensor, tokens: Tensor) -> Tensor:
    """Conformer's way to the tokens, with its average pool of one position in the last blocks."""
    x = functional.avg_pool2d(self.conv_project(x), self.stride)
    return torch.cat([tokens[:, :1], self.act(self.ln(to_tokens(x)))], dim=1)


def resize_always(self: conformer.Up, tokens: Tensor, height: int, width: int) -> Tensor:
    """Conformer's way to the map, with its resize to the same size in the last blocks."""
    x = to_map(tokens[:, 1:], height // self.stride, width // self.stride)
    return functional.interpolate(functional.relu(self.bn(self.conv_project(x))), size=(height, width))
