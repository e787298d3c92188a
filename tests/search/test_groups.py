"""Groups: what goes back to float together."""

import pytest

from edgehybrid.graph import Graph, label_nodes, name_of
from edgehybrid.placement import plan
from edgehybrid.search import find_groups, owners
from tests.search.nets import grouped, hybrid
from tests.single import SingleNet


def test_every_int8_product_is_in_exactly_one_group(cmt_ti_graph: Graph) -> None:
    for graph in (hybrid(), cmt_ti_graph):
        made, groups = grouped(graph)
        wanted = sorted({d.node for d in made.decisions if d.kind == "weight"})
        assert sorted(node for group in groups for node in group.nodes) == wanted
        assert len({group.name for group in groups}) == len(groups)
        assert all(group.macs > 0 for group in groups)


def test_projections_of_one_tensor_and_the_two_products_of_an_mlp_are_one_group_each() -> None:
    kinds = [(group.kind, len(group.nodes)) for group in grouped(hybrid())[1]]
    assert kinds == [("single", 1)] * 4 + [("shared input", 3), ("single", 1), ("mlp", 2)]


def test_an_inverted_bottleneck_is_an_mlp_with_the_depthwise_convolution_inside(cmt_ti_graph: Graph) -> None:
    mlps = [group for group in grouped(cmt_ti_graph)[1] if group.kind == "mlp"]
    assert len(mlps) == 16
    assert mlps[0].name == "/blocks_a.0/mlp"


def test_a_skip_from_outside_ends_an_mlp() -> None:
    """Two convolutions of a bottleneck that widens, joined by an addition, are two kernels."""
    net = SingleNet(1, 64, 8, 8)
    wide = net.op("Add", net.conv("input", 64, 256), net.conv(net.op("Relu", "input"), 64, 256))
    groups = grouped(net.graph(net.conv(net.op("Relu", wide), 256, 64)))[1]
    assert [group.kind for group in groups] == ["single"] * 3


def test_layers_for_themselves() -> None:
    made = plan(hybrid(), "fp32")
    groups = find_groups(hybrid(), made, single=True)
    assert [len(group.nodes) for group in groups] == [1] * 10


def by_label(graph: Graph, owner: dict[str, int]) -> dict[str, int]:
    """As a plan names operators -> group."""
    return {label: owner[out] for n, label in label_nodes(graph).items() if (out := name_of(n.outputs[0])) in owner}


def test_a_residual_addition_and_a_pad_belong_to_their_convolution() -> None:
    graph = hybrid()
    made, groups = grouped(graph)
    owner = by_label(graph, owners(graph, made, groups))
    by_op = {d.node: d.op for d in made.decisions if d.kind != "float"}
    assert owner.keys() == by_op.keys()
    (pad,) = (node for node, op in by_op.items() if op == "Pad")
    (add,) = (node for node, op in by_op.items() if op == "Add")
    assert groups[owner[pad]].nodes == groups[3].nodes  # the strided convolution
    assert groups[owner[add]].nodes == groups[2].nodes  # the end of the branch


@pytest.mark.parametrize("number", range(7))
def test_a_group_left_float_takes_its_residual_and_pad_along(number: int) -> None:
    graph = hybrid()
    made, groups = grouped(graph)
    kept = plan(graph, "fp32", keep=dict.fromkeys(groups[number].nodes, "too sensitive"))
    owner = by_label(graph, owners(graph, made, groups))
    left = {d.node for d in made.decisions if d.kind != "float"} - {d.node for d in kept.decisions if d.kind != "float"}
    assert left >= {node for node, group in owner.items() if group == number}
    said = [d for d in kept.decisions if d.rule == "mixed-precision"]
    assert {d.node for d in said} == set(groups[number].nodes)
    assert all(d.reason == "too sensitive" and d.axis is None for d in said)
