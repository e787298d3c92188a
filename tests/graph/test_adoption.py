"""Somebody's ONNX file becomes a graph that every stage takes, or is refused in words that name the culprit."""

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edgehybrid import rewrites, zoo
from edgehybrid.errors import EdgeHybridError, GraphError, UsageError
from edgehybrid.graph import Graph, constant, load, name_of, shape_of, values
from edgehybrid.graph.adoption import adopt, companions, fix_shapes
from edgehybrid.graph.counting import count_params
from edgehybrid.graph.structure import scores_of
from edgehybrid.placement import plan
from edgehybrid.quantizer import quantize, to_fp16
from edgehybrid.records import Ranges
from edgehybrid.sizes import Size
from tests.exports import export
from tests.golden import fill

Dims = tuple[int | str | None, ...]
NAME = "pixel values:0"
"""Whatever somebody may call an input."""
IMAGE = np.random.default_rng(0).standard_normal((1, 3, 8, 8)).astype(np.float32)


def weight(name: str, *shape: int) -> TensorProto:
    array = np.random.default_rng(len(name)).standard_normal(shape) / np.sqrt(np.prod(shape[1:]))
    return numpy_helper.from_array(array.astype(np.float32), name)


def make(
    dims: Dims = ("batch", 3, 8, 8), *, opset: int = 17, kind: int = TensorProto.FLOAT, ir_version: int = 8
) -> onnx.ModelProto:
    """A classifier of 5 classes with a second output, its features, whose batch size the file leaves open."""
    channels = dims[1] if isinstance(dims[1], int) else 3
    nodes = [
        helper.make_node("Conv", [NAME, "kernel", "bias"], ["map"], name="first", pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["map"], ["active"], name="second"),
        helper.make_node("Conv", ["active", "wide"], ["wider"], name="middle", pads=[1, 1, 1, 1]),
        helper.make_node("GlobalAveragePool", ["wider"], ["pooled"], name="third"),
        helper.make_node("Flatten", ["pooled"], ["features"], name="fourth"),
        helper.make_node("Gemm", ["features", "matrix", "offset"], ["class scores"], name="fifth", transB=1),
    ]
    info = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "somebody's",
        [info(NAME, kind, dims)],
        [info("class scores", TensorProto.FLOAT, [dims[0], 5]), info("features", TensorProto.FLOAT, None)],
        [
            *(weight("kernel", 24, channels, 3, 3), weight("bias", 24)),
            *(weight("wide", 32, 24, 3, 3), weight("matrix", 5, 32), weight("offset", 5)),
        ],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=ir_version)


@pytest.fixture
def save(tmp_path: Path) -> Callable[[onnx.ModelProto], Path]:
    def write(model: onnx.ModelProto) -> Path:
        path = tmp_path / "in" / "net.onnx"
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(model.SerializeToString())
        return path

    return write


WHOLE = make(("n", 3, "h", "w")).SerializeToString()
Save = Callable[[onnx.ModelProto], Path]


def run(model: bytes, image: NDArray[np.float32]) -> list[NDArray[np.float32]]:
    options = onnxruntime.SessionOptions()
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return list(session.run(None, {session.get_inputs()[0].name: image}))


def check_static(graph: Graph) -> None:
    for value in values(graph):
        shape_of(value)  # raises where it is open


# --- what is taken ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("opset", range(7, 24))
def test_every_opset_takes_the_whole_road(save: Save, opset: int) -> None:
    model = make(opset=opset, ir_version=10)
    graph = adopt(save(model))
    check_static(graph)
    assert (name_of(graph.input), shape_of(graph.input)) == (NAME, (1, 3, 8, 8))
    assert graph.outputs == ("class scores", "features")
    rewritten, _ = rewrites.apply(graph)
    want = run(model.SerializeToString(), IMAGE)
    for before, after in zip(want, run(rewritten.to_bytes(), IMAGE), strict=True):
        np.testing.assert_allclose(after, before, rtol=1e-5, atol=1e-6)
    for dialect in ("fp32", "typed"):
        placed = plan(rewritten, dialect)
        tensors = {d.tensor for d in placed.decisions if d.kind == "activation"}
        quantized = quantize(rewritten, Ranges("minmax", 1, "0" * 64, dict.fromkeys(tensors, 4.0)), placed)
        assert quantized.outputs == graph.outputs
        assert len(list(quantized.nodes("QuantizeLinear"))) == 1
        for before, after in zip(want, run(quantized.to_bytes(), IMAGE), strict=True):
            assert 0 < np.abs(after - before).max() < 0.05 * np.abs(before).max()


