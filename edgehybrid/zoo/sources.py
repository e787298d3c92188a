"""Decide which weights an option means and fetch them; no torch here, so that a finished build is recognised fast."""

import hashlib
import importlib
import importlib.metadata
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from edgehybrid import resources
from edgehybrid.errors import NotFoundError, NotReadyError, UsageError, WeightsError, unknown_name
from edgehybrid.records import ModelCard
from edgehybrid.store import sha256_of
from edgehybrid.zoo.download import DownloadError, fetch, weights_path

NAMES = ("auto", "imagenet", "fashion-mnist", "random")
"""What `weights` may be besides the path of a checkpoint."""
IMAGENET_CLASSES = 1000
BUNDLED = {"cmt_ti": "cmt_ti_64.safetensors"}
"""Model -> its checkpoint in calib/fashion-mnist/."""
TIMM = "timm"
"""Family of the models that timm makes. They are asked for as `timm/resnet18`; their cards, and so the names of files
and bundles, say `timm-resnet18`, which is understood too."""


@dataclass(frozen=True)
class Source:
    """One set of weights, found and hashed, not yet read."""

    path: Path | None  # the checkpoint; None: fresh weights from the seed
    origin: str  # path, URL or "random (seed 0)"
    sha256: str  # of the file; of the model's name and seed for fresh weights
    seed: int = 0
    note: str = ""  # what the user must know
    labels: tuple[str, ...] = ()
    crop_pct: float | None = None  # None: the model's usual preprocessing

    @property
    def is_users(self) -> bool:
        """Whether the user named a file, of which nothing is known but what it says."""
        return self.path is not None and self.origin == str(self.path)


def find(card: ModelCard, weights: str, *, num_classes: int | None, seed: int, notify: Callable[[str], None]) -> Source:
    """Resolve the option `weights`; `imagenet` and `auto` may download.

    Args:
        card: The model.
        weights: One of `NAMES`, or the path of a checkpoint.
        num_classes: What the user asked for; the official checkpoints have 1000.
        seed: Of fresh weights.
        notify: Told about downloads, and about what the user would not expect.

    Raises:
        NotFoundError: Neither a name nor a file.
        UsageError: These weights do not exist for this model or number of classes.
        DownloadError: `imagenet`, and the network gives nothing.
        WeightsError: The checkpoint in the cache has changed.
        ResourceError: The cache cannot be written.
    """
    if not 0 <= seed < 2**63:
        raise UsageError(f"--seed {seed} is no seed", why="found a number outside 0 .. 2^63 - 1", fix="--seed 0")
    if weights == "random":
        return _fresh(card, seed, f"untrained (seed {seed}): latency is real, accuracy means nothing")
    if weights == "fashion-mnist":
        return _bundled(card)
    if weights == "imagenet":
        return _official(card, num_classes, notify)
    if weights == "auto":
        return _best(card, num_classes, seed, notify)
    path = Path(weights).expanduser()
    if not path.exists() and path.name == weights and not path.suffix:
        raise unknown_name("weights", weights, NAMES, "--weights NAME, or the path of a checkpoint")
    if not path.exists():
        raise NotFoundError(
            f"no file {path}", why=f"--weights takes a file or {', '.join(NAMES)}", fix="check the path"
        )
    if not path.is_file():
        raise WeightsError(
            f"{path} is not a file", why="a checkpoint is one file", fix="give the .safetensors or .pth file itself"
        )
    try:
        return Source(path, str(path), sha256_of(path))
    except OSError as error:
        raise WeightsError(
            f"cannot read {path}", why=error.strerror or type(error).__name__, fix="check its permissions"
        ) from error


def _fresh(card: ModelCard, seed: int, note: str) -> Source:
    digest = hashlib.sha256(f"{card.name} random {seed}".encode()).hexdigest()
    return Source(None, f"random (seed {seed})", digest, seed, note)


