"""Histograms of |x| by the top 16 bits of its float32: no range to guess, integer counts, merged by addition.

A bin is (sign dropped) the 8 exponent bits and the first 7 mantissa bits, so it spans 1/128 of an octave's lower
edge: at most 0.8 % of its value, at any magnitude. Counts are integers, so their sums do not depend on the order
of images, on how they were batched, or on how they were spread over processes.
"""

import functools
import io
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from edgehybrid.errors import ArtifactError
from edgehybrid.store import write_atomic

BINS = 1 << 15
FINITE = 0x7F80
"""The first bin of infinities and NaNs; never counted."""

EDGES: NDArray[np.float64] = np.append(
    (np.arange(FINITE, dtype=np.uint32) << 16).view(np.float32).astype(np.float64), 2.0**128
)
"""Bin b holds EDGES[b] <= |x| < EDGES[b + 1]; bin 0 holds zeros and what is below 2**-133."""

STAGE = 1 << 17
"""Activations of a tensor kept as 16-bit bin numbers until they are worth one call of bincount."""

SAMPLED = 1 << 14
"""Activations of a tensor that are counted per image, at most."""

UNLIKE, FEW, TRIES = math.log(1.3), 8, 64
"""A place along an axis may be counted 1.3 times as often as its share or 1 / 1.3 times, if its share is FEW or more;
the first stride of TRIES that keeps to this is taken, else the best of them."""

_SCHEMA = "edgehybrid.observations/1"
_POWER = ""
"""Stands for `Observations.power` among the names in a file: no tensor has an empty name."""
_FIELDS = {  # name -> (kind of dtype, dimensions)
    "schema": ("U", 0),
    "images": ("i", 0),
    "names": ("U", 1),
    "amax": ("f", 1),
    "sizes": ("i", 1),
    "bins": ("u", 1),
    "counts": ("i", 1),
}


@dataclass(frozen=True, eq=False)
class Histogram:
    """What was seen of one tensor.

    Args:
        counts: int64 (BINS,), how many activations fell in each bin; estimated where a sample of them was counted.
        amax: The largest |x| of all activations, exactly.
    """

    counts: NDArray[np.int64]
    amax: float

    def merge(self, other: "Histogram") -> "Histogram":
        """Both together."""
        return Histogram(self.counts + other.counts, max(self.amax, other.amax))


