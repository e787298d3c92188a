"""Several reports side by side: one table for the terminal, one page; a number stays with its machine."""

import base64
import hashlib
import itertools
from collections.abc import Sequence
from functools import lru_cache
from importlib import resources

from jinja2 import Environment, StrictUndefined, Template
from markupsafe import Markup
from rich.console import Group, RenderableType
from rich.text import Text

from edgehybrid.printable import counted, plain
from edgehybrid.records import Report, Row
from edgehybrid.reporter import wording
from edgehybrid.reporter.document import publishable
from edgehybrid.reporter.tables import grid
from edgehybrid.sizes import spelled

COLUMNS = ("bundle", "precision", "backend", "top-1 %", "drop", "p50 / p99 ms", "mJ/call", "size", "status")

HEADS = ("precision\nbackend", "top-1 %\n(95 %)", "drop\n(paired)", "p50 ms\np99", "mJ", "size", "status")
"""The same in a terminal, where bundle and model stand above."""

NUMBERS = range(3, 8)
"""Columns that hold them."""


def overview_table(reports: Sequence[Report]) -> RenderableType:
    """One block per machine, as latencies of different machines share no table; intervals stand below their values."""
    parts: list[RenderableType] = []
    for machine, rows in _by_machine(reports).items():
        parts.append(Text(machine, style="bold"))
        for (bundle, model), group in itertools.groupby(rows, key=lambda row: row[:2]):
            table = grid(*HEADS)
            for _, _, precision, backend, top1, drop, times, energy, size, status in group:
                cells = (f"{precision}\n{backend}", _below(top1), _below(drop), times.replace(" / ", "\n"))
                table.add_row(*map(Text, (*cells, energy, size, status)))
            parts += [Text(f"{bundle}: {model}"), table, Text()]
    return Group(*parts[:-1])


def _below(cell: str) -> str:
    """An interval on a line of its own."""
    return cell.replace(" [", "\n[", 1)


def overview_page(reports: Sequence[Report]) -> str:
    """The same as one self-contained HTML document, no script, no remote asset."""
    template, style = _template()
    return template.render(
        style=Markup(style),
        style_hash=base64.b64encode(hashlib.sha256(style.encode()).digest()).decode(),
        columns=COLUMNS,
        numbers=NUMBERS,
        machines=_by_machine(reports),
        bundles=[(report.bundle, wording.headline(report)) for report in map(publishable, reports)],
    )


def _by_machine(reports: Sequence[Report]) -> dict[str, list[tuple[str, ...]]]:
    """Machine and power mode -> its rows: bundle and model, then what `COLUMNS` says."""
    found: dict[str, list[tuple[str, ...]]] = {}
    for report in map(publishable, reports):
        mode = f", {report.device.power_mode}" if report.device.power_mode else ""
        name = plain(f"{report.device.name}{mode}, {counted(report.device.threads, 'thread')}")
        found.setdefault(name, []).extend(_cells(report, row) for row in report.rows)
    return found


def _cells(report: Report, row: Row) -> tuple[str, ...]:
    model, latency = report.model, row.latency
    stamp = "" if model.weights.trained else " UNTRAINED"
    power = None if latency is None or latency.conditions is None else latency.conditions.power
    name = f"{model.name} {spelled(model.preprocess.size)} px b{report.batch} for {report.target.name}{stamp}"
    images = 0 if row.accuracy is None else row.accuracy.n
    return (
        plain(report.bundle),
        plain(name),
        row.precision,
        plain(row.backend),
        "not measured" if row.accuracy is None else " ".join(wording.top1_text(row.accuracy)),
        "-" if row.drop is None else " ".join(wording.drop_text(row.drop, images)),
        "-" if latency is None else " / ".join(wording.latency_text(latency)),
        "-" if power is None else f"{power.energy_mj:.1f}",
        "-" if row.bytes is None else wording.size(row.bytes),
        row.status,
    )


@lru_cache(maxsize=1)
def _template() -> tuple[Template, str]:
    folder = resources.files("edgehybrid.reporter")
    style = folder.joinpath("page.css").read_text(encoding="utf-8")
    engine = Environment(autoescape=True, undefined=StrictUndefined, trim_blocks=True, lstrip_blocks=True)
    return engine.from_string(folder.joinpath("overview.html.j2").read_text(encoding="utf-8")), style
