"""Models of the timm library: their card, preprocessing and weights as timm states them. The only home of timm."""

import difflib
import functools
import re
from collections.abc import Callable, Mapping
from pathlib import Path

import numpy as np
import timm
import torch
from timm.data import resolve_data_config
from timm.models import PretrainedCfg, get_pretrained_cfg
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from edgehybrid.errors import NotFoundError, StageError, UsageError, WeightsError
from edgehybrid.records import ModelCard, ModelSpec, Preprocess, Provenance
from edgehybrid.zoo import weights
from edgehybrid.zoo.checkpoint import read
from edgehybrid.zoo.sources import IMAGENET_CLASSES, TIMM, Source

HUB = "https://huggingface.co"
CLASSIFIERS = ("head.fc", "head", "fc", "classifier", "head.linear")
"""Names of the last layer in checkpoints whose authors call it otherwise than timm does."""


@functools.cache
def card(name: str) -> ModelCard:
    """What timm says about a model, and what it computes.

    Args:
        name: As timm spells it, with or without the tag of a training: `resnet18`, `resnet18.a1_in1k`.

    Raises:
        NotFoundError: timm has no such model or tag; near misses are suggested.
        UsageError: Its input is not one square RGB image.
        StageError: It does not map images to classes.
    """
    cfg = _find(name)
    channels, height, width = cfg.input_size
    if channels != 3 or height != width:
        raise UsageError(
            f"timm/{name} does not take square RGB images",
            why=f"its input is {channels} x {height} x {width}",
            fix="take another model",
        )
    params, macs = _count(name, height)
    url, note = _locate(cfg)
    papers = [cfg.paper_ids] if isinstance(cfg.paper_ids, str) else [*(cfg.paper_ids or ())]
    return ModelCard(
        name=f"{TIMM}-{name}",
        family=TIMM,
        input_size=height,
        params=params,
        macs=macs,
        published={},
        paper=", ".join([f"{name} of timm {timm.__version__}", *papers, *([cfg.origin_url] if cfg.origin_url else [])]),
        licence=f"code Apache-2.0 (timm), weights {cfg.license or 'not stated by timm'}",
        weights_url=url,
        weights_note=note,
        size_step=1,
        crop_pct=float(cfg.crop_pct),
    )


def load(
    model: ModelCard,
    source: Source,
    num_classes: int | None,
    input_size: int | None,
    crop_pct: float | None,
    notify: Callable[[str], None],
) -> tuple[nn.Module, ModelSpec]:
    """Build a model of timm and fill it from a source.

    A checkpoint may have timm's parameter names, or those of the authors where timm knows how to convert them.

    Args:
        model: From `card`.
        source: Its weights.
        num_classes: Width of the classifier; None: the checkpoint's, or 1000.
        input_size: Side of the input in px; None: as timm's data config says.
        crop_pct: None: as timm's data config says.
        notify: Told what the user would not expect.

    Returns:
        The module in eval mode, float32, and what is known about it.

    Raises:
        UsageError: An option out of range, a size the model cannot take, or another number of classes than
            the checkpoint has.
        WeightsError: Unreadable, for another model, or with NaN or infinite values.
        ResourceError: It does not fit into memory.
    """
    name = model.name.removeprefix(f"{TIMM}-")
    weights.check_options(model, num_classes, input_size, crop_pct)
    size = input_size or model.input_size
    notes = [source.note] if source.note else []
    with weights.memory_for(model, input_size):
        built_for = None if size == model.input_size else _fit(name, model, size)
        if source.path is None:
            classes = num_classes or IMAGENET_CLASSES
            with torch.random.fork_rng(devices=[]):
                torch.default_generator.manual_seed(source.seed)
                module = _create(name, classes, built_for)
        else:
            found = read(source.path)
            state = weights.as_float32(found.tensors, source.path)
            classes = _count_classes(name, state, num_classes)
            weights.check_classes(classes, num_classes, source.path)
            module = _fill(name, state, classes, built_for, source.path)
            notes += weights.describe(found)
            resized = _describe_resizing(state, module, size)
            for note in resized:
                notify(note)
            notes += resized
    preprocess, unlike = _preprocess(name, size, crop_pct)
    for note in unlike:
        notify(note)
    provenance = Provenance(source.origin, source.sha256, source.path is not None, "; ".join([*notes, *unlike]))
    return module.eval(), ModelSpec(model.name, preprocess, classes, provenance, model, source.labels)


