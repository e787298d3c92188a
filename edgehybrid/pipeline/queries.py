"""The verbs that look and tell: what there is, what this machine can do, what a file holds."""

from pathlib import Path

from edgehybrid.errors import GateError
from edgehybrid.records import Diagnosis, Lint, Models, Report, Targets, Verification


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

    return Diagnosis(device.checks())


def report(bundle: Path, *, output: Path | None = None) -> Report:
    """Show the report of a bundle again.

    Args:
        bundle: A bundle folder.
        output: Also write the page to this file.

    Returns:
        The report as it was measured when the bundle was built.
    """
    from edgehybrid import delivery, reporter, store

    found = delivery.read_report(bundle)
    if output is not None:
        store.write_atomic(output, reporter.page(found).encode())
    return found


def verify(bundle: Path) -> Verification:
    """Check the hashes of a bundle.

    Its networks are opened as well.

    Args:
        bundle: A bundle folder.

    Returns:
        What was checked.

    Raises:
        ArtifactError: A file is missing, damaged or was changed.
    """
    from edgehybrid import delivery

    return delivery.verify(bundle)


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

    stages.require("onnx_ir", "host", "handle ONNX graphs")
    from edgehybrid import linter

    found = linter.lint(model)
    errors = [issue for issue in found.issues if issue.severity == "error"]
    if strict and errors:
        raise GateError(
            f"{model} breaks {len({issue.rule for issue in errors})} rules of TensorRT at {len(errors)} places",
            why=f"{errors[0].rule} at '{errors[0].node}': {errors[0].found}",
            fix=errors[0].fix,
            report=found,
        )
    return found
