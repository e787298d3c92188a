"""Decide which tensors carry Q/DQ and which stay in floating point, by tables of rules with a reason each.

TensorRT's explicit quantization runs a convolution or matrix product in int8 when its activation and its weight are
both dequantized int8 tensors. Biases, outputs, and everything that is neither a convolution nor a matrix product stay
float. The tables are in `placement.rules`; here every operator is measured and shown to its table.
"""

import math
from collections.abc import Collection, Mapping
from typing import Literal, TypeVar

import onnx_ir as ir

from edgehybrid.graph import Graph, constant, label_nodes, name_of, shape_of
from edgehybrid.graph.structure import (
    KEEPS_INT8,
    branch_factors,
    core_sizes,
    find_attentions,
    input_of,
    is_weight_transposed,
    readers,
    residual_makers,
    weight_index,
)
from edgehybrid.placement.float16 import keep_float32
from edgehybrid.placement.kept import keep_float, leave_uneven
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
    Rule,
    choose,
)
from edgehybrid.placement.ties import known_ranges, tie
from edgehybrid.records import Decision, Dialect, Plan

__all__ = ["keep_float32", "known_ranges", "plan", "tie"]

SiteT = TypeVar("SiteT")

_PASSAGES = ("MaxPool", "GlobalMaxPool", "AveragePool", "Resize")
_ACTIVATED = {"Relu", "Clip", "LeakyRelu", "HardSwish"}
_IMAGES = 4
"""Axes of a batch of images."""


NOTHING: Mapping[str, str] = {}
EVEN: Mapping[str, float] = {}


def plan(
    graph: Graph,
    dialect: Dialect,
    *,
    attention: Literal["float", "int8"] = "float",
    keep: Mapping[str, str] = NOTHING,
    uneven: Mapping[str, float] = EVEN,
) -> Plan:
    """Decide for every operator that int8 could reach or pass through.

    These are convolutions, matrix products, attention cores, residual additions and sums of branches, products of
    branches, pooling, Resize, and everything that int8 kernels leave out (normalisation, softmax, activations).

    The decisions do not depend on the dialect, so the accuracy of the fp32-typed twin speaks for the typed graph.
    They do not depend on the batch either, as sizes are those of one image: ranges of one image serve every batch.

    Args:
        graph: float32 with static shapes, before or after rewrites, or a user's.
        dialect: Which graph will be emitted.
        attention: `int8` quantizes attention cores that TensorRT's fused kernel can take.
        keep: Operators to leave float that the rules would have in int8 -> why; what hangs on them follows.
        uneven: Tensors to leave float, as `Ranges.uneven`; their readers follow.

    Returns:
        Decisions in the order of the nodes, one per (node, input). Of an int8 operator the activation has kind
        `activation` (per-tensor scale) and the weight `weight` (a scale per output channel, along `axis`). Operators
        that never run in int8, pooling and Resize have one decision, for their first input; a residual sum one, for
        its skip; a product of branches two.

    Raises:
        GraphError: A shape that a rule needs is not static.
    """
    names, batch = label_nodes(graph), _batch_of(graph)
    attentions = find_attentions(graph)
    cores = {node: sizes for each in attentions for node, sizes in core_sizes(each).items()}
    altered = {node for each in attentions if not each.plain for node in (*each.scores, *each.sums)}
    found: dict[ir.Node, list[Decision]] = {}
    for node in graph.nodes():
        if node.op_type == "Conv":
            found[node] = _decide_convolution(node, names, batch)
        elif node.op_type in ("Gemm", "MatMul"):
            if weight_index(node) < 0 and node.op_type == "MatMul":
                asked = attention == "int8"
                found[node] = _decide_core(node, names, cores.get(node), plain=node not in altered, asked=asked)
            else:
                found[node] = _decide_product(node, names, batch, position_term=node in cores)
        elif node.op_type in FLOAT_OPS and node.domain == "":
            rule, reason = FLOAT_OPS[node.op_type]
            found[node] = [_decision(node, names, 0, "float", rule, reason)]
    by_rule = {node for node in found if _is_int8(node, found)}
    leave_uneven(uneven, found)
    keep_float(keep, names, found)
    _move_before_pads(graph, names, found)
    depths = _measure_depths(graph)
    for node in graph.nodes("Add"):
        residual = _decide_residual(node, names, found, by_rule, depths, uneven)
        if residual:
            found[node] = residual
    for node in graph.nodes(*_PASSAGES):
        found[node] = [_decide_passage(node, names, found)]
    for node in graph.nodes("Mul"):
        factors = branch_factors(node)
        if factors is not None:
            found[node] = _decide_hadamard(node, names, found, factors)
    return Plan(dialect, tuple(decision for node in graph.nodes() for decision in found.get(node, ())))


def _decision(
    node: ir.Node,
    names: dict[ir.Node, str],
    index: int,
    kind: Literal["activation", "weight", "float"],
    rule: str,
    reason: str,
    axis: int | None = None,
) -> Decision:
    return Decision(names[node], node.op_type, index, name_of(input_of(node, index)), kind, rule, reason, axis)


