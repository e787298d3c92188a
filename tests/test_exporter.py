"""An exported graph computes what torch computes, and says so or fails."""

import logging
from collections.abc import Callable
from dataclasses import replace

import numpy as np
import onnxsim
import pytest
import torch
from numpy.typing import NDArray
from onnx import numpy_helper
from torch import Tensor, nn

from edgehybrid import exporter, zoo
from edgehybrid.errors import StageError, UsageError
from edgehybrid.exporter import trace
from edgehybrid.graph import Graph, name_of, shape_of, values
from edgehybrid.graph.counting import count_macs
from edgehybrid.printable import counted
from edgehybrid.records import ModelSpec, Preprocess, Provenance

TINY = ModelSpec("tiny", Preprocess(8), 4, Provenance("random (seed 0)", "", trained=False))


class Net(nn.Module):
    """A convolution, something in between, and a classifier of 4 classes."""

    def __init__(self, between: Callable[[Tensor], Tensor] = torch.relu) -> None:
        super().__init__()
        self.conv = nn.Conv2d(3, 5, 3, stride=2)
        self.blocks = nn.ModuleList([nn.Sequential(nn.Linear(5, 5), nn.GELU())])
        self.head = nn.Linear(5, 4)
        self.between = between

    def forward(self, x: Tensor) -> Tensor:
        x = self.between(self.conv(x)).flatten(2).transpose(1, 2)
        for block in self.blocks:
            x = block(x)
        logits: Tensor = self.head(x.mean(1))
        return logits


@pytest.fixture
def net() -> nn.Module:
    torch.manual_seed(0)
    return Net().eval()


def images(count: int, side: int = 8) -> NDArray[np.float32]:
    return np.random.default_rng(1).standard_normal((count, 3, side, side), np.float32)


def test_the_graph_is_what_every_stage_expects(cmt_ti_graph: Graph) -> None:
    assert cmt_ti_graph.opset == 17
    assert [(name_of(v), shape_of(v)) for v in cmt_ti_graph.body.inputs] == [("input", (1, 3, 64, 64))]
    assert [(name_of(v), shape_of(v)) for v in cmt_ti_graph.body.outputs] == [("logits", (1, 10))]
    for value in values(cmt_ti_graph):
        shape_of(value)  # raises where it is not static
    assert not cmt_ti_graph.model.metadata_props


def test_shape_arithmetic_is_folded(cmt_ti_graph: Graph) -> None:
    left = {node.op_type for node in cmt_ti_graph.body}
    assert not left & {"Shape", "Gather", "Concat", "Slice", "If", "Identity", "Unsqueeze", "Cast", "Dropout"}


def test_nodes_and_weights_carry_the_names_of_their_modules(cmt_ti_graph: Graph) -> None:
    nodes = {node.name: node.op_type for node in cmt_ti_graph.body}
    assert nodes["/blocks_a.0/attn/q/MatMul"] == "MatMul"
    assert nodes["/blocks_d.1/attn/v/MatMul"] == "MatMul"  # q, k and v of one input stay three
    assert nodes["/blocks_c.3/mlp/conv1/conv1.0/Conv"] == "Conv"
    assert all(name and name.startswith("/") for name in nodes)
    constants = set(cmt_ti_graph.body.initializers)
    assert {"blocks_a.0.attn.q.weight", "blocks_a.0.attn.sr.0.weight", "_fc.weight", "head.bias"} <= constants
    assert not [name for name in constants if name.startswith(("onnx::", "_v_"))]


def test_the_graph_does_the_work_that_the_card_counts() -> None:
    module, spec = zoo.load("cmt_ti")
    assert spec.card is not None
    assert count_macs(trace(module, spec)) == spec.card.macs


@pytest.mark.parametrize(("batch", "count"), [(1, 3), (2, 3), (4, 1)])
def test_all_images_are_compared_whatever_the_batch(net: nn.Module, batch: int, count: int) -> None:
    said: list[str] = []
    graph = trace(net, TINY, batch=batch, images=images(count), notify=said.append)
    assert shape_of(graph.input) == (batch, 3, 8, 8)
    assert len(said) == 1
    assert said[0].startswith(f"ONNX agrees with torch on {counted(count, 'image')}: largest difference ")
    assert said[0].endswith(f"same top-1 on {count}")


