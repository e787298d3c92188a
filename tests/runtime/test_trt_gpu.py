"""Engines on a real GPU: the contract, graphs against plain calls, and a flat memory."""

import importlib.util
from collections.abc import Callable
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import helper

from edgehybrid import device
from edgehybrid import engine as engines
from edgehybrid.records import Figure, Target
from edgehybrid.runtime import Runner, Splitting, open_runner
from tests.runtime.contract import RunnerContract, feed
from tests.runtime.test_ort import WEIGHT, save

pytestmark = pytest.mark.gpu


@pytest.fixture(scope="module")
def plan(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The network of the contract as an engine of this machine's TensorRT."""
    if device.capability() is None:
        pytest.skip("needs a CUDA device")
    found = engines.find_builders()
    if found.tensorrt is None or importlib.util.find_spec("pycuda") is None:
        pytest.skip("needs TensorRT and pycuda (extra 'jetson')")
    folder = tmp_path_factory.mktemp("gpu")
    nodes = [helper.make_node("Flatten", ["input"], ["flat"]), helper.make_node("MatMul", ["flat", "w"], ["logits"])]
    onnx_path = save(folder / "net.onnx", nodes, constants={"w": WEIGHT})
    figures = {"compute_capability": Figure(found.capability, "this device")}
    target = Target("here", "this GPU", "tensorrt", "typed", ("fp32",), figures)
    made, _ = engines.build(onnx_path, target, folder / "engine.plan", precision="fp32", builders=found)
    assert made.status == "built"
    return folder / "engine.plan"


class TestOnTheGpu(RunnerContract):
    @pytest.fixture(params=["plain", "graph", "mapped"])
    def opened(self, request: pytest.FixtureRequest, plan: Path) -> Callable[[], Runner]:
        from edgehybrid.runtime.trt import TrtRunner

        ways: dict[str, Callable[[], Runner]] = {
            "plain": lambda: open_runner(plan),
            "graph": lambda: open_runner(plan, cuda_graph=True),
            "mapped": lambda: TrtRunner(plan, mapped=True),
        }
        return ways[request.param]

    @pytest.fixture
    def expected(self, plan: Path) -> Callable[[NDArray[np.float32]], NDArray[np.float32]]:
        session = onnxruntime.InferenceSession(plan.with_name("net.onnx"), providers=["CPUExecutionProvider"])
        return lambda images: session.run(None, {"input": images})[0]


def test_a_graph_and_plain_calls_agree_to_the_bit(plan: Path) -> None:
    with open_runner(plan) as plain, open_runner(plan, cuda_graph=True) as graph:
        assert isinstance(graph, Splitting)
        assert graph.graph_reason == ""
        assert plain.run({"input": feed()})["logits"].tobytes() == graph.run({"input": feed()})["logits"].tobytes()


def test_a_hundred_times_open_and_closed_memory_stays(plan: Path) -> None:
    import pycuda.driver as cuda

    def free() -> int:
        cuda.init()
        context = cuda.Device(0).retain_primary_context()
        context.push()
        left, _ = cuda.mem_get_info()
        cuda.Context.pop()
        context.detach()
        return int(left)

    for _ in range(5):
        with open_runner(plan) as runner:
            runner.run({"input": feed()})
    before = free()
    for _ in range(100):
        with open_runner(plan) as runner:
            runner.run({"input": feed()})
    assert free() >= before - (1 << 20)
