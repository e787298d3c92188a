"""What int8 costs by Fisher information: of each group from one pass forward and back, or position by position.

Noise d in a layer's output costs E[(g . d)^2] / 2 nats (`differentiation`). The layer computed once more from its int8
inputs gives d, and g . d is what the loss gains per share of d that is added to the output: one derivative per group.
Few loud images do not decide the mean (`factors`).
So all layers of an image cost a forward pass, a second one of the int8 layers alone, and a backward pass. Images are
mapped over, so that torch computes many at once while each keeps derivatives of its own.

Source:
    Second-order sensitivity as in HAWQ (Dong et al. 2019) and BRECQ (Li et al. 2021), with errors instead of bits.
"""

import itertools
import math
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgehybrid.errors import StageError
from edgehybrid.graph import Graph, constant, known_shape, name_of, shape_of
from edgehybrid.graph.counting import COUNTED, macs_of
from edgehybrid.graph.products import Product
from edgehybrid.records import LEVELS
from edgehybrid.search.differentiation import Network, Visit, check, draw_signs, project
from edgehybrid.search.factors import weigh
from edgehybrid.search.operators import OPERATORS
from edgehybrid.search.switches import Site, find_sites

MAPPED = 16
"""Pieces of images that are computed at once: torch's convolutions are several times as fast as with one or two."""
MEMORY = 256 << 20
"""Bytes of activations that they may have; where they have more, fewer are computed at once."""


def count_backward(graph: Graph, owner: Mapping[str, int]) -> float:
    """Forward passes that the backward pass is worth: the arithmetic of a product once per operand with a gradient.

    Those are what int8 operators make and what is computed from it: no weight, nothing before the first int8 operator,
    both operands of the products of an attention.

    Args:
        graph: The float network.
        owner: First output of an operator that reads int8 -> number of its group.
    """
    moved: set[ir.Value | None] = set()
    forward = backward = 0
    for node in graph.nodes():
        if node.op_type in COUNTED:
            forward += macs_of(node)
            backward += macs_of(node) * sum(value in moved for value in node.inputs[:2])
        if name_of(node.outputs[0]) in owner or any(value in moved for value in node.inputs):
            moved.update(node.outputs)
    return backward / max(forward, 1)


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
        GraphError: No class scores, or a form of an operator that torch does not know.
        KeyError: An operator of `differentiation.unknown_operators`.
        StageError: torch computes other logits than ONNX Runtime.
    """
    network, twins = Network(reference), _Twins(reference, twin, owner)

    def loss(shares: Tensor, images: Tensor, signs: Tensor) -> tuple[Tensor, Tensor]:
        logits = network.run(images, twins.adding(shares))
        return project(logits, signs), logits.detach()

    losses, generator = torch.func.vmap(loss), torch.Generator().manual_seed(seed)
    slopes, done = [np.zeros((0, groups))], 0
    size = max(1, min(MAPPED, MEMORY // _activations(reference)))
    source = iter(pieces)
    while some := list(itertools.islice(source, size)):
        stacked = torch.from_numpy(np.stack(some))
        signs = draw_signs((len(some), *shape_of(network.scores)), generator)
        shares = torch.zeros(len(some), groups, requires_grad=True)
        lost, logits = losses(shares, stacked, signs)
        if not done:
            check(expected(some[0]), logits[0])
        if lost.requires_grad:  # or no logit hangs on any int8 operator
            (slope,) = torch.autograd.grad(lost.sum(), [shares])
            slopes.append(slope.numpy().astype(np.float64))
        done += len(some)
        progress(done)
    return weigh(np.square(np.concatenate(slopes))) / 2 / shape_of(reference.input)[0]


def _activations(graph: Graph) -> int:
    """Bytes of all that one call computes."""
    shapes = (known_shape(output) for node in graph.nodes() for output in node.outputs if constant(output) is None)
    return max(1, sum(4 * math.prod(shape) for shape in shapes if shape is not None))


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
        GraphError: No class scores, or a form of an operator that torch does not know.
        KeyError: An operator of `differentiation.unknown_operators`.
        StageError: torch computes other logits than ONNX Runtime.
    """
    network, generator = Network(graph), torch.Generator().manual_seed(seed)
    wanted = {product.output for product in products}
    kept: dict[str, list[NDArray[np.float32]]] = {name: [] for name in sorted(wanted)}
    outputs: dict[str, Tensor] = {}

    def keep(node: ir.Node, _: Sequence[Tensor | None], results: Sequence[Tensor]) -> Sequence[Tensor]:
        if node.outputs[0].name in wanted:
            outputs[name_of(node.outputs[0])] = results[0]
        return results

    for ordinal, images in enumerate(batches):
        outputs.clear()
        logits = network.run(torch.from_numpy(np.ascontiguousarray(images)).requires_grad_(), keep)
        if ordinal == 0:
            check(expected(images), logits)
        target = project(logits, draw_signs(logits.shape, generator))
        gradients = torch.autograd.grad(target, list(outputs.values()), allow_unused=True) if outputs else []
        found = dict(zip(outputs, gradients, strict=True))
        for product in products:
            name = product.output
            gradient = found.get(name)
            shape = shape_of(product.node.outputs[0])
            array = np.zeros(shape, np.float32) if gradient is None else gradient.numpy()
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

    def adding(self, shares: Tensor) -> Visit:
        """Add to every int8 operator a share of its error, (groups,): shares of 0 change nothing but the derivative."""

        def visit(node: ir.Node, inputs: Sequence[Tensor | None], results: Sequence[Tensor]) -> Sequence[Tensor]:
            sites = self.sites.get(name_of(node.outputs[0]), ())
            if not sites:
                return results
            with torch.no_grad():
                swapped = dict(enumerate(inputs))
                for site in sites:
                    swapped[site.index] = self._int8(site, swapped.get(site.index))
                again = OPERATORS[node.op_type](node, [swapped.get(i) for i in range(max(swapped) + 1)])[0]
                error = again - results[0]
            return [results[0] + shares[sites[0].group] * error, *results[1:]]

        return visit

    def _int8(self, site: Site, value: Tensor | None) -> Tensor:
        """What the int8 twin reads instead of a tensor."""
        if (site.reader, site.index) in self.replaced:
            return self.replaced[site.reader, site.index]
        scale = _scale(site)
        if value is None:
            raise ValueError(f"nothing computes input {site.index} of '{site.reader}'")
        return torch.clamp(torch.round(value / scale), -LEVELS - 1, LEVELS) * scale


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
