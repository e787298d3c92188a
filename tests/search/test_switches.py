"""Switches: one network that is any choice of int8 groups."""

import numpy as np
import pytest

from edgehybrid.errors import GraphError
from edgehybrid.placement import plan
from edgehybrid.quantizer import quantize
from edgehybrid.search import find_sites, switch
from tests.search.nets import answering, grouped, hybrid, images, owners, ranges, session, twin
from tests.single import SingleNet


def test_all_off_is_the_float_network_and_all_on_its_twin() -> None:
    graph = hybrid()
    made, quantized = twin(graph)
    _, groups = grouped(graph)
    answer = answering(switch(graph, quantized, owners(graph, made, groups)))
    x = images(1)
    for choice, network in ((np.zeros(len(groups), bool), graph), (np.ones(len(groups), bool), quantized)):
        want = session(network).run(["logits"], {"input": x})[0]
        np.testing.assert_array_equal(answer(choice, x), want)


def test_a_group_switched_on_computes_what_the_quantizer_writes_for_it_alone() -> None:
    graph = hybrid()
    made, quantized = twin(graph)
    _, groups = grouped(graph)
    answer = answering(switch(graph, quantized, owners(graph, made, groups)))
    x = images(1)
    for number in (0, 4, 6):  # without residual additions, whose skip a plan leaves float unless its reader is int8
        others = [node for i, group in enumerate(groups) for node in group.nodes if i != number]
        alone = quantize(graph, ranges(graph), plan(graph, "fp32", keep=dict.fromkeys(others, "")))
        want = session(alone).run(["logits"], {"input": x})[0]
        np.testing.assert_array_equal(answer(np.arange(len(groups)) == number, x), want)


def test_a_network_and_itself_differ_nowhere() -> None:
    assert list(find_sites(hybrid(), hybrid())) == []


def test_two_unrelated_networks_are_refused() -> None:
    net = SingleNet(1, 16, 16, 16)
    with pytest.raises(GraphError, match="is not in its int8 twin"):
        list(find_sites(hybrid(), net.graph(net.op("Relu", "input"))))
