"""Factors per channel: the function stays, every tensor that carries them is scaled, and sums are left alone."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from edgehybrid.graph import Graph, name_of, shape_of, values
from edgehybrid.tuner.channels import find_region
from edgehybrid.tuner.region import Region, write_factors
from tests.single import SingleNet, draw, run
from tests.tuner import nets


def tensor(graph: Graph, op: str, last: bool = True) -> str:
    """The output of the last (or first) operator of a type."""
    found = [name_of(node.outputs[0]) for node in graph.nodes(op)]
    return found[-1 if last else 0]


def test_a_product_that_carries_factors_gets_no_more_behind_it() -> None:
    """Where one factor of a SiLU is in the region, its result has the factors already."""
    net = SingleNet(1, 24, 6, 6)
    r, other = net.op("Relu", net.conv("input", 24, 16)), net.conv("input", 24, 16)
    scaled = net.op("Mul", r, net.const(2.0))
    product = net.op("Mul", scaled, net.op("Sigmoid", r))
    silu = net.op("Mul", other, net.op("Sigmoid", other))
    joined = net.op("Concat", scaled, silu, axis=1)
    graph = net.graph(net.op("Add", net.conv(joined, 32, 24), net.conv(product, 16, 24)))
    for name in (joined, scaled, product):
        region = region_of(graph, name, 1)
        if region is not None:
            check_scaled(graph, region, name)


def region_of(graph: Graph, name: str, axis: int) -> Region | None:
    return find_region(next(v for v in values(graph) if v.name == name), axis)


CASES: dict[str, tuple[Callable[[], Graph], str, int, set[str]]] = {
    "layer norm": (nets.normed, "LayerNormalization", -1, {"LayerNormalization"}),
    "batch norm before a padded convolution": (nets.rectified, "BatchNormalization", 1, {"BatchNormalization"}),
    "relu and pooling": (nets.rectified, "MaxPool", 1, {"Conv"}),
    "relu with slopes": (nets.parametric, "PRelu", 1, {"Conv"}),
    "product of two tensors": (nets.gated, "Mul", 1, {"Mul"}),
    "silu": (nets.swished, "Mul", 1, {"Mul"}),
    "hard swish": (nets.swished, "HardSwish", 1, {"HardSwish"}),
    "concatenation": (nets.joined, "Concat", 1, {"Conv"}),
    "values of an attention": (nets.attending, "Reshape", -1, {"MatMul"}),
}


@pytest.mark.parametrize("case", CASES)
@settings(max_examples=8)
@given(seed=st.integers(0, 10_000))
def test_the_function_stays_and_the_tensor_is_scaled(case: str, seed: int) -> None:
    make, op, axis, takers = CASES[case]
    graph = make()
    name = tensor(graph, op)
    region = region_of(graph, name, axis)
    assert region is not None
    index, sign = next(region.line(value, axis) for value in region.tensors if value.name == name)
    assert (index.tolist(), sign) == (list(range(region.factors)), 1)
    assert {node.op_type for node in region.takers} == takers
    check_scaled(graph, region, name, seed=seed)


def check_scaled(graph: Graph, region: Region, *names: str, seed: int = 0) -> None:
    """Each tensor is multiplied by its factors, and the network is the same function."""
    x = draw(graph, seed)
    before = run(graph, x, *names)
    factors = np.exp2(np.random.default_rng(seed).uniform(-3, 3, region.factors)).astype(np.float32)
    carried = {name_of(value): spread for value, spread in region.tensors.items()}
    write_factors(graph, region, factors)
    after = run(graph, x, *names)
    np.testing.assert_allclose(after[0], before[0], atol=2e-5 * np.abs(before[0]).max(), rtol=0)
    for name, old, new in zip(names, before[1:], after[1:], strict=True):
        index, _ = carried[name]
        wanted = old * np.where(index < 0, 1, factors[index])
        np.testing.assert_allclose(new, wanted, atol=2e-5 * np.abs(wanted).max(), rtol=0)


JOINED = {nets.joined: (2, 32), nets.overlapping: (3, 16 + 8 + 12), nets.dense: (4, 32)}


@pytest.mark.parametrize(
    ("make", "start"), [(make, start) for make, (parts, _) in JOINED.items() for start in range(parts)]
)
def test_what_is_concatenated_is_one_region(make: Callable[[], Graph], start: int) -> None:
    graph = make()
    parts, wholes = ([name_of(node.outputs[0]) for node in graph.nodes(op)] for op in ("Relu", "Concat"))
    region = region_of(graph, parts[start], 1)
    assert region is not None
    assert (len(parts), region.factors) == JOINED[make]
    check_scaled(graph, region, *parts, *wholes)


def test_beside_what_cannot_be_scaled_a_tensor_is_scaled_alone() -> None:
    graph = nets.half_fixed()
    assert region_of(graph, tensor(graph, "Concat"), 1) is None
    region = region_of(graph, tensor(graph, "Relu"), 1)
    assert region is not None
    assert region.factors == 16
    check_scaled(graph, region, tensor(graph, "Relu"), tensor(graph, "Concat"))


def test_tokens_one_after_the_other_have_the_same_factors() -> None:
    graph = nets.prepended()
    region = region_of(graph, tensor(graph, "Relu"), -1)
    assert region is not None
    assert region.factors == 32
    check_scaled(graph, region, tensor(graph, "Relu"), tensor(graph, "Concat"))


@pytest.mark.parametrize("make", [nets.beside_itself, nets.crossed, nets.averaged_channels, nets.compared])
def test_whatever_may_be_scaled_leaves_the_function(make: Callable[[], Graph]) -> None:
    for value in [node.outputs[0] for node in make().nodes()]:
        for axis in (1, -1) if len(shape_of(value)) == 4 else (-1,):
            graph = make()
            region = region_of(graph, name_of(value), axis)
            if region is not None:
                check_scaled(graph, region, name_of(value))


def test_powers_of_two_change_no_bit_of_the_output() -> None:
    graph = nets.rectified()
    region = region_of(graph, tensor(graph, "BatchNormalization"), 1)
    assert region is not None
    x = draw(graph)
    before = run(graph, x)[0]
    write_factors(graph, region, np.exp2(np.arange(region.factors) % 5 - 2).astype(np.float32))
    np.testing.assert_array_equal(run(graph, x)[0], before)


def test_queries_and_keys_exchange_their_range() -> None:
    graph = nets.attending()
    scores = next(n for n in graph.nodes("MatMul") if n.inputs[1] is not None and not n.inputs[1].is_initializer())
    q = scores.inputs[0]
    assert q is not None
    region = find_region(q, -1)
    assert region is not None
    assert {sign for _, sign in region.tensors.values()} == {1, -1}
    x = draw(graph)
    before = run(graph, x)[0]
    write_factors(graph, region, np.linspace(0.25, 4, region.factors).astype(np.float32))
    np.testing.assert_allclose(run(graph, x)[0], before, atol=1e-5)


@pytest.mark.parametrize("op", ["Add", "Softmax", "Erf"])
def test_what_cannot_pass_factors_blocks_them(op: str) -> None:
    graph = {"Add": nets.residual, "Softmax": nets.attending, "Erf": nets.gated}[op]()
    made = [node for node in graph.nodes(op) if not any(v is not None and v.is_initializer() for v in node.inputs)]
    name = name_of(made[0].outputs[0])
    assert region_of(graph, name, -1 if op != "Erf" else 1) is None


def test_a_constant_that_others_read_is_copied() -> None:
    graph = nets.gated()
    halves = [node for node in graph.nodes("Mul") if node.inputs[1] is not None and node.inputs[1].is_initializer()]
    assert len(halves) == 2
    shared = halves[0].inputs[1]
    halves[1].replace_input_with(1, shared)
    region = find_region(halves[1].outputs[0], 1)
    assert region is not None
    assert region.grows
    x = draw(graph)
    before = run(graph, x)[0]
    write_factors(graph, region, np.full(region.factors, 3, np.float32))
    np.testing.assert_allclose(run(graph, x)[0], before, rtol=1e-4, atol=1e-5)
    assert halves[0].inputs[1] is shared
