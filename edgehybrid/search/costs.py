"""What a group gains by int8 in time: measured by an engine's profiler, or estimated from the target's data sheet."""

import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgehybrid.graph import Graph, label_nodes, shape_of
from edgehybrid.graph.counting import macs_of
from edgehybrid.graph.structure import input_of
from edgehybrid.records import LayerGroup, Target


@dataclass(frozen=True)
class Gains:
    """Time that int8 saves against fp16, per group."""

    values: NDArray[np.float64]  # (groups,), milliseconds per call, or relative where there is no data sheet
    source: str  # for the reader: what they are and where from


def estimate_gains(graph: Graph, groups: Iterable[LayerGroup], target: Target) -> Gains:
    """Estimate by a roofline what each group saves in int8 against fp16.

    An operator takes as long as the slower of its arithmetic, at the target's dense rate, and its traffic (activations
    read and written, weights), at full bandwidth. int8 halves what it reads. Without rates the arithmetic alone is
    compared, at twice the rate.

    Args:
        graph: The float network.
        groups: Of it.
        target: Its figures `gpu_int8_dense`, `gpu_fp16_dense` (both 10^12 per second) and `memory_bandwidth` (GB/s).

    Returns:
        Estimated gains, never negative.
    """
    nodes = {label: node for node, label in label_nodes(graph).items()}
    rates = [_figure(target, name) for name in ("gpu_int8_dense", "gpu_fp16_dense", "memory_bandwidth")]
    if any(rate is None for rate in rates):
        macs = np.array([group.macs for group in groups], np.float64) * shape_of(graph.input)[0]
        return Gains(macs / 2, f"estimated from multiply-accumulates: the data sheet of {target.name} has no rates")
    int8, fp16, bandwidth = (float(rate or 0) for rate in rates)
    saved = [
        sum(
            _milliseconds(nodes[name], fp16, bandwidth, 2) - _milliseconds(nodes[name], int8, bandwidth, 1)
            for name in group.nodes
        )
        for group in groups
    ]
    return Gains(np.maximum(saved, 0.0), f"estimated by a roofline from the data sheet of {target.name}")


def measure_gains(
    groups: Sequence[LayerGroup], int8: Mapping[str, float], fp16: Mapping[str, float], estimated: Gains
) -> Gains:
    """What each group saves in int8 against fp16, by the profiles of two engines.

    TensorRT names a layer after the operators in it (`/a/Conv + /a/Relu`), so a layer's time goes to the groups whose
    operators it names, by their share of the multiply-accumulates. A group that either engine hides in a layer of
    another name keeps its estimate.

    Args:
        groups: Of the network.
        int8: Layer of the int8 engine -> milliseconds.
        fp16: Likewise of the fp16 engine.
        estimated: Of `estimate_gains`.

    Returns:
        Gains, never negative. `source` says how many are measured; with none, `estimated` as it is.
    """
    before, after = _share_out(groups, fp16), _share_out(groups, int8)
    known = np.isfinite(before) & np.isfinite(after)
    if not known.any():
        return estimated
    values = np.where(known, np.maximum(np.where(known, before - after, 0.0), 0.0), estimated.values)
    count = int(known.sum())
    rest = "" if count == len(groups) else f", of the other {len(groups) - count} {estimated.source}"
    return Gains(values, f"of {count} groups measured by the engines' profiler{rest}")


def _share_out(groups: Sequence[LayerGroup], layers: Mapping[str, float]) -> NDArray[np.float64]:
    """(groups,) milliseconds; not a number for a group that no layer names."""
    owner = {node: i for i, group in enumerate(groups) for node in group.nodes}
    times = np.full(len(groups), np.nan)
    for name, milliseconds in layers.items():
        named = {owner[word] for word in re.split(r"[\s+|,{}\[\]()]+|\.\.\.", name) if word in owner}
        whole = sum(groups[i].macs for i in named)
        for i in named:
            times[i] = np.nan_to_num(times[i]) + milliseconds * groups[i].macs / max(whole, 1)
    return times


def order_groups(losses: NDArray[np.float64], gains: NDArray[np.float64]) -> tuple[int, ...]:
    """Groups in the order in which they should go back to float: the most accuracy per time first.

    Args:
        losses: (groups,) nats saved by leaving each in float.
        gains: (groups,) time lost by it.

    Returns:
        Numbers of the groups. What costs no time comes first, ties in the order of the graph.
    """
    least = np.finfo(np.float64).tiny
    ratios = losses / np.maximum(gains, least)
    return tuple(int(i) for i in np.argsort(-ratios, kind="stable"))


def _milliseconds(node: ir.Node, rate: float, bandwidth: float, size: int) -> float:
    """Of one operator that reads elements of `size` bytes and writes fp16."""
    operations = 2 * macs_of(node)
    read = sum(math.prod(shape_of(input_of(node, i))) for i in (0, 1))
    moved = read * size + 2 * math.prod(shape_of(node.outputs[0]))
    return max(operations / (1e9 * rate), moved / (1e6 * bandwidth))


def _figure(target: Target, name: str) -> float | None:
    figure = target.figures.get(name)
    return float(figure.value) if figure is not None and isinstance(figure.value, int | float) else None
