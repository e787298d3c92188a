"""Make what lies in this folder: train CMT-Ti on Fashion-MNIST and cut the small labelled sample.

    python calib/fashion-mnist/train.py --data /usr/share/datasets/fashion-mnist --output calib/fashion-mnist

The data set is Debian's package `dataset-fashion-mnist` (four gzipped IDX files, MIT licence). Progressive
resizing: most epochs at 32 px, the last ones at 64 px, as the relative-position tables can be interpolated.
"""

import argparse
import gzip
import json
import time
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from edgehybrid.zoo.cmt import CMT, SIZES, resize_relative_pos

MEAN = torch.tensor([0.485, 0.456, 0.406]).view(1, 3, 1, 1)
STD = torch.tensor([0.229, 0.224, 0.225]).view(1, 3, 1, 1)
PHASES = ((32, 5, 2e-3), (64, 3, 6e-4))
"""(input px, epochs, peak learning rate)."""
BATCH = 128


def main() -> None:
    """Train, score on all 10,000 test images after every epoch, keep the last weights."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, default=Path("/usr/share/datasets/fashion-mnist"))
    parser.add_argument("--output", type=Path, default=Path(__file__).parent)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    train_x, train_y = read(args.data, "train")
    test_x, test_y = read(args.data, "t10k")
    save_sample(args.output, train_x, train_y, test_x, test_y, args.seed)

    torch.manual_seed(args.seed)
    rng = np.random.default_rng(args.seed)
    state: dict[str, torch.Tensor] = {}
    history = []
    for px, epochs, peak in PHASES:
        model = CMT(SIZES["cmt_ti"], 10, px, drop_path=0.05).to(memory_format=torch.channels_last)
        if state:
            tables = {k: resize_relative_pos(v, px) for k, v in state.items() if k.startswith("relative_pos")}
            model.load_state_dict(state | tables, strict=True)
        train_px, test_px = resize(train_x, px), resize(test_x, px)
        decay = [p for p in model.parameters() if p.ndim > 1]
        rest = [p for p in model.parameters() if p.ndim <= 1]
        groups = [{"params": decay, "weight_decay": 0.05}, {"params": rest, "weight_decay": 0.0}]
        optimizer = torch.optim.AdamW(groups, lr=peak)
        steps = epochs * (len(train_px) // BATCH)
        schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, peak, total_steps=steps, pct_start=0.2)
        for epoch in range(epochs):
            start, loss = (
                time.time(),
                train_epoch(model, optimizer, schedule, train_px, train_y, rng),
            )
            top1 = score(model, test_px, test_y)
            history.append(
                {
                    "px": px,
                    "epoch": epoch,
                    "loss": loss,
                    "top1": top1,
                    "seconds": time.time() - start,
                }
            )
            print(json.dumps(history[-1]), flush=True)
            state = {k: v.contiguous() for k, v in model.state_dict().items()}
            half = {k: v.half() if v.is_floating_point() else v for k, v in state.items()}
            save_file(
                half,
                args.output / f"cmt_ti_{px}.safetensors",
                {"top1": f"{top1:.4f}", "input_size": str(px)},
            )
    (args.output / "training.json").write_text(json.dumps(history, indent=1) + "\n")


def read(folder: Path, split: str) -> tuple[np.ndarray, np.ndarray]:
    """Images (N, 28, 28) uint8 and labels (N,) from two gzipped IDX files."""
    images = gzip.decompress((folder / f"{split}-images-idx3-ubyte.gz").read_bytes())
    labels = gzip.decompress((folder / f"{split}-labels-idx1-ubyte.gz").read_bytes())
    return np.frombuffer(images, np.uint8, offset=16).reshape(-1, 28, 28), np.frombuffer(labels, np.uint8, offset=8)


def save_sample(
    folder: Path,
    train_x: np.ndarray,
    train_y: np.ndarray,
    test_x: np.ndarray,
    test_y: np.ndarray,
    seed: int,
) -> None:
    """A class-balanced 256 training images for calibration and 1,000 test images for evaluation, as RGB npz."""
    rng = np.random.default_rng(seed)
    for name, x, y, count in (("train", train_x, train_y, 256), ("test", test_x, test_y, 1000)):
        rounds = np.stack([rng.permutation(np.flatnonzero(y == c))[: -(-count // 10)] for c in range(10)], axis=1)
        chosen = np.sort(rounds.reshape(-1)[:count])
        rgb = np.repeat(x[chosen][..., None], 3, axis=-1)
        np.savez_compressed(folder / f"{name}.npz", x=rgb, y=y[chosen].astype(np.int64))


def resize(x: np.ndarray, px: int) -> torch.Tensor:
    """(N, 28, 28) -> (N, 1, px, px) uint8, bicubic as in the evaluation preprocessing (crop_pct 1.0)."""
    images = [np.asarray(Image.fromarray(i).resize((px, px), Image.Resampling.BICUBIC)) for i in x]
    return torch.from_numpy(np.stack(images))[:, None]


def normalise(x: torch.Tensor) -> torch.Tensor:
    """(N, 1, px, px) uint8 -> (N, 3, px, px) float32."""
    return ((x.expand(-1, 3, -1, -1).float() / 255 - MEAN) / STD).contiguous(memory_format=torch.channels_last)


def augment(x: torch.Tensor, rng: np.random.Generator) -> torch.Tensor:
    """Random shift by up to 1/16 of the side and horizontal flip, per image."""
    px = x.shape[-1]
    pad = px // 16
    padded = nn.functional.pad(x, (pad, pad, pad, pad))
    top, left = rng.integers(0, 2 * pad + 1, (2, len(x)))
    out = torch.stack([p[:, t : t + px, s : s + px] for p, t, s in zip(padded, top, left, strict=True)])
    flip = torch.from_numpy(rng.random(len(x)) < 0.5)
    out[flip] = out[flip].flip(-1)
    return out


def train_epoch(
    model: CMT,
    optimizer: torch.optim.Optimizer,
    schedule: torch.optim.lr_scheduler.LRScheduler,
    x: torch.Tensor,
    y: np.ndarray,
    rng: np.random.Generator,
) -> float:
    """One pass over the training set in random order; the mean loss."""
    model.train()
    order, losses = rng.permutation(len(x)), []
    for i in range(0, len(x) - BATCH + 1, BATCH):
        chosen = order[i : i + BATCH]
        logits = model(normalise(augment(x[chosen], rng)))
        loss = nn.functional.cross_entropy(logits, torch.from_numpy(y[chosen].astype(np.int64)), label_smoothing=0.05)
        optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        schedule.step()
        losses.append(loss.item())
    return float(np.mean(losses))


@torch.no_grad()
def score(model: CMT, x: torch.Tensor, y: np.ndarray) -> float:
    """Top-1 accuracy in percent."""
    model.eval()
    correct = 0
    for i in range(0, len(x), 500):
        correct += int((model(normalise(x[i : i + 500])).argmax(1).numpy() == y[i : i + 500]).sum())
    return 100 * correct / len(x)


if __name__ == "__main__":
    main()
