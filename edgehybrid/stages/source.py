"""From what was asked for to one static float32 graph: a zoo model with its weights, or a user's ONNX file."""

import hashlib
import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from edgehybrid import zoo
from edgehybrid.dataset import Images, apply_stated
from edgehybrid.errors import NotFoundError, UsageError
from edgehybrid.printable import counted
from edgehybrid.progress import listener
from edgehybrid.records import ModelSpec, Preprocess, Provenance, Stated
from edgehybrid.sizes import Size, size_of, spelled
from edgehybrid.stages.agreement import check_agreement
from edgehybrid.stages.run import Run, require
from edgehybrid.store import decode, sha256_of, to_json, write_atomic

if TYPE_CHECKING:
    from torch.nn import Module

    from edgehybrid.graph import Graph
    from edgehybrid.zoo.sources import Source as Weights


@dataclass(frozen=True)
class Source:
    """Which model is asked for.

    Raises:
        UsageError: Weights for an ONNX file, which has its own.
    """

    model: str  # a zoo name, timm/NAME, or an ONNX file
    weights: str
    num_classes: int | None
    stated: Stated  # what the user says of its input and classes
    batch: int
    seed: int

    def __post_init__(self) -> None:
        if self.is_file and self.weights != "auto":
            raise UsageError(
                f"--weights {self.weights} has no meaning with {self.model}",
                why="an ONNX file holds its weights",
                fix="leave --weights out, or give the name of a model",
            )

    @property
    def is_file(self) -> bool:
        """Whether the model is a user's ONNX file."""
        return self.model.endswith(".onnx")

    @property
    def name(self) -> str:
        """The model's name as bundles show it."""
        return Path(self.model).stem if self.is_file else self.model.replace("/", "-")


@dataclass(frozen=True)
class Exported:
    """A model as an ONNX file."""

    path: Path
    spec: ModelSpec
    params: int
    macs: int
    batch: int
    weights: "Weights | None"  # None: the file's own


def export(run: Run, source: Source, images: Images, earlier: Exported | None = None) -> Exported:
    """A zoo model with its weights, or a user's ONNX file, as one static float32 graph.

    Args:
        run: The chain.
        source: What to export.
        images: A few of them check the ONNX graph against torch.
        earlier: Of the same network, whose weights are not looked for, nor what is assumed of it told, once more.
    """
    if source.is_file and not Path(source.model).is_file():
        raise NotFoundError(
            f"no file {source.model}",
            why="a model that ends in .onnx is read as a file",
            fix="check the path",
        )
    found = None if earlier is None else earlier.weights
    if found is None and not source.is_file:
        found = zoo.find_weights(
            source.model, source.weights, num_classes=source.num_classes, seed=source.seed, notify=listener().note
        )
    identity = _identity(Path(source.model)) if found is None else found.sha256

    def produce(folder: Path) -> None:
        require("onnx_ir", "onnx", "handle ONNX graphs")
        from edgehybrid import graph
        from edgehybrid.graph.counting import count_macs

        opened = _opened(source, identity) if found is None else _traced(source, found, images)
        exported, spec, params = opened
        write_atomic(folder / "model.onnx", exported.pieces())
        facts = {
            "params": params,
            "macs": count_macs(exported),
            "batch": graph.shape_of(exported.input)[0],
        }
        write_atomic(folder / "spec.json", to_json({"spec": spec, **facts}))

    asked = replace(source, stated=Stated(size=source.stated.size))  # the rest changes no graph
    folder = run.do("export", {"source": asked, "identity": identity}, produce)
    facts = json.loads((folder / "spec.json").read_bytes())
    own = decode(ModelSpec, facts["spec"])
    spec = apply_stated(own, source.stated, assumed=source.is_file)
    for note in spec.notes if earlier is None else ():
        listener().note(note)
    return Exported(folder / "model.onnx", spec, facts["params"], facts["macs"], facts["batch"], found)


