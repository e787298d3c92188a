"""Find what ships beside the code, `profiles/` (targets) and `calib/` (image sets), parsed into records."""

import difflib
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Literal, cast, get_args

from edgehybrid.errors import InputError, NotFoundError, NotReadyError, unknown_name
from edgehybrid.records import Dialect, Figure, Precision, SetCard, SetFile, SetPart, Target

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

Backend = Literal["onnxruntime", "tensorrt", "tensorrt-rtx"]
Split = Literal["calib", "eval"]
"""What images are for: `calib` chooses the int8 ranges, `eval` measures the result. They share no image."""

TARGET_KEYS = ("name", "title", "backend", "dialect", "precisions", "notes", "figures")
FIGURE_KEYS = ("value", "unit", "source")
SET_KEYS = ("name", "title", "licence", "note", "classes", "parts")
PART_KEYS = ("kind", "images", "files")
FILE_KEYS = ("path", "sha256", "source", "licence")


# --- targets --------------------------------------------------------------------------------------


def targets() -> tuple[str, ...]:
    """Every target by name, sorted. `auto` is no target but a choice among them."""
    return tuple(sorted(path.stem for path in _home("profiles").glob("*.toml")))


def load_target(name_or_path: str | Path) -> Target:
    """Read one target.

    Args:
        name_or_path: A name of `targets()`, or a TOML file of your own: a value with a slash or ending in
            `.toml` is a path.

    Raises:
        NotFoundError: No such name (near misses are suggested) or no such file.
        InputError: The file is not TOML, or a key is missing, unknown or holds something else than it should.
    """
    text = str(name_or_path)
    if isinstance(name_or_path, Path) or "/" in text or text.endswith(".toml"):
        return _parse_target(Path(name_or_path))
    if text not in targets():
        raise unknown_name("target", text, targets(), "edgehybrid targets")
    return _parse_target(_home("profiles") / f"{text}.toml")


def _parse_target(path: Path) -> Target:
    table = _Table(path, "", _read_toml(path), TARGET_KEYS)
    figures = table.table("figures")
    return Target(
        name=table.text("name"),
        title=table.text("title"),
        backend=cast(Backend, table.choice("backend", get_args(Backend))),
        dialect=cast(Dialect, table.choice("dialect", get_args(Dialect))),
        precisions=cast(tuple[Precision, ...], table.choices("precisions", get_args(Precision))),
        figures={key: _parse_figure(figures.table(key, FIGURE_KEYS)) for key in figures.names()},
        notes=table.texts("notes"),
    )


def _parse_figure(table: "_Table") -> Figure:
    """No value means unknown; a source is there even so, to say what was looked for and where."""
    value = table.value("value")
    if isinstance(value, float) and not math.isfinite(value):
        value = []  # refused below: an unknown figure has no value rather than a NaN
    if value is not None and (isinstance(value, bool) or not isinstance(value, str | int | float)):
        raise table.wrong("value", _found(table.value("value")), "give text or a number, or leave it out")
    return Figure(value=value, source=table.text("source"), unit=table.text("unit", ""))


# --- image sets -----------------------------------------------------------------------------------


def image_sets() -> tuple[str, ...]:
    """Every bundled image set by name, sorted."""
    return tuple(sorted(path.parent.name for path in _home("calib").glob("*/manifest.toml")))


def find_image_set(name: str) -> Path:
    """The folder of a bundled image set.

    Raises:
        NotFoundError: No such set; near misses are suggested.
    """
    if name not in image_sets():
        raise unknown_name("image set", name, image_sets(), f"give a folder or {' or '.join(image_sets())}")
    return _home("calib") / name


def load_image_set(name: str) -> SetCard:
    """Read the manifest of a bundled image set; the images themselves are not touched.

    Raises:
        NotFoundError: No such set; near misses are suggested.
        InputError: The manifest is damaged.
    """
    path = find_image_set(name) / "manifest.toml"
    table = _Table(path, "", _read_toml(path), SET_KEYS)
    parts = table.table("parts", get_args(Split))
    return SetCard(
        name=table.text("name"),
        title=table.text("title"),
        licence=table.text("licence"),
        note=table.text("note", ""),
        classes=table.texts("classes"),
        parts={key: _parse_part(parts.table(key, PART_KEYS)) for key in parts.names()},
    )