def _bundled(card: ModelCard) -> Source:
    """The checkpoint that ships with the Fashion-MNIST sample."""
    if card.name not in BUNDLED:
        raise UsageError(
            f"no bundled Fashion-MNIST weights for {card.name}",
            why=f"they exist for {', '.join(BUNDLED)}",
            fix=f"--model {next(iter(BUNDLED))}, or other --weights",
        )
    path = resources.find_image_set("fashion-mnist") / BUNDLED[card.name]
    if not path.is_file():
        raise NotReadyError(f"{path} is missing", why="this installation is incomplete", fix="install edgehybrid again")
    return Source(
        path,
        f"bundled {path.name}",
        sha256_of(path),
        note="trained on the 60,000 Fashion-MNIST training images, scored on all 10,000 test images",
        labels=resources.load_image_set("fashion-mnist").classes,
        crop_pct=1.0,
    )


def _official(card: ModelCard, num_classes: int | None, notify: Callable[[str], None]) -> Source:
    """The authors' ImageNet checkpoint, from the cache or the network."""
    if card.weights_url is None:
        raise UsageError(
            f"no ImageNet weights can be downloaded for {card.name}",
            why=card.weights_note or "the authors published none",
            fix="--weights FILE with a checkpoint of your own",
        )
    if num_classes not in (None, IMAGENET_CLASSES):
        raise UsageError(
            f"the ImageNet weights have {IMAGENET_CLASSES} classes, not {num_classes}",
            why="a classifier of another width would be untrained",
            fix="leave --num-classes out, or give weights trained for it with --weights FILE",
        )
    path = weights_path(card.name, card.weights_url)
    digest = fetch(card.weights_url, path, check=_check, notify=notify)
    return Source(path, card.weights_url, digest)


def _check(path: Path) -> None:
    """Refuse a download that is not a checkpoint, such as the page of a hotel network."""
    try:
        reader = importlib.import_module("edgehybrid.zoo.checkpoint")
    except ModuleNotFoundError as error:
        raise needs_torch(error) from error
    reader.read(path)


def needs_torch(error: ModuleNotFoundError) -> NotReadyError:
    """The error for a missing torch or safetensors; re-raises anything else."""
    if error.name is None or error.name.split(".")[0] not in ("torch", "safetensors"):
        raise error
    return NotReadyError(
        f"{error.name} is not installed",
        why="building a model of the zoo needs it; a finished ONNX file does not",
        fix="pip install 'edgehybrid[host]'",
    )


def needs_timm(error: ImportError | RuntimeError) -> NotReadyError:
    """The error for a timm that is missing, or lacks what it needs; re-raises what is no fault of the installation."""
    missing = ((error.name if isinstance(error, ImportError) else None) or "").split(".")[0]
    if isinstance(error, ModuleNotFoundError) and missing in ("torch", "safetensors"):
        return needs_torch(error)
    if missing == "edgehybrid":
        raise error
    fix = "pip install 'edgehybrid[timm]'"
    if isinstance(error, ModuleNotFoundError) and missing == "timm":
        return NotReadyError("timm is not installed", why="--model timm/NAME takes the model from it", fix=fix)
    if isinstance(error, ModuleNotFoundError):
        return NotReadyError(
            f"timm cannot be used: {missing} is not installed", why=f"timm itself imports {missing}", fix=fix
        )
    why = f"{type(error).__name__}: {next(iter(str(error).splitlines()), '')}"
    if "torchvision::" in why:  # "operator torchvision::nms does not exist"
        why += ": torchvision was built for another torch, such as one with CUDA beside one without"
        torch = importlib.metadata.version("torch")
        fix = f"install the torchvision made for torch {torch}: https://pytorch.org/get-started/previous-versions"
    return NotReadyError("timm cannot be used: its import failed", why=why, fix=fix)


def _best(card: ModelCard, num_classes: int | None, seed: int, notify: Callable[[str], None]) -> Source:
    """The official weights where they can be had and fit, else fresh ones that say so loudly."""
    if card.weights_url is None:
        reason = card.weights_note or "the authors published no checkpoint"
    elif num_classes not in (None, IMAGENET_CLASSES):
        reason = f"the official checkpoint has {IMAGENET_CLASSES} classes, not {num_classes}"
    else:
        try:
            return _official(card, num_classes, notify)
        except DownloadError as error:
            reason = f"{error.what}, {error.why}"
    note = f"UNTRAINED weights (seed {seed}), as {reason}"
    notify(note)
    return _fresh(card, seed, note)
