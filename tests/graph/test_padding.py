"""A border that a rule describes is the one that ONNX Runtime adds by it."""

from pathlib import Path

import numpy as np
import onnx
import pytest

from edgehybrid.graph import Graph
from edgehybrid.graph.adoption import adopt
from edgehybrid.graph.padding import write_pads
from edgehybrid.graph.products import product_at
from tests.single import SingleNet, draw, run

OPERATORS = {
    "Conv": {},
    "depthwise": {},
    "MaxPool": {},
    "AveragePool": {"count_include_pad": 0},
    "AveragePool that counts its border": {"count_include_pad": 1},
    "LpPool": {},
}


def single(op: str, sides: tuple[int, int], kernel: tuple[int, int], **attributes: object) -> Graph:
    net = SingleNet(2, 4, *sides)
    if op in ("Conv", "depthwise"):
        weight = net.weight(6, 4, *kernel) if op == "Conv" else net.weight(4, 1, *kernel)
        return net.graph(net.op("Conv", "input", weight, group=1 if op == "Conv" else 4, **attributes))
    return net.graph(net.op(op.split()[0], "input", kernel_shape=kernel, **OPERATORS[op], **attributes))


@pytest.mark.parametrize("rule", ["SAME_UPPER", "SAME_LOWER", "VALID"])
@pytest.mark.parametrize("op", OPERATORS)
@pytest.mark.parametrize("sides", [(8, 7), (9, 12)])
@pytest.mark.parametrize(
    ("kernel", "strides"), [((1, 2), (1, 1)), ((3, 3), (2, 3)), ((4, 5), (4, 2)), ((2, 2), (2, 1)), ((3, 3), (1, 1))]
)
def test_the_written_border_is_that_of_the_rule(
    rule: str, op: str, sides: tuple[int, int], kernel: tuple[int, int], strides: tuple[int, int]
) -> None:
    graph = single(op, sides, kernel, strides=strides, auto_pad=rule)
    x = draw(graph)
    (want,) = run(graph, x)
    assert write_pads(graph) == 1
    assert not any("auto_pad" in node.attributes for node in graph.nodes())
    np.testing.assert_allclose(run(graph, x)[0], want, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("rule", ["SAME_UPPER", "SAME_LOWER"])
def test_a_rule_that_fixes_the_output_has_no_use_for_rounding_up(rule: str) -> None:
    graph = single("MaxPool", (7, 8), (3, 2), strides=(3, 2), auto_pad=rule, ceil_mode=1)
    x = draw(graph)
    (want,) = run(graph, x)
    assert write_pads(graph) == 1
    np.testing.assert_array_equal(run(graph, x)[0], want)


@pytest.mark.parametrize("attributes", [{"strides": (4, 4)}, {"dilations": (2, 2)}])
def test_a_rule_that_runtimes_read_differently_stays(attributes: dict[str, object]) -> None:
    assert write_pads(single("Conv", (8, 8), (1, 3), auto_pad="SAME_UPPER", **attributes)) == 0


def test_written_borders_stay() -> None:
    graph = single("Conv", (8, 8), (3, 3), pads=[1, 0, 1, 0])
    before = graph.to_bytes()
    assert write_pads(graph) == 0
    assert graph.to_bytes() == before


def test_what_has_no_shape_keeps_its_rule() -> None:
    graph = single("Conv", (8, 8), (3, 3), auto_pad="SAME_UPPER")
    graph.input.shape = None
    assert write_pads(graph) == 0
    assert onnx.load_model_from_string(graph.to_bytes()).graph.node[0].attribute


def test_convolutions_of_a_users_file_can_be_tuned_whatever_their_border(tmp_path: Path) -> None:
    net = SingleNet(1, 3, 8, 8)
    wide = net.op("Conv", "input", net.weight(8, 3, 3, 3), auto_pad="SAME_UPPER", strides=[2, 2])
    net.op("Conv", net.op("Relu", wide), net.weight(8, 8, 2, 2), auto_pad="SAME_LOWER")
    (tmp_path / "net.onnx").write_bytes(net.graph(net.nodes[-1].output[0]).to_bytes())
    graph = adopt(tmp_path / "net.onnx")
    assert all(product_at(node) is not None for node in graph.nodes("Conv"))
