"""Placement: which tensors carry Q/DQ, and the reason that is given."""

import numpy as np
import pytest

from edgehybrid import rewrites
from edgehybrid.errors import GraphError
from edgehybrid.graph import Graph
from edgehybrid.placement import plan
from edgehybrid.placement.rules import (
    CONVOLUTION_RULES,
    CORE_RULES,
    FLOAT_OPS,
    HADAMARD_RULES,
    LINEAR_RULES,
    PASSAGE_RULES,
    RESIDUAL_RULES,
    Convolution,
    Core,
    Hadamard,
    Linear,
    Passage,
    Residual,
    choose,
)
from edgehybrid.records import Decision
from tests.single import SingleNet, decisions

THICK = Convolution(True, 2, 32, 64, 1, "3x3", 3, 49, "")
WIDE = Linear(1, False, False, 196, 64, 256)
FITTING = Core(True, True, 32, 196, 49, True)
FUSABLE = Residual("Conv", True, "", "Conv", True)
POOLED = Passage("MaxPool", "3x3", True, "Relu", "Conv", True)
PRODUCT = Hadamard("Conv", "Conv", False, "Conv", True)


def kinds(found: list[Decision]) -> list[tuple[str, str]]:
    return [(d.kind, d.rule) for d in found]


def attention_net(
    heads: int, head_size: int, queries: int, keys: int, *, position: bool = False, bound: str = "", guard: str = ""
) -> Graph:
    """Scores, softmax and weighted sum over computed tensors, with a projection before and after.

    `bound` is an operator before the softmax, `guard` one behind it.
    """
    width = heads * head_size
    net = SingleNet(1, queries, width)
    q = net.transpose(net.reshape(net.linear("input", width, width), 1, queries, heads, head_size), 0, 2, 1, 3)
    reduced = net.op("Slice", "input", net.ints(0), net.ints(keys), net.ints(1))
    k = net.transpose(net.reshape(net.linear(reduced, width, width), 1, keys, heads, head_size), 0, 2, 3, 1)
    v = net.transpose(net.reshape(net.linear(reduced, width, width), 1, keys, heads, head_size), 0, 2, 1, 3)
    scores = net.op("Mul", net.op("MatMul", q, k), net.const(head_size**-0.5))
    if position:
        scores = net.op("Add", scores, net.op("MatMul", q, net.weight(head_size, keys)))
    more = {"Tanh": (), "Min": (net.const(9.0),), "Clip": (net.const(-9.0), net.const(9.0))}
    scores = net.op(bound, scores, *more[bound]) if bound else scores
    weights = net.op("Softmax", scores, axis=-1)
    if guard == "Where":
        weights = net.op(guard, net.const(np.ones((queries, keys)), np.bool_), weights, net.const(0.0))
    elif guard:
        weights = net.op(guard, weights, net.const(0.5))
    out = net.op("MatMul", weights, v)
    merged = net.reshape(net.transpose(out, 0, 2, 1, 3), 1, queries, width)
    return net.graph(net.linear(merged, width, width))


