"""Where images come from: a folder, an .npz or a bundled set, found and not yet decoded."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edgehybrid import resources
from edgehybrid.dataset import archive, folder, picture
from edgehybrid.dataset.folder import shown
from edgehybrid.errors import ArtifactError, ImagesError, NotFoundError
from edgehybrid.records import SetPart

FULL_CHECK = 2000
"""Up to so many images are decoded once before the work begins; of more, only headers are looked at."""
USES = {"calib": "calibration", "eval": "evaluation"}


class Pictures(Protocol):
    """Where images come from: files or an .npz."""

    @property
    def keys(self) -> Sequence[str]:
        """One name per image, in ascending order of the source: what sampling and messages go by."""

    def probe(self, indexes: Sequence[int]) -> Iterator[bytes | str]:
        """For each image the sha256 of its content, or why it cannot be read."""

    def open(self, indexes: Sequence[int]) -> Iterator[Image.Image]:
        """Each image, upright and RGB. Raises ImagesError where one cannot be read."""


@dataclass(frozen=True)
class Source:
    """A resolved `--calib` or `--eval`, nothing decoded yet."""

    name: str
    place: str
    pictures: Pictures
    labels: NDArray[np.int64] | None
    classes: tuple[str, ...] = ()
    licence: str = ""
    note: str = ""


def resolve(source: str | Path, split: resources.Split) -> Source:
    """Find a source by what a user calls it; a bundled set wins over a folder of its name.

    Args:
        source: As `dataset.load` takes it.
        split: Which part of a bundled set.

    Raises:
        NotFoundError: No such set, folder or file.
        ImagesError: It cannot be reached, or is of another kind.
        ArtifactError: A bundled set does not match its manifest.
    """
    text, path = str(source), Path(source)
    if isinstance(source, str) and text in resources.image_sets():
        return _bundled(text, split)
    try:
        is_folder, is_file = path.is_dir() and text != "", path.is_file()
    except OSError as error:  # a folder on the way is closed, or the name is too long
        raise ImagesError(
            f"cannot reach {shown(text)[:200]}",
            why=error.strerror or str(error),
            fix="check the path and its permissions",
        ) from error
    if is_folder:
        return _folder(path, split)
    if is_file:
        if path.suffix.lower() == ".npz":
            return _npz(path)
        image = path.suffix.lower() in picture.SUFFIXES
        raise ImagesError(
            f"cannot use {shown(path)}",
            why=f"found {'one image' if image else 'a file'}, needed a folder of images or an .npz",
            fix="give the folder that it lies in" if image else "give a folder with images, or an .npz with x",
        )
    if isinstance(source, str) and text and "/" not in text and not path.suffix:
        resources.find_image_set(text)  # raises, with near misses
    raise NotFoundError(f"no images at '{shown(text)}'", why="there is no such folder or file", fix="check the path")


def _bundled(name: str, split: resources.Split) -> Source:
    card, home = resources.load_image_set(name), resources.find_image_set(name)
    part = card.parts.get(split)
    if part is None:
        found = " and ".join(USES[key] for key in card.parts)
        raise ImagesError(
            f"the bundled set '{name}' is not for {USES[split]}",
            why=f"found images for {found}{'' if card.classes else ', without labels'}",
            fix="give a folder with one subfolder per class, an .npz with x and y, or --eval fashion-mnist",
        )
    _verify(name, home, part)
    if part.kind == "npz":
        opened = archive.open_archive(home / part.files[0].path)
        pictures: Pictures = _Rows(opened)
        labels = opened.labels
    else:
        pictures, labels = _Files(home, tuple(sorted(file.path for file in part.files))), None
    note = card.note
    if Path(name).exists():
        note += f"; this is the bundled set, for your own folder write ./{name}"
    return Source(name, f"bundled with edgehybrid, {split}", pictures, labels, card.classes, card.licence, note)


def _verify(name: str, home: Path, part: SetPart) -> None:
    """A bundled set is refused when any of its files is missing or changed, chosen or not."""
    for file in part.files:
        try:
            found = hashlib.sha256((home / file.path).read_bytes()).hexdigest()
        except OSError as error:
            found = (error.strerror or str(error)).lower()
        if found != file.sha256:
            raise ArtifactError(
                f"the bundled image set '{name}' is damaged",
                why=f"{home / file.path}: found {found[:40]}, needed sha256 {file.sha256[:40]}",
                fix="install edgehybrid again",
            )


def _folder(path: Path, split: resources.Split) -> Source:
    listing = folder.list_images(path)
    labels = None if listing.labels is None else np.array(listing.labels, np.int64)
    name = shown(path.resolve().name or path)
    classes = tuple(shown(name) for name in listing.classes)
    note = listing.note if split == "eval" else ""  # it is about labels
    return Source(name, shown(path), _Files(path, listing.files), labels, classes, note=note)


def _npz(path: Path) -> Source:
    opened = archive.open_archive(path)
    return Source(shown(path.name), shown(path), _Rows(opened), opened.labels)


@dataclass(frozen=True)
class _Files:
    """Image files below a folder."""

    root: Path
    keys: tuple[str, ...]

    def probe(self, indexes: Sequence[int]) -> Iterator[bytes | str]:
        look = picture.decode if len(indexes) <= FULL_CHECK else picture.inspect
        for index in indexes:
            yield self._probe(self.root / self.keys[index], look)

    def open(self, indexes: Sequence[int]) -> Iterator[Image.Image]:
        for index in indexes:
            path = self.root / self.keys[index]
            try:
                yield picture.decode(picture.read(path))
            except picture.UnreadableError as error:
                raise ImagesError(
                    f"cannot read the image {shown(path)}", why=str(error), fix="remove or mend it, then run again"
                ) from error

    @staticmethod
    def _probe(path: Path, look: Callable[[bytes], object]) -> bytes | str:
        try:
            data = picture.read(path)
            look(data)
        except picture.UnreadableError as error:
            return str(error)
        return hashlib.sha256(data).digest()


class _Rows:
    """Images in an .npz."""

    def __init__(self, opened: archive.Archive) -> None:
        self._opened = opened
        self.keys = tuple(str(index) for index in range(opened.shape[0]))

    def probe(self, indexes: Sequence[int]) -> Iterator[bytes | str]:
        for pixels in archive.rows(self._opened, indexes):
            yield hashlib.sha256(pixels.tobytes()).digest()

    def open(self, indexes: Sequence[int]) -> Iterator[Image.Image]:
        for pixels in archive.rows(self._opened, indexes):
            yield Image.fromarray(pixels)
