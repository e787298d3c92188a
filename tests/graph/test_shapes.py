"""Shapes are inferred as onnx infers them, and weights come through."""

import numpy as np
import onnx
import onnx_ir as ir

from edgehybrid.graph import constant, shape_of, shapes
from edgehybrid.graph.weights import LEAST_BYTES
from tests.tuner import nets


def bytes_of(model: ir.Model) -> bytes:
    data: bytes = ir.to_proto(model).SerializeToString(deterministic=True)
    return data


def test_the_same_model_as_with_its_weights_carried_along() -> None:
    for graph in (nets.normed(), nets.attending()):
        proto = ir.to_proto(graph.model)
        del proto.graph.value_info[:]
        expected = bytes_of(ir.from_proto(onnx.shape_inference.infer_shapes(proto, data_prop=True)))
        assert any(len(t.raw_data) >= LEAST_BYTES for t in proto.graph.initializer)
        assert bytes_of(shapes.open_model(proto)) == expected
        assert bytes_of(shapes.infer(graph.model)) == expected


def test_what_decides_shapes_is_read() -> None:
    weights = np.zeros(LEAST_BYTES, np.float32)
    graph = onnx.helper.make_graph(
        [
            onnx.helper.make_node("Expand", ["x", "long"], ["wide"]),
            onnx.helper.make_node("Add", ["wide", "weights"], ["y"]),
        ],
        "g",
        [onnx.helper.make_tensor_value_info("x", onnx.TensorProto.FLOAT, [1])],
        [onnx.helper.make_tensor_value_info("y", onnx.TensorProto.FLOAT, None)],
        [onnx.numpy_helper.from_array(np.ones(3, np.int64), "long"), onnx.numpy_helper.from_array(weights, "weights")],
    )
    model = shapes.open_model(onnx.helper.make_model(graph))
    assert shape_of(model.graph.outputs[0]) == (1, 1, weights.size)
    found = constant(model.graph.initializers["weights"])
    assert found is not None
    np.testing.assert_array_equal(found, weights)
