"""Every rule fires on its file and on no clean one; our own graphs break none; others' do."""

import importlib.util
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np
import onnx
import pytest
from numpy.typing import ArrayLike
from onnx import numpy_helper
from onnxruntime.quantization import CalibrationDataReader, quantize_static
from typer.testing import CliRunner

import edgehybrid
from edgehybrid import cli, linter, rewrites
from edgehybrid.engine.build import RTX_MODULES
from edgehybrid.errors import GateError, GraphError, NotFoundError
from edgehybrid.graph import Graph
from edgehybrid.placement import plan
from edgehybrid.quantizer import quantize, to_fp16
from edgehybrid.records import Dialect, Lint, Ranges
from tests.linter import files
from tests.linter.files import CASES

runner = CliRunner()

RTX = next(filter(importlib.util.find_spec, RTX_MODULES), None)

LENIENT = {"uint8", "scale inf"}
"""Errors that TensorRT-RTX reads, as something else: uint8 as int8, an infinite scale as NaN."""


def write(proto: onnx.ModelProto, path: Path) -> Path:
    path.write_bytes(proto.SerializeToString())
    return path


def broken(found: Lint) -> set[str]:
    return {issue.rule for issue in found.issues}


@pytest.mark.parametrize("case", CASES)
def test_a_rule_fires_on_what_breaks_it_and_on_its_clean_twin_nothing_does(case: str, tmp_path: Path) -> None:
    rule, bad, clean = CASES[case]
    found = linter.lint(write(bad(), tmp_path / "bad.onnx"))
    assert rule in broken(found)
    names = {node.name for node in bad().graph.node} | {"input"}
    assert {issue.node for issue in found.issues} <= names
    assert linter.lint(write(clean(), tmp_path / "clean.onnx")).issues == ()


def test_every_rule_has_a_file_that_breaks_it() -> None:
    assert {rule for rule, _, _ in CASES.values()} == {rule.name for rule in linter.RULES}


def test_the_place_is_named(tmp_path: Path) -> None:
    (issue,) = linter.lint(write(files.padded(after=True), tmp_path / "pad.onnx")).issues
    assert (issue.rule, issue.severity, issue.node) == ("pad-conv", "warning", "Pad_0")
    (issue,) = linter.lint(write(files.plain(zero=np.int8(3)), tmp_path / "zero.onnx")).issues
    assert (issue.severity, issue.node) == ("error", "QuantizeLinear_0")
    assert "'input' has zero point 3" in issue.found


def test_a_quantizer_without_zero_point_writes_uint8(tmp_path: Path) -> None:
    proto = files.plain()
    for node in proto.graph.node[:2]:
        del node.input[2]
    assert broken(linter.lint(write(proto, tmp_path / "m.onnx"))) == {"not-int8"}


@pytest.mark.parametrize("kind", ["", "Identity", "Reshape", "Transpose"])
@pytest.mark.parametrize(
    ("back", "zero", "rule"),
    [
        (0.1, 3, "zero-point"),
        (0.0, 0, "scale-value"),
        (-0.1, 0, "scale-value"),
        (np.inf, 0, "scale-value"),
        (0.2, 0, "unequal-pair"),
        ([0.1], 0, ""),
    ],
)
def test_a_dequantizer_is_judged_by_its_own_numbers(
    back: ArrayLike, zero: int, rule: str, kind: str, tmp_path: Path
) -> None:
    found = linter.lint(write(files.moved(back, zero, kind), tmp_path / "m.onnx"))
    assert [(issue.rule, issue.node.partition("_")[0]) for issue in found.issues] == [
        (name, "DequantizeLinear") for name in [rule] if name
    ]
    assert (found.products, found.int8) == (1, 1)


def test_what_a_pair_repeats_is_said_once(tmp_path: Path) -> None:
    proto = files.plain(zero=np.int8(3))
    proto.graph.node[1].input[2] = "a copy"
    proto.graph.initializer.append(numpy_helper.from_array(np.int8(3), "a copy"))
    (issue,) = linter.lint(write(proto, tmp_path / "m.onnx")).issues
    assert (issue.rule, issue.node) == ("zero-point", "QuantizeLinear_0")


def test_a_weight_may_be_moved_before_it_is_dequantized(tmp_path: Path) -> None:
    for rounded in (False, True):
        found = linter.lint(write(files.turned(0, rounded=rounded), tmp_path / "m.onnx"))
        assert (found.issues, found.int8) == ((), 1)
    found = linter.lint(write(files.turned(1, rounded=True), tmp_path / "m.onnx"))
    assert broken(found) == {"scale-length", "unequal-pair"}


