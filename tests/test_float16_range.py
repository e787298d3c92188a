"""What float16 cannot hold stays float32: the guarded graph is finite in true float16, the unguarded one is not."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from numpy.typing import NDArray
from onnx.reference import ReferenceEvaluator

from edgehybrid import calibrator, exporter, findings, rewrites, zoo
from edgehybrid.engine import build, find_builders
from edgehybrid.graph import Graph, from_proto
from edgehybrid.graph.half import FLOAT16_MAX
from edgehybrid.placement import keep_float32, plan
from edgehybrid.placement.float16 import LIMIT
from edgehybrid.quantizer import quantize, to_fp16
from edgehybrid.records import Figure, Plan, Ranges, Target
from tests.single import SingleNet, draw, run

ORIN = Target("orin", "Orin", "tensorrt", "typed", ("fp16", "int8"), {"compute_capability": Figure("8.7", "test")})
needs_rtx = pytest.mark.skipif(find_builders().rtx is None, reason="TensorRT-RTX (extra 'rtx') is not installed")
pytestmark = pytest.mark.filterwarnings("ignore:(overflow|invalid value|divide by zero):RuntimeWarning")


def emulate(graph: Graph, x: NDArray[np.float32]) -> NDArray[np.float32]:
    """Every operator in its own type in numpy, so that float16 overflows where a GPU's would."""
    found: NDArray[np.float32] = ReferenceEvaluator(onnx.load_model_from_string(graph.to_bytes())).run(
        None, {"input": x}
    )[0]
    return found


def distance(found: NDArray[np.generic], wanted: NDArray[np.generic]) -> float:
    """Norm of the difference, relative."""
    return float(np.linalg.norm(found - wanted) / np.linalg.norm(wanted))


def guard(graph: Graph, x: NDArray[np.float32]) -> Plan:
    """What stays float32, from what one batch shows."""
    return Plan("typed", keep_float32(graph, calibrator.find_peaks(graph, [x])))


def kept(graph: Graph, peaks: dict[str, float]) -> dict[str, str]:
    """Operator -> rule, of everything that stays float32."""
    return {decision.op: decision.rule for decision in keep_float32(graph, peaks)}


@pytest.fixture(scope="module")
def large_stream() -> Graph:
    """Conv2Former whose first stage carries values that float16 cannot hold; its layer norms take them away again."""
    module, spec = zoo.load("conv2former_n", "random", num_classes=10, input_size=32)
    with torch.no_grad():
        module.downsample_layers[0][-1].weight.mul_(1e6)
    return rewrites.apply(exporter.trace(module, spec))[0]


def test_conv2former_with_a_large_stream_overflows_only_without_the_guard(large_stream: Graph) -> None:
    x = draw(large_stream)
    want = run(large_stream, x)[0]
    made = guard(large_stream, x)
    assert not np.isfinite(emulate(to_fp16(large_stream), x)).all()
    np.testing.assert_allclose(emulate(to_fp16(large_stream, made), x), want, atol=0.01 * np.abs(want).max())
    rules = {decision.rule for decision in made.decisions}
    assert rules == {"fp16-range"}
    islands = {decision.op for decision in made.decisions}
    assert {"Conv", "LayerNormalization", "Add"} <= islands
    assert len(made.decisions) < sum(1 for _ in large_stream.nodes()) / 4  # one stage of four, not the network
    (note,) = findings.range_notes(made, ORIN)
    assert note.startswith(f"{len(made.decisions)} operators could overflow float16 and stay float32")
    (note,) = findings.range_notes(made, replace(ORIN, dialect="fp32"))
    assert "not protected on this target" in note


def test_int8_keeps_its_pairs_where_the_stream_is_wide(large_stream: Graph) -> None:
    """Q/DQ of a wide operator is float32 itself: no Cast stands between DequantizeLinear and its reader."""
    x = draw(large_stream)
    peaks = calibrator.find_peaks(large_stream, [x])
    placed = plan(large_stream, "typed").decisions
    ranges = Ranges("minmax", 1, "0" * 64, {d.tensor: peaks[d.tensor] for d in placed if d.kind == "activation"})
    made = Plan("typed", (*placed, *keep_float32(large_stream, peaks)))
    typed = quantize(large_stream, ranges, made)
    for node in typed.nodes("DequantizeLinear"):
        assert {use.node.op_type for use in node.outputs[0].uses()} <= {"Conv", "Gemm", "MatMul", "Add"}
    twin = run(quantize(large_stream, ranges, plan(large_stream, "fp32")), x)[0]
    assert distance(emulate(typed, x), twin) < 0.05  # float16 rounds some values to the neighbouring int8 level