def test_the_same_module_gives_the_same_bytes(net: nn.Module) -> None:
    assert trace(net, TINY).to_bytes() == trace(net, TINY).to_bytes()


def test_a_branch_that_tracing_froze_is_caught(net: nn.Module) -> None:
    """Traced on one image, the branch is gone from the graph; only a comparison on others can tell."""
    net.between = lambda x: x if x.abs().mean() < 0.2 else x * 2
    with pytest.raises(StageError, match="differs from torch") as error:
        trace(net, TINY, images=images(4))
    assert "of 4 images keep their top-1" in error.value.why


@pytest.mark.parametrize("relative", [0.5e-4, 2e-4])
def test_the_tolerance_is_relative_to_the_largest_logit(relative: float) -> None:
    for scale in (1e-3, 1.0, 1e3):
        agreement = exporter.Agreement(images=1, max_abs=relative * scale, scale=scale, same_top1=1)
        if relative <= exporter.TOLERANCE:
            exporter._check_agreement(agreement, TINY)
        else:
            with pytest.raises(StageError, match="differs from torch"):
                exporter._check_agreement(agreement, TINY)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_a_network_that_overflows_is_told_from_a_bad_export(net: nn.Module, value: float) -> None:
    net.between = lambda x: x * value
    with pytest.raises(StageError, match="computes NaN or infinite logits"):
        trace(net, TINY)


def test_nan_in_the_exported_graph_alone_is_a_difference() -> None:
    agreement = exporter.Agreement(images=1, max_abs=float("nan"), scale=1.0, same_top1=0)
    with pytest.raises(StageError, match="differs from torch"):
        exporter._check_agreement(agreement, TINY)


def test_an_operator_without_onnx_form_is_a_failed_stage(net: nn.Module, capfd: pytest.CaptureFixture[str]) -> None:
    net.between = lambda x: torch.special.airy_ai(x)
    with pytest.raises(StageError, match="torch could not export tiny") as error:
        trace(net, TINY)
    assert "airy_ai' to ONNX opset version 17 is not supported; its newer exporter: " in error.value.why
    assert error.value.exit_code == 5
    assert capfd.readouterr() == ("", "")  # torch prints the graph, which would come before the document of --json


@pytest.mark.parametrize("batch", [1, 3])
def test_what_only_the_newer_exporter_knows_is_exported_by_it(
    net: nn.Module, batch: int, capfd: pytest.CaptureFixture[str]
) -> None:
    """Erfcx is written out there; the names are those of the modules all the same."""
    net.between = lambda x: torch.special.erfcx(x)
    said: list[str] = []
    graph = trace(net, TINY, batch=batch, images=images(2), notify=said.append)
    assert (graph.opset, shape_of(graph.input)) == (18, (batch, 3, 8, 8))
    assert [(name_of(v), shape_of(v)) for v in graph.body.outputs] == [("logits", (batch, 4))]
    assert {"/conv/Conv", "/blocks.0/blocks.0.0/MatMul", "/head/Gemm"} <= {node.name for node in graph.nodes()}
    assert "head.bias" in graph.body.initializers
    assert said[0].startswith("exported by torch's newer exporter, to opset 18, as its older one failed: Unsupported")
    assert said[1].startswith("ONNX agrees with torch on 2 images")
    assert capfd.readouterr() == ("", "")


