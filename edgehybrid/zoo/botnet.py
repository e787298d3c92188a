"""BoTNet: residual networks whose last bottlenecks attend to the whole map instead of convolving it 3x3.

Paper: Srinivas et al., "Bottleneck Transformers for Visual Recognition", CVPR 2021, arXiv:2101.11605.
Two networks, written from the paper and descriptions of the implementations:

- `botnet50`, the paper's: ResNet-50 with attention in all of c5, assembled as in the authors' TensorFlow gist
  (aravindsrinivas/56359b79f0ce4449bcb04ab4b56a57a2). Parameter names are torchvision's up to layer3 and those of
  lucidrains/bottleneck-transformer-pytorch (MIT) in layer4. The shortcut of layer4 ends in an activation, and the
  position term uses the scaled query.
- `botnet26t`, timm's botnet26t_256 (Apache-2.0), the one with public weights, with timm's parameter names: a stem of
  three 3x3 convolutions, two bottlenecks per stage, attention in the last three. It follows no configuration of the
  paper; its shortcuts have no activation, and its position term uses the unscaled query.

Relative positions are two batched products with tables of constant indices, rather than the usual chain of
pad, reshape and slice. The products are the same, and the exported graph is a third as long.
"""

from collections import OrderedDict
from collections.abc import Mapping
from typing import TypeAlias

import torch
from torch import Tensor, nn
from torch.nn import functional

from edgehybrid.zoo.parts import initialise

STRIDE = 32
"""Pixels per position of the last stage; the input side must be a multiple of it."""

CLASSIFIER = "fc"
"""The layer whose width is the number of classes; timm puts it into `head`."""

HEADS = 4

POSITIONS = {
    "layer4.net.0.net.3.pos_emb.rel_height": 16,
    "layer4.net.0.net.3.pos_emb.rel_width": 16,
    "layer4.net.1.net.3.pos_emb.rel_height": 32,
    "layer4.net.1.net.3.pos_emb.rel_width": 32,
    "layer4.net.2.net.3.pos_emb.rel_height": 32,
    "layer4.net.2.net.3.pos_emb.rel_width": 32,
}
"""Relative-position tables of `botnet50` -> pixels per position of the map that each belongs to."""

POSITIONS_TIMM = {
    "stages.2.1.self_attn.pos_embed.height_rel": 16,
    "stages.2.1.self_attn.pos_embed.width_rel": 16,
    "stages.3.0.self_attn.pos_embed.height_rel": 16,
    "stages.3.0.self_attn.pos_embed.width_rel": 16,
    "stages.3.1.self_attn.pos_embed.height_rel": 32,
    "stages.3.1.self_attn.pos_embed.width_rel": 32,
}
"""The same of `botnet26t`."""


def create(name: str, num_classes: int, input_size: int) -> "BoTNet":
    """One variant with fresh weights.

    Args:
        name: `botnet50` or `botnet26t`.
        num_classes: Width of the classifier.
        input_size: Side of the square input in px, a multiple of 32; the position tables depend on it.

    Raises:
        ValueError: The input size is not a positive multiple of 32, or there is no class.
    """
    if input_size < STRIDE or input_size % STRIDE:
        raise ValueError(f"BoTNet needs an input side that is a multiple of {STRIDE} px, not {input_size}")
    if num_classes < 1:
        raise ValueError(f"a classifier needs at least 1 class, not {num_classes}")
    return VARIANTS[name](num_classes, input_size)


def stored_size(state: Mapping[str, Tensor]) -> int | None:
    """Side in px of the input that a checkpoint's position tables were made for.

    Returns:
        None where a table is missing or has a shape that no square input gives.
    """
    for positions in (POSITIONS, POSITIONS_TIMM):
        tables = {key: state[key] for key in positions if key in state}
        if len(tables) < len(positions):
            continue
        sides = {(len(table) + 1) * positions[key] / 2 if table.ndim == 2 else 0 for key, table in tables.items()}
        side = sides.pop()
        return int(side) if not sides and side >= STRIDE and side % STRIDE == 0 else None
    return None


