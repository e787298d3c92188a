"""Read images from an .npz file row by row, whatever its size, and never unpickle anything."""

import zipfile
import zlib
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO

import numpy as np
from numpy.lib import format as npy
from numpy.typing import NDArray

from edgehybrid.dataset.folder import shown
from edgehybrid.dataset.picture import UnreadableError, check_size
from edgehybrid.errors import ImagesError
from edgehybrid.printable import counted

NEEDED = "needed x uint8 (N, H, W, 3) RGB, and y int (N,) for labels"


@dataclass(frozen=True)
class Archive:
    """An .npz whose header was checked; its pixels are still on disk."""

    path: Path
    shape: tuple[int, int, int, int]  # (N, H, W, 3)
    labels: NDArray[np.int64] | None  # (N,)


@dataclass(frozen=True)
class _Header:
    shape: tuple[int, ...]
    dtype: np.dtype[np.generic]
    fortran: bool
    offset: int  # of the first value, in bytes


def open_archive(path: Path) -> Archive:
    """Check what an .npz holds and read its labels.

    Raises:
        ImagesError: It is damaged, has no x, or x or y is of the wrong type or shape; says which and how to mend it.
    """
    with _guard(path), zipfile.ZipFile(path) as file:
        members = {name.removesuffix(".npy"): file.getinfo(name) for name in file.namelist() if name.endswith(".npy")}
        if "x" not in members:
            found = ", ".join(shown(name) for name in sorted(members)) or "nothing"
            raise _wrong(path, f"found arrays {found}; {NEEDED}", "save the pixels under the name x")
        header = _read_header(file, members["x"])
        _check_pixels(path, header, members["x"].file_size)
        labels = None
        if "y" in members:
            labels = _read_labels(path, file, members["y"], header.shape[0])
    count, height, width, _ = header.shape
    return Archive(path, (count, height, width, 3), labels)


def rows(archive: Archive, indexes: Sequence[int]) -> Iterator[NDArray[np.uint8]]:
    """Pixels (H, W, 3) of some images, in the order of ascending indexes, one in memory at a time.

    Raises:
        ImagesError: The file is damaged, or is not the one that was opened.
    """
    _, height, width, _ = archive.shape
    size = height * width * 3
    with _guard(archive.path), zipfile.ZipFile(archive.path) as file:
        header = _read_header(file, file.getinfo("x.npy"))
        if header.shape != archive.shape:
            raise _wrong(archive.path, "it changed while it was read", "run again")
        with file.open("x.npy") as stream:
            for index in indexes:
                stream.seek(header.offset + index * size)
                data = stream.read(size)
                if len(data) != size:
                    raise EOFError(f"image {index} is cut off")
                yield np.frombuffer(data, np.uint8).reshape(height, width, 3)


@contextmanager
def _guard(path: Path) -> Iterator[None]:
    """Whatever zip, zlib and numpy say about damaged bytes becomes one error."""
    try:
        yield
    except (zipfile.BadZipFile, zlib.error, EOFError, ValueError, KeyError, NotImplementedError, RuntimeError) as error:
        raise _wrong(path, f"damaged or no .npz ({error})", "write it with numpy.savez_compressed") from error
    except OSError as error:
        raise _wrong(path, error.strerror or str(error), "check the path and its permissions") from error


def _read_header(file: zipfile.ZipFile, info: zipfile.ZipInfo) -> _Header:
    with file.open(info) as stream:
        version = npy.read_magic(stream)
        read = npy.read_array_header_1_0 if version == (1, 0) else npy.read_array_header_2_0
        shape, fortran, dtype = read(stream)
        return _Header(shape, dtype, fortran, stream.tell())


def _check_pixels(path: Path, header: _Header, bytes_stored: int) -> None:
    shape, found = header.shape, f"found x {header.dtype} {header.shape}"
    if header.dtype.hasobject:
        raise _wrong(path, f"x is pickled, which can run code when it is read; {NEEDED}", "save a plain uint8 array")
    if header.dtype != np.uint8:
        raise _wrong(path, f"{found}; {NEEDED}", "scale the pixels to 0..255 and save x.astype('uint8')")
    if len(shape) == 3 or shape[3:] == (1,):
        repeat = "numpy.repeat(x[..., None], 3, axis=-1)" if len(shape) == 3 else "numpy.repeat(x, 3, axis=-1)"
        raise _wrong(path, f"{found}, which is grey; {NEEDED}", f"stack it to three channels: {repeat}")
    if len(shape) == 4 and shape[1] == 3 and shape[3] != 3:
        raise _wrong(path, f"{found}, channels first; {NEEDED}", "save x.transpose(0, 2, 3, 1)")
    if len(shape) != 4 or shape[3] != 3:
        raise _wrong(path, f"{found}; {NEEDED}", "save three channels, without transparency")
    if shape[0] == 0:
        raise _wrong(path, f"{found}: no images", "save at least one image")
    if header.fortran:
        raise _wrong(path, "x is stored column by column", "save numpy.ascontiguousarray(x)")
    if bytes_stored != header.offset + int(np.prod(shape, dtype=object)):
        raise EOFError(f"x says {shape} and holds {bytes_stored - header.offset} bytes")
    try:
        check_size(shape[2], shape[1])
    except UnreadableError as error:
        raise _wrong(path, str(error), "save larger or smaller images") from error


def _read_labels(path: Path, file: zipfile.ZipFile, info: zipfile.ZipInfo, count: int) -> NDArray[np.int64]:
    header = _read_header(file, info)
    found = f"found y {header.dtype} {header.shape}"
    if header.dtype.hasobject or header.dtype.kind not in "iu":
        raise _wrong(path, f"{found}; {NEEDED}", "save class numbers as integers")
    if header.shape != (count,):
        raise _wrong(path, f"{found} beside {counted(count, 'image')}; {NEEDED}", "save one class number per image")
    with file.open(info) as stream:
        labels = np.frombuffer(_rest(stream, header, info.file_size), header.dtype).astype(np.int64)
    if labels.min() < 0:
        raise _wrong(path, f"found a label of {labels.min()}, needed 0 or above", "number the classes from 0")
    return labels


def _rest(stream: IO[bytes], header: _Header, size: int) -> bytes:
    stream.seek(header.offset)
    if size != header.offset + header.shape[0] * header.dtype.itemsize:
        raise EOFError("y is cut off")
    return stream.read(size - header.offset)


def _wrong(path: Path, why: str, fix: str) -> ImagesError:
    return ImagesError(f"cannot use {shown(path)}", why=why, fix=fix)
