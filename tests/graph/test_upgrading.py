"""Files of an old opset compute the same in opset 17, or are refused by the name of a node."""

from collections.abc import Iterable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from numpy.typing import NDArray
from onnx import NodeProto, TensorProto, helper, numpy_helper
from torch import Tensor, nn

from edgehybrid.errors import GraphError
from edgehybrid.graph.adoption import adopt, fix_shapes
from edgehybrid.graph.upgrading import OLDEST, WRITTEN, raise_opset
from tests.exports import export

SHAPE = (2, 4, 6, 6)
X = np.random.default_rng(0).standard_normal(SHAPE).astype(np.float32)
ALL = range(OLDEST, 13)
UP, DOWN, UNEVEN = (np.array([1, 1, *rates], np.float32) for rates in ((1.5, 2), (0.7, 0.5), (2, 0.5)))
NOTHING = np.zeros(0, np.float32)
REDUCTIONS = ("Sum", "Mean", "Max", "Min", "Prod", "L1", "L2", "SumSquare", "LogSumExp")


def rand(*shape: int) -> NDArray[np.float32]:
    return np.random.default_rng(1).standard_normal(shape).astype(np.float32)


Case = tuple[str, Iterable[int], dict[str, object], tuple[object, ...]]
CASES: list[Case] = [
    *[("Softmax", ALL, {"axis": axis}, ()) for axis in (0, 1, 2, 3)],
    ("Softmax", ALL, {}, ()),
    ("Softmax", (11, 12), {"axis": -1}, ()),
    ("LogSoftmax", ALL, {"axis": 1}, ()),
    ("Hardmax", ALL, {"axis": 3}, ()),
    ("Upsample", (7, 8), {"mode": "nearest", "scales": [1.0, 1.0, 2.0, 2.0]}, ()),
    ("Upsample", (7, 8), {"mode": "linear", "scales": [1.0, 1.0, 2.0, 2.0]}, ()),
    *[("Upsample", (9,), {"mode": mode}, (UP,)) for mode in ("nearest", "linear")],
    *[("Resize", (10,), {"mode": mode}, (rates,)) for mode in ("nearest", "linear") for rates in (UP, DOWN)],
    ("Resize", (10,), {"mode": "linear"}, (UNEVEN,)),
    *[
        ("Resize", (11, 12), {"mode": mode, "coordinate_transformation_mode": where}, (NOTHING, UP))
        for mode in ("nearest", "linear", "cubic")
        for where in ("half_pixel", "align_corners", "asymmetric", "pytorch_half_pixel")
    ],
    ("Pad", range(OLDEST, 11), {"pads": [0, 0, 1, 1, 0, 0, 1, 1], "value": 0.5}, ()),
    ("Pad", range(OLDEST, 11), {"pads": [0, 0, 1, 1, 0, 0, 1, 1], "mode": "reflect"}, ()),
    ("Pad", (11, 12), {}, (np.array([0, 0, 1, 1, 0, 0, 1, 1]), np.float32(0.5))),
    *[("Clip", range(OLDEST, 11), ends, ()) for ends in ({"min": -0.5, "max": 0.5}, {"min": -0.5}, {"max": 0.5}, {})],
    ("Clip", (11, 12), {}, (np.float32(-0.5), np.float32(0.5))),
    ("Slice", range(OLDEST, 10), {"axes": [1, 2], "starts": [0, 1], "ends": [2, 9999]}, ()),
    ("Slice", range(OLDEST, 10), {"starts": [0, 1], "ends": [1, 3]}, ()),
    ("Unsqueeze", ALL, {"axes": [0, 3]}, ()),
    *[(f"Reduce{name}", ALL, {"axes": [2, 3], "keepdims": 0}, ()) for name in REDUCTIONS],
    *[(f"Reduce{name}", ALL, {}, ()) for name in REDUCTIONS],
    ("ReduceSum", (11, 12), {"axes": [-1]}, ()),
    ("BatchNormalization", ALL, {"epsilon": 1e-3}, (rand(4), rand(4), rand(4), np.abs(rand(4)) + 1)),
    ("InstanceNormalization", ALL, {}, (rand(4), rand(4))),
    ("Dropout", ALL, {}, ()),
    ("Dropout", range(OLDEST, 12), {"ratio": 0.3}, ()),
    ("Flatten", ALL, {"axis": 2}, ()),
    *[("AveragePool", ALL, {"kernel_shape": [3, 3], "pads": [1] * 4, "count_include_pad": i}, ()) for i in (0, 1)],
    ("AveragePool", ALL, {"kernel_shape": [3, 3], "strides": [2, 2], "auto_pad": "SAME_UPPER"}, ()),
    ("MaxPool", (10, 11, 12), {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1}, ()),
    ("AveragePool", (10, 11, 12), {"kernel_shape": [3, 3], "strides": [2, 2], "ceil_mode": 1}, ()),
    ("Conv", ALL, {"auto_pad": "SAME_UPPER", "strides": [2, 2]}, (rand(5, 4, 3, 3), rand(5))),
    ("ConvTranspose", ALL, {"strides": [2, 2], "pads": [1] * 4, "output_padding": [1, 1]}, (rand(4, 5, 3, 3),)),
    *[(name, ALL, {}, ()) for name in ("Elu", "Selu", "Sigmoid", "Softplus", "HardSigmoid", "GlobalAveragePool")],
    ("LeakyRelu", ALL, {"alpha": 0.2}, ()),
    ("PRelu", ALL, {}, (rand(4, 1, 1),)),
    ("Expand", range(8, 13), {}, (np.array([3, *SHAPE]),)),
    ("Tile", ALL, {}, (np.array([1, 1, 2, 1]),)),
    ("Gather", ALL, {"axis": 1}, (np.array([0, 2]),)),
    ("GatherND", (11, 12), {}, (np.array([[0, 1], [1, 2]]),)),
    ("ScatterND", (11, 12), {}, (np.array([[0], [1]]), rand(*SHAPE))),
    ("DepthToSpace", ALL, {"blocksize": 2}, ()),
    ("SpaceToDepth", ALL, {"blocksize": 2}, ()),
    ("LRN", ALL, {"size": 3}, ()),
    ("CumSum", (11, 12), {}, (np.array(1),)),
    ("Pow", ALL, {}, (np.float32(2),)),
    ("Max", range(8, 13), {}, (np.float32(0.1),)),
    ("Erf", range(9, 13), {}, ()),
]  # fmt: skip


