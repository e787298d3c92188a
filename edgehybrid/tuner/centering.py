"""Centre channels: take a constant off each channel of a tensor before it is rounded, and give it to the bias.

Residual streams carry offsets: channels that stand at 400 and vary by 6. One scale for all channels must reach 400,
and leaves a handful of levels for what varies. In real numbers W x + b = W (x - c) + (b + W c). A layer norm that only
layers read takes c off its own bias, and the sum of a tensor and a constant (the affine that PP-LCNetV3 learns behind
activations) off the constant. That costs an engine nothing, so they do wherever it measures better. What subtracts c
from a sum of branches is an operator that the engine has to run, so it is put in only where int8 hurts and this helps a
lot; nothing that makes such a sum could take the offsets, as others read it too.

Source:
    Wei et al., "Outlier Suppression+", EMNLP 2023 (channel-wise shifting).
"""

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgehybrid.decibels import decibels
from edgehybrid.errors import ArtifactError
from edgehybrid.graph import Graph, add_constant, constant, name_of, shape_of, sweep, unused, values
from edgehybrid.graph.half import FLOAT16_MAX
from edgehybrid.graph.products import Product, bias_place, find_products, product_at, raise_bias, raise_constant
from edgehybrid.graph.structure import MOVES, computed, input_of, residual_makers
from edgehybrid.printable import counted
from edgehybrid.records import Adjustment, Plan
from edgehybrid.tuner.channels import find_region
from edgehybrid.tuner.local import TINY, ChooseRange, halves, multiply, multiply_rounded, power, varying

FREE_GAIN = 0.8
"""What has a bias is centred where the error at its int8 readers falls to this part of what it was, or less: 1 dB."""
GAIN = 0.25
"""A sum of branches is centred where it falls to this part or less: 6 dB."""
NOISY_DB = 35.0
"""And where it was above this: a layer that loses less to int8 is worth no operator."""

_MOVES = MOVES | {"Slice", "Split"}


def center(
    graph: Graph, plan: Plan, samples: Mapping[str, NDArray[np.float32]], choose_range: ChooseRange
) -> tuple[Graph, dict[str, str], tuple[Adjustment, ...]]:
    """Centre the channels of norms and sums, for the int8 products reading them, where that measures better.

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
    int8 = {label: product.node for label, product in find_products(graph, plan).items()}
    quantizing: dict[str, set[str]] = {}
    for decision in plan.decisions:
        if decision.kind == "activation":
            quantizing.setdefault(decision.tensor, set()).add(decision.node)
    offsets: dict[str, str] = {}
    records = []
    for tensor, value in computed(graph).items():
        site = _find(value)
        if site is None:
            continue
        labels = set().union(*(quantizing.get(name_of(input_of(reader.node, 0)), set()) for reader in site.readers))
        nodes = {int8.get(label) for label in labels}
        judged = [reader for reader in site.readers if reader.node in nodes]
        if not judged or len(judged) < len(nodes) or any(reader.product.output not in samples for reader in judged):
            continue  # nothing quantizes it, or something else does too
        if site.bias is None and len(judged) < len(site.readers):
            continue  # a layer stays float
        record, found = _try(site, judged, samples, choose_range)
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
    taken = {value.name for value in values(result)}
    for site, offset in _locate(result, offsets):
        _write(result, site, offset, taken)
    sweep(result)  # of the biases as they were
    return result


def center_rows(
    graph: Graph, offsets: Mapping[str, str], rows: Mapping[str, NDArray[np.float32]]
) -> dict[str, NDArray[np.float32]]:
    """What sampling the centred graph would give, from samples of the one before.

    Args:
        graph: The one before, or one with other factors per channel.
        offsets: As `Ranges.offsets`.
        rows: Output of each int8 product -> rows of its input, (groups, rows, in).

    Raises:
        ArtifactError: The offsets are of another graph.
    """
    centred = dict(rows)
    for site, offset in _locate(graph, offsets):
        for reader in site.readers:
            output = reader.product.output
            if output in centred:
                centred[output] = centred[output] - reader.column(offset)
    return centred


def find_means(value: ir.Value, rows: Mapping[str, NDArray[np.float32]]) -> dict[str, NDArray[np.float32]]:
    """What centring a tensor without an operator would take off what its int8 readers read.

    Args:
        value: What a layer norm computes, or any other tensor.
        rows: Output of each int8 product -> rows of its input, (groups, rows, in).

    Returns:
        Output of each reader in `rows` -> the mean of every channel of its input, (channels,); empty where the tensor
        cannot be centred, or not without an operator.
    """
    site = _find(value)
    if site is None or site.bias is None:
        return {}
    readers = [reader for reader in site.readers if reader.product.output in rows]
    if not readers:
        return {}
    means = _means(site, readers, [rows[reader.product.output] for reader in readers])
    return {reader.product.output: means[reader.line] for reader in readers}


@dataclass(frozen=True)
class _Reader:
    """A product that can take in its bias what is taken off what it reads."""

    product: Product
    line: NDArray[np.int64]  # channel of what it reads -> channel of the site

    @property
    def node(self) -> ir.Node:
        return self.product.node

    def column(self, offset: NDArray[np.float32]) -> NDArray[np.float32]:
        """(groups, 1, in): what is taken off each column, from the offsets of the site."""
        return self.product.column(offset[self.line])


@dataclass(frozen=True)
class _Site:
    """A tensor whose channels may be centred for the products that read it."""

    value: ir.Value
    readers: Sequence[_Reader]
    axis: int
    channels: int
    bias: tuple[ir.Node, int] | None
    """The maker's own, as node and input, that takes the offsets; None: an operator does, as others read the tensor."""

    def along(self, offset: NDArray[np.float32]) -> NDArray[np.float32]:
        """The offsets in a shape that broadcasts with the tensor: (channels, 1, 1) for maps."""
        behind = -1 - self.axis if self.axis < 0 else len(shape_of(self.value)) - 1 - self.axis
        return offset.reshape(-1, *[1] * behind)