@needs_rtx
@pytest.mark.parametrize("precision", ["fp16", "int8"])
def test_nvidia_compiles_the_guarded_graph(large_stream: Graph, precision: str, tmp_path: Path) -> None:
    x = draw(large_stream)
    peaks = calibrator.find_peaks(large_stream, [x])
    placed = plan(large_stream, "typed").decisions if precision == "int8" else ()
    made = Plan("typed", (*placed, *keep_float32(large_stream, peaks)))
    ranges = Ranges("minmax", 1, "0" * 64, {d.tensor: peaks[d.tensor] for d in placed if d.kind == "activation"})
    typed = quantize(large_stream, ranges, made) if placed else to_fp16(large_stream, made)
    path = tmp_path / "model.onnx"
    path.write_bytes(typed.to_bytes())
    found, _ = build(path, ORIN, None)
    assert found.status == "checked"


def test_an_int8_layer_of_a_wide_tensor_shared_with_a_narrow_reader() -> None:
    """One reader's result is wide, the other's is not: both read int8, each in its own float type."""
    net = SingleNet(20, 32)
    wide = net.op("Gemm", "input", net.const(np.full((32, 32), 3e3)))
    narrow = net.op("Gemm", "input", net.weight(32, 32))
    graph = net.graph(net.op("Add", net.op("Mul", wide, net.const(1e-5)), narrow))
    x = np.abs(draw(graph))
    peaks = calibrator.find_peaks(graph, [x])
    placed = plan(graph, "typed").decisions
    ranges = Ranges("minmax", 1, "0" * 64, {d.tensor: peaks[d.tensor] for d in placed if d.kind == "activation"})
    typed = quantize(graph, ranges, Plan("typed", (*placed, *keep_float32(graph, peaks))))
    assert len(list(typed.nodes("QuantizeLinear"))) == 1
    twin = run(quantize(graph, ranges, plan(graph, "fp32")), x)[0]
    assert distance(emulate(typed, x), twin) < 0.02


def test_readers_and_makers_of_a_wide_tensor_stay_float32_and_nobody_else() -> None:
    net = SingleNet(1, 4)
    wide = net.op("Exp", net.op("Relu", "input"))
    graph = net.graph(net.op("Tanh", net.op("Sqrt", wide)))
    assert kept(graph, {"input": 3.0, wide: LIMIT + 1}) == {"Exp": "fp16-range", "Sqrt": "fp16-range"}
    assert kept(graph, {"input": 3.0, wide: LIMIT}) == {"Exp": "fp16-inner-range"}


def test_a_mean_is_judged_by_its_sum() -> None:
    net = SingleNet(1, 8, 32, 32)
    mean = net.op("GlobalAveragePool", "input")
    graph = net.graph(mean)
    assert kept(graph, {"input": 60.0, mean: 7.9}) == {}
    assert kept(graph, {"input": 60.0, mean: 8.1}) == {"GlobalAveragePool": "fp16-inner-range"}


def test_the_cube_inside_a_gelu_counts() -> None:
    net = SingleNet(1, 8, opset=20)
    graph = net.graph(net.op("Gelu", "input", approximate="tanh"))
    assert kept(graph, {"input": 50.0}) == {}
    assert kept(graph, {"input": 60.0}) == {"Gelu": "fp16-inner-range"}


@pytest.mark.parametrize(("epsilon", "rule"), [(1e-12, "fp16-constant"), (1e-3, None)])
def test_an_epsilon_that_float16_would_lose_keeps_its_sum_float32(epsilon: float, rule: str | None) -> None:
    net = SingleNet(1, 8)
    graph = net.graph(net.op("Sqrt", net.op("Add", net.op("Abs", "input"), net.const(np.full(8, epsilon)))))
    assert kept(graph, {}).get("Add") == rule


