"""The largest value of every tensor is exact, whatever the order of the images, and a broken network is named."""

import numpy as np
import pytest

from edgehybrid.calibrator import find_peaks
from edgehybrid.errors import ImagesError, StageError
from edgehybrid.graph import Graph, name_of, values
from tests.single import SingleNet, run


def chain(batch: int = 1) -> Graph:
    net = SingleNet(batch, 3, 4, 4)
    return net.graph(net.op("Sigmoid", net.op("Mul", net.op("Transpose", "input", perm=[0, 2, 3, 1]), net.const(-7.0))))


def images(count: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal((count, 3, 4, 4)).astype(np.float32)


def test_peaks_are_the_absolute_maxima_of_every_tensor() -> None:
    graph = chain()
    x = images(5)
    names = [name_of(v) for node in graph.nodes() for v in node.outputs]
    found = find_peaks(graph, [x[:2], x[2:]])
    assert set(found) == {"input", *names}
    for name in names[:-1]:
        want = max(float(np.abs(run(graph, one[None], name)[1]).max()) for one in x)
        assert found[name] == want
    assert found["input"] == float(np.abs(x).max())


@pytest.mark.parametrize("batch", [1, 2])
def test_peaks_do_not_depend_on_order_or_batching(batch: int) -> None:
    graph = chain(batch)
    x = images(5)
    assert find_peaks(graph, [x]) == find_peaks(graph, [x[[4, 2]], x[[0, 1, 3]]])


def test_the_given_graph_is_not_changed() -> None:
    graph = chain()
    before = graph.to_bytes()
    find_peaks(graph, [images(1)])
    assert graph.to_bytes() == before
    assert all("Reduce" not in name_of(v) for v in values(graph))


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_a_tensor_that_is_not_finite_is_named(value: float) -> None:
    net = SingleNet(1, 3, 4, 4)
    graph = net.graph(net.op("Relu", net.op("Add", "input", net.const(value))))
    with pytest.raises(StageError, match="is not finite") as caught:
        find_peaks(graph, [images(1)])
    assert "Add node" in caught.value.why


def test_no_images_are_refused() -> None:
    with pytest.raises(ImagesError):
        find_peaks(chain(), [])


@pytest.mark.parametrize("where", [False, True])
def test_what_a_mask_hides_before_a_softmax_does_not_count(where: bool) -> None:
    net = SingleNet(1, 4, 4)
    hidden = np.triu(np.ones((4, 4), bool), 1)
    if where:
        scores = net.op("Where", net.const(hidden, np.bool_), net.const(-np.inf), "input")
    else:
        scores = net.op("Add", "input", net.const(np.where(hidden, -np.inf, 0.0)))
    seen = net.op("Reshape", scores, net.const([1, 4, 4], np.int64))
    graph = net.graph(net.op("Softmax", seen, axis=-1))
    x = np.arange(-16, 0, dtype=np.float32).reshape(1, 4, 4)
    peaks = find_peaks(graph, [x])
    assert peaks[scores] == peaks[seen] == 16
    x[0, 2, 1] = np.inf
    with pytest.raises(StageError, match="is not finite"):
        find_peaks(graph, [x])
