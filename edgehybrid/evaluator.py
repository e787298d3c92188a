"""Say how well a network does: its logits, its accuracy, and what it lost against a reference on the same images.

A drop is paired: both networks saw the same images, so only the images on which exactly one of them is right
(the discordant ones) carry information, and far fewer images are needed than for two separate accuracies.
"""

import math
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from edgehybrid import proportions
from edgehybrid.errors import GraphError, ImagesError, StageError
from edgehybrid.records import Accuracy, Drop, Fidelity
from edgehybrid.runtime import Runner, TensorInfo, scores_of

SQNR_CAP = 200.0
"""dB. Identical logits have infinite signal to noise, which JSON cannot hold; float32 itself ends near 150 dB."""
VERDICT = 0.5
"""Percentage points: the drop an evaluation set should be able to resolve."""


def predict(runner: Runner, batches: Iterable[NDArray[np.float32]]) -> NDArray[np.float32]:
    """Run every image through a classifier.

    Args:
        runner: Open, with one input (B, 3, H, W) and one output (B, classes) for its fixed batch B.
        batches: Preprocessed images, (b, 3, H, W) with any b. They are cut into pieces of B; the first image
            of a short piece fills it up, and the logits of the filling are thrown away.

    Returns:
        Logits, (images, classes), in the order of the images.

    Raises:
        ImagesError: No images.
        GraphError: The network is no classifier of one image input.
        InputError: The images do not fit the network (raised by the runner).
        StageError: Logits that are NaN or infinite, or the network failed.
    """
    (input_name, need), output_name = _classifier(runner)
    size = need.shape[0]
    logits: list[NDArray[np.float32]] = []
    for images in batches:
        for start in range(0, len(images), size):
            piece = images[start : start + size]
            filler = np.repeat(piece[:1], size - len(piece), axis=0)
            feed = np.ascontiguousarray(np.concatenate([piece, filler]), dtype=need.dtype)
            outputs = runner.run({input_name: feed})
            logits.append(outputs[output_name][: len(piece)].astype(np.float32))
    if not logits:
        raise ImagesError("no images to evaluate", why="found 0, needed at least 1", fix="check --eval and --num-eval")
    stacked = np.concatenate(logits)
    _check_finite(stacked)
    return stacked


def accuracy(logits: NDArray[np.float32], labels: NDArray[np.int64]) -> Accuracy:
    """Top-1 and top-5 of logits.

    Of equal logits the lower class counts as ranked first, as `argmax` has it. With fewer than 5 classes
    top-5 is top-`classes`, which is 100.

    Args:
        logits: (images, classes).
        labels: (images,), each in [0, classes).

    Raises:
        ImagesError: No images, labels of another number, or a label that is no class.
    """
    ranks = _ranks(logits, _checked(labels, logits))
    right, n = int((ranks == 0).sum()), len(ranks)
    low, high = proportions.wilson(right, n)
    top5 = 100 * float((ranks < 5).mean())
    return Accuracy(top1=100 * right / n, top5=top5, n=n, ci95=(100 * low, 100 * high))


def drop(reference: NDArray[np.float32], logits: NDArray[np.float32], labels: NDArray[np.int64]) -> Drop:
    """Top-1 lost against a reference on the same images.

    Args:
        reference: Logits of the reference, (images, classes).
        logits: Logits of the network judged, in the same order of images.
        labels: (images,).

    Returns:
        Points lost (negative: gained) with Tango's 95 % interval and the exact two-sided p of McNemar's test.

    Raises:
        ImagesError: As in `accuracy`, or the two saw different numbers of images.
    """
    _check_pair(reference, logits)
    checked = _checked(labels, logits)
    before, after = reference.argmax(axis=1) == checked, logits.argmax(axis=1) == checked
    lost, gained = int((before & ~after).sum()), int((~before & after).sum())
    n = len(checked)
    low, high = proportions.paired_interval(lost, gained, n)
    return Drop(
        points=100 * (lost - gained) / n,
        ci95=(100 * float(low), 100 * float(high)),
        mcnemar_p=proportions.mcnemar(lost, gained),
        discordant=lost + gained,
    )


