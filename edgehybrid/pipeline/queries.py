"""The verbs that look and tell: what there is, what this machine can do, what a file holds."""

from dataclasses import replace
from pathlib import Path

from edgehybrid.errors import GateError, UsageError
from edgehybrid.pipeline.outputs import check_file, write_beside_result
from edgehybrid.printable import counted
from edgehybrid.records import Comparison, Diagnosis, Lint, Models, Report, Summary, Targets, Verification


def models() -> Models:
    """List models, their size and source.

    Returns:
        One card per variant.
    """
    from edgehybrid import zoo

    return Models(zoo.cards())


def targets(name: str | None = None) -> Targets:
    """List boards and machines to build for.

    Args:
        name: Show this one in full, with the source of every figure; orin-nano-8gb@15w shows a power mode,
            orin-nano-8gb@jp5.1 a JetPack, auto this machine.

    Returns:
        One profile per target; an unknown figure is null, one that nobody confirmed is marked.
    """
    from edgehybrid import resources
    from edgehybrid.pipeline.options import here

    if name is not None:
        return Targets((here() if name == "auto" else resources.load_target(name),))
    return Targets(tuple(resources.load_target(each) for each in resources.targets()))


def doctor() -> Diagnosis:
    """Say what works here and how to fix the rest.

    Returns:
        One line per check, each with its fix.
    """
    from edgehybrid import device

    found = device.checks()
    return Diagnosis(found, *device.abilities(found))


def report(bundles: list[Path], *, output: Path | None = None) -> Report | Summary:
    """Show the report of one bundle, or several side by side.

    Args:
        bundles: Bundle folders; latencies stay with the machine they were measured on.
        output: Also write it to this file: a page (.html), the document (.json) or one line per row (.csv).

    Returns:
        The report as it was measured when the bundle was built; of several bundles, all of them.
    """
    from edgehybrid import delivery, reporter, store

    paths = [bundles] if isinstance(bundles, Path) else bundles  # from Python a single one may stand alone
    if not paths:
        raise UsageError("no bundle was given", why="there is nothing to report", fix="edgehybrid report BUNDLE")
    check_file(output, paths)
    found = tuple(delivery.read_report(bundle) for bundle in paths)
    result = found[0] if len(found) == 1 else Summary(found)
    if output is not None:
        if output.suffix == ".csv":
            text = reporter.to_csv(found)
        elif output.suffix == ".json":
            text = store.to_json(reporter.document_of(result)).decode()
        elif output.suffix in (".html", ".htm"):
            text = reporter.page(found[0]) if len(found) == 1 else reporter.overview_page(found)
        else:
            raise _unknown_format(output, ".html, .json or .csv")
        write_beside_result(output, text.encode())
    return result


def compare(a: Path, b: Path, *, output: Path | None = None, strict: bool = False) -> Comparison:
    """Say what differs between two measurements.

    Latencies of one machine, power mode, number of threads, batch and way of calling are compared, others are not;
    accuracy is paired where both hold their answers to the same images.

    Args:
        a: A bundle, its report.json, or what bench --json or evaluate --json printed: the one before.
        b: Another: the one after.
        output: Also write it to this file: the document (.json) or one line per quantity (.csv).
        strict: Exit with code 6 if b is slower or less accurate for certain.

    Returns:
        Per pair of rows the change with its 95 % interval and a verdict; and in which settings the two differ.

    Raises:
        GateError: With `strict`, where b is worse; it holds the result.
    """
    from edgehybrid import comparison, delivery, reporter, store

    check_file(output, (a, b))
    sides = [comparison.side_of(str(path), *delivery.read_measured(path)) for path in (a, b)]
    found = comparison.compare(sides[0], sides[1])
    if output is not None:
        if output.suffix not in (".csv", ".json"):
            raise _unknown_format(output, ".json or .csv")
        document = store.to_json(reporter.document_of(found))
        write_beside_result(output, reporter.contrast_csv(found).encode() if output.suffix == ".csv" else document)
    changes = [(c.b, change) for c in found.contrasts for change in (c.latency, c.accuracy) if change is not None]
    worse = [f"{row} is {change.verdict}" for row, change in changes if change.verdict in ("slower", "worse")]
    if strict and worse:
        raise GateError(
            f"{b} is worse than {a}",
            why="; ".join(worse),
            fix="see the table: a difference counts only if its whole 95 % interval lies on one side",
            report=found,
        )
    return found


def _unknown_format(output: Path, known: str) -> UsageError:
    return UsageError(
        f"--output {output}: no such format",
        why=f"found {output.suffix or 'no suffix'}, needed {known}",
        fix="rename it",
    )


def verify(bundle: Path) -> Verification:
    """Check the hashes of a bundle.

    Its networks are opened as well, and its engines where they were built for this machine.

    Args:
        bundle: A bundle folder.

    Returns:
        What was checked.

    Raises:
        ArtifactError: A file is missing, damaged or was changed.
    """
    from edgehybrid import delivery, device

    found = delivery.verify(bundle)
    return replace(found, loads=(*found.loads, *delivery.verify_engines(bundle, device.state().name)))


def lint(model: Path, *, strict: bool = False) -> Lint:
    """Say what TensorRT refuses or runs slowly.

    The file may come from any tool; it is read, not built.

    Args:
        model: An ONNX file with QuantizeLinear and DequantizeLinear.
        strict: Exit with code 6 if there is an error; warnings alone never fail.

    Returns:
        Errors (refused, or computed differently) and warnings (slow or inaccurate), each with node and fix.

    Raises:
        GateError: With `strict`, where there is an error; it holds the result.
    """
    from edgehybrid import stages

    stages.require("onnx_ir", "onnx", "handle ONNX graphs")
    from edgehybrid import linter

    found = linter.lint(model)
    errors = [issue for issue in found.issues if issue.severity == "error"]
    if strict and errors:
        rules, places = counted(len({issue.rule for issue in errors}), "rule"), counted(len(errors), "place")
        raise GateError(
            f"{model} breaks {rules} of TensorRT at {places}",
            why=f"{errors[0].rule} at '{errors[0].node}': {errors[0].found}",
            fix=errors[0].fix,
            report=found,
        )
    return found
