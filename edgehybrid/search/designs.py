"""Estimate what each group costs from runs of a partly quantized network, and measure it one by one for a check.

Errors of int8 layers add up in variance: on CMT-Ti the loss of all 69 groups together is within 26 % of the sum of
their losses alone. So any choice of int8 groups tells something about each of them. It does not tell it equally well:
the noise of a run grows with the noise of all groups in it, so a run with half of them says little about one. With
4 runs per image a regression on random halves ranks the groups of CMT-Ti with Spearman 0.3 against leave-one-out,
single groups spread over the images with 0.97 (`benchmarks/sensitivity.py`). Hence one group per run.
"""

from collections.abc import Callable, Iterable

import numpy as np
from numpy.typing import NDArray

from edgehybrid.divergence import divergence
from edgehybrid.search.factors import weigh
from edgehybrid.search.losses import Floats, quadratic

Answer = Callable[[NDArray[np.bool_], NDArray[np.float32]], NDArray[np.float32]]
"""Choice (groups,), True for int8, and images (B, 3, H, W) -> logits (B, classes)."""

ROUNDS = 4
"""Runs per image beside the reference's: 5 forward passes in all."""
LEAST_RUNS = 2
"""Runs per group; few images get more rounds."""


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
    equally many runs, and the losses are weighed (`factors`).

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
    return weigh(losses, hands, groups, root=2)


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
        (images, groups) KL divergence from the float network, nats.
    """
    losses: list[Floats] = []
    none = np.zeros(groups, np.bool_)
    for i, piece in enumerate(pieces):
        reference = answer(none, piece)
        runs = (answer(_only(group, groups), piece) for group in range(groups))
        losses.append(np.stack([divergence(reference, run) for run in runs], axis=1))
        progress(i + 1)
    return np.concatenate(losses)


def _only(group: int, groups: int) -> NDArray[np.bool_]:
    return np.asarray(np.arange(groups) == group)


def _deal(groups: int, runs: int, seed: int) -> NDArray[np.int64]:
    """Which group each run gets: shuffled decks, one after the other."""
    rng = np.random.default_rng(seed)
    decks = [rng.permutation(groups) for _ in range(-(-runs // groups))]
    return np.concatenate(decks)[:runs]
