"""Samples: rows of what products read, and the span of each channel, in half of the images and in all."""

import numpy as np
import pytest

from edgehybrid.calibrator import rows_per_batch, sample
from edgehybrid.calibrator.samples import ELEMENTS, LEAST_ROWS
from edgehybrid.errors import StageError
from edgehybrid.graph.products import product_at
from tests.single import SingleNet, draw


def test_the_span_of_a_channel_is_from_its_smallest_to_its_largest_value() -> None:
    net = SingleNet(1, 16, 8, 8)
    graph = net.graph(net.conv("input", 16, 32, 3, pads=[1, 1, 1, 1]))
    product = product_at(next(graph.nodes("Conv")))
    assert product is not None
    images = np.concatenate([draw(graph, seed) for seed in range(6)])
    images[4, 3] *= 100  # channel 3 wakes in the second half
    kept = sample(graph, [images], [product], 6, threads=1)
    ((name, span),) = kept.span.items()
    np.testing.assert_array_equal(span, [images.min(axis=(0, 2, 3)), images.max(axis=(0, 2, 3))])
    early = images[:3]
    np.testing.assert_array_equal(kept.early_span[name], [early.min(axis=(0, 2, 3)), early.max(axis=(0, 2, 3))])
    assert (np.abs(span[:, 3]) > 10 * np.abs(kept.early_span[name][:, 3])).all()


@pytest.mark.parametrize("batch", [1, 2, 4, 8])
def test_what_is_loud_on_a_few_images_does_not_depend_on_the_batch(batch: int) -> None:
    net = SingleNet(batch, 24, 8, 8)
    graph = net.graph(net.conv("input", 24, 32))
    product = product_at(next(graph.nodes("Conv")))
    assert product is not None
    images = np.concatenate([draw(graph, seed)[:1] for seed in range(18)])
    assert not sample(graph, [images], [product], 18, threads=1).loud
    images[[3, 17]] *= 9
    assert sample(graph, [images], [product], 18, threads=1).loud == {product.output}


@pytest.mark.parametrize("groups", [1, 16])
def test_rows_are_those_of_every_call_one_after_the_other(groups: int) -> None:
    net = SingleNet(2, 16, 8, 8)
    graph = net.graph(net.conv("input", 16, 32, 3, pads=[1, 1, 1, 1], group=groups))
    product = product_at(next(graph.nodes("Conv")))
    assert product is not None
    images = np.concatenate([draw(graph, seed) for seed in range(3)])[:5]  # two pairs and one left over
    (rows,) = sample(graph, [images], [product], 5, rows=60, threads=1).rows.values()
    pairs = [images[:2], images[2:4], images[[4, 4]]]
    count = rows_per_batch(product, 60, 2)
    wanted = [product.rows(pair, count, ordinal) for ordinal, pair in enumerate(pairs)]
    np.testing.assert_array_equal(rows, np.concatenate(wanted, axis=1))
    assert rows.flags.c_contiguous


@pytest.mark.parametrize(("width", "wanted"), [(32, 768), (1024, 256), (100_000, LEAST_ROWS)])
def test_wide_layers_get_fewer_rows(width: int, wanted: int) -> None:
    net = SingleNet(1, 4, width)
    product = product_at(next(net.graph(net.linear("input", width, 16)).nodes("MatMul")))
    assert product is not None
    assert rows_per_batch(product, 768, 1) == wanted
    assert rows_per_batch(product, 768, 8) == wanted // 8
    assert rows_per_batch(product, 768, 10_000) == 1
    assert wanted * width <= ELEMENTS or wanted == LEAST_ROWS


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_a_product_reads_must_be_finite(value: float) -> None:
    net = SingleNet(2, 3)
    relu = net.op("Identity", net.op("Mul", "input", net.const(2.0)))
    graph = net.graph(net.op("MatMul", relu, net.weight(3, 4)))
    (node,) = graph.nodes("MatMul")
    product = product_at(node)
    assert product is not None
    x = draw(graph)
    x[1, 2] = value
    with pytest.raises(StageError, match="is not finite"):
        sample(graph, [x], [product], 2)
