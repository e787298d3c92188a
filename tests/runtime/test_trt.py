"""The engine runner on a stand-in for CUDA and TensorRT: buffers, order, waiting, graphs, errors and cleaning up.

Nothing here says that a real GPU computes the same; `pytest -m gpu` does that where there is one.
"""

import importlib.util
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import ClassVar

import numpy as np
import pytest
from numpy.typing import NDArray

from edgehybrid.errors import ArtifactError, GraphError, NotReadyError, ResourceError, StageError, UsageError
from edgehybrid.runtime import Profiling, Runner, Splitting, open_runner
from tests.engine.fake_tensorrt import RELEASES
from tests.runtime import fake_cuda
from tests.runtime.contract import SHAPE, RunnerContract, feed
from tests.runtime.fake_cuda import COMPUTE_MS, D2H_MS, H2D_MS, FakeDevice

GRAPH_CALLS = ("cudaStreamBeginCapture", "cudaStreamEndCapture", "cudaGraphInstantiate", "cudaGraphLaunch")


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Iterator[FakeDevice]:
    device = FakeDevice()
    fake_cuda.install(monkeypatch, device)
    yield device
    for name in [name for name in sys.modules if name.startswith("edgehybrid.runtime.trt")]:
        del sys.modules[name]  # it holds the stand-in


@pytest.fixture
def plan(tmp_path: Path) -> Path:
    path = tmp_path / "engine.plan"
    path.write_text("{}")
    return path


def clean(device: FakeDevice) -> bool:
    """Nothing is left on the device."""
    return (device.live, device.primary, device.stacked, device.graphs) == (0, 0, 0, 0)


class TestTrtRunner(RunnerContract):
    """Enqueued call by call."""

    options: ClassVar[dict[str, object]] = {}

    @pytest.fixture
    def opened(self, device: FakeDevice, plan: Path) -> Callable[[], Runner]:
        return lambda: open_runner(plan, **self.options)  # type: ignore[arg-type]

    @pytest.fixture
    def expected(self) -> Callable[[NDArray[np.float32]], NDArray[np.float32]]:
        return fake_cuda.answer


class TestTrtRunnerWithGraph(TestTrtRunner):
    """Launched as a CUDA graph."""

    options: ClassVar[dict[str, object]] = {"cuda_graph": True, "streams": 2}


