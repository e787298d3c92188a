"""Models by name: what they are, and how to get one with its weights."""

import importlib
from collections.abc import Callable
from typing import TYPE_CHECKING

from edgehybrid.errors import unknown_name
from edgehybrid.records import ModelCard, ModelSpec
from edgehybrid.zoo.cards import CARDS

if TYPE_CHECKING:
    from torch import nn


def cards() -> tuple[ModelCard, ...]:
    """Every architecture there is."""
    return CARDS


def load(
    name: str,
    weights: str = "random",
    num_classes: int | None = None,
    input_size: int | None = None,
    *,
    crop_pct: float | None = None,
    seed: int = 0,
    notify: Callable[[str], None] = lambda _: None,
) -> "tuple[nn.Module, ModelSpec]":
    """Build a model and fill it with weights."""
    card = next((c for c in CARDS if c.name == name), None)
    if card is None:
        raise unknown_name("model", name, [c.name for c in CARDS], "edgehybrid models")
    loader = importlib.import_module("edgehybrid.zoo.weights")
    module, spec = loader.load(card, weights, num_classes, input_size, crop_pct, seed, notify)
    return module, spec
