"""Fill in the shape and type of every value, without carrying weights along.

ONNX's inference gets and returns the whole model as bytes. Of a weight it reads the dimensions alone, so the large ones
stay behind: on 38 MB of weights that takes a fifth of the time.
"""

import logging

import onnx
import onnx.shape_inference
import onnx_ir as ir

from edgehybrid.graph.weights import NOTHING, Weights, outline, put_in, take_out

logging.getLogger("onnx_ir").setLevel(logging.CRITICAL)  # it would write to stderr what is refused here by name


def open_model(proto: onnx.ModelProto, weights: Weights = NOTHING) -> ir.Model:
    """The model of a protobuf, with shapes inferred as far as constants tell.

    Args:
        proto: Loses its large weights to the model.
        weights: Those that were left out of the protobuf before.
    """
    weights = {**weights, **take_out(proto)}
    model = ir.from_proto(onnx.shape_inference.infer_shapes(proto, data_prop=True))
    put_in(model, weights)
    return model


def infer(model: ir.Model) -> ir.Model:
    """A model like the one given, with shapes inferred; weights are shared.

    Args:
        model: Not modified.
    """
    return open_model(*outline(model))
