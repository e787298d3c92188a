"""Read the names of a model's classes from a file: one per line, or the JSON that timm and Hugging Face write."""

import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path

from edgehybrid.errors import InputError, NotFoundError

LARGEST_FILE = 16 * 2**20  # bytes; the names of ImageNet-21k take 0.6 MB
FORMS = "one name per line, a JSON list, or a JSON object of index and name"
WRAPPERS = ("id2label", "label_names", "label2id", "class_to_idx")
"""Keys under which a config.json keeps the names: Hugging Face, timm, Hugging Face again, torchvision."""


def read_class_names(path: Path) -> tuple[str, ...]:
    """The names in class order.

    Args:
        path: Text with one name per line; or JSON: a list, an object of index -> name, of name -> index, of
            index -> [identifier, name], or a config.json with one of these under a key of `WRAPPERS`.

    Raises:
        NotFoundError: No such file.
        InputError: Empty, not text, a line without a name, or indexes that are not 0, 1, 2, ... each once.
    """
    if not path.is_file():
        raise NotFoundError(f"no file {path}", why="class names are read from a file", fix=f"give {FORMS}")
    try:
        if path.stat().st_size > LARGEST_FILE:
            raise _wrong(path, f"found {path.stat().st_size:,} bytes, needed a list of names", f"give {FORMS}")
        text = path.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise _wrong(path, f"byte {error.start} is no UTF-8 text", f"give {FORMS}") from error
    except OSError as error:
        raise _wrong(path, error.strerror or type(error).__name__, "check its permissions") from error
    if path.suffix.lower() == ".json" or text.lstrip()[:1] in ("{", "["):
        return check_class_names(_from_json(path, text), path)
    lines = [line.strip() for line in text.rstrip().split("\n")] if text.strip() else []
    if "" in lines:
        raise _wrong(
            path,
            f"line {lines.index('') + 1} is empty: the names after it would move by one",
            "remove the line, or put the missing name there",
        )
    return check_class_names(lines, path)


def check_class_names(names: Sequence[object], path: Path) -> tuple[str, ...]:
    """Texts that can be shown, one per class.

    Raises:
        InputError: None at all, or one that is empty or no text.
    """
    if not names:
        raise _wrong(path, "found no name", f"give {FORMS}")
    for index, name in enumerate(names):
        if not isinstance(name, str) or not name.strip() or re.search(r"[\x00-\x1f\x7f]", name.strip()):
            raise _wrong(path, f"the name of class {index} is {str(name)[:40]!r}", "give each class a name in text")
    return tuple(str(name).strip() for name in names)


def _from_json(path: Path, text: str) -> list[object]:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError) as error:
        raise _wrong(path, f"no valid JSON: {error}"[:200], f"give {FORMS}") from error
    found = [key for key in WRAPPERS if isinstance(value, Mapping) and isinstance(value.get(key), Mapping | list)]
    value = value[found[0]] if found else value
    if isinstance(value, list):
        return value
    if not isinstance(value, Mapping):
        raise _wrong(path, f"found a JSON {type(value).__name__}", f"give {FORMS}")
    pairs = [_pair(key, entry) for key, entry in value.items()]
    if None in pairs:
        key, entry = next((k, v) for (k, v), pair in zip(value.items(), pairs, strict=True) if pair is None)
        raise _wrong(path, f"found {str(key)[:40]!r}: {str(entry)[:40]!r}, neither index nor name", f"give {FORMS}")
    by_index = dict(pair for pair in pairs if pair is not None)
    if sorted(by_index) != list(range(len(value))):
        missing = next(index for index in range(len(value) + 1) if index not in by_index)
        raise _wrong(
            path,
            f"{len(value)} names, but none has the index {missing}, or two share one",
            "number the classes 0, 1, 2, ... each once",
        )
    return [by_index[index] for index in range(len(value))]


def _pair(key: str, entry: object) -> tuple[int, object] | None:
    """Index and name of one entry, whichever way round; None where there is no index."""
    if isinstance(entry, int) and not isinstance(entry, bool):
        return entry, key
    if not re.fullmatch(r"\d{1,7}", key):
        return None
    name = entry[-1] if isinstance(entry, list) and len(entry) == 2 else entry  # ["n01440764", "tench"]
    return int(key), name


def _wrong(path: Path, why: str, fix: str) -> InputError:
    return InputError(f"cannot use {path} as class names", why=why, fix=fix)