def fidelity(reference: NDArray[np.float32], logits: NDArray[np.float32]) -> Fidelity:
    """How close logits are to the reference's; needs no labels.

    The signal to quantization noise ratio is that of all logits together, 10 log10(sum r^2 / sum (r - x)^2),
    between -200 and 200 dB: identical logits get `SQNR_CAP`.

    Args:
        reference: Logits of the reference, (images, classes).
        logits: Logits of the network judged, in the same order of images.

    Raises:
        ImagesError: No images, or the two saw different numbers of images.
    """
    _check_pair(reference, logits)
    r, x = reference.astype(np.float64), logits.astype(np.float64)
    log_p, log_q = _log_softmax(r), _log_softmax(x)
    divergence = (np.exp(log_p) * (log_p - log_q)).sum(axis=1)
    return Fidelity(
        agreement=100 * float((r.argmax(axis=1) == x.argmax(axis=1)).mean()),
        sqnr_db=_decibels(float((r**2).sum()), float(((r - x) ** 2).sum())),
        logit_kl=max(0.0, float(divergence.mean())),  # rounding can leave -1e-17
        n=len(r),
    )


def small_sample_note(drop: Drop, images: int) -> str | None:
    """What drop so many images can and cannot tell, or None where they resolve `VERDICT` points.

    "Resolve" means: a true drop of that size is found significant at 5 % in 80 % of repetitions. It hangs on how
    many images change sides from right to wrong or back. Where fewer than 3 did, the 95 % upper bound of having
    seen none is assumed, 3 of these images, but not more than 5 %, which int8 networks seldom exceed.

    Args:
        drop: What was measured.
        images: On how many images.
    """
    rate = drop.discordant / images if drop.discordant >= 3 else min(3 / images, 0.05)
    needed = proportions.images_needed(VERDICT / 100, rate)
    if images >= needed:
        return None
    smallest = proportions.resolvable_drop(images, rate)
    resolved = "no drop at all" if smallest is None else f"a drop of {100 * smallest:.1f} points, not a smaller one"
    return (
        f"{images:,} images with {drop.discordant} changing sides can resolve {resolved} "
        f"(80 % power at 5 %); for {VERDICT} points evaluate about {_round_up(needed):,}"
    )


def collapse_note(reference: NDArray[np.float32], logits: NDArray[np.float32]) -> str | None:
    """What to say where a network stopped telling images apart that the reference tells apart, else None.

    Collapsed means: the spread of the logits over the images fell below a hundredth of the reference's, or
    one class takes every image of which the reference gives no class more than half. It does not mean
    broken: an untrained network's logits hardly depend on the image, and 8 bits may not hold what little
    they do.

    Args:
        reference: Logits of the reference, (images, classes).
        logits: Logits of the network judged, in the same order of images.

    Raises:
        ImagesError: No images, or the two saw different numbers of images.
    """
    _check_pair(reference, logits)
    spread, usual = _spread(logits), _spread(reference)
    if spread < usual / 100:
        return f"outputs hardly depend on the image: they spread {spread:.2g}, the reference's {usual:.2g}"
    share, most = _largest_share(logits), 100 * _largest_share(reference)
    if len(logits) >= 10 and share == 1.0 and most <= 50:
        return f"every image gets the same class, where the reference gives none more than {most:.0f} %"
    return None


def _classifier(runner: Runner) -> tuple[tuple[str, TensorInfo], str]:
    """The one input of a classifier and its output: of several, the first of shape (N, classes)."""
    inputs, outputs = dict(runner.inputs), dict(runner.outputs)
    if len(inputs) == 1:
        ((name, need),) = inputs.items()
        scores = scores_of(outputs)
        if scores is not None and len(need.shape) == 4 and _fit(need, outputs[scores]):
            return (name, need), scores
    raise GraphError(
        "the network is not an image classifier",
        why=f"found {_shapes(inputs)} -> {_shapes(outputs)}, needed one (N, 3, H, W) -> (N, classes), floats",
        fix="export the network with its classification head and nothing after it",
    )


