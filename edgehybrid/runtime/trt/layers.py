"""What each layer of an engine is and costs: TensorRT's inspector and its profiler."""

import json
import statistics
from collections.abc import Mapping
from types import ModuleType
from typing import Any

from edgehybrid.errors import StageError
from edgehybrid.records import LayerTime


def profile_layers(trt: ModuleType, engine: Any, context: Any, stream: Any, calls: int) -> tuple[LayerTime, ...]:
    """Median time of every layer over plain calls, in the engine's order.

    The profiler waits after every layer, so the sum exceeds a call's latency: shares are what it is good for.

    Args:
        trt: NVIDIA's module.
        engine: For the kinds of layers.
        context: Its inputs lie on the device already.
        stream: That the context's buffers belong to.
        calls: How many, at least 1.
    """
    profiler = _make_profiler(trt)
    context.profiler = profiler
    context.enqueue_emits_profile = False  # ask for it once the call is over, as the guide says
    for _ in range(calls):
        if not context.execute_async_v3(stream.handle):
            raise StageError("the engine failed while profiled", why="enqueue failed", fix="edgehybrid verify BUNDLE")
        stream.synchronize()
        context.report_to_profiler()
    kinds = {str(told.get("Name")): str(told.get("LayerType", "")) for told in describe_layers(trt, engine, context)}
    medians = {name: statistics.median(times) for name, times in profiler.times.items()}
    total = sum(medians.values()) or 1.0
    return tuple(LayerTime(name, kinds.get(name, ""), ms, 100 * ms / total) for name, ms in medians.items())


def describe_layers(trt: ModuleType, engine: Any, context: Any) -> tuple[Mapping[str, object], ...]:
    """What the inspector says about each layer; only a name where the engine was built without detail."""
    inspector = engine.create_engine_inspector()
    inspector.execution_context = context
    text = inspector.get_engine_information(trt.LayerInformationFormat.JSON)
    try:
        found = json.loads(text).get("Layers", [])
    except (ValueError, AttributeError):
        return ()
    return tuple(layer if isinstance(layer, dict) else {"Name": str(layer)} for layer in found)


def _make_profiler(trt: ModuleType) -> Any:
    """Collects milliseconds per layer and call."""

    class Profiler(trt.IProfiler):  # type: ignore[name-defined,misc]
        def __init__(self) -> None:
            trt.IProfiler.__init__(self)
            self.times: dict[str, list[float]] = {}

        def report_layer_time(self, layer_name: str, ms: float) -> None:
            self.times.setdefault(layer_name, []).append(ms)

    return Profiler()
