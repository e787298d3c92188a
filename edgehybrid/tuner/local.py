"""Judge a choice where it acts: the error that quantization makes at the output of one product, on sampled rows."""

from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from edgehybrid.records import LEVELS

ChooseRange = Callable[[NDArray[np.float32]], float]
"""Sampled values -> amax."""

TINY = float(np.finfo(np.float64).tiny)
"""Power that a signal has at least: noise is divided by it."""

WeightScales = Callable[[NDArray[np.float32], int], NDArray[np.float32]]
"""(weight, axis of its output channels) -> one scale per channel; the quantizer's own."""


def round_rows(x: NDArray[np.float32], amax: float) -> NDArray[np.float32]:
    """X after QuantizeLinear and DequantizeLinear with scale amax / 127."""
    scale = np.float32(amax / LEVELS)
    levels: NDArray[np.float32] = np.rint(x / scale)
    np.clip(levels, -LEVELS - 1, LEVELS, out=levels)
    levels *= scale
    return levels


def round_weight(weight: NDArray[np.float32], scales: NDArray[np.float32]) -> NDArray[np.float32]:
    """A weight (groups, out, in) after rounding with a scale per output channel, (groups, out, 1)."""
    return np.asarray(np.clip(np.rint(weight / scales), -LEVELS, LEVELS) * scales, np.float32)


def scales_of(weight: NDArray[np.float32], weight_scales: WeightScales) -> NDArray[np.float32]:
    """(groups, out, 1): the quantizer's own scales of a weight (groups, out, in)."""
    return weight_scales(weight.reshape(-1, weight.shape[2]), 0).reshape(*weight.shape[:2], 1)


def _peak_scales(weight: NDArray[np.float32]) -> NDArray[np.float32]:
    """(groups, out, 1): scales that clip nothing, for comparisons that need no better ones."""
    peak = np.abs(weight).max(axis=2, keepdims=True) / LEVELS
    return np.where(peak > 0, peak, np.float32(1))


def multiply(rows: NDArray[np.float32], weight: NDArray[np.float32]) -> NDArray[np.float32]:
    """Y = W x of every row: (groups, rows, out) from (groups, rows, in) and (groups, out, in)."""
    return np.asarray(rows @ weight.transpose(0, 2, 1), np.float32)


def multiply_rounded(rows: NDArray[np.float32], weight: NDArray[np.float32], amax: float) -> NDArray[np.float32]:
    """`multiply` with both sides rounded: rows in a range, weights in one that clips nothing."""
    return multiply(round_rows(rows, amax), round_weight(weight, _peak_scales(weight)))


def halves(rows: NDArray[np.float32]) -> tuple[NDArray[np.float32], NDArray[np.float32]]:
    """The rows of the first half of the images and those of the second, (groups, rows, channels) each."""
    first, second = np.array_split(rows, 2, axis=1)
    return first, second


def power(y: NDArray[np.float32]) -> float:
    """Sum of squares, in float64."""
    return float(np.einsum("grn,grn->", y, y, dtype=np.float64))


def varying(y: NDArray[np.float32]) -> float:
    """The same of what varies in each channel, (groups, rows, channels): a bias can add the rest."""
    return power(y - y.mean(axis=1, keepdims=True))