def test_a_file_that_is_already_fp16_is_refused_with_the_fix(save: Save, tmp_path: Path) -> None:
    half = tmp_path / "half.onnx"
    half.write_bytes(to_fp16(adopt(save(make()))).to_bytes())
    with pytest.raises(GraphError, match="already fp16") as caught:
        adopt(half)
    assert "float32" in caught.value.fix


@pytest.mark.parametrize("stored", ["initializers", "nodes"])
def test_weights_that_are_only_stored_in_half_precision_are_taken(save: Save, stored: str) -> None:
    model = make()
    casts = []
    for tensor in list(model.graph.initializer):
        half = numpy_helper.from_array(numpy_helper.to_array(tensor).astype(np.float16), f"{tensor.name}_half")
        model.graph.initializer.remove(tensor)
        if stored == "initializers":
            model.graph.initializer.append(half)
        else:
            casts.append(helper.make_node("Constant", [], [half.name], value=half))
        casts.append(helper.make_node("Cast", [half.name], [tensor.name], to=TensorProto.FLOAT))
    for node in reversed(casts):
        model.graph.node.insert(0, node)
    rewritten, _ = rewrites.apply(adopt(save(model)))
    assert not list(rewritten.nodes("Cast"))
    weights = [node.inputs[1] for node in rewritten.nodes("Conv", "Gemm", "MatMul")]
    assert [constant(value).dtype for value in weights if value is not None] == [np.float32] * 3
    for before, after in zip(run(model.SerializeToString(), IMAGE), run(rewritten.to_bytes(), IMAGE), strict=True):
        np.testing.assert_allclose(after, before, rtol=1e-5, atol=1e-6)


def channels_last(dims: Dims, *, scaled: bool) -> onnx.ModelProto:
    """As TensorFlow's converter writes a network: the image is turned before the first convolution."""
    model = make((dims[0], 3, 8, 8))
    del model.graph.input[:]
    model.graph.input.append(helper.make_tensor_value_info(NAME, TensorProto.FLOAT, dims))
    model.graph.node[0].input[0] = "turned"
    model.graph.node.insert(
        0, helper.make_node("Transpose", ["scaled" if scaled else NAME], ["turned"], perm=[0, 3, 1, 2])
    )
    if scaled:
        model.graph.initializer.append(numpy_helper.from_array(np.array([0.5, 1, 2], np.float32), "rgb"))
        model.graph.node.insert(0, helper.make_node("Mul", [NAME, "rgb"], ["scaled"]))
    return model


@pytest.mark.parametrize("scaled", [False, True])
@pytest.mark.parametrize("dims", [(1, 8, 8, 3), ("n", "h", "w", 3)])
def test_an_image_with_channels_last_is_turned_and_said_so(save: Save, dims: Dims, scaled: bool) -> None:
    model = channels_last(dims, scaled=scaled)
    want = run(model.SerializeToString(), np.ascontiguousarray(IMAGE.transpose(0, 2, 3, 1)))
    heard: list[str] = []
    path = save(model)
    graph = adopt(path, input_size=8, notify=heard.append)
    assert (name_of(graph.input), shape_of(graph.input)) == (NAME, (1, 3, 8, 8))
    assert "takes images channels first from here on: (" in heard[0]
    for before, after in zip(want, run(graph.to_bytes(), IMAGE), strict=True):
        np.testing.assert_array_equal(after, before)
    rewritten, _ = rewrites.apply(graph)
    assert scaled or not list(rewritten.nodes("Transpose"))
    fixed = fix_shapes(path, input_size=8, must_be_image=False)
    assert fixed is not None
    np.testing.assert_array_equal(run(fixed.to_bytes(), IMAGE)[0], want[0])


