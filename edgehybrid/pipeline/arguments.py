"""Let Python callers write a path as text, a name as a path, and "R,G,B" as three numbers."""

import functools
import inspect
from collections.abc import Callable
from numbers import Real
from pathlib import Path
from typing import ParamSpec, TypeVar, get_args, get_origin

P = ParamSpec("P")
R = TypeVar("R")


def forgive(verb: Callable[P, R]) -> Callable[P, R]:
    """The same function, but it also takes text for a `Path`, a `Path` for text, one for a list, numbers for text."""
    signature = inspect.signature(verb)

    @functools.wraps(verb)
    def call(*args: P.args, **kwargs: P.kwargs) -> R:
        bound = signature.bind(*args, **kwargs)
        for name, value in bound.arguments.items():
            bound.arguments[name] = _convert(value, signature.parameters[name].annotation)
        return verb(*bound.args, **bound.kwargs)

    return call


def _convert(value: object, wanted: object) -> object:
    kinds = {wanted, *get_args(wanted)}
    several = next((kind for kind in kinds if get_origin(kind) is list), None)
    if several is not None and value is not None:
        items = value if isinstance(value, (list, tuple)) else [value]
        return [_convert(item, get_args(several)[0]) for item in items]
    if isinstance(value, str) and Path in kinds and str not in kinds:
        return Path(value)
    if isinstance(value, Path) and str in kinds and Path not in kinds:
        return str(value)
    if isinstance(value, (list, tuple)) and str in kinds and all(isinstance(item, Real) for item in value):
        return ",".join(str(float(item)) for item in value)
    return value
