"""What users write in torch and its two exporters make of it: taken, rewritten exactly, and clean in int8."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from edgehybrid import linter, rewrites
from edgehybrid.graph.adoption import adopt
from edgehybrid.placement import plan
from edgehybrid.quantizer import quantize
from edgehybrid.records import Dialect
from tests.exports import export
from tests.golden import fill
from tests.graph.test_adoption import check_static
from tests.single import draw, observe, run

SIDE, CHANNELS = 16, 16  # of the map that an idiom gets; it has half the image's side
IMAGES = torch.zeros(2, 3, 2 * SIDE, 2 * SIDE)


def tokens(x: Tensor) -> Tensor:
    """(N, C, H, W) -> (N, H * W, C)."""
    return x.flatten(2).transpose(1, 2)


def attend(x: Tensor) -> Tensor:
    """Self-attention of one head, without weights."""
    found = F.scaled_dot_product_attention(*(tokens(x)[:, None],) * 3)[:, 0]
    return found.transpose(1, 2).reshape(x.shape)


def shuffle(x: Tensor) -> Tensor:
    """Channels of two groups interleaved, as ShuffleNet does."""
    n, c, h, w = x.shape
    return x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)


def squeeze_excite(x: Tensor) -> Tensor:
    """A gate from means."""
    return x * torch.sigmoid(x.mean((2, 3))).view(x.shape[0], -1, 1, 1)


def space_to_depth(x: Tensor) -> Tensor:
    """YOLO's Focus."""
    return torch.cat([x[..., ::2, ::2], x[..., 1::2, ::2], x[..., ::2, 1::2], x[..., 1::2, 1::2]], 1)