def test_an_image_of_width_three_that_nothing_turns_is_no_image_with_channels_last(save: Save) -> None:
    with pytest.raises(GraphError, match="8 channels"):
        adopt(save(make((1, 8, 8, 3))))


@pytest.mark.parametrize("batch", [1, 4])
def test_an_open_batch_is_fixed_and_said_so(save: Save, batch: int) -> None:
    heard: list[str] = []
    graph = adopt(save(make()), batch=batch, notify=heard.append)
    assert heard == [
        f"input '{NAME}' fixed to ({batch}, 3, 8, 8)",
        "of 2 outputs, 'class scores' is taken for the class scores",
    ]
    assert [shape_of(v) for v in graph.body.outputs] == [(batch, 5), (batch, 32)]
    images = np.concatenate([IMAGE * i for i in range(1, batch + 1)])
    assert run(graph.to_bytes(), images)[0].shape == (batch, 5)


def test_a_fixed_file_stays_as_it_is_and_nothing_is_said(save: Save) -> None:
    path = save(make((2, 3, 8, 8)))
    heard: list[str] = []
    graph = adopt(path, notify=heard.append)
    assert len(heard) == 1  # about the outputs
    assert shape_of(graph.input)[0] == 2
    assert graph.digest() == load(path).digest()
    assert graph.digest() == adopt(path, batch=2, input_size=8).digest()


def test_an_open_size_takes_the_one_asked_for(save: Save) -> None:
    graph = adopt(save(make((None, "channels", "height", "width"))), input_size=12)
    assert shape_of(graph.input) == (1, 3, 12, 12)
    check_static(graph)
    assert shape_of(adopt(save(make((None, 3, "height", "width"))), input_size=(12, 20)).input) == (1, 3, 12, 20)


@pytest.mark.parametrize(("size", "width"), [(8, 8), ((8, 24), 24)])
def test_one_open_side_is_not_guessed(save: Save, size: Size, width: int) -> None:
    path = save(make((1, 3, 8, "width")))
    with pytest.raises(GraphError, match="leaves the image size open") as caught:
        adopt(path)
    assert caught.value.fix == "--input-size 8xWIDTH"
    assert shape_of(adopt(path, input_size=size).input) == (1, 3, 8, width)


def test_an_image_need_not_be_square(save: Save) -> None:
    path = save(make((1, 3, 8, 12)))
    graph = adopt(path)
    check_static(graph)
    image = np.random.default_rng(0).standard_normal((1, 3, 8, 12)).astype(np.float32)
    for want, got in zip(run(path.read_bytes(), image), run(graph.to_bytes(), image), strict=True):
        np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)
    with pytest.raises(UsageError, match="--input-size 12x8 does not fit"):
        adopt(path, input_size=(12, 8))


@pytest.mark.parametrize("named", [True, False])
def test_weights_in_constant_nodes_are_weights(save: Save, *, named: bool) -> None:
    """As Paddle writes them, named, and torch, not."""
    model, image = make(), np.random.default_rng(0).standard_normal((1, 3, 8, 8)).astype(np.float32)
    before = adopt(save(model))
    held = [helper.make_node("Constant", [], [tensor.name], value=tensor) for tensor in model.graph.initializer]
    for node in () if named else held:
        node.attribute[0].t.ClearField("name")
    nodes = [*held, *model.graph.node]
    del model.graph.initializer[:], model.graph.node[:]
    model.graph.node.extend(nodes)
    path = save(model)
    graph = adopt(path)
    assert not any(constant(node.outputs[0]).size >= 16 for node in graph.nodes("Constant"))
    assert {"kernel", "bias", "wide", "matrix"} <= graph.body.initializers.keys()
    assert count_params(graph) == count_params(before) == count_params(load(path)) > 0
    np.testing.assert_array_equal(run(graph.to_bytes(), image)[0], run(before.to_bytes(), image)[0])


