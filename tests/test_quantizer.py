"""Quantizer: Q/DQ that computes what numpy computes, legal scales, both dialects, and clear refusals."""

from dataclasses import replace

import numpy as np
import onnx
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from onnx import numpy_helper

from edgehybrid import rewrites
from edgehybrid.errors import GraphError, StageError
from edgehybrid.graph import Graph, name_of
from edgehybrid.placement import keep_float32, plan
from edgehybrid.quantizer import MIN_SCALE, MIN_WEIGHT_SCALE, choose_weight_scales, quantize, to_fp16
from edgehybrid.records import Decision, Plan, Ranges
from tests.single import SingleNet, draw, initializer, observe, run


def proto_of(graph: Graph) -> onnx.ModelProto:
    return onnx.load_model_from_string(graph.to_bytes())


def constants(graph: Graph) -> dict[str, NDArray[np.generic]]:
    return {t.name: numpy_helper.to_array(t) for t in proto_of(graph).graph.initializer}


def ops(graph: Graph) -> list[str]:
    return [node.op_type for node in graph.nodes()]


def fake_quantize(x: NDArray[np.float32], scale: float | NDArray[np.float32]) -> NDArray[np.float32]:
    """QuantizeLinear and DequantizeLinear as the ONNX standard writes them: half to even, saturate."""
    return (np.clip(np.rint(x / np.float32(scale)), -128, 127) * np.float32(scale)).astype(np.float32)


def fake_quantize_weight(weight: NDArray[np.float32], axis: int) -> NDArray[np.float32]:
    shape = [1] * weight.ndim
    shape[axis] = -1
    return fake_quantize(weight, choose_weight_scales(weight, axis).reshape(shape))


def linear_net(trans_a: int = 0, trans_b: int = 0) -> Graph:
    net = SingleNet(32, 20) if trans_a else SingleNet(20, 32)
    weight = net.weight(48, 32) if trans_b else net.weight(32, 48)
    bias = net.weight(48)
    return net.graph(net.op("Gemm", "input", weight, bias, transA=trans_a, transB=trans_b, alpha=0.5, beta=2.0))


def mixed_net(opset: int = 17) -> Graph:
    """Convolutions, a depthwise one, GELU, normalisations, reductions, Split, Pad and Resize."""
    net = SingleNet(1, 24, 8, 8, opset=opset)
    x = net.norm(net.gelu(net.conv("input", 24, 32, 3, pads=[1, 1, 1, 1])), 32)
    x = net.op("Add", net.depthwise(x, 32), x)
    x = net.op("Resize", x, "", net.const([1.0, 1.0, 2.0, 2.0]), mode="nearest")
    x = net.op("Pad", x, net.ints(0, 0, 1, 1, 0, 0, 1, 1))
    x = net.conv(x, 32, 32, 3, strides=[2, 2])
    tokens = net.transpose(net.reshape(x, 1, 32, 64), 0, 2, 1)
    tokens = net.op("LayerNormalization", tokens, net.weight(32), net.weight(32), axis=-1)
    net.op("Split", net.linear(tokens, 32, 64), outputs=2, axis=-1, **({"num_outputs": 2} if opset >= 18 else {}))
    left, right = net.last_outputs()
    x = net.op("Mul", net.op("Sigmoid", left), right)
    pooled = net.op("ReduceMean", x, net.ints(1), keepdims=0) if opset >= 18 else net.op("ReduceMean", x, axes=[1])
    return net.graph(pooled)


# --- the numbers ----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("trans_a", "trans_b"), [(0, 0), (0, 1), (1, 0), (1, 1)])
def test_gemm_computes_fake_quantized_operands(trans_a: int, trans_b: int) -> None:
    graph = linear_net(trans_a, trans_b)
    x = draw(graph)
    ranges = Ranges("minmax", 1, "", {"input": 2.0})  # clips: some of x lies beyond
    assert np.abs(x).max() > 2
    got = run(quantize(graph, ranges, plan(graph, "fp32")), x)[0]
    weight, bias = (constants(graph)[name] for name in ("c_1", "c_2"))
    a = fake_quantize(x, 2.0 / 127)
    b = fake_quantize_weight(weight.astype(np.float32), 0 if trans_b else 1)
    want = 0.5 * (a.T if trans_a else a) @ (b.T if trans_b else b) + 2.0 * bias
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