IDIOMS: dict[str, Callable[[Tensor], Tensor]] = {
    "chunk": lambda x: torch.cat([x.chunk(2, 1)[1], F.relu(x.chunk(2, 1)[0])], 1),
    "split": lambda x: torch.split(x, [4, 8, 4], 1)[1],
    "unbind": lambda x: torch.stack(x.unbind(1)[:8], 1),
    "every second channel": lambda x: x[:, ::2],
    "space to depth": space_to_depth,
    "pixel shuffle": lambda x: F.pixel_shuffle(x, 2),
    "channel shuffle": shuffle,
    "resize to another map": lambda x: F.interpolate(F.avg_pool2d(x, 2), size=x.shape[2:], mode="bilinear"),
    "reflection": lambda x: F.pad(x, (1, 1, 1, 1), mode="reflect"),
    "padding cut off": lambda x: F.pad(x, (-1, -1, 2, 0)),
    "shift": lambda x: torch.roll(x, (1, 2), (2, 3)),
    "pooling to a size": lambda x: F.adaptive_avg_pool2d(x, (4, 4)),
    "pooling that rounds up": lambda x: F.max_pool2d(x, 3, 2, ceil_mode=True),
    "gate": squeeze_excite,
    "glu": lambda x: F.glu(x, 1),
    "maxout": lambda x: torch.maximum(x[:, :8], x[:, 8:]),
    "normalised": lambda x: F.normalize(x, dim=1),
    "attention": attend,
    "product of two maps": lambda x: torch.matmul(x, x.transpose(2, 3)) / SIDE,
    "unfold": lambda x: F.unfold(x, 2, stride=2).view(x.shape[0], 4 * CHANNELS, SIDE // 2, SIDE // 2),
    "positions": lambda x: x + torch.linspace(0, 1, x.shape[3]).expand(x.shape[0], 1, x.shape[2], -1),
    "where": lambda x: torch.where(x > 0.5, x, x * 0.1),
}

WARNED = {("normalised", "fp32"): {"float16-range"}}
"""Where TensorRT chooses the float types, an epsilon of 1e-12 may become a float16; all one can do is warn."""


class Idiom(nn.Module):
    """Images (N, 3, 32, 32) through a convolution, an idiom, another convolution and a classifier of 10."""

    def __init__(self, idiom: Callable[[Tensor], Tensor]) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, CHANNELS, 3, 2, 1)
        self.idiom = idiom
        self.inner = nn.Conv2d(idiom(torch.zeros(1, CHANNELS, SIDE, SIDE)).shape[1], 32, 3, padding=1)
        self.head = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, 10)."""
        x = F.relu(self.inner(self.idiom(F.relu(self.stem(x)))))
        logits: Tensor = self.head(x.mean((2, 3)))
        return logits


@pytest.mark.parametrize("dynamo", [False, True])
@pytest.mark.parametrize("idiom", IDIOMS)
def test_an_idiom_takes_the_whole_road(tmp_path: Path, idiom: str, dynamo: bool) -> None:
    module = Idiom(IDIOMS[idiom]).eval()
    fill(module)
    export(module, IMAGES, tmp_path / "net.onnx", dynamo=dynamo)
    taken = adopt(tmp_path / "net.onnx")
    check_static(taken)
    image = draw(taken, seed=3)
    with torch.no_grad():
        want = module(torch.from_numpy(image)).numpy()
    rewritten, _ = rewrites.apply(taken)
    for graph in (taken, rewritten):
        np.testing.assert_allclose(run(graph, image)[0], want, rtol=0, atol=1e-5 * np.abs(want).max())
    ranges = observe(rewritten, image)
    dialects: tuple[Dialect, ...] = ("fp32", "typed")
    for dialect in dialects:
        quantized = quantize(rewritten, ranges, plan(rewritten, dialect))
        found = {issue.rule for issue in linter.check(quantized).issues}
        assert found == WARNED.get((idiom, dialect), set())
        assert 0 < np.abs(run(quantized, image)[0] - want).max() < 0.1 * np.abs(want).max()


class Standardised(nn.Module):
    """Weights that are standardised, and a bias for each pair of 256 positions, gathered from a table of offsets."""

    def __init__(self, *, by_norm: bool = False) -> None:
        super().__init__()
        self.by_norm = by_norm  # as BiT of timm and of Hugging Face does it
        self.stem = nn.Conv2d(
            3, 40, 3, 2, 1
        )  # more than the exporter folds itself, and than layers that stay float have
        self.weight = nn.Parameter(torch.ones(32, 40, 3, 3))
        self.table = nn.Parameter(torch.zeros(2 * SIDE**2 - 1))
        places = torch.arange(SIDE**2)
        self.register_buffer("offsets", places[:, None] - places[None, :] + SIDE**2 - 1)
        self.head = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, 10)."""
        if self.by_norm:
            flat = self.weight.reshape(1, 32, -1)
            weight = F.batch_norm(flat, None, None, training=True, momentum=0.0, eps=1e-5).reshape_as(self.weight) / 12
        else:
            weight = self.weight - self.weight.mean((1, 2, 3), keepdim=True)
            weight = weight / (weight.std((1, 2, 3), keepdim=True) + 1e-5) / 12
        y = tokens(F.relu(F.conv2d(F.relu(self.stem(x)), weight, padding=1)))
        scores = y @ y.transpose(1, 2) / 32**0.5 + self.table[self.offsets]
        logits: Tensor = self.head((scores.softmax(-1) @ y).mean(1))
        return logits


@pytest.mark.parametrize(("dynamo", "by_norm"), [(False, False), (True, False), (True, True)])
def test_what_is_computed_from_weights_alone_is_a_weight(tmp_path: Path, dynamo: bool, by_norm: bool) -> None:
    """Else the convolution would stay float, and the bias be gathered for every image."""
    module = Standardised(by_norm=by_norm).eval()
    fill(module)
    export(module, IMAGES, tmp_path / "net.onnx", dynamo=dynamo)
    rewritten, _ = rewrites.apply(adopt(tmp_path / "net.onnx"))
    assert not [*rewritten.nodes("Sqrt"), *rewritten.nodes("Gather")]
    rules = {decision.rule for decision in plan(rewritten, "typed").decisions}
    assert "conv-int8" in rules
    assert "computed-weight" not in rules
    image = draw(rewritten, seed=3)
    with torch.no_grad():
        want = module(torch.from_numpy(image)).numpy()
    np.testing.assert_allclose(run(rewritten, image)[0], want, rtol=0, atol=1e-4 * np.abs(want).max())
