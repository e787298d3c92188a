"""Images for calibration and evaluation, from a folder, an .npz or a bundled set, decoded as they are asked for."""

import hashlib
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgehybrid import resources
from edgehybrid.dataset.folder import shown
from edgehybrid.dataset.preprocessing import check, crop, normalise, preprocess_image, preprocess_pixels
from edgehybrid.dataset.sources import Pictures, resolve
from edgehybrid.dataset.stated import apply_stated, read_size, read_stated
from edgehybrid.errors import ImagesError, UsageError
from edgehybrid.printable import counted
from edgehybrid.records import ImageSet, Preprocess

__all__ = [
    "Images",
    "apply_stated",
    "load",
    "overlap",
    "preprocess_image",
    "preprocess_pixels",
    "read_size",
    "read_stated",
]

TOLERATED = 1
"""Percent of unreadable images that are skipped and reported; above it, the set is refused."""
LISTED = 5


class Images:
    """A chosen, checked set of images in a fixed order; holds paths and digests, never pixels.

    Attributes:
        spec: What to say about them in a report.
        labels: (N,), class numbers from 0; None where the source has none.
        digests: sha256 of each image: of the file's bytes, or of the pixels in an .npz.
        order: sha256 over `digests` in order: two sets with the same `order` give the same outputs in the same rows.
    """

    def __init__(
        self,
        spec: ImageSet,
        labels: NDArray[np.int64] | None,
        digests: tuple[bytes, ...],
        pictures: Pictures,
        chosen: Sequence[int],
    ) -> None:
        self.spec, self.labels, self.digests = spec, labels, digests
        self.order = hashlib.sha256(b"".join(digests)).hexdigest()
        self._pictures, self._chosen = pictures, tuple(chosen)

    def __len__(self) -> int:
        return len(self._chosen)

    def pick(self, count: int) -> "Images":
        """At most so many of them: those whose digests come first, in that order, however these are ordered."""
        return self._choose(sorted(range(len(self)), key=lambda index: self.digests[index])[:count])

    def image(self, index: int) -> NDArray[np.uint8]:
        """One image as it was taken, upright and RGB: (H, W, 3).

        Raises:
            ImagesError: It cannot be read any more.
        """
        return np.array(next(iter(self._pictures.open((self._chosen[index],)))))

    def take(self, indexes: Sequence[int]) -> "Images":
        """Some of these images, in the order of the set."""
        return self._choose(sorted(set(indexes)))

    def _choose(self, indexes: Sequence[int]) -> "Images":
        """These images in this order; their description counts and hashes only them."""
        digests = tuple(self.digests[index] for index in indexes)
        spec = replace(self.spec, images=len(indexes), sha256=_digest_of(digests))
        labels = None if self.labels is None else self.labels[indexes]
        return Images(spec, labels, digests, self._pictures, [self._chosen[index] for index in indexes])

    def batches(self, preprocess: Preprocess, batch_size: int) -> Iterator[NDArray[np.float32]]:
        """Network input, (B, 3, H, W) contiguous, in order; the last batch may be shorter.

        Memory stays flat in the number of images: one batch, and one decoded picture.

        Args:
            preprocess: The network's own.
            batch_size: Images per batch, at least 1.

        Raises:
            UsageError: `preprocess` is out of range; raised before any image is read.
            ImagesError: An image cannot be decoded, named with the reason.
        """
        check(preprocess)
        if batch_size < 1:
            raise ValueError(f"found batch_size {batch_size}, needed 1 or more")
        return self._batches(preprocess, batch_size)

    def _batches(self, preprocess: Preprocess, batch_size: int) -> Iterator[NDArray[np.float32]]:
        pixels: list[NDArray[np.uint8]] = []
        for image in self._pictures.open(self._chosen):
            pixels.append(crop(image, preprocess))
            if len(pixels) == batch_size:
                yield normalise(np.stack(pixels), preprocess)
                pixels = []
        if pixels:
            yield normalise(np.stack(pixels), preprocess)


