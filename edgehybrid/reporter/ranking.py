"""Which layers cost accuracy, as a table, a CSV file or a JSON file."""

import csv
import io
import json
from dataclasses import asdict

from rich import box
from rich.console import Group, RenderableType
from rich.text import Text

from edgehybrid.printable import counted, plain
from edgehybrid.records import GroupLoss, Sensitivity
from edgehybrid.reporter.tables import WholeTable

SCHEMA = "edgehybrid.sensitivity/1"
FORMATS = (".csv", ".json")
SHOWN = 15
"""Groups in the table of a terminal; files have all."""
_HOW = {
    "fisher": "Fisher information, one forward and backward pass",
    "designs": "runs with one group in int8",
}


def to_file(result: Sensitivity, suffix: str) -> bytes:
    """The content of a `.csv` or `.json` file, every group in it."""
    if suffix == ".json":
        document = {"schema": SCHEMA, **asdict(result)}
        return (json.dumps(document, indent=1, ensure_ascii=False) + "\n").encode()
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(["rank", "group", "kind", "nats", "percent", "checked_nats", "macs", "nodes"])
    for rank, loss in enumerate(result.groups, 1):
        checked = "" if loss.checked is None else repr(loss.checked)
        group, numbers = loss.group, (repr(loss.nats), repr(round(loss.share, 3)), checked)
        rows.writerow([rank, group.name, group.kind, *numbers, group.macs, " ".join(group.nodes)])
    return text.getvalue().encode()


def to_table(result: Sensitivity) -> RenderableType:
    """What a terminal shows: the costliest groups, how they were found, and what the check says."""
    state = "" if result.trained else ", UNTRAINED WEIGHTS"
    head = f"{plain(result.model)}{state}: {counted(len(result.groups), 'group')} of int8 layers, the costliest first"
    table = WholeTable(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    table.add_column("", justify="right", no_wrap=True)
    table.add_column("group", overflow="fold")
    table.add_column("layers", justify="right", no_wrap=True)
    table.add_column("cost", justify="right", no_wrap=True)
    if result.check is not None:
        table.add_column("measured", justify="right", no_wrap=True)
    macs = sum(loss.group.macs for loss in result.groups)
    table.add_column("of the MACs", justify="right", no_wrap=True)
    whole = sum(loss.checked or 0.0 for loss in result.groups)
    for rank, loss in enumerate(result.groups[:SHOWN], 1):
        cells = [str(rank), plain(loss.group.name), str(len(loss.group.nodes)), f"{loss.share:.1f} %"]
        if result.check is not None:
            cells.append(_share(loss, whole))
        table.add_row(*cells, f"{100 * loss.group.macs / max(macs, 1):.1f} %")
    left = len(result.groups) - SHOWN
    more = [Text(f"and {left} more: --json, or --output FILE.csv")] if left > 0 else []
    return Group(Text(head), table, *more, Text(), *(Text(line) for line in _lines(result)))


def _share(loss: GroupLoss, whole: float) -> str:
    return "-" if loss.checked is None or not whole else f"{100 * loss.checked / whole:.1f} %"


def _lines(result: Sensitivity) -> list[str]:
    total = sum(loss.nats for loss in result.groups)
    lines = [
        f"cost: share of the {total:.2g} nats by which all groups together move the softmax from float32's",
        f"found by {_HOW[result.how]}: {result.forwards:.1f} forward passes per image on "
        f"{counted(result.images, 'image')}",
    ]
    check = result.check
    if check is not None:
        others = "other images" if check.disjoint else "images that the ranking saw as well"
        lines.append(
            f"checked against leave-one-out: Spearman {check.spearman:.2f} over {len(result.groups)} groups, "
            f"{check.forwards:.0f} forward passes per image on {check.images} {others}"
        )
    return [*lines, *(f"note: {note}" for note in result.notes)]
