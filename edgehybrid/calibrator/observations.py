"""What was seen of all tapped tensors: merged, written and read."""

import io
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from edgehybrid.calibrator.histogram import BINS, FINITE, Histogram
from edgehybrid.errors import ArtifactError
from edgehybrid.store import write_atomic

_SCHEMA = "edgehybrid.observations/2"
_FIELDS = {  # name -> (kind of dtype, dimensions)
    "schema": ("U", 0),
    "images": ("i", 0),
    "names": ("U", 1),
    "amax": ("f", 1),
    "sizes": ("i", 1),
    "bins": ("u", 1),
    "counts": ("i", 1),
    "peak_sizes": ("i", 1),
    "peak_bins": ("u", 1),
    "peak_counts": ("i", 1),
}


@dataclass(frozen=True, eq=False)
class Observations:
    """What was seen of every tapped tensor on so many images."""

    tensors: Mapping[str, Histogram]
    images: int

    def merge(self, other: "Observations") -> "Observations":
        """Both together, as if one pass had seen the images of both.

        Raises:
            ValueError: They are of different tensors, hence not of one graph.
        """
        if self.tensors.keys() != other.tensors.keys():
            odd = sorted(self.tensors.keys() ^ other.tensors.keys())
            raise ValueError(f"observations of different tensors cannot be merged: {odd[0]} is only in one")
        merged = {name: histogram.merge(other.tensors[name]) for name, histogram in self.tensors.items()}
        return Observations(merged, self.images + other.images)

    def save(self, path: Path) -> None:
        """Write what `to_bytes` makes.

        Raises:
            ResourceError: The disk is full or the place cannot be written.
        """
        write_atomic(path, self.to_bytes())

    def to_bytes(self) -> bytes:
        """An .npz of the bins that are not empty; equal observations give equal bytes."""
        histograms = {name: self.tensors[name] for name in sorted(self.tensors)}
        filled, peaks = [], []
        for histogram in histograms.values():
            occupied = np.flatnonzero(histogram.counts)
            filled.append((occupied, histogram.counts[occupied]))
            held = sorted(histogram.peaks)
            peaks.append((np.array(held, np.intp), np.array([histogram.peaks[number] for number in held], np.int64)))
        sizes, bins, counts = _join(filled)
        peak_sizes, peak_bins, peak_counts = _join(peaks)
        buffer = io.BytesIO()
        np.savez_compressed(
            buffer,
            schema=np.array(_SCHEMA),
            images=np.array(self.images, np.int64),
            names=np.array(list(histograms), dtype=np.str_),
            amax=np.array([histogram.amax for histogram in histograms.values()], np.float32),
            sizes=sizes,
            bins=bins,
            counts=counts,
            peak_sizes=peak_sizes,
            peak_bins=peak_bins,
            peak_counts=peak_counts,
        )
        return buffer.getvalue()

    @staticmethod
    def from_bytes(data: bytes) -> "Observations":
        """Read what `to_bytes` made.

        Raises:
            Exception: It is damaged; which type depends on where.
        """
        return _decode(_read(io.BytesIO(data)))

    @staticmethod
    def load(path: Path) -> "Observations":
        """Read what `save` wrote.

        Raises:
            ArtifactError: The file is missing, damaged, or something else.
        """
        try:
            with path.open("rb") as handle:
                return _decode(_read(handle))
        except Exception as error:  # zipfile, zlib and numpy raise a dozen unrelated types on damaged files
            reason = " ".join(str(error).split()) or "no details"
            raise ArtifactError(
                f"{path} does not hold usable observations",
                why=f"{type(error).__name__}: {reason}",
                fix="delete it and calibrate again",
            ) from error


def _read(handle: BinaryIO) -> dict[str, NDArray[np.generic]]:
    """The fields of the file, each of the right kind and rank."""
    with np.load(handle, allow_pickle=False) as file:
        fields: dict[str, NDArray[np.generic]] = {name: file[name] for name in _FIELDS}
    for name, (kind, dimensions) in _FIELDS.items():
        if fields[name].dtype.kind != kind or fields[name].ndim != dimensions:
            raise ValueError(f"'{name}' is {fields[name].dtype} of rank {fields[name].ndim}")
    if str(fields["schema"]) != _SCHEMA:
        raise ValueError(f"found schema '{fields['schema']}', needed '{_SCHEMA}'")
    return fields


def _join(
    parts: Sequence[tuple[NDArray[np.intp], NDArray[np.int64]]],
) -> tuple[NDArray[np.int64], NDArray[np.uint16], NDArray[np.int64]]:
    """How many bins each tensor has; the bins and the counts of all, one tensor behind the other."""
    sizes = np.array([bins.size for bins, _ in parts], np.int64)
    bins = np.concatenate([*(bins for bins, _ in parts), np.empty(0, np.intp)]).astype(np.uint16)
    return sizes, bins, np.concatenate([*(counts for _, counts in parts), np.empty(0, np.int64)])


def _divide(
    fields: Mapping[str, NDArray[np.generic]], prefix: str, names: Sequence[str], amaxes: NDArray[np.float32]
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """What `_join` put together: ascending bins up to that of the maximum, and counts of 1 or more."""
    sizes, bins, counts = (fields[f"{prefix}{name}"].astype(np.int64) for name in ("sizes", "bins", "counts"))
    if len(names) != sizes.size or (sizes < 0).any():
        raise ValueError(f"names and {prefix}sizes do not fit each other")
    if sizes.sum() != bins.size or bins.size != counts.size or (counts < 1).any():
        raise ValueError(f"{prefix}bins and {prefix}counts do not fit each other")
    ends = np.cumsum(sizes)
    for name, amax, begin, end in zip(names, amaxes, ends - sizes, ends, strict=True):
        held = bins[begin:end]
        last = held[-1] if held.size else 0
        if (np.diff(held) < 1).any() or not last <= amax.view(np.uint32) >> 16 < FINITE:
            raise ValueError(f"the {prefix}bins of '{name}' are not in order or go beyond its maximum")
        yield held, counts[begin:end]


def _decode(fields: Mapping[str, NDArray[np.generic]]) -> Observations:
    """Check that the fields fit each other, and unpack them."""
    names, images = [str(name) for name in fields["names"].tolist()], int(fields["images"])
    amaxes = fields["amax"].astype(np.float32)
    if not (len(names) == len(set(names)) == amaxes.size) or images < 1:
        raise ValueError("names and maxima do not fit each other")
    tensors: dict[str, Histogram] = {}
    parts = (_divide(fields, prefix, names, amaxes) for prefix in ("", "peak_"))
    for name, amax, (bins, counts), (highest, seen) in zip(names, amaxes, *parts, strict=True):
        if not bins.size:
            raise ValueError(f"nothing was counted of '{name}'")
        if seen.sum() > images:
            raise ValueError(f"'{name}' has more peaks than there are images")
        dense = np.zeros(BINS, np.int64)
        dense[bins] = counts
        tensors[name] = Histogram(dense, float(amax), dict(zip(highest.tolist(), seen.tolist(), strict=True)))
    return Observations(tensors, images)
