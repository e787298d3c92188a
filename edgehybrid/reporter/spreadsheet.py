"""Rows of one or several reports as CSV, one line per precision and backend, for a spreadsheet."""

import csv
import io
from collections.abc import Sequence

from edgehybrid.records import Report, Row
from edgehybrid.reporter.document import publishable
from edgehybrid.sizes import spelled

Cell = str | int | float | bool | None

_FORMULA = ("=", "+", "-", "@", "\t", "\r")
"""A text that begins so is executed by a spreadsheet; it gets an apostrophe."""


def to_csv(reports: Sequence[Report]) -> str:
    """One line per row of every report, a head line first; an empty cell is not known or not measured.

    Args:
        reports: As read from bundles. Accuracy of untrained weights, and passwords in URLs, do not get out of here.

    Returns:
        Text with CRLF line ends (RFC 4180).
    """
    out = io.StringIO()
    writer = csv.writer(out)
    lines = [_line(publishable(report), row) for report in reports for row in publishable(report).rows]
    writer.writerow(_line_names())
    writer.writerows([[_safe(cell) for cell in line.values()] for line in lines])
    return out.getvalue()


def _line_names() -> list[str]:
    names = "bundle model weights trained input_px batch target machine power_mode precision backend status reason"
    times = "p50_ms p90_ms p95_ms p99_ms min_ms max_ms mean_ms std_ms calls"
    scores = "top1 top1_low top1_high top5 drop drop_low drop_high mcnemar_p agreement sqnr_db images"
    rest = "bytes power_w energy_mj temperature_c evaluation calibration method edgehybrid"
    return f"{names} {times} {scores} {rest}".split()


def _line(report: Report, row: Row) -> dict[str, Cell]:
    latency, accuracy, drop, fidelity = row.latency, row.accuracy, row.drop, row.fidelity
    seen = None if latency is None else latency.conditions
    power = None if seen is None else seen.power
    cells: tuple[Cell, ...] = (
        report.bundle,
        report.model.name,
        report.model.weights.source,
        report.model.weights.trained,
        spelled(report.model.preprocess.size),
        report.batch,
        report.target.name,
        report.device.name,
        report.device.power_mode,
        row.precision,
        row.backend,
        row.status,
        row.reason,
        *(None if latency is None else getattr(latency, p) for p in ("p50", "p90", "p95", "p99", "min", "max")),
        None if latency is None else latency.mean,
        None if latency is None else latency.std,
        None if latency is None else latency.n,
        None if accuracy is None else accuracy.top1,
        *((None, None) if accuracy is None else accuracy.ci95),
        None if accuracy is None else accuracy.top5,
        None if drop is None else drop.points,
        *((None, None) if drop is None else drop.ci95),
        None if drop is None else drop.mcnemar_p,
        None if fidelity is None else fidelity.agreement,
        None if fidelity is None else fidelity.sqnr_db,
        None if report.evaluation is None else report.evaluation.images,
        row.bytes,
        None if power is None else power.mean_w,
        None if power is None else power.energy_mj,
        None if seen is None else seen.temperature_c,
        None if report.evaluation is None else report.evaluation.name,
        None if report.calibration is None else report.calibration.name,
        report.method,
        report.version,
    )
    return dict(zip(_line_names(), cells, strict=True))


def _safe(cell: Cell) -> Cell:
    return f"'{cell}" if isinstance(cell, str) and cell.startswith(_FORMULA) else "" if cell is None else cell
