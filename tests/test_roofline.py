"""A floor is arithmetic and bytes over the rates of a data sheet, and nothing where a rate is unknown."""

import math
from dataclasses import replace

import pytest

from edgehybrid import placement, quantizer, resources, roofline
from edgehybrid.graph import Graph
from edgehybrid.graph.counting import count_macs
from edgehybrid.records import Figure, Target
from edgehybrid.roofline import Work, count, floor
from tests.single import SingleNet, draw, observe

FAST = Target(
    "fast",
    "Fast",
    "tensorrt",
    "typed",
    ("fp32", "fp16", "int8"),
    {
        "gpu_int8_dense": Figure(20.0, "test", "TOPS"),
        "gpu_fp16_dense": Figure(10.0, "test", "TFLOPS"),
        "gpu_fp32_dense": Figure(5.0, "test", "TFLOPS", confirmed=False),
        "memory_bandwidth": Figure(100.0, "test", "GB/s"),
    },
)


def without(*names: str) -> Target:
    return replace(FAST, figures={**FAST.figures, **{name: Figure(None, "unknown") for name in names}})


@pytest.fixture(scope="module")
def convolution() -> Graph:
    """3x3, 24 to 32 channels, 8x8 pixels, padded: 32 x 64 x 24 x 9 multiply-accumulates."""
    net = SingleNet(1, 24, 8, 8)
    return net.graph(net.conv("input", 24, 32, 3, pads=[1, 1, 1, 1]))


def test_a_convolution_is_counted_by_hand(convolution: Graph) -> None:
    work = count(convolution)
    assert work.ops == {"fp32": 2 * 32 * 64 * 24 * 9}
    ends = 4 * (24 * 64 + 32 * 64)
    weights = [math.prod(value.shape.numpy()) * 4 for value in convolution.body.initializers.values() if value.shape]
    assert work.bytes == ends + sum(weights)


def test_a_grouped_transposed_convolution_is_counted_by_hand() -> None:
    net = SingleNet(1, 24, 8, 8)
    graph = net.graph(net.op("ConvTranspose", "input", net.weight(24, 16, 2, 2), strides=[2, 2], group=2))
    assert count_macs(graph) == 24 * 64 * 16 * 2 * 2  # every pixel of every channel goes into 16 channels of 2x2
    assert count(graph).ops == {"fp32": 2 * count_macs(graph)}


def test_quantized_products_are_counted_as_int8_and_weigh_a_quarter(convolution: Graph) -> None:
    ranges, plan = observe(convolution, draw(convolution)), placement.plan(convolution, "typed")
    typed = count(quantizer.quantize(convolution, ranges, plan))
    assert typed.ops == {"int8": count(convolution).ops["fp32"]}
    assert typed.bytes < 0.6 * count(convolution).bytes
    half = count(quantizer.to_fp16(convolution))
    assert half.ops == {"fp16": count(convolution).ops["fp32"]}


def test_a_whole_network_has_two_operations_per_multiply_accumulate(cmt_ti_graph: Graph) -> None:
    work = count(cmt_ti_graph)
    assert sum(work.ops.values()) == 2 * count_macs(cmt_ti_graph)
    ranges = observe(cmt_ti_graph, draw(cmt_ti_graph))
    typed = count(quantizer.quantize(cmt_ti_graph, ranges, placement.plan(cmt_ti_graph, "typed")))
    assert sum(typed.ops.values()) == 2 * count_macs(cmt_ti_graph)
    assert typed.ops["int8"] > 0.5 * sum(typed.ops.values())
    assert "fp32" not in typed.ops


def test_the_slower_of_arithmetic_and_memory_bounds() -> None:
    busy = floor(Work({"int8": 40_000_000_000, "fp16": 10_000_000_000}, 1_000_000), FAST, "int8")
    assert busy.compute_ms == pytest.approx(2.0 + 1.0)  # 40 G at 20 T/s, then 10 G at 10 T/s
    assert busy.memory_ms == pytest.approx(0.01)
    assert (busy.ms, busy.bound, busy.status, busy.confirmed) == (busy.compute_ms, "compute", "estimated", True)
    fat = floor(Work({"int8": 1_000_000}, 50_000_000), FAST, "int8")
    assert (fat.ms, fat.bound) == (pytest.approx(0.5), "memory")


def test_a_floor_from_an_unconfirmed_figure_is_marked() -> None:
    assert not floor(Work({"fp32": 10}, 10), FAST, "fp32").confirmed


@pytest.mark.parametrize("name", ["gpu_int8_dense", "memory_bandwidth"])
def test_without_a_figure_there_is_no_floor_but_a_reason(name: str) -> None:
    found = floor(Work({"int8": 10}, 10), without(name), "int8")
    assert (found.ms, found.bound) == (None, None)
    assert found.reason == f"fast has no value for {name}"
    assert found.bytes == 10


def test_a_cpu_has_no_data_sheet_here_and_a_slower_mode_a_higher_floor() -> None:
    work = Work({"int8": 10**10}, 10**6)
    assert floor(work, resources.load_target("cpu"), "int8").ms is None
    full, low = (floor(work, resources.load_target(f"orin-nano-8gb@{mode}"), "int8").ms for mode in ("15w", "7w"))
    assert full is not None
    assert low is not None
    assert low > 1.4 * full


def test_rates_are_named_as_in_the_profiles() -> None:
    known = {name for target in resources.targets() for name in resources.load_target(target).figures}
    assert {*roofline.RATES.values(), "memory_bandwidth"} <= known
