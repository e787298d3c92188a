"""Find the image sets that ship beside the code, and read their manifests."""

from pathlib import Path
from typing import Literal, cast, get_args

from edgehybrid.errors import unknown_name
from edgehybrid.printable import counted
from edgehybrid.records import SetCard, SetFile, SetPart
from edgehybrid.resources.tables import Table, home, read_toml

Split = Literal["calib", "eval"]
"""What images are for: `calib` chooses the int8 ranges, `eval` measures the result. They share no image."""

SET_KEYS = ("name", "title", "licence", "note", "classes", "parts")
PART_KEYS = ("kind", "images", "files")
FILE_KEYS = ("path", "sha256", "source", "licence")


def image_sets() -> tuple[str, ...]:
    """Every bundled image set by name, sorted."""
    return tuple(sorted(path.parent.name for path in home("calib").glob("*/manifest.toml")))


def find_image_set(name: str) -> Path:
    """The folder of a bundled image set.

    Raises:
        NotFoundError: No such set; near misses are suggested.
    """
    if name not in image_sets():
        raise unknown_name("image set", name, image_sets(), f"give a folder or {' or '.join(image_sets())}")
    return home("calib") / name


def load_image_set(name: str) -> SetCard:
    """Read the manifest of a bundled image set; the images themselves are not touched.

    Raises:
        NotFoundError: No such set; near misses are suggested.
        InputError: The manifest is damaged.
    """
    path = find_image_set(name) / "manifest.toml"
    table = Table(path, "", read_toml(path), SET_KEYS)
    parts = table.table("parts", get_args(Split))
    return SetCard(
        name=table.text("name"),
        title=table.text("title"),
        licence=table.text("licence"),
        note=table.text("note", ""),
        classes=table.texts("classes"),
        parts={key: _parse_part(parts.table(key, PART_KEYS)) for key in parts.names()},
    )


def _parse_part(table: Table) -> SetPart:
    kind = cast(Literal["images", "npz"], table.choice("kind", ("images", "npz")))
    files = tuple(_parse_file(row) for row in table.rows("files", FILE_KEYS))
    if not files or (kind == "npz" and len(files) != 1):
        raise table.wrong("files", f"found {counted(len(files), 'file')}", "one .npz, or at least one image")
    return SetPart(kind, table.count("images"), files)


def _parse_file(table: Table) -> SetFile:
    path = table.text("path")
    if Path(path).is_absolute() or ".." in Path(path).parts:
        raise table.wrong("path", f"found {path!r}, which leaves the folder of the set", "stay inside it")
    return SetFile(path, table.text("sha256"), table.text("source"), table.text("licence", ""))