def test_torch_with_an_open_batch_is_as_good_as_without(save: Save, tmp_path: Path, cmt_ti_graph: Graph) -> None:
    """The exporter writes shape arithmetic then, which inference has to see through."""
    module, _ = zoo.load("cmt_ti", "random", num_classes=10, input_size=64)
    fill(module)
    path = tmp_path / "cmt.onnx"
    export(module, torch.zeros(2, 3, 64, 64), path)
    graph = adopt(path)
    assert [shape_of(v) for v in (graph.input, *graph.body.outputs)] == [(1, 3, 64, 64), (1, 10)]
    rewritten, lines = rewrites.apply(graph)
    check_static(rewritten)
    assert {"attention-scale: 16 sites", "key-value: 16 sites"} <= set(lines)
    image = np.random.default_rng(1).standard_normal((1, 3, 64, 64)).astype(np.float32)
    (want,), (got,) = run(cmt_ti_graph.to_bytes(), image), run(rewritten.to_bytes(), image)
    assert np.abs(got - want).max() < 1e-5 * np.abs(want).max()


class Halves(torch.nn.Module):
    """As networks of YOLO's kind split channels: each half's size is computed from the shape of what is split."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = torch.nn.Conv2d(3, 8, 3)
        self.inner = torch.nn.ModuleList([torch.nn.Conv2d(4, 4, 1), torch.nn.Conv2d(4, 4, 3)])
        self.head = torch.nn.Linear(8, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images (N, 3, 8, 8) -> (N, 5)."""
        x = self.stem(x)
        for conv in self.inner:
            first, second = x.chunk(2, 1)
            inner = conv(second)
            x = torch.cat([torch.nn.functional.interpolate(first, size=inner.shape[2:]), inner], 1)
        logits: torch.Tensor = self.head(x.mean((2, 3)))
        return logits


@pytest.mark.parametrize("open_batch", [False, True])
@pytest.mark.parametrize("batch", [1, 2])
def test_shapes_computed_from_shapes_are_folded(tmp_path: Path, open_batch: bool, batch: int) -> None:
    """ONNX's inference does not see through the division in `chunk`, also where nothing is open."""
    module, path = Halves().eval(), tmp_path / "halves.onnx"
    images = torch.from_numpy(
        np.repeat(IMAGE, batch, 0) * np.arange(1, batch + 1, dtype=np.float32)[:, None, None, None]
    )
    export(module, images, path, open_batch=open_batch)
    inferred = onnx.shape_inference.infer_shapes(onnx.load(path), data_prop=True)
    convolved = {node.output[0] for node in inferred.graph.node if node.op_type == "Conv"}
    dims = [d for v in inferred.graph.value_info if v.name in convolved for d in v.type.tensor_type.shape.dim[2:]]
    assert not all(d.dim_value for d in dims)  # the premise
    graph = adopt(path, batch=batch)
    check_static(graph)
    with torch.no_grad():
        np.testing.assert_allclose(run(graph.to_bytes(), images.numpy())[0], module(images), rtol=1e-5, atol=1e-6)


def test_weights_among_the_inputs_are_no_inputs(save: Save) -> None:
    """As files of IR version 3 have them, in any order."""
    model = make(ir_version=3)
    image = model.graph.input.pop()
    for tensor in model.graph.initializer:
        model.graph.input.append(helper.make_tensor_value_info(tensor.name, tensor.data_type, tensor.dims))
    model.graph.input.append(image)
    graph = adopt(save(model))
    assert [name_of(v) for v in graph.body.inputs] == [NAME]
    assert constant(next(graph.nodes("Conv")).inputs[1]) is not None


def test_the_standard_domain_has_two_names(save: Save) -> None:
    model = make()
    model.opset_import[0].domain = "ai.onnx"
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))  # imported, never used
    for node in model.graph.node:
        node.domain = "ai.onnx"
    graph = adopt(save(model))
    assert graph.opset == 17
    assert len(list(graph.nodes("Conv"))) == 2


def test_local_functions_are_inlined(save: Save) -> None:
    model = make()
    opsets = [helper.make_opsetid("", 17)]
    body = [helper.make_node("Relu", ["x"], ["t"]), helper.make_node("Neg", ["t"], ["y"])]
    model.functions.append(helper.make_function("mine", "Act", ["x"], ["y"], body, opsets))
    model.opset_import.append(helper.make_opsetid("mine", 1))
    model.graph.node[1].op_type, model.graph.node[1].domain = "Act", "mine"
    graph = adopt(save(model))
    assert [n.op_type for n in graph.nodes()][:4] == ["Conv", "Relu", "Neg", "Conv"]


