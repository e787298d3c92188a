"""Write a bundle, put new engines into one, or take what a board made of one."""

import hashlib
import json
import shlex
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from edgehybrid import engine, reporter, store
from edgehybrid.delivery.names import (
    ANSWERS,
    ANSWERS_SCHEMA,
    BASELINE,
    CALIBRATION,
    CONTROL,
    CONTROL_PLAN,
    MODEL,
    OWN,
    PAGE,
    PLAN,
    REPORT,
    SCALES,
    STAMPS,
    TORCH_PLAN,
    plan_name,
)
from edgehybrid.delivery.opening import listed, moved, names_in, recipe_of
from edgehybrid.records import Answers, EngineBuild, Preprocess, Ranges, Recipe, Report, Target


def write(
    folder: Path,
    report: Report,
    recipe: Recipe,
    *,
    baseline: Path,
    deployed: Path,
    ranges: Ranges | None,
    scales: Ranges | None,
    product: EngineBuild,
    control: EngineBuild | None,
    versions: Mapping[str, str],
    answers: Answers | None = None,
) -> None:
    """Write the bundle of a build.

    Args:
        folder: Where; checked before the build began.
        report: What was found.
        recipe: What was asked for.
        baseline: The float32 reference.
        deployed: The graph in the target's dialect.
        ranges: Of int8, for the deployed graph.
        scales: Of the baseline, for NVDLA, which takes float graphs; the same where nothing was equalized.
        product: The engine, or why there is none.
        control: Likewise of its fp16 twin; None where there is nothing to compare with.
        versions: Of the libraries that made it.
        answers: Of every network to every labelled image, so that another bundle can be compared pair by pair.
    """
    files: dict[str, store.Content] = {BASELINE: baseline, MODEL: deployed}
    if ranges is not None:
        files[CALIBRATION] = _calibration_document(ranges, baseline, report.model.preprocess)
        if engine.dla_cores(report.target) and recipe.precision == "int8":  # NVDLA's table would make all of it int8
            files[SCALES] = engine.calibration_cache(scales or ranges)
    files |= _answer_files(answers)
    files |= _engine_files(product, control, recipe, report.target, versions)
    files |= _report_files(report)
    facts = {
        "recipe": recipe,
        "trained": report.model.weights.trained,
        "weights": report.model.weights,
        "preprocess": report.model.preprocess,
        "labels": report.model.labels,
        "images": {
            role: {"name": images.name, "images": images.images, "sha256": images.sha256}
            for role, images in (("calibration", report.calibration), ("evaluation", report.evaluation))
            if images is not None
        },
        "versions": dict(versions),
    }
    store.write_bundle(folder, files, facts, OWN)


def write_engines(
    folder: Path,
    report: Report,
    product: EngineBuild,
    control: EngineBuild | None,
    versions: Mapping[str, str],
    answers: Answers | None,
) -> None:
    """Put new engines and their report into a bundle; its other files stay as they are.

    Args:
        folder: The bundle.
        report: What is known now.
        product: The engine.
        control: Its fp16 twin.
        versions: Of the libraries that made them.
        answers: As in `write`.
    """
    bundle = store.open_bundle(folder)
    recipe = recipe_of(bundle)
    replaced = {PLAN, TORCH_PLAN, CONTROL, CONTROL_PLAN, ANSWERS, STAMPS, REPORT, PAGE}
    files: dict[str, store.Content] = {name: bundle.file(name) for name in sorted(names_in(bundle) - replaced)}
    files |= _engine_files(product, control, recipe, report.target, versions)
    files |= _report_files(report) | _answer_files(answers)
    store.write_bundle(folder, files, _facts(bundle.manifest), OWN)


def adopt(folder: Path, fetched: Path, manifest: bytes) -> Report:
    """Take what a board made of this bundle: fetched files where it changed any, its own where it did not.

    Args:
        folder: The bundle here.
        fetched: Files whose hash is the board's.
        manifest: Of the bundle on the board.

    Returns:
        The board's report, with this folder's paths.
    """
    said = json.loads(manifest)
    files: dict[str, store.Content] = {
        name: fetched / name if (fetched / name).is_file() else folder / name for name in listed(said)
    }
    report = reporter.from_json(json.loads(Path(str(files[REPORT])).read_bytes()))
    again = shlex.join(["edgehybrid", "bench", str(folder)])
    report = replace(moved(report, folder), next_command=again)
    files |= _report_files(report)
    store.write_bundle(folder, files, _facts(said), OWN)
    return report


def without_engines(answers: Answers | None) -> Answers | None:
    """The answers of the graphs alone: those of engines are gone with the engines."""
    if answers is None:
        return None
    return replace(answers, top1={key: given for key, given in answers.top1.items() if "/" not in key})


def _engine_files(
    product: EngineBuild, control: EngineBuild | None, recipe: Recipe, target: Target, versions: Mapping[str, str]
) -> dict[str, store.Content]:
    """Engines and what is known about them: the part of a bundle that is made again on another device."""
    digest = hashlib.sha256(store.to_json(recipe)).hexdigest()

    def facts(made: EngineBuild, path: str) -> dict[str, object]:
        mark = None if made.stamp is None else replace(made.stamp, recipe_sha256=digest)
        shown = made.engine if made.plan is None else replace(made.engine, path=path)
        return {"engine": shown, "stamp": mark, "log": list(made.log)}

    files: dict[str, store.Content] = {}
    if product.plan is not None:
        files[plan_name(product)] = product.plan
    if control is not None:
        files[CONTROL] = control.onnx
        if control.plan is not None:
            files[CONTROL_PLAN] = control.plan
    twin = None if control is None else facts(control, CONTROL_PLAN)
    document = {**facts(product, plan_name(product)), "control": twin, "target": target, "versions": dict(versions)}
    return files | {STAMPS: store.to_json(document)}


def _calibration_document(ranges: Ranges, baseline: Path, preprocess: Preprocess) -> bytes:
    """`calibration.json`: tensor name -> amax, of which network and images; without histograms, to stay small."""
    from edgehybrid import calibrator, graph

    fingerprint = graph.load(baseline).fingerprint()
    return calibrator.to_document(calibrator.Calibration(ranges, fingerprint, preprocess, (), None))


def _report_files(report: Report) -> dict[str, store.Content]:
    return {
        REPORT: store.to_json(reporter.to_json(report)),
        PAGE: reporter.page(report).encode(),
    }


def _answer_files(answers: Answers | None) -> dict[str, store.Content]:
    return {} if answers is None else {ANSWERS: store.to_json({"schema": ANSWERS_SCHEMA, **vars(answers)})}


def _facts(manifest: Mapping[str, object]) -> dict[str, object]:
    """What a manifest says besides what is written anew with every bundle."""
    return {key: value for key, value in manifest.items() if key not in ("schema", "edgehybrid", "files")}
