"""Centre channels: take a constant off each channel of a sum of branches before it is rounded, and give it to the bias.

Residual streams carry offsets: channels that stand at 400 and vary by 6. One scale for all channels must reach 400,
and leaves a handful of levels for what varies. In real numbers W x + b = W (x - c) + (b + W c). What subtracts c is an
operator that the engine has to run, so it is put in only where int8 hurts and this helps a lot; nothing that makes
such a sum could take the offsets, as others read it too.

Source:
    Wei et al., "Outlier Suppression+", EMNLP 2023 (channel-wise shifting).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgehybrid.errors import ArtifactError
from edgehybrid.graph import Graph, add_constant, name_of, shape_of, unused, values
from edgehybrid.graph.half import FLOAT16_MAX
from edgehybrid.graph.products import Product, bias_place, find_products, product_at, raise_bias
from edgehybrid.graph.structure import MOVES, input_of, residual_makers
from edgehybrid.printable import counted
from edgehybrid.records import Adjustment, Plan
from edgehybrid.tuner.local import ChooseRange, decibels, multiply, multiply_rounded, power

GAIN = 0.25
"""A tensor is centred where the error at its readers falls to this part of what it was, or less: 6 dB."""
NOISY_DB = 35.0
"""And where it was above this: a layer that loses less to int8 is worth no operator."""

_MOVES = MOVES | {"Slice", "Split"}


def center(
    graph: Graph, plan: Plan, samples: Mapping[str, NDArray[np.float32]], choose_range: ChooseRange
) -> tuple[Graph, dict[str, str], tuple[Adjustment, ...]]:
    """Centre the channels of every quantized sum, for the int8 products that read it, where that measures much better.

    Offsets are the means of one half of the images and are judged on the other; where they hold, the tensor gets the
    means of all.

    Args:
        graph: float32. Not changed.
        plan: Its placement.
        samples: Output of each int8 product -> rows of its input, (groups, rows, in), halves of different images.
        choose_range: How the range of a tensor will be chosen.

    Returns:
        A graph that is the same function up to float32 rounding; the offsets of each tensor that got any, from which
        `apply_offsets` makes the same graph again; one record per tensor on which it was tried.
    """
    made = _outputs(graph)
    int8 = {label: product.node for label, product in find_products(graph, plan).items()}
    quantizing: dict[str, set[str]] = {}
    for decision in plan.decisions:
        if decision.kind == "activation":
            quantizing.setdefault(decision.tensor, set()).add(decision.node)
    offsets: dict[str, str] = {}
    records = []
    for tensor, labels in quantizing.items():
        site = _find(made[tensor]) if tensor in made else None
        if site is None or {int8.get(label) for label in labels} != {product.node for product in site.readers}:
            continue  # something else quantizes it too, or leaves it float
        if any(product.output not in samples for product in site.readers):
            continue
        record, found = _try(site, samples, choose_range)
        records.append(record)
        if record.accepted:
            offsets[tensor] = " ".join(f"{x:g}" for x in found)
    return apply_offsets(graph, offsets) if offsets else graph, offsets, tuple(records)


def apply_offsets(graph: Graph, offsets: Mapping[str, str]) -> Graph:
    """The graph that `center` made when it wrote these offsets.

    Args:
        graph: float32, the one that was centred. Not changed.
        offsets: As `Ranges.offsets`.

    Raises:
        ArtifactError: They are of another graph.
    """
    result = graph.clone()
    made, taken = _outputs(result), {value.name for value in values(result)}
    for tensor, text in offsets.items():
        site, offset = _find(made[tensor]) if tensor in made else None, _parse(text)
        if site is None or site.channels != offset.size:
            raise ArtifactError(
                f"the offsets of '{tensor}' do not fit the network",
                why=f"{offset.size} were chosen for a tensor that this network has not, or cannot centre",
                fix="calibrate this very network",
            )
        _write(result, site, offset, taken)
    return result


def center_rows(
    graph: Graph, offsets: Mapping[str, str], rows: Mapping[str, NDArray[np.float32]]
) -> dict[str, NDArray[np.float32]]:
    """What sampling the centred graph would give, from samples of the one before.

    Args:
        graph: The one before, or one with other factors per channel.
        offsets: As `Ranges.offsets`.
        rows: Output of each int8 product -> rows of its input, (groups, rows, in).
    """
    centred = dict(rows)
    for node in graph.nodes():
        text = offsets.get(name_of(node.inputs[0])) if node.inputs and node.inputs[0] is not None else None
        product = None if text is None else product_at(node)
        if text is not None and product is not None and product.output in centred:
            centred[product.output] = centred[product.output] - product.column(_parse(text))
    return centred


@dataclass(frozen=True)
class _Site:
    """A tensor whose channels an operator may centre for the products that read it; other readers keep it as it is."""

    value: ir.Value
    readers: Sequence[Product]
    axis: int
    channels: int


def _outputs(graph: Graph) -> dict[str, ir.Value]:
    """Every computed tensor by name."""
    return {name_of(out): out for node in graph.nodes() for out in node.outputs}


def _find(value: ir.Value) -> _Site | None:
    """The site at a tensor; None where there is none."""
    if value.is_graph_output() or not _is_sum(value):
        return None
    found = [product_at(use.node) for use in value.uses() if use.idx == 0]
    readers = [p for p in found if p is not None and bias_place(p.node) is not None and not _pads(p.node)]
    if not readers or len({product.axis for product in readers}) > 1:
        return None
    return _Site(value, readers, readers[0].axis, 1 + max(int(product.channels.max()) for product in readers))


def _is_sum(value: ir.Value) -> bool:
    """Whether the tensor is a sum of branches, moved about or cut at most."""
    node = value.producer()
    while node is not None and node.op_type in _MOVES:
        node = input_of(node, 0).producer()
    return node is not None and node.op_type == "Add" and residual_makers(node) is not None


def _pads(node: ir.Node) -> bool:
    """Whether zeros are put around what the node reads: they would have to become offsets."""
    return any(node.attributes.get_ints("pads", ()))


def _try(
    site: _Site, samples: Mapping[str, NDArray[np.float32]], choose_range: ChooseRange
) -> tuple[Adjustment, NDArray[np.float32]]:
    """The record of the attempt, and the offsets that go with it."""
    halves = [np.array_split(samples[product.output], 2, axis=1) for product in site.readers]
    early = _means(site, [first for first, _ in halves])
    none = np.zeros(site.channels, np.float32)
    before, after = (
        sum(
            _error(product, rows, product.column(offset), choose_range)
            for product, (_, rows) in zip(site.readers, halves, strict=True)
        )
        for offset in (none, early)
    )
    count, everything = len(site.readers), _means(site, [samples[product.output] for product in site.readers])
    before_db, after_db = decibels(count, before), decibels(count, after)
    accepted = after <= GAIN * before and before_db < NOISY_DB and float(np.abs(everything).max()) < FLOAT16_MAX
    note = f"mean of each channel taken off before rounding and given to the bias of {counted(count, 'int8 reader')}"
    return Adjustment("centering", name_of(site.value), accepted, before_db, after_db, note), everything


def _means(site: _Site, rows: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    """Mean of every channel over the rows of all readers, as float16 holds it: both dialects take off the same."""
    total, count = np.zeros(site.channels), np.zeros(site.channels)
    for product, x in zip(site.readers, rows, strict=True):
        np.add.at(total, product.channels, x.sum(axis=1, dtype=np.float64))
        np.add.at(count, product.channels, x.shape[1])
    means = np.clip(total / np.maximum(count, 1), -FLOAT16_MAX, FLOAT16_MAX)
    return means.astype(np.float16).astype(np.float32)


def _error(
    product: Product, rows: NDArray[np.float32], offset: NDArray[np.float32], choose_range: ChooseRange
) -> float:
    """Noise over signal at the output of a reader; the signal is what varies there, as a bias could add the rest."""
    exact = multiply(rows, product.weight)
    got = multiply_rounded(rows - offset, product.weight, choose_range) + multiply(offset, product.weight)
    signal = power(exact - exact.mean(axis=1, keepdims=True))
    return power(got - exact) / max(signal, float(np.finfo(np.float64).tiny))


def _parse(text: str) -> NDArray[np.float32]:
    return np.array(text.split(), np.float32)


def _write(graph: Graph, site: _Site, offset: NDArray[np.float32], taken: set[str | None]) -> None:
    """Put the subtraction between a tensor and its readers, and what it takes into their biases, in place."""
    tensor, maker = name_of(site.value), site.value.producer()
    if maker is None:
        raise ValueError(f"'{tensor}' is not computed")
    shape = [1] * len(shape_of(site.value))
    shape[site.axis] = offset.size
    what = add_constant(graph, f"{tensor}_offset", offset.reshape(shape), taken=taken)
    node = ir.node("Sub", [site.value, what], name=unused(f"{tensor}_center", taken))
    out = node.outputs[0]
    out.name, out.shape, out.type = unused(f"{tensor}_centered", taken), site.value.shape, site.value.type
    graph.body.insert_after(maker, node)
    for product in site.readers:
        raise_bias(graph, product.node, (product.weight @ product.column(offset).transpose(0, 2, 1)).reshape(-1), taken)
        product.node.replace_input_with(0, out)