@dataclass(frozen=True, eq=False)
class Observations:
    """What was seen of every tapped tensor on so many images."""

    tensors: Mapping[str, Histogram]
    images: int
    power: Histogram | None = None
    """Of the mean square of what the network puts out, one count per image where that is finite; None: not observed."""

    def merge(self, other: "Observations") -> "Observations":
        """Both together, as if one pass had seen the images of both.

        Raises:
            ValueError: They are of different tensors, hence not of one graph.
        """
        if self.tensors.keys() != other.tensors.keys():
            odd = sorted(self.tensors.keys() ^ other.tensors.keys())
            raise ValueError(f"observations of different tensors cannot be merged: {odd[0]} is only in one")
        merged = {name: histogram.merge(other.tensors[name]) for name, histogram in self.tensors.items()}
        power = None if self.power is None or other.power is None else self.power.merge(other.power)
        return Observations(merged, self.images + other.images, power)

    def save(self, path: Path) -> None:
        """Write what `to_bytes` makes.

        Raises:
            ResourceError: The disk is full or the place cannot be written.
        """
        write_atomic(path, self.to_bytes())

    def to_bytes(self) -> bytes:
        """An .npz of the bins that are not empty; equal observations give equal bytes."""
        histograms = {name: self.tensors[name] for name in sorted(self.tensors)}
        if self.power is not None:
            histograms[_POWER] = self.power
        occupied = [np.flatnonzero(histogram.counts) for histogram in histograms.values()]
        counts = [histogram.counts[bins] for histogram, bins in zip(histograms.values(), occupied, strict=True)]
        buffer = io.BytesIO()
        np.savez_compressed(
            buffer,
            schema=np.array(_SCHEMA),
            images=np.array(self.images, np.int64),
            names=np.array(list(histograms), dtype=np.str_),
            amax=np.array([histogram.amax for histogram in histograms.values()], np.float32),
            sizes=np.array([bins.size for bins in occupied], np.int64),
            bins=np.concatenate([*occupied, np.empty(0, np.intp)]).astype(np.uint16),
            counts=np.concatenate([*counts, np.empty(0, np.int64)]),
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


@functools.cache
def stride_of(shape: tuple[int, ...]) -> int:
    """The smallest distance at which no more than SAMPLED values of an image's tensor of this shape are counted.

    It has no factor in common with any dimension and does not beat with them either, so that every channel, row and
    token is counted about as often as any other, however they are laid out: 1,147 divides nothing of (244, 265, 290),
    but 67 steps of it are 265 x 290 less one, and 141 of the 265 places would never be met.
    """
    size = math.prod(shape)
    stride = max(1, -(-size // SAMPLED))
    tried: dict[int, float] = {}
    while not tried or (min(tried.values()) > UNLIKE and len(tried) < TRIES):
        if math.gcd(stride, size) == 1:
            tried[stride] = _unlikeness(shape, stride)
        stride += 1
    return min(tried, key=lambda each: tried[each])


def _unlikeness(shape: tuple[int, ...], stride: int) -> float:
    """How much more or less often than its share any place along an axis is counted, as a logarithm."""
    size, worst = math.prod(shape), 0.0
    coordinates = np.unravel_index(np.arange(0, size, stride), shape) if shape else ()
    for axis, places in enumerate(coordinates):
        share = size / shape[axis] / stride
        if share >= FEW:
            counts = np.bincount(places, minlength=shape[axis]) / share
            worst = max(worst, math.log(counts.max()), -math.log(max(counts.min(), math.ulp(0))))
    return worst


class Tally:
    """Counts the activations of one tensor as they stream by.

    Args:
        stride: Every so many values one is counted, and stands for as many.
        scratch: (STAGE,), which tallies of one thread may share; bincount would allocate it at every call.
    """

    def __init__(self, stride: int = 1, scratch: NDArray[np.intp] | None = None) -> None:
        self._stride = stride
        self._scratch = np.empty(STAGE, np.intp) if scratch is None else scratch
        self._counts = np.zeros(BINS, np.int64)
        self._amax = 0.0
        self._stage = np.empty(STAGE, np.uint16)
        self._staged = 0

    def add(self, values: NDArray[np.float32], copies: int = 1, phase: int = 0) -> None:
        """Count activations.

        Args:
            values: Contiguous, of any shape.
            copies: How many times every image is in `values`; each is counted once.
            phase: 0 or more, by which the first value that is counted is chosen.

        Raises:
            FloatingPointError: An infinity or a NaN; the tally is spoilt.
            ValueError: The copies differ.
        """
        if not values.size:
            return
        amax = max(float(values.max()), -float(values.min()))
        if not amax < math.inf:  # as a NaN is not
            raise FloatingPointError
        self._amax = max(self._amax, amax)
        flat = values.reshape(-1)[phase % self._stride :: self._stride]
        if copies == 1:
            self._add(flat)
            return
        self._flush()
        before = self._counts.copy()
        self._add(flat)
        self._flush()
        added, rest = np.divmod(self._counts - before, copies)
        if rest.any():
            raise ValueError("copies of one image gave different activations")
        self._counts = before + added

    def histogram(self) -> Histogram:
        """What was counted so far."""
        self._flush()
        return Histogram(self._counts * self._stride, self._amax)

    def _add(self, values: NDArray[np.float32]) -> None:
        """Stage the bin numbers of values (N,)."""
        while values.size:
            block = values[: STAGE - self._staged]
            values = values[block.size :]
            bins = self._stage[self._staged : self._staged + block.size]
            np.right_shift(block.view(np.uint32), 16, out=bins, casting="unsafe")
            np.bitwise_and(bins, 0x7FFF, out=bins)  # the sign
            self._staged += block.size
            if self._staged == STAGE:
                self._flush()

    def _flush(self) -> None:
        numbers = self._scratch[: self._staged]
        np.copyto(numbers, self._stage[: self._staged])
        counts = np.bincount(numbers)
        self._counts[: counts.size] += counts
        self._staged = 0


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


def _decode(fields: dict[str, NDArray[np.generic]]) -> Observations:
    """Check that the fields fit each other, and unpack them."""
    names, images = fields["names"].tolist(), int(fields["images"])
    amaxes, sizes = fields["amax"].astype(np.float32), fields["sizes"].astype(np.int64)
    bins, counts = fields["bins"].astype(np.int64), fields["counts"].astype(np.int64)
    if not (len(names) == len(set(names)) == amaxes.size == sizes.size) or images < 1:
        raise ValueError("names, maxima and sizes do not fit each other")
    if (sizes < 1).any() or sizes.sum() != bins.size or bins.size != counts.size or (counts < 1).any():
        raise ValueError("bins and counts do not fit each other")
    tensors: dict[str, Histogram] = {}
    ends = np.cumsum(sizes)
    for name, amax, begin, end in zip(names, amaxes, ends - sizes, ends, strict=True):
        held = bins[begin:end]
        if (np.diff(held) < 1).any() or not held[-1] <= amax.view(np.uint32) >> 16 < FINITE:
            raise ValueError(f"the bins of '{name}' are not in order or go beyond its maximum")
        dense = np.zeros(BINS, np.int64)
        dense[held] = counts[begin:end]
        tensors[str(name)] = Histogram(dense, float(amax))
    power = tensors.pop(_POWER, None)
    if power is not None and power.counts.sum() > images:
        raise ValueError("it holds more output powers than images")
    return Observations(tensors, images, power)
