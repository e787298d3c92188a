"""The one place that speaks NVIDIA's builder API: TensorRT 8.5 to 11 and TensorRT-RTX through the same calls.

Names of flags come and go and their numbers were reassigned between releases, so whatever is not in every release is
looked up by name (`has`) where it is needed. Receivers are always called what they are (`builder`, `config`,
`network`, `parser`, ...): tests/engine/test_names.py holds every attribute of theirs against the names of the real
bindings of ten releases.
"""

import json
import sys
import time
from pathlib import Path
from types import ModuleType
from typing import Any

from edgehybrid.engine.order import ERROR, PROGRESS, Made, Order, RefusedError
from edgehybrid.errors import EdgeHybridError
from edgehybrid.store import locked, write_atomic


def compile_engine(trt: ModuleType, order: Order) -> Made:
    """Parse and build.

    Args:
        trt: One of NVIDIA's modules.
        order: What to build.

    Returns:
        What was made; the engine is in the file that the order names.

    Raises:
        RefusedError: With the nodes that the parser stumbled over, with the option that this release does not have,
            or empty if the compiler returned nothing.
    """
    logger = make_logger(trt)
    builder = trt.Builder(logger)
    network = builder.create_network(_network_flags(trt, order))
    parser = trt.OnnxParser(network, logger)
    if not parser.parse_from_file(order.onnx):
        raise RefusedError("; ".join(_describe_fault(parser.get_error(i)) for i in range(parser.num_errors)))
    config = builder.create_builder_config()
    config.profiling_verbosity = trt.ProfilingVerbosity.DETAILED  # or the inspector knows no shapes of layers
    _allow_precisions(trt, config, order)
    _apply_options(trt, config, order)
    calibrator = _use_dla(trt, builder, config, order)  # held until the build is over
    monitor = _watch(trt, config)
    capabilities = _set_capabilities(trt, config, network, order.capabilities)
    _open_timing_cache(config, order)
    serialized = builder.build_serialized_network(network, config)
    if serialized is None:
        raise RefusedError
    _keep_timings(config, order)
    del calibrator, monitor
    if order.engine is not None:
        Path(order.engine).write_bytes(serialized)
    return Made(version_of(trt), int(serialized.nbytes), capabilities)


def try_engine(trt: ModuleType, order: Order) -> Made:
    """Deserialize an engine and make a context of it, to see whether it loads at all. Needs a CUDA device.

    Raises:
        RefusedError: It does not; NVIDIA's log says why.
    """
    plan = Path(str(order.engine)).read_bytes()
    runtime = trt.Runtime(make_logger(trt))
    if order.options.dla_core is not None:
        runtime.DLA_core = order.options.dla_core
    engine = runtime.deserialize_cuda_engine(plan)
    if engine is None or engine.create_execution_context() is None:
        raise RefusedError
    return Made(version_of(trt), len(plan))


def has(trt: ModuleType, name: str) -> bool:
    """Whether this release has a class or a member of one, as in "IBuilderConfig.progress_monitor"."""
    place: object = trt
    for part in name.split("."):
        if not hasattr(place, part):
            return False
        place = getattr(place, part)
    return True


def version_of(trt: ModuleType) -> str:
    """The release, as in "10.3.0"."""
    return ".".join(str(trt.__version__).split(".")[:3])


def log(line: str) -> None:
    """One line to stderr, which is the child's log."""
    print(" ".join(line.split()), file=sys.stderr, flush=True)  # noqa: T201 - read by the parent


def make_logger(trt: ModuleType) -> Any:
    """Warnings and errors to stderr, one line each."""
    severities = trt.ILogger.Severity

    class Log(trt.ILogger):  # type: ignore[name-defined,misc]
        def __init__(self) -> None:
            trt.ILogger.__init__(self)

        def log(self, severity: object, message: str) -> None:
            if severity in (severities.INTERNAL_ERROR, severities.ERROR):
                log(ERROR + message)
            elif severity == severities.WARNING:
                log(message)

    return Log()


def _network_flags(trt: ModuleType, order: Order) -> int:
    """Explicit batch where it must still be asked for (8.x), strong typing where it can be (10 and newer).

    Raises:
        RefusedError: A typed graph for a release that cannot build one.
    """
    flags = 0
    if has(trt, "NetworkDefinitionCreationFlag.EXPLICIT_BATCH"):
        flags |= 1 << int(trt.NetworkDefinitionCreationFlag.EXPLICIT_BATCH)
    if order.typed:
        if not has(trt, "NetworkDefinitionCreationFlag.STRONGLY_TYPED"):
            raise RefusedError(f"TensorRT {trt.__version__} cannot build strongly typed graphs, needed 10 or newer")
        flags |= 1 << int(trt.NetworkDefinitionCreationFlag.STRONGLY_TYPED)
    return flags


