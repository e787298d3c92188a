"""Large weights leave a protobuf and come back unchanged; small ones stay in it."""

import ml_dtypes
import numpy as np
import onnx
import onnx_ir as ir
import pytest

from edgehybrid.graph.weights import LEAST_BYTES, outline, pieces, put_in, take_out

COUNT = LEAST_BYTES // 2
ARRAYS = {
    "float32": np.arange(COUNT, dtype=np.float32).reshape(2, -1),
    "float16": np.arange(COUNT, dtype=np.float16),
    "bfloat16": np.arange(COUNT).astype(ml_dtypes.bfloat16),
    "int8": np.arange(2 * COUNT).astype(np.int8),
    "int4": np.tile(np.arange(-8, 8), 2 * COUNT // 8).astype(ml_dtypes.int4),
    "small": np.arange(LEAST_BYTES // 4 - 1, dtype=np.float32),
}


@pytest.fixture
def proto() -> onnx.ModelProto:
    inits = [ir.to_proto(ir.tensor(array, name=name)) for name, array in ARRAYS.items()]
    inits[0].doc_string = "said of a weight"
    output = onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, [2, COUNT // 2])
    nodes = [onnx.helper.make_node("Identity", ["float32"], ["y"])]
    return onnx.helper.make_model(onnx.helper.make_graph(nodes, "g", [], [output], inits))


def test_a_protobuf_without_its_weights_and_the_weights_are_the_model(proto: onnx.ModelProto) -> None:
    before = proto.SerializeToString(deterministic=True)
    weights = take_out(proto)
    assert set(weights) == {"float32", "float16", "bfloat16", "int8"}
    assert proto.ByteSize() < len(before) - sum(tensor.nbytes for tensor in weights.values())
    model = ir.from_proto(proto)
    put_in(model, weights)
    for name, array in ARRAYS.items():
        found = model.graph.initializers[name].const_value
        assert found is not None
        np.testing.assert_array_equal(found.numpy(), array)
        assert found.numpy().dtype == array.dtype


def test_an_outline_leaves_the_model_as_it_was(proto: onnx.ModelProto) -> None:
    model = ir.from_proto(proto)
    before = ir.to_proto(model).SerializeToString(deterministic=True)
    small, weights = outline(model)
    assert len(before) > sum(tensor.nbytes for tensor in weights.values()) + small.ByteSize() - 1000
    assert [t.name for t in small.graph.initializer if t.data_location == onnx.TensorProto.EXTERNAL] == list(weights)
    assert ir.to_proto(model).SerializeToString(deterministic=True) == before
    copy = ir.from_proto(small)
    put_in(copy, weights)
    assert ir.to_proto(copy).SerializeToString(deterministic=True) == before


def test_the_pieces_together_are_the_protobuf_and_no_weight_shares_one(proto: onnx.ModelProto) -> None:
    model = ir.from_proto(proto)
    before = ir.to_proto(model)
    found = list(pieces(model))
    again = onnx.ModelProto.FromString(b"".join(found))
    assert again == before
    assert [t.name for t in again.graph.initializer] == list(ARRAYS)
    assert max(map(len, found)) < 2 * max(array.nbytes for array in ARRAYS.values())
    assert list(pieces(model)) == found
    assert ir.to_proto(model) == before


@pytest.mark.parametrize("size", [0, 1, 127, 128, 16383, 16384, 300_000])
def test_pieces_hold_messages_of_any_length(size: int) -> None:
    tensor = ir.tensor(np.arange(size, dtype=np.uint8), name="w")
    graph = onnx.helper.make_graph([], "g" * (size % 300), [], [], [ir.to_proto(tensor)])
    model = ir.from_proto(onnx.helper.make_model(graph))
    assert onnx.ModelProto.FromString(b"".join(pieces(model))) == ir.to_proto(model)


def test_weights_shorter_than_their_shape_are_refused(proto: onnx.ModelProto) -> None:
    proto.graph.initializer[0].raw_data = proto.graph.initializer[0].raw_data[:-4]
    with pytest.raises(ValueError, match="reshape"):
        take_out(proto)
