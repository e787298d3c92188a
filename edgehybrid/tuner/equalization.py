"""Equalize channels: spread the range of a tensor over its channels by factors that the layers around it take and undo.

One scale serves all channels of an activation, so a channel with a tenth of the range has a tenth of the levels. A
weight has a scale per output channel and room to spare. Factors f_c = a_c^-alpha w_c^(1 - alpha), with a_c the largest
|x| of a channel and w_c the largest weight that reads it, move the difference from the activation into the weight. In
real numbers the network stays the same function: what makes the tensor (the gain of a normalisation, the rows of a
layer, the values of an attention, the constant of a product) takes the factors, what reads it is divided by them. An
activation function that has no such constant gets one (region.py).

Tensors that are concatenated or pooled share one range (placement/ties.py). They get their factors together where they
are one region, and are judged with that range in any case.

What stands far from zero, and can be centred without an operator, will be afterwards (centering.py). Factors for it are
also sought with a_c the largest distance from the channel's mean, and judged with the means taken off. Alpha is 1
there: every channel then has as little noise as one scale for all allows, so every output of the readers gets the least
that activations can give it. A lower alpha spares the weights and lowers the sum over outputs, but the queries and keys
that decide an attention can be small ones among large (benchmarks/README.md, Conformer of CIFAR-10).

Source:
    Xiao et al., "SmoothQuant", ICML 2023 (layer norm); Nagel et al., "Data-Free Quantization", ICCV 2019 (ReLU).
"""

import itertools
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgehybrid.decibels import decibels
from edgehybrid.errors import ArtifactError
from edgehybrid.graph import Graph, name_of
from edgehybrid.graph.products import Product, find_products, product_at
from edgehybrid.graph.structure import computed, find_read, input_of
from edgehybrid.printable import counted
from edgehybrid.records import Adjustment, Equalize, Plan
from edgehybrid.tuner.centering import FREE_GAIN, find_means
from edgehybrid.tuner.channels import find_region
from edgehybrid.tuner.local import TINY, ChooseRange, halves, multiply, multiply_rounded, power, varying
from edgehybrid.tuner.region import Region, write_factors

ALPHAS = (0.5, 0.75, 1.0)
"""How much of the difference between channels the weights take; 0 is where the network stands."""
WHOLE = (1.0,)
"""The same for norms that stray: all of it."""
GAIN = 0.95
"""A site is changed where the error at its readers falls to this part of what it was, or less."""
STEPS = 8
"""Factors are powers of two with exponents in eighths: finer ones gain nothing, and these are short to write down."""
SPREADS = (16.0, 4.0)
"""Channels with less than one part in so many of the largest range are treated as if they had it: a dead channel has no
range. The second where no factors hold with the first: weak channels of some images can be strong ones of others."""


def equalize(
    graph: Graph,
    plan: Plan,
    samples: Mapping[str, NDArray[np.float32]],
    span: Mapping[str, NDArray[np.float32]],
    early_span: Mapping[str, NDArray[np.float32]],
    choose_range: ChooseRange,
    *,
    tied: Sequence[Sequence[str]] = (),
    sites: Equalize = "all",
) -> tuple[Graph, dict[str, str], tuple[Adjustment, ...]]:
    """Equalize every quantized tensor whose makers and readers allow it, where that measures better.

    A site is judged at the outputs of the int8 products that read it: the error there, on sampled rows, must fall by
    5 % at least, and where it rises at one of them, stay below their mean. What is judged, on the second half of the
    images, are factors from the first half: a channel that is silent on few images gets a large factor, and shows on
    others what that was worth. Where they hold, the site gets the factors of all images, which are nearer to those of
    images to come.

    Args:
        graph: float32. Not changed.
        plan: Its placement.
        samples: Output of each int8 product -> rows of its input, (groups, rows, in), from `calibrator.sample`.
        span: The same key -> smallest and largest value of every channel of its input, (2, channels).
        early_span: The same in the first half of the images.
        choose_range: How the range of a tensor will be chosen.
        tied: Tensors that must share one range: their readers are judged with that of all of them.
        sites: `folded` leaves alone what only a scalar could take, such as the constant of a GELU; `off` all.

    Returns:
        A new graph, the same function up to float32 rounding; the factors of each tensor that got any, from which
        `apply_factors` makes the same graph again; one record per site that could be changed.
    """
    result = graph.clone()
    if sites == "off":
        return result, {}, ()
    seeds = {name_of(node.outputs[0]): node.outputs[0] for node in result.nodes()}
    products = [p for p in find_products(result, plan).values() if p.output in samples]
    activations = [d.tensor for d in plan.decisions if d.kind == "activation"]
    reads = {p.output: tensor for p in products if (tensor := find_read(p.node, 0, set(activations))) is not None}
    split = {p.output: halves(samples[p.output]) for p in products}
    rows = {output: late for output, (_, late) in split.items()}
    done: set[str] = set()
    records, written = [], {}
    for tensor in dict.fromkeys(activations):
        seed = seeds.get(tensor)
        if seed is None or seed.name != tensor or tensor in done:
            continue
        region = _region(seed)
        if region is None or (region.grows and sites == "folded"):
            continue
        done.update(name_of(value) for value in region.tensors)
        readers = [p for p in products if input_of(p.node, 0) in region.tensors]
        if not readers:
            continue
        firsts = {p.output: split[p.output][0] for p in readers}
        known = _Known(span, _means(region, seed, {name: samples[name] for name in firsts}))
        early = _Known(early_span, _means(region, seed, firsts))
        if sites == "folded" or not (early.means and known.strays()):
            known, early = _Known(span, {}), _Known(early_span, {})
        site = _Site(region, readers, _share_ranges(products, readers, reads, tied), rows, known, early)
        record, exponents = _try(site, tensor, choose_range)
        records.append(record)
        if exponents is None:
            continue
        factors = _powers(exponents)
        written[tensor] = " ".join(map(str, exponents.tolist()))
        for product in site.readers:
            rows[product.output] = rows[product.output] * _columns(region, product, factors)
        write_factors(result, region, factors)
        edited = {edit.node for edit in region.edits}
        products = [p for old in products if (p := product_at(old.node) if old.node in edited else old) is not None]
    return result, written, tuple(records)