def _allow_precisions(trt: ModuleType, config: Any, order: Order) -> None:
    """Allow float16 and int8 where the graph does not fix its types; TensorRT 11 and RTX always take them from it."""
    if order.typed or order.precision == "fp32":
        return
    if has(trt, "BuilderFlag.FP16"):
        config.set_flag(trt.BuilderFlag.FP16)
    if order.precision in ("int8", "mixed") and has(trt, "BuilderFlag.INT8"):
        config.set_flag(trt.BuilderFlag.INT8)


def _apply_options(trt: ModuleType, config: Any, order: Order) -> None:
    """What the user asked of the builder.

    Raises:
        RefusedError: This release cannot do it.
    """
    options = order.options
    if options.workspace_mib is not None:
        config.set_memory_pool_limit(trt.MemoryPoolType.WORKSPACE, options.workspace_mib << 20)
    if options.optimization_level is not None:
        if not has(trt, "IBuilderConfig.builder_optimization_level"):
            raise RefusedError(f"TensorRT {trt.__version__} has no optimization levels, needed 8.6 or newer")
        config.builder_optimization_level = options.optimization_level
    if options.hardware_compatible:
        if order.capabilities or not has(trt, "HardwareCompatibilityLevel.AMPERE_PLUS"):
            raise RefusedError(f"{order.module} {trt.__version__} builds no hardware-compatible engines")
        assert has(trt, "IBuilderConfig.hardware_compatibility_level")  # came together, in 8.6
        config.hardware_compatibility_level = trt.HardwareCompatibilityLevel.AMPERE_PLUS
    if options.version_compatible:
        if order.capabilities or not has(trt, "BuilderFlag.VERSION_COMPATIBLE"):
            raise RefusedError(f"{order.module} {trt.__version__} builds no version-compatible engines")
        config.set_flag(trt.BuilderFlag.VERSION_COMPATIBLE)
        if has(trt, "BuilderFlag.EXCLUDE_LEAN_RUNTIME"):  # else the plan would hold host code, which none may run
            config.set_flag(trt.BuilderFlag.EXCLUDE_LEAN_RUNTIME)


def _use_dla(trt: ModuleType, builder: Any, config: Any, order: Order) -> Any:
    """Put what NVDLA can take on one of its cores, the rest on the GPU; the int8 calibrator, if one is needed.

    NVDLA reads no Q/DQ: it gets the float graph and the ranges as a calibration cache.

    Raises:
        RefusedError: This release or this board has no such core.

    Source:
        TensorRT 8 developer guide, "Working with DLA": explicit quantization is not supported.
    """
    core = order.options.dla_core
    if core is None:
        return None
    if not has(trt, "IBuilderConfig.int8_calibrator"):
        raise RefusedError(f"{order.module} {trt.__version__} takes no calibration cache; DLA needs TensorRT 8 or 10")
    if builder.num_DLA_cores <= core:
        raise RefusedError(f"DLA core {core} was asked for, this machine offers {builder.num_DLA_cores}")
    config.default_device_type = trt.DeviceType.DLA
    config.DLA_core = core
    config.set_flag(trt.BuilderFlag.GPU_FALLBACK)
    if order.precision not in ("int8", "mixed"):
        return None
    if not order.calibration_cache:
        raise RefusedError("int8 on DLA needs calibration.cache, which holds its scales")
    calibrator = _make_calibrator(trt, Path(order.calibration_cache).read_text(encoding="ascii"))
    if has(trt, "IBuilderConfig.int8_calibrator"):
        config.int8_calibrator = calibrator
    return calibrator


def _make_calibrator(trt: ModuleType, scales: str) -> Any:
    """A calibrator that has no images, only the scales of the cache under this release's heading."""
    numbers = [int(part) for part in version_of(trt).split(".")]
    release = numbers[0] * (1000 if numbers[0] < 10 else 10_000) + numbers[1] * 100 + numbers[2]
    content = f"TRT-{release}-EntropyCalibration2\n{scales.partition(chr(10))[2]}".encode()
    if not has(trt, "IInt8EntropyCalibrator2"):
        raise RefusedError(f"TensorRT {trt.__version__} has no calibrators")

    class Scales(trt.IInt8EntropyCalibrator2):  # type: ignore[name-defined,misc]
        def __init__(self) -> None:
            trt.IInt8EntropyCalibrator2.__init__(self)

        def get_batch_size(self) -> int:
            return 1

        def get_batch(self, names: list[str]) -> None:
            return None

        def read_calibration_cache(self) -> bytes:
            return content

        def write_calibration_cache(self, cache: object) -> None:
            return None

    return Scales()


