"""Find weights, check them and put them into a model."""

import hashlib
from collections.abc import Callable

import torch

from edgehybrid.errors import WeightsError
from edgehybrid.records import ModelCard, ModelSpec, Preprocess, Provenance
from edgehybrid.zoo.cmt import CMT, SIZES


def load(
    card: ModelCard,
    weights: str,
    num_classes: int | None,
    input_size: int | None,
    crop_pct: float | None,
    seed: int,
    notify: Callable[[str], None],
) -> tuple[CMT, ModelSpec]:
    """Build the model of a card with the weights asked for."""
    if weights != "random":
        raise WeightsError(
            f"no weights '{weights}' yet",
            why="only random weights can be made so far",
            fix="--weights random",
        )
    size, classes = input_size or card.input_size, num_classes or 1000
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        module = CMT(SIZES[card.name], classes, size).eval()
    source = f"random (seed {seed})"
    digest = hashlib.sha256(f"{card.name} {source}".encode()).hexdigest()
    provenance = Provenance(source, digest, trained=False, note="untrained network: accuracy means nothing")
    preprocess = Preprocess(size, 0.875 if crop_pct is None else crop_pct)
    return module, ModelSpec(card.name, preprocess, classes, provenance, card)
