"""Files that are never half there: atomic writes, hashes, locks, and what a full disk is called."""

import contextlib
import errno
import fcntl
import functools
import hashlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path

from edgehybrid.errors import ResourceError

_NO_SPACE = (errno.ENOSPC, errno.EDQUOT)
_NOT_WRITABLE = (
    errno.EACCES,
    errno.EPERM,
    errno.EROFS,
    errno.ENOTDIR,
    errno.EISDIR,
    errno.ENAMETOOLONG,
    errno.ELOOP,
    errno.EEXIST,
    errno.EIO,
)

Content = bytes | Path | Iterator[bytes]
"""What goes into a file: bytes, bytes in pieces, or a file to copy."""


def cache_root() -> Path:
    """$EDGEHYBRID_CACHE_DIR, else $XDG_CACHE_HOME/edgehybrid, else ~/.cache/edgehybrid."""
    if explicit := os.environ.get("EDGEHYBRID_CACHE_DIR"):
        return Path(explicit)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "edgehybrid"


def sha256_of(path: Path) -> str:
    """SHA-256 of a file, read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        for chunk in iter(functools.partial(file.read, 1 << 20), b""):
            digest.update(chunk)
    return digest.hexdigest()


def write_atomic(path: Path, content: Content) -> None:
    """Write a file so that readers see the old bytes or the new ones, never a part.

    Raises:
        ResourceError: The disk is full or the place cannot be written; whatever was there is unharmed.
    """
    with guarding(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = write_beside(path, content)
        try:
            rename(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


def write_beside(path: Path, content: Content) -> Path:
    """Write and fsync a temporary file in the folder of `path`; its name."""
    handle, name = tempfile.mkstemp(prefix=f".{path.name}.", suffix=".tmp", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            if isinstance(content, Path):
                with content.open("rb") as source:
                    shutil.copyfileobj(source, file, 1 << 20)
            else:
                file.writelines([content] if isinstance(content, bytes) else content)
            file.flush()
            os.fsync(file.fileno())
        mask = os.umask(0)
        os.umask(mask)
        os.chmod(name, 0o666 & ~mask)  # noqa: PTH101 - mkstemp makes 0600, a bundle is meant to be shared
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    return Path(name)


def rename(source: Path, target: Path) -> None:
    """Rename and make the rename durable."""
    source.replace(target)
    sync_folder(target.parent)


def sync_folder(folder: Path) -> None:
    """Make renames and removals in a folder durable."""
    handle = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


@contextlib.contextmanager
def guarding(place: Path) -> Iterator[None]:
    """Turn a full disk, a limit, a lack of permission or a file in the way into a ResourceError about `place`."""
    try:
        yield
    except OSError as error:
        where = _meant(Path(error.filename)) if error.filename else place
        if error.errno in _NO_SPACE:
            raise ResourceError(
                f"no space left while writing {where}",
                why=f"{error.strerror}: {_free_bytes(place)} are free now that the part written is removed",
                fix="free some space, or give another disk with --output and EDGEHYBRID_CACHE_DIR",
            ) from error
        if error.errno == errno.EFBIG:
            raise ResourceError(
                f"a file became too large while writing {where}",
                why=f"{error.strerror}: a limit of the shell (ulimit -f) or of the file system",
                fix="ulimit -f unlimited, or give another disk with --output and EDGEHYBRID_CACHE_DIR",
            ) from error
        if error.errno == errno.ENOENT and _is_nowhere():
            raise ResourceError(
                f"cannot write {where}",
                why="the current folder was removed",
                fix="cd to a folder that is there, or give --output a path that begins with /",
            ) from error
        if error.errno in _NOT_WRITABLE:
            raise ResourceError(
                f"cannot write {where}",
                why=error.strerror or type(error).__name__,
                fix="choose another place with --output or EDGEHYBRID_CACHE_DIR, or correct its permissions",
            ) from error
        raise


def _is_nowhere() -> bool:
    """Whether the folder that relative paths begin at was removed."""
    try:
        Path.cwd()
    except FileNotFoundError:
        return True
    return False


def _meant(path: Path) -> Path:
    """The file that a temporary one was to become."""
    is_temporary = path.name.startswith(".") and path.name.endswith(".tmp")
    return path.with_name(path.name[1:].rsplit(".", 2)[0]) if is_temporary else path


def _free_bytes(place: Path) -> str:
    while not place.exists() and place != place.parent:
        place = place.parent
    try:
        return f"{shutil.disk_usage(place).free / 2**20:.1f} MiB"
    except OSError:
        return "an unknown amount"


@contextlib.contextmanager
def locked(name: str, waiting: Callable[[], None] | None = None) -> Iterator[None]:
    """Hold the lock `name` among all processes that share the cache.

    Args:
        name: Any string; hashed.
        waiting: Called once if another process holds the lock.
    """
    path = cache_root() / "locks" / hashlib.sha256(name.encode()).hexdigest()[:32]
    with guarding(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        handle = os.open(path, os.O_RDWR | os.O_CREAT, 0o600)
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            if waiting is not None:
                waiting()
            fcntl.flock(handle, fcntl.LOCK_EX)
        yield
    finally:
        os.close(handle)
