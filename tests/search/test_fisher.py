"""Fisher information: operators as ONNX Runtime computes them, and losses as leave-one-out measures them."""

import numpy as np
import onnx_ir as ir
import pytest
import torch
from numpy.typing import NDArray

from edgehybrid.errors import GraphError, StageError
from edgehybrid.graph import Graph
from edgehybrid.graph.products import Product, product_at
from edgehybrid.quantizer import quantize
from edgehybrid.search import differentiation, fisher, leave_one_out, owners, quadratic, spearman, switch
from edgehybrid.search.operators import OPERATORS
from tests.search.nets import answering, grouped, hybrid, images, scoring, session, twin
from tests.single import SingleNet, draw, observe


def quiet(done: int) -> None:
    """Nobody watches."""


def classifier(kind: str) -> Graph:
    """A convolution, one operator on its feature map, then a mean and a projection to logits."""
    net = SingleNet(2, 32, 9, 9, opset=20 if kind == "Gelu" else 18)
    x = net.conv("input", 32, 16, 3, pads=[1, 1, 1, 1])
    made = {
        "AveragePool": lambda: net.op("AveragePool", x, kernel_shape=[3, 3], pads=[1, 1, 1, 1], strides=[2, 2]),
        "AveragePool, borders counted": lambda: net.op(
            "AveragePool", x, kernel_shape=[3, 3], pads=[1, 1, 1, 1], count_include_pad=1
        ),
        "BatchNormalization": lambda: net.norm(x, 16),
        "Clip": lambda: net.op("Clip", x, net.const(-0.5), net.const(0.5)),
        "Concat": lambda: net.op("Slice", net.op("Concat", x, x, axis=1), net.ints(1), net.ints(17), net.ints(1)),
        "Conv, asymmetric": lambda: net.conv(x, 16, 16, 3, pads=[0, 1, 2, 0], strides=[2, 1], dilations=[1, 2]),
        "Conv, depthwise": lambda: net.depthwise(x, 16),
        "ConvTranspose": lambda: net.op(
            "ConvTranspose",
            x,
            net.weight(16, 8, 3, 3),
            net.weight(16),
            strides=[2, 2],
            pads=[0, 1, 1, 2],
            output_padding=[1, 0],
            group=2,
        ),
        "DepthToSpace": lambda: net.op("DepthToSpace", net.conv(x, 16, 64), blocksize=2, mode="CRD"),
        "Elu": lambda: net.op("Elu", x),
        "Expand": lambda: net.op("Expand", net.op("GlobalAveragePool", x), net.ints(2, 16, 9, 9)),
        "Gather": lambda: net.op("Gather", x, net.ints(3, -1, *range(14)), axis=1),
        "Gelu": lambda: net.op("Gelu", x, approximate="tanh"),
        "GlobalAveragePool": lambda: net.op("GlobalAveragePool", x),
        "HardSigmoid": lambda: net.op("HardSigmoid", x, alpha=1 / 6),
        "HardSwish": lambda: net.op("HardSwish", x),
        "InstanceNormalization": lambda: net.op(
            "Relu", net.op("InstanceNormalization", x, net.weight(16), net.weight(16))
        ),
        "LayerNormalization": lambda: net.op("LayerNormalization", x, net.weight(9, 9), net.weight(9, 9), axis=-2),
        "LayerNormalization, one gain per row": lambda: net.op(
            "LayerNormalization", x, net.weight(9, 1), net.weight(9), axis=-2
        ),
        "LeakyRelu": lambda: net.op("LeakyRelu", x),
        "MaxPool": lambda: net.op("MaxPool", x, kernel_shape=[3, 3], strides=[2, 2], pads=[1, 1, 1, 1]),
        "MaxPool, wide borders": lambda: net.op("MaxPool", x, kernel_shape=[3, 3], pads=[2, 2, 2, 2]),
        "MaxPool, ceiling": lambda: net.op("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2], ceil_mode=1),
        "Mish": lambda: net.op("Mish", x),
        "PRelu": lambda: net.op("Abs", net.op("PRelu", x, net.const(np.linspace(-1, 2, 16).reshape(16, 1, 1)))),
        "Pad": lambda: net.op("Pad", x, net.ints(0, 0, 1, 0, 0, 0, 0, 2), net.const(0.5)),
        "Pow": lambda: net.op("Pow", net.op("Sigmoid", x), net.const(2.0)),
        "Reciprocal": lambda: net.op("Reciprocal", net.op("Exp", net.op("Tanh", x))),
        "ReduceMax": lambda: net.op("ReduceMax", x, net.ints(3)),
        "ReduceMean": lambda: net.op("ReduceMean", x, net.ints(2)),
        "ReduceSum": lambda: net.op("ReduceSum", x, net.ints(-1)),
        "Resize": lambda: net.op("Resize", x, "", net.const([1, 1, 2, 2]), mode="linear"),
        "Resize, nearest": lambda: net.op(
            "Resize",
            x,
            "",
            net.const([1, 1, 2, 2]),
            mode="nearest",
            coordinate_transformation_mode="asymmetric",
            nearest_mode="floor",
        ),
        "Slice, backwards": lambda: net.op("Slice", x, net.ints(-1), net.ints(-100), net.ints(2), net.ints(-2)),
        "Softmax": lambda: net.op("Softmax", x, axis=1),
        "Softplus": lambda: net.op("Softplus", x),
        "Split": lambda: net.op(
            "Concat", *(net.op("Split", x, axis=3, outputs=2, num_outputs=2), net.last_outputs()[1]), axis=3
        ),
        "Sqrt": lambda: net.op("Sqrt", net.op("Sigmoid", x)),
        "Squeeze": lambda: net.op("Unsqueeze", net.op("Squeeze", net.op("GlobalAveragePool", x)), net.ints(2, -1)),
        "Transpose": lambda: net.transpose(net.transpose(x, 0, 2, 3, 1), 0, 3, 2, 1),
        "Where": lambda: net.op("Where", net.const(np.eye(9), bool), x, net.op("Neg", x)),
    }[kind]()
    pooled = net.op("Flatten", net.op("GlobalAveragePool", made))
    return net.graph(net.op("Gemm", pooled, net.weight(10, 16), net.weight(10), transB=1, alpha=0.5))


KINDS = (
    "AveragePool",
    "AveragePool, borders counted",
    "BatchNormalization",
    "Clip",
    "Concat",
    "Conv, asymmetric",
    "Conv, depthwise",
    "ConvTranspose",
    "DepthToSpace",
    "Elu",
    "Expand",
    "Gather",
    "Gelu",
    "GlobalAveragePool",
    "HardSigmoid",
    "HardSwish",
    "InstanceNormalization",
    "LayerNormalization",
    "LayerNormalization, one gain per row",
    "LeakyRelu",
    "MaxPool",
    "MaxPool, wide borders",
    "MaxPool, ceiling",
    "Mish",
    "PRelu",
    "Pad",
    "Pow",
    "Reciprocal",
    "ReduceMax",
    "ReduceMean",
    "ReduceSum",
    "Resize",
    "Resize, nearest",
    "Slice, backwards",
    "Softmax",
    "Softplus",
    "Split",
    "Sqrt",
    "Squeeze",
    "Transpose",
    "Where",
)


@pytest.mark.parametrize("kind", KINDS)
def test_torch_runs_and_differentiates_an_operator_as_onnx_runtime_does(kind: str) -> None:
    """`estimate` refuses other logits itself. Over random directions it is what int8 costs this very image."""
    graph = classifier(kind)
    assert differentiation.unknown_operators(graph) == ()
    made, groups = grouped(graph)
    assert groups
    image = draw(graph)
    quantized = quantize(graph, observe(graph, image), made)
    owner = owners(graph, made, groups)
    answer = answering(switch(graph, quantized, owner))
    none = np.zeros(len(groups), np.bool_)
    found = fisher.estimate(
        graph,
        quantized,
        owner,
        [image] * 1000,
        groups=len(groups),
        expected=lambda piece: answer(none, piece),
        seed=0,
        progress=quiet,
    )
    alone = [answer(np.arange(len(groups)) == group, image) for group in range(len(groups))]
    cost = [quadratic(answer(none, image), logits).mean() for logits in alone]
    np.testing.assert_allclose(found, cost, rtol=0.25)


@pytest.mark.parametrize("values", [[True, False], [3, 4], [1.5, 2.5]])
def test_expanding_keeps_the_type(values: list[float]) -> None:
    """A mask that is expanded must still be one for Where."""
    x = torch.tensor(values).reshape(2, 1)
    node = ir.node("Expand", [ir.Value(name="x"), ir.Value(name="shape")])
    (found,) = OPERATORS["Expand"](node, [x, torch.tensor([3, 1, 5])])
    assert (found.dtype, found.shape) == (x.dtype, (3, 2, 5))
    assert (found == x).all()


def test_arithmetic_of_a_backward_pass() -> None:
    """Of two linear layers: nothing before the first int8 layer, once the second; twice where both operands move."""
    graph, _ = stacked()
    first, second = (node.outputs[0].name or "" for node in graph.nodes("Gemm"))
    small = 24 * 5 / (16 * 24 + 24 * 5)
    assert fisher.count_backward(graph, {first: 0, second: 1}) == pytest.approx(small)
    assert fisher.count_backward(graph, {second: 0}) == 0
    net = SingleNet(4, 4)
    hidden = net.op("MatMul", "input", net.weight(4, 4))
    square = net.graph(net.op("MatMul", hidden, hidden))
    assert fisher.count_backward(square, {hidden: 0}) == pytest.approx(1.0)


def test_another_function_is_refused() -> None:
    graph = classifier("Clip")
    wrong = np.ones((2, 10), np.float32)
    with pytest.raises(StageError, match="different logits"):
        fisher.estimate(graph, graph, {}, [draw(graph)], groups=1, expected=lambda x: wrong, seed=0, progress=quiet)


def test_what_is_not_known_is_named() -> None:
    net = SingleNet(1, 16, 8, 8)
    graph = net.graph(net.op("Flatten", net.op("GlobalAveragePool", net.op("Sign", "input"))))
    assert differentiation.unknown_operators(graph) == ("Sign",)
    net = SingleNet(1, 16, 8, 8)
    padded = net.op("Pad", "input", net.ints(0, 0, 1, 1, 0, 0, 1, 1), mode="reflect")
    reflected = net.graph(net.op("Flatten", net.op("GlobalAveragePool", padded)))
    with pytest.raises(GraphError, match="no gradient through"):
        fisher.estimate(
            reflected, reflected, {}, [draw(reflected)], groups=1, expected=lambda x: x, seed=0, progress=quiet
        )


def test_what_torch_refuses_is_named() -> None:
    net = SingleNet(1, 16, 8, 8)
    pooled = net.op("MaxPool", "input", kernel_shape=[2, 2], strides=[2, 2], pads=[2, 2, 2, 2], ceil_mode=1)
    graph = net.graph(net.op("Flatten", net.op("GlobalAveragePool", pooled)))
    with pytest.raises(GraphError, match="no gradient through node"):
        fisher.estimate(graph, graph, {}, [draw(graph)], groups=1, expected=lambda x: x, seed=0, progress=quiet)


def test_the_gradient_of_a_mean_over_a_line() -> None:
    net = SingleNet(2, 16, 24)
    graph = net.graph(net.op("Gemm", net.op("Flatten", net.op("GlobalAveragePool", "input")), net.weight(16, 10)))
    image = draw(graph)
    logits = differentiation.Network(graph).run(torch.from_numpy(image), lambda node, inputs, results: results)
    np.testing.assert_allclose(logits.numpy(), scoring(graph)(image), rtol=1e-5, atol=1e-6)


def test_the_estimate_is_what_leave_one_out_measures() -> None:
    graph = hybrid()
    made, quantized = twin(graph)
    _, groups = grouped(graph)
    owner = owners(graph, made, groups)
    answer = answering(switch(graph, quantized, owner))
    none = np.zeros(len(groups), np.bool_)
    seen, others = [x[None] for x in images(48)], [x[None] for x in images(48, seed=1)]
    found = [
        fisher.estimate(
            graph,
            quantized,
            owner,
            seen,
            groups=len(groups),
            expected=lambda piece: answer(none, piece),
            seed=0,
            progress=quiet,
        )
        for _ in range(2)
    ]
    np.testing.assert_array_equal(found[0], found[1])
    measured = leave_one_out(answer, others, groups=len(groups), progress=quiet).mean(axis=0)
    assert spearman(found[0], measured) >= 0.8
    assert 0.5 < found[0].sum() / measured.sum() < 2


def test_what_no_logit_hangs_on_costs_nothing() -> None:
    graph = classifier("Clip")
    found = fisher.estimate(
        graph,
        graph,
        {},
        [draw(graph)],
        groups=3,
        expected=scoring(graph),
        seed=0,
        progress=quiet,
    )
    np.testing.assert_array_equal(found, 0)


def in_eighths() -> Graph:
    """Two convolutions of weights in eighths: float32 adds eighths without rounding, in whatever order."""
    net = SingleNet(1, 24, 16, 16)
    x = "input"
    for width, depth in ((32, 24), (32, 32)):
        kernel = net.const(np.round(net.random.normal(size=(width, depth, 3, 3)) * 2) / 8)
        x = net.op("Relu", net.op("Conv", x, kernel, pads=[1, 1, 1, 1]))
    pooled = net.op("Flatten", net.op("GlobalAveragePool", x))
    return net.graph(net.op("Gemm", pooled, net.weight(32, 10), net.weight(10)))


def test_how_many_images_are_computed_at_once_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of numbers that no order of adding changes: else values tip between two int8 steps, by up to 2 % of a loss."""
    graph = in_eighths()
    made, quantized = twin(graph)
    _, groups = grouped(graph)
    owner = owners(graph, made, groups)
    found: list[NDArray[np.float64]] = []
    told: list[list[int]] = []
    for mapped in (1, 8):
        monkeypatch.setattr(fisher, "MAPPED", mapped)
        told.append([])
        found.append(
            fisher.estimate(
                graph,
                quantized,
                owner,
                [np.round(x[None] * 8) / 8 for x in images(20)],
                groups=len(groups),
                expected=scoring(graph),
                seed=0,
                progress=told[-1].append,
            )
        )
    np.testing.assert_allclose(found[0], found[1], rtol=1e-4)
    assert told == [[*range(1, 21)], [8, 16, 20]]


def test_every_operator_of_the_zoo_is_known(cmt_ti_graph: Graph) -> None:
    assert differentiation.unknown_operators(cmt_ti_graph) == ()


def stacked() -> tuple[Graph, list[Product]]:
    """Two linear layers of one image."""
    net = SingleNet(1, 16)
    hidden = net.op("Gemm", "input", net.weight(16, 24))
    graph = net.graph(net.op("Gemm", hidden, net.weight(24, 5)))
    return graph, [p for node in graph.nodes("Gemm") if (p := product_at(node)) is not None]


def test_squared_gradients_at_the_logits_are_the_fisher_information() -> None:
    graph, products = stacked()
    x, runner = draw(graph), session(graph)
    logits = runner.run(None, {graph.input.name: x})[0]
    found = fisher.gradients_at(graph, products, [x] * 2000, lambda _: 1, expected=lambda _: logits)
    g = found[products[1].node.outputs[0].name or ""][0]  # (2000, 5)
    p = np.exp(logits[0] - logits[0].max())
    p /= p.sum()
    np.testing.assert_allclose(g.T @ g / len(g), np.diag(p) - np.outer(p, p), atol=0.02)


def test_gradients_go_back_through_a_layer() -> None:
    graph, products = stacked()
    x, runner = draw(graph), session(graph)
    logits = runner.run(None, {graph.input.name: x})[0]
    found = fisher.gradients_at(graph, products, [x], lambda _: 9, expected=lambda _: logits)
    before, after = (found[product.node.outputs[0].name] for product in products)
    np.testing.assert_allclose(before[0], after[0] @ products[1].weight[0], rtol=1e-4, atol=1e-6)
