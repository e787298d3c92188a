"""Open a bundle again: its graphs, its report, its answers, or what was measured elsewhere."""

import contextlib
import json
import shlex
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from edgehybrid import reporter, store
from edgehybrid.delivery.names import ANSWERS, ANSWERS_SCHEMA, BASELINE, CONTROL, MODEL, REPORT, SCALES
from edgehybrid.errors import ArtifactError, GraphError
from edgehybrid.records import (
    Answers,
    Measurement,
    ModelSpec,
    Precision,
    Preprocess,
    Provenance,
    Recipe,
    Report,
    Verification,
)
from edgehybrid.runtime import open_runner, scores_of
from edgehybrid.sizes import size_of


@dataclass(frozen=True)
class Graphs:
    """What a bundle holds to build engines from."""

    report: Report
    recipe: Recipe
    baseline: Path
    model: Path
    control: Path | None
    scales: bytes | None
    answers: Answers | None

    @property
    def precision(self) -> Precision:
        """What the bundle was built for."""
        return self.recipe.precision


def open_graphs(folder: Path) -> Graphs:
    """Open a bundle to build its engines.

    Raises:
        ArtifactError: It is damaged, or not one this version wrote.
    """
    bundle = store.open_bundle(folder)
    names = names_in(bundle)
    return Graphs(
        report=_report(bundle),
        recipe=recipe_of(bundle),
        baseline=bundle.file(BASELINE),
        model=bundle.file(MODEL),
        control=bundle.file(CONTROL) if CONTROL in names else None,
        scales=bundle.file(SCALES).read_bytes() if SCALES in names else None,
        answers=_answers(bundle),
    )


def runnable_files(path: Path) -> dict[Precision, Path]:
    """What can be run of a bundle or an ONNX file: precision -> file, the float32 reference first.

    Raises:
        NotFoundError: Nothing is there.
        ArtifactError: A bundle that is damaged.
    """
    if path.is_dir():
        bundle = store.open_bundle(path)
        precision = recipe_of(bundle).precision
        return {"fp32": bundle.file(BASELINE), precision: bundle.file(MODEL)}
    if not path.is_file():
        raise store.no_bundle(path, "bundle or file")
    from edgehybrid import graph

    return {graph.precision(graph.load(path)): path}


def spec_of(path: Path) -> ModelSpec:
    """What is known about the model of a bundle; of an ONNX file, what its shapes tell.

    Raises:
        ArtifactError: A bundle that is damaged.
    """
    if path.is_dir():
        return read_report(path).model
    with open_runner(path) as runner:
        height, width = next(iter(runner.inputs.values())).shape[-2:]
        scores = scores_of(runner.outputs)
        classes = 0 if scores is None else runner.outputs[scores].shape[-1]
    provenance = Provenance(str(path), store.sha256_of(path), trained=True)
    return ModelSpec(path.stem, Preprocess(size_of(height, width)), classes, provenance)


@contextlib.contextmanager
def loading(path: Path) -> Iterator[None]:
    """While networks are opened: one of a bundle that is none is the bundle's fault, not a bad model of the user's."""
    try:
        yield
    except GraphError as error:
        if not path.is_dir():
            raise
        raise ArtifactError(error.what, why=error.why, fix="build the bundle again with `edgehybrid build`") from error


def verify(folder: Path) -> Verification:
    """Check every hash of a bundle, read what it tells, and open its networks.

    Raises:
        ArtifactError: A file is missing, damaged or was changed, cannot be read by this version, or does not load.
    """
    bundle = store.open_bundle(folder)
    networks = (BASELINE, MODEL)
    _report(bundle)
    _answers(bundle)
    for name in networks:
        with loading(folder), open_runner(bundle.file(name)):
            pass
    model, trained = recipe_of(bundle).model, bool(bundle.manifest.get("trained"))
    return Verification(str(folder), listed(bundle.manifest), networks, model, trained=trained)


