"""Decode one image file to an upright RGB picture, or say in a few words why that cannot be done."""

import io
import os
import stat
import warnings
from pathlib import Path

import numpy as np
from PIL import Image, UnidentifiedImageError

MIN_SIDE, MAX_SIDE = 8, 20_000  # px
MAX_PIXELS = 100_000_000
MAX_ASPECT = 32
"""A resized sliver of 20,000 x 8 px would take more memory than the largest picture that is let in."""
MAX_BYTES = 1 << 30

JPEG_SUFFIXES = (".jpg", ".jpeg", ".jpe", ".jfif")
OTHER_SUFFIXES = (".png", ".gif", ".bmp", ".webp", ".tif", ".tiff", ".ppm", ".pgm", ".pbm", ".pnm", ".avif", ".jp2")
SUFFIXES = frozenset((*JPEG_SUFFIXES, *OTHER_SUFFIXES, ".heic", ".heif"))
FORMATS = ("JPEG", "PNG", "GIF", "BMP", "WEBP", "TIFF", "PPM", "AVIF", "JPEG2000")
"""What is decoded, whatever the file is called. Pillow knows more, and some of it runs other programs (EPS)."""
SIGNATURES = (b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n", b"GIF87a", b"GIF89a")
"""Images under a foreign name. Not TIFF: raw camera files begin like it and would yield their thumbnail."""

UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}
"""What undoes each value of the EXIF tag Orientation (EXIF 2.3, tag 0x0112)."""
ORIENTATION = 0x0112


class UnreadableError(Exception):
    """One image cannot be used; the message is the reason, without the file's name."""


def read(path: Path) -> bytes:
    """The bytes of a regular file.

    Raises:
        UnreadableError: It is missing, empty, too large, not permitted or something else than a file.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode):  # opening a named pipe would wait for ever
            raise UnreadableError("not a regular file")
        if status.st_size > MAX_BYTES:
            raise UnreadableError(f"{status.st_size >> 20} MiB, more than {MAX_BYTES >> 20}")
        data = path.read_bytes()
    except FileNotFoundError as error:
        raise UnreadableError("broken link" if path.is_symlink() else "no such file") from error
    except OSError as error:
        raise UnreadableError((error.strerror or str(error)).lower()) from error
    if not data:
        raise UnreadableError("empty file")
    return data


def decode(data: bytes) -> Image.Image:
    """The first frame, upright, as RGB.

    Grey is repeated, 16 bits are scaled to 8, transparency is laid on white, CMYK is converted without its colour
    profile, the EXIF orientation is applied.

    Raises:
        UnreadableError: It is damaged, of no known format, too small, too large, or without a defined white.
    """
    with warnings.catch_warnings():  # of odd metadata, and of bombs, which `_open` refuses
        warnings.simplefilter("ignore")
        image = _open(data)
        try:
            image.load()
            return _upright(_to_rgb(image), image)
        except UnreadableError:
            raise
        except Exception as error:  # decoders fed with damaged bytes raise nearly anything
            raise UnreadableError(_reason(error)) from error


def inspect(data: bytes) -> None:
    """Look at format, size and end of a file, without decoding it: finds most damage at a hundredth of the cost.

    Raises:
        UnreadableError: As `decode`, where it shows without decoding.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        image = _open(data)
        if image.format in ("JPEG", "MPO") and b"\xff\xd9" not in data:
            raise UnreadableError("truncated")
        try:
            image.verify()
        except Exception as error:  # as in `decode`
            raise UnreadableError(_reason(error)) from error


def looks_like_image(entry: os.DirEntry[str]) -> bool:
    """By its name, or else by its first bytes."""
    if Path(entry.name).suffix.lower() in SUFFIXES:
        return True
    try:
        if (
            not entry.is_file() or entry.stat().st_size < 64
        ):  # too short for an image, or a file that is no file (/proc)
            return False
        with Path(entry.path).open("rb") as file:
            return file.read(8).startswith(SIGNATURES)
    except OSError:
        return False  # nothing says that it is an image


def check_size(width: int, height: int) -> None:
    """Refuse what is too small to mean anything or large enough to exhaust the memory.

    Raises:
        UnreadableError: With the size that was found.
    """
    found = f"{width} x {height} px"
    if min(width, height) < MIN_SIDE:
        raise UnreadableError(f"{found}, smaller than {MIN_SIDE} px")
    if max(width, height) > MAX_SIDE or width * height > MAX_PIXELS:
        raise UnreadableError(f"{found}, larger than {MAX_SIDE} px or {MAX_PIXELS // 1_000_000} megapixels")
    if max(width, height) > MAX_ASPECT * min(width, height):
        raise UnreadableError(f"{found}, more than {MAX_ASPECT} times as long as wide")


def _open(data: bytes) -> Image.Image:
    """Read the header only, and refuse by it."""
    Image.init()
    known = [name for name in FORMATS if name in Image.OPEN]  # a Pillow may be built without some
    try:
        image = Image.open(io.BytesIO(data), formats=known)
    except UnidentifiedImageError as error:
        if data[4:12] in (b"ftypheic", b"ftypheix", b"ftypmif1"):
            raise UnreadableError("HEIC is not supported, convert it to JPEG") from error
        raise UnreadableError("not an image of a known format, or damaged at its beginning") from error
    except Image.DecompressionBombError as error:
        raise UnreadableError(f"larger than {MAX_PIXELS // 1_000_000} megapixels") from error
    except Exception as error:  # as in `decode`
        raise UnreadableError(_reason(error)) from error
    check_size(*image.size)
    return image


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        levels = np.asarray(image).astype(np.uint32)  # Pillow's own conversion clips at 255
        return Image.fromarray(((levels * 255 + 32767) // 65535).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        raise UnreadableError("32-bit pixels have no defined white, convert it to 8 bits a channel")
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        return Image.alpha_composite(white, image.convert("RGBA")).convert("RGB")
    return image.convert("RGB")


def _upright(picture: Image.Image, source: Image.Image) -> Image.Image:
    """Apply the orientation, which Pillow has already done for TIFF when it loaded the pixels."""
    try:
        orientation = source.getexif().get(ORIENTATION)
    except Exception:  # damaged metadata around sound pixels: no orientation is known, none is applied
        return picture
    transpose = UPRIGHT.get(orientation) if isinstance(orientation, int) else None
    return picture if transpose is None else picture.transpose(transpose)


def _reason(error: Exception) -> str:
    text = " ".join(str(error).split())
    if "truncated" in text.lower():
        return "truncated"
    return f"damaged ({text or type(error).__name__})"
