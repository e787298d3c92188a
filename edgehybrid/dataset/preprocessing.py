"""Turn one picture into network input, the same way in calibration, evaluation, on the device and in the stream."""

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from edgehybrid.errors import UsageError
from edgehybrid.records import Preprocess
from edgehybrid.sizes import sides, spelled


def preprocess_image(image: Image.Image, preprocess: Preprocess) -> NDArray[np.float32]:
    """Resize, crop and normalise one picture.

    Args:
        image: RGB, upright, of any size.
        preprocess: What the network was trained with.

    Returns:
        (3, H, W) of `Preprocess`, contiguous.

    Raises:
        UsageError: `size`, `crop_pct` or `std` is out of range.
        ValueError: The picture is not RGB.

    Source:
        torchvision's Resize, CenterCrop, ToTensor and Normalize on a PIL image; equal to the last bit.
    """
    network_input: NDArray[np.float32] = normalise(crop(image, preprocess)[None], preprocess)[0]
    return network_input


def preprocess_pixels(pixels: NDArray[np.uint8], preprocess: Preprocess) -> NDArray[np.float32]:
    """As `preprocess_image`, of pixels that are decoded already: a camera's frame (H, W, 3), upright RGB.

    Raises:
        UsageError: `size`, `crop_pct` or `std` is out of range.
    """
    return preprocess_image(Image.fromarray(pixels), preprocess)


def crop(image: Image.Image, preprocess: Preprocess) -> NDArray[np.uint8]:
    """The resized centre of a picture, before normalisation: (H, W, 3) of `Preprocess`."""
    check(preprocess)
    if image.mode != "RGB":
        raise ValueError(f"found a picture of mode {image.mode}, needed RGB")
    rows, columns = sides(preprocess.size)
    least_height, least_width = int(rows / preprocess.crop_pct), int(columns / preprocess.crop_pct)
    width, height = image.size
    if width * least_height <= height * least_width:
        width, height = least_width, int(least_width * height / width)
    else:
        width, height = int(least_height * width / height), least_height
    # PIL widens the filter when it shrinks (antialiasing); other libraries do not, and accuracy moves by points.
    resized = np.asarray(image.resize((width, height), Image.Resampling[preprocess.interpolation.upper()]))
    left, top = round((width - columns) / 2), round((height - rows) / 2)  # half to even, as in torchvision
    return resized[top : top + rows, left : left + columns]


def normalise(pixels: NDArray[np.uint8], preprocess: Preprocess) -> NDArray[np.float32]:
    """(B, H, W, 3) pixels to (B, 3, H, W) input, contiguous.

    Single precision, in the order of ToTensor and Normalize: folding the constants would change the last bit.
    """
    output = np.empty((len(pixels), 3, *pixels.shape[1:3]), np.float32)
    for channel in range(3):
        plane = output[:, channel]
        np.divide(pixels[..., channel], np.float32(255), out=plane)
        plane -= np.float32(preprocess.mean[channel])
        plane /= np.float32(preprocess.std[channel])
    return output


def check(preprocess: Preprocess) -> None:
    """Refuse what cannot be computed, before any image is read.

    Raises:
        UsageError: `size`, `crop_pct` or `std` is out of range.
    """
    if min(sides(preprocess.size)) < 1:
        found = f"found {spelled(preprocess.size)} px, needed 1 or more"
        raise UsageError("no such input size", why=found, fix="--input-size")
    if not 0 < preprocess.crop_pct <= 1:
        raise UsageError(
            "no such crop",
            why=f"found crop_pct {preprocess.crop_pct}, needed above 0 and at most 1",
            fix="--crop-pct 0.875 is usual, 1.0 crops nothing from a square image",
        )
    if not all(std > 0 for std in preprocess.std):
        raise UsageError("no such normalisation", why=f"found std {preprocess.std}", fix="give three values above 0")
