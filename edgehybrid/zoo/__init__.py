"""Models by name: what they are, and how to get one with its weights. Importing this loads no torch."""

import importlib
import types
from collections.abc import Callable
from typing import TYPE_CHECKING

from edgehybrid.errors import unknown_name
from edgehybrid.records import ModelCard, ModelSpec
from edgehybrid.zoo.cards import CARDS
from edgehybrid.zoo.sources import TIMM, Source, find, needs_timm, needs_torch

if TYPE_CHECKING:
    from torch import nn


def cards() -> tuple[ModelCard, ...]:
    """Every architecture of our own; those of timm, asked for as `timm/NAME`, are listed by timm."""
    return CARDS


def knows(name: str) -> bool:
    """Whether a name is one of ours, or is meant for timm."""
    return any(card.name == name for card in CARDS) or _is_timms(name)


def ignore(message: str) -> None:
    """Where messages go that nobody wants."""


def find_weights(
    name: str,
    weights: str,
    *,
    num_classes: int | None = None,
    seed: int = 0,
    notify: Callable[[str], None] = ignore,
) -> Source:
    """Decide which weights an option means, and download them if need be; without torch unless it downloads.

    Args:
        name: A model, `timm/NAME` for one of timm.
        weights: `auto`, `imagenet`, `fashion-mnist`, `random`, or the path of a checkpoint.
        num_classes: What the user asked for, None to take what the weights have.
        seed: Of `random`, and of `auto` where neither the cache nor the network has a checkpoint.
        notify: Told about downloads, and about what the user would not expect.

    Returns:
        What `load` takes in place of `weights`, with its hash.

    Raises:
        EdgeHybridError: As `edgehybrid.zoo.sources.find`.
        NotReadyError: Of a model of timm, where timm is missing.
    """
    return find(_card(name), weights, num_classes=num_classes, seed=seed, notify=notify)


def load(
    name: str,
    weights: str | Source = "random",
    num_classes: int | None = None,
    input_size: int | None = None,
    *,
    crop_pct: float | None = None,
    seed: int = 0,
    notify: Callable[[str], None] = ignore,
) -> "tuple[nn.Module, ModelSpec]":
    """Build a model and fill it with weights.

    Args:
        name: A model, `timm/NAME` for one of timm.
        weights: As in `find_weights`, or what that returned.
        num_classes: Width of the classifier; None takes the checkpoint's, or 1000.
        input_size: Side of the square input in px; None takes what the checkpoint was made for, or the
            published size. Tables of another size are interpolated, and said so.
        crop_pct: Part of the shorter side that is kept; None takes what the weights were made with.
        seed: Of fresh weights.
        notify: Told about downloads, and about what the user would not expect.

    Returns:
        The module, float32, in eval mode, and what is known about it.

    Raises:
        NotFoundError: No such model or file; near misses are suggested.
        UsageError: An option out of range, or one that contradicts the weights.
        NotReadyError: torch or timm is missing, or the network for `imagenet`.
        WeightsError: A checkpoint that is damaged, hostile, for another model, or not finite.
        ResourceError: Not enough memory, or no place for a download.
    """
    card = _card(name)
    source = (
        weights
        if isinstance(weights, Source)
        else find(card, weights, num_classes=num_classes, seed=seed, notify=notify)
    )
    home = _open_timm() if card.family == TIMM else _open_weights()
    module, spec = home.load(card, source, num_classes, input_size, crop_pct, notify)
    return module, spec


def _card(name: str) -> ModelCard:
    for card in CARDS:
        if card.name == name:
            return card
    if _is_timms(name):
        found: ModelCard = _open_timm().card(name[len(TIMM) + 1 :])
        return found
    raise unknown_name("model", name, [card.name for card in CARDS], "edgehybrid models")


def _is_timms(name: str) -> bool:
    return name.startswith((f"{TIMM}/", f"{TIMM}-"))


def _open_weights() -> types.ModuleType:
    try:
        return importlib.import_module("edgehybrid.zoo.weights")
    except ModuleNotFoundError as error:
        raise needs_torch(error) from error


def _open_timm() -> types.ModuleType:
    try:
        return importlib.import_module("edgehybrid.zoo.from_timm")
    except (ImportError, RuntimeError) as error:
        raise needs_timm(error) from error