def test_matmul_computes_fake_quantized_operands() -> None:
    net = SingleNet(1, 20, 32)
    graph = net.graph(net.op("MatMul", "input", net.weight(32, 48)))
    x = draw(graph)
    got = run(quantize(graph, observe(graph, x), plan(graph, "fp32")), x)[0]
    weight = constants(graph)["c_1"].astype(np.float32)
    want = fake_quantize(x, np.abs(x).max() / 127) @ fake_quantize_weight(weight, 1)
    np.testing.assert_allclose(got, want, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("dialect", ["fp32", "typed"])
def test_weights_in_constant_nodes_become_int8_as_well(dialect: str) -> None:
    graphs = []
    for constants_as in ("initializer", "node"):
        net = SingleNet(20, 32, constants=constants_as)
        graph = net.graph(net.op("Gemm", "input", net.weight(32, 48), net.weight(48)))
        made = replace(plan(graph, "fp32"), dialect=dialect)
        graphs.append(quantize(graph, Ranges("minmax", 1, "", {"input": 2.0}), made))
    x = draw(graphs[0])
    np.testing.assert_array_equal(run(graphs[0], x)[0], run(graphs[1], x)[0])
    assert all(constants(graph)["c_1_quantized"].dtype == np.int8 for graph in graphs)
    assert len(graphs[1].to_bytes()) < 4000


def test_convolution_computes_fake_quantized_operands() -> None:
    net = SingleNet(1, 24, 8, 8)
    graph = net.graph(net.conv("input", 24, 32, 3, pads=[1, 1, 1, 1]))
    x = draw(graph)
    quantized = quantize(graph, observe(graph, x), plan(graph, "fp32"))
    replaced = proto_of(graph)
    weight, bias = replaced.graph.initializer
    rounded = fake_quantize_weight(numpy_helper.to_array(weight), 0)
    weight.CopyFrom(numpy_helper.from_array(rounded, weight.name))
    reference = onnx.reference.ReferenceEvaluator(replaced)
    want = reference.run(None, {"input": fake_quantize(x, np.abs(x).max() / 127)})[0]
    np.testing.assert_allclose(run(quantized, x)[0], want, rtol=1e-5, atol=1e-5)
    assert bias.name in constants(quantized)


@pytest.mark.parametrize(("op", "axis"), [("Conv", 0), ("MatMul", 1), ("Gemm", 1)])
def test_scales_run_along_the_output_channel(op: str, axis: int) -> None:
    """One output channel a thousand times larger than the others must not cost them their bits."""
    net = SingleNet(1, 32, 4, 4) if op == "Conv" else SingleNet(20, 32)
    weight = np.random.default_rng(0).standard_normal((48, 32) if op == "Conv" else (32, 48)).astype(np.float32)
    np.moveaxis(weight, axis, 0)[7] *= 1000
    w = net.const(weight[:, :, None, None] if op == "Conv" else weight)
    graph = net.graph(net.op(op, "input", w))
    quantized = quantize(graph, Ranges("minmax", 1, "", {"input": 1.0}), plan(graph, "fp32"))
    scale = constants(quantized)[f"{w}_scale"]
    levels = constants(quantized)[f"{w}_quantized"]
    assert scale.shape == (48,)
    assert scale.argmax() == 7
    assert levels.dtype == np.int8
    shape = [1] * levels.ndim
    shape[axis] = 48
    error = np.abs(levels * scale.reshape(shape).astype(np.float32) - constants(graph)[w])
    assert np.delete(error, 7, axis=axis).max() < 0.02


@settings(deadline=None, max_examples=60)
@given(
    hnp.arrays(np.float32, st.tuples(st.integers(1, 6), st.integers(1, 40)), elements=st.floats(-100, 100, width=32)),
    st.integers(0, 1),
)
def test_unclipped_weights_are_off_by_half_a_step_at_most(weight: NDArray[np.float32], axis: int) -> None:
    scale = choose_weight_scales(weight, axis)
    assert scale.shape == (weight.shape[axis],)
    assert (scale >= MIN_WEIGHT_SCALE).all()
    assert (scale.astype(np.float16).astype(np.float32) == scale).all()
    step = np.expand_dims(scale, 1 - axis)
    error = np.abs(fake_quantize(weight, step) - weight)
    unclipped = np.abs(weight) <= 127 * step
    assert (error <= step * (0.5 + 1e-4))[unclipped].all()


def test_weights_behind_a_small_gain_keep_their_levels() -> None:
    weight = np.random.default_rng(0).standard_normal((8, 64)).astype(np.float32)
    for gain in (1.0, 1e-2, 1e-3):
        scale = choose_weight_scales(weight * np.float32(gain), 0)[:, None]
        noise = fake_quantize(weight * np.float32(gain), scale) - weight * np.float32(gain)
        assert np.square(noise).sum() < 1e-3 * np.square(weight * gain).sum()


@settings(deadline=None, max_examples=40)
@given(hnp.arrays(np.float32, (3, 50), elements=st.floats(-10, 10, width=32)))
def test_chosen_scale_is_never_worse_than_the_largest_weight(weight: NDArray[np.float32]) -> None:
    def error(scale: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.square(fake_quantize(weight, scale[:, None]) - weight).sum(axis=1)

    peak = np.abs(weight).max(axis=1) / 127
    peak = np.where(peak < MIN_WEIGHT_SCALE, MIN_SCALE, peak).astype(np.float16).astype(np.float32)
    assert (error(choose_weight_scales(weight, 0)) <= error(peak) * (1 + 1e-5)).all()


def test_clipping_pays_for_a_channel_with_one_outlier() -> None:
    weight = np.random.default_rng(0).laplace(size=(1, 20_000)).astype(np.float32)
    assert choose_weight_scales(weight, 0)[0] < 0.95 * np.abs(weight).max() / 127


def test_dead_channels_and_dead_tensors_get_a_positive_scale() -> None:
    net = SingleNet(20, 32)
    weight = np.zeros((32, 48), np.float32)
    weight[:, 1] = 1e-12
    graph = net.graph(net.op("Gemm", "input", net.const(weight)))
    for dialect in ("fp32", "typed"):
        quantized = quantize(
            graph, Ranges("minmax", 1, "", {"input": 0.0}), replace(plan(graph, "fp32"), dialect=dialect)
        )
        scales = [v for k, v in constants(quantized).items() if "_scale" in k]
        assert len(scales) == 2
        for scale in scales:
            assert (scale > 0).all()
            assert np.isfinite(1 / scale.astype(np.float16)).all()


# --- the graph ------------------------------------------------------------------------------------------


def test_zero_points_are_explicit_int8_zeros() -> None:
    graph = mixed_net()
    quantized = proto_of(quantize(graph, observe(graph, draw(graph)), plan(graph, "fp32")))
    tensors = {t.name: numpy_helper.to_array(t) for t in quantized.graph.initializer}
    pairs = [n for n in quantized.graph.node if n.op_type in ("QuantizeLinear", "DequantizeLinear")]
    assert pairs
    for node in pairs:
        assert tensors[node.input[2]].dtype == np.int8
        assert not tensors[node.input[2]].any()


def test_readers_of_one_tensor_share_one_pair() -> None:
    net = SingleNet(20, 32)
    x = net.op("Relu", "input")
    readers = [net.op("Gemm", x, net.weight(32, 48)) for _ in range(3)]
    graph = net.graph(net.op("Add", net.op("Add", readers[0], readers[1]), net.op("Mul", readers[2], readers[2])))
    quantized = quantize(graph, Ranges("minmax", 1, "", {x: 1.0}), plan(graph, "fp32"))
    assert ops(quantized).count("QuantizeLinear") == 1
    assert ops(quantized).count("DequantizeLinear") == 4


def test_a_weight_read_by_an_int8_and_a_float_operator_keeps_both_forms() -> None:
    net = SingleNet(20, 32)
    w = net.weight(32, 32)
    graph = net.graph(net.op("Add", net.op("Gemm", "input", w), net.op("Slice", w, net.ints(0), net.ints(20))))
    assert w in constants(quantized := quantize(graph, Ranges("minmax", 1, "", {"input": 1.0}), plan(graph, "fp32")))
    assert f"{w}_quantized" in constants(quantized)


def test_names_that_are_taken_are_avoided() -> None:
    net = SingleNet(20, 32)
    graph = net.graph(net.op("Gemm", net.op("Relu", "input"), net.weight(32, 32)))
    relu = next(graph.nodes("Relu"))
    relu.inputs[0].name = "input"
    relu.outputs[0].name = "int8_zero"
    quantized = quantize(graph, Ranges("minmax", 1, "", {"int8_zero": 3.0}), plan(graph, "fp32"))
    assert run(quantized, draw(graph))[0].shape == (20, 32)


def test_layer_outputs_keep_their_names() -> None:
    graph = mixed_net()
    quantized = quantize(graph, observe(graph, draw(graph)), plan(graph, "fp32"))
    before = {name_of(v): node.op_type for node in graph.nodes() for v in node.outputs}
    after = {name_of(v): node.op_type for node in quantized.nodes() for v in node.outputs}
    assert before.items() <= after.items()
    assert quantized.outputs == ("logits",)
    assert quantized.opset == 17


def test_the_given_graph_is_not_changed() -> None:
    graph = mixed_net()
    before = graph.digest()
    ranges = observe(graph, draw(graph))
    quantize(graph, ranges, plan(graph, "fp32"))
    quantize(graph, ranges, plan(graph, "typed"))
    to_fp16(graph)
    assert graph.digest() == before


@pytest.mark.parametrize("dialect", ["fp32", "typed"])
def test_equal_arguments_give_equal_bytes(dialect: str, cmt_ti_graph: Graph) -> None:
    made = plan(cmt_ti_graph, "typed" if dialect == "typed" else "fp32")
    ranges = Ranges("minmax", 1, "", {d.tensor: 3.0 for d in made.decisions if d.kind == "activation"})
    first, second = (quantize(cmt_ti_graph.clone(), ranges, made).digest() for _ in range(2))
    assert first == second


def test_int8_weights_are_the_same_in_both_dialects() -> None:
    graph = mixed_net()
    ranges = observe(graph, draw(graph))
    single, typed = (constants(quantize(graph, ranges, plan(graph, d))) for d in ("fp32", "typed"))
    weights = {k for k, v in single.items() if v.dtype == np.int8 and v.ndim > 1}
    assert len(weights) == 3
    assert all((single[k] == typed[k]).all() for k in weights)


# --- strongly typed ---------------------------------------------------------------------------------------


def float32_values(graph: Graph) -> set[str]:
    """Computed float32 tensors of a typed graph, its output apart."""
    proto = onnx.shape_inference.infer_shapes(proto_of(graph), strict_mode=True)
    single = {v.name for v in proto.graph.value_info if v.type.tensor_type.elem_type == onnx.TensorProto.FLOAT}
    return single & {name for node in proto.graph.node for name in node.output}


@pytest.mark.parametrize("opset", [13, 15, 17, 18, 19, 21])
def test_typed_graph_computes_the_same_in_float16(opset: int) -> None:
    net = SingleNet(1, 24, 8, 8, opset=opset)
    x = net.gelu(net.conv("input", 24, 32, 3, pads=[1, 1, 1, 1]))
    x = net.op("MaxPool", net.op("Pad", x, net.ints(0, 0, 1, 1, 0, 0, 1, 1)), kernel_shape=[2, 2], strides=[2, 2])
    graph = net.graph(net.norm(x, 32)) if opset < 17 else mixed_net(opset)
    x = draw(graph)
    typed = to_fp16(graph)
    want, got = run(graph, x)[0], run(typed, x)[0]
    assert got.dtype == np.float32
    assert np.abs(got - want).max() < 0.01 * np.abs(want).max()
    assert typed.opset == max(opset, 19)
    assert float32_values(typed) == set()


def test_typed_quantized_graph_computes_the_same_as_its_twin() -> None:
    graph = mixed_net()
    x = draw(graph)
    ranges = observe(graph, x)
    want, got = (run(quantize(graph, ranges, plan(graph, d)), x)[0] for d in ("fp32", "typed"))
    assert np.abs(got - want).max() < 0.02 * np.abs(want).max()


def test_typed_input_and_output_stay_float32_under_their_names() -> None:
    graph = mixed_net()
    proto = proto_of(quantize(graph, observe(graph, draw(graph)), plan(graph, "typed")))
    ports = [(v.name, v.type.tensor_type.elem_type) for v in (*proto.graph.input, *proto.graph.output)]
    assert ports == [("input", onnx.TensorProto.FLOAT), ("logits", onnx.TensorProto.FLOAT)]
    assert [n.op_type for n in proto.graph.node].count("Cast") == 2


def test_typed_scales_are_float16_and_indices_stay_integers() -> None:
    graph = mixed_net()
    typed = constants(quantize(graph, observe(graph, draw(graph)), plan(graph, "typed")))
    kinds = {a.dtype.name for a in typed.values()}
    assert kinds == {"float16", "float32", "int8", "int64"}
    assert [k for k, v in typed.items() if v.dtype == np.float32 and v.tolist() != [1.0, 1.0, 2.0, 2.0]] == []


def test_batch_norm_with_a_tiny_variance_survives_float16() -> None:
    net = SingleNet(1, 16, 4, 4)
    statistics = [net.const(np.full(16, v)) for v in (1e-4, 0.5, 1e-5, 1e-9)]
    graph = net.graph(net.op("BatchNormalization", net.op("Mul", "input", net.const(1.0)), *statistics, epsilon=1e-9))
    x = draw(graph)
    want, got = run(graph, x)[0], run(to_fp16(graph), x)[0]
    np.testing.assert_allclose(got, want, rtol=5e-3, atol=5e-3)


def test_hand_written_layer_norm_does_not_overflow() -> None:
    """Squares of a stream of 2,000 leave float16; the normalised result does not."""
    net = SingleNet(1, 20, 64)
    x = net.op("Mul", "input", net.const(2000.0))
    centred = net.op("Sub", x, net.op("ReduceMean", x, axes=[-1]))
    variance = net.op("ReduceMean", net.op("Pow", centred, net.const(2.0)), axes=[-1])
    deviation = net.op("Sqrt", net.op("Add", variance, net.const(1e-6)))
    graph = net.graph(net.op("Div", centred, deviation))
    x_in = draw(graph)
    got = onnx.reference.ReferenceEvaluator(proto_of(to_fp16(graph))).run(None, {"input": x_in})[0]
    np.testing.assert_allclose(got, run(graph, x_in)[0], atol=0.01)


def test_a_power_that_is_no_variance_stays_float16() -> None:
    net = SingleNet(1, 16, 4, 4)
    assert float32_values(to_fp16(net.graph(net.gelu("input", "tanh")))) == set()


@pytest.mark.parametrize("value", [1e6, -3.4e38, 1e-7])
def test_elementwise_work_with_a_constant_beyond_float16_computes_in_float32(value: float) -> None:
    net = SingleNet(1, 16, 4, 4)
    small = net.op("Mul", "input", net.const(1e-6))
    scaled = net.op("Div" if abs(value) < 1 else "Mul", small, net.const(value))
    graph = net.graph(net.op("Tanh", scaled))
    x = draw(graph)
    np.testing.assert_allclose(run(to_fp16(graph), x)[0], run(graph, x)[0], rtol=2e-3, atol=2e-3)


def test_infinite_masks_stay_infinite() -> None:
    net = SingleNet(1, 4, 4)
    mask = np.where(np.tri(4), 0, -np.inf)
    graph = net.graph(net.op("Softmax", net.op("Add", "input", net.const(mask)), axis=-1))
    x = draw(graph)
    np.testing.assert_allclose(run(to_fp16(graph), x)[0], run(graph, x)[0], atol=2e-3)


def test_a_layer_whose_weights_are_beyond_float16_computes_in_float32() -> None:
    net = SingleNet(20, 32)
    product = net.op("Gemm", "input", net.const(np.full((32, 10), 1e5)))
    graph = net.graph(net.op("Mul", product, net.const(1e-3)))
    x = draw(graph)
    made = Plan("typed", keep_float32(graph, {"input": 4.0, product: 1e7}))
    got = onnx.reference.ReferenceEvaluator(proto_of(to_fp16(graph, made))).run(None, {"input": x})[0]
    np.testing.assert_allclose(got, run(graph, x)[0], rtol=2e-3, atol=0.5)


def test_an_output_that_is_also_read_inside_keeps_its_name_and_type() -> None:
    net = SingleNet(1, 16, 4, 4)
    graph = net.graph(net.op("Relu", net.op("Relu", "input")))
    inner = next(graph.nodes("Relu")).outputs[0]
    graph.body.outputs.append(inner)
    typed = to_fp16(graph)
    assert typed.outputs == ("logits", inner.name)
    first, second = run(typed, draw(graph))
    assert (first.dtype, second.dtype) == (np.float32, np.float32)


# --- CMT ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("rewritten", [False, True], ids=["plain", "rewritten"])
def test_cmt_survives_both_dialects(cmt_ti_graph: Graph, rewritten: bool) -> None:
    graph = rewrites.apply(cmt_ti_graph)[0] if rewritten else cmt_ti_graph
    x = draw(graph)
    ranges = observe(graph, x)
    want = run(cmt_ti_graph, x)[0]
    results = [run(quantize(graph, ranges, plan(graph, d)), x)[0] for d in ("fp32", "typed")]
    half = run(to_fp16(graph), x)[0]
    power = np.square(want).sum()
    assert all(np.square(got - want).sum() < 0.02 * power for got in results)
    assert np.square(half - want).sum() < 1e-4 * power


def test_int8_file_is_a_third_of_the_float_file(cmt_ti_graph: Graph) -> None:
    made = plan(cmt_ti_graph, "fp32")
    ranges = Ranges("minmax", 1, "", {d.tensor: 3.0 for d in made.decisions if d.kind == "activation"})
    assert len(quantize(cmt_ti_graph, ranges, made).to_bytes()) < len(cmt_ti_graph.to_bytes()) / 3


# --- refusals ---------------------------------------------------------------------------------------------


def test_a_missing_range_is_named() -> None:
    graph = linear_net()
    with pytest.raises(StageError, match="no calibrated range for 'input', input 0 of 'n_gemm_3'"):
        quantize(graph, Ranges("mse", 8, "", {"other": 1.0}), plan(graph, "fp32"))


@pytest.mark.parametrize("amax", [float("nan"), float("inf"), -1.0])
def test_an_impossible_range_is_refused(amax: float) -> None:
    graph = linear_net()
    with pytest.raises(StageError, match="the calibrated range of 'input' is"):
        quantize(graph, Ranges("mse", 8, "", {"input": amax}), plan(graph, "fp32"))


def test_a_range_beyond_float16_is_refused_in_the_typed_dialect_only() -> None:
    graph = linear_net()
    ranges = Ranges("mse", 8, "", {"input": 1e5})
    quantize(graph, ranges, plan(graph, "fp32"))
    with pytest.raises(StageError, match="'input' does not fit float16"):
        quantize(graph, ranges, plan(graph, "typed"))


@pytest.mark.parametrize("dialect", ["fp32", "typed"])
@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_weights_that_are_not_finite_are_refused(value: float, dialect: str) -> None:
    net = SingleNet(20, 32)
    weight = np.ones((32, 48))
    weight[3, 5] = value
    graph = net.graph(net.op("Gemm", "input", net.const(weight)))
    with pytest.raises(GraphError, match=r"'c_1', read by node 'n_gemm_2' \(Gemm\), is not finite") as caught:
        quantize(graph, Ranges("mse", 8, "", {"input": 1.0}), replace(plan(graph, "fp32"), dialect=dialect))
    assert caught.value.why == "1 of its 1536 values are NaN or infinite"


@pytest.mark.parametrize(
    "change",
    [{"tensor": "other"}, {"node": "absent"}, {"input": 7}, {"kind": "weight", "axis": 0}],
    ids=["tensor", "node", "input", "kind"],
)
def test_a_plan_for_another_graph_is_refused(change: dict[str, object]) -> None:
    graph = linear_net()
    made = plan(graph, "fp32")
    wrong = (replace(made.decisions[0], **change), *made.decisions[1:])
    with pytest.raises(StageError, match="the plan does not fit the graph"):
        quantize(graph, Ranges("mse", 8, "", {"input": 1.0}), Plan("fp32", wrong))


def test_a_quantized_graph_is_refused() -> None:
    graph = linear_net()
    ranges = Ranges("mse", 8, "", {"input": 1.0})
    quantized = quantize(graph, ranges, plan(graph, "fp32"))
    with pytest.raises(GraphError, match="is a QuantizeLinear"):
        quantize(quantized, ranges, plan(graph, "fp32"))


def test_control_flow_is_refused() -> None:
    net = SingleNet(20, 32)
    branch = onnx.helper.make_graph(
        [onnx.helper.make_node("Relu", ["input"], ["inner"])],
        "branch",
        [],
        [onnx.helper.make_tensor_value_info("inner", onnx.TensorProto.FLOAT, [20, 32])],
    )
    condition = net.const(True, np.bool_)
    graph = net.graph(net.op("If", condition, then_branch=branch, else_branch=branch))
    with pytest.raises(GraphError, match=r"node 'n_if_2' \(If\) is control flow"):
        to_fp16(graph)


def test_a_value_without_a_type_is_refused_in_the_typed_dialect() -> None:
    net = SingleNet(20, 32, opset=19)
    graph = net.graph(net.op("Relu", "input"))
    next(graph.nodes("Relu")).outputs[0].type = None
    with pytest.raises(GraphError, match="the type of 'relu_1' is not known"):
        to_fp16(graph)


def test_float_decisions_change_nothing() -> None:
    graph = linear_net()
    kept = Plan("fp32", (Decision("n_gemm_3", "Gemm", 0, "input", "float", "rule", "reason"),))
    quantized = quantize(graph, Ranges("mse", 8, "", {}), kept)
    assert ops(quantized) == ops(graph)
    assert (initializer(quantized, "c_1") == initializer(graph, "c_1")).all()
