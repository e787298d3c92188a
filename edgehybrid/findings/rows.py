"""Rows of a report: what was measured of each precision on each backend."""

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgehybrid import benchmark, evaluator
from edgehybrid.findings.notes import against_control
from edgehybrid.records import (
    Answers,
    Engine,
    Latency,
    ModelSpec,
    Precision,
    Ratio,
    Row,
    Runnable,
    Target,
)
from edgehybrid.sizes import spelled
from edgehybrid.store import sha256_of

HOST = "onnxruntime-cpu"
"""The backend that every machine has."""


def accuracy_rows(
    files: Mapping[Precision, Path],
    logits: Mapping[Precision, NDArray[np.float32]],
    labels: NDArray[np.int64] | None,
    trained: bool,
    outputs: Mapping[str, int] | None = None,
) -> tuple[Row, ...]:
    """One row per precision; the first is the reference of drop and fidelity.

    Untrained weights get no accuracy: a number there would only look like one. A reference without one has nothing
    that was measured, and does not say so.

    Args:
        files: Precision -> graph.
        logits: What each answered.
        labels: (images,); None where the images have none.
        trained: Whether the weights are.
        outputs: As of `evaluator.fidelity`.
    """
    precisions = list(logits)
    reference, known = logits[precisions[0]], labels if trained else None
    rows = []
    for precision in precisions:
        row = Row(precision, HOST, "deferred", bytes=files[precision].stat().st_size)
        if precision == "fp16":
            row = replace(row, reason="ONNX Runtime's CPU computes fp16 in float32: only stored values are rounded")
        before = None if precision == precisions[0] else reference
        rows.append(_judged(row, logits[precision], before, known, outputs))
    return tuple(rows)


def engine_rows(
    engines: Mapping[Precision, Runnable],
    logits: Mapping[Precision, NDArray[np.float32]],
    reference: NDArray[np.float32],
    labels: NDArray[np.int64] | None,
    trained: bool,
) -> tuple[Row, ...]:
    """One row per engine that was run on the evaluation images on this machine.

    Args:
        engines: Precision -> file and backend.
        logits: What each answered.
        reference: Logits of the float32 graph on the same images.
        labels: (images,); None where the images have none.
        trained: Whether the weights are; untrained ones get no accuracy.
    """
    known, rows = labels if trained else None, []
    for precision, file in engines.items():
        row = Row(precision, file.backend, "deferred", bytes=file.path.stat().st_size)
        rows.append(_judged(row, logits[precision], reference, known))
    return tuple(rows)


def answers(
    logits: Mapping[Precision, NDArray[np.float32]],
    labels: NDArray[np.int64] | None,
    order: str,
    trained: bool,
    *,
    backend: str = HOST,
) -> Answers | None:
    """The class that each network gave each image; None where no accuracy is told.

    Args:
        logits: Precision -> (images, classes).
        labels: (images,).
        order: Digest of the images in their order.
        trained: Whether the weights are.
        backend: That gave these logits.
    """
    if labels is None or not trained:
        return None
    given: dict[str, tuple[int, ...]] = {
        Answers.key(precision, backend): tuple(map(int, values.argmax(axis=1))) for precision, values in logits.items()
    }
    return Answers(order, tuple(map(int, labels)), given)


def subject_of(spec: ModelSpec, files: Mapping[Precision, Runnable], batch: int | None = None) -> dict[str, str]:
    """What numbers belong to, for whoever compares them: the model, its input, and the very files that ran.

    Args:
        spec: Of the model.
        files: Precision -> file and backend.
        batch: Images per call, where calls were timed.
    """
    told = {"model": spec.name, "weights": spec.weights.source, "input": f"{spelled(spec.preprocess.size)} px"}
    told |= {} if batch is None else {"batch": str(batch)}
    for precision, file in files.items():
        told[f"{precision}/{_place(file)} file"] = sha256_of(file.path)[:16]
    return told


def merge_answers(first: Answers | None, second: Answers | None) -> Answers | None:
    """Answers of both, where both are to the same images; else the first."""
    if first is None or second is None or (first.order, first.labels) != (second.order, second.labels):
        return first
    return replace(first, top1={**first.top1, **second.top1})


