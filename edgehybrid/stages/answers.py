"""What a network answers, what it can be held against, and the noise of every layer on the way."""

import json
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edgehybrid.dataset import Images
from edgehybrid.errors import GraphError, ImagesError, StageError
from edgehybrid.printable import counted
from edgehybrid.progress import listener
from edgehybrid.records import LayerError, ModelSpec, Precision, Preprocess, Runnable
from edgehybrid.stages.quantization import Quantized
from edgehybrid.stages.run import FORWARD_BATCH, Run, with_progress
from edgehybrid.store import decode, sha256_of, to_json, write_atomic

if TYPE_CHECKING:
    import onnx_ir as ir

    from edgehybrid.graph import Graph

LAYER_IMAGES = 32
"""Images on which per-layer noise is measured: it is a mean over pixels, which 32 images settle."""


def predict(
    run: Run,
    label: str,
    file: Path | Runnable,
    images: Images,
    preprocess: Preprocess,
    *,
    place: str = "",
    outputs: Mapping[str, int] | None = None,
) -> NDArray[np.float32]:
    """Logits (images, classes) of a graph in canonical numerics, or of an engine, in the order of the images.

    Args:
        run: The chain.
        label: Of the stage.
        file: An ONNX file, or what may be run here.
        images: What it answers.
        preprocess: Of the model.
        place: What an engine's answers hang on besides its file: the machine that runs it.
        outputs: Of `columns_of`: where there are any, some values of each are what the network answers.
    """
    found = Runnable(file, "onnxruntime") if isinstance(file, Path) else file
    is_graph = found.backend == "onnxruntime"

    def produce(folder: Path) -> None:
        from edgehybrid import evaluator
        from edgehybrid.runtime import open_runner

        with open_runner(found.path, found.backend, canonical=is_graph, dla_core=found.dla_core) as runner:
            batches = with_progress(images.batches(preprocess, FORWARD_BATCH), len(images))
            answer = evaluator.sample_outputs if outputs else evaluator.predict
            np.save(folder / "logits.npy", answer(runner, batches), allow_pickle=False)

    inputs = {
        "model": sha256_of(found.path),
        "images": images.order,
        "preprocess": preprocess,
        "place": [found.backend, found.dla_core, place],
    }
    folder = run.do(f"evaluate {label}", inputs, produce)
    logits: NDArray[np.float32] = np.load(folder / "logits.npy", allow_pickle=False)
    return logits


def columns_of(path: Path, spec: ModelSpec) -> dict[str, int]:
    """How many values of each output stand for what a network answers to an image; nothing for a classifier.

    Raises:
        GraphError: None of its outputs holds floats.
    """
    if spec.classes:
        return {}
    from edgehybrid import evaluator
    from edgehybrid.runtime import open_runner

    with open_runner(path, canonical=True) as runner:
        kept = evaluator.sampled(runner)
    if not kept:
        raise GraphError(
            f"{spec.name} has no output of floats",
            why="what int8 costs is seen in numbers, not in places of the largest",
            fix="export it without what comes after its scores",
        )
    return {name: len(where) for name, where in kept.items()}


def choosers_of(path: Path, outputs: Mapping[str, int]) -> dict[str, str]:
    """Which of the outputs of `columns_of` depend on a choice of places, and the node that chooses."""
    from edgehybrid import graph
    from edgehybrid.graph.structure import find_choosers

    found = find_choosers(graph.load(path)) if outputs else {}
    return {name: label for name, label in found.items() if name in outputs}


def check_collapse(logits: Mapping[Precision, NDArray[np.float32]], spec: ModelSpec) -> None:
    """Refuse to report on a network that no longer tells images apart.

    Raises:
        StageError: Quantization broke a trained network. Of an untrained one it is only noted: its logits hardly
            depend on the image, and 8 bits may not hold what little they do.
    """
    from edgehybrid import evaluator

    reference = next(iter(logits.values()))
    for precision, values in logits.items():
        problem = evaluator.collapse_note(reference, values, classes=bool(spec.classes))
        if problem is not None and not spec.weights.trained:
            listener().note(f"{precision}: {problem}; the weights are untrained")
        elif problem is not None:
            raise StageError(
                f"{precision} broke the network",
                why=problem,
                fix="try --method percentile, other --calib images, or --precision fp16",
            )


