"""A CUDA device without a GPU: what pycuda, cuda-bindings and TensorRT's runtime document, and nothing else.

A plan is JSON of what to pretend: an ONNX file, which ONNX Runtime then computes as written, or nothing, which is the
network of the runners' contract.

Work on a stream is queued and done only when somebody waits, so a missing wait shows as stale data. Every allocation,
context and graph is counted. TensorRT's classes have the names of the release asked for (tests/engine).
"""

import base64
import json
import sys
from collections.abc import Callable, Mapping
from enum import IntEnum
from importlib.machinery import ModuleSpec
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from tests.engine.fake_tensorrt import exists, make_class, names_of
from tests.runtime.contract import CLASSES, SHAPE

H2D_MS, COMPUTE_MS, D2H_MS = 1.0, 5.0, 0.5
WEIGHT = np.random.default_rng(7).standard_normal((int(np.prod(SHAPE[1:])), CLASSES)).astype(np.float32)
Work = Callable[[], float]


def answer(images: NDArray[np.float32]) -> NDArray[np.float32]:
    """What the network of the contract computes."""
    return (images.reshape(len(images), -1) @ WEIGHT).astype(np.float32)


class Network:
    """What an engine computes: the network of the contract."""

    def __init__(self, told: Mapping[str, Any]) -> None:
        shape, kind = tuple(told.get("shape", SHAPE)), told.get("dtype", "FLOAT")
        self.ms = COMPUTE_MS
        self.ports = {"input": (shape, kind), "logits": ((SHAPE[0], CLASSES), kind)}
        self.inputs = 1

    def run(self, given: list[NDArray[np.generic]]) -> list[NDArray[np.generic]]:
        return [answer(np.asarray(given[0], np.float32))]


class OnnxNetwork(Network):
    """What ONNX Runtime computes of the file that the plan was built from."""

    def __init__(self, told: Mapping[str, Any]) -> None:
        import onnxruntime  # a builder's child has no use for it

        content = base64.b64decode(told["onnx"])
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
        options.intra_op_num_threads, options.log_severity_level = 1, 4
        self._session = onnxruntime.InferenceSession(content, options, providers=["CPUExecutionProvider"])
        names = {"tensor(float)": "FLOAT", "tensor(float16)": "HALF"}
        ends = (*self._session.get_inputs(), *self._session.get_outputs())
        self.ms = len(content) / 1e5  # the smaller file is the faster engine
        self.ports = {end.name: (tuple(end.shape), names[end.type]) for end in ends}
        self.inputs = len(self._session.get_inputs())

    def run(self, given: list[NDArray[np.generic]]) -> list[NDArray[np.generic]]:
        found: list[NDArray[np.generic]] = self._session.run(None, dict(zip(self.ports, given, strict=False)))
        return found


class Error(Exception):
    """pycuda's."""


class OutOfMemoryError(Error):
    """pycuda's MemoryError."""


class FakeDevice:
    """Everything that happens on one device, and what was asked of it."""

    def __init__(self, *, integrated: bool = False, memory_for: int = 1000, devices: int = 1) -> None:
        self.integrated, self.left, self.devices = integrated, memory_for, devices
        self.memory: dict[int, NDArray[np.generic]] = {}
        self.live = self.primary = self.stacked = self.graphs = 0
        self.diary: list[str] = []
        self.now = 0.0
        self.capturing: list[Work] | None = None
        self.streams: dict[int, FakeStream] = {}
        self.fail: dict[str, int] = {}  # function of cuda-bindings -> the code it returns
        self.enqueue_fails = False
        self.logger: object = None

    def allocate(self, size: int) -> int:
        self.check_current()
        if self.left <= 0:
            raise OutOfMemoryError("cuMemAlloc failed: out of memory")
        self.left -= 1
        self.live += 1
        address = 4096 * (len(self.memory) + 1)  # never given twice
        self.memory[address] = np.zeros(0)
        return address

    def check_current(self) -> None:
        if not self.stacked:
            raise Error("invalid device context")