def _locate(graph: Graph, offsets: Mapping[str, str]) -> Iterator[tuple[_Site, NDArray[np.float32]]]:
    """Where each set of offsets goes, and the offsets."""
    made = computed(graph)
    for tensor, text in offsets.items():
        site, offset = _find(made[tensor]) if tensor in made else None, np.array(text.split(), np.float32)
        if site is None or site.channels != offset.size:
            raise ArtifactError(
                f"the offsets of '{tensor}' do not fit the network",
                why=f"{offset.size} were chosen for a tensor that this network has not, or cannot centre",
                fix="calibrate this very network",
            )
        yield site, offset


def _find(value: ir.Value) -> _Site | None:
    """The site at a tensor; None where there is none."""
    maker = value.producer()
    if maker is None or value.is_graph_output():
        return None
    if maker.op_type == "LayerNormalization":
        return _find_norm(value, maker)
    return _find_shifted(value, maker) or (_find_direct(value) if _is_sum(value) else None)


def _find_norm(value: ir.Value, norm: ir.Node) -> _Site | None:
    """A norm whose result only products read, as it is or moved about."""
    region = find_region(value, -1)  # follows the channels
    bias = norm.inputs[2] if len(norm.inputs) > 2 else None
    if region is None or (bias is not None and constant(bias) is None):
        return None
    readers = []
    for tensor in region.tensors:
        for node, place in tensor.uses():
            product = _product(node, place)
            if product is not None:
                readers.append(_Reader(product, region.line(tensor, product.axis)[0].astype(np.int64)))
            elif node.op_type not in MOVES:
                return None
    return _Site(value, readers, -1, region.factors, (norm, 2)) if readers else None


def _find_shifted(value: ir.Value, add: ir.Node) -> _Site | None:
    """The sum of a tensor and a constant, one number or one per channel, that only products read."""
    place = next((i for i, operand in enumerate(add.inputs) if constant(operand) is not None), None)
    site = None if add.op_type != "Add" or place is None else _find_direct(value)
    if site is None or place is None or len(site.readers) < len(value.uses()):
        return None
    added, column = constant(add.inputs[place]), site.along(np.zeros(site.channels, np.float32))
    if added is None or added.dtype != np.float32:
        return None
    size = math.prod(np.broadcast_shapes(added.shape, column.shape))
    return replace(site, bias=(add, place)) if size == max(added.size, column.size) else None


