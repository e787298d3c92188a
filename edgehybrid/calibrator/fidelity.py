"""Compare two graphs layer by layer: how much noise quantization left at each output."""

from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from edgehybrid.calibrator.session import open_session, regroup, run_error
from edgehybrid.decibels import decibels
from edgehybrid.errors import StageError
from edgehybrid.graph import Graph, label_nodes, name_of, shape_of
from edgehybrid.records import LayerError

MAPS = 4
"""Axes of a tensor whose channels lie on axis 1; others have them on the last one."""


def compare(
    reference: Graph,
    quantized: Graph,
    batches: Iterable[NDArray[np.float32]],
    layers: Iterable[str],
    *,
    threads: int = 0,
) -> tuple[LayerError, ...]:
    """Signal to quantization noise ratio at layer outputs, over all images.

    The signal is what varies in each channel: a bias can add the rest, and channels that stand far from zero would hide
    the noise of what they tell.

    Both graphs run with canonical numerics: ONNX Runtime without graph optimisation, Q/DQ as written. Sums of squares
    are float64 and streaming, so memory does not grow with the number of images.

    Args:
        reference: float32 graph.
        quantized: The same graph with Q/DQ, same input shape and tensor names.
        batches: Preprocessed images, float32 (B, 3, H, W), B as it comes.
        layers: Names of tensors computed by a node of both graphs.
        threads: Of ONNX Runtime; 0 for every core this process may use.

    Returns:
        One entry per layer, in the order given: 10 log10(sum of squared distances from the channel's mean / sum of
        squared differences) in dB, cut to -200..200 (200: equal).

    Raises:
        ImagesError: An image does not fit the graph, or there is none.
        StageError: An output is not finite (names tensor and graph), or ONNX Runtime failed.
        ValueError: A tensor is not computed in both graphs, or the inputs differ.
    """
    names = tuple(dict.fromkeys(layers))
    makers = {name_of(output): node for node in reference.nodes() for output in node.outputs}
    others = {name_of(output) for node in quantized.nodes() for output in node.outputs}
    for name in names:
        if name not in makers or name not in others:
            raise ValueError(f"'{name}' is not computed in both graphs")
    shape = shape_of(reference.input)
    if shape != shape_of(quantized.input):
        raise ValueError(f"the inputs differ: {shape} and {shape_of(quantized.input)}")
    if not names:
        return ()

    sessions = [
        (graph, open_session(graph, names, threads=threads, optimise=False)) for graph in (reference, quantized)
    ]
    signals, noise = [_Spread() for _ in names], np.zeros(len(names))
    for group, copies in regroup(batches, shape):
        try:
            expected, found = (session.run(names, {name_of(graph.input): group}) for graph, session in sessions)
        except Exception as error:  # ONNX Runtime's exceptions share no base class but Exception
            raise run_error(error) from error
        for i, name in enumerate(names):
            exact = _finite(expected[i], name, "float32")
            difference = _finite(found[i], name, "quantized") - exact
            signals[i].add(exact, copies)
            noise[i] += np.sum(np.square(difference)) / copies

    labels = label_nodes(reference)
    return tuple(
        LayerError(labels[makers[name]], makers[name].op_type, name, decibels(signal.varying(), n))
        for name, signal, n in zip(names, signals, noise.tolist(), strict=True)
    )


class _Spread:
    """How far the channels of a tensor spread around their means, as it streams by: maps (N, C, H, W), or (..., C)."""

    def __init__(self) -> None:
        self._count = 0.0
        self._sums: NDArray[np.float64] = np.zeros((2, 1))  # of values and squares, per channel

    def add(self, array: NDArray[np.float64], copies: int) -> None:
        """Count the tensor of a group of images; with copies each image is there as often."""
        axis = 1 if array.ndim == MAPS else -1
        rows = np.moveaxis(array, axis, 0).reshape(array.shape[axis], -1)
        self._count += rows.shape[1] / copies
        self._sums = self._sums + np.stack([rows.sum(axis=1), np.square(rows).sum(axis=1)]) / copies

    def varying(self) -> float:
        """Sum of squared distances from the mean of each channel; of squares, where each has one value alone."""
        total, squares = self._sums
        if self._count <= 1:
            return float(squares.sum())
        return float(np.maximum(squares - np.square(total) / self._count, 0).sum())


def _finite(array: NDArray[np.generic], name: str, which: str) -> NDArray[np.float64]:
    """The array in float64.

    Raises:
        StageError: It holds an infinity or a NaN.
    """
    wide = array.astype(np.float64)
    if not np.isfinite(wide).all():
        raise StageError(
            f"'{name}' is not finite in the {which} network",
            why=f"found {int((~np.isfinite(wide)).sum())} infinities and NaNs among {wide.size} values",
            fix="check the weights and the preprocessing",
        )
    return wide