class FakeStream:
    def __init__(self, device: FakeDevice) -> None:
        device.check_current()
        self.device = device
        self.queue: list[Work] = []
        self.handle = 100 + len(device.streams)
        device.streams[self.handle] = self

    def add(self, name: str, work: Work) -> None:
        def told() -> float:
            self.device.diary.append(name)
            return work()

        (self.queue if self.device.capturing is None else self.device.capturing).append(told)

    def synchronize(self) -> None:
        self.device.check_current()
        queue, self.queue = self.queue, []
        for work in queue:
            self.device.now += work()


class FakeEvent:
    def __init__(self, device: FakeDevice) -> None:
        self.device = device
        self.at: float | None = None
        self.stream: FakeStream | None = None

    def record(self, stream: FakeStream) -> "FakeEvent":
        self.stream, self.at = stream, None

        def mark() -> float:
            self.at = self.device.now
            return 0.0

        stream.queue.append(mark)
        return self

    def synchronize(self) -> "FakeEvent":
        assert self.stream is not None
        self.stream.synchronize()
        return self

    def time_since(self, start: "FakeEvent") -> float:
        assert self.at is not None
        assert start.at is not None
        return self.at - start.at


class Pinned:
    """pycuda's PagelockedHostAllocation."""

    def __init__(self, device: FakeDevice, shape: tuple[int, ...], dtype: object) -> None:
        self.content = np.zeros(shape, dtype)  # type: ignore[call-overload]
        self.device, self.address = device, device.allocate(self.content.nbytes)

    @property
    def __array_interface__(self) -> dict[str, object]:
        """An array made of this has it as its base, as `pagelocked_empty` leaves it."""
        found: dict[str, object] = self.content.__array_interface__
        return found

    def get_device_pointer(self) -> int:
        return self.address

    def free(self) -> None:
        self.device.live -= 1
        self.device.left += 1


class Allocation:
    """pycuda's DeviceAllocation."""

    def __init__(self, device: FakeDevice, size: int) -> None:
        self.device, self.address = device, device.allocate(size)

    def __int__(self) -> int:
        return self.address

    def free(self) -> None:
        self.device.live -= 1
        self.device.left += 1


def make_driver(device: FakeDevice) -> ModuleType:
    """`pycuda.driver`."""
    driver = ModuleType("pycuda.driver")

    class Primary:
        def push(self) -> None:
            device.stacked += 1

        def detach(self) -> None:
            device.primary -= 1

    class Device:
        def __init__(self, index: int) -> None:
            self.index = index

        @staticmethod
        def count() -> int:
            return device.devices

        def retain_primary_context(self) -> Primary:
            device.primary += 1
            return Primary()

        def get_attribute(self, attribute: str) -> int:
            assert attribute == "integrated"
            return int(device.integrated)

    def pop() -> None:
        device.stacked -= 1

    def pagelocked_empty(shape: tuple[int, ...], dtype: object, mem_flags: int = 0) -> NDArray[np.generic]:
        pinned = Pinned(device, shape, dtype)
        found: NDArray[np.generic] = np.asarray(pinned)
        if mem_flags == 2:
            device.memory[pinned.address] = found
        device.diary.append("mapped" if mem_flags == 2 else "pinned")
        return found

    def upload(target: Allocation, source: NDArray[np.generic], stream: FakeStream) -> None:
        def work() -> float:
            device.memory[int(target)] = np.array(source)
            return H2D_MS

        stream.add("upload", work)

    def download(target: NDArray[np.generic], source: Allocation, stream: FakeStream) -> None:
        def work() -> float:
            target[...] = device.memory[int(source)]
            return D2H_MS

        stream.add("download", work)

    driver.init = lambda: None  # type: ignore[attr-defined]
    driver.Device, driver.Context = Device, SimpleNamespace(pop=pop)  # type: ignore[attr-defined]
    driver.Stream = lambda: FakeStream(device)  # type: ignore[attr-defined]
    driver.Event = lambda flags=0: FakeEvent(device)  # type: ignore[attr-defined]
    driver.event_flags = SimpleNamespace(BLOCKING_SYNC=1)  # type: ignore[attr-defined]
    driver.host_alloc_flags = SimpleNamespace(DEVICEMAP=2)  # type: ignore[attr-defined]
    driver.device_attribute = SimpleNamespace(INTEGRATED="integrated")  # type: ignore[attr-defined]
    driver.mem_get_info = lambda: (device.left << 20, 1 << 40)  # type: ignore[attr-defined]
    driver.mem_alloc = lambda size: Allocation(device, size)  # type: ignore[attr-defined]
    driver.pagelocked_empty = pagelocked_empty  # type: ignore[attr-defined]
    driver.memcpy_htod_async, driver.memcpy_dtoh_async = upload, download  # type: ignore[attr-defined]
    driver.Error, driver.MemoryError = Error, OutOfMemoryError  # type: ignore[attr-defined]
    return driver


