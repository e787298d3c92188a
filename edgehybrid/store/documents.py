"""Records to strict JSON and back."""

import json
import types
import typing
from collections.abc import Mapping, Sequence
from dataclasses import fields, is_dataclass
from typing import Literal, TypeVar, Union, get_args, get_origin

T = TypeVar("T")


def to_json(value: object) -> bytes:
    """Deterministic, strict JSON of records, mappings and sequences, with a final newline.

    A name of a file that is no UTF-8 keeps its bytes as JSON's escapes.
    """

    def plain(x: object) -> object:
        if is_dataclass(x) and not isinstance(x, type):
            return {field.name: getattr(x, field.name) for field in fields(x)}
        if isinstance(x, Mapping):
            return dict(x)
        raise TypeError(f"not serialisable: {type(x)}")

    text = json.dumps(value, default=plain, indent=1, ensure_ascii=False, allow_nan=False)
    return text.encode(errors="backslashreplace") + b"\n"


def decode(kind: type[T], data: object) -> T:
    """A record from what `to_json` made of it, checked field by field.

    Args:
        kind: A frozen dataclass of records.py, or a type that appears in one.
        data: Parsed JSON.

    Raises:
        ValueError: A field is missing, unknown or of another type; the message names it.
    """
    return typing.cast(T, _decode(kind, data, kind.__name__))


def _decode(kind: object, data: object, where: str) -> object:
    origin, args = get_origin(kind), get_args(kind)
    if origin in (Union, types.UnionType):
        return _decode_union(args, data, where)
    if origin is Literal:
        if data not in args:
            raise ValueError(f"{where}: found {data!r}, needed one of {args}")
        return data
    if isinstance(kind, type) and is_dataclass(kind):
        return _decode_record(kind, data, where)
    if origin is tuple:
        if not isinstance(data, Sequence) or isinstance(data, str):
            raise ValueError(f"{where}: needed a list")
        kinds = [args[0]] * len(data) if len(args) == 2 and args[1] is ... else list(args)
        if len(kinds) != len(data):
            raise ValueError(f"{where}: needed {len(kinds)} items, found {len(data)}")
        return tuple(_decode(k, x, f"{where}[{i}]") for i, (k, x) in enumerate(zip(kinds, data, strict=True)))
    if origin is Mapping:
        if not isinstance(data, Mapping):
            raise ValueError(f"{where}: needed an object")
        return {str(k): _decode(args[1], v, f"{where}.{k}") for k, v in data.items()}
    if isinstance(data, int) and not isinstance(data, bool) and kind in (int, float):
        try:
            number = float(data)
        except OverflowError as error:
            raise ValueError(f"{where}: the number is too large") from error
        return data if kind is int else number
    if isinstance(kind, type) and type(data) is kind:
        return data
    raise ValueError(f"{where}: found {type(data).__name__}, needed {kind}")


def _decode_union(kinds: Sequence[object], data: object, where: str) -> object:
    if data is None and type(None) in kinds:
        return None
    problem = ValueError(f"{where}: found null")
    for kind in kinds:
        if kind is not type(None):
            try:
                return _decode(kind, data, where)
            except ValueError as error:
                problem = error
    raise problem


def _decode_record(kind: type, data: object, where: str) -> object:
    if not isinstance(data, Mapping):
        raise ValueError(f"{where}: needed an object, found {type(data).__name__}")
    hints = typing.get_type_hints(kind)
    names = {f.name for f in fields(kind)}
    if unknown := sorted(set(data) - names):
        raise ValueError(f"{where}: unknown field {unknown[0]!r}")
    values = {name: _decode(hints[name], data[name], f"{where}.{name}") for name in names if name in data}
    try:
        return kind(**values)
    except TypeError as error:
        raise ValueError(f"{where}: {error}") from error
