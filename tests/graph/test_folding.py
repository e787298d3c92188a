"""What only reads constants is computed once, and is what ONNX Runtime computes."""

import numpy as np
import pytest

from edgehybrid.graph.folding import fold_constants
from tests.rewrites.net import ops
from tests.single import SingleNet, draw, run

GRID = np.arange(24.0).reshape(4, 6)


def pairs(*places: tuple[int, int]) -> np.ndarray:
    return np.array(places)


@pytest.mark.parametrize(
    ("data", "indices", "updates"),
    [
        (GRID, pairs((0, 1), (3, 5), (2, -1)), np.array([7, 8, 9])),
        (GRID, np.array([[2], [0]]), -GRID[:2]),  # whole rows
        (GRID, np.arange(4).reshape(2, 2, 1), np.ones((2, 2, 6))),
        (GRID, np.zeros((0, 2), np.int64), np.zeros(0)),
    ],
)
def test_numbers_put_into_a_table(data: np.ndarray, indices: np.ndarray, updates: np.ndarray) -> None:
    """BEiT's newer code fills its table of relative positions so, ten times for each layer."""
    net = SingleNet(1, 1, 4, 6, opset=18)
    table = net.op("ScatterND", net.const(data), net.const(indices, np.int64), net.const(updates))
    check_folded(net, table)


@pytest.mark.parametrize("indices", [np.array([[4]]), np.array([[0, 0, 0]])])
def test_an_impossible_place_is_left_to_the_backend_to_name(indices: np.ndarray) -> None:
    net = SingleNet(1, 1, 4, 6, opset=18)
    table = net.op("ScatterND", net.const(GRID), net.const(indices, np.int64), net.const(np.zeros((1, 6))))
    graph = net.graph(net.op("Add", "input", table))
    assert fold_constants(graph) == 0


def test_sums_of_products_and_masks_of_other_sizes() -> None:
    """D-FINE writes its frequencies as an Einsum, DETR makes the mask of its maps smaller."""
    net = SingleNet(1, 1, 4, 6, opset=18)
    outer = net.op("Einsum", net.const(np.arange(4.0)), net.const(np.arange(6.0)), equation="i,j->ij")
    check_folded(net, outer)
    net = SingleNet(1, 1, 4, 6, opset=18)
    mask = net.const(np.arange(8 * 12.0).reshape(1, 1, 8, 12))
    smaller = net.op(
        "Resize",
        mask,
        "",
        "",
        net.ints(1, 1, 4, 6),
        mode="nearest",
        coordinate_transformation_mode="asymmetric",
        nearest_mode="floor",
    )
    check_folded(net, smaller)


def check_folded(net: SingleNet, table: str) -> None:
    graph = net.graph(net.op("Add", "input", table))
    image = draw(graph)
    (want,) = run(graph, image)
    assert fold_constants(graph) >= 1
    assert ops(graph) == ["Add", "Identity"]
    np.testing.assert_array_equal(run(graph, image)[0], want)
