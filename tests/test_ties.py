"""Ties: tensors that int8 data movement joins share a range, and a softmax has a known one."""

from edgehybrid.calibrator import choose, observe
from edgehybrid.placement import known_ranges, plan, tie
from tests.single import SingleNet, draw


def test_concatenated_and_pooled_tensors_share_a_range() -> None:
    net = SingleNet(1, 32, 8, 8)
    first = net.op("Relu", net.conv("input", 32, 32))
    second = net.op("Relu", net.op("Mul", net.conv("input", 32, 32), net.const(2.0)))  # reaches further
    both = net.op("Concat", first, second, axis=1)
    pooled = net.op("MaxPool", both, kernel_shape=[2, 2], strides=[2, 2])
    x = net.op("GlobalAveragePool", net.conv(pooled, 64, 16))
    y = net.op("GlobalAveragePool", net.conv(both, 64, 16))
    z = net.op("GlobalAveragePool", net.conv(first, 32, 16))
    graph = net.graph(net.op("Add", net.op("Add", x, y), z))
    made = plan(graph, "fp32")
    (group,) = tie(graph, made)
    assert group == (first, both, pooled)
    tensors = sorted({d.tensor for d in made.decisions if d.kind == "activation"})
    seen = observe(graph, [draw(graph)], tensors, threads=1)
    alone = choose(seen, "mse", images=1, sha256="")
    ranges = choose(seen, "mse", images=1, sha256="", tied=(group,))
    assert len({ranges.tensors[name] for name in group}) == 1
    assert len({alone.tensors[name] for name in group}) > 1
    assert ranges.tensors["input"] == alone.tensors["input"]
    widest = choose(seen, "minmax", images=1, sha256="", tied=(group,)).tensors[first]
    assert widest == max(seen.tensors[name].amax for name in group)


def test_a_softmax_in_int8_ends_at_one() -> None:
    net = SingleNet(1, 32, 48)
    q, k, v = (net.linear("input", 48, 32) for _ in range(3))
    scores = net.op("Softmax", net.op("MatMul", q, net.transpose(k, 0, 2, 1)), axis=-1)
    graph = net.graph(net.op("MatMul", scores, v))
    assert known_ranges(graph, plan(graph, "fp32")) == {}
    made = plan(graph, "fp32", attention="int8")
    assert known_ranges(graph, made) == {scores: 1.0}
    tensors = sorted({d.tensor for d in made.decisions if d.kind == "activation"})
    seen = observe(graph, [draw(graph)], tensors, threads=1)
    ranges = choose(seen, "mse", images=1, sha256="", known=known_ranges(graph, made))
    assert ranges.tensors[scores] == 1.0


def test_networks_without_such_operators_have_no_ties() -> None:
    net = SingleNet(1, 16, 32)
    graph = net.graph(net.linear(net.linear("input", 32, 32), 32, 32))
    assert tie(graph, plan(graph, "fp32")) == ()
