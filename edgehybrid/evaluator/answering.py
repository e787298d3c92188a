"""Run images through a network and keep what it answers: logits, or some values of every output."""

import math
from collections.abc import Callable, Iterable, Sequence

import numpy as np
from numpy.typing import NDArray

from edgehybrid.errors import GraphError, ImagesError, StageError
from edgehybrid.printable import counted
from edgehybrid.runtime import Runner, TensorInfo, Tensors, scores_of

POSITIONS = 4096
"""Values of an output of a network that is no classifier, which are compared for each image: the whole output of a
detector or a map of classes for hundreds of images would not fit into memory."""


def predict(runner: Runner, batches: Iterable[NDArray[np.float32]]) -> NDArray[np.float32]:
    """Run every image through a classifier.

    Args:
        runner: Open, with one input (B, 3, H, W); of its outputs the first of floats (B, classes) is taken.
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
    image, scores = _classifier(runner)
    return _collect(runner, image, batches, lambda outputs: outputs[scores])


def sample_outputs(runner: Runner, batches: Iterable[NDArray[np.float32]]) -> NDArray[np.float32]:
    """Run every image through a network that is no classifier, and keep some values of each of its outputs.

    Args:
        runner: Open, with one input (B, 3, H, W); outputs of floats belong to the images one by one, or B is 1.
        batches: As in `predict`.

    Returns:
        (images, values), the outputs in the order of their names, of each those at `positions`.

    Raises:
        ImagesError: No images.
        GraphError: No such input, or no output of floats for each image.
        StageError: Values that are NaN or infinite, or the network failed.
    """
    inputs = dict(runner.inputs)
    (image, need), *others = inputs.items()
    kept = sampled(runner)
    whole = need.shape[0] == 1 or all(runner.outputs[name].shape[:1] == need.shape[:1] for name in kept)
    if others or len(need.shape) != 4 or not kept or not whole:
        raise GraphError(
            "the network's outputs cannot be compared",
            why=f"found {_shapes(inputs)} -> {_shapes(dict(runner.outputs))}, needed (N, 3, H, W) -> floats for each",
            fix="export the network without what comes after it, such as the suppression of double boxes",
        )

    def sample(outputs: Tensors) -> NDArray[np.generic]:
        return np.concatenate(
            [outputs[name].reshape(need.shape[0], -1)[:, where] for name, where in kept.items()], axis=1
        )

    return _collect(runner, (image, need), batches, sample)


def sampled(runner: Runner) -> dict[str, NDArray[np.int64]]:
    """Which values of its outputs of floats `sample_outputs` keeps for each image, by name and in its order."""
    ((batch, *_), _), *_ = runner.inputs.values()
    floats = {name: info.shape for name, info in sorted(runner.outputs.items()) if info.dtype.kind == "f"}
    return {name: positions(shape, batch) for name, shape in floats.items()}


def positions(shape: Sequence[int], batch: int) -> NDArray[np.int64]:
    """Which of the values that an output has for each image are compared: all, or `POSITIONS` drawn with a fixed seed.

    Args:
        shape: Of the output, for all images of a call.
        batch: Images of a call.
    """
    count = math.prod(shape) // batch
    if count <= POSITIONS:
        return np.arange(count, dtype=np.int64)
    return np.sort(np.random.default_rng(0).choice(count, POSITIONS, replace=False)).astype(np.int64)


def _collect(
    runner: Runner,
    image: tuple[str, TensorInfo],
    batches: Iterable[NDArray[np.float32]],
    take: Callable[[Tensors], NDArray[np.generic]],
) -> NDArray[np.float32]:
    """What is taken of the outputs for each image, one row per image."""
    name, need = image
    size = need.shape[0]
    rows: list[NDArray[np.float32]] = []
    for images in batches:
        for start in range(0, len(images), size):
            piece = images[start : start + size]
            filler = np.repeat(piece[:1], size - len(piece), axis=0)
            feed = np.ascontiguousarray(np.concatenate([piece, filler]), dtype=need.dtype)
            rows.append(take(runner.run({name: feed}))[: len(piece)].astype(np.float32))
    if not rows:
        raise ImagesError("no images to evaluate", why="found 0, needed at least 1", fix="check --eval and --num-eval")
    stacked = np.concatenate(rows)
    _check_finite(stacked)
    return stacked


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
            why=f"NaN or infinity for {len(bad)} of {counted(len(logits), 'image')}, the first being number {bad[0]}",
            fix="look for NaN in the weights or for overflow: fp16 ends at 65504; try --precision fp32",
        )