def _decide_all(
    node: ir.Node, names: dict[ir.Node, str], rule: Rule[SiteT], reason: str, weight: int, axis: int
) -> list[Decision]:
    """One decision for each input of a convolution or matrix product."""
    decisions = []
    for index, value in enumerate(node.inputs):
        if value is None:
            continue
        if index > 1:
            text = "bias stays float: it is added to the 32-bit sums"
            decisions.append(_decision(node, names, index, "float", "bias", text))
        elif not rule.int8:
            decisions.append(_decision(node, names, index, "float", rule.name, reason))
        elif index == weight:
            decisions.append(_decision(node, names, index, "weight", rule.name, reason, axis))
        else:
            decisions.append(_decision(node, names, index, "activation", rule.name, reason))
    return decisions


def _batch_of(graph: Graph) -> int:
    """Images that the graph takes at once; 1 where it takes something else."""
    shape = shape_of(graph.input)
    return shape[0] if len(shape) == _IMAGES else 1


def _per_image(count: int, batch: int) -> int:
    """The share of one image; all of it where images do not share it evenly, as of what is made from weights alone."""
    return count // batch if count % batch == 0 else count


# --- convolutions -------------------------------------------------------------------------------------


def _decide_convolution(node: ir.Node, names: dict[ir.Node, str], batch: int) -> list[Decision]:
    weight = shape_of(input_of(node, 1))
    out = shape_of(node.outputs[0])
    site = Convolution(
        constant_weight=constant(node.inputs[1]) is not None,
        spatial=len(weight) - 2,
        inputs=weight[1],
        outputs=weight[0],
        groups=node.attributes.get_int("group", 1),
        kernel="x".join(str(side) for side in weight[2:]),
        reach=max(weight[2:]),
        positions=_per_image(out[0] * math.prod(out[2:]), batch),
        pad=_describe_pad(node),
    )
    rule, reason = choose(CONVOLUTION_RULES, site)
    return _decide_all(node, names, rule, reason, weight=1, axis=0)


def _describe_pad(node: ir.Node) -> str:
    """What keeps the Q/DQ of the activation from moving before a Pad; empty if nothing does."""
    pad = input_of(node, 0).producer()
    if pad is None or pad.op_type != "Pad":
        return ""
    mode = pad.attributes.get_string("mode", "constant")
    fill = constant(pad.inputs[2]) if len(pad.inputs) > 2 and pad.inputs[2] is not None else None
    if mode == "constant" and len(pad.inputs) > 2 and pad.inputs[2] is not None and (fill is None or fill.any()):
        return "a Pad before it fills with a value other than zero"
    if len(pad.outputs[0].uses()) > 1 or pad.outputs[0].is_graph_output():
        return "a Pad before it is read by others too"
    return ""


def _move_before_pads(graph: Graph, names: dict[ir.Node, str], found: dict[ir.Node, list[Decision]]) -> None:
    """Where an int8 convolution reads a Pad, quantize what the Pad reads instead."""
    for node in graph.nodes("Conv"):
        pad = input_of(node, 0).producer()
        if pad is not None and pad.op_type == "Pad" and _is_int8(node, found):
            first, *rest = found[node]
            before = "the Pad reads int8 so that no Q/DQ stands between it and its convolution"
            found[pad] = [_decision(pad, names, 0, "activation", "before-pad", before)]
            after = f"{first.reason}; its Q/DQ stands before the Pad"
            found[node] = [_decision(node, names, 0, "float", "after-pad", after), *rest]


# --- matrix products ----------------------------------------------------------------------------------


def _decide_product(node: ir.Node, names: dict[ir.Node, str], batch: int, *, position_term: bool) -> list[Decision]:
    weight = weight_index(node)
    first, second = shape_of(input_of(node, 0)), shape_of(input_of(node, 1))
    out = shape_of(node.outputs[0])
    flipped = is_weight_transposed(node)
    site = Linear(
        weight=weight,
        stacked=math.prod((first if weight == 0 else second)[:-2]) > 1,
        position_term=position_term,
        m=_per_image(math.prod(out[:-1] if len(second) > 1 else out), batch),
        k=second[-1] if flipped or len(second) == 1 else second[-2],
        n=out[-1] if len(second) > 1 else 1,
    )
    rule, reason = choose(LINEAR_RULES, site)
    axis = 0 if flipped else len(second) - 1
    return _decide_all(node, names, rule, reason, weight=weight, axis=axis)


def _decide_core(
    node: ir.Node, names: dict[ir.Node, str], sizes: tuple[int, int, int] | None, *, plain: bool, asked: bool
) -> list[Decision]:
    head_size, queries, keys = sizes or (0, 0, 0)
    site = Core(sizes is not None, plain, head_size, queries, keys, asked)
    rule, reason = choose(CORE_RULES, site)
    kind: Literal["activation", "float"] = "activation" if rule.int8 else "float"
    return [_decision(node, names, index, kind, rule.name, reason) for index in (0, 1)]


