"""Layer normalisation written out for TensorRT 8.5 computes what the operator computes."""

from pathlib import Path

import numpy as np
import onnx
import onnx.checker
import pytest
from onnx import TensorProto, helper, numpy_helper

import edgehybrid
from edgehybrid import graph as graphs
from edgehybrid import placement, stages
from edgehybrid.graph import Graph
from edgehybrid.quantizer import decompose_norms, quantize
from edgehybrid.runtime import open_runner
from tests.single import draw, observe


def answer(graph: Graph, folder: Path, images: np.ndarray) -> np.ndarray:  # type: ignore[type-arg]
    path = folder / "model.onnx"
    path.write_bytes(graph.to_bytes())
    with open_runner(path, canonical=True) as runner:
        (name,) = runner.inputs
        (found,) = runner.run({name: images}).values()
    return np.asarray(found)


def network(axis: int, bias: bool, opset: int, last: bool) -> Graph:
    """One normalisation of an image, over its last axes, perhaps as the output itself."""
    shape = {-1: (7,), -2: (5, 7), 1: (4, 5, 7)}[axis]
    noise = np.random.default_rng(0)
    inputs = ["input", "gain", *(["bias"] if bias else [])]
    nodes = [
        helper.make_node("LayerNormalization", inputs, ["out" if last else "n"], axis=axis, epsilon=1e-3, name="ln")
    ]
    nodes += [] if last else [helper.make_node("Relu", ["n"], ["out"])]
    parameters = [numpy_helper.from_array(noise.normal(size=shape).astype(np.float32), name) for name in inputs[1:]]
    ports = [helper.make_tensor_value_info(name, TensorProto.FLOAT, (2, 4, 5, 7)) for name in ("input", "out")]
    body = helper.make_graph(nodes, "net", ports[:1], ports[1:], parameters)
    proto = helper.make_model(body, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    return graphs.from_proto(proto)


@pytest.mark.parametrize("last", [True, False])
@pytest.mark.parametrize("opset", [17, 18])
@pytest.mark.parametrize(("axis", "bias"), [(-1, True), (-1, False), (-2, True), (1, True)])
def test_it_is_the_same_function(axis: int, bias: bool, opset: int, last: bool, tmp_path: Path) -> None:
    plain = network(axis, bias, opset, last)
    decomposed = decompose_norms(plain)
    assert any(plain.nodes("LayerNormalization"))
    assert not any(decomposed.nodes("LayerNormalization"))
    onnx.checker.check_model(decomposed.to_bytes(), full_check=True)
    images = np.random.default_rng(1).normal(3, 2, (2, 4, 5, 7)).astype(np.float32)
    np.testing.assert_allclose(answer(decomposed, tmp_path, images), answer(plain, tmp_path, images), atol=2e-5)
    assert decomposed.outputs == plain.outputs


def test_a_quantized_network_keeps_its_answers_and_its_pairs(cmt_ti_graph: Graph, tmp_path: Path) -> None:
    ranges = observe(cmt_ti_graph, draw(cmt_ti_graph))
    int8 = quantize(cmt_ti_graph, ranges, placement.plan(cmt_ti_graph, "fp32"))
    decomposed = decompose_norms(int8)
    assert any(int8.nodes("LayerNormalization"))
    assert not any(decomposed.nodes("LayerNormalization"))
    assert len(list(decomposed.nodes("QuantizeLinear"))) == len(list(int8.nodes("QuantizeLinear")))
    images = draw(cmt_ti_graph)[:1]
    before, after = (answer(graph, tmp_path, images) for graph in (int8, decomposed))
    assert np.abs(after - before).max() < 0.1 * np.abs(before - before.mean()).max()  # a rounding may tip in int8


def test_only_a_parser_without_the_operator_gets_it_written_out(
    cmt_ti_graph: Graph, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEHYBRID_CACHE_DIR", str(tmp_path / "cache"))
    path = tmp_path / "model.onnx"
    path.write_bytes(cmt_ti_graph.to_bytes())
    for name in ("cpu", "rtx", "cuda", "orin-nano-8gb", "orin-nano-8gb@jp6.0", "agx-thor-t5000"):
        assert stages.suit_parser(stages.Run(), path, edgehybrid.targets(name).targets[0]) == path
    for name in ("xavier-nx", "orin-nano-8gb@jp5.1"):
        suited = stages.suit_parser(stages.Run(), path, edgehybrid.targets(name).targets[0])
        assert not any(graphs.load(suited).nodes("LayerNormalization"))
