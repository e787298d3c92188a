"""Drawings hold every sample, stay inside their frame and mark the right layers."""

import math
import re
from dataclasses import replace
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgehybrid.records import LayerError, Report
from edgehybrid.reporter import charts, svg
from tests.reporter import samples


def boxes(markup: str, look: str) -> list[tuple[float, float, float, float]]:
    """x, y, width, height of the rectangles of one class."""
    pattern = rf'<rect x="([\d.-]+)" y="([\d.-]+)" width="([\d.-]+)" height="([\d.-]+)" class="{look}">'
    return [tuple(map(float, found)) for found in re.findall(pattern, markup)]  # type: ignore[misc]


def bars(markup: str, look: str) -> list[float]:
    """Heights of the bars of a histogram."""
    path = re.search(rf'<path d="([^"]+)" class="{look}"/>', markup)
    assert path is not None
    return [float(base) - float(top) for base, top in re.findall(r"M[\d.]+ ([\d.]+)V([\d.]+)H", path[1])]


def test_a_histogram_counts_every_call_even_the_one_far_out() -> None:
    report = samples.labelled()
    latency = report.rows[1].latency
    assert latency is not None
    markup = charts.histogram(replace(report, rows=(report.rows[1],)), 500)
    (_, _, _, beyond_height) = boxes(markup, "fill-int8 beyond")[0]
    beyond = int(re.findall(r'class="tick">(\d+)</text>', markup)[0])
    unit = beyond_height / beyond
    assert sum(bars(markup, "fill-int8")) / unit + beyond == pytest.approx(latency.n, rel=0.02)


def test_only_measured_rows_are_in_the_histogram() -> None:
    assert [row.status for row in charts.histogram_rows(samples.on_board())] == ["measured"] * 3


def test_the_tradeoff_has_one_mark_per_measured_row_and_an_interval_for_all_but_the_reference() -> None:
    points, name = charts.tradeoff_points(samples.on_board())
    assert name == "drop of top-1, points"
    assert [(p.row.precision, p.ci95) for p in points] == [
        ("fp32", None),
        ("fp16", (-0.03, 0.05)),
        ("int8", (0.5, 0.72)),
    ]
    assert charts.tradeoff(samples.on_board(), 500).count('class="mark ') == 3


@pytest.mark.parametrize("make", [samples.untrained, samples.failed, samples.deferred, samples.bare])
def test_without_both_coordinates_there_is_no_tradeoff(make) -> None:  # type: ignore[no-untyped-def]
    assert charts.tradeoff(make(), 500) == ""


def test_the_worst_layers_are_marked_and_what_is_not_finite_is_worst() -> None:
    layers = samples.layers()
    broken = LayerError("/broken", "Conv", "t", float("nan"))
    exact = LayerError("/exact", "Conv", "t", float("inf"))
    ranked = charts.ranked((*layers, exact, broken))
    assert ranked[0] == broken
    assert ranked[-1] == exact
    assert ranked[1] == min(layers, key=lambda x: x.sqnr_db)
    markup = charts.layer_strip((*layers, exact, broken), 1000)
    assert len(boxes(markup, "fill-worst")) == 5
    assert len(boxes(markup, "fill-layer")) == len(layers) - 3
    assert "/broken (Conv): not finite" in markup


@pytest.mark.parametrize(("count", "said"), [(1, 0), (3, 1), (8, 4), (40, 5)])
def test_of_few_layers_not_all_are_the_worst(count: int, said: int) -> None:
    layers = tuple(LayerError(f"/{i}", "Conv", "t", 20.0 + i) for i in range(count))
    markup = charts.layer_strip(layers, 1000)
    assert len(boxes(markup, "fill-worst")) == charts.marked(layers) == said


@pytest.mark.parametrize("width", [340, 504, 1056])
@pytest.mark.parametrize("name", samples.ALL)
def test_shapes_and_labels_stay_inside_the_frame(name: str, width: int) -> None:
    report: Report = samples.ALL[name]()
    for markup in (
        charts.tradeoff(report, width),
        charts.histogram(report, width),
        charts.layer_strip(report.layers, width),
    ):
        for x, y, w, h in boxes(markup, "[a-z0-9 -]+"):
            assert x >= 0
            assert x + w <= width + 0.1
            assert y >= 0
            assert h >= 0
        texts = re.findall(r'<text x="([\d.-]+)" y="[\d.-]+" text-anchor="(\w+)" class="([^"]*)">([^<]*)<', markup)
        for x, anchor, look, content in texts:
            if name == "hostile":
                continue
            wide = 6.0 * len(content) * {"start": 1, "middle": 0.5, "end": 0}[anchor]
            back = 6.0 * len(content) * {"start": 0, "middle": 0.5, "end": 1}[anchor]
            assert float(x) + wide <= width + 6, (look, content)
            assert float(x) - back >= -6, (look, content)