def timed_rows(
    files: Mapping[Precision, Runnable],
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
    for precision, file in files.items():
        place, size, latency = _place(file), file.path.stat().st_size, latencies[precision]
        ratio = _ratio(precision, latencies) if place == HOST else None
        alone.append(Row(precision, place, "measured", latency=latency, ratio=ratio, bytes=size))
        if (found := whole[precision]) is not None:
            reason = "end to end: preprocessing of decoded pictures, copies and the network, by the host's clock"
            together.append(Row(precision, f"{place} end-to-end", "measured", reason, latency=found, bytes=size))
    return (*alone, *together)


def with_latency(rows: tuple[Row, ...], latencies: Mapping[Precision, Latency], target: Target) -> tuple[Row, ...]:
    """Rows with their latency, or with the reason why this machine's would be the wrong one to show."""
    return tuple(
        replace(row, status="measured", latency=latencies[row.precision], ratio=_ratio(row.precision, latencies))
        if row.precision in latencies
        else replace(row, reason=_run_here(row, target))
        for row in rows
    )


def scored_elsewhere(rows: tuple[Row, ...], target: Target, name: str) -> tuple[Row, ...]:
    """The rows of graphs in a bundle that came from another machine, which is named."""
    return tuple(
        replace(row, reason=f"{_deed(row)} on {name}, where the bundle was made", latency=None, ratio=None)
        if row.reason in (None, _run_here(row, target))
        else row
        for row in rows
    )


def _run_here(row: Row, target: Target) -> str:
    """Why a row of this machine has no latency."""
    return f"{_deed(row)} on this machine; latency is {target.name}'s to measure"


def _deed(row: Row) -> str:
    """What a machine did with the graph of a row."""
    return "scored" if row.status == "measured" else "run as the reference of the others"


def target_rows(target: Target, engines: Mapping[Precision, Engine], untried: str | None = None) -> tuple[Row, ...]:
    """The rows of engines of which nothing is measured yet, and why.

    Args:
        target: Where they will run.
        engines: By precision: the one asked for and, beside int8, its fp16 control.
        untried: Why this machine, which built them, cannot run them; None: it is not the target.
    """
    if target.backend == "onnxruntime":
        return ()
    rows = []
    for precision, engine in engines.items():
        failed = engine.status == "failed"
        reason = engine.reason if failed else untried or f"to be measured on {target.name} itself"
        rows.append(Row(precision, target.backend, "failed" if failed else "deferred", reason, bytes=engine.bytes))
    return tuple(rows)


def tried_rows(
    rows: tuple[Row, ...],
    latencies: Mapping[Precision, Latency],
    logits: Mapping[Precision, NDArray[np.float32]],
    reference: NDArray[np.float32] | None,
    labels: NDArray[np.int64] | None,
    outputs: Mapping[str, int] | None = None,
) -> tuple[Row, ...]:
    """Rows of engines with what they did on this machine; those that were not run stay as they are.

    Args:
        rows: Of `target_rows`.
        latencies: Per precision, all timed in turns.
        logits: Per precision, of the images that `reference` and `labels` belong to; empty where there were none.
        reference: Logits of the float32 graph.
        labels: (images,); None where there are none, or where untrained weights get no accuracy.
        outputs: As of `evaluator.fidelity`.
    """
    found = []
    for row in rows:
        if row.precision in latencies:
            latency, reason = latencies[row.precision], None
            if row.precision in ("int8", "mixed"):
                control = latencies.get("fp16")
                reason = "no fp16 control" if control is None else against_control(control, latency)
            row = replace(row, status="measured", reason=reason, latency=latency)
        if row.precision in logits:
            row = _judged(row, logits[row.precision], reference, labels, outputs)
        found.append(row)
    return tuple(found)


def _place(file: Runnable) -> str:
    """Where a file runs, as rows call it."""
    return HOST if file.backend == "onnxruntime" else file.backend


def _judged(
    row: Row,
    logits: NDArray[np.float32],
    reference: NDArray[np.float32] | None,
    labels: NDArray[np.int64] | None,
    outputs: Mapping[str, int] | None = None,
) -> Row:
    """The row with accuracy where there are labels, fidelity where there is a reference, and drop where both are."""
    if labels is not None:
        row = replace(row, status="measured", accuracy=evaluator.accuracy(logits, labels))
    if reference is not None:
        row = replace(row, status="measured", fidelity=evaluator.fidelity(reference, logits, outputs))
        if labels is not None:
            row = replace(row, drop=evaluator.drop(reference, logits, labels))
    return row


def _ratio(precision: Precision, latencies: Mapping[Precision, Latency]) -> Ratio | None:
    """Against float32, timed side by side; None for the reference itself."""
    return (
        None
        if precision == "fp32" or "fp32" not in latencies
        else benchmark.compare(latencies["fp32"], latencies[precision])
    )
