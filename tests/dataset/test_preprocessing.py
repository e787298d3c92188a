"""Resize, crop and normalise as torchvision does, checked against the formulas written out a second time."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from edgehybrid.dataset import preprocess_image
from edgehybrid.dataset.preprocessing import crop, normalise
from edgehybrid.errors import UsageError
from edgehybrid.records import Preprocess
from edgehybrid.sizes import Size, sides, size_of
from tests.dataset.samples import noise

SIDES = st.integers(1, 200)


def bicubic(x: NDArray[np.float64]) -> NDArray[np.float64]:
    """Keys' kernel with a = -0.5."""
    x = np.abs(x)
    near, far = 1.5 * x**3 - 2.5 * x**2 + 1, -0.5 * x**3 + 2.5 * x**2 - 4 * x + 2
    return np.where(x < 1, near, np.where(x < 2, far, 0.0))


def weights(old: int, new: int) -> NDArray[np.float64]:
    """(new, old): each output is a weighted mean of inputs, over a window that widens when the image shrinks."""
    scale = old / new
    centre = (np.arange(new)[:, None] + 0.5) * scale
    w = bicubic((np.arange(old)[None] + 0.5 - centre) / max(scale, 1.0))
    return w / w.sum(1, keepdims=True)


def reference(pixels: NDArray[np.uint8], p: Preprocess) -> NDArray[np.float64]:
    height, width = pixels.shape[:2]
    rows, columns = sides(p.size)
    least_h, least_w = int(rows / p.crop_pct), int(columns / p.crop_pct)
    new_h, new_w = least_w * height // width, least_w
    if new_h < least_h:
        new_h, new_w = least_h, least_h * width // height
    across = np.einsum("vw,hwc->hvc", weights(width, new_w), pixels.astype(float))
    resized = np.einsum("uh,hvc->uvc", weights(height, new_h), np.clip(np.round(across), 0, 255))
    top, left = round((new_h - rows) / 2), round((new_w - columns) / 2)
    cut = np.clip(np.round(resized), 0, 255)[top : top + rows, left : left + columns]
    return ((cut / 255 - p.mean) / p.std).transpose(2, 0, 1)


@pytest.mark.parametrize(("height", "width"), [(60, 90), (90, 60), (64, 64), (37, 101), (101, 37), (20, 24), (28, 28)])
@pytest.mark.parametrize(
    ("size", "crop_pct"),
    [(32, 0.875), (32, 1.0), (40, 0.9), (31, 0.875), (64, 0.95), ((24, 48), 1.0), ((48, 24), 0.875), ((9, 64), 0.9)],
)
def test_it_equals_the_formulas(height: int, width: int, size: Size, crop_pct: float) -> None:
    p = Preprocess(size, crop_pct)
    pixels = noise(height, width) // 2 + 64  # no overshoot is clipped between the passes, whichever comes first
    found = preprocess_image(Image.fromarray(pixels), p)
    expected = reference(pixels, p)
    assert found.shape == (3, *sides(size))
    level = 1 / 255 / min(p.std)  # one of 256: sums are rounded between the passes, and their order is Pillow's choice
    assert np.abs(found - expected).max() <= 1.01 * level


def test_a_square_image_without_crop_is_only_resized() -> None:
    image = Image.fromarray(noise(28, 28))
    expected = np.asarray(image.resize((64, 64), Image.Resampling.BICUBIC))
    assert np.array_equal(crop(image, Preprocess(64, 1.0)), expected)


def test_an_image_of_the_right_size_is_not_resampled() -> None:
    assert np.array_equal(crop(Image.fromarray(noise(256, 300)), Preprocess(224)), noise(256, 300)[16:240, 38:262])


def test_an_image_of_the_inputs_proportions_is_only_resized() -> None:
    image = Image.fromarray(noise(30, 50))
    expected = np.asarray(image.resize((100, 60), Image.Resampling.BICUBIC))
    assert np.array_equal(crop(image, Preprocess((60, 100), 1.0)), expected)


@given(height=SIDES, width=SIDES, rows=SIDES, columns=SIDES, crop_pct=st.floats(0.2, 1))
def test_every_image_covers_every_input(height: int, width: int, rows: int, columns: int, crop_pct: float) -> None:
    found = crop(Image.new("RGB", (width, height)), Preprocess(size_of(rows, columns), crop_pct))
    assert found.shape == (rows, columns, 3)


def test_bilinear_is_another_filter() -> None:
    image = Image.fromarray(noise(50, 50))
    bilinear = crop(image, Preprocess(32, 1.0, interpolation="bilinear"))
    assert np.array_equal(bilinear, np.asarray(image.resize((32, 32), Image.Resampling.BILINEAR)))
    assert not np.array_equal(bilinear, crop(image, Preprocess(32, 1.0)))


def test_every_level_is_normalised_in_single_precision() -> None:
    p = Preprocess(16)
    levels = np.broadcast_to(np.arange(256, dtype=np.uint8).reshape(1, 16, 16, 1), (1, 16, 16, 3))
    found = normalise(levels, p)
    for channel in range(3):
        one = np.arange(256, dtype=np.float32) / np.float32(255)
        expected = (one - np.float32(p.mean[channel])) / np.float32(p.std[channel])
        assert np.array_equal(found[0, channel].ravel(), expected)


@settings(max_examples=60, deadline=None)
@given(st.integers(8, 80), st.integers(8, 80), st.integers(1, 64), st.floats(0.3, 1.0), st.integers(0, 9))
def test_any_image_gives_a_contiguous_input_of_the_asked_size(
    h: int, w: int, size: int, crop_pct: float, seed: int
) -> None:
    p = Preprocess(size, crop_pct)
    found = preprocess_image(Image.fromarray(noise(h, w, seed)), p)
    assert (found.shape, found.dtype) == ((3, size, size), np.float32)
    assert found.flags.c_contiguous
    lowest, highest = [(np.array(v) - p.mean) / p.std for v in (0.0, 1.0)]
    assert (found.min((1, 2)) >= lowest - 1e-5).all()
    assert (found.max((1, 2)) <= highest + 1e-5).all()


def test_normalising_a_batch_is_normalising_each() -> None:
    p = Preprocess(24)
    batch = np.stack([noise(24, 24, seed) for seed in range(5)])
    assert np.array_equal(normalise(batch, p), np.concatenate([normalise(one[None], p) for one in batch]))
    assert normalise(batch, p).flags.c_contiguous


@pytest.mark.parametrize(
    "wrong",
    [
        Preprocess(0),
        Preprocess((8, 0)),
        Preprocess(32, 0.0),
        Preprocess(32, 1.2),
        Preprocess(32, float("nan")),
        Preprocess(32, std=(1, 0, 1)),
    ],
)
def test_what_cannot_be_computed_is_refused(wrong: Preprocess) -> None:
    with pytest.raises(UsageError) as caught:
        preprocess_image(Image.fromarray(noise()), wrong)
    assert caught.value.exit_code == 2


def test_only_rgb_is_taken() -> None:
    with pytest.raises(ValueError, match="needed RGB"):
        preprocess_image(Image.fromarray(noise()[..., 0]), Preprocess(16))