def make_cudart(device: FakeDevice) -> ModuleType:
    """`cuda.bindings.runtime`: every call returns a tuple that begins with an error code."""
    cudart = ModuleType("cuda.bindings.runtime")

    def code(name: str) -> int:
        device.diary.append(name)
        return device.fail.get(name, 0)

    def begin(stream: int, mode: int) -> tuple[int]:
        if not (failed := code("cudaStreamBeginCapture")):
            device.capturing = []
        return (failed,)

    def end(stream: int) -> tuple[int, list[Work]]:
        graph, device.capturing = device.capturing or [], None
        device.graphs += 1
        kept = Graph(graph)
        return code("cudaStreamEndCapture"), kept  # type: ignore[return-value]

    class Graph(list):  # type: ignore[type-arg]
        def __int__(self) -> int:
            return id(self)

    def instantiate(graph: list[Work], flags: int) -> tuple[object, ...]:
        if failed := code("cudaGraphInstantiate"):
            return failed, None
        device.graphs += 1
        return 0, list(graph)

    def launch(graph: list[Work], stream: int) -> tuple[int]:
        if not (failed := code("cudaGraphLaunch")):
            device.streams[stream].queue += graph
        return (failed,)

    def destroy(graph: object) -> tuple[int]:
        device.graphs -= 1
        return (0,)

    def copy(target: int, source: int, size: int, kind: int, stream: int) -> tuple[int]:
        def work() -> float:
            given = device.memory[source].reshape(-1).view(np.uint8)[:size].copy()
            kept = device.memory[target]
            if kept.size:
                kept.reshape(-1).view(np.uint8)[:size] = given
            else:
                device.memory[target] = given.view(np.float32)
            return COMPUTE_MS

        device.streams[stream].add("copy", work)
        return (0,)

    cudart.cudaMemcpyAsync = copy  # type: ignore[attr-defined]
    cudart.cudaMemcpyKind = SimpleNamespace(cudaMemcpyDefault=4)  # type: ignore[attr-defined]
    cudart.cudaStreamCaptureMode = SimpleNamespace(cudaStreamCaptureModeThreadLocal=1)  # type: ignore[attr-defined]
    cudart.cudaStreamBeginCapture, cudart.cudaStreamEndCapture = begin, end  # type: ignore[attr-defined]
    cudart.cudaGraphInstantiate, cudart.cudaGraphLaunch = instantiate, launch  # type: ignore[attr-defined]
    cudart.cudaGraphDestroy = cudart.cudaGraphExecDestroy = destroy  # type: ignore[attr-defined]
    cudart.cudaGetErrorString = lambda code: (0, f"error {code}".encode())  # type: ignore[attr-defined]
    return cudart


