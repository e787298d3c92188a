"""Read the TOML files that ship beside the code: find their folder, and check every key and type."""

import difflib
import math
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from edgehybrid.errors import InputError, NotFoundError, NotReadyError

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib


def home(kind: Literal["calib", "profiles"]) -> Path:
    """The folder: beside the modules in a wheel, beside the package in a checkout or an editable install."""
    package = Path(__file__).resolve().parents[1]
    for folder in (package / kind, package.parent / kind):
        if folder.is_dir():
            return folder
    raise NotReadyError(
        f"this installation has no {kind} folder",
        why=f"looked for {package / kind} and {package.parent / kind}",
        fix="install edgehybrid again",
    )


def read_toml(path: Path) -> dict[str, object]:
    """Every key of a file.

    Raises:
        NotFoundError: No such file.
        InputError: It cannot be read, or is not TOML.
    """
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


class Table:
    """One table of a TOML file: refuses unknown keys at once, and checks the type of each value it gives."""

    def __init__(self, path: Path, name: str, values: Mapping[str, object], known: tuple[str, ...] | None) -> None:
        self._path, self._name, self._values = path, name, values
        for key in sorted(values) if known is not None else ():
            if key not in (known or ()):
                near = difflib.get_close_matches(key, known or (), n=1)
                fix = f"did you mean '{near[0]}'?" if near else f"known: {', '.join(known or ())}"
                raise self.wrong(key, "no such key", fix)

    def names(self) -> tuple[str, ...]:
        """Every key."""
        return tuple(self._values)

    def value(self, key: str) -> object:
        """Whatever is under a key; None where nothing is."""
        return self._values.get(key)

    def text(self, key: str, default: str | None = None) -> str:
        """Text that is not empty; must be there without a default."""
        value = self._values.get(key, default)
        if not isinstance(value, str) or not (value.strip() or value == default):
            raise self.wrong(key, found(value), "give text")
        return value

    def count(self, key: str) -> int:
        """A whole number above 0."""
        value = self._values.get(key)
        if not isinstance(value, int) or isinstance(value, bool) or value < 1:
            raise self.wrong(key, found(value), "give a whole number above 0")
        return value

    def number(self, key: str) -> float | None:
        """A number above 0, None where there is none."""
        value = self._values.get(key)
        if value is None:
            return None
        if not isinstance(value, int | float) or isinstance(value, bool) or not 0 < value < math.inf:
            raise self.wrong(key, found(value), "give a number above 0, or leave it out")
        return float(value)

    def flag(self, key: str, default: bool) -> bool:
        """True or false."""
        value = self._values.get(key, default)
        if not isinstance(value, bool):
            raise self.wrong(key, found(value), "give true or false")
        return value

    def texts(self, key: str) -> tuple[str, ...]:
        """A list of texts, empty where there is none."""
        value = self._values.get(key, [])
        if not isinstance(value, list) or not all(isinstance(item, str) for item in value):
            raise self.wrong(key, found(value), "give a list of texts")
        return tuple(value)

    def choice(self, key: str, allowed: tuple[str, ...]) -> str:
        """One of the allowed texts."""
        value = self.text(key)
        if value not in allowed:
            raise self.wrong(key, found(value), f"give one of {', '.join(allowed)}")
        return value

    def choices(self, key: str, allowed: tuple[str, ...]) -> tuple[str, ...]:
        """Some of the allowed texts, at least one."""
        values = self.texts(key)
        if not values or not set(values) <= set(allowed):
            raise self.wrong(key, found(self._values.get(key)), f"give some of {', '.join(allowed)}")
        return values

    def table(self, key: str, known: tuple[str, ...] | None = None) -> "Table":
        """The table under a key, empty where there is none; `known` None: any key goes."""
        value = self._values.get(key, {})
        if not isinstance(value, dict):
            raise self.wrong(key, found(value), "give a table")
        return Table(self._path, self._under(key), value, known)

    def rows(self, key: str, known: tuple[str, ...]) -> list["Table"]:
        """A list of tables, empty where there is none."""
        value = self._values.get(key, [])
        if not isinstance(value, list) or not all(isinstance(item, dict) for item in value):
            raise self.wrong(key, found(value), "give a list of tables")
        return [Table(self._path, self._under(f"{key}[{n}]"), row, known) for n, row in enumerate(value)]

    def wrong(self, key: str, why: str, fix: str) -> InputError:
        """What to raise about a key."""
        return InputError(f"{self._path.name}: key '{self._under(key)}'", why=why, fix=fix)

    def _under(self, key: str) -> str:
        return f"{self._name}.{key}" if self._name else key


def found(value: object) -> str:
    """What stands in the place of what should."""
    return "missing" if value is None else f"found {value!r}"
