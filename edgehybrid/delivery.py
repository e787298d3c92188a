"""What a build delivers: the files of a bundle, and how they are opened again."""

import hashlib
import json
import shlex
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

from edgehybrid import engine, reporter, store
from edgehybrid.errors import ArtifactError, NotFoundError
from edgehybrid.records import (
    Answers,
    EngineStamp,
    Measurement,
    ModelSpec,
    Precision,
    Preprocess,
    Product,
    Provenance,
    Ranges,
    Recipe,
    Report,
    Runnable,
    Target,
    Verification,
)
from edgehybrid.runtime import open_runner

ANSWERS_SCHEMA = "edgehybrid.answers/1"
BASELINE, MODEL, PLAN = "baseline.onnx", "model.onnx", "engine.plan"
TORCH_PLAN = "engine.pt2"
"""What Torch-TensorRT compiles: a program of torch, not a plan."""
CONTROL, CONTROL_PLAN = "control.onnx", "control.plan"
"""The same network in fp16, beside int8 for a TensorRT target: what int8 must be faster than."""
SCALES = "calibration.cache"
"""NVDLA's int8 scales, where the target has a DLA."""
ANSWERS = "answers.json"


def write(
    folder: Path,
    report: Report,
    recipe: Recipe,
    *,
    baseline: Path,
    deployed: Path,
    ranges: Ranges | None,
    scales: Ranges | None,
    product: Product,
    control: Product | None,
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
        files["calibration.json"] = _calibration_document(ranges, baseline, report.model.preprocess)
        if engine.dla_cores(report.target) and recipe.precision == "int8":  # NVDLA's table would make all of it int8
            files[SCALES] = engine.calibration_cache(scales or ranges)
    files |= _answer_files(answers)
    files |= engine_files(product, control, recipe, report.target, versions)
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
    store.write_bundle(folder, files, facts)


def engine_files(
    product: Product, control: Product | None, recipe: Recipe, target: Target, versions: Mapping[str, str]
) -> dict[str, store.Content]:
    """Engines and what is known about them: the part of a bundle that is made again on another device."""
    digest = hashlib.sha256(store.to_json(recipe)).hexdigest()

    def facts(made: Product, path: str) -> dict[str, object]:
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
    return files | {"engine.json": store.to_json(document)}


def _calibration_document(ranges: Ranges, baseline: Path, preprocess: Preprocess) -> bytes:
    """`calibration.json`: tensor name -> amax, of which network and images; without histograms, to stay small."""
    from edgehybrid import calibrator, graph

    fingerprint = graph.load(baseline).fingerprint()
    return calibrator.to_document(calibrator.Calibration(ranges, fingerprint, preprocess, (), None))


def plan_name(product: Product) -> str:
    """What a bundle calls the engine of a product."""
    return TORCH_PLAN if product.engine.flavor == "torch-tensorrt" else PLAN


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
    names = _names(bundle)
    return Graphs(
        report=reporter.from_json(json.loads(bundle.file("report.json").read_bytes())),
        recipe=_recipe(bundle),
        baseline=bundle.file(BASELINE),
        model=bundle.file(MODEL),
        control=bundle.file(CONTROL) if CONTROL in names else None,
        scales=bundle.file(SCALES).read_bytes() if SCALES in names else None,
        answers=_answers(bundle),
    )


def write_engines(
    folder: Path,
    report: Report,
    product: Product,
    control: Product | None,
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
    recipe = _recipe(bundle)
    replaced = {PLAN, TORCH_PLAN, CONTROL, CONTROL_PLAN, ANSWERS, "engine.json", "report.json", "report.html"}
    files: dict[str, store.Content] = {name: bundle.file(name) for name in sorted(_names(bundle) - replaced)}
    files |= engine_files(product, control, recipe, report.target, versions)
    files |= _report_files(report) | _answer_files(answers)
    own = ("schema", "edgehybrid", "files")
    store.write_bundle(folder, files, {k: v for k, v in bundle.manifest.items() if k not in own})


def digests(folder: Path) -> dict[str, str]:
    """SHA-256 of every file of a bundle, the manifest itself last."""
    bundle = store.open_bundle(folder)
    return {**listed(bundle.manifest), store.MANIFEST: store.sha256_of(folder / store.MANIFEST)}


def listed(manifest: Mapping[str, object]) -> dict[str, str]:
    """SHA-256 of every file that a manifest lists."""
    files = manifest["files"]
    entries = files.items() if isinstance(files, dict) else ()
    return {str(name): str(entry["sha256"]) for name, entry in entries}


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
    report = reporter.from_json(json.loads(Path(str(files["report.json"])).read_bytes()))
    made = replace(report.engine, path=None if report.engine.path is None else str(folder / PLAN))
    again = shlex.join(["edgehybrid", "bench", str(folder)])
    report = replace(report, bundle=str(folder), engine=made, next_command=again)
    files |= _report_files(report)
    store.write_bundle(folder, files, {k: v for k, v in said.items() if k not in ("schema", "edgehybrid", "files")})
    return report


def _report_files(report: Report) -> dict[str, store.Content]:
    return {
        "report.json": store.to_json(reporter.to_json(report)),
        "report.html": reporter.page(report).encode(),
    }


def _answer_files(answers: Answers | None) -> dict[str, store.Content]:
    return {} if answers is None else {ANSWERS: store.to_json({"schema": ANSWERS_SCHEMA, **vars(answers)})}


def without_engines(answers: Answers | None) -> Answers | None:
    """The answers of the graphs alone: those of engines are gone with the engines."""
    if answers is None:
        return None
    return replace(answers, top1={key: given for key, given in answers.top1.items() if "/" not in key})


def has_engine(path: Path) -> bool:
    """Whether a path is an engine, or a bundle that holds one."""
    if path.is_dir():
        return bool({PLAN, TORCH_PLAN} & _names(store.open_bundle(path)))
    return path.suffix in (".plan", ".engine", ".pt2")


def loadable_engines(
    path: Path, board: str, *, with_control: bool = False
) -> tuple[dict[Precision, Runnable], tuple[str, ...]]:
    """Engines that may be loaded here: their hash is the manifest's, their stamp fits, and a child survived them.

    Args:
        path: A bundle, or one of its engines.
        board: Name of this machine.
        with_control: Beside an int8 engine that was named, its fp16 control, too.

    Returns:
        Precision -> file and backend, the engine asked for first and its fp16 control after it; and what to know.

    Raises:
        ArtifactError: An engine that no bundle vouches for, or that was built for another machine.
        NotReadyError: Its TensorRT is not installed.
    """
    folder = path if path.is_dir() else path.parent
    if not path.exists():
        raise NotFoundError(f"no file {path}", why="found no engine there", fix="edgehybrid build BUNDLE")
    bundle = store.open_bundle(folder)
    facts, names = json.loads(bundle.file("engine.json").read_bytes()), _names(bundle)
    rebuild = shlex.join(["edgehybrid", "build", str(folder)])
    asked = TORCH_PLAN if TORCH_PLAN in names else PLAN
    known: list[tuple[Precision, object, str]] = [(_recipe(bundle).precision, facts, asked)]
    if facts.get("control") is not None:
        known.append(("fp16", facts["control"], CONTROL_PLAN))
    named = {entry[2] for entry in known} if path.is_dir() or (with_control and path.name == asked) else {path.name}
    wanted = [entry for entry in known if entry[2] in names and entry[2] in named]
    if not wanted:
        raise ArtifactError(f"{path} is not in the manifest of {folder}", why="nobody vouches for it", fix=rebuild)
    found: dict[Precision, Runnable] = {}
    notes = []
    for precision, entry, name in wanted:
        mark = store.decode(EngineStamp, entry["stamp"]) if isinstance(entry, dict) else None
        if mark is None:
            raise ArtifactError(
                f"{bundle.path / name} has no stamp", why="engine.json does not describe it", fix=rebuild
            )
        _, note = engine.try_loading(bundle.file(name), mark, board=board, rebuild=rebuild)
        found[precision] = Runnable(bundle.file(name), mark.flavor, mark.options.dla_core)
        notes.append(note)
    return found, tuple(dict.fromkeys(note for note in notes if note))


def _names(bundle: store.Bundle) -> set[str]:
    listing = bundle.manifest["files"]
    return set(listing) if isinstance(listing, dict) else set()


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
        str(folder), files, networks, _recipe(bundle).model, trained=bool(bundle.manifest.get("trained"))
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