# --- tables ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({}, "conv-int8"),
        ({"constant_weight": False}, "computed-weight"),
        ({"spatial": 1}, "conv-not-2d"),
        ({"inputs": 1, "groups": 64}, "depthwise"),
        ({"inputs": 1, "groups": 64, "kernel": "11x11", "reach": 11}, "large-depthwise"),
        ({"inputs": 16, "groups": 2}, "grouped"),
        ({"kernel": "7x7", "reach": 7}, "conv-int8"),
        ({"inputs": 3}, "thin-conv"),
        ({"outputs": 10}, "thin-conv"),
        ({"inputs": 8}, "thin-input"),
        ({"inputs": 16}, "thin-input"),
        ({"inputs": 16, "kernel": "1x1", "reach": 1}, "thin-input"),
        ({"inputs": 17, "kernel": "1x1", "reach": 1}, "conv-int8"),
        ({"inputs": 24, "outputs": 8}, "conv-int8"),
        ({"inputs": 46, "outputs": 165}, "conv-int8"),
        ({"positions": 1}, "conv-on-vector"),
        ({"pad": "a Pad"}, "after-pad"),
    ],
)
def test_convolution_table_decides_by_its_first_match(change: dict[str, object], rule: str) -> None:
    assert choose(CONVOLUTION_RULES, Convolution(**{**vars(THICK), **change}))[0].name == rule


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({}, "gemm-int8"),
        ({"weight": -1}, "computed-weight"),
        ({"weight": 0}, "weight-first"),
        ({"stacked": True}, "stacked-weight"),
        ({"position_term": True}, "position-term"),
        ({"position_term": True, "stacked": True}, "position-term"),
        ({"m": 1}, "gemv"),
        ({"n": 1}, "gemv"),
        ({"k": 15}, "thin-gemm"),
        ({"n": 10}, "thin-gemm"),
        ({"k": 16, "n": 16, "m": 2}, "gemm-int8"),
    ],
)
def test_product_table_decides_by_its_first_match(change: dict[str, object], rule: str) -> None:
    assert choose(LINEAR_RULES, Linear(**{**vars(WIDE), **change}))[0].name == rule


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({}, "attention-int8"),
        ({"asked": False}, "attention-default"),
        ({"attention": False}, "computed-product"),
        ({"plain": False}, "attention-altered"),
        ({"plain": False, "head_size": 46}, "attention-altered"),
        ({"head_size": 46}, "attention-odd-size"),
        ({"head_size": 8}, "attention-odd-size"),
        ({"head_size": 264}, "attention-odd-size"),
        ({"head_size": 48}, "attention-fp16"),
        ({"queries": 513}, "attention-fp16"),
        ({"keys": 513}, "attention-fp16"),
        ({"queries": 512, "keys": 512, "head_size": 64}, "attention-int8"),
    ],
)
def test_attention_table_decides_by_its_first_match(change: dict[str, object], rule: str) -> None:
    assert choose(CORE_RULES, Core(**{**vars(FITTING), **change}))[0].name == rule


@pytest.mark.parametrize(
    ("change", "rule"),
    [
        ({}, "residual-int8"),
        ({"exchange": "Resize", "branch_int8": False}, "exchange"),
        ({"branch_int8": False}, "residual-float-branch"),
        ({"reader_int8": False}, "residual-float-sum"),
        ({"levels": 3.0}, "uneven"),
        ({"levels": 3.0, "reader_int8": False}, "residual-float-sum"),
    ],
)
def test_residual_table_decides_by_its_first_match(change: dict[str, object], rule: str) -> None:
    assert choose(RESIDUAL_RULES, Residual(**{**vars(FUSABLE), **change}))[0].name == rule


@pytest.mark.parametrize(
    ("change", "rule", "word"),
    [
        ({}, "max-pooling", "moves the one of Conv"),
        ({"reader_int8": False, "reader": "Add"}, "max-pooling", "Add reads it as float"),
        ({"op": "AveragePool"}, "pooling", "more than 8 bits"),
        ({"op": "Resize", "window": "nearest, 2 times as large"}, "resize", "Relu computes, and Conv quantizes"),
        ({"op": "Resize", "reader_int8": False, "reader": "Add"}, "resize", "Add, which reads it, adds or moves"),
        ({"op": "Resize", "copies": False}, "resize", "means of neighbours"),
    ],
)
def test_passage_table_decides_by_its_first_match(change: dict[str, object], rule: str, word: str) -> None:
    found, reason = choose(PASSAGE_RULES, Passage(**{**vars(POOLED), **change}))
    assert (found.name, found.int8) == (rule, False)
    assert word in reason


@pytest.mark.parametrize(
    ("change", "rule", "word"),
    [
        ({}, "hadamard", "for Conv"),
        ({"reader_int8": False, "reader": "Softmax"}, "hadamard", "Softmax reads it as float"),
        ({"gate": True}, "channel-gate", "per channel"),
    ],
)
def test_hadamard_table_decides_by_its_first_match(change: dict[str, object], rule: str, word: str) -> None:
    found, reason = choose(HADAMARD_RULES, Hadamard(**{**vars(PRODUCT), **change}))
    assert (found.name, found.int8) == (rule, False)
    assert word in reason