def _find(name: str) -> PretrainedCfg:
    """The record that timm keeps of a model: data config, classifier, where its weights are."""
    try:
        cfg = get_pretrained_cfg(name) if timm.is_model(name.partition(".")[0]) else None
    except RuntimeError:  # the architecture exists, the tag does not
        cfg = None
    if cfg is not None:
        return cfg
    known, base = timm.list_models(), name.partition(".")[0]
    tags = timm.list_models(f"{base}.*", pretrained=True) if base in known else []
    near = tags[:3] or difflib.get_close_matches(name, known, n=3, cutoff=0.6)
    family = re.match("[a-z]*", name)
    pattern = f"*{family[0]}*" if family and family[0] else "*"
    raise NotFoundError(
        f"timm {timm.__version__} has no model named '{name}'",
        why=f"did you mean {' or '.join(f'timm/{n}' for n in near)}?" if near else f"none of its {len(known)} is near",
        fix=f"""python -c "import timm; print(*timm.list_models('{pattern}'))" lists names""",
    )


def _create(
    name: str, classes: int, size: int | None = None, weights_from: Mapping[str, object] | None = None
) -> nn.Module:
    """One model, its attention written out as matrix products so that the graph shows them."""
    sized = {} if size is None else {"img_size": size}
    module: nn.Module = timm.create_model(
        name, num_classes=classes, exportable=True, **sized, **(weights_from or {"pretrained": False})
    )
    return module.eval()


def _count(name: str, size: int) -> tuple[int, int]:
    """Parameters and multiply-accumulates of one image; on the meta device, where nothing is computed."""
    counter = FlopCounterMode(display=False)
    try:
        with torch.device("meta"), counter, torch.inference_mode():
            module = _create(name, IMAGENET_CLASSES)
            module.requires_grad_(False)  # or the counter trips over a parameter that is the input of a module
            scores = module(torch.zeros(1, 3, size, size))
        found = str(tuple(scores.shape)) if isinstance(scores, Tensor) else type(scores).__name__
    except Exception as error:  # foreign code runs, any of some 1,400 models: anything can be raised
        found = _first_line(error)
    if found != str((1, IMAGENET_CLASSES)):
        raise StageError(
            f"timm/{name} is not a network that maps an image to classes",
            why=f"found {found}, needed an output of (1, {IMAGENET_CLASSES})",
            fix="take a classification model",
        )
    return sum(parameter.numel() for parameter in module.parameters()), counter.get_total_flops() // 2


def _locate(cfg: PretrainedCfg) -> tuple[str | None, str]:
    """Address of the weights on timm's hub, or why there is none."""
    if not cfg.hf_hub_id:
        return None, "timm has no weights of this model on its hub"
    url = f"{HUB}/{cfg.hf_hub_id}/resolve/main/{cfg.hf_hub_filename or 'model.safetensors'}"
    if cfg.custom_load:
        return None, f"timm's weights at {HUB}/{cfg.hf_hub_id} are in a format that only timm's own loader reads"
    if cfg.num_classes != IMAGENET_CLASSES:
        width = f"{cfg.num_classes} classes, not ImageNet's 1000" if cfg.num_classes else "no classifier"
        return None, f"timm's weights have {width}: fine-tune them, or save {url} and give it with --weights FILE"
    return url, ""


def _fit(name: str, model: ModelCard, size: int) -> int | None:
    """What `img_size` to build with so that the model takes images of another size; None where it needs none."""
    told, untold = (_try(name, size, built_for) for built_for in (size, None))
    if told is None:
        return size
    if untold is None:
        return None
    raise UsageError(
        f"timm/{name} cannot take {size} px images",
        why=untold if "img_size" in told else told,  # some cannot be told the size they are built for
        fix=f"--input-size {model.input_size}",
    )


def _try(name: str, size: int, built_for: int | None) -> str | None:
    """What a model says to an image of one size; None: it takes it."""
    try:
        with torch.device("meta"), torch.inference_mode():
            _create(name, 1, built_for)(torch.zeros(1, 3, size, size))
    except Exception as error:  # as in `_count`
        return _first_line(error)
    return None