def _fit(need: TensorInfo, give: TensorInfo) -> bool:
    """Whether one output row belongs to each image, in floats."""
    return need.shape[0] == give.shape[0] and need.dtype.kind == give.dtype.kind == "f"


def _shapes(ports: dict[str, TensorInfo]) -> str:
    return ", ".join(f"{name} {info.dtype}{info.shape}" for name, info in ports.items())


def _check_finite(logits: NDArray[np.float32]) -> None:
    """Refuse NaN and infinity: `argmax` would turn them into a class without a word."""
    bad = np.flatnonzero(~np.isfinite(logits).all(axis=1))
    if len(bad):
        raise StageError(
            "the network's output is not finite",
            why=f"NaN or infinity for {len(bad)} of {len(logits)} images, the first being number {bad[0]}",
            fix="look for NaN in the weights or for overflow: fp16 ends at 65504; try --precision fp32",
        )


def _checked(labels: NDArray[np.int64], logits: NDArray[np.float32]) -> NDArray[np.int64]:
    """The labels, known to be one class per image."""
    images, classes = logits.shape
    if images == 0 or labels.shape != (images,):
        raise ImagesError(
            "labels and images do not match",
            why=f"found labels of shape {labels.shape} for {images} images, needed one label for each",
            fix="check the labels of the evaluation set",
        )
    whole = labels.dtype.kind in "iu"
    if not whole or labels.min() < 0 or labels.max() >= classes:
        found = f"{labels.min()} to {labels.max()}" if whole else f"of type {labels.dtype}"
        raise ImagesError(
            "labels do not fit the network's classes",
            why=f"found labels {found}, needed whole numbers from 0 to {classes - 1}",
            fix="evaluate on images of the classes the network was trained for",
        )
    return labels


def _check_pair(reference: NDArray[np.float32], logits: NDArray[np.float32]) -> None:
    """Refuse to compare outputs of different images or networks."""
    if reference.shape != logits.shape or len(logits) == 0:
        raise ImagesError(
            "the two networks cannot be compared",
            why=f"found logits {reference.shape} and {logits.shape}, needed the same images and classes",
            fix="evaluate both on the same image set",
        )


def _ranks(logits: NDArray[np.float32], labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Place of each image's true class among its logits, 0 being the first."""
    true = np.take_along_axis(logits, labels[:, None], axis=1)
    earlier = np.arange(logits.shape[1]) < labels[:, None]
    ranks: NDArray[np.int64] = ((logits > true) | ((logits == true) & earlier)).sum(axis=1)
    return ranks


def _log_softmax(x: NDArray[np.float64]) -> NDArray[np.float64]:
    shifted = x - x.max(axis=1, keepdims=True)
    log_p: NDArray[np.float64] = shifted - np.log(np.exp(shifted).sum(axis=1, keepdims=True))
    return log_p


def _decibels(signal: float, noise: float) -> float:
    """10 log10(signal / noise) within the cap; two silent outputs are identical ones."""
    if noise == 0:
        return SQNR_CAP
    if signal == 0:
        return -SQNR_CAP
    return max(-SQNR_CAP, min(SQNR_CAP, 10 * (math.log10(signal) - math.log10(noise))))


def _spread(logits: NDArray[np.float32]) -> float:
    """Standard deviation of a logit over the images, root mean square over the classes."""
    return math.sqrt(float(logits.astype(np.float64).var(axis=0).mean()))


def _largest_share(logits: NDArray[np.float32]) -> float:
    """Share of the images that get the most frequent class."""
    return float(np.bincount(logits.argmax(axis=1)).max()) / len(logits)


def _round_up(images: int) -> int:
    """To two digits: more would claim to know the discordance better than a small sample tells."""
    unit = int(10 ** max(0, len(str(images)) - 2))
    return -(-images // unit) * unit
