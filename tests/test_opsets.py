"""Operators in the form of an older opset compute what the newer ones compute."""

from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import onnx
import onnx.checker
import pytest
import torch
import torch.nn.functional as F  # noqa: N812
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper
from torch import Tensor, nn

import edgehybrid
from edgehybrid import graph as graphs
from edgehybrid import stages
from edgehybrid.errors import GraphError
from edgehybrid.graph import Graph
from edgehybrid.graph.adoption import adopt
from edgehybrid.pipeline.options import load_target
from edgehybrid.placement import plan
from edgehybrid.quantizer import lower_opset, quantize
from tests.exports import export
from tests.golden import fill
from tests.single import draw, observe, run

SHAPE = (2, 4, 6, 5)
Attributes = Mapping[str, int | float | str | Sequence[int]]


def network(
    op: str, attributes: Attributes, constants: Sequence[object], opset: int, outputs: int = 1, shape: object = None
) -> Graph:
    """One operator of an image and constants; None is an input left out."""
    names = ["" if c is None else f"c{i}" for i, c in enumerate(constants)]
    weights = [numpy_helper.from_array(np.asarray(c), n) for c, n in zip(constants, names, strict=True) if n]
    made = [f"out{i}" for i in range(outputs)]
    node = helper.make_node(op, ["input", *names], made, name="/it", **attributes)
    ports = [helper.make_tensor_value_info("input", TensorProto.FLOAT, SHAPE)]
    ends = [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in made]
    body = helper.make_graph([node], "net", ports, ends, weights)
    proto = helper.make_model(body, opset_imports=[helper.make_opsetid("", opset)], ir_version=10)
    proto = onnx.shape_inference.infer_shapes(proto, strict_mode=True)
    return graphs.from_proto(proto)


def numbers(*values: int) -> NDArray[np.int64]:
    return np.asarray(values, np.int64)


OLDER: dict[str, tuple[str, Attributes, list[object], int]] = {
    "mean of some axes": ("ReduceMean", {"keepdims": 1}, [numbers(2, 3)], 18),
    "mean of the last": ("ReduceMean", {"keepdims": 0}, [numbers(-1)], 20),
    "mean of all": ("ReduceMean", {}, [], 18),
    "mean of all, said so": ("ReduceMean", {"noop_with_empty_axes": 0}, [numbers()], 18),
    "largest": ("ReduceMax", {"keepdims": 1}, [numbers(1)], 20),
    "norm": ("ReduceL2", {"keepdims": 1}, [numbers(1)], 18),
    "halves": ("Split", {"axis": 1, "num_outputs": 2}, [], 18),
    "uneven parts": ("Split", {"axis": 3, "num_outputs": 2}, [], 20),
    "parts of given sizes": ("Split", {"axis": 1}, [numbers(1, 3)], 20),
    "pad of two axes": ("Pad", {"mode": "reflect"}, [numbers(1, 2, 0, 3), None, numbers(2, 3)], 18),
    "pad with a value": ("Pad", {}, [numbers(1, 2), np.float32(7), numbers(-1)], 19),
    "pad of all axes": ("Pad", {"mode": "edge"}, [numbers(0, 0, 1, 2, 0, 0, 3, 4)], 20),
    "gelu": ("Gelu", {}, [], 20),
    "gelu with tanh": ("Gelu", {"approximate": "tanh"}, [], 20),
    "mish": ("Mish", {}, [], 18),
    "sampling": ("GridSample", {"mode": "linear"}, [np.full((2, 3, 3, 2), 0.3, np.float32)], 20),
    "smooth sampling": ("GridSample", {"mode": "cubic"}, [np.full((2, 3, 3, 2), 0.3, np.float32)], 20),
    "resize, every default said": (
        "Resize",
        {"mode": "linear", "antialias": 0, "keep_aspect_ratio_policy": "stretch"},
        [None, np.asarray([1, 1, 2, 2], np.float32)],
        19,
    ),
    "pooling, dilation said": ("AveragePool", {"kernel_shape": [2, 2], "dilations": [1, 1]}, [], 20),
    "cast, default said": ("Cast", {"to": TensorProto.FLOAT, "saturate": 1}, [], 19),
    "operator of more types": ("Relu", {}, [], 21),
}


@pytest.mark.parametrize("case", OLDER)
def test_the_older_form_is_the_same_function(case: str) -> None:
    op, attributes, constants, opset = OLDER[case]
    newer = network(op, attributes, constants, opset, outputs=2 if op == "Split" else 1)
    lowered = lower_opset(newer, 17)
    assert (newer.opset, lowered.opset) == (opset, 17)
    assert lowered.outputs == newer.outputs
    onnx.checker.check_model(lowered.to_bytes(), full_check=True)
    images = np.random.default_rng(0).normal(0, 2, SHAPE).astype(np.float32)
    for before, after in zip(run(newer, images), run(lowered, images), strict=True):
        np.testing.assert_allclose(after, before, rtol=0, atol=2e-6)


