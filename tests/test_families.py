"""The smallest variant of each family goes the whole road, from the export to NVIDIA's compiler."""

import functools
from pathlib import Path

import numpy as np
import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from edgehybrid import exporter, linter, rewrites, zoo
from edgehybrid.engine import build, find_builders
from edgehybrid.graph import Graph, constant, name_of, shape_of, values
from edgehybrid.graph.counting import count_macs
from edgehybrid.graph.structure import branch_factors, residual_makers
from edgehybrid.placement import plan
from edgehybrid.quantizer import quantize, to_fp16
from edgehybrid.records import Dialect, Figure, Target
from tests import official
from tests.golden import fill
from tests.single import draw, observe, run

LEAST_SIDE = 64
"""px, at which a network is quick and every stage still has work."""
BY_SIZE = sorted(zoo.cards(), key=lambda card: -card.params)
SMALLEST = {card.family: card for card in BY_SIZE}.values()
"""The smallest variant of each family of the zoo: a new one is tested by being listed."""
SIDES = {card.name: -(-max(LEAST_SIDE, card.least_size) // card.size_step) * card.size_step for card in SMALLEST}
"""Model -> the input side in px at which it is tested."""

ORIN = Target("orin", "Orin", "tensorrt", "typed", ("fp16", "int8"), {"compute_capability": Figure("8.7", "test")})
SHAPE_ARITHMETIC = {"Shape", "ConstantOfShape", "Expand", "Where", "If", "Cast", "Range", "Unsqueeze", "Identity"}

needs_rtx = pytest.mark.skipif(find_builders().rtx is None, reason="TensorRT-RTX (extra 'rtx') is not installed")


@pytest.fixture(scope="module", params=SIDES)
def family(request: pytest.FixtureRequest) -> str:
    """The smallest variant of each family."""
    name: str = request.param
    return name


@pytest.fixture(scope="module")
def traced(family: str) -> tuple[Graph, int]:
    """As `trace`, for each family."""
    return trace(family)


@functools.cache
def trace(name: str) -> tuple[Graph, int]:
    """As `trace_anew`, once."""
    return trace_anew(name)


def trace_anew(name: str) -> tuple[Graph, int]:
    """The exported network with 10 classes, nothing at its initial value, and what torch counts of its work."""
    side = SIDES[name]
    module, spec = zoo.load(name, "random", num_classes=10, input_size=side)
    fill(module)
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad():  # in inference mode the counter trips over a parameter of the top module
        module(torch.zeros(1, 3, side, side))
    return exporter.trace(module, spec), counter.get_total_flops() // 2


@pytest.fixture(scope="module")
def rewritten(traced: tuple[Graph, int]) -> Graph:
    return rewrites.apply(traced[0])[0]


def error(before: Graph, after: Graph) -> float:
    """Largest difference of a logit, relative to the largest logit."""
    image = draw(before, seed=3)
    (want, *_), (got, *_) = run(before, image), run(after, image)
    return float(np.abs(got - want).max() / np.abs(want).max())


def test_the_export_is_static_and_free_of_shape_arithmetic(traced: tuple[Graph, int]) -> None:
    graph, _ = traced
    assert not {node.op_type for node in graph.nodes()} & SHAPE_ARITHMETIC
    for value in values(graph):
        shape_of(value)  # raises where it is not static
    assert all(len(node.inputs) < 4 or node.inputs[3] is None for node in graph.nodes("Resize"))  # scales, not sizes


def test_nodes_and_weights_carry_the_names_of_their_modules(traced: tuple[Graph, int]) -> None:
    graph, _ = traced
    assert all(node.name and node.name.startswith("/") for node in graph.nodes() if node.op_type != "Constant")
    weights = [node.inputs[1] for node in graph.nodes("Conv", "Gemm", "MatMul") if constant(node.inputs[1]) is not None]
    assert len(weights) > 2
    assert not [name_of(v) for v in weights if v is not None and name_of(v).startswith(("onnx::", "_v_"))]


def test_the_export_does_the_work_that_torch_counts(traced: tuple[Graph, int]) -> None:
    graph, macs = traced
    assert count_macs(graph) == macs


def test_conformer_pools_before_it_projects_and_has_one_head() -> None:
    graph = trace("conformer_ti")[0]
    after, lines = rewrites.apply(graph)
    assert {"pool-first: 7 sites", "heads: 1 site", "attention-scale: 12 sites"} <= set(lines)  # blocks 2 to 8; all
    assert count_macs(after) < count_macs(graph)


WRITTEN = {
    "conformer_ti": ({"pool-first: 7 sites", "heads: 1 site"}, {"AveragePool": 7, "Resize": 7}),
    "conv2former_n": ({"layer-norm: 32 sites"}, {"LayerNormalization": 32, "Sqrt": 0}),
    "botnet26t": ({"relative-shift: 6 sites", "bn-into-value: 3 sites"}, {"Pad": 0, "Slice": 0}),
}
"""Model -> what rewrites find in it as the authors write it, and the operators that are then left."""


@pytest.mark.parametrize("name", WRITTEN)
def test_what_the_authors_write_is_rewritten_exactly(name: str) -> None:
    with official.write(name):
        graph = trace_anew(name)[0]
    after, lines = rewrites.apply(graph)
    found, left = WRITTEN[name]
    assert found <= set(lines)
    assert {op: sum(1 for _ in after.nodes(op)) for op in left} == left
    assert {op: sum(1 for _ in graph.nodes(op)) for op in left} != left
    assert error(graph, after) < 1e-5
    ours = rewrites.apply(trace(name)[0])[0]
    assert error(ours, after) < 1e-5


def test_rewriting_keeps_the_logits_and_is_done_after_once(traced: tuple[Graph, int], rewritten: Graph) -> None:
    assert error(traced[0], rewritten) < 1e-5
    again, lines = rewrites.apply(rewritten)
    assert all(line.endswith(": 0 sites") for line in lines)
    assert again.digest() == rewritten.digest()


def test_int8_stays_near_float32(rewritten: Graph) -> None:
    quantized = quantize(rewritten, observe(rewritten, draw(rewritten, seed=3)), plan(rewritten, "fp32"))
    assert 0 < error(rewritten, quantized) < 0.2  # noise of random weights; a wrong scale gives 1 and more


@pytest.mark.parametrize("dialect", ["fp32", "typed"])
def test_the_linter_finds_nothing_in_what_the_quantizer_writes(rewritten: Graph, dialect: Dialect) -> None:
    decided = plan(rewritten, dialect, attention="int8")
    quantized = quantize(rewritten, observe(rewritten, draw(rewritten, seed=3)), decided)
    assert linter.check(quantized).issues == ()


DECIDED = {
    "cmt_ti": {
        ("MatMul", "attention-fp16"), ("Conv", "depthwise"), ("Conv", "large-depthwise"), ("Add", "residual-int8"),
        ("Add", "residual-float-sum"), ("ReduceMean", "pooling"), ("Gemm", "gemv"),
    },
    "conformer_ti": {
        ("MatMul", "attention-default"), ("Add", "exchange"), ("Resize", "resize"), ("AveragePool", "pooling"),
        ("MaxPool", "max-pooling"), ("Add", "residual-int8"), ("LayerNormalization", "normalisation"),
    },
    "conv2former_n": {
        ("Mul", "hadamard"), ("Conv", "large-depthwise"), ("Conv", "depthwise"), ("Add", "residual-float-sum"),
        ("LayerNormalization", "normalisation"),
    },
    "botnet26t": {
        ("MatMul", "attention-fp16"), ("MatMul", "position-term"), ("MaxPool", "max-pooling"),
        ("AveragePool", "pooling"), ("GlobalAveragePool", "pooling"), ("Add", "residual-int8"),
    },
}  # fmt: skip
"""What makes a family of the zoo a family, and the row of the tables that decides it; one that you add has none."""

ALWAYS_DECIDED = {
    *("Conv", "Gemm", "MatMul", "Softmax", "LayerNormalization", "BatchNormalization", "Erf", "Sigmoid"),
    *("Resize", "MaxPool", "AveragePool", "GlobalAveragePool", "ReduceMean"),
}


def test_what_makes_the_family_has_decisions_with_reasons(family: str, rewritten: Graph) -> None:
    found = plan(rewritten, "typed").decisions
    assert DECIDED.get(family, set()) <= {(d.op, d.rule) for d in found}
    assert all(d.reason and "{" not in d.reason for d in found)
    edges = [(d.node, d.input) for d in found]
    assert len(set(edges)) == len(edges)
    decided = {d.node for d in found}
    missing = [n.name for n in rewritten.nodes() if n.op_type in ALWAYS_DECIDED and n.name not in decided]
    assert not missing
    sums = [n for n in rewritten.nodes("Add") if residual_makers(n) is not None]
    products = [n for n in rewritten.nodes("Mul") if branch_factors(n) is not None]
    assert {n.name for n in (*sums, *products)} <= decided


@needs_rtx
@pytest.mark.parametrize("precision", ["int8", "fp16"])
def test_nvidia_compiles_it(rewritten: Graph, precision: str, tmp_path: Path) -> None:
    if precision == "int8":
        typed = quantize(rewritten, observe(rewritten, draw(rewritten)), plan(rewritten, "typed"))
    else:
        typed = to_fp16(rewritten)
    path = tmp_path / "model.onnx"
    path.write_bytes(typed.to_bytes())
    made, _ = build(path, ORIN, None)
    assert (made.status, made.flavor) == ("checked", "tensorrt-rtx")
