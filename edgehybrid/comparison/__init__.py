"""Compare two measurements made apart: what differs for certain, what may be chance, and what must not be compared.

side.py      one of the two, and what its numbers depend on
latency.py   intervals of two runs, judged against what both were timed beside
accuracy.py  answers paired image by image
"""

from collections.abc import Iterator

from edgehybrid import benchmark
from edgehybrid.comparison.accuracy import accuracy_change, unpaired_interval
from edgehybrid.comparison.latency import MARGIN, latency_change, latency_ratio
from edgehybrid.comparison.side import Side, disturbances, side_of
from edgehybrid.records import Comparison, Contrast, Row

__all__ = ["MARGIN", "Side", "compare", "latency_ratio", "side_of", "unpaired_interval"]


def compare(a: Side, b: Side) -> Comparison:
    """Every pair of rows that belong together: the same precision and backend, and what each was built for.

    Args:
        a: The one that counts as before.
        b: The one that counts as after.

    Returns:
        Differences with 95 % intervals and a verdict each; `not compared`, with the reason, where a number of one
        machine, power mode or image set would stand beside one of another.
    """
    pairs = list(_pairs(a.rows, b.rows))
    contrasts = tuple(
        Contrast(_name(x), _name(y), latency_change(a, b, x, y), accuracy_change(a, b, x, y)) for x, y in pairs
    )
    mine, theirs = a.settings or {}, b.settings or {}
    differ = {key: (mine.get(key, "?"), theirs.get(key, "?")) for key in {**mine, **theirs}}
    return Comparison(
        a=a.path,
        b=b.path,
        contrasts=contrasts,
        differences={key: found for key, found in differ.items() if found[0] != found[1]},
        notes=_notes(a, b, contrasts),
    )


def _pairs(a: tuple[Row, ...], b: tuple[Row, ...]) -> Iterator[tuple[Row, Row]]:
    """Rows of one name; then what each side was built for, where that differs."""
    there = {_name(row): row for row in b}
    for row in a:
        if _name(row) in there:
            yield row, there[_name(row)]
    built = [[row for row in rows if row.precision != "fp32"][:1] for rows in (a, b)]
    if built[0] and built[1] and _name(built[0][0]) != _name(built[1][0]):
        yield built[0][0], built[1][0]


def _name(row: Row) -> str:
    return f"{row.precision}/{row.backend}"


def _notes(a: Side, b: Side, contrasts: tuple[Contrast, ...]) -> tuple[str, ...]:
    """What a reader must know before believing a difference."""
    notes = []
    if any(c.latency is not None and c.latency.ratio is not None for c in contrasts):
        notes.append(
            "the two were timed apart: the interval knows what varied within each run, not what changed between them; "
            "`edgehybrid bench` of one bundle times its graphs side by side"
        )
    for side in (a, b):
        notes += [f"{side.path}: {why}" for why in disturbances(side)]
        steady = [benchmark.unsteady_note(row.latency) for row in side.rows if row.latency is not None]
        if any(note is not None for note in steady):
            notes.append(f"{side.path}: samples scatter by more than {benchmark.UNSTEADY} % of their mean")
    clocks = (a.device.clocks_mhz, b.device.clocks_mhz)
    for name in ("cpu_max", "gpu_max", "emc"):
        mine, theirs = clocks[0].get(name), clocks[1].get(name)
        if mine and theirs and abs(mine / theirs - 1) > 0.02:
            notes.append(f"clocks differ: {name} {mine:g} and {theirs:g} MHz")
    if not contrasts:
        notes.append("nothing to compare: no row of the two has the same precision and backend")
    return tuple(dict.fromkeys(notes))
