"""Turn frames into what people look at: a JPEG for the page, a picture with the answer written on it for a film."""

import io

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw, ImageFont

VIEW_WIDTH = 800
"""Px; a page shows no more of a frame, and a wider JPEG costs inference time."""
_QUALITY = 80
_PANEL, _INK, _TRACK, _BAR = (16, 19, 22), (231, 234, 237), (45, 52, 59), (86, 180, 233)


def jpeg(pixels: NDArray[np.uint8]) -> bytes:
    """A JPEG of a frame (H, W, 3), at most `VIEW_WIDTH` px wide."""
    image = Image.fromarray(pixels)
    if image.width > VIEW_WIDTH:
        height = max(1, round(image.height * VIEW_WIDTH / image.width))
        image = image.resize((VIEW_WIDTH, height), Image.Resampling.BILINEAR, reducing_gap=2.0)
    out = io.BytesIO()
    image.save(out, "JPEG", quality=_QUALITY)
    return out.getvalue()


def annotate(
    pixels: NDArray[np.uint8], size: tuple[int, int], bars: tuple[tuple[str, float], ...], caption: str
) -> NDArray[np.uint8]:
    """The frame with its answer: bars in the lower left corner, a caption above them.

    Args:
        pixels: (H, W, 3).
        size: (width, height) of the film; a frame of another shape is fitted in, with bars of black.
        bars: Label and probability, best first.
        caption: One line.

    Returns:
        (height, width, 3).
    """
    image = _fitted(Image.fromarray(pixels), size)
    text = max(10, size[1] // 32)
    font = ImageFont.load_default(text)
    line, pad, width = round(text * 1.6), text // 2, min(size[0], text * 20)
    panel = Image.new("RGB", (width, line * (len(bars) + 1) + 2 * pad), _PANEL)
    draw = ImageDraw.Draw(panel)
    draw.text((pad, pad), caption, _INK, font)
    for row, (label, share) in enumerate(bars, start=1):
        top = pad + row * line
        full = width - 2 * pad
        draw.rectangle((pad, top, pad + full, top + line - 3), _TRACK)
        draw.rectangle((pad, top, pad + round(full * share), top + line - 3), _BAR)
        shown = f"{share:.0%}"
        draw.text((pad + 4, top + 1), label[:28], "white", font, stroke_width=1, stroke_fill=_PANEL)
        draw.text(
            (pad + full - 4 - draw.textlength(shown, font), top + 1),
            shown,
            "white",
            font,
            stroke_width=1,
            stroke_fill=_PANEL,
        )
    place = (0, max(0, size[1] - panel.height))
    behind = image.crop((*place, place[0] + panel.width, place[1] + panel.height))
    image.paste(Image.blend(behind, panel, 0.8), place)
    return np.array(image)


def _fitted(image: Image.Image, size: tuple[int, int]) -> Image.Image:
    if image.size == size:
        return image
    scale = min(size[0] / image.width, size[1] / image.height)
    inner = image.resize((max(1, round(image.width * scale)), max(1, round(image.height * scale))))
    whole = Image.new("RGB", size)
    whole.paste(inner, ((size[0] - inner.width) // 2, (size[1] - inner.height) // 2))
    return whole
