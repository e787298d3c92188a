"""A stand-in for NVIDIA's Python modules that has, release by release, exactly the names of the real ones.

The names and the numbers of enumerations are in tensorrt_names.json, read from the real bindings (wheels of PyPI loaded
over empty stand-ins of NVIDIA's libraries; TensorRT-RTX with its own): touching or setting anything that a release does
not have is an AttributeError here as it is there. What cannot run without a GPU is recorded instead.
"""

import json
from collections.abc import Callable
from enum import IntEnum
from pathlib import Path
from types import ModuleType

NAMES = json.loads((Path(__file__).parent / "tensorrt_names.json").read_text())
RELEASES: tuple[str, ...] = tuple(NAMES["releases"])
RTX_RELEASE = "rtx-1.7.1"


def names_of(release: str, kind: str) -> dict[str, int | None]:
    """Members of a class or an enumeration in a release: name -> number; empty where it has no such class."""
    index = RELEASES.index(release)
    if kind in NAMES["enums"]:
        return {n: numbers[index] for n, numbers in NAMES["enums"][kind].items() if numbers[index] is not None}
    return {n: None for n, mask in NAMES["classes"][kind].items() if mask[index] == "x" and n != "<class>"}


def exists(release: str, kind: str) -> bool:
    """Whether a release has a class."""
    if kind in NAMES["enums"]:
        return bool(names_of(release, kind))
    return bool(NAMES["classes"][kind]["<class>"][RELEASES.index(release)] == "x")


class Strict:
    """An object with the names of one class of one release, and no other."""

    allowed: frozenset[str] = frozenset()

    def __setattr__(self, name: str, value: object) -> None:
        if name not in self.allowed:
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r} to set")
        object.__setattr__(self, name, value)

    def __getattribute__(self, name: str) -> object:
        if not name.startswith("_") and name != "allowed" and name not in object.__getattribute__(self, "allowed"):
            raise AttributeError(f"{type(self).__name__} has no attribute {name!r}")
        return object.__getattribute__(self, name)


def make_class(release: str, kind: str, behaviour: type) -> type:
    """A class of a release: its names from the table, what they do from `behaviour`."""
    allowed = frozenset(names_of(release, kind))
    offered = {name: None for name in allowed if not hasattr(behaviour, name)}
    return type(kind, (behaviour, Strict), {"allowed": allowed, **offered})


class Serialized(bytes):
    """What stands in for IHostMemory."""

    @property
    def nbytes(self) -> int:
        return len(self)


def make_tensorrt(
    release: str,
    *,
    engine: bytes | Callable[[Path], bytes] | None = b"plan",
    faults: list[object] | None = None,
    dla_cores: int = 0,
    rejected_timings: bytes | None = None,
) -> tuple[ModuleType, dict[str, object]]:
    """A module of that release, and the record of what it was told; `engine` may make the plan of the ONNX file."""
    record: dict[str, object] = {"flags": [], "pools": {}, "capabilities": [], "config": None}
    trt = ModuleType("tensorrt_rtx" if release == RTX_RELEASE else "tensorrt")
    trt.__version__ = release.removeprefix("rtx-")  # type: ignore[attr-defined]
    for kind in NAMES["enums"]:
        if exists(release, kind) and "." not in kind:
            setattr(trt, kind, IntEnum(kind, names_of(release, kind)))
    _add_plain_classes(trt, release)
    _add_builder(trt, release, record, engine, faults or [], dla_cores, rejected_timings)
    return trt, record


def _add_plain_classes(trt: ModuleType, release: str) -> None:
    """Classes that are subclassed or only named."""
    severity = IntEnum("Severity", names_of(release, "ILogger.Severity"))
    trt.ILogger = type("ILogger", (), {"Severity": severity})  # type: ignore[attr-defined]
    for kind in ("IProgressMonitor", "IInt8EntropyCalibrator2", "IProfiler"):
        if exists(release, kind):
            setattr(trt, kind, type(kind, (), {}))


def _add_builder(
    trt: ModuleType,
    release: str,
    record: dict[str, object],
    engine: bytes | Callable[[Path], bytes] | None,
    faults: list[object],
    dla_cores: int,
    rejected_timings: bytes | None,
) -> None:
    flags: list[str] = record["flags"]  # type: ignore[assignment]

    class Timings:
        def __init__(self, content: bytes) -> None:
            object.__setattr__(self, "_content", content)

        def combine(self, other: "Timings", ignore_mismatch: bool) -> bool:
            object.__setattr__(self, "_content", self._content + other._content)  # type: ignore[attr-defined]
            return True

        def serialize(self) -> bytes:
            return bytes(self._content)  # type: ignore[attr-defined]

    cache_class = make_class(release, "ITimingCache", Timings)

    class Config:
        def set_flag(self, flag: IntEnum) -> None:
            assert type(flag).__name__ == "BuilderFlag"
            flags.append(flag.name)

        def set_memory_pool_limit(self, pool: IntEnum, size: int) -> None:
            record["pools"][pool.name] = size  # type: ignore[index]

        def create_timing_cache(self, content: bytes) -> object:
            return None if content == b"damaged" else cache_class(content)

        def set_timing_cache(self, cache: object, ignore_mismatch: bool) -> bool:
            if rejected_timings is not None and cache.serialize() == rejected_timings:  # type: ignore[attr-defined]
                return False
            object.__setattr__(self, "_cache", cache)
            record["timings"] = cache.serialize()  # type: ignore[attr-defined]
            return True

        def get_timing_cache(self) -> object:
            return self._cache  # type: ignore[attr-defined]

        def set_compute_capability(self, capability: IntEnum, index: int) -> None:
            record["capabilities"].append(capability.name)  # type: ignore[attr-defined]

    class Network:
        num_layers = 0

    class Parser:
        def parse_from_file(self, path: str) -> bool:
            record["onnx"] = Path(path)
            return not faults

        def get_error(self, index: int) -> object:
            return faults[index]

    class Builder:
        num_DLA_cores = dla_cores  # noqa: N815 - NVIDIA's name

        def create_network(self, flags: int) -> object:
            record["network"] = flags
            return make_class(release, "INetworkDefinition", Network)()

        def create_builder_config(self) -> object:
            record["config"] = make_class(release, "IBuilderConfig", Config)()
            return record["config"]

        def build_serialized_network(self, network: object, config: object) -> object:
            content = engine(record["onnx"]) if callable(engine) else engine  # type: ignore[arg-type]
            return None if content is None else Serialized(content)

    def make_parser(network: object, logger: object) -> object:
        parser = make_class(release, "OnnxParser", Parser)()
        object.__setattr__(parser, "num_errors", len(faults))
        return parser

    trt.IBuilderConfig = make_class(release, "IBuilderConfig", Config)  # type: ignore[attr-defined]
    trt.Builder = lambda logger: make_class(release, "Builder", Builder)()  # type: ignore[attr-defined]
    trt.OnnxParser = make_parser  # type: ignore[attr-defined]
