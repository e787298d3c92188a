"""Put weights into a model, checked: names, shapes, finite values, and the input size they were made for."""

import contextlib
import functools
import importlib
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Protocol, cast

import numpy as np
import torch
from torch import Tensor, nn

from edgehybrid.errors import ResourceError, UsageError, WeightsError
from edgehybrid.printable import counted
from edgehybrid.records import ModelCard, ModelSpec, Preprocess, Provenance
from edgehybrid.zoo.cards import CARDS
from edgehybrid.zoo.checkpoint import Checkpoint, read
from edgehybrid.zoo.sources import IMAGENET_CLASSES, Source


class Family(Protocol):
    """What the module of one architecture, `edgehybrid/zoo/<family>.py`, offers."""

    CLASSIFIER: str  # how the name ends of the linear layer whose width is the number of classes

    def create(self, name: str, num_classes: int, input_size: int) -> nn.Module:
        """One variant with fresh weights."""

    def stored_size(self, state: Mapping[str, Tensor]) -> int | None:
        """Input side in px that a checkpoint was made for; None if its tensors do not tell."""

    def resize(self, state: Mapping[str, Tensor], input_size: int) -> dict[str, Tensor]:
        """The checkpoint with everything that depends on the input size fitted to another one."""


def open_family(card: ModelCard) -> Family:
    """The module of a card's architecture: the file of that name in this folder."""
    return cast(Family, importlib.import_module(f"edgehybrid.zoo.{card.family}"))


def load(
    card: ModelCard,
    source: Source,
    num_classes: int | None,
    input_size: int | None,
    crop_pct: float | None,
    notify: Callable[[str], None],
) -> tuple[nn.Module, ModelSpec]:
    """Build the model of a card and fill it from a source.

    Args:
        card: The model.
        source: Its weights.
        num_classes: Width of the classifier; None: the checkpoint's, or 1000.
        input_size: Side of the input in px; None: the checkpoint's, or as published.
        crop_pct: None: as the weights were made, or as the card says.
        notify: Told what the user would not expect.

    Returns:
        The module in eval mode, float32, and what is known about it.

    Raises:
        UsageError: An option out of range, or another number of classes than the checkpoint has.
        WeightsError: Unreadable, for another model, or with NaN or infinite values.
        ResourceError: The relative-position tables do not fit into memory.
    """
    family = open_family(card)
    check_options(card, num_classes, input_size, crop_pct)
    notes = [source.note] if source.note else []
    with memory_for(card, input_size):
        if source.path is None:
            classes, size = num_classes or IMAGENET_CLASSES, input_size or card.input_size
            module = _create_fresh(card, family, classes, size, source.seed)
        else:
            found = read(source.path)
            state = as_float32(found.tensors, source.path)
            classes = _count_classes(family, state)
            stored = family.stored_size(state)
            size = input_size or stored or card.input_size
            if stored not in (None, size):
                state = family.resize(state, size)
                notes.append(f"relative-position tables resized from {stored} to {size} px: accuracy may differ")
                notify(notes[-1])
            module = _fill(card, family, state, classes, size, source.path)
            if stored is None and input_size is None and source.is_users:
                notes.append(f"the checkpoint does not tell for which images it was trained: {size} px as published")
                notify(f"{notes[-1]}; give --input-size if it was for others")
            check_classes(classes, num_classes, source.path)
            notes.extend(describe(found))
    provenance = Provenance(source.origin, source.sha256, source.path is not None, "; ".join(notes))
    crop = crop_pct or source.crop_pct or card.crop_pct
    spec = ModelSpec(card.name, Preprocess(size, crop), classes, provenance, card, source.labels)
    return module.eval(), spec


