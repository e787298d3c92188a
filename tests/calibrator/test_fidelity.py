"""Layer noise: the formula, its limits, and what it refuses."""

import json
import math
from dataclasses import asdict

import numpy as np
import onnxruntime
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from onnx import helper

from edgehybrid.calibrator import compare
from edgehybrid.decibels import SQNR_LIMIT
from edgehybrid.errors import ImagesError, StageError
from edgehybrid.graph import Graph
from tests.calibrator.graphs import make_graph, make_images, make_net


def make_gain(gain: float, batch: int = 1) -> Graph:
    nodes = [
        helper.make_node("Mul", ["input", "gain"], ["y"], "scale"),
        helper.make_node("Relu", ["y"], ["z"], "relu"),
    ]
    return make_graph(nodes, {"gain": np.array(gain, np.float32)}, (batch, 3, 8, 8), "z")


def make_quantized(scale: float) -> Graph:
    nodes = [
        helper.make_node("QuantizeLinear", ["input", "scale", "zero"], ["q"], "q"),
        helper.make_node("DequantizeLinear", ["q", "scale", "zero"], ["dq"], "dq"),
        helper.make_node("Mul", ["dq", "gain"], ["y"], "scale"),
        helper.make_node("Relu", ["y"], ["z"], "relu"),
    ]
    weights = {
        "gain": np.array(3, np.float32),
        "scale": np.array(scale, np.float32),
        "zero": np.array(0, np.int8),
    }
    return make_graph(nodes, weights, (1, 3, 8, 8), "z")


def share_that_varies(images: NDArray[np.float32]) -> float:
    """Of all power, in dB."""
    exact = images.astype(np.float64)
    varying = np.square(exact - exact.mean(axis=(0, 2, 3), keepdims=True)).sum()
    return 10 * math.log10(varying / np.square(exact).sum())


@settings(deadline=None, max_examples=20)
@given(st.floats(1e-3, 1e3), st.floats(0.25, 4))
def test_a_gain_off_by_a_fraction_gives_that_fraction_in_decibels(gain: float, factor: float) -> None:
    reference, other = np.float32(gain), np.float32(gain * factor)
    found = compare(make_gain(gain), make_gain(float(other)), [make_images(2)], ["y"])
    if reference != other:
        exact = -20 * math.log10(abs(float(other) / float(reference) - 1)) + share_that_varies(make_images(2))
        assert found[0].sqnr_db == pytest.approx(exact, abs=0.1 if exact > 100 else 0.01)


def test_noise_of_q_dq_is_that_of_the_formula_and_the_layer_is_named() -> None:
    images = make_images(7)
    found = compare(make_gain(3), make_quantized(0.05), [images[:3], images[3:]], ["y", "z"])
    assert [(x.node, x.op, x.tensor) for x in found] == [("scale", "Mul", "y"), ("relu", "Relu", "z")]
    exact = images.astype(np.float64)
    noisy = np.clip(np.rint(images / np.float32(0.05)), -128, 127) * 0.05
    for layer, activation in zip(found, (lambda x: x, lambda x: np.maximum(x, 0)), strict=True):
        signal = np.sum((activation(exact) - activation(exact).mean(axis=(0, 2, 3), keepdims=True)) ** 2)
        noise = np.sum((activation(noisy) - activation(exact)) ** 2)
        assert layer.sqnr_db == pytest.approx(10 * math.log10(signal / noise), abs=1e-3)


def test_what_a_bias_adds_is_no_signal() -> None:
    """Noise stays the same however far channels stand from zero, and so does what is said of it."""
    nodes = [
        helper.make_node("Mul", ["input", "gain"], ["scaled"], "scale"),
        helper.make_node("Add", ["scaled", "bias"], ["y"], "shift"),
    ]
    found = []
    for bias in (0, 100):
        graphs = [
            make_graph(
                nodes, {"gain": np.array(gain, np.float32), "bias": np.array(bias, np.float32)}, (1, 3, 8, 8), "y"
            )
            for gain in (1, 1.25)
        ]
        found.append(compare(*graphs, [make_images(3)], ["y"])[0].sqnr_db)
    assert found[0] == pytest.approx(found[1], abs=0.01)
    (alone,) = compare(make_gain(1), make_gain(1.25), [make_images(1)[:, :, :1, :1].repeat(8, 2).repeat(8, 3)], ["y"])
    assert alone.sqnr_db < 0  # nothing varies


def test_batches_and_leftovers_do_not_matter() -> None:
    images = make_images(5)
    one = compare(make_gain(1), make_gain(1.25), [images], ["z"])
    two = compare(make_gain(1, batch=2), make_gain(1.25, batch=2), [images[:1], images[1:]], ["z"])
    assert one[0].sqnr_db == pytest.approx(two[0].sqnr_db, abs=1e-9)


def test_equal_networks_and_silent_layers_get_finite_decibels() -> None:
    net, images = make_net(1), make_images(2)
    layers = compare(net, net, [images], ["conv", "tokens", "logits"])
    assert [layer.sqnr_db for layer in layers] == [SQNR_LIMIT] * 3
    assert compare(make_gain(0), make_gain(1), [images], ["y"])[0].sqnr_db == -SQNR_LIMIT
    assert compare(make_gain(1e-30), make_gain(1e30), [images], ["y"])[0].sqnr_db == -SQNR_LIMIT
    json.dumps([asdict(layer) for layer in layers], allow_nan=False)


def test_layers_may_be_a_mapping_repeat_or_be_none() -> None:
    net, images = make_net(1), make_images(1)
    assert [x.tensor for x in compare(net, net, [images], {"sum": 1, "conv": 2})] == ["sum", "conv"]
    assert len(compare(net, net, [images], ["conv", "conv"])) == 1
    assert compare(net, net, [images], []) == ()


def test_both_graphs_run_as_written(monkeypatch: pytest.MonkeyPatch) -> None:
    levels = []
    session = onnxruntime.InferenceSession

    def watch(model: bytes, options: onnxruntime.SessionOptions, **rest: object) -> object:
        levels.append(options.graph_optimization_level)
        return session(model, options, **rest)

    monkeypatch.setattr(onnxruntime, "InferenceSession", watch)
    compare(make_gain(1), make_quantized(0.1), [make_images(1)], ["y"])
    assert levels == [onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL] * 2


@pytest.mark.parametrize("tensor", ["q", "input", "nothing"])
def test_a_tensor_that_is_not_computed_in_both_graphs_is_refused(tensor: str) -> None:
    with pytest.raises(ValueError, match=tensor):
        compare(make_gain(1), make_quantized(0.1), [make_images(1)], [tensor])


def test_graphs_of_different_input_are_refused() -> None:
    with pytest.raises(ValueError, match="inputs differ"):
        compare(make_gain(1), make_gain(1, batch=2), [make_images(1)], ["y"])


def test_no_images_are_refused() -> None:
    with pytest.raises(ImagesError):
        compare(make_gain(1), make_gain(1), [], ["y"])


def test_an_output_that_is_not_finite_names_tensor_and_network() -> None:
    with pytest.raises(StageError, match="'y' is not finite in the quantized network"):
        compare(make_gain(1), make_gain(float("nan")), [make_images(1)], ["y"])
