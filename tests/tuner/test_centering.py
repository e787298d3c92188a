"""Centring: put in where offsets drown what varies, the same function, and written down completely."""

from pathlib import Path

import numpy as np
import pytest

from edgehybrid.calibrator import Samples, range_of, sample
from edgehybrid.errors import ArtifactError
from edgehybrid.graph import Graph, constant, load
from edgehybrid.graph.products import find_products
from edgehybrid.placement import plan
from edgehybrid.records import Adjustment
from edgehybrid.tuner import apply_offsets, center, center_rows
from tests.single import SingleNet, draw, run
from tests.tuner import nets

OFFSET = 300.0


def stream(*, offset: float = OFFSET, reader: str = "linear") -> Graph:
    """A residual sum with an offset per channel, which a layer reads, and a norm as it is."""
    net = SingleNet(1, 16, 24)
    away = net.const(offset * net.random.choice([-1, 1], 24))
    x = net.op("Add", net.op("Add", net.linear("input", 24, 24), away), net.op("Relu", "input"))
    maps = net.reshape(net.transpose(x, 0, 2, 1), 1, 24, 4, 4)
    if reader == "linear":
        y = net.linear(x, 24, 24)
    elif reader == "unbiased":
        y = net.linear(x, 24, 24, bias=False)
    elif reader == "strided":
        y = net.reshape(net.conv(maps, 24, 96, 2, bias=False, strides=[2, 2]), 1, 16, 24)
    else:
        y = net.transpose(net.reshape(net.conv(maps, 24, 24, 3, pads=[1, 1, 1, 1]), 1, 24, 16), 0, 2, 1)
    normed = net.op("LayerNormalization", x, net.weight(24), net.weight(24), axis=-1)
    return net.graph(net.op("Add", y, normed))


def normed(reader: str, *, offset: float = OFFSET) -> Graph:
    """A norm whose bias is an offset per channel, and who reads it."""
    net = SingleNet(1, 16, 24)
    away = net.const(offset * net.random.choice([-1, 1], 24))
    x = net.op("LayerNormalization", "input", net.weight(24), away, axis=-1)
    if reader == "layer":
        return net.graph(net.linear(x, 24, 24))
    maps = net.reshape(net.transpose(x, 0, 2, 1), 1, 24, 4, 4)
    if reader == "convolution":
        return net.graph(net.conv(maps, 24, 8, 2, strides=[2, 2]))
    if reader == "float too":  # the depthwise one
        small = net.reshape(net.conv(maps, 24, 24, 2, group=24, strides=[2, 2]), 1, 24, 4)
        return net.graph(net.op("MatMul", net.linear(x, 24, 24), small))
    if reader == "padded too":
        return net.graph(net.conv(maps, 24, 8, 3, pads=[1, 1, 1, 1]))
    return net.graph(net.op("Add", net.linear(x, 24, 24), x))


def shifted(shape: tuple[int, ...] = (1,), *, offset: float = OFFSET, tokens: bool = False, reader: str = "") -> Graph:
    """Channels far from zero behind an activation, then a learned constant, as PP-LCNetV3 has them."""
    net = SingleNet(1, 16, 32) if tokens else SingleNet(1, 32, 4, 4)
    away = net.const(offset * net.random.uniform(1, 2, 32 if tokens else (32, 1, 1)))
    layer = net.linear if tokens else net.conv
    x = net.op("Relu", net.op("Add", layer("input", 32, 32), away))
    x = net.op("Add", x, net.weight(*shape))
    if reader == "padded":
        return net.graph(net.conv(x, 32, 32, 3, pads=[1, 1, 1, 1]))
    y = layer(x, 32, 32)
    return net.graph(net.op("Add", y, x) if reader == "sum too" else y)


SUMS = [shifted(), shifted(()), shifted((32, 1, 1)), shifted((1, 32, 1, 1)), shifted(tokens=True)]


def taken(graph: Graph) -> Samples:
    """Rows of eight images."""
    products = list(find_products(graph, plan(graph, "fp32")).values())
    images = np.concatenate([draw(graph, seed) for seed in range(8)])
    return sample(graph, [images], products, 8, threads=1)


def centred(graph: Graph) -> tuple[Graph, dict[str, str], tuple[Adjustment, ...]]:
    return center(graph, plan(graph, "fp32"), taken(graph).rows, range_of)


@pytest.mark.parametrize("reader", ["linear", "strided"])
def test_the_centred_graph_is_what_is_read_back_from_its_file(reader: str, tmp_path: Path) -> None:
    result, offsets, _ = centred(stream(reader=reader))
    assert offsets
    (tmp_path / "centred.onnx").write_bytes(result.to_bytes())
    assert load(tmp_path / "centred.onnx").to_bytes() == result.to_bytes()


@pytest.mark.parametrize("reader", ["linear", "strided"])
def test_offsets_are_taken_off_and_the_function_stays(reader: str) -> None:
    graph = stream(reader=reader)
    result, offsets, (record,) = centred(graph)
    assert record.accepted
    assert record.after_db > record.before_db + 20
    assert list(offsets) == [record.site]
    (sub,) = result.nodes("Sub")
    (norm,) = result.nodes("LayerNormalization")
    assert sub.inputs[0] is norm.inputs[0] or reader != "linear"  # the norm reads what it read
    (weighted,) = [d for d in plan(result, "fp32").decisions if d.kind == "activation" and d.tensor != "input"]
    assert weighted.tensor == sub.outputs[0].name
    x = draw(graph, 99)
    before = run(graph, x)[0]
    np.testing.assert_allclose(run(result, x)[0], before, atol=1e-5 * OFFSET)


