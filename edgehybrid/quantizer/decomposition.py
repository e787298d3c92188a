"""Write one operator as several: nodes, tensors and constants in its place, named after it."""

from collections.abc import Sequence

import numpy as np
import onnx_ir as ir

from edgehybrid.graph import Graph, add_constant, name_of
from edgehybrid.graph.structure import input_of

Attributes = dict[str, int | list[int]]


class Decomposition:
    """The operators that take the place of one; `insert` puts them before it.

    Args:
        graph: That holds the node; gets the constants at once.
        node: What is written out.

    Raises:
        GraphError: The node reads nothing.
    """

    def __init__(self, graph: Graph, node: ir.Node) -> None:
        self.graph, self.node, self.data = graph, node, input_of(node, 0)
        self.output = name_of(node.outputs[0])
        self.stem = node.name or self.output
        self._made: list[ir.Node] = []

    def number(self, name: str, value: float) -> ir.Value:
        """A scalar of the type of the data."""
        kind = np.float32 if self.data.dtype is None else self.data.dtype.numpy()
        return add_constant(self.graph, f"{self.stem}.{name}", np.asarray(value, kind))

    def axes(self, name: str, axes: Sequence[int]) -> ir.Value:
        """The axes of a reduction as an input of it."""
        return add_constant(self.graph, f"{self.stem}.{name}.axes", np.asarray(axes, np.int64))

    def add(
        self,
        op: str,
        name: str,
        *inputs: ir.Value,
        shape: Sequence[int] | None = None,
        attributes: Attributes | None = None,
    ) -> ir.Value:
        """One operator more; its output has the shape of the data unless another is given."""
        sides = self.data.shape if shape is None else ir.Shape(shape)
        out = ir.Value(name=f"{self.output}_{name}", shape=sides, type=self.data.type)
        self._made.append(ir.node(op, inputs, attributes or {}, outputs=[out], name=f"{self.stem}/{name}"))
        return out

    def insert(self) -> None:
        """Put the operators before the node."""
        self.graph.body.insert_before(self.node, self._made)
