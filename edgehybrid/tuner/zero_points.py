"""Zero points, which TensorRT's int8 lacks: shift what is never far below zero, so that it uses all 255 levels.

Behind ReLU, GELU or SiLU half of the levels of symmetric int8 stand for values that never occur. In real numbers
W x + b = W (x - z) + (b + W z), so with one number z for the whole tensor, about half of its range, x - z is rounded in
steps of half the size. TensorRT-RTX needs no kernel more for it (benchmarks/README.md): a ReLU becomes a Clip from -z
on, and what computes its input takes z off its bias, as do layers, norms and sums with a constant themselves;
behind other activation functions z is one more subtraction in the kernel that computes them. What reads the tensor
gives z back: products in their biases, a residual sum in the bias of its other branch.

A product with a border of zeros cannot: where it reads the border, z is not there. Zero gets a level of its own, as
half of what a ReLU makes is zero and would else be the same error everywhere (`align`).

Source:
    Jacob et al., "Quantization and Training of Neural Networks for Efficient Integer-Arithmetic-Only Inference", CVPR
    2018 (zero points, in the integer kernels themselves).
"""

import math
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from edgehybrid.decibels import decibels
from edgehybrid.errors import ArtifactError
from edgehybrid.graph import Graph, name_of, sweep, values
from edgehybrid.graph.half import FLOAT16_MAX
from edgehybrid.graph.products import Product, find_products
from edgehybrid.graph.structure import computed, input_of
from edgehybrid.graph.tuning import Tuning
from edgehybrid.printable import counted
from edgehybrid.records import LEVELS, Adjustment, Plan, Ranges
from edgehybrid.tuner.local import (
    TINY,
    ChooseRange,
    WeightScales,
    halves,
    multiply,
    round_rows,
    round_weight,
    scales_of,
    varying,
)
from edgehybrid.tuner.shifting import Site, find_readers, find_site, own_constant, take_off

GAIN = 0.8
"""A tensor is shifted where the error at its readers falls to this part of what it was, or less: 1 dB."""
SHARE = 0.53
"""The zero point, as part of what the tensor spans: a little more than half, as finer steps are worth clipping less."""
LEAST = 1 / 8
"""Nothing is tried where the zero point is nearer to zero than this part of the range: steps would hardly change."""


def shift(
    graph: Graph,
    plan: Plan,
    samples: Mapping[str, NDArray[np.float32]],
    choose_range: ChooseRange,
    weight_scales: WeightScales,
    *,
    loud: Collection[str] = (),
) -> tuple[Graph, dict[str, float], tuple[Adjustment, ...]]:
    """Shift every tensor that is never far below zero, where its readers can undo it and that measures better.

    A zero point is found on one half of the images and judged on the other; where it holds, the tensor gets that of
    all. Judged is the error that varies, as biases are corrected by its mean.

    Args:
        graph: float32. Not changed.
        plan: Its placement.
        samples: Output of each int8 product -> rows of its input, (groups, rows, in), halves of different images.
        choose_range: How the range of a tensor will be chosen.
        weight_scales: The quantizer's own.
        loud: Outputs of products that read what is loud on a few images. Shifted, the others would seem to fill it.

    Returns:
        A graph that is the same function up to float32 rounding; the zero point of each tensor that got one, from which
        `apply_zero_points` makes the same graph again; one record per tensor on which it was tried.
    """
    products = {product.output: product for product in find_products(graph, plan).values()}
    found: dict[str, float] = {}
    records = []
    for tensor, value in computed(graph).items():
        site = find_site(value)
        judged = [] if site is None else [p for p in site.products if p.output in products and p.output in samples]
        if site is None or not judged or any(p.output in loud for p in judged):
            continue
        record, zero_point = _try(site, judged, samples, choose_range, weight_scales)
        if record is None:
            continue
        records.append(record)
        if record.accepted:
            found[tensor] = zero_point
    return apply_zero_points(graph, found) if found else graph, found, tuple(records)


def apply_zero_points(graph: Graph, zero_points: Mapping[str, float]) -> Graph:
    """The graph that `shift` made when it wrote these zero points.

    Args:
        graph: float32, the one that was shifted. Not changed.
        zero_points: As `Ranges.zero_points`.

    Raises:
        ArtifactError: They are of another graph.
    """
    result = graph.clone()
    taken = {value.name for value in values(result)}
    for site, zero_point in list(_locate(result, zero_points)):
        take_off(result, site, np.float32(zero_point), taken)
    sweep(result)
    return result


def shift_rows(
    graph: Graph, zero_points: Mapping[str, float], rows: Mapping[str, NDArray[np.float32]]
) -> dict[str, NDArray[np.float32]]:
    """What sampling the shifted graph would give, from samples of the one before.

    Args:
        graph: float32, shifted, by these zero points or others of the same tensors.
        zero_points: As `Ranges.zero_points`.
        rows: Output of each int8 product -> rows of its input, (groups, rows, in).
    """
    shifted = dict(rows)
    for tensor, products in _find_rounded(graph, zero_points).items():
        zero_point = zero_points[tensor]
        for product in products:
            if product.output in shifted:
                shifted[product.output] = shifted[product.output] - np.float32(zero_point)
    return shifted


def align(graph: Graph, ranges: Ranges) -> Ranges:
    """The same with every zero point at the nearest multiple of the scale it is rounded with, so that zero has a level.

    Args:
        graph: float32, shifted by these zero points.
        ranges: Of this graph.
    """
    found = {}
    for tensor, names in find_shifted(graph, ranges.zero_points).items():
        amax = next((ranges.tensors[name] for name in names if name in ranges.tensors), 0.0)
        found[tensor] = _round_to_level(ranges.zero_points[tensor], amax)
    return replace(ranges, zero_points=found)


