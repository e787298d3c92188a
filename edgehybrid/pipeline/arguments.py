"""Let Python callers write a path as text, a name as a path, and "R,G,B" as three numbers; refuse what makes no sense.

The command line's parser does both by itself.
"""

import difflib
import functools
import inspect
import os
import types
from collections.abc import Callable
from numbers import Integral, Real
from pathlib import Path
from typing import Literal, ParamSpec, TypeVar, Union, get_args, get_origin

from edgehybrid.errors import UsageError

P = ParamSpec("P")
R = TypeVar("R")

NAMES: dict[object, str] = {
    str: "text",
    int: "a whole number",
    float: "a number",
    bool: "True or False",
    Path: "a path",
    type(None): "None",
}
"""What is asked for, in words."""


def forgive(verb: Callable[P, R]) -> Callable[P, R]:
    """The same function, but it also takes text for a `Path`, a `Path` for text, one for a list, numbers for text.

    Raises:
        UsageError: By the function that is returned, for a value that its parameter cannot take.
    """
    signature = inspect.signature(verb)

    @functools.wraps(verb)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        bound = signature.bind(*args, **kwargs)
        for name, value in bound.arguments.items():
            parameter = signature.parameters[name]
            dashes = "--" if parameter.kind is parameter.KEYWORD_ONLY else ""
            bound.arguments[name] = _convert(
                value, parameter.annotation, dashes + name.replace("_", "-"), verb.__name__
            )
        return verb(*bound.args, **bound.kwargs)

    return call


def _convert(value: object, wanted: object, option: str, verb: str) -> object:
    """A value as one of the types that a parameter of a verb names."""
    kinds = get_args(wanted) if get_origin(wanted) in (Union, types.UnionType) else (wanted,)
    if value is None and type(None) in kinds:
        return None
    several = next((kind for kind in kinds if get_origin(kind) is list), None)
    if several is not None:
        items = value if isinstance(value, (list, tuple)) else [value]
        return [_convert(item, get_args(several)[0], option, verb) for item in items]
    choices = next((get_args(kind) for kind in kinds if get_origin(kind) is Literal), None)
    if choices is not None:
        return _chosen(value, choices, option)
    plain = value.tolist() if hasattr(value, "tolist") else value  # numbers and arrays of numpy and torch
    for kind in (kind for kind in kinds if kind in NAMES):
        if (found := _as(plain, kind)) is not None:
            return found
    numbers = [_as(number, float) for number in (plain if isinstance(plain, (list, tuple)) else [plain])]
    if str in kinds and None not in numbers:
        is_size = int in kinds  # height, width
        return "x".join(f"{number:g}" for number in numbers) if is_size else ",".join(map(str, numbers))
    needed = " or ".join(NAMES[kind] for kind in kinds if kind in NAMES)
    raise UsageError(
        f"{option} cannot be {repr(value)[:80]}",
        why=f"found {type(value).__name__}, needed {needed}",
        fix=f"help(edgehybrid.{verb})",
    )


def _as(value: object, kind: object) -> object:
    """A value as this type; None where it is of another."""
    if kind is bool:
        return value if isinstance(value, bool) else None
    if kind is int:
        return int(value) if isinstance(value, Integral) and not isinstance(value, bool) else None
    if kind is float:
        return float(value) if isinstance(value, Real) and not isinstance(value, bool) else None
    if kind is Path:
        return Path(value) if isinstance(value, (str, os.PathLike)) else None
    return os.fspath(value) if kind is str and isinstance(value, (str, os.PathLike)) else None


def _chosen(value: object, choices: tuple[object, ...], option: str) -> object:
    """One of the choices."""
    if isinstance(value, str) and value in choices:
        return value
    near = difflib.get_close_matches(str(value), map(str, choices), n=1)
    raise UsageError(
        f"{option} cannot be {repr(value)[:80]}",
        why=f"known: {', '.join(map(str, choices))}",
        fix=f"{option} {near[0] if near else choices[0]}",
    )
