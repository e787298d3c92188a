"""Make what lies in this folder: cut 64 photographs out of packages whose images are CC0 or public domain.

    python calib/photos/make.py --packages FOLDER

FOLDER holds four unpacked packages, each under its own name:

    endless-sky   Debian endless-sky-data 0.9.8-1.2 (dpkg-deb -x); see its copyright file for each photograph
    blender       Debian blender-data 3.4.1+dfsg-2 (dpkg-deb -x); studiolights/world/license.txt: CC0
    skimage       PyPI scikit-image 0.26.0; licences in skimage/data/_fetchers.py
    scipy         PyPI scipy 1.9.3, the last with scipy/misc/face.dat

Endless Sky's photographs come from four places. Those it took from morguefile.com and all CC BY or BY-SA ones
are left out. Those it took from unsplash.com came with release 0.9.5 of January 2017, when everything there was
CC0 (the licence changed in June 2017). Needs `pip install openexr` for Blender's panoramas.
"""

import argparse
import bz2
import hashlib
import json
from pathlib import Path

import numpy as np
import OpenEXR
from PIL import Image

SHORT = 256
"""Shorter side in px: what `--input-size 224 --crop-pct 0.875` resizes to."""
ASPECT = {"wide": (4, 3), "square": (1, 1), "tall": (3, 4)}
LAND = "usr/share/games/endless-sky/images"
WORLD = "usr/share/blender/datafiles/studiolights/world"
UNSPLASH = ("endless-sky", "unsplash.com by way of Endless Sky 0.9.8", "CC0-1.0")
NASA = ("endless-sky", "NASA by way of Endless Sky 0.9.8", "public domain (US government)")
USGS = ("endless-sky", "US Geological Survey by way of Endless Sky 0.9.8", "public domain (US government)")
CONGRESS = ("endless-sky", "Library of Congress by way of Endless Sky 0.9.8", "public domain (US government)")
HAVEN = ("blender", "HDRI Haven, Greg Zaal, by way of Blender 3.4.1; one view of a panorama", "CC0-1.0")
SKIMAGE, SCIPY = "scikit-image 0.26.0", "scipy 1.9.3"

LANDSCAPES = {  # file -> (shape of the crop, its centre along the longer side)
    UNSPLASH: {
        "badlands0": ("wide", 0.4), "badlands7": ("square", 0.5), "beach0": ("wide", 0.3), "beach2": ("wide", 0.6),
        "beach4": ("square", 0.5), "beach5": ("tall", 0.25), "beach6": ("square", 0.6), "canyon7": ("wide", 0.6),
        "city4": ("wide", 0.45), "city6": ("tall", 0.5), "city8": ("wide", 0.35), "city9": ("tall", 0.6),
        "city10": ("square", 0.5), "city11": ("wide", 0.55), "desert2": ("square", 0.5), "fields1": ("wide", 0.7),
        "fields5": ("wide", 0.5), "fields7": ("square", 0.5), "fog0": ("tall", 0.7), "forest2": ("wide", 0.4),
        "forest4": ("square", 0.6), "forest5": ("wide", 0.5), "lava1": ("square", 0.5), "lava6": ("wide", 0.4),
        "mountain1": ("wide", 0.5), "mountain4": ("tall", 0.5), "mountain8": ("square", 0.35), "sea3": ("wide", 0.6),
        "sky2": ("square", 0.6), "sky8": ("tall", 0.45), "snow1": ("wide", 0.5), "snow6": ("wide", 0.4),
        "snow10": ("square", 0.6), "water0": ("wide", 0.5),
    },
    NASA: {
        "desert0": ("square", 0.4), "earthrise": ("square", 0.5), "nasa0": ("wide", 0.75), "nasa2": ("tall", 0.42),
        "nasa3": ("wide", 0.55), "nasa7": ("tall", 0.5), "nasa8": ("wide", 0.4), "space1": ("square", 0.5),
        "space3": ("wide", 0.45), "space5": ("wide", 0.5), "station1": ("wide", 0.5), "station4": ("square", 0.3),
    },
    USGS: {"lava0": ("wide", 0.5)},
    CONGRESS: {"loc0": ("wide", 0.6), "loc1": ("square", 0.5), "loc2": ("tall", 0.5)},
}  # fmt: skip
PANORAMAS = {  # file -> (shape, heading and pitch in degrees)
    "city": ("wide", 20, 5), "courtyard": ("wide", 200, 0), "forest": ("tall", 90, 0), "interior": ("wide", 150, -5),
    "night": ("square", 0, 5), "sunset": ("wide", 270, 0),
}  # fmt: skip
PICTURES = (  # package, file, box in px or None, source, licence
    ("skimage", "chelsea.png", (80, 0, 480, 300), "Stéfan van der Walt, the cat Chelsea", "CC0-1.0"),
    ("skimage", "coffee.png", (60, 20, 560, 395), "Rachel Michetti, courtesy of Pikolo Espresso Bar", "CC0-1.0"),
    ("skimage", "astronaut.png", None, "NASA, official portrait of Eileen Collins", "public domain (US government)"),
    ("skimage", "rocket.jpg", (150, 0, 490, 427), "SpaceX", "CC0-1.0"),
    ("skimage", "hubble_deep_field.jpg", (300, 200, 800, 700), "NASA", "public domain (US government)"),
    ("skimage", "brick.png", None, "CC0Textures, Bricks25", "CC0-1.0"),
    ("skimage", "grass.png", None, "DeviantArt, linolafett, Grass-01", "CC0-1.0"),
    ("scipy", "face.dat", None, "public-domain-image.com, raccoon-procyon-lotor", "public domain"),
)  # fmt: skip