def test_a_shape_that_the_simplifier_gets_wrong_is_no_dead_end(net: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    """As onnxsim 0.8.1 does to timm's CPUBone: what cannot be reshaped so has no shape, nor has what follows."""
    real = onnxsim.simplify
    net.between = lambda x: x.reshape(x.shape[0], 5, 3, 3)

    def damage(path: str, **options: object) -> tuple[object, bool]:
        proto, sound = real(path, **options)
        (reshape,) = (node for node in proto.graph.node if node.op_type == "Reshape")
        proto.graph.initializer.append(numpy_helper.from_array(np.array([-1, 5, 7]), "wrong"))
        reshape.input[1] = "wrong"
        del proto.graph.value_info[:]
        proto.graph.output[0].type.tensor_type.shape.dim[0].dim_param = "unknown"
        return proto, sound

    monkeypatch.setattr(onnxsim, "simplify", damage)
    said: list[str] = []
    graph = trace(net, TINY, images=images(2), notify=said.append)
    assert (graph.opset, shape_of(graph.body.outputs[0])) == (18, (1, 4))
    assert said[0].endswith("failed: it leaves the shape of the logits open")


def test_how_torch_logs_is_left_as_it_was(net: nn.Module) -> None:
    before = torch._C._jit_onnx_log, logging.getLogger("torch.onnx").level
    net.between = lambda x: torch.special.erfcx(x)
    trace(net, TINY)
    assert (torch._C._jit_onnx_log, logging.getLogger("torch.onnx").level) == before


def test_another_number_of_classes_than_the_spec_says_is_a_failed_stage(net: nn.Module) -> None:
    with pytest.raises(StageError, match="not what was asked for") as error:
        trace(net, replace(TINY, classes=5))
    assert "('logits', (1, 4))" in error.value.why


def test_another_opset_than_asked_for_is_a_failed_stage(net: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(exporter, "OPSET", 16)
    written = trace(net, TINY)
    assert written.opset == 16
    monkeypatch.setattr(exporter, "OPSET", 17)
    with pytest.raises(StageError, match="not what was asked for"):
        exporter._check_interface(written, TINY, 1)


@pytest.mark.parametrize("failure", ["raises", "unsound"])
def test_a_failing_simplifier_is_never_skipped(net: nn.Module, monkeypatch: pytest.MonkeyPatch, failure: str) -> None:
    real = onnxsim.simplify

    def fail(path: str, **options: object) -> tuple[object, bool]:
        if failure == "raises":
            raise RuntimeError("segment table is empty\nmore")
        return real(path)[0], False

    monkeypatch.setattr(onnxsim, "simplify", fail)
    with pytest.raises(StageError, match="onnxsim") as error:
        trace(net, TINY)
    assert "\n" not in error.value.why


def test_a_simplifier_that_breaks_the_network_is_caught(net: nn.Module, monkeypatch: pytest.MonkeyPatch) -> None:
    real = onnxsim.simplify

    def damage(path: str, **options: object) -> tuple[object, bool]:
        proto, sound = real(path, **options)
        for node in proto.graph.node:
            if node.op_type == "Relu":
                node.op_type = "Tanh"
        return proto, sound

    monkeypatch.setattr(onnxsim, "simplify", damage)
    with pytest.raises(StageError, match="differs from torch"):
        trace(net, TINY)


def test_threads_are_given_back_even_after_a_failure(net: nn.Module) -> None:
    before = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        trace(net, TINY)
        assert torch.get_num_threads() == 2
        with pytest.raises(StageError):
            trace(net, replace(TINY, classes=5))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_a_module_in_training_is_a_mistake_of_the_caller(net: nn.Module) -> None:
    net.get_submodule("head").train()
    with pytest.raises(ValueError, match="eval mode"):
        trace(net, TINY)


@pytest.mark.parametrize("shape", [(0, 3, 8, 8), (1, 3, 9, 9), (1, 1, 8, 8)])
def test_images_of_another_shape_are_a_mistake_of_the_caller(net: nn.Module, shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match="images must be"):
        trace(net, TINY, images=np.zeros(shape, np.float32))


def test_no_batch_is_a_usage_error(net: nn.Module) -> None:
    with pytest.raises(UsageError, match="--batch 0"):
        trace(net, TINY, batch=0)


@pytest.mark.parametrize(
    ("node", "module"),
    [
        ("/blocks_a.0/attn/q/MatMul", "blocks_a.0.attn.q"),
        ("/blocks_a.0/attn/sr/sr.0/Conv", "blocks_a.0.attn.sr.0"),
        ("/a/a.0/a.0.1/Conv", "a.0.1"),
        ("/head/Gemm", "head"),
        ("/Add_1", ""),
    ],
)
def test_a_module_path_is_read_off_a_node_name(node: str, module: str) -> None:
    assert exporter._module_path(node) == module
