"""Zero points: given where they measure better, the same function, and written down completely."""

from pathlib import Path

import numpy as np
import pytest

from edgehybrid.calibrator import Samples, range_of, sample
from edgehybrid.errors import ArtifactError
from edgehybrid.graph import Graph, load, name_of
from edgehybrid.graph.products import find_products
from edgehybrid.placement import plan
from edgehybrid.quantizer import choose_weight_scales, quantize
from edgehybrid.records import Adjustment, Ranges
from edgehybrid.tuner import align, apply_zero_points, compensate_zero_points, shift, shift_rows
from edgehybrid.tuner.shifting import find_site
from tests.single import SingleNet, draw, observe, run


def activated(kind: str) -> Graph:
    """A convolution, something that leaves hardly anything below zero, and a 1x1 convolution."""
    net = SingleNet(1, 24, 8, 8, opset=20 if kind == "gelu operator" else 17)
    x = net.conv("input", 24, 32)
    if kind == "relu":
        x = net.op("Relu", x)
    elif kind == "relu6":
        x = net.op("Clip", x, net.const(np.float32(0)), net.const(np.float32(6)))
    elif kind == "relu of a norm":
        x = net.op("Relu", net.norm(net.depthwise(x, 32, 3), 32))
    elif kind == "pooled":
        x = net.op("MaxPool", net.op("Relu", x), kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1])
    elif kind == "silu":
        x = net.op("Mul", x, net.op("Sigmoid", x))
    elif kind == "hard swish":
        x = net.op("HardSwish", x)
    elif kind == "gelu operator":
        x = net.gelu(x, form="op")
    elif kind == "far from zero":
        x = net.op("Add", net.op("Abs", x), net.const(np.full((1, 32, 1, 1), 4.0)))
    else:
        x = net.gelu(x)
    return net.graph(net.conv(x, 32, 16))


def bottlenecks() -> Graph:
    """Two residual blocks behind ReLUs, then the mean of each channel and a linear layer, as in ResNet."""
    net = SingleNet(1, 24, 8, 8)
    x = net.op("Relu", net.conv("input", 24, 32))
    for _ in range(2):
        y = net.op("Relu", net.conv(x, 32, 24))
        y = net.op("Relu", net.conv(y, 24, 24, 3, pads=[1, 1, 1, 1]))
        x = net.op("Relu", net.op("Add", net.conv(y, 24, 32), x))
    return net.graph(net.linear(net.reshape(net.op("GlobalAveragePool", x), 1, 32), 32, 10))


KINDS = ("relu", "relu6", "relu of a norm", "pooled", "gelu", "gelu operator", "silu", "hard swish", "far from zero")
GRAPHS = {**{kind: activated(kind) for kind in KINDS}, "bottlenecks": bottlenecks()}


def taken(graph: Graph) -> Samples:
    """Rows of eight images."""
    products = list(find_products(graph, plan(graph, "fp32")).values())
    images = np.concatenate([draw(graph, seed) for seed in range(8)])
    return sample(graph, [images], products, 8, threads=1)


def shifted(graph: Graph) -> tuple[Graph, dict[str, float], tuple[Adjustment, ...]]:
    return shift(graph, plan(graph, "fp32"), taken(graph).rows, range_of, choose_weight_scales)


@pytest.mark.parametrize("name", GRAPHS)
def test_what_lies_on_one_side_of_zero_is_shifted_and_the_function_stays(name: str) -> None:
    graph = GRAPHS[name]
    result, found, records = shifted(graph)
    assert found
    assert found.keys() == {record.site for record in records if record.accepted}
    assert all(record.after_db > record.before_db + 1 for record in records if record.accepted)
    x = draw(graph, 99)
    before, *there = run(graph, x, *found)
    after, *moved = run(result, x, *found)
    np.testing.assert_allclose(after, before, atol=1e-5 * max(1.0, float(np.abs(before).max())))
    for tensor, was, now in zip(found, there, moved, strict=True):
        np.testing.assert_allclose(now, np.asarray(was) - np.float32(found[tensor]), atol=1e-5 * np.abs(was).max())
        assert np.abs(now).max() < 0.8 * np.abs(was).max()


@pytest.mark.parametrize("name", GRAPHS)
def test_an_operator_more_is_put_in_only_behind_activation_functions(name: str) -> None:
    graph = GRAPHS[name]
    result, found, _ = shifted(graph)
    more = len(list(result.nodes())) - len(list(graph.nodes()))
    assert more == (1 if name in ("gelu", "gelu operator", "silu", "hard swish") else 0)
    assert len(list(result.nodes("Sub"))) == more
    rectified = sum(next(n for n in graph.nodes() if n.outputs[0].name == t).op_type == "Relu" for t in found)
    assert len(list(result.nodes("Clip"))) == len(list(graph.nodes("Clip"))) + rectified


