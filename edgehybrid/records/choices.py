"""The choices that options offer, by their names."""

from typing import Literal

Precision = Literal["fp32", "fp16", "int8", "mixed"]
"""`mixed`: int8 where placement asks for it, apart from the groups of layers that cost too much accuracy."""
Method = Literal["mse", "minmax", "percentile", "entropy"]
Dialect = Literal["fp32", "typed"]
"""`fp32`: float32-typed Q/DQ, opset 17 (ONNX Runtime, TensorRT 8.5 and 8.6). `typed`: strongly typed float16
with Q/DQ, opset 19 (TensorRT 10, 11 and RTX)."""
Interpolation = Literal["bicubic", "bilinear"]
Equalize = Literal["all", "folded", "off"]
Refine = Literal["biases", "all", "off"]
Rounding = Literal["nearest", "optimized"]
Status = Literal["measured", "estimated", "deferred", "failed"]
