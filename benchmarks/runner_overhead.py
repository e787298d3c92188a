"""What the engine runner adds to a bare enqueue and synchronisation: the same engine, context, buffers and stream.

    python benchmarks/runner_overhead.py [--model cmt_ti] [--precision int8] [--seconds 5]

With a GPU, TensorRT and pycuda: an engine of the model at its published size, batch 1, is built and timed on this GPU.
`bare` uploads from the pinned buffer, launches the CUDA graph (or calls execute_async_v3), downloads and synchronises
the stream, nothing else; `runner` is `TrtRunner.run`. The two take turns; the ratio is the median over rounds with its
95 % interval. `from an array` copies the images into the pinned buffer first, which bare does not.

Without: how long Python takes for one call, against stand-ins for pycuda, cuda-bindings and TensorRT that do nothing.
That is processor time of the host alone. It says what the runner costs, not what share of a call that is.

Writes `benchmarks/results/runner_overhead.json`, with the hardware and which of the two it was.
"""

import argparse
import dataclasses
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path
from statistics import median
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
from figures import numbers

from edgehybrid import benchmark, device
from edgehybrid.records import Precision

RESULT = Path(__file__).parent / "results" / "runner_overhead.json"
BLOCK = 20
"""Timed calls in a row per contender and round."""
CALLS, ROUNDS = 2000, 41
"""Of the host's time: calls per round; the median over rounds is told."""
SIDE = 224


def main() -> None:
    """Measure what can be measured here, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="cmt_ti")
    parser.add_argument("--precision", default="int8", choices=("int8", "fp16", "fp32"))
    parser.add_argument("--seconds", type=float, default=5.0, help="timed per contender, with a GPU")
    parser.add_argument("--output", type=Path, default=RESULT)
    options = parser.parse_args()
    if device.capability() is not None and find_spec("pycuda"):
        found = measure_on_gpu(options.model, options.precision, options.seconds)
    else:
        found = measure_host()
    found["device"] = dataclasses.asdict(device.state(0))
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(found, indent=1) + "\n")


# --- with a GPU -------------------------------------------------------------------------------------------


def measure_on_gpu(model: str, precision: Precision, seconds: float) -> dict[str, Any]:
    """Ratios of the runner's time to that of the bare calls."""
    from engine_graphs import build_engine, here, make_graphs

    from edgehybrid.runtime.trt import TrtRunner

    target, builders = here()
    module = "tensorrt" if target.backend == "tensorrt" else "tensorrt_rtx"
    rows = []
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        graphs = make_graphs(model, folder, target)
        feed, plan = graphs.feed, folder / "engine.plan"
        version = build_engine(graphs.paths[precision], target, builders, precision, plan)
        for graph in (True, False):
            with TrtRunner(plan, module=module, cuda_graph=graph) as runner:
                if graph and runner.graph_reason:
                    sys.stdout.write(f"no CUDA graph: {runner.graph_reason}\n")
                    continue
                way = "CUDA graph" if graph else "enqueue"
                for source, given in (("pinned buffer", runner.staging), ("an array", feed)):
                    runner.run(feed)
                    times = benchmark.measure_interleaved([Bare(runner), runner], given, block=BLOCK, duration=seconds)
                    ratio = benchmark.compare(*times, block=BLOCK)
                    rows.append(row_of(way, source, times, ratio))
                    sys.stdout.write(f"{way:10} from {source:13} {describe(times, ratio)}\n")
    return {"kind": "measured on this GPU", "model": model, "precision": precision, "tensorrt": version, "rows": rows}


class Bare:
    """The calls that no runner can do without, on the lane of another one."""

    def __init__(self, runner: Any) -> None:
        import pycuda.driver as cuda

        lane = runner._lanes[0]
        self.inputs, self.outputs = runner.inputs, runner.outputs
        self._compute, self._stream, self._current = lane._compute, lane.stream, runner._current
        self._ups = [(buffer._device, buffer.host) for buffer in lane.inputs.values() if not buffer.mapped]
        self._downs = [(buffer.host, buffer._device) for buffer in lane._outputs.values() if not buffer.mapped]
        self._upload, self._download = cuda.memcpy_htod_async, cuda.memcpy_dtoh_async

    def run(self, feeds: object) -> dict[str, Any]:
        """Upload what lies in the buffer, compute, download, wait."""
        with self._current:
            for target, source in self._ups:
                self._upload(target, source, self._stream)
            self._compute()
            for target, source in self._downs:
                self._download(target, source, self._stream)
            self._stream.synchronize()
        return {}


def row_of(way: str, source: str, times: tuple[Any, ...], ratio: Any) -> dict[str, object]:
    """One comparison for the JSON file; single samples are left out."""
    bare, ours = map(numbers, times)
    return {"way": way, "input": source, "bare_ms": bare, "runner_ms": ours, "ratio": dataclasses.asdict(ratio)}


def describe(times: tuple[Any, ...], ratio: Any) -> str:
    """One comparison for the terminal."""
    low, high = ratio.ci95 or (float("nan"), float("nan"))
    return (
        f"bare p50 {times[0].p50:.4f} ms, runner {times[1].p50:.4f} ms: {100 * (ratio.value - 1):+.2f} % "
        f"[{100 * (low - 1):+.2f}, {100 * (high - 1):+.2f}]"
    )


# --- without ----------------------------------------------------------------------------------------------