def labels_for(images: Images, spec: ModelSpec) -> NDArray[np.int64]:
    """Labels of the evaluation images, which must be classes of the model."""
    if images.labels is None:
        raise ImagesError(
            f"{images.spec.name} has no labels",
            why=images.spec.note or "accuracy needs one folder per class, or an array y in the .npz file",
            fix="leave --eval out to measure agreement with float32 only",
        )
    if spec.classes == 0:
        raise GraphError(
            f"{spec.name} is no classifier",
            why="none of its outputs is (N, classes)",
            fix="export it with its classification head, or leave --eval out",
        )
    labels = _renumbered(images.labels, images.spec.classes, spec)
    highest = int(labels.max())
    if highest >= spec.classes:
        raise ImagesError(
            f"{images.spec.name} has labels up to {highest}",
            why=f"the model has {counted(spec.classes, 'class')}, numbered from 0",
            fix="give images of the classes that the model was trained on, or its own --weights",
        )
    return labels


def _renumbered(labels: NDArray[np.int64], folders: tuple[str, ...], spec: ModelSpec) -> NDArray[np.int64]:
    """Numbers of the model's classes: by name where the images' classes are named as the model's are.

    Sorted folders number themselves from 0, which is right only where all classes are there and in that order.

    Raises:
        ImagesError: Some of the names are the model's, and some are not.
    """
    if not set(folders) & set(spec.labels):
        if folders and spec.labels:
            listener().note(f"no image class is named as one of {spec.name}: '{folders[0]}' is taken for its first")
        return labels
    strange = [name for name in folders if spec.labels.count(name) != 1]
    if strange:
        raise ImagesError(
            f"'{strange[0]}' is not one class of {spec.name}",
            why=f"{len(folders) - len(strange)} of {len(folders)} image classes have the name of one of its classes",
            fix="name each folder as its class is named in the file of --labels",
        )
    numbers = np.array([spec.labels.index(name) for name in folders], np.int64)
    renumbered: NDArray[np.int64] = numbers[labels]
    return renumbered


def layer_noise(
    run: Run, baseline: Path, quantized: Quantized, images: Images, preprocess: Preprocess
) -> tuple[LayerError, ...]:
    """Signal to quantization noise at input and output of every int8 layer, on a few images; nothing where none is."""
    if quantized.ranges is None:
        return ()
    few = images.pick(LAYER_IMAGES)

    def produce(folder: Path) -> None:
        from edgehybrid import calibrator, graph

        reference = run.open(baseline)
        layers = {d.node for d in quantized.plan.decisions if d.kind == "weight"}
        labels = graph.label_nodes(reference)
        ends = {
            graph.name_of(node.outputs[0]): _read_by(node, reference)
            for node, label in labels.items()
            if label in layers
        }
        tapped = [*ends, *(name for name in ends.values() if name is not None)]
        batches = few.batches(preprocess, FORWARD_BATCH)
        noise = {x.tensor: x for x in calibrator.compare(reference, graph.load(quantized.runnable), batches, tapped)}
        found = [
            noise[output] if read is None else replace(noise[output], input_db=noise[read].sqnr_db)
            for output, read in ends.items()
        ]
        write_atomic(folder / "layers.json", to_json(found))

    inputs = {
        "baseline": sha256_of(baseline),
        "quantized": sha256_of(quantized.runnable),
        "images": few.order,
    }
    folder = run.do("layers", {**inputs, "preprocess": preprocess}, produce)
    return tuple(decode(LayerError, x) for x in json.loads((folder / "layers.json").read_bytes()))


def _read_by(node: "ir.Node", reference: "Graph") -> str | None:
    """The computed tensor that an int8 layer reads; None for the image itself."""
    from edgehybrid import graph

    for value in node.inputs:
        if value is not None and graph.constant(value) is None:
            return None if value is reference.input else graph.name_of(value)
    return None