@pytest.mark.parametrize("width", [340, 504])
@pytest.mark.parametrize("late", [24.0, 28.0, 30.0, 32.3])
def test_the_labels_of_a_histogram_never_cover_each_other(width: int, late: float) -> None:
    row = samples.labelled().rows[1]
    assert row.latency is not None
    times = (*np.linspace(9.5, 23.6, 98), late, 33.0)
    latency = replace(row.latency, samples=tuple(map(float, times)), p50=23.6, p95=27.0, p99=late)
    markup = charts.histogram(replace(samples.labelled(), rows=(replace(row, latency=latency),)), width)
    pattern = r'<text x="([\d.]+)" y="([\d.]+)" text-anchor="(\w+)" class="label halo">(p\d\d [\d.]+)<'
    (x0, y0, anchor0, text0), (x1, y1, anchor1, text1) = re.findall(pattern, markup)
    ends = [
        (float(x) - 6.0 * len(text) * (anchor == "end"), float(x) + 6.0 * len(text) * (anchor == "start"))
        for x, anchor, text in ((x0, anchor0, text0), (x1, anchor1, text1))
    ]
    assert y0 != y1 or ends[0][1] <= ends[1][0] or ends[1][1] <= ends[0][0]


@given(st.floats(5.0, 9.9), st.floats(5.0, 9.9), st.sampled_from([340, 504]))
def test_no_line_of_a_histogram_runs_through_a_label(one: float, other: float, width: int) -> None:
    row = samples.labelled().rows[1]
    assert row.latency is not None
    p50, p99 = sorted((one, other))
    latency = replace(row.latency, samples=tuple(np.linspace(5.0, 9.9, 60)), p50=p50, p95=9.9, p99=p99, max=9.9)
    markup = charts.histogram(replace(samples.labelled(), rows=(replace(row, latency=latency),)), width)
    lines = re.findall(r'<line x1="([\d.]+)" y1="([\d.]+)" x2="[\d.]+" y2="[\d.]+" class="quantile"/>', markup)
    labels = re.findall(
        r'<text x="([\d.]+)" y="([\d.]+)" text-anchor="(\w+)" class="label halo">(p\d\d [\d.]+)<', markup
    )
    assert len(lines) == len(labels) == 2
    for x, y, anchor, text in labels:
        end = float(x) + 6.0 * len(text) * (1 if anchor == "start" else -1)
        for at, top in lines:
            assert not min(float(x), end) < float(at) < max(float(x), end) or float(top) > float(y)


@pytest.mark.parametrize("width", [340, 504])
@pytest.mark.parametrize("times", [(5.0, 12.0), (5.0, 8.0), (5.0, 5.3), (9.0, 9.1)])
def test_no_error_bar_runs_through_a_label(times: tuple[float, float], width: int) -> None:
    report = samples.labelled()
    rows = tuple(
        replace(row, latency=samples.latency(time, seed=i))
        for i, (row, time) in enumerate(zip(report.rows, times, strict=True))
    )
    markup = charts.tradeoff(replace(report, rows=rows), width)
    ((x, low, high),) = re.findall(r'<path d="M([\d.]+) ([\d.]+)V([\d.]+)M[^"]*" class="bar ', markup)
    for left, base, anchor, text in re.findall(
        r'<text x="([\d.]+)" y="([\d.]+)" text-anchor="(\w+)" class="(?:name|label) halo[^"]*">([^<]*)<', markup
    ):
        end = float(left) + 6.0 * len(text) * (1 if anchor == "start" else -1)
        across = min(float(left), end) < float(x) < max(float(left), end)
        assert not (across and float(high) < float(base) - 3 < float(low)), text


@given(st.floats(-1e9, 1e9), st.floats(0, 1e9), st.integers(2, 8))
def test_ticks_are_even_and_enclose_what_they_are_for(low: float, span: float, count: int) -> None:
    ticks = svg.ticks_of(low, low + span, count)
    step = ticks[1] - ticks[0]
    slack = 1e-6 * max(abs(low), span, 1e-6)
    assert ticks[0] <= low + slack
    assert ticks[-1] >= low + span - slack
    assert all(b - a == pytest.approx(step, rel=1e-3, abs=slack) for a, b in pairwise(ticks))


def test_a_meter_never_overflows() -> None:
    for share in (-1.0, 0.5, 7.0, float("nan"), float("inf")):
        assert re.search(r'<rect width="(0|50|100)\.0" height="8" class="look"', charts.meter(share, "look"))


@pytest.mark.parametrize(
    ("value", "said"), [(42.0, "42.0 dB"), (200.0, "exact"), (math.inf, "identical"), (-200.0, "-200.0 dB")]
)
def test_decibels_beyond_rounding_are_no_number(value: float, said: str) -> None:
    assert charts.decibels(value) == said