def resize(state: Mapping[str, Tensor], input_size: int) -> dict[str, Tensor]:
    """A checkpoint with its position tables fitted to another input size."""
    positions = POSITIONS | POSITIONS_TIMM
    return {
        key: resize_table(value, input_size // positions[key]) if key in positions else value
        for key, value in state.items()
    }


def resize_table(table: Tensor, side: int) -> Tensor:
    """Interpolate one table of relative positions linearly, its middle (distance 0) staying in the middle.

    Neither implementation has such a step; ViTDet (Li et al. 2022, arXiv:2203.16527) resizes its tables this way.

    Args:
        table: (2 * old - 1, channels), by distance from -(old - 1) to old - 1.
        side: Positions along the side of the new map.

    Returns:
        (2 * side - 1, channels).
    """
    line: Tensor = functional.interpolate(table.float().T[None], size=2 * side - 1, mode="linear", align_corners=False)
    return line[0].T.to(table.dtype).contiguous()


class Tables(nn.Module):
    """Learned vectors of relative positions, one table for rows and one for columns.

    Args:
        side: S, positions along the side of the map.
        head: d, channels of a head.
        names: What the implementation calls the two tables; each is (2 S - 1, d), by the distance from query to key.
    """

    def __init__(self, side: int, head: int, names: tuple[str, str]) -> None:
        super().__init__()
        self.side, self.head, self.names = side, head, names
        for name in names:
            self.register_parameter(name, nn.Parameter(torch.randn(2 * side - 1, head) * head**-0.5))

    def forward(self, q: Tensor) -> Tensor:
        """The position term of the logits: queries (N, HEADS, S * S, d) -> (N, HEADS, S * S, S * S)."""
        side = self.side
        height, width = (by_distance(self.get_parameter(name), side) for name in self.names)
        grid = q.reshape(-1, HEADS, side, side, self.head)
        rows = grid @ height  # (N, HEADS, row of q, column of q, row of k)
        columns = (grid.transpose(2, 3) @ width).transpose(2, 3)  # (N, HEADS, row of q, column of q, column of k)
        total = rows.reshape(-1, HEADS, side, side, side, 1) + columns.reshape(-1, HEADS, side, side, 1, side)
        return total.reshape(-1, HEADS, side * side, side * side)


def by_distance(table: Tensor, side: int) -> Tensor:
    """(2 S - 1, d) by distance -> (S, d, S) by position of the query and of the key."""
    position = torch.arange(side, device=table.device)
    return table[position[None, :] - position[:, None] + side - 1].transpose(1, 2)


def attend(qkv: Tensor, tables: Tables, *, scaled_position: bool) -> Tensor:
    """Attention of every position of a map to every other, with split relative positions.

    Args:
        qkv: Queries, keys and values, (N, 3 * HEADS * d, S, S), each head by head.
        tables: Of this map and head size.
        scaled_position: Whether the position term sees the query times d**-0.5, as the content term does.

    Returns:
        (N, HEADS * d, S, S).
    """
    side, head = tables.side, tables.head
    q, k, v = (part.reshape(-1, HEADS, head, side * side) for part in torch.split(qkv, HEADS * head, dim=1))
    q, v = q.transpose(2, 3), v.transpose(2, 3)
    scale = head**-0.5
    if scaled_position:
        q = q * scale
        logits = q @ k
    else:
        logits = (q @ k) * scale
    out: Tensor = (logits + tables(q)).softmax(dim=-1) @ v
    return out.transpose(2, 3).reshape(-1, HEADS * head, side, side)


# --- botnet50, the paper's -----------------------------------------------------------------------


class Bottleneck(nn.Module):
    """ResNet's bottleneck: 1x1, 3x3 with the stride, 1x1 to four times the width (names as in torchvision)."""

    def __init__(self, dim_in: int, width: int, stride: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(dim_in, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, 1, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, 4 * width, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(4 * width)
        self.relu = nn.ReLU()
        changes = stride > 1 or dim_in != 4 * width
        self.downsample = nn.Sequential(*project(dim_in, 4 * width, stride)) if changes else None

    def forward(self, x: Tensor) -> Tensor:
        """(N, C_in, H, W) -> (N, 4 * width, H / stride, W / stride)."""
        y = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        out: Tensor = self.relu(y + (x if self.downsample is None else self.downsample(x)))
        return out


class Attention(nn.Module):
    """Attention of the paper: the query is scaled first, so its position term is scaled as well."""

    def __init__(self, dim: int, side: int) -> None:
        super().__init__()
        self.to_qkv = nn.Conv2d(dim, 3 * dim, 1, bias=False)
        self.pos_emb = Tables(side, dim // HEADS, ("rel_height", "rel_width"))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, S, S) -> (N, C, S, S)."""
        return attend(self.to_qkv(x), self.pos_emb, scaled_position=True)


class BottleBlock(nn.Module):
    """The paper's bottleneck with attention; a stride is an average pool after it."""

    def __init__(self, dim_in: int, width: int, side: int, stride: int) -> None:
        super().__init__()
        changes = stride > 1 or dim_in != 4 * width
        self.shortcut = nn.Sequential(*project(dim_in, 4 * width, stride), nn.ReLU()) if changes else nn.Identity()
        self.net = nn.Sequential(
            *(nn.Conv2d(dim_in, width, 1, bias=False), nn.BatchNorm2d(width), nn.ReLU()),
            Attention(width, side),
            nn.AvgPool2d(2) if stride > 1 else nn.Identity(),
            *(nn.BatchNorm2d(width), nn.ReLU()),
            *project(width, 4 * width, 1),
        )
        self.activation = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """(N, C_in, S, S) -> (N, 4 * width, S / stride, S / stride)."""
        out: Tensor = self.activation(self.net(x) + self.shortcut(x))
        return out


class BottleStack(nn.Module):
    """The last stage: three blocks, the first of which halves the map."""

    def __init__(self, dim_in: int, width: int, side: int) -> None:
        super().__init__()
        self.net = nn.Sequential(
            BottleBlock(dim_in, width, side, stride=2),
            BottleBlock(4 * width, width, side // 2, stride=1),
            BottleBlock(4 * width, width, side // 2, stride=1),
        )

    def forward(self, x: Tensor) -> Tensor:
        """(N, C_in, S, S) -> (N, 4 * width, S / 2, S / 2)."""
        out: Tensor = self.net(x)
        return out


class BoTNet50(nn.Module):
    """ResNet-50 with attention in c5; arguments as in `create`."""

    def __init__(self, num_classes: int, input_size: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU()
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        self.layer1 = stack(64, 64, 3, stride=1)
        self.layer2 = stack(256, 128, 4, stride=2)
        self.layer3 = stack(512, 256, 6, stride=2)
        self.layer4 = BottleStack(1024, 512, input_size // 16)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(2048, num_classes)
        self.apply(initialise)

    def forward(self, x: Tensor) -> Tensor:
        """Images (N, 3, S, S), normalised -> logits (N, num_classes)."""
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        out: Tensor = self.fc(self.avgpool(x).flatten(1))
        return out


def stack(dim_in: int, width: int, depth: int, stride: int) -> nn.Sequential:
    """A stage of convolutional bottlenecks, the first with the stride."""
    return nn.Sequential(
        Bottleneck(dim_in, width, stride), *(Bottleneck(4 * width, width, 1) for _ in range(depth - 1))
    )


def project(dim_in: int, dim: int, stride: int) -> tuple[nn.Conv2d, nn.BatchNorm2d]:
    """A 1x1 convolution and its normalisation."""
    return nn.Conv2d(dim_in, dim, 1, stride, bias=False), nn.BatchNorm2d(dim)


# --- botnet26t, timm's ---------------------------------------------------------------------------


class ConvNorm(nn.Module):
    """Convolution and batch normalisation, with or without an activation."""

    def __init__(self, dim_in: int, dim: int, kernel: int, stride: int = 1, *, active: bool = True) -> None:
        super().__init__()
        self.conv = nn.Conv2d(dim_in, dim, kernel, stride, kernel // 2, bias=False)
        self.bn = nn.BatchNorm2d(dim)
        self.act = nn.ReLU() if active else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(N, C_in, H, W) -> (N, C, H / stride, W / stride)."""
        out: Tensor = self.act(self.bn(self.conv(x)))
        return out


class AttentionTimm(nn.Module):
    """Attention of timm: only the content term is scaled."""

    def __init__(self, dim: int, side: int, stride: int) -> None:
        super().__init__()
        self.qkv = nn.Conv2d(dim, 3 * dim, 1, bias=False)
        self.pos_embed = Tables(side, dim // HEADS, ("height_rel", "width_rel"))
        self.pool = nn.AvgPool2d(2) if stride > 1 else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, S, S) -> (N, C, S / stride, S / stride)."""
        out: Tensor = self.pool(attend(self.qkv(x), self.pos_embed, scaled_position=False))
        return out


class BottleneckTimm(nn.Module):
    """timm's bottleneck, with attention in place of the 3x3 convolution where `side` is given."""

    def __init__(self, dim_in: int, width: int, stride: int, side: int | None) -> None:
        super().__init__()
        dim = 4 * width
        changes = stride > 1 or dim_in != dim
        self.shortcut = ConvNorm(dim_in, dim, 1, stride, active=False) if changes else nn.Identity()
        self.conv1_1x1 = ConvNorm(dim_in, width, 1)
        self.attends = side is not None
        if side is None:
            self.conv2_kxk = ConvNorm(width, width, 3, stride)
        else:
            self.self_attn = AttentionTimm(width, side, stride)
            self.post_attn = nn.BatchNorm2d(width)
        self.conv3_1x1 = ConvNorm(width, dim, 1, active=False)
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """(N, C_in, S, S) -> (N, 4 * width, S / stride, S / stride)."""
        y = self.conv1_1x1(x)
        y = self.act(self.post_attn(self.self_attn(y))) if self.attends else self.conv2_kxk(y)
        out: Tensor = self.act(self.conv3_1x1(y) + self.shortcut(x))
        return out


class BoTNet26T(nn.Module):
    """timm's botnet26t_256; arguments as in `create`."""

    def __init__(self, num_classes: int, input_size: int) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            OrderedDict(
                conv1=ConvNorm(3, 24, 3, 2),
                conv2=ConvNorm(24, 32, 3),
                conv3=ConvNorm(32, 64, 3),
                pool=nn.MaxPool2d(3, 2, 1),
            )
        )
        fine, coarse = input_size // 16, input_size // 32
        self.stages = nn.Sequential(
            nn.Sequential(BottleneckTimm(64, 64, 1, None), BottleneckTimm(256, 64, 1, None)),
            nn.Sequential(BottleneckTimm(256, 128, 2, None), BottleneckTimm(512, 128, 1, None)),
            nn.Sequential(BottleneckTimm(512, 256, 2, None), BottleneckTimm(1024, 256, 1, fine)),
            nn.Sequential(BottleneckTimm(1024, 512, 2, fine), BottleneckTimm(2048, 512, 1, coarse)),
        )
        self.head = nn.Sequential(
            OrderedDict(pool=nn.AdaptiveAvgPool2d(1), flat=nn.Flatten(), fc=nn.Linear(2048, num_classes))
        )
        self.apply(initialise)

    def forward(self, x: Tensor) -> Tensor:
        """Images (N, 3, S, S), normalised -> logits (N, num_classes)."""
        out: Tensor = self.head(self.stages(self.stem(x)))
        return out


BoTNet: TypeAlias = BoTNet50 | BoTNet26T
VARIANTS: dict[str, type[BoTNet]] = {"botnet50": BoTNet50, "botnet26t": BoTNet26T}