def find_shifted(graph: Graph, zero_points: Mapping[str, float]) -> dict[str, list[str]]:
    """Each tensor with a zero point -> those that its readers round: itself, or what it becomes on the way.

    Args:
        graph: float32, shifted by these zero points.
        zero_points: As `Ranges.zero_points`.
    """
    rounded = _find_rounded(graph, zero_points)
    return {tensor: [name_of(input_of(p.node, 0)) for p in products] for tensor, products in rounded.items()}


def _round_to_level(zero_point: float, amax: float) -> float:
    """The nearest multiple of the scale of a range, as float16 holds it; the same where zero is beyond all levels."""
    scale = float(np.float16(amax / LEVELS)) if zero_point else 0.0
    level = round(zero_point / scale) if scale > 0 else 0
    return float(np.float16(level * scale)) if 0 < abs(level) <= LEVELS else zero_point


def compensate_zero_points(
    graph: Graph, plan: Plan, zero_points: Mapping[str, float], weight_scales: WeightScales
) -> Tuning:
    """Biases that give zero points back through rounded weights, for builds without images to correct them by.

    Most of what an activation function makes lies near zero, where that leaves no error. Elsewhere nothing is changed.

    Args:
        graph: float32, shifted, the one that is quantized.
        plan: Its placement.
        zero_points: As `Ranges.zero_points`.
        weight_scales: The quantizer's own.
    """
    tuning, outputs = Tuning({}, {}, {}), computed(graph)
    int8 = {product.node: label for label, product in find_products(graph, plan).items()}
    for tensor, products in _find_rounded(graph, zero_points).items():
        maker = outputs[tensor].producer()
        if maker is None or own_constant(maker) is not None:
            continue
        for product in products:
            if product.node in int8:
                error = round_weight(product.weight, scales_of(product.weight, weight_scales)) - product.weight
                tuning.biases[int8[product.node]] = np.float32(zero_points[tensor]) * error.sum(axis=2).reshape(-1)
    return tuning


def _find_rounded(graph: Graph, zero_points: Mapping[str, float]) -> dict[str, list[Product]]:
    """The products that read each shifted tensor, in a graph that is shifted already."""
    made = computed(graph)
    return {tensor: find_readers(made[tensor])[0] for tensor in zero_points if tensor in made}


def _locate(graph: Graph, zero_points: Mapping[str, float]) -> Iterator[tuple[Site, float]]:
    """Where each zero point goes."""
    made = computed(graph)
    for tensor, zero_point in zero_points.items():
        site = find_site(made[tensor]) if tensor in made else None
        if site is None:
            raise ArtifactError(
                f"the zero point of '{tensor}' does not fit the network",
                why="it was chosen for a tensor that this network has not, or cannot shift",
                fix="calibrate this very network",
            )
        yield site, zero_point


def _try(
    site: Site,
    judged: Sequence[Product],
    samples: Mapping[str, NDArray[np.float32]],
    choose_range: ChooseRange,
    weight_scales: WeightScales,
) -> tuple[Adjustment | None, float]:
    """The zero point that all images ask for, and the record of the attempt; None where it would be next to nothing.

    Judged is one of half of the images, on the others, at the readers that are int8.
    """
    zero_point, share = _choose([samples[product.output] for product in judged], choose_range)
    if share < LEAST:
        return None, 0.0
    split = [halves(samples[product.output]) for product in judged]
    early, _ = _choose([first for first, _ in split], choose_range)
    before = after = 0.0
    for product, (_, rows) in zip(judged, split, strict=True):
        rounded = round_weight(product.weight, scales_of(product.weight, weight_scales))
        exact = multiply(rows, product.weight)
        signal = max(varying(exact), TINY)
        before += _error(rows, exact, rounded, 0.0, choose_range) / signal
        after += _error(rows, exact, rounded, early, choose_range) / signal
    count = len(judged)
    who = "a subtraction behind it" if site.host is None else f"a constant of the {site.host[0].op_type}"
    given = f" and {counted(len(site.sums), 'sum')}" if site.sums else ""
    note = f"{zero_point:.4g} taken off by {who}, given back by {counted(count, 'int8 reader')}{given}"
    accepted, name = 0 < before < math.inf and after <= GAIN * before, name_of(site.value)
    return Adjustment("zero point", name, accepted, decibels(count, before), decibels(count, after), note), zero_point


def _choose(rows: Sequence[NDArray[np.float32]], choose_range: ChooseRange) -> tuple[float, float]:
    """A zero point for what some rows show of a tensor, and its distance from zero as part of the range.

    It is one that float16 holds: both dialects take off the same.
    """
    together = np.concatenate([each.reshape(-1) for each in rows])
    reach = choose_range(together)
    least, most = (float(np.clip(end, -reach, reach)) for end in (together.min(), together.max()))
    wanted = SHARE * (least + most)
    if abs(wanted) > FLOAT16_MAX:
        return 0.0, 0.0
    zero_point = float(np.float16(wanted))
    return zero_point, abs(zero_point) / reach


def _error(
    rows: NDArray[np.float32],
    exact: NDArray[np.float32],
    rounded: NDArray[np.float32],
    zero_point: float,
    choose_range: ChooseRange,
) -> float:
    """What varies of the error at the output of a reader, whose rounded weight and exact output are given."""
    amax = choose_range(rows - np.float32(zero_point))
    shifted = rows - np.float32(_round_to_level(zero_point, amax))
    return varying(multiply(round_rows(shifted, amax), rounded) - exact)