def fix_shapes(run: Run, path: Path, *, batch: int, input_size: Size | None, must_be_image: bool) -> Path:
    """A bundle or ONNX file that can be run as it is; of a file that leaves shapes open, one that fixes them.

    Raises:
        UsageError: A batch or size for a bundle, which has its own.
    """
    if path.is_dir() and (batch != 1 or input_size is not None):
        raise UsageError(
            f"--batch and --input-size do not fit {path}",
            why="a bundle is built for one batch and size",
            fix="leave them out, or build again with them",
        )
    if path.suffix != ".onnx" or not path.is_file():
        return path
    require("onnx_ir", "onnx", "handle ONNX graphs")
    from edgehybrid.graph import adoption

    opened = adoption.fix_shapes(
        path, batch=batch, input_size=input_size, must_be_image=must_be_image, notify=listener().note
    )
    if opened is None:
        return path

    def produce(folder: Path) -> None:
        write_atomic(folder / path.name, opened.pieces())

    return run.do("fix shapes", {"batch": batch, "size": input_size, "identity": _identity(path)}, produce) / path.name


def _identity(path: Path) -> str:
    """SHA-256 of an ONNX file; of it and of the files beside it where those hold its weights."""
    require("onnx_ir", "onnx", "handle ONNX graphs")
    from edgehybrid.graph.adoption import companions

    digest = sha256_of(path)
    hashes = [sha256_of(file) for file in companions(path) if file.is_file()]
    return hashlib.sha256(" ".join([digest, *hashes]).encode()).hexdigest() if hashes else digest


def load_module(source: Source) -> "tuple[Module, ModelSpec, str]":
    """A zoo model as a torch module, what is known about it, and the hash of its weights."""
    require("torch", "host", "load a model from torch")
    found = zoo.find_weights(
        source.model, source.weights, num_classes=source.num_classes, seed=source.seed, notify=listener().note
    )
    module, spec = zoo.load(
        source.model, found, source.num_classes, _side(source), seed=source.seed, notify=listener().note
    )
    return module, spec, found.sha256


def _side(source: Source) -> int | None:
    """Of the square that a zoo model takes, where the user says it (UsageError for another rectangle)."""
    size = source.stated.size
    if isinstance(size, tuple):
        raise UsageError(
            f"{source.model} cannot take {spelled(size)} px images",
            why="models by name take square images",
            fix=f"--input-size {max(size)}, or export it for that size yourself and give the ONNX file",
        )
    return size


def _traced(source: Source, found: "Weights", images: Images) -> "tuple[Graph, ModelSpec, int]":
    """Graph, spec and number of parameters of a zoo model."""
    require("torch", "host", "export a model from torch")
    from edgehybrid import exporter

    module, spec = zoo.load(
        source.model,
        found,
        source.num_classes,
        _side(source),
        seed=source.seed,
        notify=listener().note,
    )
    check = next(images.batches(spec.preprocess, min(8, len(images))))
    graph = exporter.trace(module, spec, batch=source.batch, images=check, notify=listener().note)
    return graph, spec, sum(p.numel() for p in module.parameters())


def _opened(source: Source, sha256: str) -> "tuple[Graph, ModelSpec, int]":
    """Graph, spec and number of weights of a user's file."""
    from edgehybrid import graph
    from edgehybrid.graph.adoption import adopt
    from edgehybrid.graph.counting import count_params
    from edgehybrid.graph.structure import scores_of

    path, size = Path(source.model), source.stated.size
    opened = adopt(path, batch=source.batch, input_size=size, notify=listener().note)
    check_agreement(path, opened)
    height, width = graph.shape_of(opened.input)[2:]
    scores = scores_of(opened)
    classes = 0 if scores is None else graph.shape_of(scores)[-1]  # 0: a backbone or detector
    if source.num_classes not in (None, classes):
        raise UsageError(
            f"--num-classes {source.num_classes} does not fit {path}",
            why=f"its output has {counted(classes, 'class')}",
            fix="leave --num-classes out",
        )
    provenance = Provenance(source.model, sha256, trained=True, note="weights are those in the ONNX file")
    spec = ModelSpec(source.name, Preprocess(size_of(height, width)), classes, provenance)
    return opened, spec, count_params(opened)