def test_a_half_precision_file_gets_fixed_shapes_as_it_is(save: Save, tmp_path: Path) -> None:
    half = to_fp16(adopt(save(make())))
    model = onnx.load_model_from_string(half.to_bytes())
    for value in (*model.graph.input, *model.graph.output):
        value.type.tensor_type.shape.dim[0].dim_param = "n"
    path = save(model)
    graph = fix_shapes(path, batch=2)
    assert graph is not None
    assert [shape_of(v)[0] for v in (graph.input, *graph.body.outputs)] == [2, 2, 2]
    assert Counter(n.op_type for n in graph.nodes()) == Counter(n.op_type for n in half.nodes())
    assert fix_shapes(save(make((1, 3, 8, 8)))) is None
    grey = save(make((1, 1, 8, 8)))
    assert fix_shapes(grey, must_be_image=False) is None  # to be timed, it needs no image
    with pytest.raises(GraphError, match="no image of three channels"):
        fix_shapes(grey)


# --- weights in another file ------------------------------------------------------------------------------


def move_out(model: onnx.ModelProto, location: str, length: int | None = None) -> bytes:
    """Say that the kernel lies in another file; what belongs there."""
    tensor = model.graph.initializer[0]
    data = bytes(tensor.raw_data)
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    for key, value in ("location", location), ("offset", "0"), ("length", str(length or len(data))):
        tensor.external_data.add(key=key, value=value)
    return data


def test_weights_in_a_file_beside_it_are_read(save: Save) -> None:
    model = make()
    want = run(model.SerializeToString(), IMAGE)
    data = move_out(model, "weights.bin")
    path = save(model)
    (path.parent / "weights.bin").write_bytes(data)
    np.testing.assert_array_equal(run(adopt(path).to_bytes(), IMAGE)[0], want[0])
    assert companions(path) == (path.parent / "weights.bin",)


def test_companions_are_weights_in_constants_too_and_lie_beside_the_file(save: Save) -> None:
    model = make()
    assert companions(save(model)) == ()
    move_out(model, "../w.bin")
    constant_node = helper.make_node("Constant", [], ["more"], value=weight("more", 3))
    constant_node.attribute[0].t.data_location = TensorProto.EXTERNAL
    for key, value in ("location", "b.bin"), ("offset", "0"):
        constant_node.attribute[0].t.external_data.add(key=key, value=value)
    model.graph.node.append(constant_node)
    path = save(model)
    assert companions(path) == (path.parent / "b.bin",)
    path.write_bytes(b"not ONNX")
    with pytest.raises(GraphError, match="not a usable ONNX file"):
        companions(path)


def test_class_scores_are_the_first_output_of_two_dimensions(save: Save) -> None:
    model = make()
    model.graph.output.insert(0, helper.make_tensor_value_info("map", TensorProto.FLOAT, None))
    scores = scores_of(adopt(save(model)))
    assert scores is not None
    assert name_of(scores) == "class scores"


def test_a_network_of_maps_has_no_class_scores_and_that_is_said(save: Save) -> None:
    model = make()
    del model.graph.output[:]
    model.graph.output.extend(helper.make_tensor_value_info(name, TensorProto.FLOAT, None) for name in ("map", "wider"))
    heard: list[str] = []
    assert scores_of(adopt(save(model), notify=heard.append)) is None
    assert heard[-1] == "of 2 outputs, none holds class scores"


@pytest.mark.parametrize("case", ["above", "absolute", "link", "linked folder", "missing", "short", "longer"])
def test_weights_outside_the_folder_or_cut_off_are_refused(save: Save, tmp_path: Path, case: str) -> None:
    model = make()
    outside = tmp_path / "outside"
    outside.mkdir()
    places = {"above": "../outside/w.bin", "absolute": str(outside / "w.bin"), "linked folder": "folder/w.bin"}
    data = move_out(model, places.get(case, "w.bin"), 10**12 if case == "longer" else None)
    (outside / "w.bin").write_bytes(data)
    path = save(model)
    beside = path.parent / "w.bin"
    if case == "link":
        beside.symlink_to(outside / "w.bin")
    elif case == "linked folder":
        (path.parent / "folder").symlink_to(outside)
    elif case in ("short", "longer"):
        beside.write_bytes(data[:10])
    for opening in (adopt, load):
        with pytest.raises(GraphError, match="keeps in another file") as caught:
            opening(path)
        assert "kernel" in caught.value.why
        assert "same folder" in caught.value.fix


