"""Turn ONNX files into engines with NVIDIA's builders."""

from edgehybrid.engine.build import build, probe_cuda

__all__ = ["build", "probe_cuda"]