def _parse_part(table: "_Table") -> SetPart:
    kind = cast(Literal["images", "npz"], table.choice("kind", ("images", "npz")))
    files = tuple(_parse_file(row) for row in table.rows("files", FILE_KEYS))
    if not files or (kind == "npz" and len(files) != 1):
        raise table.wrong("files", f"found {len(files)} files", "one .npz, or at least one image")
    return SetPart(kind, table.count("images"), files)


def _parse_file(table: "_Table") -> SetFile:
    path = table.text("path")
    if Path(path).is_absolute() or ".." in Path(path).parts:
        raise table.wrong("path", f"found {path!r}, which leaves the folder of the set", "stay inside it")
    return SetFile(path, table.text("sha256"), table.text("source"), table.text("licence", ""))


# --- reading --------------------------------------------------------------------------------------


def _home(kind: Literal["calib", "profiles"]) -> Path:
    """The folder: beside the modules in a wheel, beside the package in a checkout or an editable install."""
    package = Path(__file__).resolve().parent
    for folder in (package / kind, package.parent / kind):
        if folder.is_dir():
            return folder
    raise NotReadyError(
        f"this installation has no {kind} folder",
        why=f"looked for {package / kind} and {package.parent / kind}",
        fix="install edgehybrid again",
    )


def _read_toml(path: Path) -> dict[str, object]:
    try:
        with path.open("rb") as file:
            return tomllib.load(file)
    except FileNotFoundError as error:
        raise NotFoundError(
            f"no file {path}", why="a value with a slash or ending in .toml is a path", fix="check the path"
        ) from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"{path} is not valid TOML", why=str(error), fix="correct the file") from error
    except OSError as error:
        why = error.strerror or str(error)
        raise InputError(f"cannot read {path}", why=why, fix="check the path and its permissions") from error


class _Table:
    """One table of a TOML file: refuses unknown keys at once, and checks the type of each value it gives."""

    def __init__(self, path: Path, name: str, values: Mapping[str, object], known: tuple[str, ...] | None) -> None:
        self._path, self._name, self._values = path, name, values
        for key in sorted(values) if known is not None else ():
            if key not in (known or ()):
                near = difflib.get_close_matches(key, known or (), n=1)
                fix = f"did you mean '{near[0]}'?" if near else f"known: {', '.join(known or ())}"
                raise self.wrong(key, "no such key", fix)

    def names(self) -> tuple[str, ...]:
        return tuple(self._values)

    def value(self, key: str) -> object:
        return self._values.get(key)

    def text(self, key: str, default: str | None = None) -> str:
        value = self._values.get(key, default)
        if not isinstance(value, str) or not (value.strip() or value == default):
            raise self.wrong(key, _found(value), "give text")
        return value

    def count(self, key: str) -> int:
        value = self._values.get(key)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise self.wrong(key, _found(value), "give a whole number above 0")
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        value = self._values.get(key, [])
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise self.wrong(key, _found(value), "give a list of texts")
        return tuple(value)

    def choice(self, key: str, allowed: tuple[str, ...]) -> str:
        value = self.text(key)
        if value not in allowed:
            raise self.wrong(key, _found(value), f"give one of {', '.join(allowed)}")
        return value

    def choices(self, key: str, allowed: tuple[str, ...]) -> tuple[str, ...]:
        values = self.texts(key)
        if not values or not set(values) <= set(allowed):
            raise self.wrong(key, _found(self._values.get(key)), f"give some of {', '.join(allowed)}")
        return values

    def table(self, key: str, known: tuple[str, ...] | None = None) -> "_Table":
        """The table under a key, empty where there is none; `known` None: any key goes."""
        value = self._values.get(key, {})
        if not isinstance(value, dict):
            raise self.wrong(key, _found(value), "give a table")
        return _Table(self._path, self._under(key), value, known)

    def rows(self, key: str, known: tuple[str, ...]) -> list["_Table"]:
        value = self._values.get(key, [])
        if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
            raise self.wrong(key, _found(value), "give a list of tables")
        return [_Table(self._path, self._under(f"{key}[{n}]"), row, known) for n, row in enumerate(value)]

    def wrong(self, key: str, why: str, fix: str) -> InputError:
        return InputError(f"{self._path.name}: key '{self._under(key)}'", why=why, fix=fix)

    def _under(self, key: str) -> str:
        return f"{self._name}.{key}" if self._name else key


def _found(value: object) -> str:
    return "missing" if value is None else f"found {value!r}"