# --- what is refused -----------------------------------------------------------------------------------


def without_name(model: onnx.ModelProto) -> None:
    model.graph.node[1].name, model.graph.node[1].op_type = "", "Swish9"


def branch(model: onnx.ModelProto) -> None:
    info = helper.make_tensor_value_info("out", TensorProto.FLOAT, None)
    body = helper.make_graph([helper.make_node("Relu", ["map"], ["out"])], "body", [], [info])
    model.graph.initializer.append(numpy_helper.from_array(np.zeros((), np.float32), "nothing"))
    model.graph.node[1].CopyFrom(
        helper.make_node("If", ["flag"], ["active"], name="second", then_branch=body, else_branch=body)
    )
    model.graph.node.insert(1, helper.make_node("Greater", ["most", "nothing"], ["flag"]))
    model.graph.node.insert(1, helper.make_node("ReduceMax", ["map"], ["most"], keepdims=0))


def custom(model: onnx.ModelProto) -> None:
    model.graph.node[1].domain = "com.microsoft"


def newer(model: onnx.ModelProto) -> None:
    model.graph.node[1].op_type = "Gelu"  # of opset 20


def training(model: onnx.ModelProto) -> None:
    numbers = [weight(name, 16) for name in ("gain", "shift", "mean", "variance")]
    model.graph.initializer.extend(numbers)
    model.graph.node[1].CopyFrom(
        helper.make_node(
            "BatchNormalization", ["map", *(n.name for n in numbers)], ["active", "m", "v"], "second", training_mode=1
        )
    )


def dropout(model: onnx.ModelProto) -> None:
    model.graph.initializer.append(numpy_helper.from_array(np.array(True), "on"))
    model.graph.node[1].CopyFrom(helper.make_node("Dropout", ["map", "", "on"], ["active"], name="second"))


def random(model: onnx.ModelProto) -> None:
    model.graph.node[1].CopyFrom(helper.make_node("RandomNormalLike", ["map"], ["active"], name="second"))


def cycle(model: onnx.ModelProto) -> None:
    model.graph.node[1].input[0] = "class scores"


def double(model: onnx.ModelProto) -> None:
    model.graph.node[1].output[0] = "map"


def wrong_attribute(model: onnx.ModelProto) -> None:
    model.graph.node[1].attribute.append(helper.make_attribute("slope", 0.1))


def short_weight(model: onnx.ModelProto) -> None:
    model.graph.initializer[0].dims[0] = 17


def sparse_weight(model: onnx.ModelProto) -> None:
    model.graph.sparse_initializer.append(onnx.SparseTensorProto(values=weight("thin", 3)))


def no_output(model: onnx.ModelProto) -> None:
    del model.graph.output[:]


def unknown_output(model: onnx.ModelProto) -> None:
    model.graph.output[0].name = "nowhere"


def recursion(model: onnx.ModelProto) -> None:
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("mine", 1)]
    node = helper.make_node("Act", ["x"], ["y"], domain="mine")
    model.functions.append(helper.make_function("mine", "Act", ["x"], ["y"], [node], opsets))
    model.opset_import.append(opsets[1])
    model.graph.node[1].op_type, model.graph.node[1].domain = "Act", "mine"


def second_input(model: onnx.ModelProto) -> None:
    model.graph.input.append(helper.make_tensor_value_info("mask", TensorProto.BOOL, [1]))


