"""A stand-in for NVIDIA's Python modules with the names and numbers that each release has.

Names and numbers were read from the real modules (8.5, 8.6, 10.3, 11.4, RTX 1.7.1). What cannot run without a GPU is
recorded instead: the flags of the network, those of the builder, and the compute capabilities.
"""

from enum import IntEnum
from types import ModuleType, SimpleNamespace

FLAGS = {
    "8.5.3.1": {"EXPLICIT_BATCH": 0, "EXPLICIT_PRECISION": 1},
    "8.6.0": {"EXPLICIT_BATCH": 0, "EXPLICIT_PRECISION": 1},
    "10.3.0": {"EXPLICIT_BATCH": 0, "STRONGLY_TYPED": 1},
    "11.4.0": {"STRONGLY_TYPED": 0, "PREFER_JIT_PYTHON_PLUGINS": 1},
}
"""NetworkDefinitionCreationFlag by release: the numbers were reassigned in 11."""


class FakeNetwork:
    num_layers = 0


class FakeParser:
    """Accepts everything, or stumbles over the faults given."""

    def __init__(self, network: FakeNetwork, logger: object, faults: list[object]) -> None:
        self.faults = faults
        self.num_errors = len(faults)

    def parse_from_file(self, path: str) -> bool:
        return not self.faults

    def get_error(self, index: int) -> object:
        return self.faults[index]


class FakeBuilder:
    def __init__(self, record: dict[str, object], engine: bytes | None) -> None:
        self.record = record
        self.engine = engine

    def create_network(self, flags: int) -> FakeNetwork:
        self.record["network"] = flags
        return FakeNetwork()

    def create_builder_config(self) -> SimpleNamespace:
        flags: list[str] = []
        self.record["builder"] = flags
        return SimpleNamespace(set_flag=lambda flag: flags.append(flag.name))

    def build_serialized_network(self, network: FakeNetwork, config: object) -> memoryview | None:
        return None if self.engine is None else memoryview(self.engine)


def make_tensorrt(
    version: str, *, engine: bytes | None = b"plan", faults: list[object] | None = None
) -> tuple[ModuleType, dict[str, object]]:
    """A module of that release, and the record of what it was told."""
    record: dict[str, object] = {}
    trt = ModuleType("tensorrt")
    trt.__version__ = version

    class Logger:
        Severity = IntEnum("Severity", ["INTERNAL_ERROR", "ERROR", "WARNING", "INFO"])

    precisions = [] if version.startswith("11") else ["FP16", "INT8"]
    trt.ILogger = Logger
    trt.NetworkDefinitionCreationFlag = IntEnum("NetworkDefinitionCreationFlag", FLAGS[version])
    trt.BuilderFlag = IntEnum("BuilderFlag", [*precisions, "REFIT"])
    trt.Builder = lambda logger: FakeBuilder(record, engine)
    trt.OnnxParser = lambda network, logger: FakeParser(network, logger, faults or [])
    return trt, record
