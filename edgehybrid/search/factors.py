"""What each group of layers costs, from losses per image and group, so that a few loud images do not decide it.

An image weighs much or little whatever is quantized, so in a plain mean the few that weigh most decide how the groups
rank. Here an image counts by its losses relative to what the groups cost on average (`benchmarks/README.md`,
Sensitivity, has what that is worth). A group that does much harm to few images ranks by what it does to most.
"""

import numpy as np
from numpy.typing import NDArray

from edgehybrid.search.losses import Floats


def weigh(
    losses: Floats, dealt: NDArray[np.int64] | None = None, groups: int | None = None, *, root: int = 1
) -> Floats:
    """Fit losses as an image's factor times a group's, which is exact where they are such products.

    An image's factor is the mean of its losses, each over the mean of its group; a group's is the mean of its losses,
    each over the factor of its image. One round of that is within 0.001 of Spearman of what the fit converges to, and
    stays finite where a group has losses on few images. An image's factor is drawn to the mean as if it had one more
    run of exactly that: with few runs it would else take the loss of whatever groups it was dealt for its own.

    Args:
        losses: (images, runs), not negative.
        dealt: Which group each run was of, (images, runs); all groups in order by default.
        groups: How many there are; as many as runs by default.
        root: 1 for squares of normal slopes, where means are the most likely factors; 2 fits the size of the noise
            instead of its square, and is better for measured losses, which scatter more.

    Returns:
        (groups,) mean loss of an image; where every group ran on every image, their sum is that of the plain means.
    """
    count = losses.shape[1] if groups is None else groups
    hands = np.broadcast_to(np.arange(count), losses.shape) if dealt is None else dealt
    sizes = losses ** (1 / root)
    runs = np.maximum(np.bincount(hands.ravel(), minlength=count), 1)
    means = (np.bincount(hands.ravel(), sizes.ravel(), count) / runs)[hands]
    known = means > 0
    relative = np.divide(sizes, means, out=np.zeros(losses.shape), where=known)
    images = (relative.sum(axis=1) + 1) / (known.sum(axis=1) + 1)
    factors = np.bincount(hands.ravel(), (sizes / images[:, None]).ravel(), count) / runs
    fitted = ((factors[hands] * images[:, None]) ** root).sum()
    scale = losses.sum() / fitted * (images**root).mean() if fitted else 0.0
    return np.asarray(factors**root * scale)
