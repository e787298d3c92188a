"""Estimate what each group costs from runs of a partly quantized network, and measure it one by one for a check.

Errors of int8 layers add up in variance: on CMT-Ti the loss of all 69 groups together is within 26 % of the sum of
their losses alone. So any choice of int8 groups tells something about each of them. It does not tell it equally well:
the noise of a run grows with the noise of all groups in it, so a run with half of them says little about one. With
4 runs per image a regression on random halves ranks the groups of CMT-Ti with Spearman 0.3 against leave-one-out,
single groups spread over the images with 0.95 (`benchmarks/sensitivity.py`). Hence one group per run.
"""

from collections.abc import Callable, Iterable

import numpy as np
from numpy.typing import NDArray

from edgehybrid.search.losses import Floats, divergence, quadratic

Answer = Callable[[NDArray[np.bool_], NDArray[np.float32]], NDArray[np.float32]]
"""Choice (groups,), True for int8, and images (B, 3, H, W) -> logits (B, classes)."""

ROUNDS = 4
"""Runs per image beside the reference's: 5 forward passes in all."""
LEAST_RUNS = 2
"""Runs per group; few images get more rounds."""
STEPS = 100
"""Of the alternating fit, which settles in about ten."""


def count_rounds(pieces: int, groups: int) -> int:
    """Runs per image that so many pieces (batches of the graph) need."""
    return max(ROUNDS, -(-LEAST_RUNS * groups // max(pieces, 1)))


def estimate(
    answer: Answer,
    pieces: Iterable[NDArray[np.float32]],
    *,
    groups: int,
    count: int,
    seed: int,
    progress: Callable[[int], None],
) -> Floats:
    """What quantizing each group alone costs, from a few runs per image.

    Each piece of images is run in float and with `count_rounds` groups, one at a time, dealt so that all groups get
    equally many runs. An image weighs much or little whatever is quantized, so the loss is fitted as a product of an
    image's factor and a group's.

    Args:
        answer: The network.
        pieces: Images, (B, 3, H, W) with the B of the graph.
        groups: How many there are.
        count: How many pieces will come.
        seed: Of the dealing.
        progress: Told how many pieces are done.

    Returns:
        (groups,) nats.
    """
    rounds = count_rounds(count, groups)
    hands = _deal(groups, count * rounds, seed).reshape(count, rounds)
    none = np.zeros(groups, np.bool_)
    losses = np.zeros((count, rounds))
    for i, piece in enumerate(pieces):
        reference = answer(none, piece)
        for k in range(rounds):
            losses[i, k] = quadratic(reference, answer(_only(hands[i, k], groups), piece)).mean()
        progress(i + 1)
    return _fit(hands, losses, groups)


def leave_one_out(
    answer: Answer, pieces: Iterable[NDArray[np.float32]], *, groups: int, progress: Callable[[int], None]
) -> Floats:
    """What quantizing each group alone costs, measured: one run per group and image.

    Args:
        answer: The network.
        pieces: Images, (B, 3, H, W) with the B of the graph.
        groups: How many there are.
        progress: Told how many pieces are done.

    Returns:
        (groups,) mean KL divergence from the float network, nats.
    """
    sums, images = np.zeros(groups), 0
    none = np.zeros(groups, np.bool_)
    for i, piece in enumerate(pieces):
        reference = answer(none, piece)
        for group in range(groups):
            sums[group] += divergence(reference, answer(_only(group, groups), piece)).sum()
        images += len(piece)
        progress(i + 1)
    return sums / images


def _only(group: int, groups: int) -> NDArray[np.bool_]:
    return np.asarray(np.arange(groups) == group)


def _deal(groups: int, runs: int, seed: int) -> NDArray[np.int64]:
    """Which group each run gets: shuffled decks, one after the other."""
    rng = np.random.default_rng(seed)
    decks = [rng.permutation(groups) for _ in range(-(-runs // groups))]
    return np.concatenate(decks)[:runs]


def _fit(hands: NDArray[np.int64], losses: Floats, groups: int) -> Floats:
    """Least squares of log loss = image + group, then scaled so that fitted and seen losses have one sum.

    An image's term is drawn to the mean as if it had one more run of exactly that: with few runs it would else take
    the loss of whatever groups it was dealt for its own.
    """
    floor = max(losses.mean() * 1e-9, np.finfo(np.float64).tiny)  # a group without any effect has no logarithm
    logs = np.log(np.maximum(losses, floor))
    images = np.zeros(len(hands))
    counts = np.maximum(np.bincount(hands.ravel(), minlength=groups), 1)
    terms = np.zeros(groups)
    for _ in range(STEPS):
        terms = np.bincount(hands.ravel(), (logs - images[:, None]).ravel(), groups) / counts
        images = (logs - terms[hands]).sum(axis=1) / (hands.shape[1] + 1)
    fitted = np.exp(terms[hands] + images[:, None])
    scale = losses.sum() / fitted.sum() * np.exp(images).mean()
    return np.asarray(np.exp(terms) * scale)