def test_an_operator_without_its_scale_is_bad_input(tmp_path: Path) -> None:
    proto = files.plain()
    del proto.graph.node[0].input[1:]
    with pytest.raises(GraphError, match="QuantizeLinear_0") as caught:
        linter.lint(write(proto, tmp_path / "m.onnx"))
    assert f"`check-model {tmp_path / 'm.onnx'}`" in caught.value.fix


def test_an_open_shape_hides_no_other_finding(tmp_path: Path) -> None:
    proto = files.attention(46)
    proto.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "n"
    found = linter.lint(write(proto, tmp_path / "m.onnx"))
    assert broken(found) == {"open-shape"}, "sizes of batched heads are open, so attention is not judged"
    proto = files.plain(zero=np.int8(3))
    proto.graph.input[0].type.tensor_type.shape.dim[0].dim_param = "n"
    assert broken(linter.lint(write(proto, tmp_path / "m.onnx"))) == {"open-shape", "zero-point"}


def test_the_range_of_a_float32_island_is_that_of_float32(tmp_path: Path) -> None:
    found = linter.lint(write(files.second_type(np.float32, 1e3), tmp_path / "m.onnx"))
    assert broken(found) == {"mixed-scale-types"}


@pytest.mark.parametrize("then", ["BatchNormalization", "Add"])
def test_a_convolution_that_is_rounded_before_its_bias_adds_no_skip(then: str, tmp_path: Path) -> None:
    found = linter.lint(write(files.residual(skip=False, then=then, between=True), tmp_path / "m.onnx"))
    assert broken(found) == {"rounded-output"}


@pytest.mark.parametrize("moved", [False, True])
def test_a_skip_may_be_moved_after_it_is_rounded(moved: bool, tmp_path: Path) -> None:
    net = files.Maker()
    x = net.op("Relu", "input")
    skip = net.op("Transpose", net.rounded(x) if moved else x, perm=[0, 1, 3, 2])
    y = net.op("Add", skip, net.conv(net.rounded(x)))
    found = linter.lint(write(net.model(net.conv(net.rounded(y))), tmp_path / "m.onnx"))
    assert broken(found) == (set() if moved else {"float-skip"})


