"""A comparison of two measurements as a table for the terminal, and as CSV."""

import csv
import io

from rich.console import Group, RenderableType
from rich.text import Text

from edgehybrid.printable import plain
from edgehybrid.records import AccuracyChange, Comparison, Contrast, LatencyChange
from edgehybrid.reporter import wording
from edgehybrid.reporter.tables import grid

COLOURS = {"slower": "red", "worse": "red", "faster": "green", "better": "green"}


def contrast_table(result: Comparison) -> RenderableType:
    """One line per quantity of every pair of rows, then what else differs, then what to keep in mind."""
    folded = ("rows", "change (95 %)", "verdict")
    table = grid("rows", "", "a", "b", "change (95 %)", "verdict", folded=folded)
    for contrast in result.contrasts:
        if contrast.latency is not None:
            table.add_row(Text(_rows(contrast)), "p50 ms", *_latency(contrast.latency))
        if contrast.latency is not None and contrast.latency.relative is not None:
            told = _times(contrast.latency.relative, contrast.latency.relative_ci95)
            table.add_row("", f"to {contrast.latency.relative_to}", "", "", Text(told), "")
        if contrast.accuracy is not None:
            table.add_row(Text(_rows(contrast)), "top-1 %", *_accuracy(contrast.accuracy))
    parts: list[RenderableType] = [Text(f"a  {plain(result.a)}\nb  {plain(result.b)}\n"), table]
    reasons = {
        change.reason: None
        for contrast in result.contrasts
        for change in (contrast.latency, contrast.accuracy)
        if change is not None and change.reason
    }
    differ = [f"{name}: {mine} / {theirs}" for name, (mine, theirs) in result.differences.items()]
    parts += [Text(plain(f"differs: {line}")) for line in differ]
    parts += [Text(plain(f"note: {line}")) for line in (*reasons, *result.notes)]
    return Group(*parts)


def contrast_csv(result: Comparison) -> str:
    """One line per quantity of every pair of rows (RFC 4180)."""
    out = io.StringIO()
    writer = csv.writer(out)
    writer.writerow(
        [
            "a",
            "b",
            "row_a",
            "row_b",
            "quantity",
            "value_a",
            "value_b",
            "change",
            "low",
            "high",
            "paired",
            "p",
            "verdict",
            "reason",
        ]
    )
    for contrast in result.contrasts:
        head = (result.a, result.b, contrast.a, contrast.b)
        if (time := contrast.latency) is not None:
            ends = time.ci95 or ("", "")
            writer.writerow(
                (
                    *head,
                    "p50_ms_ratio",
                    time.a,
                    time.b,
                    _blank(time.ratio),
                    *ends,
                    False,
                    "",
                    time.verdict,
                    _blank(time.reason),
                )
            )
        if (score := contrast.accuracy) is not None:
            ends = score.ci95 or ("", "")
            tail = (score.paired, _blank(score.mcnemar_p), score.verdict, _blank(score.reason))
            writer.writerow((*head, "top1_points_lost", score.a, score.b, _blank(score.points), *ends, *tail))
    return out.getvalue()


def _blank(value: float | str | None) -> float | str:
    return "" if value is None else value


def _rows(contrast: Contrast) -> str:
    names = contrast.a if contrast.a == contrast.b else f"{contrast.a} to {contrast.b}"
    return plain(names)


def _latency(change: LatencyChange) -> tuple[str, str, Text, Text]:
    told = _times(change.ratio, change.ci95)
    return wording.millis(change.a), wording.millis(change.b), Text(told), _styled(change.verdict)


def _times(ratio: float | None, bounds: tuple[float, float] | None) -> str:
    ends = "" if bounds is None else f" [{bounds[0]:.2f}, {bounds[1]:.2f}]"
    return "-" if ratio is None else f"{ratio:.2f}x as long{ends}"


def _accuracy(change: AccuracyChange) -> tuple[str, str, Text, Text]:
    told = "-"
    if change.points is not None and change.ci95 is not None:
        kind = "paired" if change.paired else "unpaired"
        told = f"{change.points:+.2f} lost [{change.ci95[0]:+.2f}, {change.ci95[1]:+.2f}] {kind}"
    return f"{change.a:.2f}", f"{change.b:.2f}", Text(told), _styled(change.verdict)


def _styled(verdict: str) -> Text:
    return Text(verdict, style=COLOURS.get(verdict, ""))
