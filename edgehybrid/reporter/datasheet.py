"""The report as one HTML page: no script, no remote asset, nothing from outside unescaped."""

import base64
import hashlib
import math
import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib import resources

from jinja2 import Environment, StrictUndefined, Template
from markupsafe import Markup

from edgehybrid.printable import counted, plain
from edgehybrid.records import Conditions, Decision, Preprocess, Report, Row
from edgehybrid.reporter import charts, explanation, wording
from edgehybrid.reporter.document import publishable
from edgehybrid.sizes import sides

WORST_LAYERS = 10
INT8 = ("activation", "weight")
"""The kinds of decision that put Q/DQ somewhere."""
WIDE, HALF, PHONE = 1056, 504, 340
"""Widths in px at which charts are drawn; the style sheet shows the one that fits the window."""


@dataclass(frozen=True)
class Tile:
    """One of the figures at the top."""

    name: str
    value: str
    detail: str


@dataclass(frozen=True)
class Rule:
    """What one row of the placement table decided, and how often."""

    name: str
    int8: bool
    kind: str
    operators: int
    ops: str
    reason: str
    variants: int  # further reasons under the same rule


@dataclass(frozen=True)
class Figure:
    """One drawing for two widths of window, or the sentence that stands in its place."""

    wide: Markup
    phone: Markup
    absent: str = ""


@dataclass(frozen=True)
class Fact:
    """One line of the table of all numbers: a name and a cell per row of the report."""

    name: str
    cells: tuple[str, ...]


def page(report: Report) -> str:
    """The report as one self-contained HTML document.

    Args:
        report: What was found.

    Returns:
        HTML with its style sheet and drawings inside. Its content security policy allows that style sheet and nothing
        else, so that a page made from a stranger's model loads and runs nothing. Equal reports give equal pages.
    """
    report = publishable(report)
    template, style = _template()
    found = wording.compare(report)
    height, width = sides(report.model.preprocess.size)
    return template.render(
        report=report,
        style=Markup(style),
        style_hash=base64.b64encode(hashlib.sha256(style.encode()).digest()).decode(),
        stamps=wording.stamps(report),
        precision="fp32" if found is None else found.precision,
        question=wording.question(report),
        headline=wording.headline(report),
        remarks=(*explanation.remarks(report), *wording.remarks(report)),
        tiles=_tiles(report),
        places=[wording.place(report, row) for row in report.rows],
        accuracy_cells=[_accuracy_cells(report, row) for row in report.rows],
        facts=_facts(report),
        tradeoff=_tradeoff(report),
        histogram=_histogram(report),
        layer_strip=_layers(report),
        worst=charts.ranked(report.layers)[:WORST_LAYERS],
        marked=charts.marked(report.layers),
        scale=max([1.0, *(x.sqnr_db for x in report.layers if math.isfinite(x.sqnr_db))]),
        meter=charts.meter,
        rules=_rules(report.placement),
        int8_operators=len({d.node for d in report.placement if d.kind in INT8}),
        operators=len({d.node for d in report.placement if d.kind != "float32"}),
        float32_operators=len({d.node for d in report.placement if d.kind == "float32"}),
        engine_sentence=wording.engine_sentence(report),
        floor_sentence=wording.floor_sentence(report),
        time_sentence=wording.time_sentence(report) if report.stages else "",
        height=height,
        width=width,
        resized=_resized(report.model.preprocess),
        centre=_centre(report.model.preprocess),
        longest=max([1e-3, *(stage.seconds for stage in report.stages)]),
    )


@lru_cache(maxsize=1)
def _template() -> tuple[Template, str]:
    """The page's template and its style sheet."""
    folder = resources.files("edgehybrid.reporter")
    style = folder.joinpath("page.css").read_text(encoding="utf-8")
    engine = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        finalize=_finalize,
    )
    engine.filters |= {
        "typeset": _typeset,
        "ms": wording.millis,
        "size": wording.size,
        "seconds": wording.seconds,
        "scaled": wording.scaled,
        "db": charts.decibels,
        "number": wording.fixed,
        "backend": wording.backend,
        "counted": counted,
        "training": wording.training,
    }
    return engine.from_string(folder.joinpath("page.html.j2").read_text(encoding="utf-8")), style


def _resized(preprocess: Preprocess) -> str:
    """To which px an image is brought before the crop: of a square its shorter side."""
    crop = preprocess.crop_pct
    enlarged = (side / crop if 0 < crop <= 1 else math.inf for side in sides(preprocess.size))
    height, width = (str(int(side)) if math.isfinite(side) else "unknown" for side in enlarged)
    return f"shorter side to {height} px" if height == width else f"to cover {height} × {width} px"


