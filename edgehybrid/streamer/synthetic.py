"""Draw a moving scene that no camera saw: the source that works everywhere and says what it is."""

import math
import time
from collections.abc import Callable, Iterator, Mapping

import numpy as np
from numpy.typing import NDArray

from edgehybrid.errors import UsageError
from edgehybrid.streamer.source import Shot

DEFAULT_FPS, DEFAULT_SIZE = 30.0, (960, 540)
_BODIES = 5
_TEXTURE_SEED = 0


class Scene:
    """Textured balls that drift over a slowly panning landscape; the same picture for the same moment."""

    def __init__(self, width: int, height: int) -> None:
        self.width, self.height = width, height
        rng = np.random.default_rng(_TEXTURE_SEED)
        self._landscape = _landscape(2 * width, height, rng)
        self._balls = [_ball(max(8, int(height * size)), rng) for size in rng.uniform(0.10, 0.22, _BODIES)]
        self._orbits = rng.uniform(0.15, 0.6, (_BODIES, 2))  # Hz
        self._phases = rng.uniform(0, math.tau, (_BODIES, 2))

    def draw(self, seconds: float) -> NDArray[np.uint8]:
        """The picture (H, W, 3) at a moment."""
        pan = int(self.width * (0.5 - 0.5 * math.cos(0.2 * seconds)))
        picture = self._landscape[:, pan : pan + self.width].copy()
        for (colour, mask), orbit, phase in zip(self._balls, self._orbits, self._phases, strict=True):
            side = len(mask)
            across, down = 0.5 + 0.5 * np.sin(orbit * seconds + phase)
            left, top = int(across * (self.width - side)), int(down * (self.height - side))
            np.copyto(picture[top : top + side, left : left + side], colour, where=mask)
        return picture


class SyntheticReader:
    """Yields a scene at the pace of a camera."""

    def __init__(self, options: Mapping[str, str]) -> None:
        self.fps, size = settings(options)
        self.title = f"synthetic scene {size[0]}x{size[1]}, {self.fps:g} fps: no camera"
        self._scene = Scene(*size)

    def shots(self, wanted: Callable[[], bool]) -> Iterator[Shot]:
        """One picture per frame interval; a beat that was missed is left out, as a camera's driver would."""
        began = time.monotonic()
        beat = 0
        while wanted():
            due = began + beat / self.fps
            wait = due - time.monotonic()
            if wait > 0:
                time.sleep(min(wait, 0.1))
                continue
            yield Shot(self._scene.draw(beat / self.fps), time.monotonic())
            beat = max(beat + 1, math.floor((time.monotonic() - began) * self.fps))

    def close(self) -> None:
        """Nothing to free."""


def settings(options: Mapping[str, str]) -> tuple[float, tuple[int, int]]:
    """Frames per second and (width, height) of `test://?fps=60&size=1280x720`.

    Raises:
        UsageError: A value that cannot be read or drawn.
    """
    width, height = DEFAULT_SIZE
    try:
        fps = float(options.get("fps", DEFAULT_FPS))
        if "size" in options:
            width, height = (int(side) for side in options["size"].lower().split("x"))
    except ValueError as error:
        raise UsageError("cannot read the test scene", why=str(error), fix="test://?fps=60&size=1280x720") from error
    if not 0 < fps <= 1000 or not (64 <= width <= 8192 and 64 <= height <= 8192):
        raise UsageError(
            "cannot draw the test scene",
            why=f"found {fps:g} fps, {width}x{height} px; needed up to 1000 fps and sides of 64 to 8192 px",
            fix="test://?fps=60&size=1280x720",
        )
    return fps, (width, height)


def _landscape(width: int, height: int, rng: np.random.Generator) -> NDArray[np.uint8]:
    """A dusk sky over three ridges, with grain, so that no part of it is flat."""
    x, y = np.arange(width), np.arange(height)[:, None] / height
    sky = np.array([58, 86, 138]) * (1 - y[..., None]) + np.array([236, 170, 122]) * y[..., None]
    picture = np.broadcast_to(sky, (height, width, 3)).copy()
    for depth, tone in enumerate(((96, 92, 122), (64, 66, 92), (34, 40, 58))):
        waves = sum(rng.uniform(0.02, 0.06) * np.sin(math.tau * k * x / width + rng.uniform(0, 9)) for k in (2, 5, 11))
        ridge = 0.55 + 0.14 * depth + np.asarray(waves)
        picture[y[:, 0][:, None] > ridge[None]] = tone
    picture += rng.normal(0, 5, picture.shape)
    return picture.clip(0, 255).astype(np.uint8)


def _ball(side: int, rng: np.random.Generator) -> tuple[NDArray[np.uint8], NDArray[np.bool_]]:
    """A shaded, striped ball and where it covers what is behind."""
    at = (np.arange(side) + 0.5) / side * 2 - 1
    square = at[None] ** 2 + at[:, None] ** 2
    light = np.sqrt(np.clip(1 - square, 0, 1)) * (0.65 - 0.35 * at[:, None])
    stripes = 0.75 + 0.25 * np.sign(np.sin(9 * at[None] + 3 * at[:, None]))
    colour = rng.uniform(90, 255, 3) * (light * stripes + 0.15)[..., None]
    return colour.clip(0, 255).astype(np.uint8), np.broadcast_to((square <= 1)[..., None], (side, side, 3))
