"""Turn ONNX files into engines with NVIDIA's builders."""

from edgehybrid.engine.build import Builders, build, find_builders

__all__ = ["Builders", "build", "find_builders"]
