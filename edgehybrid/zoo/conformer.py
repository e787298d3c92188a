"""Conformer: a convolutional and a transformer branch side by side, exchanging features in every block.

Paper: Peng et al., "Conformer: Local Features Coupling Global Representations for Visual Recognition", ICCV 2021,
arXiv:2105.03889.
Written from the paper and a description of the official network (pengzhiliang/Conformer, Apache-2.0). Parameter
names are the official ones. Where paper and official code differ, the code is followed: features go up by 1x1
convolution, batch norm and ReLU before the (nearest) upsampling, and every block adds the class token to itself.
There is no position parameter: weights of one input size are weights of every other.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.nn import functional

from edgehybrid.zoo.parts import initialise, to_map, to_tokens

CLASSIFIER = "conv_cls_head"
"""One of the two layers whose width is the number of classes; `trans_cls_head` has the same."""

DEPTH = 12
STAGES = (range(2, 5), range(5, 9), range(9, DEPTH + 1))
"""Numbers of the blocks of two branches; block 1 has no exchange."""
MLP_RATIO = 4
NORM_EPS = 1e-6
"""Of every layer and batch normalisation but the first and the last of the network, which have PyTorch's 1e-5."""


@dataclass(frozen=True)
class Size:
    """What tells one Conformer variant from another."""

    channel_ratio: int  # the convolutional branch has 64, 128, 256 times as many channels
    embed_dim: int  # of the transformer branch
    heads: int
    patch: int  # px of the image behind one token


SIZES = {
    "conformer_ti": Size(channel_ratio=1, embed_dim=384, heads=6, patch=16),
    "conformer_s": Size(channel_ratio=4, embed_dim=384, heads=6, patch=16),
    "conformer_s32": Size(channel_ratio=4, embed_dim=384, heads=6, patch=32),
    "conformer_b": Size(channel_ratio=6, embed_dim=576, heads=9, patch=16),
}


def create(name: str, num_classes: int, input_size: int) -> "Conformer":
    """One variant with fresh weights; arguments as in `Conformer`."""
    return Conformer(SIZES[name], num_classes, input_size)


def stored_size(state: Mapping[str, Tensor]) -> int | None:
    """None: no tensor depends on the input size."""
    return None


def resize(state: Mapping[str, Tensor], input_size: int) -> dict[str, Tensor]:
    """The checkpoint as it is: no tensor depends on the input size."""
    return dict(state)