def read_measured(path: Path) -> tuple[Report | Measurement, Answers | None]:
    """What was measured, from a bundle, a `report.json` or what `bench --json` printed; and a bundle's answers.

    Raises:
        NotFoundError: Nothing is there.
        ArtifactError: A damaged bundle, or a file that is none of these.
    """
    if path.is_dir():
        bundle = store.open_bundle(path)
        return _report(bundle), _answers(bundle)
    again = "give a bundle, its report.json, or the output of `edgehybrid bench --json`"
    try:
        document = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise store.no_bundle(path, "bundle or file") from error
    except (OSError, ValueError, RecursionError) as error:
        raise ArtifactError(f"{path} cannot be read", why=str(error)[:200], fix=again) from error
    try:
        if isinstance(document, dict) and document.get("schema") == reporter.MEASUREMENT_SCHEMA:
            measured = reporter.measurement_from_json(document)
            return measured, measured.answers
        return reporter.from_json(document), None
    except ArtifactError as error:
        raise ArtifactError(f"{path} is no report or measurement", why=error.why, fix=again) from error


def read_report(folder: Path) -> Report:
    """The report of a bundle.

    Raises:
        ArtifactError: The bundle is damaged.
    """
    return _report(store.open_bundle(folder))


def moved(report: Report, folder: Path) -> Report:
    """The report with the place where its bundle lies now: it may have been copied or renamed."""
    path = report.engine.path
    try:
        words = shlex.split(report.next_command)
    except ValueError:  # nobody's command
        words = []
    here = shlex.join(str(folder) if word == report.bundle else word for word in words)
    return replace(
        report,
        bundle=str(folder),
        engine=replace(report.engine, path=None if path is None else str(folder / Path(path).name)),
        next_command=here if report.bundle in words else report.next_command,
    )


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every file of a bundle, the manifest itself last."""
    bundle = store.open_bundle(folder)
    return {**listed(bundle.manifest), store.MANIFEST: store.sha256_of(folder / store.MANIFEST)}


def listed(manifest: Mapping[str, object]) -> dict[str, str]:
    """SHA-256 of every file that a manifest lists."""
    files = manifest["files"]
    entries = files.items() if isinstance(files, dict) else ()
    return {str(name): str(entry["sha256"]) for name, entry in entries}


def names_in(bundle: store.Bundle) -> set[str]:
    """Names of the files that a manifest lists."""
    return set(listed(bundle.manifest))


def recipe_of(bundle: store.Bundle) -> Recipe:
    """What a bundle was built from.

    Raises:
        ArtifactError: Its manifest is not one that this version wrote.
    """
    try:
        return store.decode(Recipe, bundle.manifest["recipe"])
    except (KeyError, ValueError) as error:
        raise ArtifactError(
            f"the manifest of {bundle.path} is not one this version wrote",
            why=str(error),
            fix="edgehybrid build",
        ) from error


def json_of(bundle: store.Bundle, name: str) -> dict[str, object]:
    """A JSON file of a bundle. Its hash says who wrote it, not that it can be read.

    Raises:
        ArtifactError: It is not in the bundle, or is no JSON object.
    """
    try:
        found = json.loads(bundle.file(name).read_bytes())
        if not isinstance(found, dict):
            raise ValueError(f"found {type(found).__name__}, needed an object")
    except (ValueError, RecursionError) as error:
        raise unreadable(bundle, name, error) from error
    return found


def unreadable(bundle: store.Bundle, name: str, error: Exception) -> ArtifactError:
    """The error for a file whose content another version, or nobody of ours, wrote."""
    why = f"{error} is missing" if isinstance(error, KeyError) else str(error) or type(error).__name__
    return ArtifactError(f"{bundle.path / name} is not one this version wrote", why=why[:200], fix="edgehybrid build")


def _report(bundle: store.Bundle) -> Report:
    document = json_of(bundle, REPORT)
    try:
        return moved(reporter.from_json(document), bundle.path)
    except ArtifactError as error:
        raise unreadable(bundle, REPORT, ValueError(error.why)) from error


def _answers(bundle: store.Bundle) -> Answers | None:
    if ANSWERS not in names_in(bundle):
        return None
    try:
        stored = json_of(bundle, ANSWERS)
        if stored.pop("schema") != ANSWERS_SCHEMA:
            raise ValueError("another schema")
        return store.decode(Answers, stored)
    except (ValueError, KeyError) as error:
        raise unreadable(bundle, ANSWERS, error) from error
