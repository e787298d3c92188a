"""CMT: convolutional stem, four stages of (local perception, light attention, inverted residual FFN).

Paper: Guo et al., "CMT: Convolutional Neural Networks Meet Vision Transformers", CVPR 2022,
arXiv:2107.06263.
Written from the paper and a description of the official network (huawei-noah/Efficient-AI-Backbones,
cmt_pytorch, Apache-2.0). Parameter names are the official ones, so official checkpoints load with
``strict=True``. Where paper and official code differ, the code is followed: the 1280-wide projection
sits on the feature map, before the pooling, and batch normalisation follows GELU.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from edgehybrid.zoo.parts import initialise, to_map, to_tokens

STRIDE = 32
"""Pixels per position of the last stage; the input side must be a multiple of it."""

CLASSIFIER = "head"
"""The layer whose width is the number of classes."""

SR_RATIOS = (8, 4, 2, 1)
HEADS = (1, 2, 4, 8)
BLOCK_NORM_EPS = 1e-6


@dataclass(frozen=True)
class Size:
    """What tells one CMT variant from another."""

    stem: int
    dims: tuple[int, int, int, int]
    depths: tuple[int, int, int, int]
    mlp_ratio: float
    dropout: float = 0.0
    drop_path: float = 0.0


SIZES = {
    "cmt_ti": Size(16, (46, 92, 184, 368), (2, 2, 10, 2), 3.6),
    "cmt_xs": Size(16, (52, 104, 208, 416), (3, 3, 12, 3), 3.77),
    "cmt_s": Size(32, (64, 128, 256, 512), (3, 3, 16, 3), 4.0),
    "cmt_b": Size(38, (76, 152, 304, 608), (4, 4, 20, 4), 4.0, dropout=0.3),
}


def create(name: str, num_classes: int, input_size: int) -> "CMT":
    """One variant with fresh weights; arguments as in `CMT`."""
    return CMT(SIZES[name], num_classes, input_size)


def stored_size(state: Mapping[str, Tensor]) -> int | None:
    """Side in px of the input that a checkpoint's relative-position tables were made for.

    Returns:
        None where a table is missing or has a shape that no input size gives.
    """
    sides = set()
    for stage, heads, sr in zip("abcd", HEADS, SR_RATIOS, strict=True):
        table = state.get(f"relative_pos_{stage}")
        keys = 0 if table is None or table.ndim != 3 else table.shape[2]
        side = math.isqrt(keys)
        if table is None or side == 0 or tuple(table.shape) != (heads, side * side * sr * sr, side * side):
            return None
        sides.add(side * STRIDE)
    return sides.pop() if len(sides) == 1 else None


def resize(state: Mapping[str, Tensor], input_size: int) -> dict[str, Tensor]:
    """A checkpoint with its relative-position tables fitted to another input size."""
    return {
        key: resize_relative_pos(value, input_size) if key.startswith("relative_pos_") else value
        for key, value in state.items()
    }


class PatchEmbed(nn.Module):
    """Halve the resolution with a 2x2 convolution and normalise each position."""

    def __init__(self, dim_in: int, dim: int) -> None:
        super().__init__()
        self.proj = nn.Conv2d(dim_in, dim, 2, stride=2)
        self.norm = nn.LayerNorm(dim)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C_in, H, W) -> (N, C, H/2, W/2)."""
        x = self.proj(x)
        return to_map(self.norm(to_tokens(x)), x.shape[2], x.shape[3])


