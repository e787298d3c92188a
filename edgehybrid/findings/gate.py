"""The gate: whether a report holds its accuracy budget."""

from edgehybrid import proportions
from edgehybrid.errors import GateError
from edgehybrid.printable import counted
from edgehybrid.records import Drop, Recipe, Report, Search


def gate(report: Report, max_drop: float | None, recipe: Recipe, *, dla: bool = False) -> None:
    """Hold the report against an accuracy budget.

    Args:
        report: With a measured drop.
        max_drop: Points of top-1; None passes.
        recipe: What was asked for, and so what is left to try.
        dla: NVDLA takes what it can, from float32 and a table of ranges.

    Raises:
        GateError: The upper end of the drop's 95 % interval exceeds the budget: not shown to be non-inferior.
    """
    asked = next((row.precision for row in report.rows if row.precision != "fp32"), "fp32")
    asked = asked if report.search is None else "mixed"  # an engine's fp16 control is not what was asked for
    judged = [row for row in report.rows if row.precision == asked]
    drops = [row.drop for row in judged if row.drop is not None]
    if max_drop is None or (report.rows[-1].precision == "fp32" and not drops):
        return
    if not drops:
        raise GateError(
            "the accuracy budget cannot be checked",
            why="accuracy was not measured: the weights are untrained",
            fix="give trained weights with --weights FILE",
            report=report,
        )
    worst = max(drops, key=lambda d: d.ci95[1])
    if worst.ci95[1] > max_drop:
        proven = worst.ci95[0] > max_drop
        images = 0 if report.evaluation is None else report.evaluation.images
        if not proven and (what := too_few(images, max_drop)) is not None:
            least = proportions.smallest_bound(images)
            raise GateError(
                what,
                why=f"even a network that changes no answer leaves {least:.2f} points open",
                fix=f"evaluate on {proportions.images_for_bound(max_drop):,} images or more, or allow more with "
                "--max-drop",
                report=report,
            )
        if report.search is not None:
            raise _unreached(report, report.search, worst, max_drop, recipe)  # never with NVDLA
        raise GateError(
            f"the drop is {'over' if proven else 'not shown to be within'} {max_drop:g} points",
            why=f"measured {worst.points:+.2f}, 95 % interval {worst.ci95[0]:+.2f} to {worst.ci95[1]:+.2f}",
            fix=_remedies(recipe, worst, max_drop, dla=dla),
            report=report,
        )


def too_few(images: int, max_drop: float) -> str | None:
    """That so many images cannot hold a budget above 0, if so: known before anything is built."""
    if not 0 < max_drop < proportions.smallest_bound(images):
        return None
    return f"{counted(images, 'image')} cannot show a drop within {max_drop:g} points"


def _remedies(recipe: Recipe, drop: Drop, max_drop: float, *, dla: bool) -> str:
    """What could still hold the budget: images where too few may be all that is wrong, then what costs least speed."""
    found = ["more images with --eval"] if drop.points <= max_drop else []
    quantized = recipe.precision in ("int8", "mixed")
    if quantized and recipe.ranges is None and recipe.rounding == "nearest" and not dla:
        found.append("--rounding optimized, which calibrates longer and may keep more answers")
    mixable = recipe.precision == "int8" and max_drop > 0 and not dla
    if mixable:
        found.append("--precision mixed, which takes some layers back to float")
    elif quantized:
        found.append("--precision fp16")
    return "try " + ", or ".join([*found, "a larger --max-drop"])


def _unreached(report: Report, search: Search, drop: Drop, max_drop: float, recipe: Recipe) -> GateError:
    """The error for a budget that no plan of the search held."""
    return GateError(
        f"no mixture of int8 and float is shown to stay within {max_drop:g} points",
        why=f"the closest of {len(search.looks)} plans leaves {len(search.kept)} of {search.groups} groups in float: "
        f"{drop.points:+.2f}, 95 % interval {drop.ci95[0]:+.2f} to {drop.ci95[1]:+.2f}",
        fix=_remedies(recipe, drop, max_drop, dla=False),
        report=report,
    )