@pytest.mark.parametrize("release", RELEASES)
def test_every_release_has_the_names_that_running_needs(
    release: str, plan: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = FakeDevice()
    fake_cuda.install(monkeypatch, device, release)
    with open_runner(plan, cuda_graph=True) as runner:
        found = runner.run({"input": feed()})["logits"]
        assert isinstance(runner, Profiling)
        assert [layer.name for layer in runner.profile({"input": feed()}, 3)] == ["conv", "gemm"]
    np.testing.assert_allclose(found, fake_cuda.answer(feed()), rtol=1e-6)
    assert clean(device)


def test_separate_memory_is_copied_and_shared_memory_is_not(plan: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for integrated, kind, steps in (
        (False, "pinned", ["upload", "compute", "download"]),
        (True, "mapped", ["compute"]),
    ):
        device = FakeDevice(integrated=integrated)
        fake_cuda.install(monkeypatch, device)
        with open_runner(plan) as runner:
            assert set(device.diary) == {kind}
            device.diary.clear()
            found = runner.run({"input": feed()})["logits"]
            assert device.diary == steps
        np.testing.assert_allclose(found, fake_cuda.answer(feed()), rtol=1e-6)
        assert clean(device)


def test_what_lies_in_the_pinned_buffer_already_is_not_copied_again(device: FakeDevice, plan: Path) -> None:
    with open_runner(plan) as runner:
        staging = runner.staging  # type: ignore[attr-defined]
        for seed in range(3):
            staging["input"][...] = feed(seed)
            np.testing.assert_allclose(runner.run(staging)["logits"], fake_cuda.answer(feed(seed)), rtol=1e-6)
        np.testing.assert_allclose(runner.run({"input": feed(9)})["logits"], fake_cuda.answer(feed(9)), rtol=1e-6)
        np.testing.assert_array_equal(staging["input"], feed(9))
    with pytest.raises(ValueError, match="closed"):
        runner.staging  # type: ignore[attr-defined]  # noqa: B018


def test_a_plain_call_records_no_events(device: FakeDevice, plan: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with open_runner(plan) as runner:
        monkeypatch.setattr(fake_cuda.FakeEvent, "record", lambda *_: pytest.fail("an event was recorded"))
        runner.run({"input": feed()})


def test_a_profile_leaves_the_runner_as_fast_as_it_was(device: FakeDevice, plan: Path) -> None:
    with open_runner(plan, cuda_graph=True) as runner:
        before = runner.run({"input": feed()})["logits"]
        assert isinstance(runner, Profiling)
        runner.profile({"input": feed(1)}, 2)
        (lane,) = runner._lanes  # type: ignore[attr-defined]
        assert "profiler" not in vars(lane.context)
        assert runner.run({"input": feed()})["logits"].tobytes() == before.tobytes()
    assert clean(device)


def test_parts_of_a_call_are_timed_by_events(device: FakeDevice, plan: Path) -> None:
    with open_runner(plan) as runner:
        assert isinstance(runner, Splitting)
        runner.load({"input": feed()})
        runner.start(0)
        split = runner.finish(0)
        assert (split.h2d, split.compute, split.d2h) == (H2D_MS, COMPUTE_MS, D2H_MS)
        assert split.latency == H2D_MS + COMPUTE_MS + D2H_MS
        runner.start(0, transfers=False)
        split = runner.finish(0)
        assert (split.h2d, split.compute, split.d2h) == (0, COMPUTE_MS, 0)


def test_lanes_have_their_own_streams_and_buffers(device: FakeDevice, plan: Path) -> None:
    with open_runner(plan, streams=3) as runner:
        assert isinstance(runner, Splitting)
        assert runner.lanes == 3
        assert len(device.streams) == 3
        assert device.live == 3 * 4  # two tensors, two sides
        runner.load({"input": feed()})
        for lane in range(3):
            runner.start(lane)
        assert all(runner.finish(lane).compute == COMPUTE_MS for lane in range(3))
    assert clean(device)


def test_a_graph_is_captured_after_one_plain_call_and_then_launched(device: FakeDevice, plan: Path) -> None:
    with open_runner(plan, cuda_graph=True) as runner:
        steps = [step for step in device.diary if step != "pinned"]
        assert steps == ["compute", *GRAPH_CALLS[:3]]
        device.diary.clear()
        runner.run({"input": feed()})
        assert device.diary == ["cudaGraphLaunch", "upload", "compute", "download"]  # launched, then done in order
        assert runner.graph_reason == ""  # type: ignore[attr-defined]
    assert clean(device)


@pytest.mark.parametrize("call", GRAPH_CALLS[:3])
def test_a_graph_that_fails_is_told_and_calls_are_enqueued(device: FakeDevice, plan: Path, call: str) -> None:
    device.fail[call] = 900
    with open_runner(plan, cuda_graph=True, streams=2) as runner:
        assert "error 900" in runner.graph_reason  # type: ignore[attr-defined]
        np.testing.assert_allclose(runner.run({"input": feed()})["logits"], fake_cuda.answer(feed()), rtol=1e-6)
        assert "cudaGraphLaunch" not in device.diary
    assert clean(device)


def test_without_cuda_bindings_there_is_no_graph(plan: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    device = FakeDevice()
    fake_cuda.install(monkeypatch, device, graphs=False)
    with open_runner(plan, cuda_graph=True) as runner:
        assert "cuda-bindings is not installed" in runner.graph_reason  # type: ignore[attr-defined]
        runner.run({"input": feed()})


def test_graph_and_plain_calls_give_the_same_bits(device: FakeDevice, plan: Path) -> None:
    with open_runner(plan) as plain, open_runner(plan, cuda_graph=True) as graph:
        found = [runner.run({"input": feed()})["logits"].tobytes() for runner in (plain, graph, plain, graph)]
    assert len(set(found)) == 1


def test_it_runs_on_another_thread_than_it_was_opened_on(device: FakeDevice, plan: Path) -> None:
    found = []
    with open_runner(plan) as runner:
        thread = threading.Thread(target=lambda: found.append(runner.run({"input": feed()})["logits"]))
        thread.start()
        thread.join()
    np.testing.assert_allclose(found[0], fake_cuda.answer(feed()), rtol=1e-6)


def test_failures_are_told_in_words_and_leave_nothing_behind(
    plan: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "old.plan").write_bytes(b"ptrt")
    (tmp_path / "dynamic.plan").write_text('{"shape": [-1, 3, 4, 4]}')
    (tmp_path / "odd.plan").write_text('{"dtype": "BF16"}')
    for name, error, said in (
        ("old.plan", ArtifactError, "Version tag does not match"),
        ("dynamic.plan", GraphError, r"\(-1, 3, 4, 4\)"),
        ("odd.plan", GraphError, "FLOAT"),
    ):
        device = FakeDevice()
        fake_cuda.install(monkeypatch, device)
        with pytest.raises(error, match=r"\.plan") as caught:
            open_runner(tmp_path / name)
        assert __import__("re").search(said, caught.value.why)  # type: ignore[attr-defined]
        assert clean(device)


@pytest.mark.parametrize("allocations", [0, 1, 2, 3, 5])
def test_running_out_of_memory_anywhere_frees_what_there_was(
    allocations: int, plan: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    device = FakeDevice(memory_for=allocations)
    fake_cuda.install(monkeypatch, device)
    with pytest.raises(ResourceError, match="out of device memory"):
        open_runner(plan, streams=2)
    assert (device.primary, device.stacked) == (0, 0)
    assert device.live <= 1  # pycuda frees a half-made buffer with its object


def test_a_failing_call_says_what_tensorrt_logged(device: FakeDevice, plan: Path) -> None:
    with open_runner(plan) as runner:
        device.enqueue_fails = True
        with pytest.raises(StageError) as caught:
            runner.run({"input": feed()})
        assert caught.value.why == "Cuda Runtime (an illegal memory access)"
        device.enqueue_fails = False
        runner.run({"input": feed()})
    assert clean(device)


def test_no_device_and_no_tensorrt_are_environments_to_fix(plan: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fake_cuda.install(monkeypatch, FakeDevice(devices=0))
    with pytest.raises(NotReadyError, match="no CUDA device"):
        open_runner(plan)
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    with pytest.raises(NotReadyError, match="tensorrt does not load"):
        open_runner(plan)


def test_the_runtime_is_told_the_nvdla_core_before_it_loads_the_engine(device: FakeDevice, plan: Path) -> None:
    for core in (None, 1):
        with open_runner(plan, dla_core=core) as runner:
            assert vars(runner._runtime).get("DLA_core") == core  # type: ignore[attr-defined]
            assert vars(runner._runtime)["told"] == core  # type: ignore[attr-defined]
    with pytest.raises(UsageError, match="onnxruntime has no dla-core"):
        open_runner(plan.with_suffix(".onnx"), dla_core=0)


def test_rtx_runs_where_only_its_bindings_are_installed(
    device: FakeDevice, plan: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "tensorrt_rtx", None)
    monkeypatch.setitem(sys.modules, "tensorrt_rtx_bindings", sys.modules["tensorrt"])
    with open_runner(plan, "tensorrt-rtx") as runner:
        assert runner.run({"input": feed()})["logits"].shape == (2, 5)


def test_options_that_a_backend_does_not_know_are_refused(device: FakeDevice, plan: Path) -> None:
    with pytest.raises(UsageError, match="tensorrt has no threads"):
        open_runner(plan, threads=2)
    with pytest.raises(UsageError, match="onnxruntime has no cuda-graph"):
        open_runner(plan.with_suffix(".onnx"), cuda_graph=True)


def test_opening_and_closing_a_hundred_times_leaves_nothing(device: FakeDevice, plan: Path) -> None:
    for _ in range(100):
        with open_runner(plan, cuda_graph=True, streams=2) as runner:
            runner.run({"input": feed()})
    assert clean(device)


@pytest.mark.skipif(importlib.util.find_spec("cuda") is None, reason="cuda-bindings (extra 'jetson') is not installed")
def test_the_real_cuda_bindings_have_what_graphs_need() -> None:
    """The library loads without a driver and answers every call with an error code."""
    from cuda.bindings import runtime

    mode = runtime.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
    (code,) = runtime.cudaStreamBeginCapture(0, mode)
    assert int(code) != 0
    assert isinstance(runtime.cudaGetErrorString(code)[1], bytes)
    for name in (*GRAPH_CALLS, "cudaGraphDestroy", "cudaGraphExecDestroy"):
        assert callable(getattr(runtime, name))
    assert SHAPE == (2, 3, 4, 4)