def load(
    source: str | Path,
    *,
    limit: int | None = None,
    seed: int = 0,
    split: resources.Split = "calib",
    at_most: int | None = None,
) -> Images:
    """Choose images and check them.

    Up to 2,000 images are decoded once here, so that a damaged one is found before the work begins; of a larger
    choice only headers are looked at, and damage that shows later is an error then.

    Args:
        source: The name of a bundled set, a folder (`<class>/*.jpg`, or images alone), or an .npz with `x` uint8
            (N, H, W, 3) RGB and optional `y` int (N,). A name wins over a folder of that name: write `./name`.
        limit: Exactly so many images, sampled; None: all.
        seed: Of the sample. The same seed takes the same images on every machine, and a smaller sample is part of
            a larger one.
        split: Which part of a bundled set. Folders and .npz files have one part only.
        at_most: As `limit`, but a smaller source is taken whole.

    Raises:
        NotFoundError: No such set, folder or file.
        ImagesError: No images, fewer than `limit`, more than 1 % unreadable, or not what it should be.
        ArtifactError: A bundled set does not match its manifest.
        UsageError: `limit` or `at_most` is below 1.
    """
    for count in (limit, at_most):
        if count is not None and count < 1:
            raise UsageError(
                f"{count} images asked for", why="needed 1 or more", fix="leave the option out to take all"
            )
    origin = resolve(source, split)
    chosen = _sample(origin.pictures.keys, origin.name, limit, at_most, seed)
    digests: list[bytes] = []
    readable: list[int] = []
    skipped: list[str] = []
    for index, found in zip(chosen, origin.pictures.probe(chosen), strict=True):
        if isinstance(found, bytes):
            digests.append(found)
            readable.append(index)
        else:
            skipped.append(f"{shown(origin.pictures.keys[index])}: {found}")
    _check_skipped(origin.name, skipped, len(chosen))
    said = _monotony(origin.pictures, readable, digests) if split == "calib" else ""
    spec = ImageSet(
        name=origin.name,
        source=origin.place,
        images=len(readable),
        sha256=_digest_of(digests),
        labelled=origin.labels is not None,
        classes=origin.classes,
        skipped=tuple(skipped),
        licence=origin.licence,
        note="; ".join(note for note in (origin.note, said) if note),
    )
    labels = None if origin.labels is None else origin.labels[readable]
    return Images(spec, labels, tuple(digests), origin.pictures, readable)


def _monotony(pictures: Pictures, chosen: Sequence[int], digests: Sequence[bytes]) -> str:
    """Why ranges taken from these images fit no others; empty of most sets, of which only one image is opened."""
    if len(digests) > 1 and len(set(digests)) == 1:
        return f"all {len(digests):,} images are the same, so ranges fit no others"
    if all(image.getcolors(maxcolors=1) for image in pictures.open(chosen)):  # None: there are more
        return "every image is of one colour, so ranges fit no others"
    return ""


def overlap(first: Images, second: Images) -> int:
    """How many images of the first set are in the second as well, by content."""
    known = set(second.digests)
    return sum(digest in known for digest in first.digests)


def _digest_of(digests: Sequence[bytes]) -> str:
    """SHA-256 of a set of images from those of its images, whatever their order."""
    return hashlib.sha256(b"".join(sorted(digests))).hexdigest()


def _sample(keys: Sequence[str], name: str, limit: int | None, at_most: int | None, seed: int) -> list[int]:
    """Indexes in ascending order: those whose key hashes lowest, so that no random generator's version matters."""
    if limit is not None and limit > len(keys):
        raise ImagesError(
            f"{name} has too few images",
            why=f"found {len(keys)}, needed {limit}",
            fix=f"ask for at most {len(keys)}, or give a larger set",
        )
    count = min(count for count in (limit, at_most, len(keys)) if count is not None)
    if count == len(keys):
        return list(range(count))

    def rank(index: int) -> bytes:
        return hashlib.sha256(f"{seed}:{keys[index]}".encode(errors="surrogateescape")).digest()

    return sorted(sorted(range(len(keys)), key=rank)[:count])


def _check_skipped(name: str, skipped: Sequence[str], chosen: int) -> None:
    if 100 * len(skipped) <= TOLERATED * chosen:
        return
    more = f"; and {len(skipped) - LISTED} more" if len(skipped) > LISTED else ""
    raise ImagesError(
        f"{len(skipped)} of {counted(chosen, 'image')} of {name} cannot be read",
        why="; ".join(skipped[:LISTED]) + more,
        fix=f"remove or mend them; up to {TOLERATED} % would be skipped",
    )
