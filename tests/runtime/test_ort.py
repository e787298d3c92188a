"""ONNX Runtime's runner: the contract, bad files, failures while running."""

import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnx
import pytest
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from edgehybrid.cores import available_cores
from edgehybrid.errors import GraphError, NotFoundError, ResourceError, StageError
from edgehybrid.runtime import Runner, open_runner
from edgehybrid.runtime.ort import OrtRunner
from tests.runtime.contract import CLASSES, SHAPE, RunnerContract, feed

WEIGHT = np.random.default_rng(7).standard_normal((48, CLASSES)).astype(np.float32)


def save(
    path: Path,
    nodes: list[onnx.NodeProto],
    *,
    constants: dict[str, NDArray[np.generic]] | None = None,
    shape: tuple[int | str, ...] = SHAPE,
    output: tuple[int | str, ...] = (2, CLASSES),
    element: int = TensorProto.FLOAT,
) -> Path:
    """A one-input, one-output network of the nodes given."""
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("input", element, shape)],
        [helper.make_tensor_value_info("logits", element, output)],
        [numpy_helper.from_array(array, name) for name, array in (constants or {}).items()],
    )
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8), path)
    return path


@pytest.fixture
def network(tmp_path: Path) -> Path:
    nodes = [helper.make_node("Flatten", ["input"], ["flat"]), helper.make_node("MatMul", ["flat", "w"], ["logits"])]
    return save(tmp_path / "net.onnx", nodes, constants={"w": WEIGHT})


class TestOrtRunner(RunnerContract):
    @pytest.fixture(params=["optimised", "canonical", "spinning", "one thread"])
    def opened(self, request: pytest.FixtureRequest, network: Path) -> Callable[[], Runner]:
        options = {
            "optimised": lambda: open_runner(network),
            "canonical": lambda: open_runner(network, canonical=True),
            "spinning": lambda: open_runner(network, spin=True),
            "one thread": lambda: open_runner(network, threads=1),
        }
        return options[request.param]

    @pytest.fixture
    def expected(self) -> Callable[[NDArray[np.float32]], NDArray[np.float32]]:
        return lambda images: images.reshape(2, -1).astype(np.float64) @ WEIGHT


def test_threads_default_to_the_physical_cores_and_are_otherwise_as_asked(network: Path) -> None:
    assert OrtRunner(network).threads == available_cores()
    assert OrtRunner(network, threads=1).threads == 1
    with pytest.raises(ValueError, match="threads"):
        OrtRunner(network, threads=-1)


def test_canonical_runs_the_graph_as_written_and_otherwise_it_is_optimised(tmp_path: Path) -> None:
    """Optimised, the batch normalisation is folded into the convolution's weights, which rounds differently."""
    rng = np.random.default_rng(4)
    constants = {name: rng.uniform(0.5, 2, 16).astype(np.float32) for name in ("scale", "bias", "mean", "var")}
    constants["w"] = rng.standard_normal((16, 3, 3, 3)).astype(np.float32)
    nodes = [
        helper.make_node("Conv", ["input", "w"], ["y"]),
        helper.make_node("BatchNormalization", ["y", "scale", "bias", "mean", "var"], ["logits"]),
    ]
    path = save(tmp_path / "bn.onnx", nodes, constants=constants, shape=(1, 3, 16, 16), output=(1, 16, 14, 14))
    images = rng.standard_normal((1, 3, 16, 16)).astype(np.float32)
    with open_runner(path, canonical=True) as written, open_runner(path) as optimised:
        a, b = (runner.run({"input": images})["logits"] for runner in (written, optimised))
    np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)
    assert (a != b).any()