@pytest.mark.parametrize(
    ("op", "attributes", "constants", "opset", "why"),
    [
        ("Pad", {"mode": "wrap"}, [numbers(0, 0, 1, 0, 0, 0, 1, 0)], 19, "mode 'wrap' came with opset 19"),
        ("Resize", {"mode": "linear", "antialias": 1}, [None, np.ones(4, np.float32)], 18, "antialias"),
        ("ReduceMean", {"noop_with_empty_axes": 1}, [], 18, "it reduces no axis"),
        ("GroupNormalization", {"num_groups": 2}, [np.ones(4, np.float32), np.ones(4, np.float32)], 21, "No Op"),
    ],
)
def test_what_has_no_older_form_is_refused_by_name(
    op: str, attributes: Attributes, constants: list[object], opset: int, why: str
) -> None:
    newer = network(op, attributes, constants, opset)
    with pytest.raises(GraphError, match=rf"node '/it' \({op}\) has no form") as caught:
        lower_opset(newer, 17)
    assert why in caught.value.why


def test_only_what_is_newer_is_written_anew() -> None:
    newer = network("Gelu", {}, [], 20)
    assert lower_opset(newer, 20) is newer
    newest = network("Gelu", {}, [], 22)
    assert [node.op_type for node in lower_opset(newest, 20).nodes()] == ["Gelu"]
    assert [node.op_type for node in newest.nodes()] == ["Gelu"]


class Net(nn.Module):
    """What torch's newer exporter writes in a form of opset 18 or 20."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 60, 3, 2, 1)
        self.inner = nn.Conv2d(50, 32, 3)
        self.head = nn.Linear(32, 10)

    def forward(self, x: Tensor) -> Tensor:
        """Logits (N, 10)."""
        first, _, last = F.gelu(self.stem(x)).split([25, 10, 25], 1)
        x = F.pad(torch.cat([first, last], 1), (1, 2, 1, 2), mode="reflect")
        x = F.gelu(self.inner(x), approximate="tanh")
        logits: Tensor = self.head(F.mish(x).mean((2, 3)) + x.amax((2, 3)))
        return logits


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A file that torch writes unless it is told an opset."""
    path = tmp_path_factory.mktemp("exported") / "net.onnx"
    module = Net().eval()
    fill(module)
    export(module, torch.zeros(2, 3, 32, 32), path, dynamo=True)
    return path


def test_a_quantized_network_keeps_its_answers_and_its_pairs(exported: Path) -> None:
    graph = adopt(exported)
    int8 = quantize(graph, observe(graph, draw(graph)), plan(graph, "fp32"))
    lowered = lower_opset(int8, 17)
    assert (int8.opset, lowered.opset) == (20, 17)
    assert len(list(lowered.nodes("QuantizeLinear"))) == len(list(int8.nodes("QuantizeLinear"))) > 0
    image = draw(graph)[:1]
    (before,), (after,) = (run(each, image) for each in (int8, lowered))
    assert np.abs(after - before).max() < 0.1 * np.abs(before - before.mean()).max()  # a rounding may tip in int8


def test_a_parser_gets_no_opset_that_it_does_not_read(
    exported: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEHYBRID_CACHE_DIR", str(tmp_path / "cache"))
    path = tmp_path / "model.onnx"
    path.write_bytes(adopt(exported).to_bytes())
    for name, opset in (("cpu", 20), ("cuda", 20), ("orin-nano-8gb@jp6.0", 17), ("xavier-nx", 17)):
        suited = stages.suit_parser(stages.Run(), path, load_target(name, "int8"))
        assert graphs.load(suited).opset == opset
        assert (suited == path) == (opset == 20)


def test_a_build_that_no_parser_could_read_is_refused_before_it_is_calibrated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEHYBRID_CACHE_DIR", str(tmp_path / "cache"))
    proto = onnx.parser.parse_model("""
        <ir_version: 8, opset_import: ["": 19]>
        net (float[1,3,32,32] input) => (float[1,3] logits) {
            pads = Constant <value = int64[8] {0,0,1,1,0,0,1,1}> ()
            wide = Pad <mode = "wrap"> (input, pads)
            pooled = GlobalAveragePool (wide)
            logits = Flatten (pooled)
        }""")
    path = tmp_path / "net.onnx"
    onnx.save(proto, path)
    with pytest.raises(GraphError, match="has no form in the ONNX opset") as caught:
        edgehybrid.build(model=str(path), target="orin-nano-8gb@jp5.1", output=tmp_path / "bundle")
    assert caught.value.exit_code == 4
    assert not (tmp_path / "bundle").exists()
