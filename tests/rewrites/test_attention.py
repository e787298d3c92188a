"""Scale, biases and products around softmax: what moves, what goes, and what must not."""

from dataclasses import dataclass

import numpy as np
import pytest

from edgehybrid.rewrites.pattern import joint_name
from tests.rewrites.net import Net, ops, rewrite, sites

SCALE, KEY_BIAS, VALUE_BIAS, KEY_VALUE = "attention-scale", "key-bias", "value-bias", "key-value"
TOKENS, DIM, HEADS = 5, 6, 2
HEAD = DIM // HEADS


@dataclass
class Attention:
    """Names of the tensors of one attention."""

    q: str
    k: str
    v: str
    logits: str
    context: str


def heads(net: Net, x: str, *perm: int) -> str:
    return net.transpose(net.reshape(x, 1, TOKENS, HEADS, HEAD), *perm)


def gemm(net: Net, x: str, c_in: int, c_out: int) -> str:
    """Reshape, Gemm: how a simplifier writes a linear layer of tokens."""
    flat = net.reshape(x, TOKENS, c_in)
    return net.op("Gemm", flat, net.weight(c_out, c_in), net.weight(c_out), transB=1)


def attend(net: Net, q: str, k: str, v: str, *, table: bool = True, scale: str = "mul") -> Attention:
    """softmax(q k^T s + M) v for q, v (1, heads, tokens, head) and k (1, heads, head, tokens)."""
    logits = net.op("MatMul", q, k)
    if scale == "mul":
        logits = net.op("Mul", logits, net.const(0.3))
    elif scale == "mul-first":
        logits = net.op("Mul", net.const([0.3]), logits)
    elif scale == "div":
        logits = net.op("Div", logits, net.const(2.5))
    added = net.op("Add", logits, net.weight(HEADS, TOKENS, TOKENS)) if table else logits
    context = net.op("MatMul", net.op("Softmax", added, axis=-1), v)
    return Attention(q, k, v, logits, context)


def separate(net: Net, linear=Net.linear, **options: object) -> Attention:
    """q, k and v from layers of their own."""
    q, k, v = (linear(net, "input", DIM, DIM) for _ in range(3))
    return attend(net, heads(net, q, 0, 2, 1, 3), heads(net, k, 0, 2, 3, 1), heads(net, v, 0, 2, 1, 3), **options)


def merged(net: Net, cut: str, **options: object) -> Attention:
    """q, k and v from one layer, cut apart in one of the ways seen in exports."""
    qkv = net.linear("input", DIM, 3 * DIM)
    if cut == "split":
        net.op("Split", qkv, net.ints(DIM, DIM, DIM), outputs=3, axis=-1)
        parts = [net.reshape(x, 1, TOKENS, HEADS, HEAD) for x in net.last_outputs()]
        q, k, v = (net.transpose(x, 0, 2, 1, 3) for x in parts)
    else:
        qkv = net.transpose(net.reshape(qkv, 1, TOKENS, 3, HEADS, HEAD), 2, 0, 3, 1, 4)
        if cut == "gather":
            q, k, v = (net.op("Gather", qkv, net.ints(i), axis=0) for i in range(3))
            q, k, v = (net.op("Squeeze", x, net.ints(0)) for x in (q, k, v))
        else:
            bounds = [(net.ints(i), net.ints(i + 1), net.ints(0)) for i in range(3)]
            q, k, v = (net.reshape(net.op("Slice", qkv, *b), 1, HEADS, TOKENS, HEAD) for b in bounds)
    return attend(net, q, net.transpose(k, 0, 1, 3, 2), v, **options)


def project(net: Net, attention: Attention, *, bias: bool = True) -> str:
    return net.linear(net.reshape(net.transpose(attention.context, 0, 2, 1, 3), 1, TOKENS, DIM), DIM, 4, bias=bias)


@pytest.fixture
def net() -> Net:
    return Net(1, TOKENS, DIM)


# --- scale ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("scale", ["mul", "mul-first", "div"])
@pytest.mark.parametrize("linear", [Net.linear, gemm])
def test_scale_of_the_logits_moves_into_the_query(net, linear, scale):
    after, n = rewrite(net.graph(project(net, separate(net, linear, scale=scale))), SCALE)
    assert n == 1
    assert not {"Mul", "Div"} & set(ops(after))


@pytest.mark.parametrize("cut", ["split", "gather", "slice"])
def test_scale_moves_into_the_rows_of_the_query_alone(net, cut):
    after, n = rewrite(net.graph(project(net, merged(net, cut))), SCALE)
    assert n == 1
    assert "Mul" not in ops(after)


