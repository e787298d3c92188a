"""Bundles: a folder of results and a manifest with the hash of every file."""

import contextlib
import difflib
import json
import os
import stat
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgehybrid.errors import ArtifactError, NotFoundError, ResourceError, UsageError, withheld
from edgehybrid.records import Provenance
from edgehybrid.store.documents import to_json
from edgehybrid.store.files import Content, guarding, locked, sha256_of, sync_folder, write_beside
from edgehybrid.version import __version__

BUNDLE_SCHEMA = "edgehybrid.bundle/1"
MANIFEST = "manifest.json"
LARGEST_MANIFEST = 2**26  # bytes; the names of a thousand classes take 2**14


@dataclass(frozen=True)
class Bundle:
    """A folder whose files match its manifest."""

    path: Path
    manifest: Mapping[str, object]

    def file(self, name: str) -> Path:
        """Path of a file that the manifest lists.

        Raises:
            ArtifactError: It is not listed.
        """
        files = self.manifest["files"]
        if not isinstance(files, dict) or name not in files:
            listed = ", ".join(sorted(files)) if isinstance(files, dict) else "nothing"
            raise ArtifactError(
                f"the bundle {self.path} has no {name}",
                why=f"its manifest lists {listed}",
                fix="build it again with `edgehybrid build`",
            )
        return self.path / name


def check_output(
    folder: Path,
    model: str,
    *,
    weights: Provenance | None = None,
    classes: int | None = None,
    precision: str | None = None,
) -> None:
    """Make sure that writing a bundle into `folder` destroys nothing that its own command would not make again.

    Args:
        folder: Where.
        model: Of the bundle to be written.
        weights: Likewise; None: not known yet, or the folder was named by the user, who may have trained on. Untrained
            ones may be replaced by any.
        classes: Likewise; None: not known yet.
        precision: Likewise.

    Raises:
        UsageError: It is a file, or holds something that is not a bundle.
        ArtifactError: It is a bundle of another model, or of other weights, or for something else.
        ResourceError: It cannot be written.
    """
    if folder.exists() and not folder.is_dir():
        raise UsageError(
            f"--output {folder} is a file",
            why="a bundle is a folder",
            fix="give the name of a new or empty folder",
        )
    with guarding(folder):
        existing = sorted(p.name for p in folder.iterdir()) if folder.is_dir() else []
        parent = folder.absolute()
        while not parent.exists():
            parent = parent.parent
        if not parent.is_dir() or not os.access(parent, os.W_OK | os.X_OK):
            raise ResourceError(
                f"cannot write {folder}",
                why=f"{parent} is {'read-only or not yours' if parent.is_dir() else 'a file'}",
                fix="choose another folder with --output, or correct its permissions",
            )
    leftovers = [n for n in existing if not (n.startswith(".") and n.endswith(".tmp"))]
    if not leftovers:
        return
    found = _manifest_in(folder)
    recipe = found.get("recipe") if found.get("schema") == BUNDLE_SCHEMA else None
    if not isinstance(recipe, dict) or "model" not in recipe:
        raise UsageError(
            f"--output {folder} is not empty and not a bundle",
            why=f"found {', '.join(leftovers[:3])}{' ...' if len(leftovers) > 3 else ''}",
            fix="give the name of a new or empty folder",
        )
    for what, key, wanted in (
        ("of another model", "model", model),
        ("of another number of classes", "num_classes", classes),
        ("of another precision", "precision", precision),
    ):
        if wanted is not None and recipe.get(key, wanted) != wanted:
            raise _another(folder, what, recipe[key], wanted)
    known = found.get("weights")
    if weights is None or not isinstance(known, dict) or not known.get("trained"):
        return
    if (digest := known.get("sha256", weights.sha256)) != weights.sha256:
        made, new = f"{str(digest)[:12]} of {known.get('source')}", f"{weights.sha256[:12]} of {weights.source}"
        raise _another(folder, "of other weights", made, new)


def _another(folder: Path, what: str, found: object, wanted: object) -> ArtifactError:
    """The error for a bundle that is not the one to be written."""
    return ArtifactError(
        f"--output {folder} is a bundle {what}",
        why=f"found {found}, about to write {wanted}",
        fix="give another folder with --output, or remove this one; nothing was changed",
    )


def may_be_bundle(folder: Path) -> bool:
    """Whether a manifest lies in a folder that is a bundle's, of any version, or that cannot be read."""
    try:
        schema = _read_manifest(folder)["schema"]
    except (FileNotFoundError, NotADirectoryError, KeyError, TypeError):
        return False  # none, or that of a page or a program
    except (OSError, ValueError):
        return True
    return isinstance(schema, str) and schema.startswith(BUNDLE_SCHEMA.partition("/")[0])