def no_input(model: onnx.ModelProto) -> None:
    del model.graph.input[:]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        (without_name, ["computes 'active'", "Swish9"]),
        (branch, ["'second'", "control flow"]),
        (custom, ["'second'", "com.microsoft.Relu"]),
        (newer, ["'second'", "Gelu", "opset 17"]),
        (training, ["'second'", "training mode", "model.eval()"]),
        (dropout, ["'second'", "training mode", "drops other values"]),
        (random, ["'second'", "draws random numbers"]),
        (cycle, ["'second'", "'class scores'", "nothing before it computes"]),
        (double, ["'second'", "'map' exists already"]),
        (wrong_attribute, ["'second'", "slope"]),
        (short_weight, ["'kernel'", "(17,3,3,3)"]),
        (sparse_weight, ["'thin' is sparse"]),
        (no_output, ["no output"]),
        (unknown_output, ["'nowhere'"]),
        (recursion, ["mine::Act", "recursive"]),
        (second_input, ["does not take one image", "'mask' (1)", "bool"]),
        (no_input, ["does not take one image", "none"]),
    ],
)
def test_what_cannot_be_built_is_named(save: Save, change: Callable[[onnx.ModelProto], None], words: list[str]) -> None:
    model = make()
    change(model)
    with pytest.raises(GraphError) as caught:
        adopt(save(model))
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize("opset", [6, 24, 0])
def test_other_opsets_are_refused(save: Save, opset: int) -> None:
    with pytest.raises(GraphError, match=f"opset {opset} is not supported"):
        adopt(save(make(opset=opset)))


@pytest.mark.parametrize(
    ("dims", "kind", "words"),
    [
        ((1, 1, 8, 8), TensorProto.FLOAT, ["1 channels", "grayscale", "x.mean(1, keepdim=True)"]),
        ((1, 8, 8, 3), TensorProto.FLOAT, ["channels last", "permute"]),
        ((1, 4, 8, 8), TensorProto.FLOAT, ["4 channels", "RGB"]),
        ((1, 3, 8, 10**5), TensorProto.FLOAT, ["over 8192 px"]),
        ((1, 3, 10**5, 10**5), TensorProto.FLOAT, ["over 8192 px"]),
        ((1, 3, 64), TensorProto.FLOAT, ["does not take one image", "(1, 3, 64)"]),
        ((1, 3, 8, 8), TensorProto.FLOAT16, ["does not take one image", "float16"]),
        ((1, 3, 8, 8), TensorProto.UINT8, ["uint8", "without its preprocessing"]),
        ((1, 3, "h", "w"), TensorProto.FLOAT, ["(1, 3, h, w)", "leaves the image size open", "--input-size"]),
    ],
)
def test_other_inputs_are_refused_with_the_fix(save: Save, dims: Dims, kind: int, words: list[str]) -> None:
    with pytest.raises(GraphError) as caught:
        adopt(save(make(dims, kind=kind)))
    for word in words:
        assert word in str(caught.value)


def test_options_that_contradict_the_file_are_refused(save: Save) -> None:
    path = save(make((2, 3, 8, 8)))
    for options, word in (({"batch": 4}, "--batch 4"), ({"input_size": 16}, "--input-size 16")):
        with pytest.raises(UsageError, match=f"{word} does not fit") as caught:
            adopt(path, **options)
        assert "(2, 3, 8, 8)" in caught.value.why
    with pytest.raises(UsageError, match="--input-size 8x12 does not fit") as caught:
        adopt(save(make((1, 3, "side", "side"))), input_size=(8, 12))
    assert "(1, 3, side, side) has one name for both" in caught.value.why
    with pytest.raises(UsageError, match="--input-size 8x9000 is larger"):
        adopt(save(make((1, 3, "h", "w"))), input_size=(8, 9000))
    with pytest.raises(UsageError, match="--batch 0"):
        adopt(path, batch=0)


def test_a_size_that_no_inference_finds_is_told_by_the_name_of_the_output(save: Save) -> None:
    model = make()
    found = helper.make_node("NonZero", ["features"], ["places"], name="where")
    model.graph.node.append(found)
    model.graph.output.append(helper.make_tensor_value_info("places", TensorProto.INT64, None))
    with pytest.raises(GraphError, match="'places' is not static"):
        adopt(save(model))


def test_open_channels_are_those_of_the_first_convolution(save: Save) -> None:
    model = make((1, "c", 8, 8))
    assert shape_of(adopt(save(model)).input) == (1, 3, 8, 8)
    model.graph.initializer[0].CopyFrom(weight("kernel", 16, 1, 3, 3))
    with pytest.raises(GraphError, match="no image of three channels") as caught:
        adopt(save(model))
    assert "grayscale" in caught.value.fix


