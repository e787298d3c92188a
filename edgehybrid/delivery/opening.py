"""Open a bundle again: its graphs, its report, its answers, or what was measured elsewhere."""

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from edgehybrid import reporter, store
from edgehybrid.delivery.names import ANSWERS, ANSWERS_SCHEMA, BASELINE, CONTROL, MODEL, SCALES
from edgehybrid.errors import ArtifactError, NotFoundError
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
from edgehybrid.runtime import open_runner


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
        report=reporter.from_json(json.loads(bundle.file("report.json").read_bytes())),
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
        raise NotFoundError(f"no bundle or file {path}", why="nothing is there", fix="edgehybrid build")
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
        side = next(iter(runner.inputs.values())).shape[-1]
        classes = next((info.shape[-1] for info in runner.outputs.values() if len(info.shape) == 2), 0)
    provenance = Provenance(str(path), store.sha256_of(path), trained=True)
    return ModelSpec(path.stem, Preprocess(side), classes, provenance)


def verify(folder: Path) -> Verification:
    """Check every hash of a bundle and open its networks.

    Raises:
        ArtifactError: A file is missing, damaged or was changed, or does not load.
    """
    bundle = store.open_bundle(folder)
    listing = bundle.manifest["files"]
    networks = (BASELINE, MODEL)
    for name in networks:
        with open_runner(bundle.file(name)):
            pass
    files = {name: str(entry["sha256"]) for name, entry in listing.items()} if isinstance(listing, dict) else {}
    return Verification(
        str(folder), files, networks, recipe_of(bundle).model, trained=bool(bundle.manifest.get("trained"))
    )


def read_measured(path: Path) -> tuple[Report | Measurement, Answers | None]:
    """What was measured, from a bundle, a `report.json` or what `bench --json` printed; and a bundle's answers.

    Raises:
        NotFoundError: Nothing is there.
        ArtifactError: A damaged bundle, or a file that is none of these.
    """
    if path.is_dir():
        bundle = store.open_bundle(path)
        return read_report(path), _answers(bundle)
    try:
        document = json.loads(path.read_bytes())
    except FileNotFoundError as error:
        raise NotFoundError(f"no bundle or file {path}", why="nothing is there", fix="edgehybrid build") from error
    except (OSError, ValueError, RecursionError) as error:
        again = "give a bundle, its report.json, or the output of `edgehybrid bench --json`"
        raise ArtifactError(f"{path} cannot be read", why=str(error)[:200], fix=again) from error
    if isinstance(document, dict) and document.get("schema") == reporter.MEASUREMENT_SCHEMA:
        measured = reporter.measurement_from_json(document)
        return measured, measured.answers
    return reporter.from_json(document), None


def read_report(folder: Path) -> Report:
    """The report of a bundle.

    Raises:
        ArtifactError: The bundle is damaged.
    """
    return reporter.from_json(json.loads(store.open_bundle(folder).file("report.json").read_bytes()))


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
    listing = bundle.manifest["files"]
    return set(listing) if isinstance(listing, dict) else set()


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


def _answers(bundle: store.Bundle) -> Answers | None:
    listed = bundle.manifest["files"]
    if not isinstance(listed, dict) or ANSWERS not in listed:
        return None
    try:
        stored = json.loads(bundle.file(ANSWERS).read_bytes())
        if stored.pop("schema") != ANSWERS_SCHEMA:
            raise ValueError("another schema")
        return store.decode(Answers, stored)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ArtifactError(
            f"{bundle.path / ANSWERS} is not one this version wrote", why=str(error), fix="edgehybrid build"
        ) from error
