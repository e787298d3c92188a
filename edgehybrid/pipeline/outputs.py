"""The one file that a verb writes: where it may go, and writing it."""

import contextlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Literal

from edgehybrid.errors import GraphError, UsageError
from edgehybrid.progress import listener
from edgehybrid.records import Artifact

SYSTEM = (Path("/dev"), Path("/proc"))
"""A link in there stands for what a process holds open, whatever kind of file that is."""


def check_file(
    path: Path | None,
    files: Iterable[str | Path | None] = (),
    images: Iterable[str | Path] = (),
    *,
    option: str = "output",
    appends: bool = False,
) -> None:
    """Refuse, before any work, to write a file where that would destroy something.

    Args:
        path: What is to be written; None where nothing is, or under a new name.
        files: What the same command reads, as it was given; names of models and the like are no files.
        images: Sets of images that it reads.
        option: That `path` was given with.
        appends: The file is added to, not replaced: a device or a pipe takes that.

    Raises:
        UsageError: It is a folder, a device or a pipe, or one of these inputs, or lies in a bundle or among the images.
    """
    if path is None:
        return
    asked = f"--{option} {path}"
    if path.is_dir():
        raise UsageError(f"{asked} is a folder", why="this command writes one file", fix="name a file")
    if not appends and _is_special(path):
        raise UsageError(
            f"{asked} is a device or a pipe", why="this command replaces a file by a new one", fix="name a plain file"
        )
    from edgehybrid import store

    with store.guarding(path):
        places = {path.parent.resolve(), path.resolve().parent}
    for folder in places:
        if store.may_be_bundle(folder):
            raise UsageError(
                f"{asked} lies in the bundle {folder}",
                why="its manifest vouches for what is in there, so only a build writes there",
                fix="name a file elsewhere",
            )
    for read in (*_read(files, path), *_sources(images)):
        if _same(path, read):
            raise UsageError(f"{asked} would destroy {read}", why="this command reads it", fix="name another file")
    if appends and not _is_picture(path):  # a log may lie beside the images that it is about
        return
    for source in _sources(images):
        if source.is_dir() and any(place.is_relative_to(source.resolve()) for place in places):
            raise UsageError(f"{asked} lies in {source}", why="images are read there", fix="name a file elsewhere")


def deliver(
    path: Path, content: bytes | Path, kind: Literal["onnx", "calibration"], notes: tuple[str, ...]
) -> Artifact:
    """Write the one file that a single-stage verb is asked for."""
    from edgehybrid import store

    store.write_atomic(path, content)
    return Artifact(str(path), kind, path.stat().st_size, store.sha256_of(path), notes)


def write_beside_result(path: Path, content: bytes) -> None:
    """Write what a verb also returns to a file, and say where it is."""
    from edgehybrid import store

    store.write_atomic(path, content)
    listener().note(f"written to {path}")


def _is_special(path: Path) -> bool:
    """Whether replacing it would leave a plain file where there was something else than one."""
    is_link = path.is_symlink() and any(path.absolute().is_relative_to(folder) for folder in SYSTEM)
    return is_link or (path.exists() and not path.is_file())


def _read(files: Iterable[str | Path | None], output: Path) -> Iterator[Path]:
    """Files that a command reads, with those that hold the weights of an ONNX file."""
    for file in files:
        if file is None:
            continue
        yield Path(file)
        if Path(file).suffix == ".onnx" and output.exists():
            with contextlib.suppress(GraphError, ModuleNotFoundError, OSError):  # whoever reads it says what is wrong
                from edgehybrid.graph.adoption import companions

                yield from companions(Path(file))


def _sources(images: Iterable[str | Path]) -> list[Path]:
    """Folders and archives of images; a named set is none, whatever lies here under its name."""
    from edgehybrid import resources

    named = resources.image_sets()
    return [Path(source) for source in images if str(source) not in named]


def _is_picture(path: Path) -> bool:
    """Whether it is named as an image is."""
    from edgehybrid.dataset.picture import SUFFIXES

    return path.suffix.lower() in SUFFIXES


def _same(path: Path, other: Path) -> bool:
    """Whether both are one file, by whatever name."""
    try:
        return path.samefile(other)
    except OSError:  # one of them is not there
        return False
