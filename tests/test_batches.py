"""A network built for several images at a time is quantized as it is for one."""

import json
from pathlib import Path

import numpy as np
import onnx
import pytest
from onnx import numpy_helper

import edgehybrid
from edgehybrid import placement, progress, stages
from edgehybrid.dataset import load, read_stated
from edgehybrid.graph import Graph
from tests.single import SingleNet


@pytest.fixture(autouse=True)
def _home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEHYBRID_CACHE_DIR", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    np.savez("images.npz", x=np.random.default_rng(0).integers(0, 256, (7, 64, 64, 3), dtype=np.uint8))


def squeezing(batch: int) -> SingleNet:
    """A convolution whose channels are weighed by two on vectors, and a classifier."""
    net = SingleNet(batch, 3, 64, 64)
    x = net.op("Relu", net.conv(net.op("Relu", net.conv("input", 3, 24, 3)), 24, 32, 3))
    weights = net.conv(net.op("Relu", net.conv(net.op("GlobalAveragePool", x), 32, 32)), 32, 32)
    x = net.op("Mul", x, net.op("Sigmoid", weights))
    net.op("Gemm", net.op("Flatten", net.op("GlobalAveragePool", x)), net.weight(32, 100))
    return net


def graph_of(net: SingleNet) -> Graph:
    return net.graph(net.last_outputs()[0])


def open_batch(path: Path) -> str:
    """A file that leaves the number of images open."""
    proto = onnx.load_from_string(graph_of(squeezing(1)).to_bytes())
    for port in (*proto.graph.input, *proto.graph.output):
        port.type.tensor_type.shape.dim[0].dim_param = "n"
    del proto.graph.value_info[:]
    onnx.save(proto, path)
    return str(path)


def constants(path: str) -> dict[str, bytes]:
    """Every float or int8 constant: scales, weights and biases."""
    arrays = {each.name: numpy_helper.to_array(each) for each in onnx.load(path).graph.initializer}
    return {name: array.tobytes() for name, array in arrays.items() if array.dtype in (np.float32, np.float16, np.int8)}


def quantize(model: str, batch: int, target: str) -> str:
    return edgehybrid.quantize(
        model=model,
        weights="auto" if model.endswith(".onnx") else "random",
        input_size=64,
        batch=batch,
        calib="images.npz",
        crop_pct=1.0,
        target=target,
        output=Path(f"b{batch}.onnx"),
    ).path


@pytest.mark.parametrize(("model", "target"), [("cmt_ti", "orin-nano-8gb"), ("botnet26t", "cpu"), ("open.onnx", "cpu")])
def test_scales_weights_and_biases_do_not_depend_on_the_batch(model: str, target: str) -> None:
    open_batch(Path("open.onnx"))
    one, three = (quantize(model, batch, target) for batch in (1, 3))
    assert onnx.load(three).graph.input[0].type.tensor_type.shape.dim[0].dim_value == 3
    assert constants(three) == constants(one)


def test_what_runs_in_int8_does_not_depend_on_the_batch() -> None:
    one, three = (
        [(d.node, d.input, d.kind, d.rule, d.reason) for d in placement.plan(graph_of(squeezing(n)), "fp32").decisions]
        for n in (1, 3)
    )
    assert three == one
    assert {"conv-on-vector", "gemv", "conv-int8"} <= {rule for _, _, _, rule, _ in one}


def test_files_of_other_batches_get_the_same_ranges() -> None:
    tensors = []
    for batch in (1, 4):
        model = Path(f"fixed{batch}.onnx")
        model.write_bytes(graph_of(squeezing(batch)).to_bytes())
        made = edgehybrid.calibrate(model=str(model), calib="images.npz", crop_pct=1.0, output=Path(f"r{batch}.json"))
        tensors.append(json.loads(Path(made.path).read_bytes())["tensors"])
    assert tensors[1] == tensors[0]


def test_a_file_of_a_fixed_batch_is_calibrated_as_it_is() -> None:
    Path("fixed.onnx").write_bytes(graph_of(squeezing(2)).to_bytes())
    run, stated, images = stages.Run(), read_stated(None, None, None, 1.0, None, None, None), load("images.npz")
    source = stages.Source("fixed.onnx", "auto", None, stated, 1, 0)
    made = stages.export(run, source, images)
    baseline = stages.rewrite(run, made.path)
    assert stages.of_one_image(run, source, made, images, baseline) == baseline


def test_a_network_with_other_layers_for_one_image_says_so() -> None:
    said: list[str] = []

    class Heard(progress.Silence):
        def note(self, text: str) -> None:
            said.append(text)

    open_batch(Path("open.onnx"))
    run, stated, images = stages.Run(), read_stated(None, None, None, 1.0, None, None, None), load("images.npz")
    source = stages.Source("open.onnx", "auto", None, stated, 2, 0)
    baseline, other = Path("other.onnx"), SingleNet(2, 3, 64, 64)
    other.op("Relu", "input")
    baseline.write_bytes(graph_of(other).to_bytes())
    made = stages.export(run, source, images)
    with progress.listening(Heard()):
        assert stages.of_one_image(run, source, made, images, baseline) == baseline
    assert any("calibrated 2 images at a time" in text for text in said)