def apply_factors(graph: Graph, factors: Mapping[str, str]) -> Graph:
    """The graph that `equalize` made when it wrote these factors.

    Args:
        graph: float32, the one that was equalized. Not changed.
        factors: As `Ranges.factors`.

    Raises:
        ArtifactError: They are of another graph.
    """
    result = graph.clone()
    for region, each in _locate(result, factors):
        write_factors(result, region, each)
    return result


def scale_rows(
    graph: Graph, factors: Mapping[str, str], rows: Mapping[str, NDArray[np.float32]]
) -> dict[str, NDArray[np.float32]]:
    """What sampling the equalized graph would give, up to float32 rounding, from samples of the one before.

    Args:
        graph: The one before.
        factors: As `Ranges.factors`.
        rows: Output of each int8 product -> rows of its input, (groups, rows, in).

    Raises:
        ArtifactError: The factors are of another graph.
    """
    scaled = dict(rows)
    products = [p for node in graph.nodes() if (p := product_at(node)) is not None and p.output in scaled]
    for region, each in _locate(graph, factors):
        for product in products:
            if input_of(product.node, 0) in region.tensors:
                scaled[product.output] = scaled[product.output] * _columns(region, product, each)
    return scaled


def _locate(graph: Graph, factors: Mapping[str, str]) -> Iterator[tuple[Region, NDArray[np.float32]]]:
    """Where each set of factors goes, and the factors."""
    found = computed(graph)
    for tensor, text in factors.items():
        exponents = np.array(text.split(), np.int64)
        seed = found.get(tensor)
        region = None if seed is None else _region(seed)
        if region is None or region.factors != exponents.size:
            raise ArtifactError(
                f"the equalization factors of '{tensor}' do not fit the network",
                why=f"{exponents.size} factors were chosen for a tensor that this network has not, or cannot scale",
                fix="calibrate this very network",
            )
        yield region, _powers(exponents)


def _powers(exponents: NDArray[np.int64]) -> NDArray[np.float32]:
    """Factors from eighths of an octave."""
    return np.exp2(exponents / STEPS).astype(np.float32)


def _region(seed: ir.Value) -> Region | None:
    """Maps have their channels on axis 1, tokens on the last one, and some networks write maps as tokens.

    Of a concatenation that cannot be scaled as a whole, the region of the first part that can.
    """
    maps = seed.shape is not None and len(seed.shape) == 4
    for axis in (1, -1) if maps else (-1,):
        region = find_region(seed, axis)
        if region is not None:
            return region
    maker = seed.producer()
    parts = maker.inputs if maker is not None and maker.op_type == "Concat" else ()
    return next((found for part in parts if part is not None and (found := _region(part)) is not None), None)


