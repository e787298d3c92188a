"""Engines on a real GPU: the contract, every family against ONNX Runtime, graphs against plain calls, flat memory.

`python benchmarks/gpu.py` runs these with everything else that needs a GPU. Where TensorRT is missing and pycuda is
there, the buffers, streams, events and graphs of the runner are still run, around a copy in place of an engine.
"""

import importlib.util
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
import pytest
from numpy.typing import NDArray
from onnx import helper

from edgehybrid import calibrator, device, placement, quantizer, rewrites
from edgehybrid import engine as engines
from edgehybrid.engine.build import RTX_CAPABILITIES, capability_of, installed_version
from edgehybrid.graph import Graph
from edgehybrid.records import Figure, Plan, Precision, Target
from edgehybrid.runtime import Runner, Splitting, TensorInfo, open_runner
from edgehybrid.stages import Run, suit_parser
from tests.runtime.contract import RunnerContract, feed
from tests.runtime.test_ort import WEIGHT, save
from tests.single import draw, observe
from tests.single import run as run_plainly
from tests.test_families import SIDES, trace

pytestmark = [pytest.mark.gpu, pytest.mark.filterwarnings("default")]  # NVIDIA's libraries may warn of what they like

PRECISIONS: tuple[Precision, ...] = ("fp32", "fp16", "int8")
LARGEST_ERROR = {"fp32": 0.03, "fp16": 0.05, "int8": 0.25}
"""Of a logit, relative to the largest: fp32 may be TF32; int8 may round a tie the other way. A wrong scale gives 1."""


@pytest.fixture(scope="module")
def here() -> tuple[Target, engines.Builders]:
    """This machine as a target, with full TensorRT or with TensorRT-RTX."""
    need_cuda()
    found = engines.find_builders()
    figures = {"compute_capability": Figure(found.capability, "this device")}
    if found.tensorrt is not None:
        figures["tensorrt"] = Figure(installed_version(found.tensorrt), "this machine")
        full = Target("here", "this GPU", "tensorrt", "typed", PRECISIONS, figures)
        return engines.dialect_for(full, found), found
    if found.rtx is None or found.capability not in map(capability_of, RTX_CAPABILITIES):
        pytest.skip(f"no TensorRT for compute capability {found.capability} is installed")
    return Target("here", "this GPU", "tensorrt-rtx", "typed", PRECISIONS, figures), found


def need_cuda() -> None:
    if device.capability() is None:
        pytest.skip("needs a CUDA device")
    if importlib.util.find_spec("pycuda") is None:
        pytest.skip("needs pycuda (extra 'jetson')")


def build(onnx_path: Path, here: tuple[Target, engines.Builders], precision: Precision) -> Path:
    target, builders = here
    path = suit_parser(Run(), onnx_path, target)
    made, _ = engines.build(path, target, onnx_path.with_suffix(".plan"), precision=precision, builders=builders)
    assert made.status == "built"
    return onnx_path.with_suffix(".plan")