def _find_direct(value: ir.Value) -> _Site | None:
    """The products that read a tensor as it is, if they agree where its channels are."""
    products = [product for use in value.uses() if (product := _product(*use)) is not None]
    if not products or len({product.axis for product in products}) > 1:
        return None
    axis = products[0].axis
    line = np.arange(shape_of(value)[axis])
    return _Site(value, [_Reader(product, line) for product in products], axis, len(line), None)


def _product(node: ir.Node, place: int) -> Product | None:
    """The product that reads a tensor there, if its bias can take offsets: it has one, and puts no zeros around."""
    product = product_at(node) if place == 0 else None
    if product is None or bias_place(node) is None or any(node.attributes.get_ints("pads", ())):
        return None
    return product


def _is_sum(value: ir.Value) -> bool:
    """Whether the tensor is a sum of branches, moved about or cut at most."""
    node = value.producer()
    while node is not None and node.op_type in _MOVES:
        node = input_of(node, 0).producer()
    return node is not None and node.op_type == "Add" and residual_makers(node) is not None


def _try(
    site: _Site, readers: Sequence[_Reader], samples: Mapping[str, NDArray[np.float32]], choose_range: ChooseRange
) -> tuple[Adjustment, NDArray[np.float32]]:
    """The record of the attempt, judged at the readers that are int8, and the offsets that go with it."""
    split = [halves(samples[reader.product.output]) for reader in readers]
    early = _means(site, readers, [first for first, _ in split])
    none = np.zeros(site.channels, np.float32)
    before = after = 0.0
    for reader, (_, rows) in zip(readers, split, strict=True):
        exact = multiply(rows, reader.product.weight)
        signal = max(varying(exact), TINY)
        before += _error(reader.product, rows, exact, reader.column(none), choose_range) / signal
        after += _error(reader.product, rows, exact, reader.column(early), choose_range) / signal
    count, everything = len(readers), _means(site, readers, [samples[reader.product.output] for reader in readers])
    before_db, after_db = decibels(count, before), decibels(count, after)
    pays = after <= FREE_GAIN * before if site.bias else after <= GAIN * before and before_db < NOISY_DB
    accepted = pays and float(np.abs(everything).max()) < FLOAT16_MAX
    who = f"the bias of the {'sum' if site.bias[0].op_type == 'Add' else 'norm'}" if site.bias else "before rounding"
    note = f"mean of each channel taken off {who} and given to the bias of {counted(count, 'int8 reader')}"
    return Adjustment("centering", name_of(site.value), accepted, before_db, after_db, note), everything


def _means(site: _Site, readers: Sequence[_Reader], rows: Sequence[NDArray[np.float32]]) -> NDArray[np.float32]:
    """Mean of every channel over the rows of the readers, as float16 holds it: both dialects take off the same."""
    total, count = np.zeros(site.channels), np.zeros(site.channels)
    for reader, x in zip(readers, rows, strict=True):
        numbers = reader.line[reader.product.channels]
        np.add.at(total, numbers, x.sum(axis=1, dtype=np.float64))
        np.add.at(count, numbers, x.shape[1])
    means = np.clip(total / np.maximum(count, 1), -FLOAT16_MAX, FLOAT16_MAX)
    return means.astype(np.float16).astype(np.float32)


def _error(
    product: Product,
    rows: NDArray[np.float32],
    exact: NDArray[np.float32],
    offset: NDArray[np.float32],
    choose_range: ChooseRange,
) -> float:
    """Power of the error at the output of a reader, whose exact output is given."""
    centred = rows - offset
    got = multiply_rounded(centred, product.weight, choose_range(centred)) + multiply(offset, product.weight)
    return power(got - exact)


def _write(graph: Graph, site: _Site, offset: NDArray[np.float32], taken: set[str | None]) -> None:
    """Take the offsets off a tensor, for its products or at its maker, and give them to the biases, in place."""
    if site.bias is None:
        _subtract(graph, site, offset, taken)
    else:
        raise_constant(graph, *site.bias, -site.along(offset), taken)
    for reader in site.readers:
        lost = reader.product.weight @ reader.column(offset).transpose(0, 2, 1)
        raise_bias(graph, reader.node, lost.reshape(-1), taken)


def _subtract(graph: Graph, site: _Site, offset: NDArray[np.float32], taken: set[str | None]) -> None:
    """Put a subtraction between a tensor and its products."""
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
    for reader in site.readers:
        reader.node.replace_input_with(0, out)
