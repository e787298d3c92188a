"""Say how well a network does: its accuracy, and what it lost against a reference on the same images.

A drop is paired: both networks saw the same images, so only the images on which exactly one of them is right
(the discordant ones) carry information, and far fewer images are needed than for two separate accuracies.
"""

import math
from collections.abc import Mapping

import numpy as np
from numpy.typing import NDArray

from edgehybrid import proportions
from edgehybrid.decibels import decibels
from edgehybrid.divergence import divergence
from edgehybrid.errors import ImagesError
from edgehybrid.printable import counted
from edgehybrid.records import Accuracy, Drop, Fidelity

VERDICT = 0.5
"""Percentage points: the drop an evaluation set should be able to resolve."""
FAINT = 1e-3
"""Of the size of the outputs: what depends on the image in a trained network is more."""


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


def fidelity(
    reference: NDArray[np.float32], logits: NDArray[np.float32], outputs: Mapping[str, int] | None = None
) -> Fidelity:
    """How close logits are to the reference's; needs no labels.

    The signal to quantization noise ratio is that of all logits together, 10 log10(sum r^2 / sum (r - x)^2),
    between -200 and 200 dB: identical logits get `SQNR_LIMIT`.

    Args:
        reference: Logits of the reference, (images, classes).
        logits: Logits of the network judged, in the same order of images.
        outputs: Of a network that is no classifier, how many columns belong to each output: then the ratio is that of
            the output where it is lowest, and nothing else is told.

    Raises:
        ImagesError: No images, or the two saw different numbers of images.
    """
    _check_pair(reference, logits)
    if outputs:
        return Fidelity(None, min(output_sqnr(reference, logits, outputs).values()), None, len(reference))
    nats = float(divergence(reference, logits).mean())
    r, x = reference.astype(np.float64), logits.astype(np.float64)
    return Fidelity(
        agreement=100 * float((r.argmax(axis=1) == x.argmax(axis=1)).mean()),
        sqnr_db=decibels(float((r**2).sum()), float(((r - x) ** 2).sum())),
        logit_kl=nats,
        n=len(r),
    )


def output_sqnr(
    reference: NDArray[np.float32], values: NDArray[np.float32], outputs: Mapping[str, int]
) -> dict[str, float]:
    """Signal to quantization noise of each output by name, dB, as `fidelity` has it.

    Args:
        reference: Of `sample_outputs`, (images, values).
        values: Of the network judged.
        outputs: How many columns belong to each output, in their order.
    """
    found, start = {}, 0
    for name, columns in outputs.items():
        r, x = (y[:, start : start + columns].astype(np.float64) for y in (reference, values))
        found[name] = decibels(float((r**2).sum()), float(((r - x) ** 2).sum()))
        start += columns
    return found


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
        f"{counted(images, 'image')}, {drop.discordant} of which changed sides, can resolve {resolved} "
        f"(80 % power at 5 %); for {VERDICT} points evaluate about {_round_up(needed):,}"
    )


def collapse_note(reference: NDArray[np.float32], logits: NDArray[np.float32], *, classes: bool = True) -> str | None:
    """What to say where a network stopped telling images apart that the reference tells apart, else None.

    Collapsed means: the spread of the logits over the images fell below a hundredth of the reference's, or
    one class takes every image of which the reference gives no class more than half. It does not mean
    broken: an untrained network's logits hardly depend on the image, and 8 bits may not hold what little
    they do.

    Args:
        reference: Logits of the reference, (images, classes).
        logits: Logits of the network judged, in the same order of images.
        classes: Whether they are logits; of other outputs only the spread tells.

    Raises:
        ImagesError: No images, or the two saw different numbers of images.
    """
    _check_pair(reference, logits)
    spread, usual = _spread(logits), _spread(reference)
    if spread < usual / 100:
        size = math.sqrt(float((reference.astype(np.float64) ** 2).mean()))
        faint = f" around {size:.2g}, as of a network that is not trained" if usual < FAINT * size else ""
        return f"outputs hardly depend on the image: they spread {spread:.2g}, the reference's {usual:.2g}{faint}"
    if not classes:
        return None
    share, most = _largest_share(logits), 100 * _largest_share(reference)
    if len(logits) >= 10 and share == 1.0 and most <= 50:
        return f"every image gets the same class, where the reference gives none more than {most:.0f} %"
    return None


def _checked(labels: NDArray[np.int64], logits: NDArray[np.float32]) -> NDArray[np.int64]:
    """The labels, known to be one class per image."""
    images, classes = logits.shape
    if images == 0 or labels.shape != (images,):
        raise ImagesError(
            "labels and images do not match",
            why=f"found labels of shape {labels.shape} for {counted(images, 'image')}, needed one label for each",
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