@pytest.fixture(scope="module")
def plan(here: tuple[Target, engines.Builders], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The network of the contract as an engine of this machine."""
    nodes = [helper.make_node("Flatten", ["input"], ["flat"]), helper.make_node("MatMul", ["flat", "w"], ["logits"])]
    return build(save(tmp_path_factory.mktemp("gpu") / "net.onnx", nodes, constants={"w": WEIGHT}), here, "fp32")


class TestOnTheGpu(RunnerContract):
    @pytest.fixture(params=["plain", "graph", "lanes", "mapped"])
    def opened(
        self, request: pytest.FixtureRequest, plan: Path, here: tuple[Target, engines.Builders]
    ) -> Callable[[], Runner]:
        from edgehybrid.runtime.trt import TrtRunner

        backend = here[0].backend
        module = "tensorrt" if backend == "tensorrt" else "tensorrt_rtx"
        ways: dict[str, Callable[[], Runner]] = {
            "plain": lambda: open_runner(plan, backend),
            "graph": lambda: open_runner(plan, backend, cuda_graph=True),
            "lanes": lambda: open_runner(plan, backend, cuda_graph=True, streams=3),
            "mapped": lambda: TrtRunner(plan, module=module, mapped=True),
        }
        return ways[request.param]

    @pytest.fixture
    def expected(self, plan: Path) -> Callable[[NDArray[np.float32]], NDArray[np.float32]]:
        session = onnxruntime.InferenceSession(plan.with_suffix(".onnx"), providers=["CPUExecutionProvider"])
        return lambda images: session.run(None, {"input": images})[0]


@pytest.mark.parametrize("precision", PRECISIONS)
@pytest.mark.parametrize("family", SIDES)
def test_every_family_computes_what_onnx_runtime_computes(
    family: str, precision: Precision, here: tuple[Target, engines.Builders], tmp_path: Path
) -> None:
    baseline = rewrites.apply(trace(family)[0])[0]
    image = draw(baseline, seed=3)
    deployed, canonical = graphs_of(baseline, image, precision, here[0])
    (tmp_path / "net.onnx").write_bytes(deployed.to_bytes())
    path = build(tmp_path / "net.onnx", here, precision)
    with open_runner(path, here[0].backend) as plain, open_runner(path, here[0].backend, cuda_graph=True) as graph:
        assert isinstance(graph, Splitting)
        assert graph.graph_reason == ""
        found, launched = (runner.run({"input": image})["logits"] for runner in (plain, graph))
    assert found.tobytes() == launched.tobytes()
    wanted = np.asarray(run_plainly(canonical, image)[0], np.float64)
    error = float(np.abs(found.astype(np.float64) - wanted).max() / np.abs(wanted).max())
    assert error < LARGEST_ERROR[precision]


def graphs_of(baseline: Graph, image: NDArray[np.float32], precision: Precision, target: Target) -> tuple[Graph, Graph]:
    """What is built for this machine, and what ONNX Runtime is to say about it."""
    if precision == "fp32":
        return baseline, baseline
    kept = placement.keep_float32(baseline, calibrator.find_peaks(baseline, [image]))
    if precision == "fp16":
        half = quantizer.to_fp16(baseline, Plan("typed", kept))
        return (half if target.dialect == "typed" else baseline), baseline
    ranges, twin = observe(baseline, image), placement.plan(baseline, "fp32")
    typed = Plan("typed", (*placement.plan(baseline, "typed").decisions, *kept))
    canonical = quantizer.quantize(baseline, ranges, twin)
    return (quantizer.quantize(baseline, ranges, typed) if target.dialect == "typed" else canonical), canonical


def free_memory() -> int:
    """Bytes that the device has left."""
    import pycuda.driver as cuda

    cuda.init()
    context = cuda.Device(0).retain_primary_context()
    context.push()
    left, _ = cuda.mem_get_info()
    cuda.Context.pop()
    context.detach()
    return int(left)


@pytest.mark.parametrize("options", [{}, {"cuda_graph": True, "streams": 2}], ids=["plain", "graph"])
def test_a_hundred_times_open_and_closed_memory_stays(
    plan: Path, options: Mapping[str, Any], here: tuple[Target, engines.Builders]
) -> None:
    def once() -> None:
        with open_runner(plan, here[0].backend, **options) as runner:
            runner.run({"input": feed()})

    for _ in range(5):
        once()
    before = free_memory()
    for _ in range(100):
        once()
    assert free_memory() >= before - (1 << 20)


class Copying:
    """An execution context that copies the beginning of its input to its output, as an engine would be enqueued."""

    def __init__(self) -> None:
        self.addresses: dict[str, int] = {}

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return True

    def execute_async_v3(self, handle: int) -> bool:
        from cuda.bindings import runtime

        kind = runtime.cudaMemcpyKind.cudaMemcpyDefault
        (code,) = runtime.cudaMemcpyAsync(self.addresses["logits"], self.addresses["input"], 16, kind, handle)
        return not int(code)


@pytest.mark.parametrize("mapped", [False, True], ids=["pinned", "mapped"])
@pytest.mark.parametrize("graph", [False, True], ids=["enqueued", "graph"])
def test_a_lane_copies_computes_and_times_on_a_real_stream(graph: bool, mapped: bool) -> None:
    """Needs no TensorRT: pycuda and cuda-bindings alone."""
    need_cuda()
    import pycuda.driver as cuda

    from edgehybrid.runtime.trt.current import Current
    from edgehybrid.runtime.trt.lane import Lane

    inputs = {"input": TensorInfo((1, 3, 8, 8), np.dtype("float32"))}
    outputs = {"logits": TensorInfo((1, 4), np.dtype("float32"))}
    cuda.init()
    primary = cuda.Device(0).retain_primary_context()
    with Current(primary, Path("no.plan")):
        lane = Lane(Copying(), inputs, outputs, mapped=mapped, complain=lambda: "nothing")
        try:
            if graph:
                lane.capture()
            for seed in range(3):
                images = np.random.default_rng(seed).standard_normal((1, 3, 8, 8)).astype(np.float32)
                np.testing.assert_array_equal(lane.run({"input": images})["logits"], images.reshape(1, -1)[:, :4])
                lane.load({"input": images + 1})
                lane.start(transfers=True)
                split = lane.finish()
                assert min(split.h2d, split.compute, split.d2h) >= 0
                assert 0 < split.latency < 1000
        finally:
            lane.close()
    primary.detach()