def test_reason_names_what_was_found() -> None:
    _, reason = choose(CORE_RULES, Core(True, True, 48, 1600, 25, False))
    assert reason == (
        "attention core stays fp16, for which its head size fits a fused kernel: the int8 one needs head size 16/32/64 "
        "and both lengths <= 512; here 48, 1600, 25"
    )


# --- convolutions and products --------------------------------------------------------------------------


def test_convolution_gets_activation_weight_and_float_bias() -> None:
    net = SingleNet(1, 24, 8, 8)
    found = decisions(net.graph(net.conv("input", 24, 32, 3, pads=[1, 1, 1, 1])), "Conv")
    assert kinds(found) == [("activation", "conv-int8"), ("weight", "conv-int8"), ("float", "bias")]
    assert [d.input for d in found] == [0, 1, 2]
    assert (found[0].tensor, found[0].axis, found[1].axis) == ("input", None, 0)


@pytest.mark.parametrize(("trans_b", "axis"), [(0, 1), (1, 0)])
@pytest.mark.parametrize("trans_a", [0, 1])
def test_gemm_weight_axis_is_the_output_column(trans_a: int, trans_b: int, axis: int) -> None:
    net = SingleNet(32, 20) if trans_a else SingleNet(20, 32)
    weight = net.weight(48, 32) if trans_b else net.weight(32, 48)
    found = decisions(net.graph(net.op("Gemm", "input", weight, transA=trans_a, transB=trans_b)), "Gemm")
    assert kinds(found) == [("activation", "gemm-int8"), ("weight", "gemm-int8")]
    assert found[1].axis == axis
    assert "20x32 by 32x48" in found[0].reason


def test_matmul_weight_axis_is_its_last() -> None:
    net = SingleNet(1, 20, 32)
    found = decisions(net.graph(net.op("MatMul", "input", net.weight(32, 48))), "MatMul")
    assert (found[1].kind, found[1].axis) == ("weight", 1)


def test_classifier_of_one_image_stays_float_and_of_a_batch_runs_in_int8() -> None:
    rules = []
    for batch in (1, 8):
        net = SingleNet(batch, 32)
        rules.append(decisions(net.graph(net.op("Gemm", "input", net.weight(32, 1000))), "Gemm")[0].rule)
    assert rules == ["gemv", "gemm-int8"]


def test_constant_on_the_left_stays_float() -> None:
    net = SingleNet(1, 32, 20)
    found = decisions(net.graph(net.op("MatMul", net.weight(48, 32), "input")), "MatMul")
    assert kinds(found) == [("float", "weight-first")] * 2


def test_weight_in_a_constant_node_counts_as_constant() -> None:
    net = SingleNet(1, 20, 32, constants="node")
    assert decisions(net.graph(net.op("MatMul", "input", net.weight(32, 48))), "MatMul")[1].kind == "weight"


def test_computed_weight_stays_float() -> None:
    net = SingleNet(1, 16, 4, 4)
    weight = net.reshape(net.op("Relu", "input"), 16, 16, 1, 1)
    found = decisions(net.graph(net.op("Conv", "input", weight)), "Conv")
    assert kinds(found) == [("float", "computed-weight")] * 2


# --- Pad ------------------------------------------------------------------------------------------------


def padded(net: SingleNet, mode: str = "constant", fill: float | None = None) -> str:
    inputs = ["input", net.ints(0, 0, 1, 1, 0, 0, 1, 1)] + ([] if fill is None else [net.const(fill)])
    return net.op("Pad", *inputs, mode=mode)


@pytest.mark.parametrize(("mode", "fill"), [("constant", None), ("constant", 0.0), ("reflect", None)])
def test_qdq_moves_before_a_pad(mode: str, fill: float | None) -> None:
    net = SingleNet(1, 24, 8, 8)
    graph = net.graph(net.conv(padded(net, mode, fill), 24, 32, 3))
    assert [(d.tensor, d.kind) for d in decisions(graph, "Pad")] == [("input", "activation")]
    assert kinds(decisions(graph, "Conv"))[:2] == [("float", "after-pad"), ("weight", "conv-int8")]


def test_convolution_after_a_pad_with_another_value_stays_float() -> None:
    net = SingleNet(1, 24, 8, 8)
    graph = net.graph(net.conv(padded(net, fill=0.5), 24, 32, 3))
    assert decisions(graph, "Pad") == []
    assert kinds(decisions(graph, "Conv"))[:2] == [("float", "after-pad")] * 2


