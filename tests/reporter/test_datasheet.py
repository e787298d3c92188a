"""The HTML page is well formed, self-contained, harmless, and says everything the report holds."""

import base64
import hashlib
import re
from dataclasses import replace
from html.parser import HTMLParser

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from edgehybrid import reporter
from edgehybrid.records import Report
from tests.reporter import samples

QUICK = (Phase.explicit, Phase.reuse, Phase.generate)
"""Shrinking a whole report would take minutes."""

VOID = {"meta", "br", "link", "img", "input", "hr"}
LOADS = {"src", "href", "srcset", "data", "action", "poster", "background", "style"}


class Page(HTMLParser):
    """Collects what a browser would see; fails on a tag that is not closed in order."""

    def __init__(self, source: str) -> None:
        super().__init__(convert_charrefs=True)
        self.open: list[str] = []
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str]] = []
        self.texts: list[str] = []
        self.feed(source)
        self.close()
        assert self.open == []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += [(name, value or "") for name, value in attrs]

    def handle_endtag(self, tag: str) -> None:
        assert self.open, f"</{tag}> closes nothing"
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        if self.open and self.open[-1] != "style":
            self.texts.append(data)

    @property
    def text(self) -> str:
        """Everything readable, white space joined."""
        return " ".join(" ".join(self.texts).split())


@pytest.fixture(scope="module", params=samples.ALL)
def pair(request: pytest.FixtureRequest) -> tuple[Report, str]:
    report = samples.ALL[request.param]()
    return report, reporter.page(report)


def test_tags_are_balanced_and_nothing_is_loaded_or_run(pair: tuple[Report, str]) -> None:
    page = Page(pair[1])
    assert not {"script", "link", "img", "iframe", "object", "embed", "form", "a", "base"} & set(page.tags)
    assert not [(k, v) for k, v in page.attributes if k in LOADS or k.startswith(("on", "xlink"))]
    style = re.search(r"<style>(.*?)</style>", pair[1], re.DOTALL)
    assert style is not None
    assert not re.search(r"url\(|@import|https?:|expression", style[1])


def test_the_security_policy_allows_this_style_sheet_and_nothing_else(pair: tuple[Report, str]) -> None:
    style = re.search(r"<style>(.*?)</style>", pair[1], re.DOTALL)
    assert style is not None
    digest = base64.b64encode(hashlib.sha256(style[1].encode()).digest()).decode()
    values = [v for k, v in Page(pair[1]).attributes if k == "content"]
    assert f"default-src 'none'; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'" in values


def test_no_placeholder_of_the_language_is_shown(pair: tuple[Report, str]) -> None:
    drawn = " ".join(v for k, v in Page(pair[1]).attributes if k in ("d", "x", "y", "width", "height", "viewbox"))
    for text in (Page(pair[1]).text, drawn):
        assert not re.search(r"\b(nan|inf|None|True|False|Undefined)\b|-0\.0\b", text)


def test_every_row_and_every_reason_appears(pair: tuple[Report, str]) -> None:
    report, source = pair
    text = Page(source).text
    for row in report.rows:
        assert row.precision in text
        assert row.status in text
    plain = [d for d in report.placement if "\x1b" not in d.reason]
    for decision in plain:
        assert decision.reason in text
        assert decision.node in text
    for note in (n for n in report.notes if not n.startswith("UNTRAINED") and "\x1b" not in n):
        assert note in text


def test_the_page_is_text_that_any_file_can_hold(pair: tuple[Report, str]) -> None:
    source = pair[1]
    source.encode("utf-8")
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f\u202a-\u202e\ud800-\udfff]", source)


def test_equal_reports_give_equal_pages() -> None:
    assert reporter.page(samples.labelled()) == reporter.page(samples.labelled())
    document = reporter.to_json(samples.on_board())
    assert reporter.page(reporter.from_json(document)) == reporter.page(samples.on_board())


def test_text_from_outside_is_shown_and_not_executed() -> None:
    source = reporter.page(samples.hostile())
    assert "<script" not in source
    assert "&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;" in source
    assert "{{7*7}}" in source
    assert "hunter2" not in source
    assert "&lt;script&gt;alert(&#39;x&#39;)&lt;/script&gt;\ufffd[31m[red]\ufffd\ufffd{{7*7}}.jpg: truncated" in source


def test_the_first_sentence_answers_with_interval_and_machine() -> None:
    text = Page(reporter.page(samples.labelled())).text
    assert (
        "Is int8 worth it here? int8 costs 0.1 points of top-1 (95 %: −0.5 to +0.7, n = 1,000) and is slower than fp32 "
        "on this CPU: 0.93× as fast (median of rounds in turns; of all calls 12.3 against 11.5 ms)." in text
    )
    assert samples.CPU in text


def test_a_jetson_that_is_not_here_has_no_latency() -> None:
    source = reporter.page(samples.deferred())
    text = Page(source).text
    assert "its speed on the target, Jetson Orin Nano 8GB, has not been measured" in text
    assert "Nothing to draw: no latency was measured." in text
    row = re.search(r"<small>Jetson Orin Nano 8GB</small>.*?</tr>", source, re.DOTALL)
    assert row is not None
    assert not re.search(r">\s*≈?\s*\d+\.\d", row[0])
    assert "deferred" in row[0]


def test_untrained_weights_show_no_percentage_of_anything() -> None:
    source = reporter.page(samples.untrained())
    text = Page(source).text
    assert text.count("UNTRAINED WEIGHTS: latency is real, accuracy is not measured") == 1
    assert "Not drawn: the weights are untrained" in text
    body = text.replace("95 % intervals", "").replace("95 % [0.92, 0.94]", "").replace("Top-1, %", "")
    assert "%" not in body
    assert "98.7" not in text


def test_without_labels_the_chart_shows_changed_answers() -> None:
    source = reporter.page(samples.unlabelled())
    assert "answers changed, % of images" in source
    assert "drop of top-1, points" not in source
    assert "accuracy is not measured" in source


def test_provenance_and_commands_are_complete() -> None:
    report = samples.labelled()
    text = Page(reporter.page(report)).text
    assert report.calibration is not None
    assert report.evaluation is not None
    for part in (
        report.model.weights.sha256, report.calibration.sha256, report.evaluation.sha256, report.command,
        report.next_command, "onnxruntime 1.31.0", report.bundle, "arXiv:2107.06263",
    ):  # fmt: skip
        assert part in text


def test_a_part_that_is_absent_is_absent_and_not_empty() -> None:
    text = Page(reporter.page(samples.bare())).text
    assert "Run it" not in text
    assert "No stage was recorded." in text
    assert "No operator was considered for int8." in text
    assert "none: this target needs no engine" in text


def test_a_batch_is_named_where_latency_is_explained() -> None:
    text = Page(reporter.page(replace(samples.labelled(), batch=8))).text
    assert "one synchronous call of 8 images" in text


@settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck), phases=QUICK)
@given(st.from_type(Report))
def test_any_report_makes_a_well_formed_page(report: Report) -> None:
    source = reporter.page(report)
    source.encode("utf-8")
    assert "script" not in Page(source).tags
