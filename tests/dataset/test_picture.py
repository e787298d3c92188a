"""Every kind of image file becomes upright RGB, and every damaged one a short reason."""

import contextlib
import io
import os
import struct
import warnings
import zlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from edgehybrid.dataset import picture
from edgehybrid.dataset.picture import UnreadableError
from tests.dataset.samples import chunk, encode, noise, png_claiming, png_with_text_bomb


def pixels(data: bytes) -> NDArray[np.uint8]:
    image = picture.decode(data)
    assert image.mode == "RGB"
    return np.asarray(image)


def reason(data: bytes) -> str:
    with pytest.raises(UnreadableError) as caught:
        picture.decode(data)
    assert "\n" not in str(caught.value)
    return str(caught.value)


@pytest.mark.parametrize("kind", ["PNG", "BMP", "TIFF", "PPM", "WEBP"])
def test_lossless_formats_give_their_pixels(kind: str) -> None:
    assert np.array_equal(pixels(encode(noise(), kind)), noise())


@pytest.mark.parametrize("kind", ["JPEG", "GIF", "AVIF", "JPEG2000"])
def test_lossy_formats_give_nearly_their_pixels(kind: str) -> None:
    smooth = np.asarray(Image.fromarray(noise(4, 4)).resize((64, 64), Image.Resampling.BICUBIC))
    assert np.abs(pixels(encode(smooth, kind)).astype(int) - smooth).mean() < 12


def test_grey_is_repeated_in_three_channels() -> None:
    grey = noise()[..., 0]
    assert np.array_equal(pixels(encode(grey)), np.repeat(grey[..., None], 3, -1))
    assert np.array_equal(
        pixels(encode(Image.fromarray(grey > 127))), np.where(grey > 127, 255, 0)[..., None] + [0, 0, 0]
    )


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "PPM"])
def test_sixteen_bits_are_scaled_not_clipped(kind: str) -> None:
    deep = np.linspace(0, 65535, 16 * 16).round().astype(np.uint16).reshape(16, 16)
    expected = np.round(deep / 257.0)
    assert np.array_equal(pixels(encode(Image.fromarray(deep), kind)), np.repeat(expected[..., None], 3, -1))


def test_sixteen_bits_a_channel_in_the_other_byte_order() -> None:
    deep = np.linspace(0, 65535, 16 * 16).round().astype(np.uint16).reshape(16, 16)
    image = Image.frombytes("I;16B", (16, 16), deep.astype(">u2").tobytes())
    assert np.array_equal(pixels(encode(image, "TIFF"))[..., 1], np.round(deep / 257.0))


def test_sixteen_bit_colour_keeps_its_range() -> None:
    deep = np.random.default_rng(0).integers(0, 65536, (12, 12, 3), dtype=np.uint16)
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in deep)
    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 12, 12, 16, 2, 0, 0, 0))
    data = b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")
    assert np.abs(pixels(data) - deep / 257.0).max() <= 1.0


def test_transparency_is_laid_on_white() -> None:
    rgba = np.dstack([noise(), np.full((24, 32), 0, np.uint8)])
    rgba[:12, :, 3] = 255
    shown = pixels(encode(Image.fromarray(rgba)))
    assert np.array_equal(shown[:12], noise()[:12])
    assert (shown[12:] == 255).all()
    half = np.dstack([np.zeros((8, 8), np.uint8), np.full((8, 8), 128, np.uint8)])
    assert np.abs(pixels(encode(Image.fromarray(half, "LA"))).astype(int) - 127).max() <= 1


def test_palettes_are_resolved_with_and_without_a_transparent_colour() -> None:
    colours = np.zeros((8, 8, 3), np.uint8)
    colours[:4] = (200, 30, 40)
    palette = Image.fromarray(colours).convert("P", palette=Image.Palette.ADAPTIVE)
    assert np.abs(pixels(encode(palette)).astype(int) - colours).max() <= 2
    buffer = io.BytesIO()
    index = palette.getpixel((0, 0))
    palette.save(buffer, "PNG", transparency=index)
    shown = pixels(buffer.getvalue())
    assert (shown[:4] == 255).all()
    assert (shown[4:] < 3).all()
    palette.save(buffer := io.BytesIO(), "PNG", transparency=bytes(0 if i == index else 255 for i in range(256)))
    assert (pixels(buffer.getvalue())[:4] == 255).all()


def test_cmyk_becomes_the_colour_that_was_meant() -> None:
    red = np.full((16, 16, 3), (200, 20, 30), np.uint8)
    for kind in ("JPEG", "TIFF"):
        shown = pixels(encode(Image.fromarray(red).convert("CMYK"), kind))
        assert np.abs(shown.astype(int) - red).max() < 8, kind


def test_an_animation_gives_its_first_frame() -> None:
    frames = [Image.fromarray(np.full((16, 16, 3), level, np.uint8)) for level in (30, 220)]
    for kind in ("GIF", "PNG", "WEBP", "TIFF"):
        buffer = io.BytesIO()
        frames[0].save(buffer, kind, save_all=True, append_images=frames[1:])
        assert np.abs(pixels(buffer.getvalue()).astype(int) - 30).max() <= 2, kind


UPRIGHT = {  # EXIF 2.3: which side of the scene the first row and the first column show
    1: lambda a: a,
    2: lambda a: a[:, ::-1],
    3: lambda a: a[::-1, ::-1],
    4: lambda a: a[::-1],
    5: lambda a: a.transpose(1, 0, 2),
    6: lambda a: np.rot90(a, -1),
    7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
    8: lambda a: np.rot90(a, 1),
}