def test_convolution_after_a_pad_that_leaves_the_network_stays_float() -> None:
    net = SingleNet(1, 24, 8, 8)
    graph = net.graph(net.conv(padded(net), 24, 32, 3))
    (pad,) = graph.nodes("Pad")
    graph.body.outputs.append(pad.outputs[0])
    assert decisions(graph, "Pad") == []
    assert kinds(decisions(graph, "Conv"))[:2] == [("float", "after-pad")] * 2


def test_convolution_after_a_shared_pad_stays_float() -> None:
    net = SingleNet(1, 16, 8, 8)
    pad = padded(net)
    graph = net.graph(net.op("Add", net.conv(pad, 16, 16, 1), net.op("Relu", pad)))
    assert kinds(decisions(graph, "Conv"))[:2] == [("float", "after-pad")] * 2


# --- attention ------------------------------------------------------------------------------------------


def test_attention_core_is_found_with_its_sizes() -> None:
    found = [d for d in decisions(attention_net(2, 24, 40, 10), "MatMul") if d.rule == "attention-fp16"]
    assert len(found) == 4
    assert {d.reason.rpartition("here ")[2] for d in found} == {"24, 40, 10"}


def test_fitting_core_is_int8_only_when_asked() -> None:
    graph = attention_net(2, 32, 40, 10)
    assert [d.rule for d in decisions(graph, "MatMul")].count("attention-default") == 4
    asked = [d for d in decisions(graph, "MatMul", attention="int8") if d.rule == "attention-int8"]
    assert [d.kind for d in asked] == ["activation"] * 4


def test_asking_does_not_quantize_a_core_that_no_fused_kernel_takes() -> None:
    rules = [d.rule for d in decisions(attention_net(2, 24, 40, 10), "MatMul", attention="int8")]
    assert "attention-int8" not in rules


def test_position_term_of_attention_stays_float() -> None:
    found = decisions(attention_net(2, 32, 40, 20, position=True), "MatMul")
    assert [d.kind for d in found if d.rule == "position-term"] == ["float", "float"]
    assert len([d for d in found if d.rule == "attention-default"]) == 4


@pytest.mark.parametrize(
    "change", [{"bound": "Tanh"}, {"bound": "Min"}, {"bound": "Clip"}, {"guard": "Where"}, {"guard": "Mul"}]
)
def test_attention_that_no_fused_kernel_is_documented_for_stays_float(change: dict[str, str]) -> None:
    found = plan(attention_net(2, 32, 40, 20, **change), "fp32", attention="int8").decisions  # type: ignore[arg-type]
    assert [(d.kind, d.rule) for d in found if d.rule.startswith(("attention", "computed"))] == [
        ("float", "attention-altered")
    ] * 4


def test_classifier_before_a_final_softmax_is_no_attention() -> None:
    net = SingleNet(4, 32)
    graph = net.graph(net.op("Softmax", net.op("MatMul", "input", net.weight(32, 64))))
    assert decisions(graph, "MatMul")[0].rule == "gemm-int8"


def test_product_of_computed_tensors_outside_attention_stays_float() -> None:
    net = SingleNet(1, 32, 32)
    graph = net.graph(net.op("MatMul", net.op("Relu", "input"), net.op("Tanh", "input")))
    assert kinds(decisions(graph, "MatMul")) == [("float", "computed-product")] * 2


# --- residual additions -----------------------------------------------------------------------------------


def test_skip_is_int8_where_the_sum_is_read_by_an_int8_convolution() -> None:
    net = SingleNet(1, 32, 8, 8)
    stream = net.op("Relu", "input")
    branch = net.conv(net.op("Relu", net.conv(stream, 32, 32)), 32, 32)
    graph = net.graph(net.conv(net.op("Relu", net.op("Add", branch, stream)), 32, 32))
    found = decisions(graph, "Add")
    assert [(d.input, d.tensor, d.kind) for d in found] == [(0, branch, "float"), (1, stream, "activation")]
    assert found[0].rule == "residual-branch"


