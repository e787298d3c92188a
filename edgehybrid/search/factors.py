"""Losses per image and group, fitted as an image's factor times a group's.

An image weighs much or little whatever is quantized, so in a plain mean the few that weigh most decide how the groups
rank. With every group run alone on 16 images, two BoTNets' rank as on 112 others with Spearman 0.84 to 0.89 by means,
0.89 to 0.91 by these factors; CMT's and the Conformer's rank alike by both (`benchmarks/README.md`, Sensitivity). A
group that does much harm to few images ranks by what it does to most.
"""

import numpy as np
from numpy.typing import NDArray

from edgehybrid.search.losses import Floats

STEPS = 100
"""Of the alternating fits, which settle in about ten."""


def fit_losses(losses: Floats, dealt: NDArray[np.int64] | None = None, groups: int | None = None) -> Floats:
    """Least squares of log loss = image + group, then scaled so that fitted and seen losses have one sum.

    An image's term is drawn to the mean as if it had one more run of exactly that: with few runs it would else take
    the loss of whatever groups it was dealt for its own.

    Args:
        losses: (images, runs), not negative.
        dealt: Which group each run was of, (images, runs); all groups in order by default.
        groups: How many there are; as many as runs by default.

    Returns:
        (groups,) mean loss of an image.
    """
    count = losses.shape[1] if groups is None else groups
    hands = np.broadcast_to(np.arange(count), losses.shape) if dealt is None else dealt
    floor = max(losses.mean() * 1e-9, np.finfo(np.float64).tiny)  # a group without any effect has no logarithm
    logs = np.log(np.maximum(losses, floor))
    images = np.zeros(len(hands))
    counts = np.maximum(np.bincount(hands.ravel(), minlength=count), 1)
    terms = np.zeros(count)
    for _ in range(STEPS):
        terms = np.bincount(hands.ravel(), (logs - images[:, None]).ravel(), count) / counts
        images = (logs - terms[hands]).sum(axis=1) / (hands.shape[1] + 1)
    fitted = np.exp(terms[hands] + images[:, None])
    scale = losses.sum() / fitted.sum() * np.exp(images).mean()
    return np.asarray(np.exp(terms) * scale)


def fit_slopes(slopes: Floats) -> Floats:
    """Maximum likelihood of variances image * group, where slopes are normal with mean zero.

    So are the slopes of a loss along random signs, nearly. A mean of their squares is its special case where all
    images weigh alike.

    Args:
        slopes: (images, groups).

    Returns:
        (groups,) mean square of an image; zero where all of a group's are, with the sum of the plain means.
    """
    squares = np.square(slopes)
    found = squares.sum(axis=0) / max(1, len(squares))
    has_effect = found > 0
    seen = squares[squares.any(axis=1)][:, has_effect]  # what is all zero has no scale
    if seen.size:
        images = seen.mean(axis=1)
        for _ in range(STEPS):
            groups = (seen / images[:, None]).mean(axis=0)
            images = (seen / groups).mean(axis=1)
        found[has_effect] = groups * found.sum() / groups.sum()
    return np.asarray(found)