def test_two_scales_are_told_where_they_meet_and_not_again_behind(tmp_path: Path) -> None:
    net = files.Maker()
    x = net.op("Concat", net.rounded("input"), net.rounded(net.op("Relu", "input"), 0.2), axis=1)
    x = net.op("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
    proto = net.model(net.conv(net.rounded(x, 0.4), net.weight(32, 64, 1, 1)))
    (issue,) = linter.lint(write(proto, tmp_path / "m.onnx")).issues
    assert (issue.rule, issue.node.partition("_")[0]) == ("unequal-scales", "Concat")


def test_what_is_computed_between_two_scales_may_change_them(tmp_path: Path) -> None:
    """A pooling behind a Clip runs with the scale after it."""
    net = files.Maker()
    x = net.op("Clip", net.rounded("input"), net.const(0.0), net.const(6.0))
    x = net.op("MaxPool", x, kernel_shape=[2, 2], strides=[2, 2])
    proto = net.model(net.conv(net.rounded(x, 0.05)))
    assert linter.lint(write(proto, tmp_path / "m.onnx")).issues == ()


def test_a_shortcut_convolution_may_be_rounded(tmp_path: Path) -> None:
    net = files.Maker()
    x = net.rounded("input")
    branch = net.conv(net.rounded(net.conv(x)))
    both = net.op("Add", net.rounded(net.conv(x)), branch)
    assert linter.lint(write(net.model(net.conv(net.rounded(both))), tmp_path / "m.onnx")).issues == ()


@pytest.mark.parametrize(
    "change",
    [
        *({"before": kind} for kind in ("Cast", "Clip", "Div", "Max", "Min", "Tanh", "Where")),
        *({"behind": kind} for kind in ("Cast", "Div", "Dropout", "Mul", "Slice", "Where")),
    ],
)
def test_attention_is_one_whatever_bounds_or_guards_it(change: dict[str, str], tmp_path: Path) -> None:
    for head, rules in ((46, {"illegal-int8-attention"}), (32, set())):
        proto = files.attention(head, **change)  # type: ignore[arg-type]
        assert broken(linter.lint(write(proto, tmp_path / "m.onnx"))) == rules


@pytest.mark.parametrize("bound", ["Identity", "Tanh"])
@pytest.mark.parametrize("transposed", [False, True])
def test_a_softmax_between_products_with_weights_is_no_attention(transposed: bool, bound: str, tmp_path: Path) -> None:
    """Class scores, what they weigh, and a layer of that; torch exporters write a weight and its Transpose."""
    net = files.Maker(shape=(8, 46))

    def linear(x: str) -> str:
        weight = net.weight(46, 46, axis=0 if transposed else 1)
        return net.op("MatMul", net.rounded(x), net.op("Transpose", weight) if transposed else weight)

    weights = net.op("Softmax", net.op(bound, linear("input")), axis=-1)
    proto = net.model(linear(net.op("Mul", weights, "input") if bound == "Tanh" else weights))
    assert linter.lint(write(proto, tmp_path / "m.onnx")).issues == ()


# --- our own graphs and others' -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def rewritten(cmt_ti_graph: Graph) -> Graph:
    return rewrites.apply(cmt_ti_graph)[0]


@pytest.mark.parametrize("attention", ["float", "int8"])
@pytest.mark.parametrize("dialect", ["fp32", "typed"])
def test_what_the_quantizer_writes_breaks_no_rule(
    rewritten: Graph, dialect: Dialect, attention: Literal["float", "int8"]
) -> None:
    """Any warning would contradict a decision of placement."""
    decided = plan(rewritten, dialect, attention=attention)
    ranges = Ranges("minmax", 1, "0" * 64, {d.tensor: 3.0 for d in decided.decisions if d.kind == "activation"})
    found = linter.check(quantize(rewritten, ranges, decided))
    assert found.issues == ()
    planned = {d.node for d in decided.decisions if d.kind == "weight"}
    assert found.int8 == len(planned) > 50


@pytest.mark.parametrize("precision", ["fp16", "fp32"])
def test_float_graphs_break_no_rule(rewritten: Graph, precision: str) -> None:
    found = linter.check(to_fp16(rewritten) if precision == "fp16" else rewritten)
    assert (found.issues, found.pairs, found.int8) == ((), 0, 0)


def test_one_change_to_our_own_graph_is_found(rewritten: Graph) -> None:
    """So that silence about it means something: the skips of the residuals lose their Q/DQ."""
    decided = plan(rewritten, "fp32")
    ranges = Ranges("minmax", 1, "0" * 64, {d.tensor: 3.0 for d in decided.decisions if d.kind == "activation"})
    quantized = quantize(rewritten, ranges, decided)
    adds = 0
    for node in quantized.nodes("Add"):
        for index, value in enumerate(node.inputs):
            maker = None if value is None else value.producer()
            if maker is not None and maker.op_type == "DequantizeLinear":
                node.replace_input_with(index, maker.inputs[0].producer().inputs[0])  # type: ignore[union-attr]
                adds += 1
    assert adds > 0
    counts = Counter(issue.rule for issue in linter.check(quantized).issues)
    assert counts == {"float-skip": adds}


class Noise(CalibrationDataReader):  # type: ignore[misc]
    def __init__(self, shape: tuple[int, ...]) -> None:
        self.left = [np.random.default_rng(seed).standard_normal(shape).astype(np.float32) for seed in range(2)]

    def get_next(self) -> dict[str, np.ndarray] | None:  # type: ignore[type-arg]
        return {"input": self.left.pop()} if self.left else None


def block() -> onnx.ModelProto:
    """As in CMT: a depthwise convolution with a residual, attention of 46 channels, a product."""
    net = files.Maker(shape=(1, 46, 8, 8))
    rng = np.random.default_rng(0)

    def random(*shape: int) -> str:
        return net.const(rng.standard_normal(shape).astype(np.float32) * 0.1)

    depthwise = net.op("Conv", "input", random(46, 1, 3, 3), random(46), pads=[1] * 4, group=46, kernel_shape=[3, 3])
    x = net.op("Add", "input", depthwise)
    x = net.op("Transpose", net.op("Reshape", x, net.const([1, 46, 64], np.int64)), perm=[0, 2, 1])
    q, k, v = (net.op("MatMul", x, random(46, 46)) for _ in range(3))
    scores = net.op("MatMul", q, net.op("Transpose", k, perm=[0, 2, 1]))
    mixed = net.op("MatMul", net.op("Softmax", scores, axis=-1), v)
    return net.model(net.op("Sigmoid", net.op("MatMul", mixed, random(46, 46))))


@pytest.mark.filterwarnings("ignore")
def test_what_onnx_runtime_writes_by_default_is_refused_and_slow(tmp_path: Path) -> None:
    source = write(block(), tmp_path / "float.onnx")
    quantize_static(source, tmp_path / "ort.onnx", Noise((1, 46, 8, 8)))
    found = linter.lint(tmp_path / "ort.onnx")
    assert {i.rule for i in found.issues if i.severity == "error"} == {"zero-point", "int32-bias"}
    assert {"grouped-int8", "illegal-int8-attention", "rounded-output", "float-operator"} <= broken(found)
    symmetric = {"ActivationSymmetric": True, "WeightSymmetric": True, "QuantizeBias": False}
    quantize_static(source, tmp_path / "ort.onnx", Noise((1, 46, 8, 8)), extra_options=symmetric)
    mended = linter.lint(tmp_path / "ort.onnx")
    assert [i for i in mended.issues if i.severity == "error"] == [], "the fixes that the linter names are the fixes"


@pytest.mark.skipif(RTX is None, reason="needs TensorRT-RTX")
def test_tensorrt_refuses_what_the_rules_call_an_error_and_takes_the_rest(tmp_path: Path) -> None:
    errors = {rule.name for rule in linter.RULES if rule.severity == "error"}
    expected = {}
    for case, (rule, bad, clean) in CASES.items():
        for kind, make in (("bad", bad), ("clean", clean)):
            write(make(), tmp_path / f"{kind} {case}.onnx")
            expected[f"{kind} {case}"] = kind == "clean" or rule not in errors or case in LENIENT
    code = """if True:
        import os, sys
        out = os.fdopen(os.dup(1), "w")
        os.dup2(2, 1)
        import importlib, json, pathlib
        from edgehybrid.engine import bridge
        trt = importlib.import_module(sys.argv[2])
        logger = bridge.make_logger(trt)
        taken = {}
        for path in sorted(pathlib.Path(sys.argv[1]).glob("*.onnx")):
            network = trt.Builder(logger).create_network(0)
            taken[path.stem] = trt.OnnxParser(network, logger).parse_from_file(str(path))
        json.dump(taken, out)
    """
    command = [sys.executable, "-c", code, str(tmp_path), str(RTX)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == expected


# --- the command -------------------------------------------------------------------------------------


def test_the_command_prints_a_document(tmp_path: Path) -> None:
    path = write(files.plain(zero=np.int8(3)), tmp_path / "m.onnx")
    result = runner.invoke(cli.app, ["lint", str(path), "--json"])
    assert result.exit_code == 0
    document = json.loads(result.stdout)
    assert document["schema"] == "edgehybrid.lint/1"
    assert [issue["rule"] for issue in document["issues"]] == ["zero-point"]
    assert (document["int8"], document["products"]) == (1, 1)


def test_strict_shows_the_result_and_exits_6_for_errors_alone(tmp_path: Path) -> None:
    path = write(files.plain(zero=np.int8(3)), tmp_path / "m.onnx")
    result = runner.invoke(cli.app, ["lint", str(path), "--strict"])
    assert result.exit_code == 6
    assert "zero-point, 1 place" in result.stdout
    assert "QuantizeLinear_0" in result.stderr
    with pytest.raises(GateError) as caught:
        edgehybrid.lint(path, strict=True)
    assert caught.value.report == edgehybrid.lint(path)
    slow = write(files.grouped(32), tmp_path / "slow.onnx")
    assert runner.invoke(cli.app, ["lint", str(slow), "--strict"]).exit_code == 0


def test_a_file_that_breaks_nothing_is_not_called_proven(tmp_path: Path) -> None:
    result = runner.invoke(cli.app, ["lint", str(write(files.plain(), tmp_path / "m.onnx"))])
    assert "0 errors, 0 warnings" in result.stdout
    assert "no proof" in result.stdout


def test_what_cannot_be_read_exits_4(tmp_path: Path) -> None:
    (tmp_path / "noise.onnx").write_bytes(b"\xff" * 100)
    for path, kind in ((tmp_path / "noise.onnx", GraphError), (tmp_path, NotFoundError), (Path("no"), NotFoundError)):
        with pytest.raises(kind):
            linter.lint(path)
        assert runner.invoke(cli.app, ["lint", str(path)]).exit_code == 4


def _no_weight(proto: onnx.ModelProto) -> None:
    next(tensor for tensor in proto.graph.initializer if len(tensor.dims) == 4).dims[0] = 2**40


def _no_start(proto: onnx.ModelProto) -> None:
    proto.graph.ClearField("input")


def _no_nodes(proto: onnx.ModelProto) -> None:
    proto.graph.ClearField("node")


def _circle(proto: onnx.ModelProto) -> None:
    proto.graph.node[0].input[0] = proto.graph.node[-1].output[0]


@pytest.mark.parametrize("damage", [_no_weight, _no_start, _no_nodes, _circle])
def test_a_file_that_does_not_hang_together_is_bad_input(
    damage: Callable[[onnx.ModelProto], None], tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    proto = files.plain()
    damage(proto)
    path = write(proto, tmp_path / "m.onnx")
    with pytest.raises(GraphError):
        linter.lint(path)
    if damage is _no_weight:
        with pytest.raises(GraphError, match="is not valid"):
            edgehybrid.bench(path, duration=0, warmup=0, iterations=1)
    assert capfd.readouterr().err == ""
