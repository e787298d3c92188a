"""Switches: one network that is any choice of int8 groups."""

import numpy as np
import pytest

from edgehybrid.errors import GraphError
from edgehybrid.graph import add_constant, constant
from edgehybrid.placement import plan
from edgehybrid.quantizer import quantize
from edgehybrid.search import find_groups, find_sites, owners, switch
from tests.search.nets import answering, grouped, hybrid, images, ranges, session, twin
from tests.single import SingleNet, observe


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
    assert find_sites(hybrid(), hybrid(), {}) == ()


def test_two_unrelated_networks_are_refused() -> None:
    net = SingleNet(1, 16, 16, 16)
    with pytest.raises(GraphError, match="is not in its int8 twin"):
        find_sites(hybrid(), net.graph(net.op("Relu", "input")), {})


def test_a_corrected_or_added_bias_is_switched_with_its_layer() -> None:
    """As a quantizer that corrects biases leaves them: a new constant at the addition, a third input of a Conv."""
    net = SingleNet(1, 24, 8, 8)
    x = net.conv("input", 24, 32, 3, bias=False, pads=[1, 1, 1, 1])
    tokens = net.transpose(net.reshape(x, 1, 32, 64), 0, 2, 1)
    graph = net.graph(net.linear(tokens, 32, 48))
    made = plan(graph, "fp32")
    x = images(1)[:, :, :8, :8]
    quantized = quantize(graph, observe(graph, x), made)
    (conv,) = quantized.nodes("Conv")
    (add,) = quantized.nodes("Add")
    conv.resize_inputs(3)
    conv.replace_input_with(2, add_constant(quantized, "added", np.full(32, 0.5, np.float32)))
    index = next(i for i, value in enumerate(add.inputs) if constant(value) is not None)
    add.replace_input_with(index, add_constant(quantized, "corrected", np.full(48, 0.25, np.float32)))
    groups = find_groups(graph, made)
    answer = answering(switch(graph, quantized, owners(graph, made, groups)))
    for choice, network in (([False, False], graph), ([True, True], quantized)):
        want = session(network).run(["logits"], {"input": x})[0]
        np.testing.assert_array_equal(answer(np.array(choice), x), want)
    swapped = switch(graph, quantized, owners(graph, made, groups)).swaps
    assert sorted(swap.group for swap in swapped) == [0, 0, 1, 1]