def write_bundle(
    folder: Path, files: Mapping[str, Content], facts: Mapping[str, object], own: Collection[str] = ()
) -> Bundle:
    """Write or replace a bundle: every file under a temporary name first, then renames, the manifest last.

    Args:
        folder: Checked with `check_output` before any work began.
        files: File name -> content.
        facts: What the manifest says besides schema, version and file digests.
        own: Names of files that may be removed where an older manifest lists them and `files` does not: a manifest can
            list anything.

    Raises:
        ResourceError: Disk full or not writable; an older bundle there stays whole unless the failure falls
            between the renames, and then `open_bundle` refuses it and a second build repairs it.
    """
    with guarding(folder), locked(f"bundle {folder.resolve()}"):
        fresh = not folder.exists()
        folder.mkdir(parents=True, exist_ok=True)
        for leftover in folder.glob(".*.tmp"):
            leftover.unlink(missing_ok=True)
        old = _listed(folder)
        staged: dict[str, Path] = {}
        try:
            for name, content in files.items():
                staged[name] = write_beside(folder / name, content)
            listing = {n: {"sha256": sha256_of(p), "bytes": p.stat().st_size} for n, p in sorted(staged.items())}
            manifest = {"schema": BUNDLE_SCHEMA, "edgehybrid": __version__, **facts, "files": listing}
            staged[MANIFEST] = write_beside(folder / MANIFEST, to_json(manifest))
            for name, path in staged.items():
                path.replace(folder / name)
            sync_folder(folder)
        finally:
            for path in staged.values():
                path.unlink(missing_ok=True)
            if fresh:
                with contextlib.suppress(OSError):  # it holds the bundle
                    folder.rmdir()
        for name in old & set(own) - staged.keys():
            (folder / name).unlink(missing_ok=True)
    return Bundle(folder, manifest)


def _read_manifest(folder: Path) -> Any:
    """What stands in a manifest, which nobody vouches for.

    Raises:
        OSError: There is none, or it cannot be read.
        ValueError: It is no file, or none of JSON.
    """
    path = folder / MANIFEST
    found = path.stat()
    if not stat.S_ISREG(found.st_mode):  # a pipe would be waited for, for ever
        raise ValueError("it is no file")
    if found.st_size > LARGEST_MANIFEST:
        raise ValueError(f"it has {found.st_size / 2**20:,.0f} MiB, which no manifest has")
    try:
        return json.loads(path.read_bytes())
    except RecursionError as error:
        raise ValueError("it is nested too deep") from error


def _listed(folder: Path) -> set[str]:
    """File names of an older manifest in `folder`, plain names only."""
    names = _manifest_in(folder).get("files")
    return {n for n in names if Path(n).name == n and n not in (".", "..")} if isinstance(names, dict) else set()


def _manifest_in(folder: Path) -> dict[str, object]:
    """What an older manifest says; nothing where it is none."""
    try:
        found = _read_manifest(folder)
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def no_bundle(path: Path, kind: str = "bundle") -> NotFoundError:
    """The error for a bundle that is not there, with those that lie beside it or where builds go unless told."""
    there = {found.parent.name: found.parent for place in (Path("builds"), path.parent) for found in _bundles_in(place)}
    near = [str(there[name]) for name in difflib.get_close_matches(path.name, there, cutoff=0.0)]
    makes = "edgehybrid quickstart makes one, edgehybrid build one of your model"
    return NotFoundError(
        f"no {kind} {path}", why="nothing is there", fix=f"name one that is: {', '.join(near)}" if near else makes
    )


def _bundles_in(folder: Path) -> list[Path]:
    """Manifests of the bundles right within a folder."""
    return sorted(folder.glob(f"*/{MANIFEST}"))


def open_bundle(folder: Path) -> Bundle:
    """Open a bundle after checking the size and hash of every file in its manifest.

    Raises:
        NotFoundError: Nothing is there.
        ArtifactError: Not a bundle, made by an unknown version, incomplete or changed.
        ResourceError: It may not be read.
    """
    again = "build it again with `edgehybrid build`, or copy it again from where it was made"
    if not folder.exists():
        raise no_bundle(folder)
    try:
        manifest = _read_manifest(folder)
    except (FileNotFoundError, NotADirectoryError) as error:
        within = [path.parent for path in _bundles_in(folder)]
        fix = f"name a bundle within it: {', '.join(map(str, within[:3]))}" if within else again
        raise ArtifactError(f"{folder} is not a bundle", why=f"it has no {MANIFEST}", fix=fix) from error
    except PermissionError as error:
        raise withheld(error) from error
    except (OSError, ValueError) as error:
        raise ArtifactError(f"{folder / MANIFEST} cannot be read", why=str(error), fix=again) from error
    schema = manifest.get("schema") if isinstance(manifest, dict) else None
    files = manifest.get("files") if isinstance(manifest, dict) else None
    if schema != BUNDLE_SCHEMA or not isinstance(files, dict):
        raise ArtifactError(
            f"{folder} is not a bundle this version can read",
            why=f"schema {schema}, needed {BUNDLE_SCHEMA}",
            fix=again,
        )
    for name, entry in files.items():
        path = folder / name
        if Path(name).name != name or name in (".", "..") or path.is_symlink() or not isinstance(entry, dict):
            raise ArtifactError(f"the manifest of {folder} is not trusted", why=f"entry {name!r}", fix=again)
        if not path.is_file():
            raise ArtifactError(f"{path} is missing", why="the manifest lists it", fix=again)
        if path.stat().st_size != entry.get("bytes") or sha256_of(path) != entry.get("sha256"):
            raise ArtifactError(
                f"{path} is damaged or was changed",
                why="its bytes do not match the hash in the manifest",
                fix=again,
            )
    return Bundle(folder, manifest)
