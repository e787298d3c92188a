"""Rows of a report: what was measured of each precision on each backend."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgehybrid import benchmark, evaluator
from edgehybrid.records import (
    Answers,
    Engine,
    Latency,
    Precision,
    Ratio,
    Row,
    Target,
)

HOST = "onnxruntime-cpu"
"""The backend that every machine has."""


def accuracy_rows(
    files: Mapping[Precision, Path],
    logits: Mapping[Precision, NDArray[np.float32]],
    labels: NDArray[np.int64] | None,
    trained: bool,
) -> tuple[Row, ...]:
    """One row per precision; the first is the reference of drop and fidelity.

    Untrained weights get no accuracy: a number there would only look like one.
    """
    reference = next(iter(logits))
    rows = []
    for precision, values in logits.items():
        row = Row(precision, HOST, "measured", bytes=files[precision].stat().st_size)
        if labels is not None and trained:
            row = replace(row, accuracy=evaluator.accuracy(values, labels))
        if precision != reference:
            row = replace(row, fidelity=evaluator.fidelity(logits[reference], values))
            if row.accuracy is not None and labels is not None:
                row = replace(row, drop=evaluator.drop(logits[reference], values, labels))
        if precision == "fp16":
            row = replace(row, reason="ONNX Runtime's CPU computes fp16 in float32: only stored values are rounded")
        rows.append(row)
    return tuple(rows)


def answers(
    logits: Mapping[Precision, NDArray[np.float32]], labels: NDArray[np.int64] | None, order: str, trained: bool
) -> Answers | None:
    """The class that each network gave each image; None where no accuracy is told.

    Args:
        logits: Precision -> (images, classes).
        labels: (images,).
        order: Digest of the images in their order.
        trained: Whether the weights are.
    """
    if labels is None or not trained:
        return None
    given: dict[str, tuple[int, ...]] = {
        precision: tuple(map(int, values.argmax(axis=1))) for precision, values in logits.items()
    }
    return Answers(order, tuple(map(int, labels)), given)


def timed_rows(
    files: Mapping[Precision, tuple[Path, str]],
    latencies: Mapping[Precision, Latency],
    whole: Mapping[Precision, Latency | None],
) -> tuple[Row, ...]:
    """Two rows per network measured on this machine: alone, and together with its preprocessing.

    Args:
        files: Precision -> file and backend.
        latencies: Of the network alone.
        whole: From decoded pictures to outputs; None where the network takes no pictures.
    """
    alone, together = [], []
    for precision, (path, backend) in files.items():
        place, size = (HOST if backend == "onnxruntime" else backend), path.stat().st_size
        ratio = _ratio(precision, latencies) if backend == "onnxruntime" else None
        latency = latencies[precision]
        alone.append(Row(precision, place, "measured", latency=latency, ratio=ratio, bytes=size))
        if (found := whole[precision]) is not None:
            reason = "end to end: preprocessing of decoded pictures, copies and the network, by the host's clock"
            together.append(Row(precision, f"{place} end-to-end", "measured", reason, latency=found, bytes=size))
    return (*alone, *together)


def with_latency(rows: tuple[Row, ...], latencies: Mapping[Precision, Latency], target: Target) -> tuple[Row, ...]:
    """Rows with their latency, or with the reason why this machine's would be the wrong one to show."""
    elsewhere = f"scored on this machine; latency is {target.name}'s to measure"
    return tuple(
        replace(row, latency=latencies[row.precision], ratio=_ratio(row.precision, latencies))
        if row.precision in latencies
        else replace(row, reason=elsewhere)
        for row in rows
    )


def target_rows(target: Target, engines: Mapping[Precision, Engine]) -> tuple[Row, ...]:
    """The rows of engines on a target that is not this machine: nothing measured, and why.

    Args:
        target: Where they will run.
        engines: By precision: the one asked for and, beside int8, its fp16 control.
    """
    if target.backend == "onnxruntime":
        return ()
    rows = []
    for precision, engine in engines.items():
        failed = engine.status == "failed"
        reason = engine.reason if failed else f"to be measured on {target.name} itself"
        rows.append(Row(precision, target.backend, "failed" if failed else "deferred", reason, bytes=engine.bytes))
    return tuple(rows)


def _ratio(precision: Precision, latencies: Mapping[Precision, Latency]) -> Ratio | None:
    """Against float32, timed side by side; None for the reference itself."""
    return (
        None
        if precision == "fp32" or "fp32" not in latencies
        else benchmark.compare(latencies["fp32"], latencies[precision])
    )