def _count_classes(name: str, state: Mapping[str, Tensor], wanted: int | None) -> int:
    """Width of the classifier of a checkpoint; where none is found, `_fill` will say what is missing."""
    own = _find(name).classifier
    for layer in ([own] if isinstance(own, str) else [*(own or ())]) + [*CLASSIFIERS]:
        weight = state.get(f"{layer}.weight")
        if weight is not None and weight.ndim >= 2:
            return max(weight.shape[0], 1)
    return wanted or IMAGENET_CLASSES


def _fill(name: str, state: Mapping[str, Tensor], classes: int, size: int | None, path: Path) -> nn.Module:
    """A module with the tensors of a checkpoint, converted and resized by timm, complete and finite."""
    source = {"state_dict": dict(state), "num_classes": classes, "label_offset": 0, "custom_load": False}
    try:
        module = _load_strictly(name, source, classes, size)
    except Exception as error:  # timm's converters guess from names: for an alien file, anything can be raised
        if isinstance(error, MemoryError) or re.search(r"\balloc", str(error)):
            raise
        raise _misfit(name, state, classes, size, path, _first_line(error)) from error
    if module is None:
        raise _misfit(name, state, classes, size, path, "parameters are missing")
    broken = [key for key, value in module.state_dict().items() if not np.isfinite(value.numpy()).all()]
    if broken:
        raise WeightsError(
            f"{path} holds NaN or infinite values",
            why=f"in {', '.join(broken[:3])}{', ...' if len(broken) > 3 else ''}",
            fix="take an earlier checkpoint: the training diverged, or half precision overflowed",
        )
    return module


def _load_strictly(name: str, source: Mapping[str, object], classes: int, size: int | None) -> nn.Module | None:
    """Through timm's own loading; None where parameters would keep the values they were born with.

    A few families take no `pretrained_strict`, and of those some are not strict: there every name must be in the file.
    """
    options = {"pretrained": True, "pretrained_cfg_overlay": dict(source)}
    try:
        return _create(name, classes, size, options | {"pretrained_strict": True})
    except TypeError as error:
        if "pretrained_strict" not in str(error):
            raise
    module = _create(name, classes, size, options)
    state = source["state_dict"]
    expected = {key for key in module.state_dict() if not key.endswith("num_batches_tracked")}
    return module if isinstance(state, Mapping) and expected <= state.keys() else None


def _misfit(
    name: str, state: Mapping[str, Tensor], classes: int, size: int | None, path: Path, reason: str
) -> WeightsError:
    with torch.device("meta"):
        expected = _create(name, classes, size).state_dict()
    weights.refuse_grey(expected, state, path)
    differences = weights.compare(expected, state)
    if differences and all("of other shape" in text for text in differences) and size is not None:
        return WeightsError(
            f"{path} cannot be fitted to {size} px",
            why=differences[0] if "state_dict" in reason else f"timm fails to resample its tables: {reason}",
            fix="leave --input-size out, or give weights made for this size",
        )
    return WeightsError(
        f"{path} does not fit timm/{name}",
        why="; ".join(differences) or reason,
        fix=f"give a checkpoint of {name} with timm's parameter names",
    )


def _describe_resizing(state: Mapping[str, Tensor], module: nn.Module, size: int) -> list[str]:
    """Say so where timm resampled tables for another input size."""
    loaded = module.state_dict()
    changed = [key for key, value in state.items() if key in loaded and loaded[key].shape != value.shape]
    if not changed:
        return []
    return [f"timm resampled {len(changed)} tables ({changed[0]}, ...) for {size} px: accuracy may differ"]


def _preprocess(name: str, size: int, crop_pct: float | None) -> tuple[Preprocess, list[str]]:
    """The data config of timm, and what of it is done differently here."""
    data = resolve_data_config(pretrained_cfg=_find(name).to_dict())
    notes = []
    interpolation = data["interpolation"]
    if interpolation not in ("bicubic", "bilinear"):
        notes.append(f"timm resizes with '{interpolation}', here it is bicubic: accuracy may differ")
        interpolation = "bicubic"
    if data["crop_mode"] != "center":
        notes.append(
            f"timm evaluates with crop mode '{data['crop_mode']}', here the centre is cut: accuracy may differ"
        )
    crop = float(data["crop_pct"]) if crop_pct is None else crop_pct
    (r, g, b), (r_std, g_std, b_std) = data["mean"], data["std"]
    return Preprocess(size, crop, (r, g, b), (r_std, g_std, b_std), interpolation), notes


def _first_line(error: Exception) -> str:
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0][:200]}" if text else type(error).__name__
