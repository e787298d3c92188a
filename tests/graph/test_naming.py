"""Operators named after the modules that they come from."""

from pathlib import Path

import pytest
import torch
from torch import Tensor, nn

from edgehybrid.graph import Graph
from edgehybrid.graph.adoption import adopt
from edgehybrid.graph.naming import LONGEST, SCOPES, name_by_modules
from tests.exports import export
from tests.single import SingleNet

OPERATORS = ("Conv", "Gemm", "MatMul", "Relu")


class Block(nn.Module):
    """Modules in modules, one of them called twice."""

    def __init__(self) -> None:
        super().__init__()
        self.body = nn.Sequential(nn.Conv2d(8, 8, 3, padding=1), nn.Sequential(nn.ReLU(), nn.Conv2d(8, 8, 1)))
        self.act = nn.ReLU()

    def forward(self, x: Tensor) -> Tensor:
        """(N, 8, S, S)."""
        return self.act(self.act(x) + self.body(x))


class Net(nn.Module):
    """A list of blocks and a head."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 8, 3)
        self.blocks = nn.ModuleList([Block(), Block()])
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, S, S) to (N, 5)."""
        x = self.stem(x)
        for block in self.blocks:
            x = block(x)
        return self.head(x.mean((2, 3)))


def names(graph: Graph) -> list[str]:
    """Of operators that stand for a module."""
    return sorted(node.name or "" for node in graph.nodes(*OPERATORS))


def test_both_exporters_give_one_name(tmp_path: Path) -> None:
    net, images = Net().eval(), torch.zeros(2, 3, 16, 16)
    found = {}
    for dynamo in (False, True):
        export(net, images, tmp_path / "net.onnx", dynamo=dynamo)
        found[dynamo] = names(adopt(tmp_path / "net.onnx"))
    assert "/blocks.0/body/body.1/body.1.1/Conv" in found[False]
    assert [x for x in found[True] if "act" not in x] == [x for x in found[False] if "act" not in x]
    called_again = [f"/blocks.{i}/act{module}/Relu{node}" for i in (0, 1) for module, node in (("", ""), ("", "_1"))]
    assert [x for x in found[True] if "act" in x] == called_again


def named(name: str, scopes: str) -> Graph:
    """A Relu with metadata."""
    net = SingleNet(1, 16, 4, 4)
    graph = net.graph(net.op("Relu", "input"))
    node = next(graph.nodes("Relu"))
    node.name = name
    node.metadata_props[SCOPES] = scopes
    return graph


@pytest.mark.parametrize(
    "scopes",
    [
        "",
        "stem",
        "['', 'stem'",
        "{'': 'stem'}",
        "['', 3, 'relu']",
        "__import__('os').getcwd()",
        "[" * (LONGEST - 1),
        "['', '" + "a" * LONGEST + "', 'relu']",
    ],
)
def test_metadata_that_makes_no_sense_changes_nothing(scopes: str) -> None:
    graph = named("node_relu", scopes)
    assert name_by_modules(graph) == 0
    assert names(graph) == ["node_relu"]


def test_names_that_somebody_gave_stay() -> None:
    graph = named("my_relu", "['', 'stem', 'relu']")
    assert name_by_modules(graph) == 0
    assert names(graph) == ["my_relu"]


def test_a_name_that_is_taken_gets_a_number() -> None:
    graph = named("node_relu", "['', 'stem', 'relu']")
    next(graph.nodes("Identity")).name = "/stem/Relu"
    assert name_by_modules(graph) == 1
    assert names(graph) == ["/stem/Relu_1"]