def _centre(preprocess: Preprocess) -> str:
    """What is cut out of it."""
    height, width = sides(preprocess.size)
    return f"{height} × {width} px" if height == width else f"{height} px high and {width} px wide"


def _finalize(value: object) -> object:
    """What a template expression prints: text without control characters, an en dash for what is not known."""
    if isinstance(value, Markup):
        return value
    return "–" if value is None else plain(str(value))


def _typeset(sentence: str) -> str:
    """Minus signs and multiplication signs for a generated sentence."""
    return re.sub(r"(?<=\d)x(?= |\)|$)", "×", re.sub(r"(?<![\w.])-(?=\d)", "−", sentence))


def _tiles(report: Report) -> tuple[Tile, ...]:
    """Cost, speed, size and target at a glance."""
    found = wording.compare(report)
    if found is None:
        return ()
    return (_cost_tile(report, found), _speed_tile(report, found), _size_tile(report, found), _target_tile(report))


def _cost_tile(report: Report, found: wording.Comparison) -> Tile:
    row = found.scored
    if not report.model.weights.trained or row is None:
        reason = "untrained weights" if not report.model.weights.trained else "no labelled images"
        return Tile("Accuracy", "not measured", "failed" if found.failure else reason)
    if row.drop is not None:
        images = 0 if row.accuracy is None else row.accuracy.n
        points, bounds = wording.drop_text(row.drop, images)
        return Tile("Drop of top-1", f"{points} points", f"95 % {bounds}, n = {images:,}, same images")
    if row.fidelity is None:
        return Tile("Accuracy", "not measured", "no labelled images")
    if row.fidelity.agreement is None:
        ratio, about = charts.decibels(row.fidelity.sqnr_db), "no classifier: accuracy is not measured"
        return Tile("Signal to noise of the outputs", ratio, f"n = {row.fidelity.n:,}, {about}")
    bounds = wording.interval(wording.agreement_interval(row.fidelity), 1, sign=False)
    value = f"{wording.fixed(row.fidelity.agreement, 1)} %"
    return Tile("Agreement with fp32", value, f"95 % {bounds}, n = {row.fidelity.n:,}, no labels")


def _speed_tile(report: Report, found: wording.Comparison) -> Tile:
    pace = wording.speed(found)
    if pace is None or found.timed is None:
        reason = "no latency was measured" if found.timed is None else "no fp32 latency beside it"
        return Tile("Speed", "not measured", reason)
    bounds = "medians of single calls" if pace.ci95 is None else f"95 % {wording.interval(pace.ci95, 2, sign=False)}"
    return Tile(f"Speed on {wording.place(report, found.timed)}", f"{pace.value:.2f}x", f"of fp32; {bounds}")


def _size_tile(report: Report, found: wording.Comparison) -> Tile:
    sizes: dict[str, int] = {row.precision: row.bytes for row in reversed(report.rows) if row.bytes}
    old, new = sizes.get("fp32"), sizes.get(found.precision)
    if old is None or new is None:
        return Tile("Size", "not known", "no file for both precisions")
    return Tile("Size", wording.size(new), f"{new / old:.2f}x of fp32's {wording.size(old)}")


def _target_tile(report: Report) -> Tile:
    target = report.target
    timed = any(
        row.status == "measured" and row.latency is not None and wording.on_target(report, row) for row in report.rows
    )
    title = target.title.split(",")[0]
    return Tile("Target", title, f"measured on {report.device.name}" if timed else "latency not measured")


def _accuracy_cells(report: Report, row: Row) -> tuple[tuple[str, str], ...]:
    """Top-1, drop and agreement of a row, each with its interval; nothing of the kind for untrained weights."""
    unmeasured = ("not measured", "")
    if not report.model.weights.trained:
        return (unmeasured,) * 3
    scored = any(r.accuracy is not None for r in report.rows)
    is_reference = row is report.rows[0] or row.status == "measured"  # whatever else of it is not measured
    unknown = ("reference" if row.precision == "fp32" and is_reference else "–", "")
    images = 0 if row.accuracy is None else row.accuracy.n
    top1 = ("–", "") if row.accuracy is None else wording.top1_text(row.accuracy)
    drop = unknown if row.drop is None else wording.drop_text(row.drop, images)
    agreement = unknown
    if row.fidelity is not None and row.fidelity.agreement is not None:
        bounds = wording.interval(wording.agreement_interval(row.fidelity), 1, sign=False)
        agreement = (f"{wording.fixed(row.fidelity.agreement, 1)} %", bounds)
    elif row.fidelity is not None:
        agreement = (charts.decibels(row.fidelity.sqnr_db), "")
    return (top1, drop, agreement) if scored else (unmeasured, unmeasured, agreement)