def test_canonical_numerics_of_quantized_graphs_are_those_of_rounding_and_float_products(tmp_path: Path) -> None:
    """What accuracy is judged in: Q/DQ pairs round, everything else is float32."""
    rng = np.random.default_rng(3)
    weight = rng.integers(-127, 128, (48, CLASSES)).astype(np.int8)
    scales = {"xs": np.float32(0.031), "ws": np.float32(0.017), "os": np.float32(0.41), "z": np.int8(0)}
    nodes = [
        helper.make_node("Flatten", ["input"], ["flat"]),
        helper.make_node("QuantizeLinear", ["flat", "xs", "z"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "xs", "z"], ["x"]),
        helper.make_node("DequantizeLinear", ["w8", "ws", "z"], ["w"]),
        helper.make_node("MatMul", ["x", "w"], ["y"]),
        helper.make_node("QuantizeLinear", ["y", "os", "z"], ["yq"]),
        helper.make_node("DequantizeLinear", ["yq", "os", "z"], ["logits"]),
    ]
    constants = {"w8": weight, **{name: np.asarray(value) for name, value in scales.items()}}
    path = save(tmp_path / "qdq.onnx", nodes, constants=constants)
    x = np.clip(np.rint(feed().reshape(2, -1) / scales["xs"]), -128, 127) * scales["xs"]
    y = x.astype(np.float64) @ (weight * scales["ws"].astype(np.float64))
    expected = np.clip(np.rint(y / scales["os"]), -128, 127) * scales["os"]
    with open_runner(path, canonical=True) as runner:
        np.testing.assert_allclose(runner.run({"input": feed()})["logits"], expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("content", [b"", b"not an onnx file at all", None], ids=["empty", "text", "truncated"])
def test_a_damaged_file_is_a_graph_error(network: Path, content: bytes | None) -> None:
    network.write_bytes(network.read_bytes()[:300] if content is None else content)
    with pytest.raises(GraphError, match="not a usable ONNX file") as caught:
        open_runner(network)
    assert "ONNXRuntimeError" not in caught.value.why
    assert "\n" not in caught.value.why


def test_an_unknown_operator_is_named(tmp_path: Path) -> None:
    path = save(tmp_path / "odd.onnx", [helper.make_node("Frobnicate", ["input"], ["logits"])])
    with pytest.raises(GraphError) as caught:
        open_runner(path)
    assert "Frobnicate" in caught.value.why


def test_a_missing_file_and_a_folder_are_not_found(tmp_path: Path) -> None:
    for path in (tmp_path / "none.onnx", tmp_path):
        with pytest.raises(NotFoundError, match=path.name):
            open_runner(path)


def test_a_dynamic_shape_is_refused(tmp_path: Path) -> None:
    path = save(tmp_path / "dynamic.onnx", [helper.make_node("Relu", ["input"], ["logits"])], shape=("batch", 5))
    with pytest.raises(GraphError, match="not static") as caught:
        open_runner(path)
    assert "batch" in caught.value.why


def test_an_input_that_is_no_number_is_refused(tmp_path: Path) -> None:
    nodes = [helper.make_node("Identity", ["input"], ["logits"])]
    path = save(tmp_path / "text.onnx", nodes, element=TensorProto.STRING, output=SHAPE)
    with pytest.raises(GraphError, match="string"):
        open_runner(path)


def test_a_failure_while_running_is_a_stage_error(tmp_path: Path) -> None:
    """Indices are only checked when the network runs."""
    nodes = [
        helper.make_node("Cast", ["input"], ["index"], to=TensorProto.INT64),
        helper.make_node("Gather", ["table", "index"], ["logits"]),
    ]
    path = save(tmp_path / "gather.onnx", nodes, constants={"table": WEIGHT[:3, 0]}, shape=(4,), output=(4,))
    with open_runner(path) as runner:
        with pytest.raises(StageError, match="failed while running") as caught:
            runner.run({"input": np.full(4, 99, np.float32)})
        assert "out of data bounds" in caught.value.why
        assert runner.run({"input": np.zeros(4, np.float32)})["logits"][0] == WEIGHT[0, 0]


def test_running_out_of_memory_is_a_resource_error(tmp_path: Path) -> None:
    """The network needs 2^60 bytes, which no address space holds, so nothing is ever allocated."""
    nodes = [
        helper.make_node("Expand", ["input", "shape"], ["huge"]),
        helper.make_node("ReduceMax", ["huge"], ["logits"], keepdims=0),
    ]
    constants = {"shape": np.array([2**29, 2**29])}
    path = save(tmp_path / "huge.onnx", nodes, constants=constants, shape=(1,), output=())
    with open_runner(path, canonical=True) as runner, pytest.raises(ResourceError, match="not enough memory"):
        runner.run({"input": np.zeros(1, np.float32)})


def test_external_data_beside_the_file_is_found(network: Path) -> None:
    proto = onnx.load(network)
    onnx.save_model(proto, network, save_as_external_data=True, location="weights.bin", size_threshold=0)
    assert (network.parent / "weights.bin").stat().st_size >= WEIGHT.nbytes
    with open_runner(network) as runner:
        expected = feed().reshape(2, -1) @ WEIGHT
        np.testing.assert_allclose(runner.run({"input": feed()})["logits"], expected, rtol=1e-4)


def test_external_data_that_is_gone_is_a_graph_error(network: Path) -> None:
    proto = onnx.load(network)
    onnx.save_model(proto, network, save_as_external_data=True, location="weights.bin", size_threshold=0)
    (network.parent / "weights.bin").unlink()
    with pytest.raises(GraphError, match="not a usable ONNX file"):
        open_runner(network)


def test_nothing_is_printed_even_where_onnx_runtime_would_log(tmp_path: Path) -> None:
    """In a child process: the log is written below Python, where no capture in this process would see it."""
    nodes = [
        helper.make_node("Cast", ["input"], ["index"], to=TensorProto.INT64),
        helper.make_node("Gather", ["table", "index"], ["logits"]),
    ]
    constants = {"table": WEIGHT[:3, 0], "unused": WEIGHT}
    path = save(tmp_path / "gather.onnx", nodes, constants=constants, shape=(4,), output=(4,))
    code = f"""
from pathlib import Path
import numpy as np
from edgehybrid.errors import StageError
from edgehybrid.runtime import open_runner
with open_runner(Path({str(path)!r})) as runner:
    try:
        runner.run({{"input": np.full(4, 99, np.float32)}})
    except StageError:
        pass
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


def test_the_profiler_names_every_operator_and_leaves_no_file(
    network: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    before = set(tmp_path.iterdir())
    with OrtRunner(network, canonical=True, threads=1) as runner:
        layers = runner.profile({"input": feed()}, 3)
    assert [layer.kind for layer in layers] == ["Flatten", "MatMul"]
    assert sum(layer.percent for layer in layers) == pytest.approx(100)
    assert all(layer.ms >= 0 for layer in layers)
    assert set(tmp_path.iterdir()) == before
