"""Run a float32 graph in torch, where it has gradients, and draw the direction whose gradient is Fisher information.

The gradient g of v . logits, with a random v per image such that E[v v'] is the Fisher information of the softmax,
diag(p) - p p', tells what noise d anywhere in the network costs: E[(g . d)^2] / 2 nats of KL divergence, to second
order. One backward pass gives g of every tensor.
"""

from collections.abc import Callable, Sequence

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgehybrid.errors import StageError
from edgehybrid.graph import Graph, constant
from edgehybrid.graph.structure import class_scores, feeding
from edgehybrid.search.operators import OPERATORS, refuse

TOLERANCE = 1e-3
"""Largest difference of logits to ONNX Runtime's, relative to the largest logit."""

Visit = Callable[[ir.Node, Sequence[Tensor | None], Sequence[Tensor]], Sequence[Tensor]]
"""(node, its inputs, its outputs) -> what goes on in their place."""


def unknown_operators(graph: Graph) -> tuple[str, ...]:
    """Operators between the image and the class scores that have no gradient here.

    Raises:
        GraphError: No class scores.
    """
    return tuple(sorted({node.op_type for node in feeding(graph, class_scores(graph))} - {*OPERATORS, "Constant"}))


class Network:
    """A graph that torch runs, as far as the class scores depend on it.

    Args:
        graph: float32, of operators that are known.

    Raises:
        GraphError: It has no class scores.
    """

    def __init__(self, graph: Graph) -> None:
        self.graph = graph
        self.scores = class_scores(graph)
        self.nodes = feeding(graph, self.scores)
        self._constants = {
            value: torch.from_numpy(np.array(array))
            for node in self.nodes
            for value in (*node.inputs, *node.outputs)
            if value is not None and (array := constant(value)) is not None
        }

    def run(self, images: Tensor, visit: Visit) -> Tensor:
        """Logits of images (B, 3, H, W), with the B of the graph.

        Raises:
            GraphError: A form of an operator that torch does not know.
            KeyError: An operator of `unknown_operators`.
        """
        known: dict[ir.Value, Tensor] = {self.graph.input: images}
        for node in self.nodes:
            if node.op_type == "Constant":
                continue
            inputs = [None if v is None else self._constants.get(v, known.get(v)) for v in node.inputs]
            operator = OPERATORS[node.op_type]
            try:
                made = operator(node, inputs)
            except (RuntimeError, IndexError, TypeError) as error:  # a form of it that torch does not know
                raise refuse(node, f"torch: {str(error).strip().splitlines()[0]}") from error
            results = visit(node, inputs, made)
            known.update(zip(node.outputs, results, strict=False))
        return known[self.scores]


def check(expected: NDArray[np.float32], logits: Tensor) -> None:
    """Refuse gradients of another function.

    Raises:
        StageError: torch computes other logits than ONNX Runtime.
    """
    found = logits.detach().numpy()
    scale = float(np.abs(expected).max())
    difference = float(np.abs(expected - found).max())
    if not difference <= TOLERANCE * scale:
        raise StageError(
            "torch and ONNX Runtime compute different logits from the same graph",
            why=f"they differ by {difference:.2g} at logits up to {scale:.2g}",
            fix="rank with --how designs, and report this with the ONNX file",
        )


def draw_signs(shape: Sequence[int], generator: torch.Generator) -> Tensor:
    """1 or -1, at random: what `project` makes a direction of."""
    return torch.randint(0, 2, tuple(shape), generator=generator).double() * 2 - 1


def project(logits: Tensor, signs: Tensor) -> Tensor:
    """The sum over images of v . logits, with a v per image such that over random signs E[v v'] = diag(p) - p p'.

    Args:
        logits: (B, classes).
        signs: (B, classes), from `draw_signs`.
    """
    p = torch.softmax(logits.detach().double(), dim=1)
    v = p.sqrt() * signs
    v = v - p * v.sum(dim=1, keepdim=True)
    return (v.float() * logits).sum()