@pytest.mark.parametrize("kind", ["PNG", "TIFF", "WEBP"])
@pytest.mark.parametrize("orientation", UPRIGHT)
def test_the_exif_orientation_is_applied_once(orientation: int, kind: str) -> None:
    data = encode(noise(), kind, orientation)
    assert np.array_equal(pixels(data), UPRIGHT[orientation](noise()))


def test_a_rotated_photograph_stands_upright() -> None:
    tall = np.zeros((64, 48, 3), np.uint8)
    tall[:32] = 255  # sky above
    stored = np.rot90(tall, 1)  # as a camera held sideways stores it
    shown = pixels(encode(Image.fromarray(stored.copy()), "JPEG", 6))
    assert shown.shape == (64, 48, 3)
    assert shown[:28].min() > 240
    assert shown[36:].max() < 15


@pytest.mark.parametrize("orientation", [0, 9, 65535])
def test_an_orientation_that_means_nothing_changes_nothing(orientation: int) -> None:
    assert np.array_equal(pixels(encode(noise(), "PNG", orientation)), noise())


def test_damaged_metadata_does_not_cost_a_sound_image() -> None:
    buffer = io.BytesIO()
    Image.fromarray(noise()).save(buffer, "PNG", exif=b"Exif\0\0MM\0*\xff\xff\xff\xff rubbish")
    assert np.array_equal(pixels(buffer.getvalue()), noise())


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "TIFF", "WEBP"])
def test_a_truncated_file_is_unreadable(kind: str) -> None:
    data = encode(noise(64, 64), kind)
    assert reason(data[: len(data) * 2 // 3])


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"not an image at all, but text that is long enough", "not an image"),
        (b"\0" * 500, "not an image"),
        (b"\0\0\0\x18ftypheic" + b"\0" * 50, "HEIC"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 90 90\n(/etc/passwd) run\n", "not an image"),
        (encode(noise(1, 1)), "1 x 1 px"),
        (encode(noise(7, 100)), "100 x 7 px, smaller than 8"),
        (encode(noise(8, 300)), "32 times"),
        (png_claiming(30_000, 30_000), "100 megapixels"),
        (png_claiming(12_000, 10_000), "12000 x 10000 px, larger"),
        (png_claiming(20_001, 4_000), "20001 x 4000 px, larger"),
        (encode(Image.fromarray(np.full((16, 16), np.nan, np.float32)), "TIFF"), "no defined white"),
        (encode(Image.fromarray(np.full((16, 16), 1 << 20, np.int32)), "TIFF"), "no defined white"),
        (png_with_text_bomb(), "damaged"),
    ],
    ids=range(13),
)
def test_what_cannot_be_used_says_why(data: bytes, words: str) -> None:
    assert words in reason(data)
    with pytest.raises(UnreadableError):
        picture.decode(data)


def test_the_largest_and_the_smallest_that_are_let_in() -> None:
    assert pixels(encode(noise(8, 256))).shape == (8, 256, 3)
    picture.check_size(20_000, 5_000)
    picture.check_size(10_000, 10_000)


@pytest.mark.parametrize("make", [lambda: png_claiming(30_000, 30_000), lambda: png_claiming(12_000, 10_000)])
def test_a_bomb_is_refused_by_its_header_and_warns_nobody(make: object) -> None:
    assert callable(make)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        for look in (picture.decode, picture.inspect):
            with pytest.raises(UnreadableError, match="megapixels"):
                look(make())


SOUND = [encode(noise(32, 32), kind) for kind in ("JPEG", "PNG", "GIF", "TIFF", "WEBP", "BMP", "PPM")]


@settings(max_examples=300, deadline=None)
@given(st.sampled_from(SOUND), st.data())
def test_damaged_bytes_are_an_image_or_unreadable_and_nothing_else(sound: bytes, data: st.DataObject) -> None:
    broken = bytearray(sound[: data.draw(st.integers(1, len(sound)))])
    for place in data.draw(st.lists(st.integers(0, len(broken) - 1), max_size=4)):
        broken[place] = data.draw(st.integers(0, 255))
    with contextlib.suppress(UnreadableError):
        assert picture.decode(bytes(broken)).mode == "RGB"
    with contextlib.suppress(UnreadableError):
        picture.inspect(bytes(broken))


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "TIFF", "WEBP", "BMP", "PPM", "AVIF"])
def test_the_quick_look_accepts_what_can_be_decoded(kind: str) -> None:
    picture.inspect(encode(noise(32, 32), kind))


@pytest.mark.parametrize("kind", ["JPEG", "PNG"])
def test_the_quick_look_finds_truncation(kind: str) -> None:
    data = encode(noise(64, 64), kind)
    with pytest.raises(UnreadableError):
        picture.inspect(data[: len(data) * 2 // 3])


def test_files_that_are_no_files_are_not_opened(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.jpg")
    (tmp_path / "empty.jpg").touch()
    (tmp_path / "dangling.jpg").symlink_to("nowhere")
    (tmp_path / "loop.jpg").symlink_to("loop.jpg")
    for name, words in {
        "pipe.jpg": "not a regular file",
        "empty.jpg": "empty",
        "dangling.jpg": "broken link",
        "loop.jpg": "too many levels",
        "none.jpg": "no such file",
    }.items():
        with pytest.raises(UnreadableError, match=words):
            picture.read(tmp_path / name)
    with (tmp_path / "huge.jpg").open("wb") as file:
        file.truncate(2 << 30)  # sparse: takes no room
    with pytest.raises(UnreadableError, match="2048 MiB"):
        picture.read(tmp_path / "huge.jpg")