def _share_ranges(
    products: Sequence[Product], readers: Sequence[Product], reads: Mapping[str, str], tied: Sequence[Sequence[str]]
) -> tuple[tuple[Product, ...], ...]:
    """The readers, alone or together with all whose tensors must have the same range, readers or not."""
    shared = {name: group[0] for group in tied for name in group}
    groups: dict[str, list[Product]] = defaultdict(list)
    for product in products:
        groups[shared.get(reads.get(product.output, ""), product.output)].append(product)
    outputs = {product.output for product in readers}
    return tuple(tuple(group) for group in groups.values() if any(product.output in outputs for product in group))


def _means(region: Region, seed: ir.Value, rows: Mapping[str, NDArray[np.float32]]) -> dict[str, NDArray[np.float32]]:
    """What centring will take off each channel, where it can without an operator at all readers; else nothing."""
    norms = [node for node in region.takers if node.op_type == "LayerNormalization"]
    if norms and len(region.takers) > 1:
        return {}
    found = find_means(norms[0].outputs[0] if norms else seed, rows)
    return found if len(found) == len(rows) else {}


@dataclass(frozen=True)
class _Known:
    """What some images show of the channels that each reader reads."""

    span: Mapping[str, NDArray[np.float32]]  # (2, channels)
    means: Mapping[str, NDArray[np.float32]]  # (channels,); empty: it is not judged as if it were centred

    def reach(self, output: str, *, centred: bool) -> NDArray[np.float32]:
        """Largest |x| of every channel, or largest distance from its mean."""
        least, most = self.span[output]
        mean = self.means[output] if centred else np.float32(0)
        return np.asarray(np.maximum(most - mean, mean - least))

    def strays(self) -> bool:
        """Whether channels stand so far off that centring can pay: noise goes with the square of the reach."""
        shares = []
        for output in self.means:
            near, far = (self.reach(output, centred=centred) for centred in (True, False))
            shares.append(np.square(near[far > 0] / far[far > 0]))
        return bool(shares) and float(np.concatenate(shares).mean()) <= FREE_GAIN


@dataclass(frozen=True)
class _Recipe:
    """How to make factors of what is known of a site."""

    alpha: float
    centred: bool
    """Of distances from the means, not from zero."""
    spread: float

    def __str__(self) -> str:
        most = "" if self.spread == SPREADS[0] else f", channels below 1/{self.spread:g} of the largest alike"
        return f"alpha {self.alpha:g}{most}{' around the means' if self.centred else ''}"


@dataclass(frozen=True)
class _Site:
    """A region and the int8 products that read it."""

    region: Region
    readers: Sequence[Product]
    ranges: Sequence[Sequence[Product]]  # readers and others, those together that share a range
    rows: Mapping[str, NDArray[np.float32]]
    known: _Known
    early: _Known

    @property
    def judged(self) -> Iterator[Product]:
        """Every product at whose output the site is judged."""
        return itertools.chain.from_iterable(self.ranges)


def _columns(region: Region, product: Product, factors: NDArray[np.float32]) -> NDArray[np.float32]:
    """The factor of every column of a product, (groups, 1, in); its weight is divided by them."""
    if input_of(product.node, 0) not in region.tensors:  # it only shares a range with a reader
        return np.ones((product.weight.shape[0], 1, product.weight.shape[2]), np.float32)
    line, sign = region.line(input_of(product.node, 0), product.axis)
    each = np.where(line < 0, np.float32(1), factors[line])
    return product.column((each if sign > 0 else 1 / each).astype(np.float32))


def _try(site: _Site, tensor: str, choose_range: ChooseRange) -> tuple[Adjustment, NDArray[np.int64] | None]:
    """Exponents of factors for the site, None where the best do not pay; and the record of the attempt."""
    exact = [_exact(site, product) for product in site.judged]
    before = best = _errors(site, exact, np.ones(site.region.factors, np.float32), choose_range)
    alphas, centrings = (WHOLE, (False, True)) if site.early.means else (ALPHAS, (False,))
    recipe, accepted = None, False
    judged: set[bytes] = set()  # where no channel is weak, both spreads make the same factors
    for spread in SPREADS:
        for alpha, centred in itertools.product(alphas, centrings):
            candidate = _Recipe(alpha, centred, spread)
            exponents = _exponents(site, candidate, site.early)
            if exponents.tobytes() in judged:
                continue
            judged.add(exponents.tobytes())
            found = _errors(site, exact, _powers(exponents), choose_range)
            holds = sum(found) <= GAIN * sum(before) and _fair(before, found)
            if (holds, -sum(found)) > (accepted, -sum(best)):
                best, recipe, accepted = found, candidate, holds
        if accepted:
            break
    takers = "+".join(dict.fromkeys(node.op_type for node in site.region.takers))
    count = len(exact)
    record = Adjustment(
        kind="equalization",
        site=tensor,
        accepted=accepted,
        before_db=decibels(count, sum(before)),
        after_db=decibels(count, sum(best)),
        note=f"{recipe}; {takers} takes the factors, {counted(len(site.readers), 'int8 reader')}"
        if recipe
        else f"none of alpha {', '.join(f'{a:g}' for a in alphas)} lowers the error",
    )
    return record, _exponents(site, recipe, site.known) if recipe and accepted else None