# --- residual additions -------------------------------------------------------------------------------


def _decide_residual(
    node: ir.Node,
    names: dict[ir.Node, str],
    found: dict[ir.Node, list[Decision]],
    by_rule: Collection[ir.Node],
    depths: dict[ir.Node, int],
    uneven: Mapping[str, float],
) -> list[Decision]:
    """Decisions for an Add of two computed tensors of one shape; none for any other Add.

    Which of the two is the branch goes `by_rule`, by what would be int8 if nothing were kept from it. Otherwise leaving
    a layer in float could swap branch and skip, and the new skip would have no calibrated range.
    """
    makers = residual_makers(node)
    if makers is None:
        return []
    # The branch is what an int8 kernel makes; of two, the longer one: a shortcut convolution is the skip.
    branch = max((0, 1), key=lambda i: (makers[i] in by_rule, depths[makers[i]]))
    reader, some, _ = _find_reader(node, found)
    site = Residual(
        branch=makers[branch].op_type,
        branch_int8=_is_int8(makers[branch], found),
        exchange=_find_exchange(makers[branch].op_type, makers[1 - branch].op_type),
        reader=reader,
        reader_int8=some,
        levels=uneven.get(name_of(input_of(node, 1 - branch))),
    )
    rule, reason = choose(RESIDUAL_RULES, site)
    if not rule.int8:
        return [_decision(node, names, 1 - branch, "float", rule.name, reason)]
    text = "branch stays float: its kernel adds the skip before it rounds"
    both = {
        1 - branch: _decision(node, names, 1 - branch, "activation", rule.name, reason),
        branch: _decision(node, names, branch, "float", "residual-branch", text),
    }
    return [both[0], both[1]]


def _find_exchange(branch: str, skip: str) -> str:
    """The operator through which the features of another branch arrive at a sum; empty for a residual."""
    if branch in ("Resize", "Concat") or (branch in _ACTIVATED and skip in _ACTIVATED):
        return branch
    return ""


def _measure_depths(graph: Graph) -> dict[ir.Node, int]:
    """Operators on the longest path from an input to each node."""
    depths: dict[ir.Node, int] = {}
    for node in graph.nodes():
        before = [v.producer() for v in node.inputs if v is not None]
        depths[node] = 1 + max((depths[p] for p in before if p is not None), default=0)
    return depths


# --- pooling, resizing and products of branches -------------------------------------------------------


def _decide_passage(node: ir.Node, names: dict[ir.Node, str], found: Mapping[ir.Node, list[Decision]]) -> Decision:
    """What becomes of an operator that moves, chooses or averages values."""
    source = input_of(node, 0)
    maker = source.producer()
    reader, _, every = _find_reader(node, found)
    if node.op_type == "Resize":
        mode = node.attributes.get_string("mode", "nearest")
        sides = zip(shape_of(source)[2:], shape_of(node.outputs[0])[2:], strict=True)
        factors = dict.fromkeys(f"{after / before:.3g}" for before, after in sides)  # one number where they are alike
        window, copies = f"{mode}, {' x '.join(factors) or 1} times as large", mode == "nearest"
    else:
        window = "x".join(str(side) for side in node.attributes.get_ints("kernel_shape", ())) or "whole map"
        copies = "Max" in node.op_type
    site = Passage(node.op_type, window, copies, "the input" if maker is None else maker.op_type, reader, every)
    rule, reason = choose(PASSAGE_RULES, site)
    return _decision(node, names, 0, "float", rule.name, reason)


def _decide_hadamard(
    node: ir.Node,
    names: dict[ir.Node, str],
    found: Mapping[ir.Node, list[Decision]],
    factors: tuple[ir.Node, ir.Node],
) -> list[Decision]:
    """One decision for each factor of a product of two branches."""
    first, second = (shape_of(input_of(node, index)) for index in (0, 1))
    reader, some, _ = _find_reader(node, found)
    site = Hadamard(factors[0].op_type, factors[1].op_type, first != second, reader, some)
    rule, reason = choose(HADAMARD_RULES, site)
    return [_decision(node, names, index, "float", rule.name, reason) for index in (0, 1)]


def _find_reader(node: ir.Node, found: Mapping[ir.Node, list[Decision]]) -> tuple[str, bool, bool]:
    """The first operator that reads a result, an int8 one if there is any; whether some do, and whether all do."""
    reading = list(readers(node.outputs[0], KEEPS_INT8))
    int8 = [reader for reader in reading if _is_int8(reader, found)]
    first = (int8 or reading)[0].op_type if reading else "the output"
    return first, bool(int8), bool(reading) and len(int8) == len(reading)


def _is_int8(node: ir.Node, found: Mapping[ir.Node, list[Decision]]) -> bool:
    return any(decision.kind != "float" for decision in found.get(node, ()))
