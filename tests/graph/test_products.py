"""Products: rows times matrix is what the node computes, whatever its geometry."""

import numpy as np
import pytest

from edgehybrid.graph import Graph, label_nodes, name_of
from edgehybrid.graph.products import bias_place, find_products, product_at
from edgehybrid.placement import plan
from tests.single import SingleNet, draw, run


def conv(**attributes: object) -> Graph:
    net = SingleNet(2, 12, 9, 8)
    return net.graph(net.conv("input", 12, 18, 3, bias=False, **attributes))


@pytest.mark.parametrize(
    "attributes",
    [
        {},
        {"pads": [1, 1, 1, 1]},
        {"pads": [2, 0, 1, 1], "strides": [2, 1]},
        {"dilations": [2, 2], "pads": [2, 2, 2, 2]},
        {"group": 3, "pads": [1, 1, 1, 1]},
        {"group": 6},
    ],
)
def test_a_convolution_is_a_product_of_its_patches(attributes: dict[str, object]) -> None:
    graph = conv(**attributes)
    product = product_at(next(graph.nodes("Conv")))
    assert product is not None
    x = draw(graph)
    rows = product.rows(x, 10_000, 0)
    y = rows @ product.weight.transpose(0, 2, 1)  # groups, positions, out
    wanted = run(graph, x)[0]
    got = np.moveaxis(y, 0, 1).reshape(2, *wanted.shape[2:], 18)
    np.testing.assert_allclose(np.moveaxis(got, -1, 1), wanted, rtol=1e-4, atol=1e-5)
    assert product.channels.max() == 11


@pytest.mark.parametrize("count", [7, 10_000])
@pytest.mark.parametrize("attributes", [{"group": 3, "pads": [1, 1, 1, 1]}, {"strides": [2, 1]}])
def test_outputs_are_those_of_the_rows(attributes: dict[str, object], count: int) -> None:
    net = SingleNet(20, 32)
    tokens = net.graph(net.op("Gemm", "input", net.weight(32, 48)))
    for graph, op in ((conv(**attributes), "Conv"), (tokens, "Gemm")):
        product = product_at(next(graph.nodes(op)))
        assert product is not None
        x = draw(graph)
        got = product.outputs(run(graph, x)[0], count, 3)
        np.testing.assert_allclose(product.rows(x, count, 3) @ product.weight.transpose(0, 2, 1), got, atol=1e-4)


@pytest.mark.parametrize("flipped", [0, 1])
def test_a_gemm_is_one_too(flipped: int) -> None:
    net = SingleNet(20, 32)
    graph = net.graph(net.op("Gemm", "input", net.weight(48, 32) if flipped else net.weight(32, 48), transB=flipped))
    product = product_at(next(graph.nodes("Gemm")))
    assert product is not None
    x = draw(graph)
    np.testing.assert_allclose((product.rows(x, 99, 0) @ product.weight.transpose(0, 2, 1))[0], run(graph, x)[0], atol=1e-5)  # fmt: skip # noqa: E501


def test_rows_differ_from_image_to_image_and_repeat_at_every_call() -> None:
    graph = conv(pads=[1, 1, 1, 1])
    product = product_at(next(graph.nodes("Conv")))
    assert product is not None
    x = draw(graph)
    first, again, other = (product.rows(x, 16, ordinal) for ordinal in (0, 0, 1))
    assert first.shape[1] <= 16
    np.testing.assert_array_equal(first, again)
    assert first.shape != other.shape or not np.array_equal(first, other)


def test_a_product_of_two_tensors_is_none() -> None:
    net = SingleNet(1, 16, 16)
    graph = net.graph(net.op("MatMul", "input", net.transpose("input", 0, 2, 1)))
    assert product_at(next(graph.nodes("MatMul"))) is None


def test_the_int8_ones_of_a_plan_come_by_label() -> None:
    net = SingleNet(1, 16, 32)
    last = net.linear("input", 32, 32)
    for _ in range(10):  # matmul_10 comes before matmul_2 by label, after it in the graph
        last = net.linear(net.op("Relu", last), 32, 32)
    graph = net.graph(last)
    made = plan(graph, "fp32")
    found = find_products(graph, made)
    assert list(found) == sorted({d.node for d in made.decisions if d.kind == "weight"})
    assert list(found) != [label for label in label_nodes(graph).values() if label in found]
    assert all(product.node.op_type == "MatMul" for product in found.values())


def test_where_a_bias_is() -> None:
    net = SingleNet(1, 16, 32)
    x = net.linear(net.linear("input", 32, 32), 32, 32, bias=False)
    first, second = net.graph(x).nodes("MatMul")
    place = bias_place(first)
    assert place is not None
    assert (place[0].op_type, name_of(first.outputs[0])) == ("Add", "matmul_2")
    assert bias_place(second) is None
    assert bias_place(next(conv().nodes("Conv"))) is not None
