"""Refinement: the range with the least error at the output wins, means are put right, rounding beats the nearest."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from numpy.typing import NDArray

from edgehybrid.calibrator import sample
from edgehybrid.graph import Graph, label_nodes
from edgehybrid.graph.products import product_at
from edgehybrid.graph.tuning import Tuning, load_tuning, save_tuning
from edgehybrid.placement import plan
from edgehybrid.quantizer import choose_weight_scales, quantize
from edgehybrid.records import Adjustment, Dialect, Ranges, Rounding
from edgehybrid.tuner import refine
from tests.single import SingleNet, draw, observe, run


def one_sided() -> Graph:
    """A layer behind ReLU: what clipping takes away there has one sign."""
    net = SingleNet(1, 64, 32)
    return net.graph(net.linear(net.op("Relu", "input"), 32, 48))


def related() -> Graph:
    """A layer whose 32 inputs come from 8 numbers: what one weight does wrong, another can make up for."""
    net = SingleNet(1, 64, 8)
    return net.graph(net.linear(net.op("Relu", net.linear("input", 8, 32)), 32, 48))


def refined(
    graph: Graph,
    ranges: Ranges,
    others: list[Ranges],
    rounding: Rounding = "nearest",
    tied: tuple[tuple[str, ...], ...] = (),
    importance: Callable[[NDArray[np.float32]], NDArray[np.float32]] | None = None,
) -> tuple[Ranges, Tuning, tuple[Adjustment, ...]]:
    made = plan(graph, "fp32")
    products = [p for node in label_nodes(graph) if (p := product_at(node)) is not None]
    images = np.concatenate([draw(graph, seed) for seed in range(16)])
    kept = sample(graph, [images], products, 16, threads=1, rows=1024)
    weights = {p.node.outputs[0].name or "": kept.rows[p.node.outputs[0].name or ""] @ p.weight[0].T for p in products}
    return refine(
        graph,
        made,
        ranges,
        others,
        kept.rows,
        choose_weight_scales,
        tied=tied,
        importance=None if importance is None else {name: importance(y) for name, y in weights.items()},
        rounding=rounding,
    )


def error(graph: Graph, ranges: Ranges, tuning: Tuning | None = None) -> np.ndarray:
    """Output error on an input that nothing was fitted to."""
    x = draw(graph, 1234)
    found = run(quantize(graph, ranges, plan(graph, "fp32"), tuning), x)[0] - run(graph, x)[0]
    return found.reshape(-1, found.shape[-1]).astype(np.float64)


def amax(value: float, tensor: str = "relu_1") -> Ranges:
    return Ranges("mse", 16, "", {tensor: value})


def test_a_range_that_measures_better_is_taken() -> None:
    graph = one_sided()
    found, _, records = refined(graph, amax(1.0), [amax(3.0), amax(40.0)])
    assert found.tensors["relu_1"] == 3.0
    (record,) = [r for r in records if r.kind == "range"]
    assert record.accepted
    assert record.after_db > record.before_db + 10
    assert np.square(error(graph, found)).sum() < np.square(error(graph, amax(1.0))).sum() / 10


def test_a_range_that_measures_alike_is_not_taken() -> None:
    found, _, records = refined(one_sided(), amax(3.0), [amax(3.001)])
    assert found.tensors["relu_1"] == 3.0
    assert not next(r for r in records if r.kind == "range").accepted


def test_tied_tensors_keep_one_range() -> None:
    graph = one_sided()
    ranges = Ranges("mse", 16, "", {"relu_1": 1.0, "elsewhere": 1.0})
    better = replace(ranges, tensors={"relu_1": 3.0, "elsewhere": 3.0})
    found, _, _ = refined(graph, ranges, [better], tied=(("relu_1", "elsewhere"),))
    assert found.tensors == {"relu_1": 3.0, "elsewhere": 3.0}


def test_a_mean_error_is_taken_off_the_bias() -> None:
    graph = one_sided()
    _, tuning, records = refined(graph, amax(1.5), [])  # clips: every product loses some of its sum
    assert next(r for r in records if r.kind == "bias").accepted
    plain, corrected = error(graph, amax(1.5)), error(graph, amax(1.5), tuning)
    assert np.square(corrected.mean(axis=0)).sum() < np.square(plain.mean(axis=0)).sum() / 2
    assert np.square(corrected).sum() < np.square(plain).sum()


def test_rounding_beats_the_nearest_on_rows_it_has_not_seen() -> None:
    graph = related()
    ranges = amax(2.5, next(d.tensor for d in plan(graph, "fp32").decisions if d.kind == "activation"))
    _, nearest, _ = refined(graph, ranges, [])
    _, optimised, records = refined(graph, ranges, [], "optimized")
    assert next(r for r in records if r.kind == "rounding").accepted
    before, after = (np.square(error(graph, ranges, t)).sum() for t in (nearest, optimised))
    assert after < before


@pytest.mark.parametrize("dialect", ["fp32", "typed"])
def test_one_weight_of_two_layers_is_rounded_for_each_under_names_of_their_own(dialect: Dialect) -> None:
    """TensorRT refuses two layers of one name."""
    net = SingleNet(1, 64, 32)
    weight = net.weight(32, 32)
    hidden = net.op("MatMul", net.op("Relu", "input"), weight)
    graph = net.graph(net.op("MatMul", net.op("Relu", hidden), weight))
    ranges = observe(graph, draw(graph))
    _, tuning, _ = refined(graph, ranges, [], "optimized")
    assert len(tuning.levels) == 2
    written = quantize(graph, ranges, plan(graph, dialect), tuning)
    names = [node.name for node in written.nodes()]
    assert len(names) == len(set(names))
    assert sum(node.op_type == "DequantizeLinear" for node in written.nodes()) == 4


def test_without_adjustments_the_quantizer_writes_the_same() -> None:
    graph = one_sided()
    _, tuning, _ = refined(graph, amax(4.0), [])
    plain = Tuning(tuning.scales, tuning.levels, {})
    made = plan(graph, "fp32")
    assert quantize(graph, amax(4.0), made, plain).digest() == quantize(graph, amax(4.0), made).digest()


def test_a_tuning_survives_its_file(tmp_path: Path) -> None:
    _, tuning, _ = refined(one_sided(), amax(1.5), [])
    save_tuning(tuning, tmp_path / "a.npz")
    save_tuning(load_tuning(tmp_path / "a.npz"), tmp_path / "b.npz")
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()
    assert load_tuning(tmp_path / "a.npz").biases.keys() == tuning.biases.keys()


@pytest.mark.parametrize("importance", [None, np.ones_like])
def test_narrower_ranges_are_not_tried(importance: Callable[[NDArray[np.float32]], NDArray[np.float32]] | None) -> None:
    found, _, records = refined(one_sided(), amax(40.0), [amax(3.0)], importance=importance)
    assert found.tensors["relu_1"] == 40.0
    assert not next(r for r in records if r.kind == "range").accepted


@pytest.mark.parametrize(("half", "wanted"), [(0, 0.4), (1, 4.0)])
def test_errors_count_by_importance(half: int, wanted: float) -> None:
    """Half of the outputs read small inputs, the others large ones: the range is that of the half that matters."""
    net = SingleNet(1, 64, 32)
    small = np.arange(32) < 16
    scaled = net.op("Relu", net.op("Mul", "input", net.const(np.where(small, 0.1, 1.0))))
    weight = net.random.normal(size=(32, 48)) * (small[:, None] == (np.arange(48) < 24))
    graph = net.graph(net.op("MatMul", scaled, net.const(weight)))
    (tensor,) = {d.tensor for d in plan(graph, "fp32").decisions if d.kind == "activation"}

    def matters(y: NDArray[np.float32]) -> NDArray[np.float32]:
        return np.broadcast_to(np.arange(48) // 24 == half, y.shape).astype(np.float32)

    found, _, _ = refined(graph, amax(0.4, tensor), [amax(4.0, tensor)], importance=matters)
    assert found.tensors[tensor] == wanted
