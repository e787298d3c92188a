"""The report as a table for a terminal, legible at 80 columns and in a pipe."""

import re
import shlex
import textwrap
from collections.abc import Sequence

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from edgehybrid.printable import counted, plain
from edgehybrid.records import Report, Row
from edgehybrid.reporter import explanation, wording
from edgehybrid.reporter.document import publishable
from edgehybrid.reporter.tables import WholeTable
from edgehybrid.sizes import sides

ROOMY = 104
"""Columns from which a number and its interval fit on one line."""
_UNITS = re.compile(r"(?<=\d) (?=(s|ms|%|MB|GiB|points|images|min)\b)|(?<=\bn) (?==)|(?<=[=~]) (?=\d)")
"""Spaces that belong to a number: no line may end there."""
NARROW = 76
"""Columns below which sizes are left out."""
STATUS_STYLES = {"measured": "green", "estimated": "yellow", "deferred": "dim", "failed": "bold red"}


def table(report: Report, width: int = 80) -> RenderableType:
    """The report for a terminal.

    Args:
        report: What was found.
        width: Columns to fill, 30 at least; the table of numbers may need more, so print it with `crop=False`.

    Returns:
        A rich renderable: head, one row per precision and backend, remarks, and the next command as the last line.
        Text from outside is stripped of control characters, and never read as markup.
    """
    report = publishable(report)
    width = max(width, 30)
    parts: list[RenderableType] = [_title(report)]
    parts += [Text(f" {stamp} ", style="bold white on red") for stamp in wording.stamps(report)]
    parts += [_pairs(_head(report), width), Text(), _rows(report, width), *_legend(report), Text()]
    parts += [_paragraph(wording.headline(report), width, "bold")]
    parts += [_paragraph(sentence, width, "", bullet="- ") for sentence in _sentences(report)]
    parts += [Text(), _pairs(_foot(report), width)]
    if report.next_command:
        parts.append(Text("\n".join(_command(report.next_command, width))))
    return Group(*parts)


def _title(report: Report) -> Text:
    height, width = sides(report.model.preprocess.size)
    facts = f"{height}x{width} px, batch {report.batch}, {wording.scaled(report.params)} parameters"
    title = Text(plain(report.model.name), style="bold")
    return title.append(f"  {facts}, {wording.scaled(report.macs)} MACs", style="not bold dim")


def _head(report: Report) -> list[tuple[str, str]]:
    """What the numbers belong to."""
    weights, device = report.model.weights, report.device
    threads = (
        f"{device.threads} of {counted(device.cores, 'thread')}" if device.threads else counted(device.cores, "core")
    )
    here = all(row.backend.startswith("onnxruntime") or row.status != "measured" for row in report.rows)
    head = [
        ("weights", f"{weights.source} ({wording.training(weights) if weights.trained else 'UNTRAINED'})"),
        ("target", f"{report.target.name}: {report.target.title}"),
        ("this CPU" if here else "this machine", f"{device.name}, {threads}"),
    ]
    if report.calibration is not None:
        method = f", {report.method}" if report.method else ""
        many = counted(report.calibration.images, "image")
        head.append(("calibration", f"{report.calibration.name}, {many}{method}"))
    images = report.evaluation
    if images is None:
        return [*head, ("evaluation", "none")]
    many = counted(images.images, "labelled image" if images.labelled else "unlabelled image")
    return [*head, ("evaluation", f"{images.name}, {many}")]


def _rows(report: Report, width: int) -> Table:
    """One line per row where there is room, two where there is not."""
    roomy, scored = width >= ROOMY, any(row.accuracy is not None for row in report.rows)
    trained = report.model.weights.trained
    glue = " " if roomy else "\n"
    grid = WholeTable(box=None, padding=(0, 2 if roomy else 1, 0, 0), pad_edge=False, header_style="dim")
    grid.add_column(f"precision{glue}backend")
    if scored:
        grid.add_column(f"top-1 %{glue}(95 % CI)", justify="right")
        grid.add_column(f"drop{glue}(paired CI)", justify="right")
    else:
        grid.add_column("accuracy")
    grid.add_column("agree" if trained else f"logit{glue}SQNR", justify="right")
    grid.add_column("p50 / p99 ms" if roomy else "p50 ms\np99 ms", justify="right")
    if width >= NARROW:
        grid.add_column("size", justify="right")
    grid.add_column("status")
    for i, column in enumerate(grid.columns):
        column.no_wrap, column.overflow = i > 0, "fold"  # a name may break, a number may not
    for row in report.rows:
        cells = [*(_accuracy(row, glue) if scored else ["not measured"]), _fidelity(row, trained)]
        name = glue.join((row.precision, plain(row.backend)))
        size = ["-" if row.bytes is None else wording.size(row.bytes)] if width >= NARROW else []
        status = Text(row.status, style=STATUS_STYLES[row.status])
        grid.add_row(Text(name), *map(Text, [*cells, _latency(row, roomy), *size]), status)
    return grid


