"""Do each stage once: results keyed by all that they depend on."""

import contextlib
import functools
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from edgehybrid import memory
from edgehybrid.records import Stage
from edgehybrid.store.documents import to_json
from edgehybrid.store.files import cache_root, guarding, locked, rename, sha256_of, write_atomic
from edgehybrid.version import __version__

CACHE_LIMIT_BYTES = 5 * 2**30


@functools.cache
def code_digest() -> str:
    """SHA-256 of this package's own source, so that no result outlives the code that made it."""
    digest = hashlib.sha256(__version__.encode())
    for path in sorted(Path(__file__).parents[1].rglob("*.py")):
        digest.update(path.read_bytes())
    return digest.hexdigest()


def run_stage(
    name: str,
    inputs: Mapping[str, object],
    produce: Callable[[Path], None],
    *,
    waiting: Callable[[], None] | None = None,
) -> tuple[Path, Stage]:
    """Do a piece of work once for each distinct input.

    Args:
        name: Of the stage, as reports show it.
        inputs: All that the result depends on besides the code: digests, options, versions.
        produce: Does the work and leaves files in the empty folder it is given.
        waiting: Called once if another process is doing the same work.

    Returns:
        The folder with the files (read-only by convention), and what the stage cost.

    Raises:
        ResourceError: The cache cannot be written.
    """
    key = hashlib.sha256(to_json({"stage": name, "code": code_digest(), "inputs": inputs})).hexdigest()
    final = cache_root() / "stages" / key[:2] / key
    start = time.perf_counter()
    with locked(key, waiting):
        if _intact(final):
            os.utime(final)
            return final, Stage(name, round(time.perf_counter() - start, 3), memory.peak_mib(), cached=True)
        partial = final.with_suffix(".partial")
        shutil.rmtree(partial, ignore_errors=True)
        shutil.rmtree(final, ignore_errors=True)
        memory.trim()
        memory.reset_peak()
        try:
            with guarding(partial.parent):
                partial.mkdir(parents=True)
                produce(partial)
                files = {p.name: sha256_of(p) for p in sorted(partial.iterdir())}
                write_atomic(partial / "stage.json", to_json({"stage": name, "files": files}))
                for path in partial.iterdir():
                    with path.open("rb") as file:
                        os.fsync(file.fileno())
                rename(partial, final)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        stage = Stage(name, round(time.perf_counter() - start, 3), memory.peak_mib(), cached=False)
    _prune(final.parents[1], keep=final)
    return final, stage


def _intact(folder: Path) -> bool:
    try:
        files = json.loads((folder / "stage.json").read_bytes())["files"]
        return all(sha256_of(folder / name) == digest for name, digest in files.items())
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return False


def _prune(root: Path, keep: Path) -> None:
    """Remove the least recently used results beyond CACHE_LIMIT_BYTES; never the newest hour's."""
    entries = []
    for folder in root.glob("??/*"):
        with contextlib.suppress(OSError):
            size = sum(p.stat().st_size for p in folder.iterdir())
            entries.append((folder.stat().st_mtime, size, folder))
    excess = sum(size for _, size, _ in entries) - CACHE_LIMIT_BYTES
    for used, size, folder in sorted(entries):
        if excess <= 0 or time.time() - used < 3600:
            return
        if folder != keep:
            shutil.rmtree(folder, ignore_errors=True)
            excess -= size
