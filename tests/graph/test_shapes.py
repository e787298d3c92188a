"""Shapes are inferred as onnx infers them, and weights come through."""

import numpy as np
import onnx
import onnx_ir as ir

from edgehybrid.graph import shapes
from tests.tuner import nets


def test_the_same_model_as_with_its_weights_carried_along() -> None:
    for graph in (nets.normed(), nets.attending()):
        proto = ir.to_proto(graph.model)
        del proto.graph.value_info[:]
        expected = onnx.shape_inference.infer_shapes(proto, data_prop=True)
        assert any(len(t.raw_data) >= shapes.LEAST_BYTES for t in proto.graph.initializer)
        assert shapes.infer(proto).SerializeToString(deterministic=True) == expected.SerializeToString(
            deterministic=True
        )


def test_what_decides_shapes_is_read() -> None:
    weights = np.zeros(shapes.LEAST_BYTES, np.float32)
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
    inferred = shapes.infer(onnx.helper.make_model(graph))
    dims = [d.dim_value for d in inferred.graph.output[0].type.tensor_type.shape.dim]
    assert dims == [1, 1, weights.size]
    np.testing.assert_array_equal(onnx.numpy_helper.to_array(inferred.graph.initializer[1]), weights)