class Attention(nn.Module):
    """Multi-head attention whose keys and values come from a feature map reduced by `sr`."""

    def __init__(self, dim: int, heads: int, sr: int) -> None:
        super().__init__()
        self.heads = heads
        self.scale = (dim // heads) ** -0.5
        self.q = nn.Linear(dim, dim)
        self.k = nn.Linear(dim, dim)
        self.v = nn.Linear(dim, dim)
        self.proj = nn.Linear(dim, dim)
        self.sr = nn.Sequential(nn.Conv2d(dim, dim, sr, stride=sr, groups=dim), nn.BatchNorm2d(dim)) if sr > 1 else None

    def forward(self, x: Tensor, height: int, width: int, relative_pos: Tensor) -> Tensor:
        """Attend.

        Args:
            x: Tokens (N, H*W, C), normalised.
            height: H.
            width: W.
            relative_pos: Added to the logits, (heads, H*W, H*W / sr**2).

        Returns:
            Tokens (N, H*W, C).
        """
        reduced = x if self.sr is None else to_tokens(self.sr(to_map(x, height, width)))
        q, k, v = self.split(self.q(x)), self.split(self.k(reduced)), self.split(self.v(reduced))
        weights = ((q @ k.transpose(-2, -1)) * self.scale + relative_pos).softmax(dim=-1)
        out: Tensor = self.proj((weights @ v).transpose(1, 2).flatten(2))
        return out

    def split(self, x: Tensor) -> Tensor:
        """(N, L, C) -> (N, heads, L, C / heads)."""
        return x.reshape(x.shape[0], x.shape[1], self.heads, -1).transpose(1, 2)


class InvertedResidualFFN(nn.Module):
    """1x1 expansion, residual depthwise 3x3, 1x1 projection; batch norm follows GELU."""

    def __init__(self, dim: int, hidden: int) -> None:
        super().__init__()
        self.conv1 = nn.Sequential(nn.Conv2d(dim, hidden, 1), nn.GELU(), nn.BatchNorm2d(hidden))
        self.proj = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
        self.proj_act = nn.GELU()
        self.proj_bn = nn.BatchNorm2d(hidden)
        self.conv2 = nn.Sequential(nn.Conv2d(hidden, dim, 1), nn.BatchNorm2d(dim))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W)."""
        x = self.conv1(x)
        x = self.proj(x) + x
        out: Tensor = self.conv2(self.proj_bn(self.proj_act(x)))
        return out


class Block(nn.Module):
    """Local perception unit, attention, feed-forward network, each with a residual connection."""

    def __init__(self, dim: int, heads: int, sr: int, hidden: int, drop_path: float) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=BLOCK_NORM_EPS)
        self.attn = Attention(dim, heads, sr)
        self.norm2 = nn.LayerNorm(dim, eps=BLOCK_NORM_EPS)
        self.mlp = InvertedResidualFFN(dim, hidden)
        self.proj = nn.Conv2d(dim, dim, 3, padding=1, groups=dim)
        self.drop_path = drop_path

    def forward(self, x: Tensor, relative_pos: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W); `relative_pos` as in `Attention.forward`."""
        height, width = x.shape[2], x.shape[3]
        x = self.proj(x) + x
        tokens = to_tokens(x)
        tokens = tokens + self.drop(self.attn(self.norm1(tokens), height, width, relative_pos))
        x = to_map(tokens, height, width)
        return x + self.drop(self.mlp(to_map(self.norm2(tokens), height, width)))

    def drop(self, branch: Tensor) -> Tensor:
        """Stochastic depth (Huang et al. 2016): in training, skip this branch for some samples."""
        if not self.training or self.drop_path == 0:
            return branch
        keep = branch.new_empty((branch.shape[0],) + (1,) * (branch.ndim - 1)).bernoulli_(1 - self.drop_path)
        return branch * keep / (1 - self.drop_path)