def main() -> None:
    """Write every picture and the manifest."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--packages", type=Path, required=True)
    parser.add_argument("--output", type=Path, default=Path(__file__).parent)
    args = parser.parse_args()
    rows = []
    for (package, origin, licence), pictures in LANDSCAPES.items():
        for stem, (shape, centre) in pictures.items():
            whole = Image.open(args.packages / package / LAND / "land" / f"{stem}.jpg").convert("RGB")
            rows.append((f"{stem}.jpg", cut(whole, shape, centre), f"{origin}, images/land/{stem}.jpg", licence))
    for stem, (shape, heading, pitch) in PANORAMAS.items():
        package, origin, licence = HAVEN
        view = look(read_exr(args.packages / package / WORLD / f"{stem}.exr"), shape, heading, pitch)
        rows.append((f"{stem}-view.jpg", view, f"{origin}, {stem}.exr", licence))
    for package, file, box, origin, licence in PICTURES:
        whole = read_picture(args.packages / package, package, file).crop(box).convert("RGB")
        origin = f"{origin}, by way of {SKIMAGE if package == 'skimage' else SCIPY}, {file}"
        rows.append((f"{Path(file).stem}.jpg", shrink(whole), origin, licence))
    write(args.output, sorted(rows))


def cut(whole: Image.Image, shape: str, centre: float) -> Image.Image:
    """A crop of full height, its centre at a fraction of the width."""
    across, down = ASPECT[shape]
    width = whole.height * across // down
    left = round(min(max(centre * whole.width - width / 2, 0), whole.width - width))
    return shrink(whole.crop((left, 0, left + width, whole.height)))


def shrink(picture: Image.Image) -> Image.Image:
    """Shorter side to SHORT px."""
    scale = SHORT / min(picture.size)
    size = (round(picture.width * scale), round(picture.height * scale))
    return picture.resize(size, Image.Resampling.LANCZOS)


def look(panorama: np.ndarray, shape: str, heading: float, pitch: float) -> Image.Image:
    """What a camera with 90 degrees across the shorter side sees in an equirectangular panorama (H, 2H, 3)."""
    across, down = ASPECT[shape]
    height, width = panorama.shape[:2]
    size = [round(SHORT * side / min(across, down)) for side in (down, across)]
    y, x = np.mgrid[0 : size[0], 0 : size[1]].astype(float)
    x, y = (x + 0.5) / SHORT * 2 - across / min(across, down), down / min(across, down) - (y + 0.5) / SHORT * 2
    tilt = np.radians(pitch)
    up, ahead = y * np.cos(tilt) + np.sin(tilt), np.cos(tilt) - y * np.sin(tilt)
    longitude = np.arctan2(x, ahead) + np.radians(heading)
    latitude = np.arctan2(up, np.hypot(x, ahead))
    column, row = longitude / (2 * np.pi) * width - 0.5, (0.5 - latitude / np.pi) * height - 0.5
    left, top = np.floor(column).astype(int), np.floor(row).astype(int)
    a, b = (column - left)[..., None], (row - top)[..., None]
    above, below = np.clip(top, 0, height - 1), np.clip(top + 1, 0, height - 1)
    pixels = (panorama[above, left % width] * (1 - a) + panorama[above, (left + 1) % width] * a) * (1 - b)
    pixels += (panorama[below, left % width] * (1 - a) + panorama[below, (left + 1) % width] * a) * b
    exposed = np.clip(pixels / np.quantile(pixels, 0.97), 0, 1)  # the brightest 3 % may clip, as in a camera
    return Image.fromarray(np.round(255 * exposed ** (1 / 2.2)).astype(np.uint8))


def read_exr(path: Path) -> np.ndarray:
    """Linear RGB (H, W, 3)."""
    with OpenEXR.File(str(path)) as file:
        channels = file.channels()
        if "RGB" in channels:
            return np.asarray(channels["RGB"].pixels, np.float32)
        return np.stack([np.asarray(channels[c].pixels, np.float32) for c in "RGB"], -1)


def read_picture(folder: Path, package: str, file: str) -> Image.Image:
    """A picture of scikit-image or scipy."""
    if package == "skimage":
        return Image.open(folder / "skimage" / "data" / file)
    pixels = bz2.decompress((folder / "scipy" / "misc" / file).read_bytes())
    return Image.fromarray(np.frombuffer(pixels, np.uint8).reshape(768, 1024, 3))


def write(folder: Path, rows: list[tuple[str, Image.Image, str, str]]) -> None:
    """JPEG files and manifest.toml."""
    lines = [
        'name = "photos"',
        'title = "Natural photographs"',
        'licence = "CC0-1.0 or public domain, each as said below"',
        'note = "photographs of many kinds, but few: calibrate on your own images before you deploy"',
        "",
        "[parts.calib]",
        'kind = "images"',
        f"images = {len(rows)}",
    ]
    for name, picture, source, licence in rows:
        picture.save(folder / name, quality=85)
        digest = hashlib.sha256((folder / name).read_bytes()).hexdigest()
        lines += ["", "[[parts.calib.files]]", f'path = "{name}"', f'sha256 = "{digest}"']
        lines += [f"source = {json.dumps(source, ensure_ascii=False)}", f'licence = "{licence}"']
    (folder / "manifest.toml").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
