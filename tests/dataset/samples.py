"""Small images of every kind, made on the spot."""

import io
import struct
import zlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def noise(height: int = 24, width: int = 32, seed: int = 0) -> NDArray[np.uint8]:
    """Random RGB pixels (height, width, 3)."""
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)


def encode(pixels: NDArray[np.uint8] | Image.Image, kind: str = "PNG", orientation: int | None = None) -> bytes:
    """The bytes of an image file, with an EXIF orientation where one is given."""
    image = pixels if isinstance(pixels, Image.Image) else Image.fromarray(pixels)
    exif = Image.Exif()
    if orientation is not None:
        exif[0x0112] = orientation
    buffer = io.BytesIO()
    lossless = {"lossless": True} if kind == "WEBP" else {}
    image.save(buffer, kind, exif=exif.tobytes(), **lossless)
    return buffer.getvalue()


def chunk(kind: bytes, body: bytes) -> bytes:
    """One chunk of a PNG file."""
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def png_claiming(width: int, height: int) -> bytes:
    """A PNG whose header says it is large, a few bytes long."""
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(b"\0" * 100)) + chunk(b"IEND", b"")


def png_with_text_bomb() -> bytes:
    """A sound PNG with 64 MiB of compressed zeros in its colour profile and in its text."""
    data = encode(noise())
    bomb = zlib.compress(b"\0" * (64 << 20), 9)
    split = 8 + 25  # after IHDR
    return data[:split] + chunk(b"zTXt", b"k\0\0" + bomb) + chunk(b"iCCP", b"p\0\0" + bomb) + data[split:]


def write_folder(root: Path, names: list[str], kind: str = "PNG", side: int = 8) -> None:
    """Different images under the given relative names."""
    for seed, name in enumerate(names):
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(encode(noise(side, side, seed), kind))
