"""Large weights beside a protobuf instead of in it: handed on as they are, not copied at every step with the rest."""

from collections.abc import Mapping

import numpy as np
import onnx
import onnx_ir as ir

LEAST_BYTES = 4096
"""Initializers from this size on stay behind; what decides shapes, such as the target of a Reshape, is far smaller."""

Weights = Mapping[str, ir.TensorProtocol]
"""Initializers by name."""
NOTHING: Weights = {}


def take_out(proto: onnx.ModelProto) -> Weights:
    """Take the data of large weights out of a protobuf, in place; their shapes and types stay."""
    weights = {}
    for tensor in proto.graph.initializer:
        kind, raw = ir.DataType(tensor.data_type), tensor.raw_data
        if len(raw) < LEAST_BYTES or kind.bitwidth < 8:
            continue
        array = np.frombuffer(raw, kind.numpy().newbyteorder("<")).reshape(tensor.dims)
        weights[tensor.name] = ir.Tensor(array, kind, name=tensor.name)
        tensor.ClearField("raw_data")
    return weights


def put_in(model: ir.Model, weights: Weights) -> None:
    """Give a model, in place, the weights that were left out of the protobuf that it came from."""
    for name, tensor in weights.items():
        value = model.graph.initializers.get(name)
        if value is not None:
            value.const_value = tensor


def outline(model: ir.Model) -> tuple[onnx.ModelProto, Weights]:
    """The protobuf of a model without its large weights, each named as data in another file; and these.

    Args:
        model: Not modified.
    """
    weights = {}
    for name, value in model.graph.initializers.items():
        tensor = value.const_value
        if tensor is not None and tensor.nbytes >= LEAST_BYTES and tensor.dtype.bitwidth >= 8:
            weights[name] = tensor
    try:
        for name, tensor in weights.items():
            model.graph.initializers[name].const_value = ir.ExternalTensor(
                "beside", 0, tensor.nbytes, tensor.dtype, shape=ir.Shape(tensor.shape.numpy()), name=name
            )
        return ir.to_proto(model), weights
    finally:
        put_in(model, weights)