def _watch(trt: ModuleType, config: Any) -> Any:
    """Have the builder report its steps (10 and newer); the monitor, which must outlive the build."""
    if not has(trt, "IBuilderConfig.progress_monitor"):
        return None
    monitor = _make_monitor(trt)
    config.progress_monitor = monitor
    return monitor


def _make_monitor(trt: ModuleType) -> Any:
    """Tells the parent about every phase, ten times a second at most; never stops the build."""
    if not has(trt, "IProgressMonitor"):
        return None

    class Monitor(trt.IProgressMonitor):  # type: ignore[name-defined,misc]
        def __init__(self) -> None:
            trt.IProgressMonitor.__init__(self)
            self.steps: dict[str, int] = {}
            self.told = 0.0

        def phase_start(self, phase_name: str, parent_phase: str | None, num_steps: int) -> None:
            self.steps[phase_name] = num_steps

        def step_complete(self, phase_name: str, step: int) -> bool:
            total, now = self.steps.get(phase_name, 0), time.monotonic()
            if total > 1 and (now - self.told > 0.1 or step + 1 >= total):
                self.told = now
                log(PROGRESS + json.dumps([phase_name, step + 1, total]))
            return True

        def phase_finish(self, phase_name: str) -> None:
            self.steps.pop(phase_name, None)

    return Monitor()


def _set_capabilities(trt: ModuleType, config: Any, network: Any, wanted: tuple[str, ...]) -> tuple[str, ...]:
    """Tell TensorRT-RTX which cards to compile for; full TensorRT builds for the device at hand."""
    if not wanted:
        return ()
    if not has(trt, "ComputeCapability") or not has(trt, "IBuilderConfig.set_compute_capability"):
        raise RefusedError(f"{trt.__version__} builds for the device at hand alone")
    names = tuple(name for name in wanted if has(trt, f"ComputeCapability.{name}"))
    products = (trt.LayerType.MATRIX_MULTIPLY, trt.LayerType.CONVOLUTION)
    for index in range(network.num_layers):
        layer = network.get_layer(index)
        tensor = layer.get_output(0)
        if layer.type in products and tensor.dtype == trt.DataType.FLOAT:
            names = tuple(name for name in names if name != "SM75")  # RTX has no float32 product on Turing
            break
    if has(trt, "IBuilderConfig.num_compute_capabilities"):
        config.num_compute_capabilities = len(names)
    for index, name in enumerate(names):
        config.set_compute_capability(getattr(trt.ComputeCapability, name), index)
    return names


def _open_timing_cache(config: Any, order: Order) -> None:
    """Start from the timings of earlier builds; from none where they are damaged or of another device."""
    if order.timing_cache is None:
        return
    path = Path(order.timing_cache)
    cache = config.create_timing_cache(path.read_bytes() if path.is_file() else b"")
    if cache is None or not config.set_timing_cache(cache, False):
        log(f"the timing cache {path} does not fit and is begun again")
        config.set_timing_cache(config.create_timing_cache(b""), False)


def _keep_timings(config: Any, order: Order) -> None:
    """Add what this build timed to the shared file; another build may have added its own meanwhile."""
    if order.timing_cache is None:
        return
    path, cache = Path(order.timing_cache), config.get_timing_cache()
    if cache is None:
        return
    try:
        with locked(f"timing {path}"):
            other = config.create_timing_cache(path.read_bytes()) if path.is_file() else None
            if other is not None:
                cache.combine(other, False)
            write_atomic(path, bytes(cache.serialize()))
    except EdgeHybridError as error:  # the engine is worth more than the next one's speed
        log(f"the timing cache was not kept: {error.what}")


def _describe_fault(fault: Any) -> str:
    """One error of NVIDIA's parser, with the node where it knows it (10 and newer)."""
    name, op = (getattr(fault, ask)() if hasattr(fault, ask) else "" for ask in ("node_name", "node_operator"))
    code = str(fault.code()).removeprefix("ErrorCode.")
    text = f"{code}: {' '.join(fault.desc().split())}"
    return f"node '{name}' ({op}): {text}" if name else text
