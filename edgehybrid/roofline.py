"""Bound a network from below on a target: what its arithmetic and its weights need at the rates of the data sheet.

A floor is an estimate, never a latency: no engine reaches it, and none can be faster.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from edgehybrid.graph import Graph, constant, shape_of
from edgehybrid.graph.counting import COUNTED, macs_of
from edgehybrid.graph.structure import input_of
from edgehybrid.records import Figure, Floor, Precision, Target

RATES = {"int8": "gpu_int8_dense", "fp16": "gpu_fp16_dense", "fp32": "gpu_fp32_dense"}
"""What a product computes in -> the figure with its dense rate, in tera-operations per second."""


@dataclass(frozen=True)
class Work:
    """What one call of a network costs at least."""

    ops: Mapping[str, int]  # "int8", "fp16", "fp32" -> operations, two per multiply-accumulate
    bytes: int  # weights, input and output, each moved once


def count(graph: Graph) -> Work:
    """Operations of convolutions and matrix products, and bytes that no cache can save.

    Everything else (normalisations, softmax, activations, and the traffic between operators) is left out: it can be
    fused or stay in caches, so that counting it would be a guess and no bound. Weights are taken to come from memory
    once per call.

    Args:
        graph: As deployed: Q/DQ and types decide what a product computes in.

    Raises:
        GraphError: A shape is not static.
    """
    ops = dict.fromkeys(RATES, 0)
    for node in graph.nodes(*COUNTED):
        first, second = input_of(node, 0), input_of(node, 1)
        makers = [value.producer() for value in (first, second)]
        quantized = all(maker is not None and maker.op_type == "DequantizeLinear" for maker in makers)
        kind = "int8" if quantized else "fp16" if first.dtype is not None and first.dtype.itemsize == 2 else "fp32"
        ops[kind] += 2 * macs_of(node)
    weights = [constant(value) for value in graph.body.initializers.values()]
    moved: float = sum(array.nbytes for array in weights if array is not None and array.dtype.kind in "fiu")
    ends = [graph.input, *graph.body.outputs]
    moved += sum(math.prod(shape_of(value)) * (value.dtype.itemsize if value.dtype else 4) for value in ends)
    return Work({kind: n for kind, n in ops.items() if n}, int(moved))


def floor(work: Work, target: Target, precision: Precision) -> Floor:
    """The least time a call can take on a target.

    Args:
        work: Of `count`.
        target: At the power mode that is meant; its figures say the rates.
        precision: Of the network, as the report calls it.

    Returns:
        Milliseconds and what bounds them: the larger of arithmetic at dense rates and bytes at full bandwidth. No
        milliseconds, and the reason, where a figure that is needed has no value.
    """
    used: dict[str, Figure] = {}

    def rate(name: str) -> float | None:
        figure = target.figures.get(name)
        if figure is None or not isinstance(figure.value, int | float):
            return None
        used[name] = figure
        return float(figure.value)

    rates = {kind: rate(RATES[kind]) for kind in work.ops}
    bandwidth = rate("memory_bandwidth")
    parts = [n / (1e9 * speed) for kind, n in work.ops.items() if (speed := rates[kind])]
    compute = float(np.sum(parts)) if len(parts) == len(work.ops) else None
    memory = None if not bandwidth else work.bytes / (1e6 * bandwidth)
    missing = [RATES[kind] for kind, speed in rates.items() if not speed]
    missing += [] if bandwidth else ["memory_bandwidth"]
    known = compute is not None and memory is not None
    return Floor(
        precision=precision,
        target=target.name,
        ms=max(compute, memory) if compute is not None and memory is not None else None,
        bound=None if compute is None or memory is None else "compute" if compute >= memory else "memory",
        compute_ms=compute,
        memory_ms=memory,
        ops=work.ops,
        bytes=work.bytes,
        rates={name: float(figure.value) for name, figure in used.items() if isinstance(figure.value, int | float)},
        confirmed=all(figure.confirmed for figure in used.values()),
        reason=None if known else f"{target.name} has no value for {', '.join(missing)}",
    )
