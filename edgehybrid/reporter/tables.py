"""Tables for a terminal: where it is too narrow for one, the terminal breaks its lines, and no number is cut."""

from collections.abc import Collection

from rich import box
from rich.console import Console, ConsoleOptions, RenderResult
from rich.measure import Measurement
from rich.table import Column, Table

FOLDED = 14
"""Characters to which a column that may break is narrowed at most: every number and most words fit."""


class WholeTable(Table):
    """A table that takes the width it needs: columns with `no_wrap` are never narrower than what is in them."""

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        """Lines that are as wide as `options` say, or wider: print them with `crop=False`."""
        room = options.update(max_width=10_000)
        spare = sum(max(_width(column, console, room) - FOLDED, 0) for column in self.columns if not column.no_wrap)
        least = Measurement.get(console, room, self).maximum - spare
        yield from super().__rich_console__(console, options.update(max_width=max(options.max_width, least)))


def grid(*columns: str, folded: Collection[str] = ()) -> Table:
    """A table with a line below its head; only columns that are named as `folded` may break what is in them."""
    table = WholeTable(box=box.SIMPLE_HEAD, show_edge=False, pad_edge=False)
    for column in columns:
        table.add_column(column, overflow="fold", no_wrap=column not in folded)
    return table


def _width(column: Column, console: Console, room: ConsoleOptions) -> int:
    """Of its widest line."""
    return max(Measurement.get(console, room, cell).maximum for cell in (column.header, *column.cells))
