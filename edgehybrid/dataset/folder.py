"""List the images of a folder and read labels off its subfolders."""

import os
from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from edgehybrid.dataset.picture import looks_like_image
from edgehybrid.errors import ImagesError

CLASSES_FILE = "classes.txt"
SPLITS = frozenset({"train", "training", "val", "valid", "validation", "test", "testing", "eval"})


@dataclass(frozen=True)
class Listing:
    """Image files by path relative to the folder, in ascending order, nothing decoded yet."""

    files: tuple[str, ...]
    labels: tuple[int, ...] | None
    classes: tuple[str, ...] = ()
    note: str = ""


def list_images(root: Path) -> Listing:
    """Find every image of a folder.

    Images in subfolders: each subfolder is a class, in ascending order of the names or in the order of
    `classes.txt` (one name a line), however deep its images lie. One subfolder alone is no choice of classes: it
    gives no labels unless `classes.txt` is there. Images right in the folder: no labels. Hidden files, links that
    lead round in a circle and files that are no images are passed over.

    Raises:
        ImagesError: No images, images both beside and inside subfolders, subfolders that are splits or empty, a
            folder that cannot be read, or a `classes.txt` that does not fit.
    """
    beside, folders = _scan(root)
    inside = {folder.name: _walk(folder, root) for folder in folders}
    filled = [name for name, files in inside.items() if files]
    if beside and filled:
        raise ImagesError(
            f"{shown(root)} has images both beside and inside folders",
            why=f"found {len(beside)} beside and more inside '{shown(filled[0])}', so the labels are unclear",
            fix="give a folder with only images, or with only one folder per class",
        )
    if beside:
        return Listing(tuple(sorted(path.name for path in beside)), None)
    if not filled:
        raise ImagesError(
            f"no images in {shown(root)}",
            why="found no JPEG, PNG, WebP, TIFF, BMP or GIF file there or in its folders",
            fix="give a folder with images, or an .npz with x",
        )
    if {name.lower() for name in filled} <= SPLITS:  # they would pass for classes of those names
        raise ImagesError(
            f"{shown(root)} holds splits, not classes",
            why=f"found {', '.join(shown(name) for name in filled)}",
            fix=f"give one of them: {shown(root / filled[0])}",
        )
    labelled = (root / CLASSES_FILE).exists()
    if len(filled) == 1 and not labelled:
        unless = f"unless a {CLASSES_FILE} beside it lists every class"
        note = f"all images lie in one folder, '{shown(filled[0])}', which gives no class number {unless}"
        return Listing(tuple(sorted(inside[filled[0]])), None, note=note)
    classes = _read_classes(root / CLASSES_FILE, filled) if labelled else _sort_classes(root, inside)
    number = {name: index for index, name in enumerate(classes)}
    pairs = sorted((file, number[name]) for name in filled for file in inside[name])
    return Listing(tuple(file for file, _ in pairs), tuple(label for _, label in pairs), classes)


def shown(name: str | Path) -> str:
    """A name as it can be printed on one line: control characters and undecodable bytes are escaped."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(name))


def _walk(folder: Path, root: Path) -> list[str]:
    """Every image below a folder, each folder visited once however many links lead to it."""
    found: list[str] = []
    seen = {_identity(root)}
    waiting = deque([folder])
    while waiting:
        current = waiting.popleft()
        if _identity(current) in seen:
            continue
        seen.add(_identity(current))
        files, folders = _scan(current)
        found += [file.relative_to(root).as_posix() for file in files]
        waiting += folders
    return found


def _scan(folder: Path) -> tuple[list[Path], list[Path]]:
    """Images and folders right in a folder, each in ascending order."""
    files, folders = [], []
    try:
        with os.scandir(folder) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                if entry.name.startswith(".") or entry.name == "__MACOSX":
                    continue
                if _is_folder(entry):
                    folders.append(folder / entry.name)
                elif looks_like_image(entry):
                    files.append(folder / entry.name)
    except OSError as error:
        raise ImagesError(
            f"cannot read the folder {shown(folder)}",
            why=error.strerror or str(error),
            fix="check the path and its permissions",
        ) from error
    return files, folders


def _is_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False  # a link to itself, for one; reading it as an image will give the reason


def _identity(folder: Path) -> tuple[int, int]:
    status = folder.stat()
    return status.st_dev, status.st_ino


def _sort_classes(root: Path, inside: Mapping[str, list[str]]) -> tuple[str, ...]:
    """An empty folder may be a class without images or no class at all; the labels of all after it hang on that."""
    empty = [name for name, files in inside.items() if not files]
    if empty:
        raise ImagesError(
            f"folder '{shown(empty[0])}' of {shown(root)} holds no images",
            why="found other folders with images, so it is either a class to count or no class",
            fix=f"remove it, or name the classes in {CLASSES_FILE}, one a line",
        )
    return tuple(sorted(inside))


def _read_classes(path: Path, filled: list[str]) -> tuple[str, ...]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise ImagesError(
            f"cannot read {shown(path)}", why=str(error), fix="one class name a line, in UTF-8"
        ) from error
    classes = tuple(line.strip() for line in lines if line.strip())
    unknown = sorted(set(filled) - set(classes))
    if unknown or len(set(classes)) != len(classes):
        twice = sorted({name for name in classes if classes.count(name) > 1})
        raise ImagesError(
            f"{shown(path)} does not fit its folder",
            why=f"folder '{shown(unknown[0])}' is not in it" if unknown else f"'{shown(twice[0])}' is in it twice",
            fix="list every class folder once, in the order of the model's outputs",
        )
    return classes