def test_scale_on_query_and_key_before_the_product_moves_into_both(net):
    q, k, v = (heads(net, net.linear("input", DIM, DIM), 0, 2, 1, 3) for _ in range(3))
    q, k = net.op("Mul", q, net.const(0.6)), net.op("Mul", net.transpose(k, 0, 1, 3, 2), net.const(0.6))
    assert sites(net.graph(project(net, attend(net, q, k, v, scale="none"))), SCALE) == 2


def test_scale_moves_into_the_key_where_the_query_is_no_layer(net):
    q = net.reshape(net.op("Relu", net.linear("input", DIM, DIM)), 1, HEADS, TOKENS, HEAD)
    k = heads(net, net.linear("input", DIM, DIM), 0, 2, 3, 1)
    v = heads(net, net.linear("input", DIM, DIM), 0, 2, 1, 3)
    assert sites(net.graph(project(net, attend(net, q, k, v))), SCALE) == 1


def test_scale_moves_into_a_convolution():
    net = Net(1, 4, 3, 3)
    q, k = (net.reshape(net.conv("input", 4, 4), 1, 4, 9) for _ in range(2))
    logits = net.op("Mul", net.op("MatMul", net.transpose(q, 0, 2, 1), k), net.const(0.5))
    assert sites(net.graph(net.op("Softmax", logits)), SCALE) == 1


def test_scale_after_the_position_table_stays(net):
    attention = separate(net, scale="none", table=False)
    added = net.op("Add", attention.logits, net.weight(HEADS, TOKENS, TOKENS))
    assert sites(net.graph(net.op("Softmax", net.op("Mul", added, net.const(0.3)))), SCALE) == 0


def test_scale_per_head_stays(net):
    attention = separate(net, scale="none")
    assert sites(net.graph(net.op("Mul", attention.logits, net.weight(HEADS, 1, 1))), SCALE) == 0


def test_computed_scale_stays(net):
    attention = separate(net, scale="none")
    factor = net.op("ReduceMax", "input", keepdims=0)
    out = net.op("Softmax", net.op("Mul", attention.logits, factor))
    assert sites(net.graph(out), SCALE) == 0


def test_scale_stays_when_the_unscaled_logits_are_an_output(net):
    attention = separate(net, scale="none", table=False)
    out = net.op("Softmax", net.op("Mul", attention.logits, net.const(0.3)))
    assert sites(net.graph(out, attention.logits), SCALE) == 0


def test_scale_stays_when_query_and_key_are_read_elsewhere(net):
    attention = separate(net)
    others = [net.op("Relu", attention.q), net.op("Relu", attention.k)]
    assert sites(net.graph(project(net, attention), *others), SCALE) == 0


def test_scale_that_divides_the_other_way_round_stays(net):
    attention = separate(net, scale="none")
    out = net.op("Div", net.const(2.0), net.op("Exp", attention.logits))
    assert sites(net.graph(out), SCALE) == 0


def test_scalar_that_adds_a_dimension_stays(net):
    attention = separate(net, scale="none")
    assert sites(net.graph(net.op("Mul", attention.logits, net.const([[[[[0.3]]]]]))), SCALE) == 0


def test_query_and_key_that_share_one_tensor_keep_their_scale(net):
    x = heads(net, net.linear("input", DIM, DIM), 0, 2, 1, 3)
    logits = net.op("MatMul", x, net.transpose(x, 0, 1, 3, 2))
    assert sites(net.graph(net.op("Softmax", net.op("Mul", logits, net.const(0.3)))), SCALE) == 0


# --- biases --------------------------------------------------------------------------------------


@pytest.mark.parametrize("table", [True, False])
@pytest.mark.parametrize("linear", [Net.linear, gemm])
def test_key_bias_goes(net, linear, table):
    graph = net.graph(project(net, separate(net, linear, table=table)))
    after, n = rewrite(graph, KEY_BIAS)
    assert n == 1
    assert len(after.body.initializers) == len(graph.body.initializers) - 1


def test_key_bias_goes_with_position_logits_computed_from_the_query(net):
    x = net.linear("input", DIM, DIM)
    q = heads(net, x, 0, 2, 1, 3)
    k = heads(net, net.linear("input", DIM, DIM), 0, 2, 3, 1)
    logits = net.op("Add", net.op("MatMul", q, net.weight(HEAD, TOKENS)), net.op("MatMul", q, k))
    v = heads(net, net.linear("input", DIM, DIM), 0, 2, 1, 3)
    assert sites(net.graph(net.op("MatMul", net.op("Softmax", logits), v)), KEY_BIAS) == 1


def test_key_bias_stays_when_softmax_runs_over_channels(net):
    """Cross-covariance attention: the rows of k^T are the keys there."""
    q = heads(net, net.linear("input", DIM, DIM), 0, 2, 3, 1)
    k = heads(net, net.linear("input", DIM, DIM), 0, 2, 1, 3)
    v = heads(net, net.linear("input", DIM, DIM), 0, 2, 3, 1)
    out = net.op("MatMul", net.op("Softmax", net.op("MatMul", q, k)), v)
    graph = net.graph(out)
    assert sites(graph, KEY_BIAS) == sites(graph, VALUE_BIAS) == 0