def _accuracy(row: Row, glue: str) -> list[str]:
    top1 = "-" if row.accuracy is None else glue.join(wording.top1_text(row.accuracy))
    images = 0 if row.accuracy is None else row.accuracy.n
    drop = "-" if row.drop is None else glue.join(wording.drop_text(row.drop, images))
    return [top1, drop]


def _fidelity(row: Row, trained: bool) -> str:
    """Agreement in percent would look like an accuracy where the weights are untrained; decibels do not."""
    if row.fidelity is None:
        return "-"
    agreement, sqnr = row.fidelity.agreement, row.fidelity.sqnr_db
    return f"{wording.fixed(agreement, 1)}%" if trained and agreement is not None else f"{wording.fixed(sqnr, 1)} dB"


def _latency(row: Row, roomy: bool) -> str:
    if row.latency is None:
        return "-"
    mark = "~" if row.status == "estimated" else ""
    return (" / " if roomy else "\n").join(f"{mark}{text}" for text in wording.latency_text(row.latency))


def _legend(report: Report) -> list[RenderableType]:
    """What the columns mean, where a word in the head is too short to say it."""
    lines = []
    if any(row.drop is not None for row in report.rows):
        lines.append("drop: points of top-1 lost against fp32 on the same images; positive is worse")
    if any(row.status == "estimated" for row in report.rows):
        lines.append("~ estimated, not measured")
    return [Text(line, style="dim") for line in lines]


def _sentences(report: Report) -> list[str]:
    """Remarks, and the reason of every row that needs one."""
    reasons: dict[str, list[str]] = {}
    found = wording.compare(report)
    said = None if found is None else found.failure
    for row in report.rows:
        if row.reason and row.reason != said:
            name = f"{row.precision} on {wording.backend(row.backend)}"
            label = name if row.status == "measured" else f"{name} {row.status}"
            reasons.setdefault(row.reason, []).append(label)
    remarks = (*explanation.remarks(report), *wording.remarks(report))
    return [*remarks, *(f"{' and '.join(who)}: {why}" for why, who in reasons.items())]


def _foot(report: Report) -> list[tuple[str, str]]:
    foot = [("engine", wording.engine_sentence(report))]
    if floor := wording.floor_sentence(report):
        foot.append(("floor", floor))
    if report.stages:
        foot.append(("time", wording.time_sentence(report)))
    return [*foot, ("report", f"{report.bundle}/report.html")]


def _pairs(pairs: Sequence[tuple[str, str]], width: int) -> Text:
    """Names in one column, wrapped text in the other."""
    margin = max(len(name) for name, _ in pairs) + 2
    lines = Text()
    for name, value in pairs:
        wrapped = _wrapped(value, width - margin)
        lines.append(name.ljust(margin), style="dim").append(f"\n{' ' * margin}".join(wrapped)).append("\n")
    lines.right_crop(1)
    return lines


def _paragraph(sentence: str, width: int, style: str, *, bullet: str = "") -> Text:
    wrapped = _wrapped(sentence, width - len(bullet))
    return Text(bullet + f"\n{' ' * len(bullet)}".join(wrapped), style=style)


def _wrapped(text: str, width: int) -> list[str]:
    """Lines broken between words; only a word longer than a whole line is cut."""
    glued = _UNITS.sub("\u00a0", plain(text))
    lines = textwrap.wrap(glued, width, break_on_hyphens=False) or [""]
    return [line.replace("\u00a0", " ") for line in lines]


def _command(command: str, width: int) -> list[str]:
    """A shell command on one line, or broken with backslashes so that it can be pasted as it stands."""
    command = plain(command)
    if len(command) + 7 <= width:
        return [f"next:  {command}"]
    chunks: list[str] = []
    for chunk in re.split(r" (?=--|&& )", command):
        if chunks and not _is_whole(chunks[-1]):
            chunks[-1] += f" {chunk}"
        else:
            chunks.append(chunk)
    lines, line = ["next:"], chunks[0]
    for chunk in chunks[1:]:
        if len(line) + len(chunk) + 5 > width:
            lines.append(f"  {line} \\")
            line = f"  {chunk}"
        else:
            line = f"{line} {chunk}"
    return [*lines, f"  {line}"]


def _is_whole(words: str) -> bool:
    """Whether no quotation is still open at the end."""
    try:
        return bool(shlex.split(words))
    except ValueError:
        return False
