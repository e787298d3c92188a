"""What the user says of a model's input and classes: options and a TOML file, checked before anything is computed."""

import math
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import cast, get_args

from edgehybrid.dataset.class_names import check_class_names, read_class_names
from edgehybrid.errors import EdgeHybridError, InputError, NotFoundError, UsageError
from edgehybrid.printable import counted
from edgehybrid.records import Interpolation, ModelSpec, Preprocess, Stated
from edgehybrid.resources.tables import read_toml
from edgehybrid.sizes import Size, size_of, spelled

KEYS = ("size", "crop_pct", "mean", "std", "interpolation", "labels")
COPIED = ("crop_pct", "mean", "std", "interpolation")
"""Fields of `Stated` that are those of `Preprocess`."""
NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")
SIZE = re.compile(r"0*([1-9]\d{0,5})(?:[xX\u00d7]0*([1-9]\d{0,5}))?")
LARGEST_MEAN, LARGEST_STD = 1.0, 4.0
"""Of pixels between 0 and 1; larger ones are those of pixels up to 255."""


def read_stated(
    preprocess: Path | None = None,
    labels: Path | None = None,
    size: int | str | None = None,
    crop_pct: float | None = None,
    mean: str | None = None,
    std: str | None = None,
    interpolation: Interpolation | None = None,
) -> Stated:
    """Everything that options and file say; an option wins over the file.

    Args:
        preprocess: A TOML file with any of `KEYS`; `labels` is a list of names, or a file beside it.
        labels: A file of class names, see `read_class_names`.
        size: As `read_size` takes it.
        crop_pct: As in `Preprocess`.
        mean: "R,G,B" of pixels between 0 and 1.
        std: Likewise.
        interpolation: As in `Preprocess`.

    Raises:
        UsageError: An option out of range.
        NotFoundError: No such file.
        InputError: A file that is no TOML, or with a key that is unknown, of another type or out of range.
    """
    found = Stated() if preprocess is None else _read_file(preprocess)
    if size is not None:
        found = replace(found, size=read_size(size))  # held against the model when it is opened
    if crop_pct is not None:
        found = replace(found, crop_pct=_check_crop(crop_pct, None))
    if mean is not None:
        found = replace(found, mean=_check_colour("mean", _split("mean", mean), None))
    if std is not None:
        found = replace(found, std=_check_colour("std", _split("std", std), None))
    if interpolation is not None:
        found = replace(found, interpolation=interpolation)
    if labels is not None:
        found = replace(found, labels=read_class_names(labels), labels_from=str(labels))
    return found


def read_size(value: int | str | None) -> Size | None:
    """The size of the input that an option asks for: None, or px as a number, as text, or as "384x640", height first.

    Raises:
        UsageError: Anything else.
    """
    if value is None:
        return None
    parts = SIZE.fullmatch(str(value).strip())
    if isinstance(value, bool) or parts is None:
        why = f"found {value!r}, needed a side in px from 1 on, or height and width"
        raise UsageError("--input-size cannot be used", why=why, fix="such as 224 or 384x640, height first")
    height, width = parts.groups()
    return size_of(int(height), int(width or height))


def apply_stated(spec: ModelSpec, stated: Stated, *, assumed: bool) -> ModelSpec:
    """A model as the user wants it, with a note for everything that is not as the model has it.

    Args:
        spec: As the model's card, checkpoint or file says.
        stated: As the user says.
        assumed: The preprocessing of `spec` is only the usual one: its file does not tell.

    Raises:
        UsageError: Another size than the network was made for.
        InputError: Another number of names than the model has classes.
    """
    own = spec.preprocess
    if stated.size is not None and stated.size != own.size:
        raise UsageError(
            f"{spec.name} does not take {spelled(stated.size)} px",
            why=f"it is built for {spelled(own.size)} px",
            fix="leave the size out, or build again with it",
        )
    merged = _fill(own, stated)
    notes = [*spec.notes]
    if assumed and (absent := [f"{k} {_text(getattr(own, k))}" for k in COPIED if getattr(stated, k) is None]):
        notes.append(
            f"an ONNX file does not say how its images are prepared, assumed: {', '.join(absent)}; say it with --mean, "
            "--std, --crop-pct, --interpolation or --preprocess FILE.toml"
        )
    changed = [key for key in COPIED if getattr(merged, key) != getattr(own, key)]
    if changed and not assumed:
        differences = [f"{k} {_text(getattr(merged, k))} instead of {_text(getattr(own, k))}" for k in changed]
        notes.append(f"preprocessing as asked for, not the model's own: {', '.join(differences)}")
    if stated.labels:
        _check_count(stated, spec.classes, spec.name)
    return replace(spec, preprocess=merged, labels=stated.labels or spec.labels, notes=tuple(notes))


def _fill(preprocess: Preprocess, stated: Stated) -> Preprocess:
    """Preprocessing with what the user says put over it; the size stays."""
    return replace(
        preprocess,
        crop_pct=preprocess.crop_pct if stated.crop_pct is None else stated.crop_pct,
        mean=stated.mean or preprocess.mean,
        std=stated.std or preprocess.std,
        interpolation=stated.interpolation or preprocess.interpolation,
    )