@pytest.mark.parametrize("number", [-1, 0])
def test_a_size_below_one_is_an_open_one(save: Save, number: int) -> None:
    model = make((number, 3, number, number))
    graph = adopt(save(model), batch=2, input_size=8)
    assert shape_of(graph.input) == (2, 3, 8, 8)
    check_static(graph)


def test_what_is_no_file_or_too_large_is_refused_unread(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.onnx")
    with pytest.raises(GraphError, match="not a usable ONNX file") as caught:
        adopt(tmp_path / "pipe.onnx")  # reading it would wait for ever
    assert "a pipe or device" in caught.value.why
    with (tmp_path / "giant.onnx").open("wb") as file:
        file.truncate(20 * 2**30)
    with pytest.raises(GraphError, match=r"giant\.onnx has 20\.0 GiB"):
        adopt(tmp_path / "giant.onnx")


def test_of_a_giant_file_of_weights_only_what_the_shape_needs_is_read(save: Save) -> None:
    model = make()
    data = move_out(model, "w.bin")
    del model.graph.initializer[0].external_data[2:]  # no length: to the end of the file, says the standard
    path = save(model)
    with (path.parent / "w.bin").open("wb") as file:
        file.write(data)
        file.truncate(50 * 2**30)
    np.testing.assert_array_equal(run(adopt(path).to_bytes(), IMAGE)[0], run(make().SerializeToString(), IMAGE)[0])
    del model.graph.initializer[0].dims[:]
    model.graph.initializer[0].dims.extend([2**20, 2**20])
    with pytest.raises(GraphError, match=r"4096\.0 GiB of weights"):
        adopt(save(model))


@settings(max_examples=120)
@given(data=st.data())
def test_a_damaged_file_is_opened_or_refused_and_nothing_else(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    content = bytearray(WHOLE)
    for _ in range(data.draw(st.integers(1, 4))):
        place = data.draw(st.integers(0, 1200) | st.integers(0, len(content) - 9))  # names and shapes, or anything
        content[place : place + data.draw(st.integers(0, 8))] = data.draw(st.binary(max_size=4))
    path = tmp_path_factory.mktemp("damaged") / "net.onnx"
    path.write_bytes(content)
    try:
        graph = adopt(path, input_size=8)
    except EdgeHybridError:
        return
    rewritten, _ = rewrites.apply(graph)
    plan(rewritten, "typed")


@pytest.mark.parametrize("content", [b"", b"not ONNX", make().SerializeToString()[:-500]])
def test_what_is_no_onnx_file_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "net.onnx"
    path.write_bytes(content)
    with pytest.raises(EdgeHybridError):
        adopt(path)
    with pytest.raises(GraphError, match="not a usable ONNX file"):
        adopt(tmp_path)


def test_no_torch_is_needed(save: Save) -> None:
    code = (
        "import sys; sys.modules['torch'] = None; sys.modules['onnxscript'] = None\n"
        "from pathlib import Path; import numpy as np\n"
        "from edgehybrid import calibrator, rewrites\n"
        "from edgehybrid.graph.adoption import adopt\n"
        "from edgehybrid.placement import plan; from edgehybrid.quantizer import quantize\n"
        "graph, _ = rewrites.apply(adopt(Path(sys.argv[1]))); placed = plan(graph, 'fp32')\n"
        "names = sorted({d.tensor for d in placed.decisions if d.kind == 'activation'})\n"
        "seen = calibrator.observe(graph, [np.ones((2, 3, 8, 8), np.float32)], names, threads=1)\n"
        "ranges = calibrator.choose(seen, 'minmax', images=2, sha256='0' * 64)\n"
        "quantized = quantize(graph, ranges, placed)\n"
        "print(sum(1 for _ in quantized.nodes('QuantizeLinear')))"
    )
    done = subprocess.run([sys.executable, "-c", code, str(save(make()))], capture_output=True, text=True)
    assert (done.returncode, done.stdout.strip()) == (0, "1"), done.stderr