EACH = [
    pytest.param(opset, op, attributes, constants, id=f"{index}-{op}-{opset}")
    for index, (op, opsets, attributes, constants) in enumerate(CASES)
    for opset in opsets
]


def make(opset: int, nodes: list[NodeProto], constants: tuple[object, ...] = ()) -> onnx.ModelProto:
    """`x` -> `y`; constants are named `c0`, `c1` and so on."""
    graph = helper.make_graph(
        nodes,
        "old",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, SHAPE)],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, None)],
        [numpy_helper.from_array(np.asarray(array), f"c{i}") for i, array in enumerate(constants)],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=5)


def single(opset: int, op: str, attributes: dict[str, object], constants: tuple[object, ...] = ()) -> onnx.ModelProto:
    names = [f"c{i}" for i in range(len(constants))]
    return make(opset, [helper.make_node(op, ["x", *names], ["y"], name="the node", **attributes)], constants)


def run(proto: onnx.ModelProto) -> NDArray[np.float32]:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=["CPUExecutionProvider"])
    return np.asarray(session.run(None, {session.get_inputs()[0].name: X})[0])


@pytest.mark.parametrize(("opset", "op", "attributes", "constants"), EACH)
def test_an_operator_computes_what_it_did_to_the_bit(
    opset: int, op: str, attributes: dict[str, object], constants: tuple[object, ...]
) -> None:
    old = single(opset, op, attributes, constants)
    want = run(old)
    raised = raise_opset(old)
    assert [(o.domain, o.version) for o in raised.opset_import] == [("", WRITTEN)]
    onnx.checker.check_model(raised, full_check=True)
    np.testing.assert_array_equal(run(raised), want)


