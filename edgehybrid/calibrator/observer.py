"""Watch activations: run images through a graph once and count those of the tapped tensors."""

import zlib
from collections.abc import Callable, Iterable, Mapping, Sequence

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgehybrid.calibrator.histogram import STAGE, Tally, stride_of
from edgehybrid.calibrator.observations import Observations
from edgehybrid.calibrator.session import not_finite, open_session, run_through
from edgehybrid.errors import StageError
from edgehybrid.graph import Graph, constant, name_of, shape_of, values

_REARRANGING = {"DepthToSpace", "Flatten", "Identity", "Reshape", "SpaceToDepth", "Squeeze", "Transpose", "Unsqueeze"}
"""Operators whose output holds the values of their first input, in another order or shape: one histogram for both."""


def observe(
    graph: Graph,
    batches: Iterable[NDArray[np.float32]],
    tensors: Sequence[str],
    *,
    threads: int = 0,
    progress: Callable[[int], None] | None = None,
) -> Observations:
    """Count the activations of some tensors over all images, in one pass and in constant memory.

    Every image runs at the graph's own batch size, whatever the size of `batches`, and counts are integers. On a
    graph of batch 1 the result is therefore the same to the last bit for any order, batching or sharding of the
    images, given the same machine and number of threads. On a graph of batch N it is so, and the same as on one of
    batch 1, wherever the kernels treat the N places of a batch alike.

    At most SAMPLED activations of a tensor are counted per image, evenly spread over all its dimensions (`stride_of`).
    Where to begin is read off the image itself, so that a place which stands out in every image is met in its share
    of them. Of a tensor that does not hold the images of a batch one after the other every activation is counted.

    Args:
        graph: float32, static shapes. Not modified.
        batches: Preprocessed images, float32 (B, 3, H, W); B may vary and differ from the graph's batch.
        tensors: Names of float32 tensors of the graph that depend on the images.
        threads: Of ONNX Runtime; 0 for every core this process may use.
        progress: Told the number of images run so far.

    Returns:
        One histogram per tensor, with its exact absolute maximum and those of single images.

    Raises:
        ImagesError: An image does not fit the graph, or there is none.
        StageError: An activation is not finite (names tensor and node), or ONNX Runtime failed.
        ValueError: A tensor is unknown, constant, or not float32.
    """
    sources = _find_sources(graph, tensors)
    watched = set(sources.values())
    taps = [name for name in map(name_of, values(graph)) if name in watched]
    scratch = np.empty(STAGE, np.intp)
    batch = shape_of(graph.input)[0]
    tallies = {
        name_of(value): Tally(_stride(shape_of(value), batch), scratch)
        for value in values(graph)
        if value.name in watched
    }
    session = open_session(graph, [name for name in taps if name != graph.input.name], threads=threads)
    counted = images = 0

    def count(arrays: Mapping[str, NDArray[np.float32]], copies: int) -> None:
        nonlocal counted
        _count(graph, arrays, tallies, copies, counted)
        counted += batch // copies

    for more in run_through(graph, session, taps, batches, count):
        images += more
        if progress is not None:
            progress(images)
    histograms = {name: tallies.pop(name).histogram() for name in list(tallies)}  # so that few are there twice
    found = {name: histograms[source] for name, source in sources.items()}
    return Observations(found, images)


def _find_sources(graph: Graph, tensors: Sequence[str]) -> dict[str, str]:
    """Tensor asked for -> tensor to tap, which holds the same values.

    Raises:
        ValueError: A tensor is unknown, constant, or not float32.
    """
    found = {name_of(value): value for value in values(graph)}
    sources: dict[str, str] = {}
    for name in tensors:
        if name not in found:
            raise ValueError(f"the graph has no tensor '{name}'")
        if constant(found[name]) is not None or found[name].dtype != ir.DataType.FLOAT:
            raise ValueError(f"'{name}' is not a float32 activation")
        sources[name] = name_of(source_of(found[name]))
    return sources


def source_of(value: ir.Value) -> ir.Value:
    """The tensor that first held these values."""
    node = value.producer()
    while node is not None and node.op_type in _REARRANGING and node.inputs[0] is not None:
        value = node.inputs[0]
        node = value.producer()
    return value


def _apart(shape: tuple[int, ...], batch: int) -> bool:
    """Whether a tensor holds the images of a batch one after the other, as wherever a batch is kept at all."""
    return bool(shape) and shape[0] % batch == 0


def _stride(shape: tuple[int, ...], batch: int) -> int:
    """Of what is counted, by the share of one image."""
    return stride_of((shape[0] // batch, *shape[1:])) if _apart(shape, batch) else 1


def _count(
    graph: Graph, arrays: Mapping[str, NDArray[np.float32]], tallies: Mapping[str, Tally], copies: int, image: int
) -> None:
    """Count what one run gave, from a number of images on.

    Raises:
        StageError: An activation is not finite, or depends on its place in the batch.
    """
    phases = [zlib.crc32(each) for each in arrays[name_of(graph.input)]]
    name, batch = "", len(phases)
    try:
        for name, tally in tallies.items():
            array = arrays[name]
            if not _apart(array.shape, batch):
                tally.add(array, copies, one=False)
                continue
            shares = array.reshape(batch, -1)
            if copies > 1 and not np.array_equal(shares, np.broadcast_to(shares[0], shares.shape), equal_nan=True):
                raise ValueError("copies of one image gave different activations")
            for share, phase in zip(shares[: batch // copies], phases, strict=False):
                tally.add(share, phase=phase)
    except FloatingPointError as error:
        array = arrays[name]
        place = f"image {image + 1}" if batch == 1 else f"images {image + 1} to {image + batch}"
        nans, infinities = int(np.isnan(array).sum()), int(np.isinf(array).sum())
        found = f"{nans} NaN and {infinities} infinite of {array.size} values on {place}"
        raise not_finite(graph, name, found) from error
    except ValueError as error:
        raise StageError(
            f"activation '{name}' depends on the place of an image in its batch",
            why=f"{copies} copies of image {image + 1} in one batch gave different values",
            fix="export the network with batch 1",
        ) from error