def test_a_residual_stream_gives_its_zero_point_back_in_the_other_branch() -> None:
    graph = GRAPHS["bottlenecks"]
    _, found, records = shifted(graph)
    assert len(found) == 4  # not what the padded convolutions read, nor what nobody reads in int8
    assert any("1 int8 reader and 1 sum" in record.note for record in records)
    for record in records:
        tensor = next(v for n in graph.nodes() for v in n.outputs if v.name == record.site)
        assert not any(any(use.node.attributes.get_ints("pads", ())) for use in tensor.uses())


@pytest.mark.parametrize("name", GRAPHS)
def test_the_shifted_graph_is_what_is_made_again_and_read_back_from_its_file(name: str, tmp_path: Path) -> None:
    graph = GRAPHS[name]
    result, found, _ = shifted(graph)
    assert apply_zero_points(graph, found).digest() == result.digest()
    (tmp_path / "shifted.onnx").write_bytes(result.to_bytes())
    assert load(tmp_path / "shifted.onnx").to_bytes() == result.to_bytes()


@pytest.mark.parametrize("name", GRAPHS)
def test_shifted_rows_are_what_the_shifted_graph_gives(name: str) -> None:
    graph = GRAPHS[name]
    result, found, _ = shifted(graph)
    expected, rows = taken(result).rows, shift_rows(result, found, taken(graph).rows)
    assert expected.keys() == rows.keys()
    for output, one in expected.items():
        np.testing.assert_allclose(rows[output], one, atol=1e-4)


def read_by(reader: str) -> Graph:
    """A ReLU that somebody reads who cannot give a zero point back, beside a 1x1 convolution."""
    net = SingleNet(1, 24, 8, 8)
    x = net.conv("input", 24, 32)
    rectified = net.op("Relu", x)
    y = net.conv(rectified, 32, 32)
    if reader == "padded":
        y = net.op("Add", y, net.conv(rectified, 32, 32, 3, pads=[1, 1, 1, 1]))
    elif reader == "product":
        y = net.op("Mul", y, rectified)
    elif reader == "what the ReLU reads":
        y = net.op("Add", y, x)
    elif reader == "unbiased":
        tokens = net.transpose(net.reshape(rectified, 1, 32, 64), 0, 2, 1)
        y = net.op("Concat", net.linear(tokens, 32, 32, bias=False), tokens, axis=1)
    elif reader == "sum with a constant":
        y = net.op("Mul", y, net.op("Add", rectified, net.weight(1, 32, 1, 1)))
    elif reader == "both sides":
        return net.graph(net.conv(x, 32, 32))
    return net.graph(y)


@pytest.mark.parametrize("reader", ["padded", "product", "what the ReLU reads", "unbiased", "both sides"])
def test_other_readers_and_what_has_two_sides_are_no_sites(reader: str) -> None:
    graph = read_by(reader)
    assert shifted(graph) == (graph, {}, ())


def test_a_sum_with_a_constant_gives_the_zero_point_back() -> None:
    graph = read_by("sum with a constant")
    result, found, _ = shifted(graph)
    assert len(found) == 1
    x = draw(graph, 99)
    before = run(graph, x)[0]
    np.testing.assert_allclose(run(result, x)[0], before, atol=1e-5 * np.abs(before).max())


def test_what_the_network_gives_out_is_no_site() -> None:
    net = SingleNet(1, 24, 8, 8)
    x = net.op("Relu", net.conv("input", 24, 32))
    graph = net.graph(net.conv(x, 32, 16))
    assert shifted(graph)[1]
    graph.body.outputs.append(next(graph.nodes("Relu")).outputs[0])
    assert shifted(graph)[1:] == ({}, ())


def test_what_a_few_images_fill_is_left_alone() -> None:
    graph = GRAPHS["relu"]
    calm = np.concatenate([draw(graph, seed) for seed in range(8)])
    loud = calm * np.where(np.arange(8) == 3, 9, 1)[:, None, None, None].astype(np.float32)
    products = list(find_products(graph, plan(graph, "fp32")).values())
    for images, expected in ((calm, 1), (loud, 0)):
        kept = sample(graph, [images], products, 8, threads=1)
        found = shift(graph, plan(graph, "fp32"), kept.rows, range_of, choose_weight_scales, loud=kept.loud)[1]
        assert len(found) == expected