def check_options(
    card: ModelCard,
    num_classes: int | None,
    input_size: int | None,
    crop_pct: float | None,
) -> None:
    """Refuse what no weights could make right (UsageError)."""
    step, least = card.size_step, max(card.size_step, card.least_size)
    if input_size is not None and (input_size < least or input_size % step):
        below = max(input_size // step * step, least)
        raise UsageError(
            f"{card.name} cannot take {input_size} px images",
            why=f"its stages halve the image down to 1/{step}: the side must be a multiple of {step} px"
            if step > 1
            else f"its stages leave nothing of an image below {least} px",
            fix=f"--input-size {below}" + ("" if input_size < least else f" or {below + step}"),
        )
    if num_classes is not None and num_classes < 1:
        raise UsageError(
            f"--num-classes {num_classes} makes no classifier",
            why="at least 1 is needed",
            fix="leave --num-classes out to take the checkpoint's",
        )
    if crop_pct is not None and not 0 < crop_pct <= 1:
        raise UsageError(
            f"--crop-pct {crop_pct} is no crop",
            why="it is the part of the shorter side that the network sees: above 0, at most 1",
            fix=f"leave --crop-pct out for {card.crop_pct}, or give 1.0 to cut nothing",
        )


@contextlib.contextmanager
def memory_for(card: ModelCard, input_size: int | None) -> Iterator[None]:
    """Tell a network too large for this machine from a bug: torch has one exception for both."""
    try:
        yield
    except (RuntimeError, MemoryError) as error:
        text = str(error).splitlines()[0] if str(error) else ""
        if isinstance(error, RuntimeError) and not re.search(r"alloc|overflow", text):
            raise
        raise ResourceError(
            f"no memory for {card.name} at {input_size or card.input_size} px",
            why=text or "out of memory",
            fix="give a smaller --input-size (position tables, if any, grow with its 4th power) or --num-classes",
        ) from error


def _create_fresh(card: ModelCard, family: Family, classes: int, size: int, seed: int) -> nn.Module:
    """Initialise from a seed; the caller's random state is left as it was."""
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        return family.create(card.name, classes, size)


def as_float32(tensors: Mapping[str, Tensor], path: Path) -> dict[str, Tensor]:
    """Own copies, every float as float32; the file may be memory-mapped and may change later."""
    state = {}
    for key, value in tensors.items():
        if value.layout is not torch.strided or value.is_quantized or value.is_complex():
            raise WeightsError(
                f"{path} holds '{key}' in a form that is not supported",
                why=f"found {value.dtype}, {value.layout}; needed plain dense float16, bfloat16, float32 or float64",
                fix="save the state_dict of the unquantized float model",
            )
        dtype = torch.float32 if value.is_floating_point() else value.dtype
        state[key] = value.detach().to(dtype, copy=True, memory_format=torch.contiguous_format)
    return state


def _count_classes(family: Family, state: Mapping[str, Tensor]) -> int:
    """Width of the classifier of a checkpoint; where it has none, `_fill` will say what is missing."""
    name = f".{family.CLASSIFIER}.weight"
    widths = [value.shape[0] for key, value in state.items() if f".{key}".endswith(name) and value.ndim == 2]
    return max(widths[0], 1) if widths else IMAGENET_CLASSES


def check_classes(found: int, wanted: int | None, path: Path) -> None:
    """Refuse a number of classes that the checkpoint does not have (UsageError)."""
    if wanted not in (None, found):
        raise UsageError(
            f"{path.name} has {counted(found, 'class')}, --num-classes asks for {wanted}",
            why="a classifier of another width would be untrained",
            fix="leave --num-classes out, or give weights trained for that many classes",
        )


def _fill(
    card: ModelCard, family: Family, state: Mapping[str, Tensor], classes: int, size: int, path: Path
) -> nn.Module:
    """A module holding exactly the tensors of a checkpoint.

    It is built on the meta device: initialising weights that are thrown away takes longer than reading them.
    """
    with torch.device("meta"):
        module = family.create(card.name, classes, size)
    expected = module.state_dict()
    complete = dict(state)
    for key, value in expected.items():  # counts training steps, not used here; some tools drop or cast it
        if key.endswith("num_batches_tracked"):
            complete[key] = torch.zeros(value.shape, dtype=value.dtype)
    refuse_grey(expected, complete, path)
    differences = compare(expected, complete)
    if differences:
        fitting = _guess(complete, classes)
        raise WeightsError(
            f"{path} does not fit {card.name}",
            why="; ".join(differences),
            fix=f"it looks like {fitting}: --model {fitting}"
            if fitting and fitting != card.name
            else f"give a checkpoint of {card.name} with the authors' parameter names",
        )
    broken = [key for key, value in complete.items() if not np.isfinite(value.numpy()).all()]
    if broken:
        raise WeightsError(
            f"{path} holds NaN or infinite values",
            why=f"in {_list(broken)}",
            fix="take an earlier checkpoint: the training diverged, or half precision overflowed",
        )
    module.load_state_dict(complete, strict=True, assign=True)
    return module


def refuse_grey(expected: Mapping[str, Tensor], state: Mapping[str, Tensor], path: Path) -> None:
    """Refuse a checkpoint whose first convolution takes one channel, with what makes it equal for three (WeightsError).

    Pictures are read as RGB here, a grey one as three equal channels.
    """
    for key, value in expected.items():
        found = state.get(key)
        if (
            found is None
            or value.ndim != 4
            or value.shape[1] != 3
            or found.shape != (value.shape[0], 1, *value.shape[2:])
        ):
            continue
        raise WeightsError(
            f"{path} is for grayscale images",
            why=f"{key} takes 1 channel; images here have 3, equal ones where the picture is grey",
            fix=f"state['{key}'] = state['{key}'].repeat(1, 3, 1, 1) / 3 computes the same of them; save that, and "
            "give --mean and --std the grey values three times",
        )


def compare(expected: Mapping[str, Tensor], state: Mapping[str, Tensor]) -> list[str]:
    """What keeps a checkpoint from fitting, in words; empty if nothing does."""
    missing = [key for key in expected if key not in state]
    unexpected = [key for key in state if key not in expected]
    other = [
        f"{key} {tuple(state[key].shape)} instead of {tuple(value.shape)}"
        for key, value in expected.items()
        if key in state and (_kind(state[key]) != _kind(value))
    ]
    named = (("missing", missing), ("unexpected", unexpected), ("of other shape or type", other))
    return [f"{len(keys)} {what}: {_list(keys)}" for what, keys in named if keys]


def _kind(value: Tensor) -> tuple[torch.Size, bool]:
    return value.shape, value.is_floating_point()


def _list(keys: Sequence[str]) -> str:
    return ", ".join(keys[:3]) + (", ..." if len(keys) > 3 else "")


def _guess(state: Mapping[str, Tensor], classes: int) -> str | None:
    """The model of the zoo that nearly all tensors of a checkpoint fit."""
    scores = {}
    for card in CARDS:
        size = open_family(card).stored_size(state) or card.input_size
        expected = _expect(card.name, classes, size)
        scores[card.name] = sum(key in state and _kind(state[key]) == kind for key, kind in expected) / len(expected)
    best = max(scores, key=lambda name: scores[name])
    return best if scores[best] > 0.9 else None


@functools.cache
def _expect(name: str, classes: int, size: int) -> tuple[tuple[str, tuple[torch.Size, bool]], ...]:
    """Names and kinds of a model's tensors; making all models of the zoo for them takes seconds."""
    card = next(card for card in CARDS if card.name == name)
    with torch.device("meta"):
        module = open_family(card).create(name, classes, size)
    return tuple((key, _kind(value)) for key, value in module.state_dict().items())


def describe(found: Checkpoint) -> list[str]:
    """What a file says about itself."""
    notes = [f"weights taken from '{found.wrapper}'"] if found.wrapper else []
    with contextlib.suppress(KeyError, ValueError):
        notes.append(f"top-1 {float(found.metadata['top1']):.2f} % as recorded in the file")
    return notes