def test_shortcut_convolution_is_the_skip() -> None:
    net = SingleNet(1, 32, 8, 8)
    stream = net.op("Relu", "input")
    shortcut = net.conv(stream, 32, 64)
    branch = net.conv(net.op("Relu", net.conv(stream, 32, 64)), 64, 64)
    graph = net.graph(net.conv(net.op("Relu", net.op("Add", shortcut, branch)), 64, 64))
    assert [(d.tensor, d.kind) for d in decisions(graph, "Add")] == [(shortcut, "activation"), (branch, "float")]


def test_skip_of_a_pre_norm_transformer_stays_float() -> None:
    net = SingleNet(1, 20, 32)
    stream = net.op("Relu", "input")
    branch = net.reshape(net.op("Gemm", net.reshape(stream, 20, 32), net.weight(32, 32)), 1, 20, 32)
    total = net.op("Add", stream, branch)
    graph = net.graph(net.op("LayerNormalization", total, net.weight(32), net.weight(32)))
    assert kinds(decisions(graph, "Add")) == [("float", "residual-float-sum")]
    assert decisions(graph, "Add")[0].tensor == stream
    assert "LayerNormalization" in decisions(graph, "Add")[0].reason


def test_skip_beside_a_depthwise_convolution_stays_float() -> None:
    net = SingleNet(1, 32, 8, 8)
    stream = net.op("Relu", "input")
    graph = net.graph(net.conv(net.op("Add", net.depthwise(stream, 32), stream), 32, 32))
    assert kinds(decisions(graph, "Add")) == [("float", "residual-float-branch")]


def test_bias_and_broadcast_additions_are_no_residuals() -> None:
    net = SingleNet(1, 20, 32)
    x = net.op("Relu", "input")
    narrow = net.op("ReduceMean", x, axes=[1], keepdims=1)
    graph = net.graph(net.op("Add", net.op("Add", x, net.weight(32)), narrow))
    assert decisions(graph, "Add") == []


# --- tensors that few images fill ---------------------------------------------------------------------------


def test_what_reads_an_uneven_tensor_stays_float_and_says_how_few_levels_it_had() -> None:
    net = SingleNet(1, 32, 8, 8)
    first = net.conv("input", 32, 32)
    graph = net.graph(net.conv(net.op("Relu", first), 32, 32))
    loud = decisions(graph, "Conv")[3].tensor
    left = [d for d in plan(graph, "typed", uneven={loud: 3.14}).decisions if d.op == "Conv"]
    assert [d.kind for d in left] == ["activation", "weight", "float", "float", "float", "float"]
    assert [d.rule for d in left[3:]] == ["uneven", "uneven", "bias"]
    assert "reaches 3.1 of the 127 levels" in left[3].reason
    assert plan(graph, "typed", uneven={"logits": 3.0}) == plan(graph, "typed")


def test_an_uneven_tensor_before_a_pad_keeps_its_convolution_float() -> None:
    net = SingleNet(1, 24, 8, 8)
    graph = net.graph(net.conv(padded(net), 24, 32, 3))
    found = plan(graph, "fp32", uneven={"input": 3.0}).decisions
    assert [d.rule for d in found if d.op == "Conv"] == ["uneven", "uneven", "bias"]
    assert not [d for d in found if d.op == "Pad"]


def test_an_uneven_skip_stays_float_beside_an_int8_branch() -> None:
    net = SingleNet(1, 32, 8, 8)
    stream = net.op("Relu", "input")
    branch = net.conv(net.op("Relu", net.conv(net.op("Tanh", stream), 32, 32)), 32, 32)
    graph = net.graph(net.conv(net.op("Relu", net.op("Add", branch, stream)), 32, 32))
    assert {d.rule for d in decisions(graph, "Add")} == {"residual-int8", "residual-branch"}
    (found,) = [d for d in plan(graph, "fp32", uneven={stream: 3.0}).decisions if d.op == "Add"]
    assert (found.kind, found.rule, found.tensor) == ("float", "uneven", stream)


