"""One target in full for a terminal: every figure with its source, its power modes, and which JetPack wants what."""

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from edgehybrid.printable import plain
from edgehybrid.records import Figure, PowerMode, Target
from edgehybrid.reporter.tables import grid

DIALECTS = {"fp32": "fp32-typed Q/DQ, opset 17", "typed": "strongly typed, opset 19"}


def target_sheet(target: Target) -> RenderableType:
    """Everything a profile says; `?` marks what nobody confirmed."""
    head = Text(f"{target.name}: {target.title}\n", style="bold")
    head.append(f"{target.backend}, {DIALECTS[target.dialect]}, runs {', '.join(target.precisions)}", style="not bold")
    figures = grid("figure", "value", "source", folded=("value", "source"))
    for name, figure in target.figures.items():
        figures.add_row(*map(Text, (name, figure_text(figure) or "unknown", plain(figure.source))))
    parts: list[RenderableType] = [head, Text(), figures]
    if target.modes:
        parts += [Text("\npower modes (--target NAME@MODE)"), _modes(target)]
    if target.stacks:
        parts += [Text("\nJetPack (--target NAME@jpVERSION)"), _stacks(target)]
    return Group(*parts, *(Text(f"note: {plain(note)}") for note in target.notes))


def figure_text(figure: Figure | None, *, short: bool = False, bare: bool = False) -> str:
    """Value, unit (the first words of it, or none) and the mark of an unconfirmed one; empty where it is unknown."""
    if figure is None or figure.value is None:
        return ""
    value = f"{figure.value:g}" if isinstance(figure.value, float) else str(figure.value)
    unit = "" if bare else figure.unit.split(",")[0] if short else figure.unit
    return plain(f"{value} {unit}".strip() + ("" if figure.confirmed else " ?"))


def _modes(target: Target) -> Table:
    table = grid("mode", "id", "CPU", "GPU MHz", "memory MHz", "DLA MHz", "")
    for mode in target.modes:
        said = ["default"] if mode.default else []
        said += ["chosen"] if mode.name == target.mode else []
        said += [] if mode.confirmed else ["?"]
        clocks = [f"{value:g}" if value else "-" for value in (mode.gpu_mhz, mode.emc_mhz, mode.dla_mhz)]
        number = "-" if mode.id is None else str(mode.id)
        table.add_row(*map(Text, (plain(mode.name), number, _cpu(mode), *clocks, " ".join(said))))
    return table


def _cpu(mode: PowerMode) -> str:
    return f"{mode.cpu_cores} x {mode.cpu_mhz:g} MHz" if mode.cpu_cores and mode.cpu_mhz else "-"


def _stacks(target: Target) -> Table:
    table = grid("JetPack", "TensorRT", "CUDA", "graph", "", folded=("graph",))
    for stack in target.stacks:
        said = ["default"] if stack.default else []
        said += ["chosen"] if stack.jetpack == target.jetpack else []
        said += [] if stack.confirmed else ["?"]
        cells = (stack.jetpack, stack.tensorrt, stack.cuda, DIALECTS[stack.dialect], " ".join(said))
        table.add_row(*map(Text, cells))
    return table