def _facts(report: Report) -> tuple[Fact, ...]:
    """Every number of every row, one fact per line; lines that no row has are left out."""
    found = [dict(_numbers(row, report.model.weights.trained)) for row in report.rows]
    names = dict.fromkeys(name for numbers in sorted(found, key=len, reverse=True) for name in numbers)
    return tuple(Fact(name, tuple(numbers.get(name, "–") for numbers in found)) for name in names)


def _numbers(row: Row, trained: bool) -> Iterator[tuple[str, str]]:
    """Name and text of each number a row has; no share of equal answers for untrained weights."""
    if row.accuracy is not None:
        yield "top-5, %", wording.fixed(row.accuracy.top5, wording.digits_of(row.accuracy.n))
        yield "scored images", f"{row.accuracy.n:,}"
    if row.drop is not None:
        yield "McNemar p", wording.probability(row.drop.mcnemar_p)
        yield "answers that turned right or wrong", f"{row.drop.discordant:,}"
    if row.fidelity is not None:
        agreement, divergence = row.fidelity.agreement, row.fidelity.logit_kl
        if trained and agreement is not None:
            yield "agreement, %", wording.fixed(agreement, 2)
        yield "SQNR of the outputs" if agreement is None else "logit SQNR", charts.decibels(row.fidelity.sqnr_db)
        if divergence is not None:
            yield "KL divergence of the softmax, nats", wording.fixed(divergence, 5)
        yield "images compared", f"{row.fidelity.n:,}"
    if row.latency is not None:
        for name in ("min", "p50", "p90", "p95", "p99", "max", "mean", "std"):
            yield f"latency {name}, ms", wording.millis(float(getattr(row.latency, name)))
        yield "timed calls", f"{row.latency.n:,}"
        if row.latency.conditions is not None:
            yield from _circumstances(row.latency.conditions)
    if row.bytes is not None:
        yield "bytes", f"{row.bytes:,}"


def _circumstances(seen: Conditions) -> Iterator[tuple[str, str]]:
    """What the machine did while a row was timed; why it did not tell, where it did not."""
    power = seen.power
    yield (
        "power of the whole board, W",
        _told(seen, "power_w", None if power is None else wording.fixed(power.mean_w, 2)),
    )
    if power is not None:
        yield "energy per call, mJ", wording.fixed(power.energy_mj, 1)
        yield "power at rest before, W", "–" if power.idle_w is None else wording.fixed(power.idle_w, 2)
    hottest = None if seen.temperature_c is None else wording.fixed(seen.temperature_c, 1)
    yield "hottest sensor, °C", _told(seen, "temperature_c", hottest)
    events = None if seen.throttle is None else f"{sum(seen.throttle.values()):,}"
    yield "throttle events", _told(seen, "throttle", events)


def _told(seen: Conditions, name: str, text: str | None) -> str:
    return text if text is not None else f"not told: {seen.unknown.get(name, 'no reason')}"


def _tradeoff(report: Report) -> Figure:
    absent = "Nothing to draw: no lower precision has both a measured latency and a measured cost."
    if not report.model.weights.trained:
        absent = "Not drawn: the weights are untrained, so there is no accuracy to set against latency."
    return Figure(charts.tradeoff(report, HALF), charts.tradeoff(report, PHONE), absent)


def _histogram(report: Report) -> Figure:
    timed = any(row.latency is not None for row in report.rows)
    absent = "Single calls were not kept." if timed else "Nothing to draw: no latency was measured."
    return Figure(charts.histogram(report, HALF), charts.histogram(report, PHONE), absent)


def _layers(report: Report) -> Figure:
    wide, phone = (charts.layer_strip(report.layers, width) for width in (WIDE, PHONE))
    return Figure(wide, phone, "No layer was measured.")


def _rules(placement: Sequence[Decision]) -> tuple[Rule, ...]:
    """Placement by rule, int8 first, the most frequent first."""
    groups: dict[tuple[bool, str], list[Decision]] = {}
    for decision in placement:
        groups.setdefault((decision.kind in INT8, decision.rule), []).append(decision)
    rules = []
    for (int8, name), decisions in groups.items():
        nodes = {d.node: d.op for d in decisions}
        reasons = list(dict.fromkeys(d.reason for d in decisions))
        ops = ", ".join(f"{count} {op}" for op, count in Counter(nodes.values()).most_common())
        rules.append(Rule(name, int8, decisions[0].kind, len(nodes), ops, reasons[0], len(reasons) - 1))
    return tuple(sorted(rules, key=lambda rule: (not rule.int8, -rule.operators, rule.name)))