@pytest.mark.parametrize("name", GRAPHS)
def test_aligned_zero_points_are_levels_of_the_tensor_that_is_rounded(name: str) -> None:
    graph = GRAPHS[name]
    result, found, _ = shifted(graph)
    ranges = observe(result, draw(graph, 5))
    aligned = align(result, Ranges(ranges.method, 1, ranges.sha256, ranges.tensors, zero_points=found)).zero_points
    assert aligned.keys() == found.keys()
    assert all(float(np.float16(zero_point)) == zero_point for zero_point in aligned.values())
    scales = [float(np.float16(amax / 127)) for amax in ranges.tensors.values()]
    for tensor, zero_point in aligned.items():
        levels = [zero_point / scale for scale in scales if abs(zero_point - found[tensor]) <= 0.51 * scale]
        assert name == "far from zero" or any(abs(level - round(level)) < 0.04 for level in levels)
    again = apply_zero_points(graph, aligned)
    x = draw(graph, 98)
    before = run(graph, x)[0]
    np.testing.assert_allclose(run(again, x)[0], before, atol=1e-5 * max(1.0, float(np.abs(before).max())))


def test_compensated_biases_take_back_what_rounded_weights_make_of_a_zero_point() -> None:
    graph = GRAPHS["relu"]
    result, found, _ = shifted(graph)
    made = plan(result, "fp32")
    tuning = compensate_zero_points(result, made, found, choose_weight_scales)
    assert not tuning.levels
    assert len(tuning.biases) == 1
    x = draw(graph, 3)
    ranges = observe(result, x)
    errors = []
    for each in (None, tuning):
        difference = np.asarray(run(quantize(result, ranges, made, each), x)[0]) - np.asarray(run(graph, x)[0])
        errors.append(float(np.abs(difference.mean(axis=(0, 2, 3))).mean()))
    assert errors[1] < 0.5 * errors[0]


@pytest.mark.parametrize("zero_points", [{"nowhere": 1.0}, {"input": 1.0}])
def test_zero_points_of_another_graph_are_refused(zero_points: dict[str, float]) -> None:
    with pytest.raises(ArtifactError, match="does not fit the network"):
        apply_zero_points(GRAPHS["relu"], zero_points)


def test_nodes_without_names_get_names_that_differ() -> None:
    net = SingleNet(1, 24, 8, 8)
    x = net.conv(net.gelu(net.conv("input", 24, 32)), 32, 32)
    graph = net.graph(net.conv(net.gelu(x), 32, 16))
    for node in graph.nodes():
        node.name = ""
    result, found, _ = shifted(graph)
    assert len(found) == 2
    names = [node.name for node in result.nodes("Sub")]
    assert len({*names, ""}) == 3


def test_a_second_output_has_no_constant_of_its_own() -> None:
    net = SingleNet(1, 16, 24)
    net.op("LayerNormalization", "input", net.weight(24), net.weight(24), outputs=3, axis=-1)
    mean = net.op("Relu", net.last_outputs()[1])
    graph = net.graph(net.linear(net.op("Add", mean, net.op("Mul", "input", net.const(0.0))), 24, 24))
    value = next(node.outputs[0] for node in graph.nodes("Relu"))
    assert find_site(value) is None


def test_zero_points_beyond_float16_are_not_given() -> None:
    net = SingleNet(1, 24, 8, 8)
    x = net.op("Relu", net.op("Mul", net.conv("input", 24, 32), net.const(1e6)))
    graph = net.graph(net.conv(net.op("Add", x, net.weight(1, 32, 1, 1)), 32, 16))
    assert shifted(graph)[1:] == ({}, ())


def test_a_constant_with_a_number_per_row_gives_nothing_back() -> None:
    for shape in ((4, 1), (4, 24), (24,), (1,)):
        net = SingleNet(4, 32)
        x = net.op("Relu", net.op("Gemm", "input", net.weight(32, 32), net.weight(32)))
        graph = net.graph(net.op("Gemm", x, net.weight(32, 24), net.weight(*shape)))
        site = find_site(next(node.outputs[0] for node in graph.nodes("Relu")))
        assert (site is None) == (shape == (4, 1))


def test_the_tensor_that_is_rounded_keeps_its_name() -> None:
    for graph in GRAPHS.values():
        result, found, _ = shifted(graph)
        names = {d.tensor for d in plan(graph, "fp32").decisions if d.kind == "activation"}
        assert names == {d.tensor for d in plan(result, "fp32").decisions if d.kind == "activation"}
        assert {name_of(node.outputs[0]) for node in result.nodes()} >= set(found)
