"""How far the answers of a classifier are from another's, in nats."""

import numpy as np
from numpy.typing import NDArray


def divergence(reference: NDArray[np.float32], logits: NDArray[np.float32]) -> NDArray[np.float64]:
    """KL(reference || logits) of the softmax per image, in nats.

    Args:
        reference: (images, classes).
        logits: (images, classes).

    Returns:
        (images,), never negative.
    """
    p = log_softmax(reference)
    q = log_softmax(logits)
    gain = q - p
    far = gain >= 1.0
    # How much the probabilities change, which is nothing in the sum; expm1 keeps the digits where it is little.
    change = np.exp(p) * np.expm1(np.minimum(gain, 1.0))
    change[far] = np.exp(q[far]) - np.exp(p[far])
    return np.asarray((change - np.exp(p) * gain).sum(axis=-1))


def log_softmax(x: NDArray[np.float32]) -> NDArray[np.float64]:
    """Logarithm of the softmax over the last axis, in the shape of x; logits may be beyond the range of exp."""
    wide = x.astype(np.float64)
    shifted = wide - wide.max(axis=-1, keepdims=True)
    return np.asarray(shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)))
