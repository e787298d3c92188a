"""Batch normalisation moves into the layer before or after it, and only where that is exact."""

import pytest

from edgehybrid import rewrites
from edgehybrid.graph import constant
from tests.rewrites.net import Net, ops, rewrite, sites

PREVIOUS, NEXT = "bn-into-previous", "bn-into-next"


@pytest.mark.parametrize("constants", ["initializer", "node"])
@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("attributes", [{}, {"pads": [1, 1, 1, 1]}, {"strides": [2, 2]}, {"auto_pad": "SAME_UPPER"}])
def test_norm_after_a_convolution_is_folded(attributes, bias, constants):
    net = Net(1, 4, 6, 6, constants=constants)
    out = net.norm(net.conv("input", 4, 6, 3, bias=bias, group=2, **attributes), 6)
    after, n = rewrite(net.graph(out), PREVIOUS)
    assert n == 1
    assert ops(after) == ["Conv"]


def test_norm_after_a_depthwise_convolution_is_folded():
    net = Net(1, 4, 6, 6)
    assert sites(net.graph(net.norm(net.depthwise("input", 4), 4)), PREVIOUS) == 1


@pytest.mark.parametrize("transposed", [0, 1])
def test_norm_after_gemm_is_folded_with_its_alpha_and_beta(transposed):
    net = Net(3, 4)
    weight = net.weight(5, 4) if transposed else net.weight(4, 5)
    out = net.op("Gemm", "input", weight, net.weight(1, 5), alpha=0.5, beta=3.0, transB=transposed)
    after, n = rewrite(net.graph(net.norm(out, 5)), PREVIOUS)
    assert n == 1
    assert ops(after) == ["Gemm"]


@pytest.mark.parametrize("bias", [True, False])
def test_norm_after_a_linear_layer_is_folded_through_reshape_and_transpose(bias):
    net = Net(1, 9, 4)
    tokens = net.linear("input", 4, 6, bias=bias)
    image = net.reshape(net.transpose(tokens, 0, 2, 1), 1, 6, 3, 3)
    after, n = rewrite(net.graph(net.norm(image, 6)), PREVIOUS)
    assert n == 1
    assert ops(after) == ["MatMul", "Add", "Transpose", "Reshape"]


def test_norm_across_heads_that_mixes_channels_stays():
    net = Net(1, 9, 4)
    mixed = net.reshape(net.linear("input", 4, 6), 1, 6, 9)  # row-major: not a transpose
    assert sites(net.graph(net.norm(mixed, 6)), PREVIOUS) == 0


def test_a_weight_that_another_layer_uses_keeps_its_value():
    net = Net(1, 4, 6, 6)
    weight = net.weight(4, 4, 1, 1)
    normed = net.norm(net.op("Conv", "input", weight), 4)
    out = net.op("Add", normed, net.op("Conv", "input", weight))
    assert sites(net.graph(out), PREVIOUS) == 1


def test_norm_stays_when_the_convolution_is_read_elsewhere():
    net = Net(1, 4, 6, 6)
    x = net.conv("input", 4, 4, 3, pads=[1] * 4)
    assert sites(net.graph(net.op("Add", net.norm(x, 4), x)), PREVIOUS) == 0


def test_norm_stays_when_the_convolution_is_an_output():
    net = Net(1, 4, 6, 6)
    x = net.conv("input", 4, 4)
    assert sites(net.graph(net.norm(x, 4), x), PREVIOUS) == 0


def test_norm_that_is_itself_the_output_keeps_its_name():
    net = Net(1, 4, 6, 6)
    out = net.norm(net.conv("input", 4, 4), 4)
    after, n = rewrite(net.graph(out), PREVIOUS)
    assert n == 1
    assert after.outputs == (out,)


def test_norm_stays_after_a_computed_weight():
    net = Net(1, 4, 6, 6)
    weight = net.reshape(net.op("GlobalAveragePool", "input"), 4, 1, 1, 1)
    assert sites(net.graph(net.norm(net.op("Conv", "input", weight, group=4), 4)), PREVIOUS) == 0