def test_a_shortcut_does_not_become_the_branch_when_the_branch_is_kept_float() -> None:
    net = SingleNet(1, 32, 8, 8)
    stream = net.op("Relu", "input")
    branch = net.conv(net.op("Relu", net.conv(stream, 32, 64)), 64, 64)
    graph = net.graph(net.conv(net.op("Relu", net.op("Add", net.conv(stream, 32, 64), branch)), 64, 64))
    names = {d.tensor: d.node for d in decisions(graph, "Conv") if d.input == 0}
    whole = {d.tensor for d in plan(graph, "fp32").decisions if d.kind == "activation"}
    for kept in ({"keep": {name: "kept"}} for name in names.values()):
        assert {d.tensor for d in plan(graph, "fp32", **kept).decisions if d.kind == "activation"} <= whole
    for uneven in ({"uneven": {tensor: 3.0}} for tensor in names):
        assert {d.tensor for d in plan(graph, "fp32", **uneven).decisions if d.kind == "activation"} <= whole


def test_keeping_any_operator_float_quantizes_nothing_that_was_not_calibrated(cmt_ti_graph: Graph) -> None:
    graph, _ = rewrites.apply(cmt_ti_graph)
    whole = [d for d in plan(graph, "fp32").decisions if d.kind == "activation"]
    tensors, nodes = {d.tensor for d in whole}, sorted({d.node for d in whole})
    random = np.random.default_rng(0)
    for share in np.linspace(0.05, 0.95, 10):
        keep = {node: "kept" for node in nodes if random.random() < share}
        left = {d.tensor for d in plan(graph, "fp32", keep=keep).decisions if d.kind == "activation"}
        assert left <= tensors


# --- sums and products of branches, pooling, Resize ---------------------------------------------------------


def test_sum_of_two_branches_is_told_from_a_residual() -> None:
    net = SingleNet(1, 32, 8, 8)
    wide = net.op("Relu", net.conv("input", 32, 32))
    low = net.op("Relu", net.conv(net.op("AveragePool", wide, kernel_shape=[2, 2], strides=[2, 2]), 32, 32))
    raised = net.op("Resize", low, "", net.const([1.0, 1.0, 2.0, 2.0]), mode="nearest")
    graph = net.graph(net.conv(net.op("Add", wide, raised), 32, 32))
    (found,) = decisions(graph, "Add")
    assert (found.kind, found.rule, found.tensor) == ("float", "exchange", wide)
    assert "Resize" in found.reason
    (resize,) = decisions(graph, "Resize")
    assert (resize.kind, resize.rule, resize.tensor) == ("float", "resize", low)
    assert "nearest, 2 times as large" in resize.reason
    assert [d.rule for d in decisions(graph, "AveragePool")] == ["pooling"]


@pytest.mark.parametrize(
    ("mode", "scales", "said"),
    [
        (
            "nearest",
            [0.5, 0.5],
            "nearest, 0.5 times as large) stays float: it only copies what Conv computes, and",
        ),
        ("linear", [2.0, 3.0], "linear, 2 x 3 times as large) stays float: it computes means of neighbours"),
    ],
)
def test_reason_of_a_resize_is_what_it_does(mode: str, scales: list[float], said: str) -> None:
    net = SingleNet(1, 32, 8, 8)
    resized = net.op("Resize", net.conv("input", 32, 32), "", net.const([1.0, 1.0, *scales]), mode=mode)
    (found,) = decisions(net.graph(net.conv(resized, 32, 32)), "Resize")
    assert said in found.reason


def test_product_of_branches_has_a_decision_for_each_factor() -> None:
    net = SingleNet(1, 32, 8, 8)
    left, right = net.depthwise(net.conv("input", 32, 32), 32), net.conv("input", 32, 32)
    graph = net.graph(net.conv(net.op("Mul", left, right), 32, 32))
    assert [(d.tensor, d.kind, d.rule) for d in decisions(graph, "Mul")] == [
        (left, "float", "hadamard"),
        (right, "float", "hadamard"),
    ]


def test_activation_written_as_a_product_is_no_product_of_branches() -> None:
    net = SingleNet(1, 32, 8, 8)
    x = net.gelu(net.conv("input", 32, 32))
    silu = net.op("Mul", x, net.op("Sigmoid", x))
    assert decisions(net.graph(net.op("Mul", silu, net.const(0.5))), "Mul") == []