def test_key_bias_stays_when_softmax_runs_over_queries(net):
    q, k, v = (heads(net, net.linear("input", DIM, DIM), *p) for p in ((0, 2, 1, 3), (0, 2, 3, 1), (0, 2, 1, 3)))
    out = net.op("MatMul", net.op("Softmax", net.op("MatMul", q, k), axis=2), v)
    graph = net.graph(out)
    assert sites(graph, KEY_BIAS) == sites(graph, VALUE_BIAS) == 0


def test_key_bias_stays_when_the_logits_are_clipped(net):
    q, k, v = (heads(net, net.linear("input", DIM, DIM), *p) for p in ((0, 2, 1, 3), (0, 2, 3, 1), (0, 2, 1, 3)))
    logits = net.op("Clip", net.op("MatMul", q, k), net.const(-1.0), net.const(1.0))
    assert sites(net.graph(net.op("MatMul", net.op("Softmax", logits), v)), KEY_BIAS) == 0


def test_key_bias_stays_when_the_key_is_read_elsewhere(net):
    attention = separate(net)
    assert sites(net.graph(project(net, attention), net.op("Relu", attention.k)), KEY_BIAS) == 0


def test_key_bias_stays_when_the_logits_are_an_output(net):
    attention = separate(net)
    assert sites(net.graph(project(net, attention), attention.logits), KEY_BIAS) == 0


def test_bias_of_a_layer_that_also_computes_queries_stays(net):
    graph = net.graph(project(net, merged(net, "split")))
    assert sites(graph, KEY_BIAS) == sites(graph, VALUE_BIAS) == 0


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("linear", [Net.linear, gemm])
def test_value_bias_moves_into_the_projection(net, linear, bias):
    graph = net.graph(project(net, separate(net, linear), bias=bias))
    after, n = rewrite(graph, VALUE_BIAS)
    assert n == 1
    assert len(after.body.initializers) == len(graph.body.initializers) - bias


def test_value_bias_finds_its_channels_behind_a_permutation_of_heads(net):
    attention = separate(net)
    shuffled = net.reshape(net.transpose(attention.context, 0, 2, 3, 1), 1, TOKENS, DIM)
    assert sites(net.graph(net.linear(shuffled, DIM, 4)), VALUE_BIAS) == 1


def test_value_bias_moves_into_a_convolution_only_without_padding(net):
    for pads, expected in (([0] * 4, 1), ([1] * 4, 0)):
        net = Net(1, TOKENS, DIM)
        image = net.transpose(separate(net).context, 0, 1, 3, 2)
        image = net.reshape(image, 1, DIM, 1, TOKENS)
        out = net.conv(image, DIM, 4, 3 if any(pads) else 1, pads=pads)
        assert sites(net.graph(out), VALUE_BIAS) == expected


def test_value_bias_stays_without_softmax(net):
    q, k, v = (heads(net, net.linear("input", DIM, DIM), *p) for p in ((0, 2, 1, 3), (0, 2, 3, 1), (0, 2, 1, 3)))
    context = net.op("MatMul", net.op("Sigmoid", net.op("MatMul", q, k)), v)
    assert sites(net.graph(project(net, Attention(q, k, v, "", context))), VALUE_BIAS) == 0


def test_value_bias_stays_when_the_context_is_read_elsewhere(net):
    attention = separate(net)
    assert sites(net.graph(project(net, attention), net.op("Relu", attention.context)), VALUE_BIAS) == 0


def test_value_bias_stays_with_an_activation_before_the_projection(net):
    attention = separate(net)
    attention.context = net.op("Relu", attention.context)
    assert sites(net.graph(project(net, attention)), VALUE_BIAS) == 0


def test_value_that_depends_on_the_position_keeps_its_bias(net):
    q, k = (heads(net, net.linear("input", DIM, DIM), *p) for p in ((0, 2, 1, 3), (0, 2, 3, 1)))
    v = net.reshape(net.linear("input", DIM, DIM), 1, HEADS, TOKENS, HEAD)  # tokens and channels mixed
    assert sites(net.graph(project(net, attend(net, q, k, v))), VALUE_BIAS) == 0


# --- key and value in one product ----------------------------------------------------------------