def measure_host() -> dict[str, Any]:
    """Microseconds that Python takes for one call when the device takes none."""
    feed = {"input": np.zeros((1, 3, SIDE, SIDE), np.float32)}
    rows = []
    with nothing_there(), tempfile.NamedTemporaryFile(suffix=".plan") as plan:
        from edgehybrid.runtime.trt import TrtRunner

        for graph in (True, False):
            with TrtRunner(Path(plan.name), cuda_graph=graph) as runner:
                times = time_in_turns(calls_of(runner, feed))
            way = "CUDA graph" if graph else "enqueue"
            for call, microseconds in times.items():
                rows.append({"way": way, "call": call, "microseconds": round(microseconds, 2)})
                sys.stdout.write(f"{way:10} {call:20} {microseconds:7.2f} us of Python per call\n")
    kind = "host time only: one call against stand-ins that do nothing; no GPU, nothing was computed"
    sys.stdout.write(f"{kind}\n")
    return {"kind": kind, "input": [1, 3, SIDE, SIDE], "calls": CALLS, "rounds": ROUNDS, "rows": rows}


def calls_of(runner: Any, feed: dict[str, Any]) -> dict[str, Callable[[], object]]:
    """What is timed, by name."""
    bare, staging = Bare(runner), runner.staging
    return {
        "bare": lambda: bare.run(staging),
        "run, pinned buffer": lambda: runner.run(staging),
        "run, an array": lambda: runner.run(feed),
        "start and finish": lambda: (runner.start(0), runner.finish(0)),
    }


def time_in_turns(calls: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Median microseconds of one call of each, rounds taking turns."""
    found: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(ROUNDS):
        for name, call in calls.items():
            begin = time.thread_time()  # of the processor: other programs may be running
            for _ in range(CALLS):
                call()
            found[name].append((time.thread_time() - begin) / CALLS * 1e6)
    return {name: median(times) for name, times in found.items()}


class _Nothing:
    """Device, stream, event, allocation, context and engine in one, which do nothing as fast as Python can."""

    handle = 1
    profiler = None
    num_io_tensors = 2

    def __init__(self, *_: object, **__: object) -> None: ...

    def __int__(self) -> int:
        return 256

    def do(self, *_: object, **__: object) -> bool:
        return True

    push = detach = free = synchronize = record = get_attribute = execute_async_v3 = set_tensor_address = do

    def time_since(self, _: object) -> float:
        return 0.0

    def itself(self, *_: object) -> "_Nothing":
        return self

    retain_primary_context = deserialize_cuda_engine = create_execution_context = itself

    def get_tensor_name(self, index: int) -> str:
        return ("input", "logits")[index]

    def get_tensor_shape(self, name: str) -> tuple[int, ...]:
        return (1, 3, SIDE, SIDE) if name == "input" else (1, 1000)

    def get_tensor_dtype(self, _: str) -> SimpleNamespace:
        return SimpleNamespace(name="FLOAT")

    def get_tensor_location(self, _: str) -> int:
        return 0

    def get_tensor_mode(self, name: str) -> int:
        return 0 if name == "input" else 1


class _Pinned:
    """What `pagelocked_empty` leaves as the base of its array."""

    def __init__(self, shape: tuple[int, ...], dtype: Any) -> None:
        self.content = np.zeros(shape, dtype)

    @property
    def __array_interface__(self) -> dict[str, Any]:
        return self.content.__array_interface__

    def free(self) -> None: ...


def _do_nothing(*_: object) -> None: ...


@contextmanager
def nothing_there() -> Iterator[None]:
    """Stand-ins for the three libraries, until the end of the `with`."""

    def module(name: str, **members: object) -> ModuleType:
        made = ModuleType(name)
        made.__spec__ = ModuleSpec(name, None)
        vars(made).update(members)
        return made

    driver = module(
        "pycuda.driver",
        init=_do_nothing,
        Device=type("Device", (_Nothing,), {"count": staticmethod(lambda: 1), "get_attribute": lambda *_: 0}),
        Context=SimpleNamespace(pop=_do_nothing),
        Stream=_Nothing,
        Event=_Nothing,
        mem_alloc=_Nothing,
        pagelocked_empty=lambda shape, dtype, mem_flags: np.asarray(_Pinned(shape, dtype)),
        memcpy_htod_async=_do_nothing,
        memcpy_dtoh_async=_do_nothing,
        event_flags=SimpleNamespace(BLOCKING_SYNC=1),
        host_alloc_flags=SimpleNamespace(DEVICEMAP=2),
        device_attribute=SimpleNamespace(INTEGRATED=0),
        Error=type("Error", (Exception,), {}),
        MemoryError=type("OutOfMemoryError", (Exception,), {}),
    )
    severity = SimpleNamespace(INTERNAL_ERROR=0, ERROR=1)
    trt = module(
        "tensorrt",
        Runtime=_Nothing,
        ILogger=type("ILogger", (_Nothing,), {"Severity": severity}),
        TensorLocation=SimpleNamespace(DEVICE=0),
        TensorIOMode=SimpleNamespace(INPUT=0),
    )
    done = (0,)
    cudart = module(
        "cuda.bindings.runtime",
        cudaStreamCaptureMode=SimpleNamespace(cudaStreamCaptureModeThreadLocal=1),
        cudaStreamBeginCapture=lambda *_: done,
        cudaStreamEndCapture=lambda _: (0, 1),
        cudaGraphInstantiate=lambda *_: (0, 1),
        cudaGraphLaunch=lambda *_: done,
        cudaGraphDestroy=lambda _: done,
        cudaGraphExecDestroy=lambda _: done,
    )
    given = {"pycuda": module("pycuda", driver=driver), "pycuda.driver": driver, "tensorrt": trt}
    given |= {"cuda.bindings.runtime": cudart}
    before = {name: sys.modules.get(name) for name in given}
    sys.modules.update(given)
    try:
        yield
    finally:
        for name, kept in before.items():
            if kept is None:
                del sys.modules[name]
            else:
                sys.modules[name] = kept


if __name__ == "__main__":
    main()