def make_runtime(device: FakeDevice, release: str) -> ModuleType:
    """TensorRT of a release, as far as running goes; a plan is JSON of what to pretend."""
    trt = ModuleType("tensorrt")
    trt.__version__ = release  # type: ignore[attr-defined]
    trt.__spec__ = ModuleSpec("tensorrt", None)
    for kind in ("DataType", "TensorIOMode", "TensorLocation", "LayerInformationFormat"):
        setattr(trt, kind, IntEnum(kind, names_of(release, kind)))
    trt.ILogger = type("ILogger", (), {"Severity": IntEnum("Severity", names_of(release, "ILogger.Severity"))})  # type: ignore[attr-defined]
    trt.IProfiler = type("IProfiler", (), {})  # type: ignore[attr-defined]
    assert exists(release, "IExecutionContext")

    class Context:
        def set_tensor_address(self, name: str, address: int) -> bool:
            vars(self).setdefault("_addresses", {})[name] = address
            return True

        def execute_async_v3(self, handle: int) -> bool:
            if device.enqueue_fails:
                device.logger.log(trt.ILogger.Severity.ERROR, "Cuda Runtime (an illegal\n memory access)")  # type: ignore[attr-defined]
                return False
            addresses, network = vars(self)["_addresses"], vars(self)["_network"]

            def work() -> float:
                ends = list(network.ports.items())
                given = [device.memory[addresses[name]] for name, _ in ends[: network.inputs]]
                numbers = {"FLOAT": np.float32, "HALF": np.float16}
                fed = [
                    (array if array.size else np.zeros(shape)).reshape(shape).astype(numbers[kind])
                    for array, (_, (shape, kind)) in zip(given, ends, strict=False)
                ]
                for (name, _), found in zip(ends[network.inputs :], network.run(fed), strict=True):
                    target = device.memory[addresses[name]]
                    if target.size:
                        target[...] = found
                    else:
                        device.memory[addresses[name]] = found
                return float(network.ms)

            device.streams[handle].add("compute", work)
            return True

        def report_to_profiler(self) -> bool:
            for layer, ms in (("conv", 3.0), ("gemm", 1.0)):
                vars(self)["profiler"].report_layer_time(layer, ms)
            return True

    class Inspector:
        def get_engine_information(self, form: IntEnum) -> str:
            assert form.name == "JSON"
            return json.dumps({"Layers": [{"Name": "conv", "LayerType": "CaskConvolution"}, "gemm"]})

    class Engine:
        num_io_tensors = 2

        def get_tensor_name(self, index: int) -> str:
            return list(vars(self)["_network"].ports)[index]

        def get_tensor_shape(self, name: str) -> tuple[int, ...]:
            shape: tuple[int, ...] = vars(self)["_network"].ports[name][0]
            return shape

        def get_tensor_dtype(self, name: str) -> IntEnum:
            return trt.DataType[vars(self)["_network"].ports[name][1]]  # type: ignore[no-any-return,attr-defined]

        def get_tensor_location(self, name: str) -> IntEnum:
            return trt.TensorLocation.DEVICE  # type: ignore[no-any-return,attr-defined]

        def get_tensor_mode(self, name: str) -> IntEnum:
            mode, network = trt.TensorIOMode, vars(self)["_network"]  # type: ignore[attr-defined]
            return mode.INPUT if list(network.ports).index(name) < network.inputs else mode.OUTPUT  # type: ignore[no-any-return]

        def create_execution_context(self) -> object:
            context = make_class(release, "IExecutionContext", Context)()
            vars(context)["_network"] = vars(self)["_network"]
            return context

        def create_engine_inspector(self) -> object:
            return make_class(release, "EngineInspector", Inspector)()

    class Runtime:
        def deserialize_cuda_engine(self, plan: bytes) -> object:
            vars(self)["told"] = vars(self).get("DLA_core")
            if not plan.startswith(b"{"):
                device.logger.log(trt.ILogger.Severity.ERROR, "Version tag does not match")  # type: ignore[attr-defined]
                return None
            engine = make_class(release, "ICudaEngine", Engine)()
            told = json.loads(plan)
            vars(engine)["_network"] = OnnxNetwork(told) if "onnx" in told else Network(told)
            return engine

    def make(logger: object) -> object:
        device.check_current()
        device.logger = logger
        return make_class(release, "Runtime", Runtime)()

    trt.Runtime = make  # type: ignore[attr-defined]
    return trt


def install(patch: pytest.MonkeyPatch, device: FakeDevice, release: str = "10.3.0", *, graphs: bool = True) -> None:
    """Put the device where `edgehybrid.runtime.trt` imports it from, and forget what was imported before."""
    driver = make_driver(device)
    package = ModuleType("pycuda")
    package.driver = driver  # type: ignore[attr-defined]
    for name in [name for name in sys.modules if name.startswith("edgehybrid.runtime.trt")]:
        patch.delitem(sys.modules, name)
    patch.setitem(sys.modules, "pycuda", package)
    patch.setitem(sys.modules, "pycuda.driver", driver)
    patch.setitem(sys.modules, "tensorrt", make_runtime(device, release))
    patch.setitem(sys.modules, "cuda.bindings.runtime", make_cudart(device) if graphs else None)
