"""What was found, told three ways: JSON for machines, a table for the terminal, one HTML page for people."""

import sys

from rich.console import Console

from edgehybrid.records import Report, Result
from edgehybrid.reporter.contrast import contrast_csv
from edgehybrid.reporter.datasheet import page
from edgehybrid.reporter.document import MEASUREMENT_SCHEMA, SCHEMA, from_json, measurement_from_json, to_json
from edgehybrid.reporter.listings import to_document, to_table
from edgehybrid.reporter.overview import overview_page
from edgehybrid.reporter.ranking import FORMATS as RANKING_FORMATS
from edgehybrid.reporter.ranking import to_file as ranking_file
from edgehybrid.reporter.spreadsheet import to_csv
from edgehybrid.reporter.terminal import table

__all__ = [
    "MEASUREMENT_SCHEMA",
    "RANKING_FORMATS",
    "SCHEMA",
    "contrast_csv",
    "document_of",
    "from_json",
    "measurement_from_json",
    "overview_page",
    "page",
    "print_result",
    "ranking_file",
    "table",
    "to_csv",
    "to_json",
]


def document_of(result: Result) -> dict[str, object]:
    """The JSON document of whatever a verb returned."""
    return to_json(result) if isinstance(result, Report) else to_document(result)


def print_result(result: Result) -> None:
    """Print whatever a verb returned on stdout, as wide as the terminal; plain text in a pipe, no line padded there.

    A terminal that is narrower than a table breaks its lines.
    """
    console = Console(highlight=False, soft_wrap=False, markup=False, emoji=False)  # names are no markup
    shown = table(result, console.width) if isinstance(result, Report) else to_table(result)
    if console.is_terminal:
        console.print(shown, crop=False)
        return
    with console.capture() as kept:
        console.print(shown, crop=False)
    sys.stdout.writelines(f"{line.rstrip()}\n" for line in kept.get().removesuffix("\n").split("\n"))
    sys.stdout.flush()