def test_fold_that_overflows_the_weight_type_is_not_made():
    net = Net(1, 2, 3, 3)
    x = net.op("Conv", "input", net.const([[[[1e300]]], [[[1.0]]]]), group=2)
    statistics = [net.const([1e300, 1.0]), net.const([0.0, 0.0]), net.const([0.0, 0.0]), net.const([1.0, 1.0])]
    graph = net.graph(net.op("Mul", net.const(0.0), net.op("BatchNormalization", x, *statistics)))
    assert rewrites.apply(graph, only=[PREVIOUS])[1] == (f"{PREVIOUS}: 0 sites",)


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(
    ("k", "group", "attributes"),
    [(1, 1, {}), (1, 2, {}), (2, 1, {"strides": [2, 2]}), (3, 4, {"auto_pad": "VALID"}), (3, 1, {"dilations": [2, 2]})],
)
def test_norm_before_an_unpadded_convolution_is_folded(k, group, attributes, bias):
    net = Net(1, 4, 6, 6)
    out = net.conv(net.norm("input", 4), 4, 8, k, group=group, bias=bias, **attributes)
    after, n = rewrite(net.graph(out), NEXT)
    assert n == 1
    assert ops(after) == ["Conv"]


@pytest.mark.parametrize("bias", [True, False])
def test_norm_before_a_linear_layer_is_folded_through_tokens(bias):
    net = Net(1, 4, 3, 3)
    tokens = net.transpose(net.reshape(net.norm("input", 4), 1, 4, 9), 0, 2, 1)
    after, n = rewrite(net.graph(net.linear(tokens, 4, 5, bias=bias)), NEXT)
    assert n == 1
    assert "BatchNormalization" not in ops(after)


def test_norm_before_a_flattened_map_is_folded_per_channel():
    net = Net(1, 4, 3, 3)
    flat = net.op("Flatten", net.norm("input", 4))
    assert sites(net.graph(net.op("Gemm", flat, net.weight(36, 5), net.weight(5))), NEXT) == 1


@pytest.mark.parametrize("attributes", [{"pads": [1] * 4}, {"pads": [0, 0, 1, 1]}, {"auto_pad": "SAME_LOWER"}])
@pytest.mark.parametrize("group", [1, 4])
def test_norm_before_a_padded_convolution_stays(group, attributes):
    net = Net(1, 4, 6, 6)
    assert sites(net.graph(net.conv(net.norm("input", 4), 4, 4, 3, group=group, **attributes)), NEXT) == 0


def test_norm_with_a_second_reader_stays():
    net = Net(1, 4, 6, 6)
    x = net.norm("input", 4)
    assert sites(net.graph(net.op("Add", net.conv(x, 4, 4), x)), NEXT) == 0


def test_norm_that_is_an_output_stays():
    net = Net(1, 4, 6, 6)
    x = net.norm("input", 4)
    assert sites(net.graph(net.conv(x, 4, 4), x), NEXT) == 0


def test_norm_with_computed_statistics_stays():
    net = Net(1, 4, 6, 6)
    mean = net.reshape(net.op("GlobalAveragePool", "input"), 4)
    x = net.op("BatchNormalization", "input", net.weight(4), net.weight(4), mean, net.const([1.0] * 4))
    assert sites(net.graph(net.conv(x, 4, 4)), NEXT) == 0


def test_norm_in_training_mode_stays():
    net = Net(2, 4, 6, 6, opset=15)
    x = net.norm(net.conv("input", 4, 4), 4, training_mode=1, outputs=3)
    graph = net.graph(net.conv(x, 4, 4))
    assert sites(graph, PREVIOUS) == sites(graph, NEXT) == 0


def test_original_graph_is_left_alone():
    net = Net(1, 4, 6, 6)
    graph = net.graph(net.norm(net.conv("input", 4, 4), 4))
    before = graph.digest()
    rewrite(graph, PREVIOUS)
    assert graph.digest() == before
    assert all(constant(v) is not None for v in graph.body.initializers.values())
