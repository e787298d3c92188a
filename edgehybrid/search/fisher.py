"""Estimate what each group costs from one forward and one backward pass: Fisher information times the layers' errors.

To second order, noise d in a layer's output costs E[(g . d)^2] / 2 nats of KL divergence, where g is the gradient of
v . logits and v is drawn so that E[v v'] is the Fisher information of the softmax, diag(p) - p p'. One backward pass
gives g for every layer at once, and the layer computed once more from its int8 inputs gives d. So all layers of an
image cost a forward pass, a second one of the int8 layers alone, and a backward pass of two.

Source:
    Second-order sensitivity as in HAWQ (Dong et al. 2019) and BRECQ (Li et al. 2021), with errors instead of bits.
"""

from collections.abc import Callable, Iterable, Mapping

import numpy as np
import onnx_ir as ir
import torch
from numpy.typing import NDArray
from torch import Tensor

from edgehybrid.errors import StageError
from edgehybrid.graph import Graph, constant, name_of
from edgehybrid.search.operators import OPERATORS
from edgehybrid.search.switches import Site, find_sites

BACKWARD = 2.0
"""Forward passes that a backward pass counts as. Weights get no gradient, so its arithmetic is nearer to one."""
TOLERANCE = 1e-3
"""Largest difference of logits to ONNX Runtime's, relative to the largest logit."""


def unknown_operators(graph: Graph) -> tuple[str, ...]:
    """Operators of a graph that have no gradient here."""
    return tuple(sorted({node.op_type for node in graph.nodes()} - {*OPERATORS, "Constant"}))


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
    network = _Network(reference, twin, owner)
    generator = torch.Generator().manual_seed(seed)
    sums, images = np.zeros(groups), 0
    for i, piece in enumerate(pieces):
        logits, outputs, errors = network.run(torch.from_numpy(np.ascontiguousarray(piece)))
        if i == 0:
            _check(expected(piece), logits.detach().numpy())
        target = (_direction(logits.detach(), generator) * logits).sum()
        gradients = torch.autograd.grad(target, outputs, allow_unused=True) if outputs else ()
        found = np.zeros(groups)
        for gradient, (group, error) in zip(gradients, errors, strict=True):
            if gradient is not None:  # None: no logit hangs on this layer
                found[group] += float((gradient * error).sum(dtype=torch.float64))
        sums += np.square(found) / 2
        images += len(piece)
        progress(i + 1)
    return sums / images


def _direction(logits: Tensor, generator: torch.Generator) -> Tensor:
    """A random v per image with E[v v'] = diag(p) - p p'."""
    p = torch.softmax(logits.double(), dim=1)
    signs = torch.randint(0, 2, p.shape, generator=generator).double() * 2 - 1
    v = p.sqrt() * signs
    return (v - p * (p.sqrt() * signs).sum(dim=1, keepdim=True)).float()


def _check(expected: NDArray[np.float32], found: NDArray[np.float32]) -> None:
    """Refuse gradients of another function."""
    scale = float(np.abs(expected).max())
    difference = float(np.abs(expected - found).max())
    if not difference <= TOLERANCE * scale:
        raise StageError(
            "torch and ONNX Runtime compute different logits from the same graph",
            why=f"they differ by {difference:.2g} at logits up to {scale:.2g}",
            fix="rank with --how designs, and report this with the ONNX file",
        )


class _Network:
    """A graph that torch runs, together with the error of each int8 operator."""

    def __init__(self, reference: Graph, twin: Graph, owner: Mapping[str, int]) -> None:
        self.reference = reference
        self.sites: dict[str, list[Site]] = {}
        for site in find_sites(reference, twin, owner):
            self.sites.setdefault(site.reader, []).append(site)
        self.constants = {
            value: torch.from_numpy(np.array(array))
            for node in reference.nodes()
            for value in (*node.inputs, *node.outputs)
            if value is not None and (array := constant(value)) is not None
        }
        self.replaced = {
            (name, site.index): torch.from_numpy(np.array(site.constants[1]))
            for name, sites in self.sites.items()
            for site in sites
            if site.constants is not None
        }

    def run(self, images: Tensor) -> tuple[Tensor, list[Tensor], list[tuple[int, Tensor]]]:
        """Logits, the outputs of int8 operators, and beside each its group and its error."""
        known: dict[ir.Value, Tensor] = {self.reference.input: images.requires_grad_()}
        outputs, errors = [], []
        for node in self.reference.nodes():
            if node.op_type == "Constant":
                continue
            inputs = [None if v is None else self.constants.get(v, known.get(v)) for v in node.inputs]
            results = OPERATORS[node.op_type](node, inputs)
            known.update(zip(node.outputs, results, strict=False))
            name = name_of(node.outputs[0])
            if name in self.sites:
                with torch.no_grad():
                    swapped = dict(enumerate(inputs))
                    for site in self.sites[name]:
                        swapped[site.index] = self._int8(site, swapped.get(site.index))
                    error = (
                        OPERATORS[node.op_type](node, [swapped.get(i) for i in range(max(swapped) + 1)])[0] - results[0]
                    )
                outputs.append(results[0])
                errors.append((self.sites[name][0].group, error))
        logits = next(known[v] for v in self.reference.body.outputs if known[v].ndim == 2)
        return logits, outputs, errors

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