class CMT(nn.Module):
    """The whole network.

    Args:
        size: The variant.
        num_classes: Width of the classifier.
        input_size: Side of the square input in px, a multiple of 32; the relative-position tables depend
            on it.
        drop_path: Highest stochastic-depth rate, reached by the last block; used only in training.

    Raises:
        ValueError: The input size is not a positive multiple of 32, or there is no class.
    """

    def __init__(self, size: Size, num_classes: int, input_size: int, drop_path: float = 0.0) -> None:
        super().__init__()
        if input_size < STRIDE or input_size % STRIDE:
            raise ValueError(f"CMT needs an input side that is a multiple of {STRIDE} px, not {input_size}")
        if num_classes < 1:
            raise ValueError(f"a classifier needs at least 1 class, not {num_classes}")
        keys = (input_size // STRIDE) ** 2
        for stage, heads, sr in zip("abcd", HEADS, SR_RATIOS, strict=True):
            self.register_parameter(f"relative_pos_{stage}", nn.Parameter(torch.randn(heads, keys * sr * sr, keys)))

        self.stem_conv1 = nn.Conv2d(3, size.stem, 3, stride=2, padding=1)
        self.stem_norm1 = nn.BatchNorm2d(size.stem)
        self.stem_conv2 = nn.Conv2d(size.stem, size.stem, 3, padding=1)
        self.stem_norm2 = nn.BatchNorm2d(size.stem)
        self.stem_conv3 = nn.Conv2d(size.stem, size.stem, 3, padding=1)
        self.stem_norm3 = nn.BatchNorm2d(size.stem)
        self.act = nn.GELU()

        rates = torch.linspace(0, drop_path, sum(size.depths), device="cpu").tolist()
        dim_in = size.stem
        for i, stage in enumerate("abcd"):
            dim, first = size.dims[i], sum(size.depths[:i])
            self.add_module(f"patch_embed_{stage}", PatchEmbed(dim_in, dim))
            self.add_module(
                f"blocks_{stage}",
                nn.ModuleList(
                    Block(dim, HEADS[i], SR_RATIOS[i], int(dim * size.mlp_ratio), rates[first + j])
                    for j in range(size.depths[i])
                ),
            )
            dim_in = dim

        self._fc = nn.Conv2d(dim_in, 1280, 1)
        self._bn = nn.BatchNorm2d(1280)
        self._swish = nn.SiLU()
        self._drop = nn.Dropout(size.dropout)
        self.head = nn.Linear(1280, num_classes)
        self.apply(initialise)

    def forward(self, x: Tensor) -> Tensor:
        """Images (N, 3, S, S), normalised -> logits (N, num_classes)."""
        x = self.stem_norm1(self.act(self.stem_conv1(x)))
        x = self.stem_norm2(self.act(self.stem_conv2(x)))
        x = self.stem_norm3(self.act(self.stem_conv3(x)))
        for stage in "abcd":
            x = self.get_submodule(f"patch_embed_{stage}")(x)
            relative_pos = self.get_parameter(f"relative_pos_{stage}")
            for block in self.get_submodule(f"blocks_{stage}").children():
                x = block(x, relative_pos)
        x = self._swish(self._bn(self._fc(x)))
        logits: Tensor = self.head(self._drop(x.mean(dim=(2, 3))))
        return logits


def resize_relative_pos(table: Tensor, input_size: int) -> Tensor:
    """Interpolate one relative-position table to another input size.

    Queries and keys lie on square grids, so the table is a 4-D image; it is resized bicubically, first over
    the queries, then over the keys. The official code has no such step (its tables only fit one size).

    Args:
        table: (heads, Q, K) with square Q and K.
        input_size: Side of the new input in px, a multiple of 32.

    Returns:
        (heads, Q', K') with K' = (input_size / 32)**2 and Q' / K' = Q / K.
    """
    heads, queries, keys = table.shape
    side_q, side_k = math.isqrt(queries), math.isqrt(keys)
    new_k = input_size // STRIDE
    new_q = side_q * new_k // side_k
    x = table.float().transpose(1, 2).reshape(heads, keys, side_q, side_q)
    x = nn.functional.interpolate(x, size=(new_q, new_q), mode="bicubic", align_corners=False)
    x = x.reshape(heads, keys, new_q * new_q).transpose(1, 2).reshape(heads, new_q * new_q, side_k, side_k)
    x = nn.functional.interpolate(x, size=(new_k, new_k), mode="bicubic", align_corners=False)
    return x.reshape(heads, new_q * new_q, new_k * new_k).to(table.dtype)
