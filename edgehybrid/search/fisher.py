"""What int8 costs by Fisher information: of each group from one pass forward and back, or position by position.

Noise d in a layer's output costs E[(g . d)^2] / 2 nats (`differentiation`). One backward pass gives g for every layer
at once, and the layer computed once more from its int8 inputs gives d. So all layers of an image cost a forward pass, a
second one of the int8 layers alone, and a backward pass of two.

Source:
    Second-order sensitivity as in HAWQ (Dong et al. 2019) and BRECQ (Li et al. 2021), with errors instead of bits.
"""

from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgehybrid.errors import StageError
from edgehybrid.graph import Graph, constant, name_of
from edgehybrid.graph.products import Product
from edgehybrid.search.differentiation import Network, check, differentiate
from edgehybrid.search.operators import OPERATORS
from edgehybrid.search.switches import Site, find_sites

BACKWARD = 2.0
"""Forward passes that a backward pass counts as. Weights get no gradient, so its arithmetic is nearer to one."""


def estimate(
    reference: Graph,
    twin: Graph,
    owner: Mapping[str, int],
    pieces: Iterable[NDArray[np.float32]],
    *,
    groups: int,
    expected: Callable[[NDArray[np.float32]], NDArray[np.float32]],
    seed: int,
    progress: Callable[[int], None],
) -> NDArray[np.float64]:
    """What quantizing each group alone costs.

    Args:
        reference: The float network.
        twin: Its float32-typed int8 graph.
        owner: First output of an operator -> number of its group.
        pieces: Images, (B, 3, H, W) with the B of the graph.
        groups: How many there are.
        expected: Images -> logits of the float network, for a check on the first piece.
        seed: Of the random directions.
        progress: Told how many pieces are done.

    Returns:
        (groups,) nats.

    Raises:
        GraphError: An operator whose gradient is not known.
        StageError: torch computes other logits than ONNX Runtime.
    """
    network, twins = Network(reference), _Twins(reference, twin, owner)
    generator = torch.Generator().manual_seed(seed)
    sums, images = np.zeros(groups), 0
    for i, piece in enumerate(pieces):
        twins.forget()
        logits = network.run(piece, twins.visit)
        if i == 0:
            check(expected(piece), logits)
        found = np.zeros(groups)
        for gradient, (group, error) in zip(differentiate(logits, twins.outputs, generator), twins.errors, strict=True):
            if gradient is not None:
                found[group] += float((gradient * error).sum(dtype=torch.float64))
        sums += np.square(found) / 2
        images += len(piece)
        progress(i + 1)
    return sums / images


def gradients_at(
    graph: Graph,
    products: Sequence[Product],
    batches: Iterable[NDArray[np.float32]],
    positions: Callable[[Product], int],
    *,
    expected: Callable[[NDArray[np.float32]], NDArray[np.float32]],
    seed: int = 0,
) -> dict[str, NDArray[np.float32]]:
    """The gradient g at some positions of the output of every product, those that `Product.rows` takes.

    Args:
        graph: float32.
        products: Of the graph.
        batches: Images, (B, 3, H, W) with the B of the graph.
        positions: How many a product gets of each batch.
        expected: Images -> logits of the network, for a check on the first batch.
        seed: Of the random directions.

    Returns:
        First output of each product -> (groups, positions of all batches, out). Zero where no logit hangs on it.

    Raises:
        GraphError: An operator whose gradient is not known.
        StageError: torch computes other logits than ONNX Runtime.
    """
    network, generator = Network(graph), torch.Generator().manual_seed(seed)
    wanted = {product.output for product in products}
    kept: dict[str, list[NDArray[np.float32]]] = {name: [] for name in sorted(wanted)}
    outputs: dict[str, Tensor] = {}

    def keep(node: ir.Node, _: Sequence[Tensor | None], results: Sequence[Tensor]) -> None:
        if node.outputs[0].name in wanted:
            outputs[name_of(node.outputs[0])] = results[0]

    for ordinal, images in enumerate(batches):
        outputs.clear()
        logits = network.run(images, keep)
        if ordinal == 0:
            check(expected(images), logits)
        found = dict(zip(outputs, differentiate(logits, list(outputs.values()), generator), strict=True))
        for product in products:
            name = product.output
            gradient = found[name]
            array = np.zeros(outputs[name].shape, np.float32) if gradient is None else gradient.numpy()
            kept[name].append(product.outputs(array, positions(product), ordinal))
    return {name: np.concatenate(parts, axis=1) for name, parts in kept.items()}


class _Twins:
    """What the int8 twin makes of each operator, beside what the network does."""

    def __init__(self, reference: Graph, twin: Graph, owner: Mapping[str, int]) -> None:
        self.sites: dict[str, list[Site]] = {}
        for site in find_sites(reference, twin, owner):
            self.sites.setdefault(site.reader, []).append(site)
        self.replaced = {
            (name, site.index): torch.from_numpy(np.array(site.constants[1]))
            for name, sites in self.sites.items()
            for site in sites
            if site.constants is not None
        }
        self.forget()

    def forget(self) -> None:
        """Begin another image."""
        self.outputs: list[Tensor] = []
        self.errors: list[tuple[int, Tensor]] = []  # of each output: its group, and the error

    def visit(self, node: ir.Node, inputs: Sequence[Tensor | None], results: Sequence[Tensor]) -> None:
        """Compute an int8 operator once more."""
        name = name_of(node.outputs[0])
        if name not in self.sites:
            return
        with torch.no_grad():
            swapped = dict(enumerate(inputs))
            for site in self.sites[name]:
                swapped[site.index] = self._int8(site, swapped.get(site.index))
            again = OPERATORS[node.op_type](node, [swapped.get(i) for i in range(max(swapped) + 1)])[0]
            self.errors.append((self.sites[name][0].group, again - results[0]))
        self.outputs.append(results[0])

    def _int8(self, site: Site, value: Tensor | None) -> Tensor:
        """What the int8 twin reads instead of a tensor."""
        if (site.reader, site.index) in self.replaced:
            return self.replaced[site.reader, site.index]
        scale = _scale(site)
        if value is None:
            raise ValueError(f"nothing computes input {site.index} of '{site.reader}'")
        return torch.clamp(torch.round(value / scale), -128, 127) * scale


def _scale(site: Site) -> float:
    """Of the Q/DQ that stands before an input."""
    dequantize = site.int8.producer()
    source = None if dequantize is None else dequantize.inputs[0]
    quantize = None if source is None else source.producer()
    array = None if quantize is None else constant(quantize.inputs[1])
    if quantize is None or quantize.op_type != "QuantizeLinear" or array is None or array.size != 1:
        raise StageError(
            f"'{site.reader}' reads int8 in a way that is not understood, input {site.index}",
            why="needed one QuantizeLinear and one DequantizeLinear with a constant scale",
            fix="rank with --how designs",
        )
    return float(array.reshape(()))
