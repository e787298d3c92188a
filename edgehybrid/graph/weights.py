"""Large weights beside a protobuf instead of in it: handed on as they are, not copied at every step with the rest."""

from collections.abc import Iterator, Mapping

import numpy as np
import onnx
import onnx_ir as ir

LEAST_BYTES = 4096
"""Initializers from this size on stay behind; what decides shapes, such as the target of a Reshape, is far smaller."""

Weights = Mapping[str, ir.TensorProtocol]
"""Initializers by name."""
NOTHING: Weights = {}
_GRAPH = onnx.ModelProto.DESCRIPTOR.fields_by_name["graph"].number
_INITIALIZER = onnx.GraphProto.DESCRIPTOR.fields_by_name["initializer"].number
_RAW_DATA = onnx.TensorProto.DESCRIPTOR.fields_by_name["raw_data"].number


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
                "beside",
                0,
                tensor.nbytes,
                tensor.dtype,
                shape=ir.Shape(tensor.shape.numpy()),
                name=name,
                doc_string=tensor.doc_string,
                metadata_props=dict(tensor.metadata_props),
            )
        return ir.to_proto(model), weights
    finally:
        put_in(model, weights)


def pieces(model: ir.Model) -> Iterator[bytes]:
    """The protobuf of a model, weight by weight: never whole in memory, as `SerializeToString` would have it twice.

    Equal models give equal bytes.

    Args:
        model: Not modified; its weights must not change before the last piece is taken.
    """
    proto, weights = outline(model)
    tensors = list(proto.graph.initializer)
    graph = onnx.GraphProto()
    graph.CopyFrom(proto.graph)
    del graph.initializer[:]
    proto.ClearField("graph")
    body = graph.SerializeToString(deterministic=True)
    left = [weights.get(tensor.name) for tensor in tensors]
    starts = [_start(tensor, weight) for tensor, weight in zip(tensors, left, strict=True)]
    size = len(body) + sum(map(len, starts)) + sum(weight.nbytes for weight in weights.values())
    yield proto.SerializeToString(deterministic=True) + _head(_GRAPH, size) + body
    for start, weight in zip(starts, left, strict=True):
        yield start
        if weight is not None:
            yield weight.tobytes()


def _start(tensor: onnx.TensorProto, weight: ir.TensorProtocol | None) -> bytes:
    """An initializer as a field of its graph: whole, or up to the bytes of its weight, which are to follow.

    Args:
        tensor: As `outline` leaves it; from now on not in another file, if it has a weight.
        weight: What was left out of it.
    """
    if weight is None:
        whole: bytes = tensor.SerializeToString(deterministic=True)
        return _head(_INITIALIZER, len(whole)) + whole
    tensor.ClearField("external_data")
    tensor.ClearField("data_location")
    start: bytes = tensor.SerializeToString(deterministic=True) + _head(_RAW_DATA, weight.nbytes)
    return _head(_INITIALIZER, len(start) + weight.nbytes) + start


def _head(field: int, size: int) -> bytes:
    """What stands before `size` bytes of a message that is a field of another."""
    return _varint(field << 3 | 2) + _varint(size)


def _varint(number: int) -> bytes:
    """Seven bits per byte, the lowest first; the eighth says that more follow."""
    found = bytearray()
    while number > 0x7F:
        found.append(number & 0x7F | 0x80)
        number >>= 7
    return bytes([*found, number])