def _fair(before: Sequence[float], after: Sequence[float]) -> bool:
    """Whether no reader pays for the others: one that loses must still be no noisier than they are in the mean."""
    mean = sum(after) / len(after)
    return all(b <= max(a, mean) for a, b in zip(before, after, strict=True))


def _exponents(site: _Site, recipe: _Recipe, known: _Known) -> NDArray[np.int64]:
    """a^-alpha w^(1 - alpha) from all readers together, in eighths of an octave.

    The geometric mean is 1, or less where the largest value would else grow: float16 must hold it as before.
    """
    reach, whole, weight = (np.zeros(site.region.factors) for _ in range(3))
    for product in site.readers:
        line, sign = site.region.line(input_of(product.node, 0), product.axis)
        numbers = line[product.channels].reshape(-1)
        if sign < 0:
            continue  # judged by its error, but it has no say
        np.maximum.at(reach, line[line >= 0], known.reach(product.output, centred=recipe.centred)[line >= 0])
        np.maximum.at(whole, line[line >= 0], known.reach(product.output, centred=False)[line >= 0])
        np.maximum.at(weight, numbers[numbers >= 0], np.abs(product.weight).max(axis=1).reshape(-1)[numbers >= 0])
    tiny = np.finfo(np.float32).tiny
    reach = np.maximum(reach, max(reach.max() / recipe.spread, tiny))
    weight = np.maximum(weight, max(weight.max() / SPREADS[0], tiny))
    factors = reach**-recipe.alpha * weight ** (1 - recipe.alpha)
    whole = np.maximum(whole, reach)
    factors /= max(np.exp(np.log(factors).mean()), (whole * factors).max() / whole.max())
    return np.asarray(np.floor(STEPS * np.log2(factors)), np.int64)


def _exact(site: _Site, product: Product) -> tuple[NDArray[np.float32], float]:
    """What a product puts out with nothing rounded, and its power: where means can go, of what varies there."""
    y = multiply(site.rows[product.output], product.weight)
    return y, max(varying(y) if site.early.means else power(y), TINY)


def _errors(
    site: _Site,
    exact: Sequence[tuple[NDArray[np.float32], float]],
    factors: NDArray[np.float32],
    choose_range: ChooseRange,
) -> list[float]:
    """Noise over signal at the output of each reader, of which `_exact` is given; centred where that will be done."""
    means = site.early.means

    def judge(means: Mapping[str, NDArray[np.float32]]) -> list[float]:
        found = itertools.chain.from_iterable(
            _rounded_outputs(site, group, factors, means, choose_range) for group in site.ranges
        )
        return [power(got - true) / signal for got, (true, signal) in zip(found, exact, strict=True)]

    plain = judge({})
    centred = judge(means) if means else []
    return centred if centred and sum(centred) <= FREE_GAIN * sum(plain) else plain


def _rounded_outputs(
    site: _Site,
    group: Sequence[Product],
    factors: NDArray[np.float32],
    means: Mapping[str, NDArray[np.float32]],
    choose_range: ChooseRange,
) -> Iterator[NDArray[np.float32]]:
    """What products that share a range put out with both sides rounded, means taken off before and added after."""
    columns = [_columns(site.region, product, factors) for product in group]
    offsets = [product.column(means[product.output]) if product.output in means else None for product in group]
    rows = [
        (site.rows[product.output] if offset is None else site.rows[product.output] - offset) * column
        for product, offset, column in zip(group, offsets, columns, strict=True)
    ]
    amax = choose_range(rows[0] if len(rows) == 1 else np.concatenate([each.reshape(-1) for each in rows]))
    for product, offset, column, scaled in zip(group, offsets, columns, rows, strict=True):
        got = multiply_rounded(scaled, product.weight / column, amax)
        yield got if offset is None else got + multiply(offset, product.weight)
