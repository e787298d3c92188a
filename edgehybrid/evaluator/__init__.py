"""What a network answers, how often that is right, and what it lost against a reference on the same images."""

from edgehybrid.evaluator.answering import POSITIONS, positions, predict, sample_outputs, sampled
from edgehybrid.evaluator.scoring import (
    VERDICT,
    accuracy,
    collapse_note,
    drop,
    fidelity,
    output_sqnr,
    small_sample_note,
)

__all__ = [
    "POSITIONS",
    "VERDICT",
    "accuracy",
    "collapse_note",
    "drop",
    "fidelity",
    "output_sqnr",
    "positions",
    "predict",
    "sample_outputs",
    "sampled",
    "small_sample_note",
]
