"""Tune a network to int8 on a few images; whatever is tried stays only where it measures better.

`equalize` scales the channels of a tensor to similar ranges (equalization.py, channels.py, region.py), `center` takes
off their means (centering.py), `shift` gives what lies on one side of zero a zero point (zero_points.py). `refine`
re-ranks ranges, corrects biases and rounds weights (refinement.py, rounding.py). All judge at the output of each int8
product, see local.py.
"""

from edgehybrid.tuner.centering import apply_offsets, center, center_rows
from edgehybrid.tuner.equalization import apply_factors, equalize, scale_rows
from edgehybrid.tuner.refinement import refine
from edgehybrid.tuner.zero_points import (
    align,
    apply_zero_points,
    compensate_zero_points,
    find_shifted,
    shift,
    shift_rows,
)

__all__ = [
    "align",
    "apply_factors",
    "apply_offsets",
    "apply_zero_points",
    "center",
    "center_rows",
    "compensate_zero_points",
    "equalize",
    "find_shifted",
    "refine",
    "scale_rows",
    "shift",
    "shift_rows",
]