@pytest.mark.parametrize("linear", [Net.linear, gemm])
def test_query_key_and_value_are_computed_in_one_product(net, linear):
    if linear is gemm:
        flat = net.reshape("input", TOKENS, DIM)
        q, k, v = (net.op("Gemm", flat, net.weight(DIM, DIM), net.weight(DIM)) for _ in range(3))
    else:
        q, k, v = (net.linear("input", DIM, DIM) for _ in range(3))
    attention = attend(
        net, heads(net, q, 0, 2, 1, 3), heads(net, k, 0, 2, 3, 1), heads(net, v, 0, 2, 1, 3), scale="none"
    )
    graph = net.graph(project(net, attention))
    after, n = rewrite(graph, KEY_VALUE)
    assert n == 1
    products = {"MatMul", "Gemm"}
    assert sum(o in products for o in ops(after)) == sum(o in products for o in ops(graph)) - 2
    assert [len(node.outputs) for node in after.nodes("Split")] == [3]


@pytest.mark.parametrize(
    ("first", "second", "joint"),
    [
        ("/blocks_a.0/attn/k/MatMul", "/blocks_a.0/attn/v/MatMul", "/blocks_a.0/attn/k+v/MatMul"),
        ("MatMul_7", "MatMul_9", "MatMul_7+MatMul_9"),
        ("a/k", "b/v", "a/k+b/v"),
        ("k", "v/1", "k+v/1"),
        ("k/1", "v", "k/1+v"),
    ],
)
def test_merged_layer_is_named_after_both(first, second, joint):
    assert joint_name(first, second) == joint


def test_key_and_value_of_different_tensors_stay_apart(net):
    q, k = (heads(net, net.linear("input", DIM, DIM), *p) for p in ((0, 2, 1, 3), (0, 2, 3, 1)))
    v = heads(net, net.linear(net.op("Relu", "input"), DIM, DIM), 0, 2, 1, 3)
    assert sites(net.graph(project(net, attend(net, q, k, v))), KEY_VALUE) == 0


@pytest.mark.parametrize("biases", [(True, True, False), (True, False, False), (False, False, True), (False,) * 3])
def test_a_missing_bias_becomes_zeros(net, biases):
    q, k, v = (
        heads(net, net.linear("input", DIM, DIM, bias=bias), *perm)
        for bias, perm in zip(biases, ((0, 2, 1, 3), (0, 2, 3, 1), (0, 2, 1, 3)), strict=True)
    )
    after, n = rewrite(net.graph(project(net, attend(net, q, k, v))), KEY_VALUE)
    assert n == 1
    assert ops(after)[: 2 + any(biases)] == ["MatMul", *["Add"] * any(biases), "Split"]


def test_queries_of_another_tensor_stay_apart(net):
    q = heads(net, net.linear(net.op("Relu", "input"), DIM, DIM), 0, 2, 1, 3)
    k, v = (heads(net, net.linear("input", DIM, DIM), *p) for p in ((0, 2, 3, 1), (0, 2, 1, 3)))
    after, n = rewrite(net.graph(project(net, attend(net, q, k, v))), KEY_VALUE)
    assert n == 1
    assert [len(node.outputs) for node in after.nodes("Split")] == [2]


def test_key_and_value_of_one_layer_are_left_alone(net):
    assert sites(net.graph(project(net, merged(net, "split"))), KEY_VALUE) == 0


# --- vectors added behind a split ----------------------------------------------------------------


def test_biases_behind_a_split_become_one_in_front_of_it(net):
    qkv = net.linear("input", DIM, 3 * DIM, bias=False)
    net.op("Split", qkv, net.ints(DIM, DIM, DIM), outputs=3, axis=-1)
    q, k, v = (net.op("Add", net.weight(DIM), x) for x in net.last_outputs())
    attention = attend(net, heads(net, q, 0, 2, 1, 3), heads(net, k, 0, 2, 3, 1), heads(net, v, 0, 2, 1, 3))
    after, n = rewrite(net.graph(project(net, attention)), "added-vector")
    assert n == 3
    assert ops(after)[:3] == ["MatMul", "Add", "Split"]


@pytest.mark.parametrize("bias", [True, False])
def test_vector_added_to_a_map_becomes_the_bias(bias):
    net = Net(1, 4, 5, 5)
    out = net.op("Add", net.conv("input", 4, 6, 3, bias=bias, pads=[1] * 4), net.weight(6, 1, 1))
    after, n = rewrite(net.graph(out), "added-vector")
    assert (n, ops(after)) == (1, ["Conv"])


def test_position_table_added_to_tokens_stays(net):
    out = net.op("Add", net.linear("input", DIM, DIM), net.weight(1, TOKENS, DIM))
    assert sites(net.graph(out), "added-vector") == 0


def test_vector_that_widens_the_result_stays():
    net = Net(1, 1, DIM)
    out = net.op("Add", net.linear("input", DIM, DIM), net.const(np.ones((TOKENS, DIM))))
    assert sites(net.graph(out), "added-vector") == 0


def test_vector_added_to_a_tensor_with_another_reader_stays(net):
    x = net.linear("input", DIM, DIM)
    out = net.op("Mul", net.op("Add", x, net.weight(DIM)), x)
    assert sites(net.graph(out), "added-vector") == 0