class ConvBlock(nn.Module):
    """Bottleneck of a ResNet: 1x1, 3x3 and 1x1 convolution, each with batch norm, around a quarter of the width."""

    def __init__(self, dim_in: int, dim: int, stride: int = 1, *, project: bool = False) -> None:
        super().__init__()
        middle = dim // 4
        self.conv1 = nn.Conv2d(dim_in, middle, 1, bias=False)
        self.bn1 = batch_norm(middle)
        self.conv2 = nn.Conv2d(middle, middle, 3, stride=stride, padding=1, bias=False)
        self.bn2 = batch_norm(middle)
        self.conv3 = nn.Conv2d(middle, dim, 1, bias=False)
        self.bn3 = batch_norm(dim)
        if project:
            self.residual_conv = nn.Conv2d(dim_in, dim, 1, stride=stride, bias=False)
            self.residual_bn = batch_norm(dim)
        self.project = project

    def forward(self, x: Tensor, added: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Compute one block.

        Args:
            x: (N, C_in, H, W).
            added: What the transformer adds to the input of the 3x3 convolution, (N, C / 4, H, W).

        Returns:
            The output (N, C, H', W') and what the transformer may read, the output of the 3x3 convolution,
            (N, C / 4, H', W').
        """
        skip = self.residual_bn(self.residual_conv(x)) if self.project else x
        inner = functional.relu(self.bn1(self.conv1(x)))
        if added is not None:
            inner = inner + added
        inner = functional.relu(self.bn2(self.conv2(inner)))
        return functional.relu(self.bn3(self.conv3(inner)) + skip), inner


class Attention(nn.Module):
    """Multi-head attention with one projection for query, key and value."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.scale = (dim // heads) ** -0.5
        self.qkv = nn.Linear(dim, 3 * dim)
        self.proj = nn.Linear(dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """(N, L, C) -> (N, L, C)."""
        q, k, v = (self.split(part) for part in self.qkv(x).split(self.qkv.in_features, dim=-1))
        weights = ((q @ k.transpose(-2, -1)) * self.scale).softmax(dim=-1)
        out: Tensor = self.proj((weights @ v).transpose(1, 2).flatten(2))
        return out

    def split(self, x: Tensor) -> Tensor:
        """(N, L, C) -> (N, heads, L, C / heads)."""
        return x.reshape(x.shape[0], x.shape[1], self.heads, -1).transpose(1, 2)


class FeedForward(nn.Module):
    """Two linear layers around a GELU."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.fc1 = nn.Linear(dim, MLP_RATIO * dim)
        self.act = nn.GELU()
        self.fc2 = nn.Linear(MLP_RATIO * dim, dim)

    def forward(self, x: Tensor) -> Tensor:
        """(N, L, C) -> (N, L, C)."""
        out: Tensor = self.fc2(self.act(self.fc1(x)))
        return out


class TransformerBlock(nn.Module):
    """Attention and feed-forward network, each normalised before and with a residual connection."""

    def __init__(self, dim: int, heads: int) -> None:
        super().__init__()
        self.norm1 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.attn = Attention(dim, heads)
        self.norm2 = nn.LayerNorm(dim, eps=NORM_EPS)
        self.mlp = FeedForward(dim)

    def forward(self, x: Tensor) -> Tensor:
        """(N, L, C) -> (N, L, C)."""
        x = x + self.attn(self.norm1(x))
        out: Tensor = x + self.mlp(self.norm2(x))
        return out


class Down(nn.Module):
    """From the convolutional to the transformer branch: 1x1 convolution, mean pooling, layer norm, GELU."""

    def __init__(self, dim_in: int, dim: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.conv_project = nn.Conv2d(dim_in, dim, 1)
        self.ln = nn.LayerNorm(dim, eps=NORM_EPS)
        self.act = nn.GELU()

    def forward(self, x: Tensor, tokens: Tensor) -> Tensor:
        """Map (N, C_in, H, W) and tokens (N, 1 + L, C), L = H W / stride^2 -> (N, 1 + L, C).

        The class token is passed on, so that the caller, who adds the result to the tokens, doubles it: the official
        weights were trained so.
        """
        x = self.conv_project(x)
        if self.stride > 1:
            x = functional.avg_pool2d(x, self.stride)
        return torch.cat([tokens[:, :1], self.act(self.ln(to_tokens(x)))], dim=1)


class Up(nn.Module):
    """From the transformer to the convolutional branch: 1x1 convolution, batch norm, ReLU, nearest upsampling."""

    def __init__(self, dim: int, dim_out: int, stride: int) -> None:
        super().__init__()
        self.stride = stride
        self.conv_project = nn.Conv2d(dim, dim_out, 1)
        self.bn = batch_norm(dim_out)

    def forward(self, tokens: Tensor, height: int, width: int) -> Tensor:
        """Tokens (N, 1 + L, C) -> map (N, C_out, height, width), L = height width / stride^2."""
        x = to_map(tokens[:, 1:], height // self.stride, width // self.stride)
        x = functional.relu(self.bn(self.conv_project(x)))
        # a whole factor, not a size: a size is exported as shape arithmetic
        return functional.interpolate(x, scale_factor=float(self.stride), mode="nearest") if self.stride > 1 else x


class ConvTransBlock(nn.Module):
    """One block of both branches and the exchange between them.

    Args:
        dim_in: Channels of the map that comes in.
        dim: Channels of the map that goes out.
        stride: Of the first convolutional block; above 1, or with another width, its skip is projected.
        token_stride: Positions of the map behind one token, per side, at the first block's output.
        embed_dim: Channels of a token.
        heads: Of the attention.
        last: Whether the second convolutional block halves the map for the classifier.
    """

    def __init__(
        self, dim_in: int, dim: int, stride: int, token_stride: int, embed_dim: int, heads: int, *, last: bool
    ) -> None:
        super().__init__()
        self.cnn_block = ConvBlock(dim_in, dim, stride, project=stride > 1)
        self.fusion_block = ConvBlock(dim, dim, 2 if last else 1, project=last)
        self.squeeze_block = Down(dim // 4, embed_dim, token_stride)
        self.expand_block = Up(embed_dim, dim // 4, token_stride)
        self.trans_block = TransformerBlock(embed_dim, heads)

    def forward(self, x: Tensor, tokens: Tensor) -> tuple[Tensor, Tensor]:
        """Map (N, C_in, H, W) and tokens (N, 1 + L, E) -> the same of the next block."""
        x, inner = self.cnn_block(x)
        tokens = self.trans_block(self.squeeze_block(inner, tokens) + tokens)
        x, _ = self.fusion_block(x, self.expand_block(tokens, inner.shape[2], inner.shape[3]))
        return x, tokens


class Conformer(nn.Module):
    """The whole network.

    Args:
        size: The variant.
        num_classes: Width of both classifiers.
        input_size: Side of the square input in px, a multiple of the variant's patch. No weight depends on it.

    Raises:
        ValueError: The input size is not a positive multiple of the patch, or there is no class.
    """

    def __init__(self, size: Size, num_classes: int, input_size: int) -> None:
        super().__init__()
        if input_size < size.patch or input_size % size.patch:
            raise ValueError(f"this Conformer needs an input side that is a multiple of {size.patch} px")
        if num_classes < 1:
            raise ValueError(f"a classifier needs at least 1 class, not {num_classes}")
        dim, embed = 64 * size.channel_ratio, size.embed_dim
        token_stride = size.patch // 4  # at a quarter of the image's resolution

        self.cls_token = nn.Parameter(torch.zeros(1, 1, embed))
        self.trans_norm = nn.LayerNorm(embed)
        self.trans_cls_head = nn.Linear(embed, num_classes)
        self.conv_cls_head = nn.Linear(4 * dim, num_classes)

        self.conv1 = nn.Conv2d(3, 64, 7, stride=2, padding=3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.conv_1 = ConvBlock(64, dim, project=True)
        self.trans_patch_conv = nn.Conv2d(64, embed, token_stride, stride=token_stride)
        self.trans_1 = TransformerBlock(embed, size.heads)

        for i, numbers in enumerate(STAGES):
            for number in numbers:
                first = i > 0 and number == numbers[0]
                block = ConvTransBlock(
                    dim * 2**i // 2 if first else dim * 2**i,
                    dim * 2**i,
                    2 if first else 1,
                    token_stride // 2**i,
                    embed,
                    size.heads,
                    last=number == DEPTH,
                )
                self.add_module(f"conv_trans_{number}", block)
        nn.init.trunc_normal_(self.cls_token, std=0.02)
        self.apply(initialise)

    def forward_heads(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Images (N, 3, S, S), normalised -> logits of the convolutional and the transformer branch, (N, classes)."""
        base = functional.max_pool2d(functional.relu(self.bn1(self.conv1(x))), 3, stride=2, padding=1)
        x, _ = self.conv_1(base)
        patches = to_tokens(self.trans_patch_conv(base))
        tokens = self.trans_1(torch.cat([self.cls_token.expand(patches.shape[0], -1, -1), patches], dim=1))
        for number in range(2, DEPTH + 1):
            x, tokens = self.get_submodule(f"conv_trans_{number}")(x, tokens)
        return self.conv_cls_head(x.mean(dim=(2, 3))), self.trans_cls_head(self.trans_norm(tokens[:, 0]))

    def forward(self, x: Tensor) -> Tensor:
        """Images (N, 3, S, S), normalised -> logits (N, classes): the authors evaluate the sum of both heads."""
        conv, trans = self.forward_heads(x)
        return conv + trans


def batch_norm(channels: int) -> nn.BatchNorm2d:
    """Batch norm as everywhere but in the stem."""
    return nn.BatchNorm2d(channels, eps=NORM_EPS)
