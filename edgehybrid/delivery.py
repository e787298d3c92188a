"""What a build delivers: the files of a bundle, and how they are opened again."""

import json
from collections.abc import Mapping
from pathlib import Path

from edgehybrid import reporter, store
from edgehybrid.errors import ArtifactError, NotFoundError
from edgehybrid.records import Precision, Preprocess, Ranges, Recipe, Report, Verification
from edgehybrid.runtime import open_runner

CALIBRATION_SCHEMA = "edgehybrid.calibration/1"
BASELINE, MODEL, PLAN = "baseline.onnx", "model.onnx", "engine.plan"


def write(
    folder: Path,
    report: Report,
    recipe: Recipe,
    *,
    baseline: Path,
    deployed: Path,
    ranges: Ranges | None,
    plan: Path | None,
    versions: Mapping[str, str],
) -> None:
    """Write the bundle of a build.

    Args:
        folder: Where; checked before the build began.
        report: What was found.
        recipe: What was asked for.
        baseline: The float32 reference.
        deployed: The graph in the target's dialect.
        ranges: Of int8.
        plan: The engine, where it is the product.
        versions: Of the libraries that made it.
    """
    files: dict[str, store.Content] = {BASELINE: baseline, MODEL: deployed}
    if ranges is not None:
        files["calibration.json"] = calibration_document(ranges)
    if plan is not None:
        files[PLAN] = plan
    files["engine.json"] = store.to_json({"engine": report.engine, "target": report.target, "versions": versions})
    files["report.json"] = store.to_json(reporter.to_json(report))
    files["report.html"] = reporter.page(report).encode()
    facts = {
        "recipe": recipe,
        "trained": report.model.weights.trained,
        "weights": report.model.weights,
        "preprocess": report.model.preprocess,
        "images": {
            role: {"name": images.name, "images": images.images, "sha256": images.sha256}
            for role, images in (("calibration", report.calibration), ("evaluation", report.evaluation))
            if images is not None
        },
        "versions": dict(versions),
    }
    store.write_bundle(folder, files, facts)


def calibration_document(ranges: Ranges) -> bytes:
    """`calibration.json`: tensor name -> amax, and which images it came from."""
    return store.to_json({"schema": CALIBRATION_SCHEMA, **vars(ranges)})


def runnable_files(path: Path) -> dict[Precision, Path]:
    """What can be run of a bundle or an ONNX file: precision -> file, the float32 reference first.

    Raises:
        NotFoundError: Nothing is there.
        ArtifactError: A bundle that is damaged.
    """
    if path.is_dir():
        bundle = store.open_bundle(path)
        precision = _recipe(bundle).precision
        return {"fp32": bundle.file(BASELINE), precision: bundle.file(MODEL)}
    if not path.is_file():
        raise NotFoundError(f"no bundle or file {path}", why="nothing is there", fix="edgehybrid build")
    from edgehybrid import graph

    return {graph.precision(graph.load(path)): path}


def preprocess_of(path: Path, crop_pct: float | None) -> tuple[Preprocess, bool]:
    """How images become input of a bundle or an ONNX file, and whether its weights are trained."""
    if path.is_dir():
        manifest = store.open_bundle(path).manifest
        preprocess = store.decode(Preprocess, manifest["preprocess"])
        return preprocess, bool(manifest["trained"])
    with open_runner(path) as runner:
        side = next(iter(runner.inputs.values())).shape[-1]
    return (Preprocess(side) if crop_pct is None else Preprocess(side, crop_pct)), True


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
        str(folder), files, networks, _recipe(bundle).model, trained=bool(bundle.manifest.get("trained"))
    )


def read_report(folder: Path) -> Report:
    """The report of a bundle.

    Raises:
        ArtifactError: The bundle is damaged.
    """
    return reporter.from_json(json.loads(store.open_bundle(folder).file("report.json").read_bytes()))


def _recipe(bundle: store.Bundle) -> Recipe:
    try:
        return store.decode(Recipe, bundle.manifest["recipe"])
    except (KeyError, ValueError) as error:
        raise ArtifactError(
            f"the manifest of {bundle.path} is not one this version wrote",
            why=str(error),
            fix="edgehybrid build",
        ) from error
