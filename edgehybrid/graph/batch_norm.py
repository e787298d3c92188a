"""Read a batch normalisation as what it is at inference: a factor and a shift of each channel."""

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgehybrid.graph import constant


def scale_and_shift(node: ir.Node) -> tuple[NDArray[np.float64], NDArray[np.float64]] | None:
    """(s, t), each (channels,), with BN(x) = s x + t; None in training mode or if a statistic is not constant."""
    arrays = [array for array in map(constant, node.inputs[1:5]) if array is not None and array.dtype.kind == "f"]
    if len(arrays) < 4 or node.attributes.get_int("training_mode", False) or len(node.outputs) > 1:
        return None
    gamma, beta, mean, var = (array.astype(np.float64) for array in arrays)
    s = gamma / np.sqrt(var + node.attributes.get_float("epsilon", 1e-5))
    return s, beta - mean * s
