"""Head sizes: what is widened, and what must keep its size."""

import pytest

from edgehybrid.graph import Graph
from edgehybrid.graph.counting import count_macs
from tests.rewrites.net import Net, ops, rewrite, sites

NAME = "head-size"
TOKENS, HEADS = 5, 2


def split(net: Net, x: str, size: int, *perm: int) -> str:
    return net.transpose(net.reshape(x, 1, TOKENS, HEADS, size), *perm)


def attention(net: Net, size: int, *, more: bool = False, linear=Net.linear) -> Graph:
    """q, k and v of layers of their own, and a projection behind."""
    dim = HEADS * size
    q, k, v = (linear(net, "input", dim, dim) for _ in range(3))
    heads = split(net, q, size, 0, 2, 1, 3)
    logits = net.op("MatMul", heads, split(net, k, size, 0, 2, 3, 1))
    weights = net.op("Softmax", net.op("Mul", logits, net.const(0.1)), axis=-1)
    context = net.op("MatMul", weights, split(net, v, size, 0, 2, 1, 3))
    joined = net.reshape(net.transpose(context, 0, 2, 1, 3), 1, TOKENS, dim)
    out = net.linear(joined, dim, dim)
    return net.graph(out, net.op("Relu", heads)) if more else net.graph(out)


@pytest.mark.parametrize(("size", "wider"), [(46, 48), (52, 56), (76, 80), (18, 18), (48, 48), (12, 12)])
def test_head_grows_to_a_multiple_of_eight_where_that_is_cheap(size: int, wider: int) -> None:
    graph = attention(Net(1, TOKENS, HEADS * size), size)
    after, found = rewrite(graph, NAME)
    assert found == (size != wider)
    assert ops(after) == ops(graph)
    assert {tuple(node.outputs[0].shape or ())[-1] for node in after.nodes("Reshape")} == {wider, HEADS * wider}
    assert count_macs(after) >= count_macs(graph)


def test_layers_without_bias_and_constants_in_nodes() -> None:
    net = Net(1, TOKENS, HEADS * 46, constants="node")
    assert sites(attention(net, 46, linear=lambda n, x, a, b: n.linear(x, a, b, bias=False)), NAME) == 1


def test_flattened_gemm() -> None:
    def gemm(net: Net, x: str, c_in: int, c_out: int) -> str:
        return net.op("Gemm", net.reshape(x, TOKENS, c_in), net.weight(c_out, c_in), net.weight(c_out), transB=1)

    assert sites(attention(Net(1, TOKENS, HEADS * 46), 46, linear=gemm), NAME) == 1


def test_heads_that_are_read_elsewhere_keep_their_size() -> None:
    assert sites(attention(Net(1, TOKENS, HEADS * 46), 46, more=True), NAME) == 0


def test_one_layer_for_all_is_left_alone() -> None:
    size, dim = 46, HEADS * 46
    net = Net(1, TOKENS, dim)
    qkv = net.linear("input", dim, 3 * dim)
    net.op("Split", qkv, net.ints(dim, dim, dim), outputs=3, axis=-1)
    q, k, v = net.last_outputs()
    logits = net.op("MatMul", split(net, q, size, 0, 2, 1, 3), split(net, k, size, 0, 2, 3, 1))
    context = net.op("MatMul", net.op("Softmax", logits, axis=-1), split(net, v, size, 0, 2, 1, 3))
    joined = net.reshape(net.transpose(context, 0, 2, 1, 3), 1, TOKENS, dim)
    assert sites(net.graph(net.linear(joined, dim, dim)), NAME) == 0


def test_context_that_is_not_projected_keeps_its_size() -> None:
    size, dim = 46, HEADS * 46
    net = Net(1, TOKENS, dim)
    q, k, v = (net.linear("input", dim, dim) for _ in range(3))
    logits = net.op("MatMul", split(net, q, size, 0, 2, 1, 3), split(net, k, size, 0, 2, 3, 1))
    context = net.op("MatMul", net.op("Softmax", logits, axis=-1), split(net, v, size, 0, 2, 1, 3))
    assert sites(net.graph(net.op("Relu", context)), NAME) == 0