def _check_count(stated: Stated, classes: int, model: str) -> None:
    """Refuse class names that are more or fewer than the classes (InputError)."""
    count = len(stated.labels)
    if count == classes:
        return
    hint = "remove its heading, or a name for the background" if count == classes + 1 else "give one name per class"
    raise InputError(
        f"{stated.labels_from} does not fit {model}",
        why=f"it has {counted(count, 'class name')}, the model {counted(classes, 'class')}",
        fix=f"{hint}, in the order of the training",
    )


def _read_file(path: Path) -> Stated:
    if not path.is_file():
        raise NotFoundError(
            f"no file {path}", why="--preprocess takes a TOML file", fix=f"write one with {', '.join(KEYS)}"
        )
    values = read_toml(path)
    for key in values:
        if key not in KEYS:
            raise _wrong(path, key, "no such key", f"known: {', '.join(KEYS)}")
    size, crop = values.get("size"), values.get("crop_pct")
    mean, std, way = values.get("mean"), values.get("std"), values.get("interpolation")
    if way is not None and way not in get_args(Interpolation):
        raise _wrong(path, "interpolation", f"found {way!r}", f"give one of {', '.join(get_args(Interpolation))}")
    names, origin = _names(path, values.get("labels"))
    return Stated(
        size=None if size is None else _check_size(size, path),
        crop_pct=None if crop is None else _check_crop(crop, path),
        mean=None if mean is None else _check_colour("mean", mean, path),
        std=None if std is None else _check_colour("std", std, path),
        interpolation=cast(Interpolation | None, way),
        labels=names,
        labels_from=origin,
    )


def _names(path: Path, value: object) -> tuple[tuple[str, ...], str]:
    """Class names of a TOML file, and where they were read."""
    if value is None:
        return (), ""
    if isinstance(value, str) and value.strip():
        return read_class_names(path.parent / value), str(path.parent / value)
    if isinstance(value, list):
        return check_class_names(value, path), str(path)
    raise _wrong(path, "labels", f"found {value!r}", "give a list of names, or the name of a file beside this one")


def _split(option: str, text: str) -> list[object]:
    """The numbers of "R,G,B"; what is no number stays text, to be named by the check."""
    parts = text.strip("[]() ").replace(",", " ").split()
    return [float(part) if NUMBER.fullmatch(part) else part for part in parts]


def _check_colour(name: str, value: object, path: Path | None) -> tuple[float, float, float]:
    """Three numbers, one per channel, in the scale of pixels between 0 and 1."""
    parts = list(value) if isinstance(value, Sequence) and not isinstance(value, str) else [value]
    plain = [p for p in parts if isinstance(p, int | float) and not isinstance(p, bool) and math.isfinite(p)]
    example = "0.485, 0.456, 0.406" if name == "mean" else "0.229, 0.224, 0.225"
    if len(parts) != 3 or len(plain) != 3:
        found = ", ".join(str(part)[:20] for part in parts)
        raise _wrong(path, name, f"found {found or 'nothing'}, needed three numbers: R, G, B", f"such as {example}")
    limit = LARGEST_MEAN if name == "mean" else LARGEST_STD
    if any(abs(number) > limit for number in plain):
        scaled = ",".join(f"{number / 255:.4g}" for number in plain)
        why = f"found {_text(tuple(plain))}, as for pixels up to 255; here they are brought to 0..1 first"
        raise _wrong(path, name, why, f"divide by 255: {scaled}")
    if name == "std" and min(plain) <= 0:
        raise _wrong(path, name, f"found {_text(tuple(plain))}", "give three numbers above 0")
    red, green, blue = (float(number) for number in plain)
    return red, green, blue


def _check_size(value: object, path: Path) -> Size:
    parts = value if isinstance(value, list) and len(value) == 2 else [value]
    plain = [p for p in parts if isinstance(p, int) and not isinstance(p, bool) and p > 0]
    if len(plain) != len(parts):
        raise _wrong(path, "size", f"found {value!r}", "give the side of the input in px, or [height, width]")
    return size_of(plain[0], plain[-1])


def _check_crop(value: object, path: Path | None) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value <= 1:
        why = f"found {value!r}: it is the part of the shorter side that the network sees, above 0 and at most 1"
        raise _wrong(path, "crop_pct", why, "0.875 is usual, 1.0 cuts nothing from a square image")
    return float(value)


def _wrong(path: Path | None, key: str, why: str, fix: str) -> EdgeHybridError:
    """The error of an option, or of a key in a file."""
    if path is None:
        return UsageError(f"--{key.replace('_', '-')} cannot be used", why=why, fix=fix)
    return InputError(f"{path}: key '{key}'", why=why, fix=fix)


def _text(value: object) -> str:
    return ",".join(f"{part:g}" for part in value) if isinstance(value, tuple) else str(value)
