"""Signal to quantization noise, as every part of this project gives it."""

import math

import numpy as np

SQNR_LIMIT = 200.0
"""dB. Identical values have infinite signal to noise, which JSON cannot hold; float32 itself ends near 150 dB."""


def decibels(signal: float, noise: float) -> float:
    """10 log10(signal / noise), cut to +-`SQNR_LIMIT`; two silent outputs are identical ones.

    Args:
        signal: Sum of squares.
        noise: Sum of squared differences.
    """
    if noise <= 0:
        return SQNR_LIMIT
    if signal <= 0:
        return -SQNR_LIMIT
    return float(np.clip(10 * (math.log10(signal) - math.log10(noise)), -SQNR_LIMIT, SQNR_LIMIT))
