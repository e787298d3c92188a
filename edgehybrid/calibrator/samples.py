"""Keep a few rows of what each layer reads, from a few images: enough to try a choice at the layer's own output."""

from collections.abc import Iterable, Mapping, Sequence, Set
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from edgehybrid.calibrator.ranges import LOUD
from edgehybrid.calibrator.session import not_finite, open_session, run_through
from edgehybrid.graph import Graph, name_of, shape_of
from edgehybrid.graph.products import Product
from edgehybrid.graph.structure import input_of

ROWS = 768
"""Rows per layer at most."""
ELEMENTS = 1 << 18
"""Numbers per layer at most, as long as LEAST_ROWS allow: wide layers get fewer rows; 1 MiB."""
LEAST_ROWS = 64


@dataclass(frozen=True, eq=False)
class Samples:
    """What was kept, by the name of a product's first output."""

    rows: Mapping[str, NDArray[np.float32]]
    """(groups, rows, in), each image giving as many, in the images' order."""
    span: Mapping[str, NDArray[np.float32]]
    """(2, channels): smallest and largest value of every channel."""
    early_span: Mapping[str, NDArray[np.float32]]
    """The same in the first half of the images."""
    loud: Set[str]
    """Outputs of products whose input reaches `LOUD` times as far on some image as on the median one, or further."""


def sample(
    graph: Graph,
    batches: Iterable[NDArray[np.float32]],
    products: Sequence[Product],
    images: int,
    *,
    rows: int = ROWS,
    threads: int = 0,
) -> Samples:
    """Run a few images and keep some rows of the input of every product.

    Memory does not grow with the number of images.

    Args:
        graph: float32, static shapes. Not modified.
        batches: Preprocessed images, float32 (B, 3, H, W), in an order that belongs to the set, such as by digest.
        products: Of the graph.
        images: How many there are.
        rows: Per layer at most.
        threads: Of ONNX Runtime; 0 for every core this process may use.

    Returns:
        Rows, and from where to where every channel reaches.

    Raises:
        ImagesError: An image does not fit the graph, or there is none.
        StageError: What a product reads is not finite (names it and its node), or ONNX Runtime failed.
    """
    read = {p.output: (name_of(input_of(p.node, 0)), p) for p in products}
    taps = sorted({name for name, _ in read.values()})
    session = open_session(graph, [name for name in taps if name != graph.input.name], threads=threads)
    batch = shape_of(graph.input)[0]
    groups, calls = max(1, images // batch), images // batch + images % batch
    span: dict[str, NDArray[np.float32]] = {}
    early: dict[str, NDArray[np.float32]] = {}
    peaks: dict[str, list[float]] = {name: [] for name in read}
    kept = {p.output: _Pile(p, calls * rows_per_batch(p, rows, groups)) for p in products}
    ordinal = 0

    def keep(arrays: Mapping[str, NDArray[np.float32]], copies: int) -> None:
        nonlocal ordinal
        reached: dict[str, list[float]] = {}
        ends: dict[tuple[str, int], tuple[NDArray[np.float32], NDArray[np.float32]]] = {}
        for name, (source, product) in read.items():
            x = arrays[source]
            kept[name].add(product.rows(x, rows_per_batch(product, rows, groups), ordinal))
            axis = product.axis % x.ndim
            if (source, axis) not in ends:  # queries, keys and values read one tensor
                others = tuple(i for i in range(x.ndim) if i != axis)
                ends[source, axis] = x.min(axis=others), x.max(axis=others)
            least, most = ends[source, axis]
            if source not in reached:
                reached[source] = _reach(x, batch // copies, least, most)
                if not np.isfinite(reached[source]).all():
                    raise not_finite(graph, source, "a NaN or an infinity")
            peaks[name] += reached[source]
            known = span.get(name, (least, most))
            span[name] = np.stack([np.minimum(known[0], least), np.maximum(known[1], most)])
            if 2 * ordinal < groups:
                early[name] = span[name]
        ordinal += 1

    for _ in run_through(graph, session, taps, batches, keep):
        pass
    loud = {name for name, reached in peaks.items() if max(reached) >= LOUD * float(np.median(reached)) > 0}
    return Samples({name: kept.pop(name).rows for name in read}, span, early, loud)


def _reach(x: NDArray[np.float32], images: int, least: NDArray[np.float32], most: NDArray[np.float32]) -> list[float]:
    """Largest |x| of each image, which lie one after the other; of all together where they cannot be told apart.

    Args:
        x: What the images gave.
        images: How many they are.
        least: The smallest value of every channel in all of them; known, so that one image needs no pass of its own.
        most: The largest.
    """
    if images == 1 or len(x) % images:
        return [max(-float(least.min()), float(most.max()))]
    each = x.reshape(images, -1)
    return [max(-low, high) for low, high in zip(each.min(axis=1).tolist(), each.max(axis=1).tolist(), strict=True)]


class _Pile:
    """Rows as they come, written where they will stay: collected first, all would be there twice."""

    def __init__(self, product: Product, most: int) -> None:
        groups, _, width = product.weight.shape
        self._room = np.empty((groups, most, width), np.float32)  # takes no memory before it is written
        self._count = 0

    def add(self, rows: NDArray[np.float32]) -> None:
        """Put (groups, n, in) behind those there are."""
        end = self._count + rows.shape[1]
        self._room[:, self._count : end] = rows
        self._count = end

    @property
    def rows(self) -> NDArray[np.float32]:
        """(groups, rows, in), contiguous."""
        return np.ascontiguousarray(self._room[:, : self._count])


def rows_per_batch(product: Product, rows: int, batches: int) -> int:
    """How many rows a product gets of each of so many batches."""
    width: int = product.weight.shape[0] * product.weight.shape[2]
    total = max(LEAST_ROWS, min(rows, ELEMENTS // width))
    return max(1, total // batches)
