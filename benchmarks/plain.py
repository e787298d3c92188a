"""int8 without tuning, for benchmarks of what comes after the ranges."""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from edgehybrid import calibrator
from edgehybrid.dataset import Images
from edgehybrid.graph import Graph
from edgehybrid.records import Plan, Ranges


def choose_ranges(model: Graph, plan: Plan, images: Images, batches: Iterable[NDArray[np.float32]]) -> Ranges:
    """By method "mse", for what the plan quantizes.

    Args:
        model: float32.
        plan: Its placement.
        images: Where the batches come from.
        batches: Normalised, (N, 3, S, S).
    """
    tensors = sorted({d.tensor for d in plan.decisions if d.kind == "activation"})
    seen = calibrator.observe(model, batches, tensors)
    return calibrator.choose(seen, "mse", images=len(images), sha256=images.spec.sha256)