def test_squeeze_and_excitation_is_a_gate_per_channel() -> None:
    net = SingleNet(1, 32, 8, 8)
    x = net.conv("input", 32, 32)
    gate = net.op("Sigmoid", net.conv(net.op("GlobalAveragePool", x), 32, 32))
    assert [d.rule for d in decisions(net.graph(net.op("Mul", x, gate)), "Mul")] == ["channel-gate"] * 2


def test_max_pooling_names_the_convolution_whose_quantization_passes_it() -> None:
    net = SingleNet(1, 32, 8, 8)
    graph = net.graph(net.conv(net.op("MaxPool", "input", kernel_shape=[2, 2]), 32, 32))
    (found,) = decisions(graph, "MaxPool")
    assert (found.kind, found.rule) == ("float", "max-pooling")
    assert "2x2" in found.reason
    assert "Conv" in found.reason


# --- the rest -----------------------------------------------------------------------------------------------


def test_operators_that_stay_float_have_one_decision_with_a_reason() -> None:
    net = SingleNet(1, 16, 8, 8, opset=20)
    x = net.norm(net.gelu("input"), 16)
    x = net.op("Sigmoid", net.op("GlobalAveragePool", net.gelu(x, "op")))
    for op in ("BatchNormalization", "Erf", "Gelu", "Sigmoid", "GlobalAveragePool"):
        (found,) = decisions(net.graph(x), op)
        assert (found.kind, found.input, found.rule) == ("float", 0, FLOAT_OPS[op][0])


def test_nodes_without_names_are_told_apart() -> None:
    net = SingleNet(1, 32, 8, 8)
    net.conv(net.conv("input", 32, 32), 32, 32)
    for node in net.nodes:
        node.name = "same"
    graph = net.graph(net.nodes[-1].output[0])
    assert [d.node for d in plan(graph, "fp32").decisions if d.input == 0] == [n.output[0] for n in net.nodes]


def test_dynamic_shapes_are_refused_by_name() -> None:
    net = SingleNet(1, 32, 8, 8)
    graph = net.graph(net.conv("input", 32, 32))
    next(graph.nodes("Conv")).outputs[0].shape = None
    with pytest.raises(GraphError, match="the shape of 'conv_3' is not static"):
        plan(graph, "fp32")


@pytest.mark.parametrize("rewritten", [False, True], ids=["plain", "rewritten"])
def test_every_operator_of_cmt_has_its_decisions(cmt_ti_graph: Graph, rewritten: bool) -> None:
    graph = rewrites.apply(cmt_ti_graph)[0] if rewritten else cmt_ti_graph
    found = plan(graph, "typed").decisions
    edges = [(d.node, d.input) for d in found]
    assert len(set(edges)) == len(edges)
    for node in graph.nodes():
        inputs = {d.input for d in found if d.node == node.name}
        if node.op_type in ("Conv", "Gemm", "MatMul"):
            assert inputs == {i for i, v in enumerate(node.inputs) if v is not None}, node.name
        elif node.op_type in FLOAT_OPS:
            assert inputs == {0}, node.name
    assert all(d.reason and "{" not in d.reason for d in found)
    int8 = {d.node for d in found if d.kind == "weight"}
    groups = {n.name: n.attributes.get_int("group", 1) for n in graph.nodes("Conv")}
    stem = {f"/{name}/Conv" for name in ("stem_conv1", "stem_conv2", "stem_conv3", "patch_embed_a/proj")}
    assert {name for name, group in groups.items() if group == 1} - int8 == stem  # of 3, 16, 16 and 16 channels
    assert not int8 & {name for name, group in groups.items() if group > 1}
    gemms = {n.name for n in graph.nodes("Gemm", "MatMul") if any(v is not None and v.const_value for v in n.inputs)}
    assert gemms - int8 == {"/head/Gemm"}
    attention = "attention-fp16" if rewritten else "attention-odd-size"  # heads of 46 become 48
    assert len([d for d in found if d.rule == attention]) == 64
    assert len([d for d in found if d.rule == "residual-int8"]) == 4


def test_dialects_share_their_decisions(cmt_ti_graph: Graph) -> None:
    typed, single = plan(cmt_ti_graph, "typed"), plan(cmt_ti_graph, "fp32")
    assert typed.decisions == single.decisions
    assert (typed.dialect, single.dialect) == ("typed", "fp32")
