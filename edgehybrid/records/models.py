"""Models and images: what is run, and on what."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

from edgehybrid.records.choices import Interpolation
from edgehybrid.sizes import Size

UNTRAINED = "UNTRAINED WEIGHTS: latency is real, accuracy is not measured"
"""What must stand beside every number of such a model."""


@dataclass(frozen=True)
class Preprocess:
    """How an image becomes network input; one object for calibration, evaluation and stream.

    Resize, with its proportions kept, to the smallest picture that covers int(height / crop_pct) x int(width /
    crop_pct); of a square input the shorter side decides. Cut the centre height x width, scale to [0, 1], subtract
    mean, divide by std. RGB order.
    """

    size: Size
    crop_pct: float = 0.875
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)
    interpolation: Interpolation = "bicubic"


@dataclass(frozen=True)
class Stated:
    """What the user says of a model's input and classes; None or empty where the model is to tell."""

    size: Size | None = None
    crop_pct: float | None = None
    mean: tuple[float, float, float] | None = None
    std: tuple[float, float, float] | None = None
    interpolation: Interpolation | None = None
    labels: tuple[str, ...] = ()  # class names
    labels_from: str = ""  # the file that names the classes


@dataclass(frozen=True)
class Provenance:
    """Where weights came from."""

    source: str  # path, URL or "random (seed 0)"
    sha256: str  # of the file; of the name and seed for random weights
    trained: bool
    note: str = ""  # what the user must know: a resized table, an untrained network


@dataclass(frozen=True)
class ModelCard:
    """What is known about one architecture variant without building it."""

    name: str
    family: str  # the file in edgehybrid/zoo/ that builds it; "timm" for one of timm
    input_size: int  # px, as published
    params: int  # counted by this code at the published size, 1000 classes
    macs: int  # counted likewise: convolutions, linear layers and attention products of one image
    published: Mapping[str, str]  # "top1", "params", "macs" as printed by the authors
    paper: str
    licence: str
    weights_url: str | None  # direct download, None where a browser is needed
    weights_note: str = ""
    size_step: int = 32  # px; the input side is a multiple of it
    least_size: int = 1  # px; no smaller input, whatever the step
    crop_pct: float = 0.875  # of `Preprocess`, as the authors evaluate


@dataclass(frozen=True)
class ModelSpec:
    """One concrete network: an architecture or a file, with its weights and preprocessing."""

    name: str
    preprocess: Preprocess
    classes: int  # 0: a user's backbone without a classifier
    weights: Provenance
    card: ModelCard | None = None  # None for a user's ONNX file
    labels: tuple[str, ...] = ()  # class names, may be empty
    notes: tuple[str, ...] = ()  # what is not as the model has it, or had to be assumed


@dataclass(frozen=True)
class ImageSet:
    """Which images were used."""

    name: str
    source: str  # folder, file or URL
    images: int
    sha256: str  # over the chosen images' bytes, independent of their order
    labelled: bool = False
    classes: tuple[str, ...] = ()
    skipped: tuple[str, ...] = ()  # "path: reason" for each image that could not be read
    licence: str = ""
    note: str = ""


@dataclass(frozen=True)
class SetFile:
    """One file of a bundled image set."""

    path: str  # inside the folder of the set
    sha256: str  # of the file
    source: str  # where it was taken from
    licence: str = ""  # where it differs from file to file


@dataclass(frozen=True)
class SetPart:
    """The images of a bundled set that serve one use, calibration or evaluation."""

    kind: Literal["images", "npz"]
    images: int
    files: tuple[SetFile, ...]


@dataclass(frozen=True)
class SetCard:
    """What the manifest of a bundled image set says."""

    name: str
    title: str
    licence: str
    note: str  # what the user must know: a small sample, not the data the model was trained on
    classes: tuple[str, ...]  # empty: no labels
    parts: Mapping[str, SetPart]  # "calib", "eval"
