"""Conv2Former: a convolutional network whose blocks weight values by a large depthwise convolution.

Paper: Hou et al., "Conv2Former: A Simple Transformer-Style ConvNet for Visual Recognition", 2022, arXiv:2211.11943.
Written from the paper and a description of the official PyTorch network (HVision-NKU/Conv2Former, Apache-2.0; the
Jittor copy beside it is another network). Parameter names are the official ones. There is no position parameter:
weights of one input size are weights of every other.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from edgehybrid.zoo.parts import initialise

CLASSIFIER = "pred"
"""The layer whose width is the number of classes."""

LEAST_SIZE = 31
"""px; the side of the smallest square image of which one position is left after the five halvings."""

HEAD_WIDTH = 1280
MLP_RATIO = 4
NORM_EPS = 1e-6
INITIAL_SCALE = 1e-6


@dataclass(frozen=True)
class Size:
    """What tells one Conv2Former variant from another."""

    dims: tuple[int, int, int, int]
    depths: tuple[int, int, int, int]
    kernel: int  # of the depthwise convolution that takes the place of attention


SIZES = {
    "conv2former_n": Size((64, 128, 256, 512), (2, 2, 8, 2), kernel=7),
    "conv2former_t": Size((72, 144, 288, 576), (3, 3, 12, 3), kernel=11),
    "conv2former_s": Size((72, 144, 288, 576), (4, 4, 32, 4), kernel=11),
    "conv2former_b": Size((96, 192, 384, 768), (4, 4, 34, 4), kernel=11),
    "conv2former_b_22k": Size((96, 192, 384, 768), (4, 4, 34, 4), kernel=7),
    "conv2former_l": Size((128, 256, 512, 1024), (4, 4, 48, 4), kernel=11),
}


def create(name: str, num_classes: int, input_size: int) -> "Conv2Former":
    """One variant with fresh weights; arguments as in `Conv2Former`."""
    return Conv2Former(SIZES[name], num_classes, input_size)


def stored_size(state: Mapping[str, Tensor]) -> int | None:
    """None: no tensor depends on the input size."""
    return None


def resize(state: Mapping[str, Tensor], input_size: int) -> dict[str, Tensor]:
    """The checkpoint as it is: no tensor depends on the input size."""
    return dict(state)


class ChannelNorm(nn.LayerNorm):
    """Layer norm over the channels of a map, at each position by itself."""

    def __init__(self, dim: int) -> None:
        super().__init__(dim, eps=NORM_EPS)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W)."""
        return super().forward(x.permute(0, 2, 3, 1)).permute(0, 3, 1, 2)


class ConvAttention(nn.Module):
    """Convolutional modulation: a 1x1 projection of a * v, where a sees a large window and v one position."""

    def __init__(self, dim: int, kernel: int) -> None:
        super().__init__()
        self.norm = ChannelNorm(dim)
        self.att = nn.Sequential(
            nn.Conv2d(dim, dim, 1), nn.GELU(), nn.Conv2d(dim, dim, kernel, padding=kernel // 2, groups=dim)
        )
        self.v = nn.Conv2d(dim, dim, 1)
        self.proj = nn.Conv2d(dim, dim, 1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W)."""
        x = self.norm(x)
        out: Tensor = self.proj(self.att(x) * self.v(x))
        return out


class FeedForward(nn.Module):
    """1x1 expansion, residual depthwise 3x3 with a GELU on its branch, 1x1 projection."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        hidden = MLP_RATIO * dim
        self.norm = ChannelNorm(dim)
        self.fc1 = nn.Conv2d(dim, hidden, 1)
        self.pos = nn.Conv2d(hidden, hidden, 3, padding=1, groups=hidden)
        self.fc2 = nn.Conv2d(hidden, dim, 1)
        self.act = nn.GELU()

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W)."""
        x = self.act(self.fc1(self.norm(x)))
        out: Tensor = self.fc2(x + self.act(self.pos(x)))
        return out


class Block(nn.Module):
    """Modulation and feed-forward network, each scaled per channel and with a residual connection."""

    def __init__(self, dim: int, kernel: int) -> None:
        super().__init__()
        self.layer_scale_1 = nn.Parameter(torch.full((dim,), INITIAL_SCALE))
        self.layer_scale_2 = nn.Parameter(torch.full((dim,), INITIAL_SCALE))
        self.attn = ConvAttention(dim, kernel)
        self.mlp = FeedForward(dim)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, C, H, W)."""
        x = x + self.layer_scale_1[:, None, None] * self.attn(x)
        out: Tensor = x + self.layer_scale_2[:, None, None] * self.mlp(x)
        return out


class Conv2Former(nn.Module):
    """The whole network.

    Args:
        size: The variant.
        num_classes: Width of the classifier.
        input_size: Side of the square input in px, at least 31; below the next multiple of 32, convolutions leave out
            pixels at the right and lower border. No weight depends on it.

    Raises:
        ValueError: The input size is below 31, or there is no class.
    """

    def __init__(self, size: Size, num_classes: int, input_size: int) -> None:
        super().__init__()
        if input_size < LEAST_SIZE:
            raise ValueError(f"Conv2Former needs an input side of at least {LEAST_SIZE} px, not {input_size}")
        if num_classes < 1:
            raise ValueError(f"a classifier needs at least 1 class, not {num_classes}")
        first, last = size.dims[0], size.dims[-1]
        stem = nn.Sequential(
            nn.Conv2d(3, first // 2, 3, stride=2, padding=1, bias=False),
            nn.GELU(),
            nn.BatchNorm2d(first // 2),
            nn.Conv2d(first // 2, first // 2, 3, padding=1, bias=False),
            nn.GELU(),
            nn.BatchNorm2d(first // 2),
            nn.Conv2d(first // 2, first, 2, stride=2, bias=False),
        )
        steps = zip(size.dims[:-1], size.dims[1:], strict=True)
        halvings = [nn.Sequential(ChannelNorm(a), nn.Conv2d(a, b, 2, stride=2)) for a, b in steps]
        self.downsample_layers = nn.ModuleList([stem, *halvings])
        self.stages = nn.ModuleList(
            nn.Sequential(*(Block(dim, size.kernel) for _ in range(depth)))
            for dim, depth in zip(size.dims, size.depths, strict=True)
        )
        self.head = nn.Sequential(nn.Conv2d(last, HEAD_WIDTH, 1), nn.GELU(), ChannelNorm(HEAD_WIDTH))
        self.pred = nn.Linear(HEAD_WIDTH, num_classes)
        self.apply(initialise)

    def forward(self, x: Tensor) -> Tensor:
        """Images (N, 3, S, S), normalised -> logits (N, num_classes)."""
        for downsample, stage in zip(self.downsample_layers, self.stages, strict=True):
            x = stage(downsample(x))
        logits: Tensor = self.pred(self.head(x).mean(dim=(2, 3)))
        return logits