def test_without_offsets_nothing_is_put_in() -> None:
    graph = stream(offset=0.0)
    result, offsets, (record,) = centred(graph)
    assert not record.accepted
    assert (result, offsets) == (graph, {})


@pytest.mark.parametrize("reader", ["layer", "convolution", "float too"])
def test_a_norm_takes_the_offsets_off_its_own_bias(reader: str, tmp_path: Path) -> None:
    graph = normed(reader)
    result, offsets, (record,) = centred(graph)
    assert record.accepted
    assert record.after_db > record.before_db + 20
    assert [n.op_type for n in result.nodes()] == [n.op_type for n in graph.nodes()]  # it costs no operator
    (norm,) = result.nodes("LayerNormalization")
    left = constant(norm.inputs[2])
    assert left is not None
    assert np.abs(left).max() < OFFSET / 100
    x = draw(graph, 99)
    before = run(graph, x)[0]
    np.testing.assert_allclose(run(result, x)[0], before, atol=1e-5 * np.abs(before).max())
    assert apply_offsets(graph, offsets).digest() == result.digest()
    (tmp_path / "centred.onnx").write_bytes(result.to_bytes())
    assert load(tmp_path / "centred.onnx").to_bytes() == result.to_bytes()  # no bias is left over


@pytest.mark.parametrize("reader", ["layer", "convolution", "float too"])
def test_a_norm_without_offsets_stays(reader: str) -> None:
    graph = normed(reader, offset=0.0)
    result, offsets, (record,) = centred(graph)
    assert not record.accepted
    assert (result, offsets) == (graph, {})


@pytest.mark.parametrize(
    "graph",
    [
        *(stream(reader=reader) for reader in ("padded", "unbiased")),
        nets.attending(),
        *(normed(reader) for reader in ("padded too", "sum too")),
        *(shifted(reader=reader) for reader in ("padded", "sum too")),
        *(shifted(shape) for shape in ((4, 4), (1, 1, 4, 4))),
    ],
)
def test_padding_a_missing_bias_and_other_makers_or_readers_are_no_sites(graph: Graph) -> None:
    assert centred(graph)[1:] == ({}, ())


@pytest.mark.parametrize("graph", SUMS)
def test_a_sum_with_a_constant_takes_the_offsets_off_the_constant(graph: Graph, tmp_path: Path) -> None:
    result, offsets, (record,) = centred(graph)
    assert record.accepted
    assert record.after_db > record.before_db + 20
    assert "the bias of the sum" in record.note
    assert [n.op_type for n in result.nodes()] == [n.op_type for n in graph.nodes()]  # it costs no operator
    (tensor,) = offsets
    x = draw(graph, 99)
    (before, there), (after, moved) = run(graph, x, tensor), run(result, x, tensor)
    assert np.abs(there).max() > OFFSET
    assert np.abs(moved).max() < OFFSET / 20
    np.testing.assert_allclose(after, before, atol=1e-5 * np.abs(before).max())
    assert apply_offsets(graph, offsets).digest() == result.digest()
    (tmp_path / "centred.onnx").write_bytes(result.to_bytes())
    assert load(tmp_path / "centred.onnx").to_bytes() == result.to_bytes()


@pytest.mark.parametrize("tokens", [False, True])
def test_a_sum_with_a_constant_without_offsets_stays(tokens: bool) -> None:
    graph = shifted(offset=0.0, tokens=tokens)
    result, offsets, (record,) = centred(graph)
    assert not record.accepted
    assert (result, offsets) == (graph, {})


def test_offsets_are_exact_in_float16_and_make_the_same_graph_again() -> None:
    graph = stream()
    result, offsets, _ = centred(graph)
    numbers = np.array(next(iter(offsets.values())).split(), np.float64)
    assert (numbers.astype(np.float16) == numbers).all()
    np.testing.assert_allclose(np.abs(numbers), OFFSET, atol=5)
    assert apply_offsets(graph, offsets).digest() == result.digest()


@pytest.mark.parametrize(
    "graph", [stream(), stream(reader="strided"), normed("layer"), normed("convolution"), normed("float too"), *SUMS]
)
def test_centred_rows_are_what_the_centred_graph_gives(graph: Graph) -> None:
    result, offsets, _ = centred(graph)
    expected, found = taken(result).rows, center_rows(graph, offsets, taken(graph).rows)
    assert expected.keys() == found.keys()
    for name, rows in expected.items():
        np.testing.assert_allclose(found[name], rows, atol=1e-4)


@pytest.mark.parametrize("offsets", [{"nowhere": "0 1"}, {"add_7": "0 1 2"}, {"input": "1"}])
def test_offsets_of_another_graph_are_refused(offsets: dict[str, str]) -> None:
    with pytest.raises(ArtifactError, match="do not fit the network"):
        apply_offsets(stream(), offsets)
