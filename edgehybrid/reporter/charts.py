"""What the page draws: cost against latency, every timed call, noise per layer."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import numpy as np
from markupsafe import Markup

from edgehybrid.records import Latency, LayerError, Report, Row
from edgehybrid.reporter import wording
from edgehybrid.reporter.svg import Canvas, drawable, tick_text, ticks_of

BINS = 60
CHAR, BOLD_CHAR = 6.7, 8.0
"""Width of one character of a 12 px label, px; generous, so that labels do not collide."""
WORST = 5
"""Layers that are marked at most."""
Box = tuple[float, float, float, float]
"""Left, top, right and bottom, px."""


# --- latency against drop ---------------------------------------------------------------------------


@dataclass(frozen=True)
class Point:
    """One measured row in the plane of latency and what it cost."""

    row: Row
    x: float  # ms, median
    spread: tuple[float, float]  # ms, 5th and 95th percentile of single calls
    y: float
    ci95: tuple[float, float] | None  # None: the reference itself
    cost: str  # y in words


def tradeoff_points(report: Report) -> tuple[tuple[Point, ...], str]:
    """What the chart of latency against accuracy can show, and the name of its vertical axis.

    Drop in points where labels were there, else the share of images whose answer changed. No points where either
    coordinate of every lower precision is missing, or where the weights are untrained.
    """
    if not report.model.weights.trained:
        return (), ""
    timed = [row for row in report.rows if row.latency is not None and row.status == "measured"]
    by_drop = any(row.drop is not None for row in timed)
    points = []
    for row in timed:
        latency, y, ci95, cost = row.latency, 0.0, None, "reference"
        if by_drop and row.drop is not None:
            y, ci95 = row.drop.points, row.drop.ci95
            cost = f"{wording.drop_text(row.drop, row.accuracy.n if row.accuracy else 0)[0]} points"
        elif not by_drop and row.precision != "fp32" and row.fidelity and row.fidelity.agreement is not None:
            low, high = wording.agreement_interval(row.fidelity)
            y, ci95 = 100 - row.fidelity.agreement, (100 - high, 100 - low)
            cost = f"{wording.fixed(y, 1)} % changed"
        elif row.precision != "fp32":
            continue
        if latency is not None and drawable(y, *(ci95 or ()), latency.p50, *_spread(latency)):
            points.append(Point(row, latency.p50, _spread(latency), y, ci95, cost))
    if all(point.ci95 is None for point in points):
        return (), ""
    return tuple(points), "drop of top-1, points" if by_drop else "answers changed, % of images"


def tradeoff(report: Report, width: int) -> Markup:
    """Latency against what it cost, with error bars; empty where there is nothing to compare."""
    points, name = tradeoff_points(report)
    if not points:
        return Markup("")
    height = 320
    left, right, top, bottom = 46, width - 14, 30, height - 44
    canvas = Canvas(width, height, f"{name} against median latency in ms, one point per precision and backend")
    x_ticks = ticks_of(0, max(max(p.x, p.spread[1]) for p in points) * 1.08, 5)
    bounds = [b for p in points for b in (p.y, *(p.ci95 or ()))]
    margin = 0.12 * (max(bounds) - min(0.0, *bounds)) or 0.5
    y_ticks = ticks_of(min(0.0, *bounds) - (margin if min(bounds) < 0 else 0), max(bounds) + margin, 5)

    def at_x(value: float) -> float:
        return left + (right - left) * (value - x_ticks[0]) / (x_ticks[-1] - x_ticks[0])

    def at_y(value: float) -> float:
        return bottom - (bottom - top) * (value - y_ticks[0]) / (y_ticks[-1] - y_ticks[0])

    signs = "drop" in name
    for tick in y_ticks:
        canvas.line(left, at_y(tick), right, at_y(tick), "zero" if tick == 0 else "grid")
        canvas.text(left - 7, at_y(tick) + 4, tick_text(tick, y_ticks, signs), "tick", "end")
    for tick in x_ticks:
        canvas.line(at_x(tick), bottom, at_x(tick), bottom + 4, "axis")
        canvas.text(at_x(tick), bottom + 18, tick_text(tick, x_ticks, False), "tick", "middle")
    canvas.text(left - 40, 14, f"↑ {name} (lower is better)", "axis-name")
    canvas.text(right, height - 8, "median latency, ms per call (left is better) →", "axis-name", "end")
    boxes = [(at_x(p.x) - 8, at_y(p.y) - 8, at_x(p.x) + 8, at_y(p.y) + 8) for p in points]
    boxes.append((left, at_y(0) - 1, right, at_y(0) + 1))
    for p in points:
        look = f"bar stroke-{p.row.precision}"
        x, y, (first, last) = at_x(p.x), at_y(p.y), map(at_x, p.spread)
        canvas.line(first, y, last, y, look)
        boxes.append((first, y - 2, last, y + 2))
        if p.ci95 is not None:
            low, high = at_y(p.ci95[0]), at_y(p.ci95[1])
            cap = x - 5
            canvas.path(f"M{x:.1f} {low:.1f}V{high:.1f}M{cap:.1f} {low:.1f}h10M{cap:.1f} {high:.1f}h10", look)
            boxes.append((cap, high - 2, cap + 10, low + 2))
    for p in points:
        canvas.mark(at_x(p.x), at_y(p.y), p.row.precision)
        _place_label(canvas, p, (at_x(p.x), at_y(p.y)), boxes, (left, top, right, bottom))
    return canvas.markup()


def _place_label(
    canvas: Canvas,
    point: Point,
    at: tuple[float, float],
    boxes: list[Box],
    frame: Box,
) -> None:
    """Write two lines beside, above or below a point, where they cover little or nothing that is drawn and are near."""
    lines = (
        f"{point.row.precision} {wording.backend(point.row.backend)}"[:34],
        f"{wording.millis(point.x)} ms, {point.cost}".replace("-", "\u2212"),
    )
    wide, (x, y) = max(BOLD_CHAR * len(lines[0]), CHAR * len(lines[1])), at
    places = [
        (x + dx, y + dy, "start" if dx > 0 else "end")
        for dy in (-24, 20, -56, 52, -88, 84)
        for dx in (12, -12)
    ]  # fmt: skip
    middle = min(max(x - wide / 2, frame[0]), frame[2] - wide)  # a phone has no room beside it
    places += [(middle, y + dy, "start") for dy in (-30, 24, -60, 56, -90, 86)]

    def box_at(place: tuple[float, float, str]) -> Box:
        x0 = place[0] if place[2] == "start" else place[0] - wide
        return x0, place[1] - 12, x0 + wide, place[1] + 19

    def harm(place: tuple[float, float, str]) -> float:
        box = box_at(place)
        outside = _shared(box, box) - _shared(box, frame)
        distance = abs((box[1] + box[3]) / 2 - y)
        return 100 * outside + sum(_shared(box, other) for other in boxes) + distance

    chosen = min(places, key=harm)
    boxes.append(box_at(chosen))
    canvas.text(chosen[0], chosen[1], lines[0], f"name halo text-{point.row.precision}", chosen[2])
    canvas.text(chosen[0], chosen[1] + 15, lines[1], "label halo", chosen[2])


def _shared(a: Box, b: Box) -> float:
    """The area that two boxes have in common."""
    return max(min(a[2], b[2]) - max(a[0], b[0]), 0.0) * max(min(a[3], b[3]) - max(a[1], b[1]), 0.0)


def _spread(latency: Latency) -> tuple[float, float]:
    if latency.samples and drawable(*latency.samples):
        low, high = np.percentile(latency.samples, (5, 95))
        return float(low), float(high)
    return latency.min, latency.p95


# --- latency histogram ------------------------------------------------------------------------------


def histogram_rows(report: Report) -> tuple[Row, ...]:
    """Measured rows whose single latencies were kept."""
    timed = [(row, row.latency) for row in report.rows if row.status == "measured" and row.latency is not None]
    return tuple(row for row, x in timed if x.samples and drawable(*x.samples, x.p50, x.p95, x.p99))


def histogram(report: Report, width: int) -> Markup:
    """Every measured call of every row in shared bins, with the median and the 99th percentile marked.

    The axis ends where the bulk does, so that stray calls do not flatten the rest; what lies beyond is counted in a
    last bar of its own, never dropped.
    """
    rows = histogram_rows(report)
    if not rows:
        return Markup("")
    each, top = max(100, 250 // len(rows)), 6
    axis = top + each * len(rows)
    canvas = Canvas(width, axis + 40, "histogram of latency in ms, one panel per precision and backend")
    latencies = [row.latency for row in rows if row.latency is not None]
    low = min(min(x.samples) for x in latencies)
    bulk = max(x.p50 + 4 * (x.p95 - x.p50) for x in latencies)
    high = max(min(bulk, max(max(x.samples) for x in latencies)), low + 0.02 * abs(low) + 1e-6)
    right = width - 40.0  # the rest is for calls beyond the axis
    for i, (row, latency) in enumerate(zip(rows, latencies, strict=True)):
        _panel(canvas, row, latency, (low, high), (8.0, top + each * i, right, top + each * (i + 1) - 16))
    ticks = [t for t in ticks_of(low, high, 5) if low <= t <= high]
    for tick in ticks:
        x = 8 + (right - 8) * (tick - low) / (high - low)
        canvas.line(x, axis - 16, x, axis - 12, "axis")
        canvas.text(x, axis + 2, tick_text(tick, ticks, False), "tick", "middle")
    if any(max(x.samples) > high for x in latencies):
        canvas.text(width - 2, axis + 2, "later", "tick", "end")
    canvas.text(right, axis + 30, "ms per call →", "axis-name", "end")
    return canvas.markup()


def _panel(
    canvas: Canvas,
    row: Row,
    latency: Latency,
    limits: tuple[float, float],
    frame: Box,
) -> None:
    """The histogram of one row inside a frame (left, top, right, bottom)."""
    (low, high), (left, top, right, bottom) = limits, frame
    counts, edges = np.histogram(latency.samples, bins=BINS, range=limits)
    beyond = int(np.count_nonzero(np.asarray(latency.samples) > high))

    def at_x(value: float) -> float:
        return left + (right - left) * (value - low) / (high - low)

    marks = _quantiles(latency, at_x, high, right, canvas.width - 2)
    unit = (bottom - top - max(mark.level for mark in marks) - 6) / max(int(counts.max()), beyond, 1)
    bars = "".join(
        f"M{at_x(a):.1f} {bottom}V{bottom - unit * int(c):.1f}H{at_x(b) - 0.6:.1f}V{bottom}z"
        for a, b, c in zip(edges[:-1], edges[1:], counts, strict=True)
        if c
    )
    look = f"fill-{row.precision}"
    canvas.path(bars, look)
    if beyond:
        canvas.rect(right + 22, bottom - unit * beyond, 10, unit * beyond, f"{look} beyond")
        canvas.text(right + 38, bottom - unit * beyond - 4, f"{beyond}", "tick", "end")
    canvas.line(left, bottom, right, bottom, "axis")
    name = f"{row.precision} {wording.backend(row.backend)}"[:30]
    canvas.text(left, top + 12, name, f"name text-{row.precision}")
    canvas.text(canvas.width - 2, top + 12, f"n = {latency.n:,}", "label", "end")
    for mark in marks:
        if mark.line is not None:
            canvas.line(mark.line, top + mark.level - 7, mark.line, bottom, "quantile")
        canvas.text(mark.x, top + mark.level, mark.text, "label halo", mark.anchor)


@dataclass(frozen=True)
class Quantile:
    """A percentile in a panel: a label, and a line from beside it down to the axis."""

    text: str
    line: float | None  # px from the left; None: beyond the axis
    x: float  # where the label begins or ends, px
    anchor: str
    level: int = 31  # its base line, px below the top of the panel

    @property
    def span(self) -> tuple[float, float]:
        """From where to where label and line reach, with a space around: a line that touches a label reads as part."""
        wide = CHAR * len(self.text) + 4
        return (self.x - 4, self.x + wide) if self.anchor == "start" else (self.x - wide, self.x + 4)


def _quantiles(
    latency: Latency, at_x: Callable[[float], float], high: float, right: float, edge: float
) -> tuple[Quantile, Quantile]:
    """Median and 99th percentile, neither of whose labels is crossed by the other's line.

    Args:
        latency: Of the row.
        at_x: From ms to px.
        high: What the axis ends with, ms.
        right: Where that is, px.
        edge: Where labels of what lies beyond end, px.
    """

    def mark(name: str, value: float) -> Quantile:
        text, x = f"{name} {wording.millis(value)}", at_x(value)
        if value > high:
            return Quantile(f"{text} →", None, edge, "end")
        if x + CHAR * len(text) > right:
            return Quantile(text, x, x - 4, "end")
        return Quantile(text, x, x + 4, "start")

    median, last = mark("p50", latency.p50), mark("p99", latency.p99)
    if median.span[1] <= last.span[0]:
        return median, last
    if last.anchor == "start":
        return median, replace(last, level=45)
    return replace(median, x=at_x(latency.p50) - 4, anchor="end", level=45), last


# --- layers -----------------------------------------------------------------------------------------


def ranked(layers: Sequence[LayerError]) -> tuple[LayerError, ...]:
    """Layers from the worst on; one that is not a number is the worst there is."""
    return tuple(sorted(layers, key=lambda x: -math.inf if math.isnan(x.sqnr_db) else x.sqnr_db))


def marked(layers: Sequence[LayerError]) -> int:
    """How many of the worst are marked: of few layers no more than half, as the others would be the exception."""
    return min(WORST, len(layers) // 2)


def layer_strip(layers: Sequence[LayerError], width: int) -> Markup:
    """One bar per layer in the order of the network, the worst ones in another colour."""
    if not layers:
        return Markup("")
    finite = [x.sqnr_db for x in layers if drawable(x.sqnr_db)]
    ticks = ticks_of(min(0.0, *finite) if finite else 0.0, max([*finite, 10.0]), 4)
    height, left, right, top = 220, 36, width - 6, 26
    bottom = height - 26
    canvas = Canvas(width, height, "signal to quantization noise in dB, one bar per layer from input to output")
    culprits = {id(layer) for layer in ranked(layers)[: marked(layers)]}

    def at_y(value: float) -> float:
        return bottom - (bottom - top) * (value - ticks[0]) / (ticks[-1] - ticks[0])

    for tick in ticks:
        canvas.line(left, at_y(tick), right, at_y(tick), "grid")
        canvas.text(left - 6, at_y(tick) + 4, tick_text(tick, ticks, False), "tick", "end")
    step = (right - left) / len(layers)
    gap = min(2.0, step * 0.25)
    for i, layer in enumerate(layers):
        value = layer.sqnr_db
        shown = ticks[0] if math.isnan(value) else min(max(value, ticks[0]), ticks[-1])
        look = "fill-worst" if id(layer) in culprits else "fill-layer"
        tip = f"{layer.node} ({layer.op}): {decibels(value)}"
        canvas.rect(left + i * step, at_y(shown), step - gap, bottom - at_y(shown), look, tip)
        if id(layer) in culprits:
            canvas.path(f"M{left + (i + 0.5) * step - gap / 2:.1f} {at_y(shown) - 3:.1f}l-4 -7h8z", "fill-worst")
    canvas.text(0, 13, "↑ SQNR, dB (higher is better)", "axis-name")
    canvas.text(left, height - 8, "input", "tick")
    canvas.text(right, height - 8, "output", "tick", "end")
    return canvas.markup()


def decibels(value: float) -> str:
    """SQNR, in words where a number says nothing: outputs that are the same, or not finite."""
    if math.isnan(value) or value == -math.inf:
        return "not finite"
    if math.isinf(value):
        return "identical"
    return "exact" if value >= wording.EXACT else f"{wording.fixed(value, 1)} dB"


def meter(share: float, look: str) -> Markup:
    """A bar that fills this share (0..1) of its table cell."""
    filled = 100 * min(max(share, 0.0), 1.0) if math.isfinite(share) else 0.0
    return Markup(
        '<svg viewBox="0 0 100 8" preserveAspectRatio="none" class="meter" aria-hidden="true">'
        f'<rect width="100" height="8" class="fill-track"/><rect width="{filled:.1f}" height="8" class="{look}"/></svg>'
    )