@pytest.mark.parametrize("opset", ALL)
def test_a_softmax_over_the_last_axis_stays_one_node_for_attention_to_be_seen(opset: int) -> None:
    nodes = [
        helper.make_node("Transpose", ["x"], ["turned"], perm=[0, 1, 3, 2]),
        helper.make_node("MatMul", ["x", "turned"], ["scores"]),
        helper.make_node("Softmax", ["scores"], ["share"], axis=3),
        helper.make_node("MatMul", ["share", "x"], ["y"]),
    ]
    raised = raise_opset(make(opset, nodes))
    assert [node.op_type for node in raised.graph.node] == ["Transpose", "MatMul", "Softmax", "MatMul"]


def test_a_newer_file_is_left_alone() -> None:
    model = single(13, "Relu", {})
    assert raise_opset(model) is model


@pytest.mark.parametrize(
    ("model", "why"),
    [
        (single(12, "Hardmax", {"axis": 1}), "not the last"),
        (single(10, "Resize", {"mode": "nearest"}, (UNEVEN,)), "shrinks one axis and stretches another"),
        (
            make(
                10,
                [
                    helper.make_node("ReduceMax", ["x"], ["most"], axes=[0, 1, 2, 3], keepdims=0),
                    helper.make_node("Mul", ["most", "c0"], ["rates"]),
                    helper.make_node("Resize", ["x", "rates"], ["y"], name="the node", mode="nearest"),
                ],
                (UP,),
            ),
            "its scales are computed",
        ),
    ],
)
def test_what_has_no_newer_form_is_refused_by_name(model: onnx.ModelProto, why: str) -> None:
    with pytest.raises(GraphError, match="the node") as caught:
        raise_opset(model)
    assert why in caught.value.why
    assert "opset_version=17" in caught.value.fix


def test_what_the_converter_refuses_is_an_error_in_words() -> None:
    # a statistic of the batch as a second output: training, which opset 14 turned into an attribute
    outputs = ["y", "mean", "var", "saved_mean", "saved_var"]
    node = helper.make_node("BatchNormalization", ["x", "c0", "c0", "c0", "c0"], outputs)
    with pytest.raises(GraphError, match="of opset 9 cannot be written in opset 17"):
        raise_opset(make(9, [node], (np.ones(4, np.float32),)))


class Small(nn.Module):
    """Strided convolution, upsampled skip, attention over positions and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1), nn.BatchNorm2d(8), nn.ReLU6())
        self.second = nn.Sequential(nn.Conv2d(8, 8, 3, 2, 1), nn.Hardswish())
        self.norm, self.head = nn.LayerNorm(8), nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        x = self.first(x)
        x = x + nn.functional.interpolate(self.second(x), scale_factor=2.0, mode="bilinear", align_corners=False)
        x = self.norm(x.flatten(2).transpose(1, 2))
        scores: Tensor = self.head((x @ x.transpose(1, 2)).softmax(-1) @ x)
        return scores.mean(1)


@pytest.mark.parametrize("opset", [11, 12])
def test_what_torch_wrote_for_an_older_board_is_taken(tmp_path: Path, opset: int) -> None:
    torch.manual_seed(0)
    module, path = Small().eval(), tmp_path / "old.onnx"
    images = torch.randn(1, 3, 32, 32)
    export(module, images, path, opset=opset)
    heard: list[str] = []
    graph = adopt(path, notify=heard.append)
    assert f"written in opset 17, as opset {opset} is older than all stages know" in heard
    session = onnxruntime.InferenceSession(graph.to_bytes(), providers=["CPUExecutionProvider"])
    (logits,) = session.run(None, {"input": images.numpy()})
    np.testing.assert_allclose(logits, module(images).detach().numpy(), rtol=1e-4, atol=1e-5)


def test_a_file_to_be_run_is_raised_too(tmp_path: Path) -> None:
    path = tmp_path / "old.onnx"
    onnx.save(single(11, "Softmax", {"axis": 1}), path)
    fixed = fix_shapes(path, must_be_image=False)
    assert fixed is not None
    assert fixed.opset == WRITTEN
    onnx.save(single(13, "Softmax", {"axis": 1}), path)
    assert fix_shapes(path, must_be_image=False) is None