def test_a_hand_written_norm_of_a_large_stream_is_finite_only_with_the_guard() -> None:
    """The stream itself leaves float16, not only its squares."""
    net = SingleNet(1, 20, 64)
    x = net.op("Mul", "input", net.const(6e4))
    centred = net.op("Sub", x, net.op("ReduceMean", x, axes=[-1]))
    variance = net.op("ReduceMean", net.op("Pow", centred, net.const(2.0)), axes=[-1])
    graph = net.graph(net.op("Div", centred, net.op("Sqrt", net.op("Add", variance, net.const(1e-6)))))
    image = draw(graph)
    assert not np.isfinite(emulate(to_fp16(graph), image)).all()
    np.testing.assert_allclose(emulate(to_fp16(graph, guard(graph, image)), image), run(graph, image)[0], atol=0.01)


def test_ordinary_networks_keep_nothing_back() -> None:
    module, spec = zoo.load("botnet26t", "random", num_classes=10, input_size=64)
    graph = rewrites.apply(exporter.trace(module, spec))[0]
    assert guard(graph, draw(graph)).decisions == ()


def test_a_batch_norm_is_judged_by_its_product() -> None:
    net = SingleNet(1, 16, 4, 4)
    statistics = [net.const(np.full(16, v)) for v in (1.0, 0.0, 0.0, 1e-8)]
    x = net.op("Mul", "input", net.const(2.0))
    graph = net.graph(net.op("BatchNormalization", x, *statistics, epsilon=0.0))
    assert kept(graph, {"input": 0.5, x: 1.0}) == {"BatchNormalization": "fp16-inner-range"}
    typed = to_fp16(graph, Plan("typed", keep_float32(graph, {"input": 0.5, x: 1.0})))
    image = draw(graph)
    np.testing.assert_allclose(emulate(typed, image), run(graph, image)[0], rtol=2e-3)
    assert from_proto(onnx.load_model_from_string(typed.to_bytes())).outputs == ("logits",)
    assert FLOAT16_MAX == 65504


def _normalize(net: SingleNet, z: str) -> str:
    """As torch.nn.functional.normalize; its exporters expand the divisor."""
    length = net.op("Clip", net.op("ReduceL2", z, axes=[1], keepdims=1), net.const(1e-12))
    return net.op("Div", z, net.op("Expand", length, net.const([1, 8, 4, 4], np.int64)))


def _rms(net: SingleNet, z: str) -> str:
    mean = net.op("ReduceMean", net.op("Mul", z, z), axes=[1], keepdims=1)
    return net.op("Mul", z, net.op("Reciprocal", net.op("Sqrt", net.op("Add", mean, net.const(1e-12)))))


def _power(net: SingleNet, z: str) -> str:
    squares = net.op("ReduceSumSquare", z, axes=[1], keepdims=1)
    return net.op("Mul", z, net.op("Pow", net.op("Max", squares, net.const(1e-10)), net.const(-0.5)))


def _mean(net: SingleNet, z: str) -> str:
    return net.op("Div", z, net.op("Add", net.op("ReduceMean", z, axes=[1], keepdims=1), net.const(1e-8)))


@pytest.mark.parametrize("normalized", [_normalize, _rms, _power, _mean])
def test_what_is_divided_by_little_more_than_nothing_is_divided_in_float32(
    normalized: Callable[[SingleNet, str], str],
) -> None:
    """The images that were looked at have no pixel that is zero in all channels, the one that comes has."""
    net = SingleNet(1, 8, 4, 4)
    graph = net.graph(net.op("Relu", normalized(net, net.op("Abs", "input"))))
    x = draw(graph)
    made = guard(graph, x)
    x[..., :2] = 0
    wanted = run(graph, x)[0]
    assert np.isfinite(wanted).all()
    assert distance(emulate(to_fp16(graph, made), x), wanted) < 0.01


@pytest.mark.parametrize("epsilon", [1e-5, 1e-3])
def test_an_epsilon_whose_root_float16_holds_keeps_no_division(epsilon: float) -> None:
    net = SingleNet(1, 8)
    root = net.op("Sqrt", net.op("Add", net.op("Abs", "input"), net.const(epsilon)))
    assert "Div" not in kept(net.graph(net.op("Div", "input", root)), {})


def test_an_operator_that_onnx_has_for_float32_alone_stays_float32() -> None:
    net = SingleNet(1, 8)
    graph = net.graph(net.op("Tanh", net.op("Celu", "input", alpha=0.5)))
    assert kept(graph, {}) == {"Celu": "fp16-undefined"}
    x = draw(graph)
    assert distance(run(to_fp16(graph), x)[0], run(graph, x)[0]) < 0.01  # runs ONNX's full check as well
