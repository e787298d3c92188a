"""Engines in the order of a build: the one asked for, its fp16 control, and those of a bundle made elsewhere."""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from edgehybrid.errors import EdgeHybridError, NotReadyError, UsageError
from edgehybrid.progress import listener
from edgehybrid.records import Engine, EngineBuild, EngineOptions, Precision, Ranges, Report, Row, Target

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from edgehybrid.dataset import Images
    from edgehybrid.delivery import Graphs
    from edgehybrid.pipeline.lowering import Lowered
    from edgehybrid.stages import Run, Trial


@dataclass(frozen=True)
class Ordered:
    """The graphs that an engine may be built from, and what is asked of its builder."""

    target: Target
    precision: Precision
    baseline: Path  # float32
    model: Path  # what the bundle calls so: quantized, in the dialect of the target
    typed: Path  # quantized, strongly typed
    ranges: Ranges | None
    peaks: Mapping[str, float] | None  # what float16 would have to hold
    options: EngineOptions


def order(run: "Run", lowered: "Lowered", target: Target, options: EngineOptions) -> Ordered:
    """What a builder is given of a build, in operators that the target's parser knows."""
    from edgehybrid import stages

    quantized = lowered.quantized
    floats, model = (stages.suit_parser(run, path, target) for path in (lowered.baseline, quantized.deployed(target)))
    return Ordered(target, lowered.precision, floats, model, quantized.typed, lowered.scales, lowered.peaks, options)


def by_precision(
    precision: Precision, product: EngineBuild, control: EngineBuild | None
) -> dict[Precision, EngineBuild]:
    """The engine asked for and, beside int8, its fp16 control."""
    made: dict[Precision, EngineBuild] = {precision: product}
    if control is not None:
        made["fp16"] = control
    return made


def trial_rows(
    target: Target,
    products: Mapping[Precision, EngineBuild],
    trial: "Trial",
    reference: "NDArray[np.float32] | None",
    labels: "NDArray[np.int64] | None",
    outputs: Mapping[str, int] | None,
) -> tuple[Row, ...]:
    """A row per engine: what it did on this machine, or why nothing is known."""
    from edgehybrid import findings

    rows = findings.target_rows(target, {p: product.engine for p, product in products.items()}, trial.reason)
    return findings.tried_rows(rows, trial.latencies, trial.logits, reference, labels, outputs)


def placed(product: EngineBuild, folder: Path) -> Engine:
    """The engine with its path in a bundle, where there is a file."""
    from edgehybrid import delivery

    if product.plan is None:
        return product.engine
    return replace(product.engine, path=str(folder / delivery.plan_name(product)))


def build_product(run: "Run", ordered: Ordered) -> EngineBuild:
    """The engine asked for where it can be built here, else what NVIDIA's compiler says to its graph."""
    from edgehybrid import engine, stages

    options, target = ordered.options, ordered.target
    if options.dla_core is not None:
        scales = None if ordered.ranges is None else engine.calibration_cache(ordered.ranges)
        return stages.build_engine(
            run, ordered.baseline, target, ordered.precision, options=options, calibration_cache=scales
        )
    graph = ordered.model if target.backend == "tensorrt" else ordered.typed
    return stages.build_engine(run, graph, target, ordered.precision, options=options)


def build_control(run: "Run", ordered: Ordered) -> EngineBuild | None:
    """The fp16 twin that int8 must be faster than; None where the target runs no engine or int8 was not asked for."""
    from edgehybrid import stages

    target = ordered.target
    if ordered.precision not in ("int8", "mixed") or target.backend == "onnxruntime":
        return None
    half = ordered.baseline
    if target.dialect == "typed":
        half = stages.quantize(run, ordered.baseline, "fp16", None, ordered.peaks).typed
    if not stages.builds_here(target):
        return EngineBuild(Engine(None, "deferred", "the fp16 control is built beside the engine, on the device"), half)
    options = replace(ordered.options, dla_core=None)
    return stages.build_engine(run, half, target, "fp16", options=options, label="engine fp16")


def build_engines(folder: Path, options: EngineOptions, host: str | None = None, eval: str | None = None) -> Report:
    """Build the engine of a bundle, and its control, here or on a board; everything else in the bundle stays.

    Where this machine runs what it built, the engines are timed and scored, too.

    Args:
        folder: The bundle.
        options: Of the builder.
        host: `ssh://[user@]host[:port]` of the board; None builds on this machine.
        eval: Where the images lie that the bundle was scored on; where its recipe says by default.

    Returns:
        The report of the bundle with its new engine.

    Raises:
        UsageError: The bundle's target has no engine, or `eval` names other images.
        NotReadyError: This machine cannot build for the bundle's target.
    """
    from edgehybrid import dataset, delivery, device, engine, stages

    opened, state = delivery.open_graphs(folder), device.state(threads=0)
    target = opened.report.target
    if target.backend == "onnxruntime":
        raise UsageError(
            f"{folder} is for {target.name}, which runs ONNX files as they are",
            why="there is no engine to build",
            fix="build a bundle with --target and a name from `edgehybrid targets`",
        )
    engine.check_dla(target, options)
    if host is not None and eval is not None:
        raise UsageError(
            f"--eval {eval} does not reach {host}",
            why="only the bundle is sent; the board scores its engine where it finds the images itself",
            fix="run edgehybrid build BUNDLE --eval on the board",
        )
    if host is not None:
        return _build_there(folder, opened, options, host)
    if not stages.builds_here(target):
        raise NotReadyError(
            f"this machine cannot build engines for {target.name}",
            why=stages.why_not_here(target),
            fix=f"edgehybrid build {folder} --host ssh://BOARD builds it on the board",
        )
    scored = _images_of(opened, eval)
    run = stages.Run()
    scales = opened.scales if options.dla_core is not None else None
    graph = opened.model if options.dla_core is None else opened.baseline
    product = stages.build_engine(run, graph, target, opened.precision, options=options, calibration_cache=scales)
    control = None
    if opened.control is not None:
        plain = replace(options, dla_core=None)
        control = stages.build_engine(run, opened.control, target, "fp16", options=plain, label="engine fp16")
    pictures = dataset.load("photos", at_most=8, split="calib")
    products = by_precision(opened.precision, product, control)
    spec = opened.report.model
    outputs = stages.columns_of(opened.baseline, spec)
    trial = stages.try_engines(run, products, pictures, scored, spec.preprocess, state, outputs)
    return _keep(run, folder, opened, product, control, trial, scored, outputs)


def check_host(host: str | None, target: Target) -> None:
    """Refuse an address that is none, and a board for a target that needs no engine, before any work begins."""
    from edgehybrid.engine import ssh

    if host is None:
        return
    ssh.Connection(host)
    if target.backend == "onnxruntime":
        raise UsageError(
            f"--host {host} has nothing to do", why=f"{target.name} runs ONNX files as they are", fix="give a --target"
        )


def _build_there(folder: Path, opened: "Graphs", options: EngineOptions, host: str) -> Report:
    """Push the bundle, build on the board with what is found there, fetch engine and report."""
    from edgehybrid import delivery, stages, store
    from edgehybrid.engine import remote, ssh

    connection = ssh.Connection(host)
    listener().begin("push")
    board = remote.find_board(connection, folder, options)
    files = delivery.digests(folder)
    remote.push_bundle(connection, board, folder, files)
    listener().begin("build there")
    with tempfile.TemporaryDirectory(prefix="edgehybrid-remote-") as name:
        fetched, target = Path(name), opened.report.target
        if board.edgehybrid is None:
            product, control = remote.build_with_trtexec(
                connection, board, folder, fetched, target, opened.precision, options
            )
            return _keep(stages.Run(), folder, opened, product, control, stages.Trial(), None)
        code, log = remote.build_there(connection, board, remote.command_of(board, options))
        if code != 0:
            raise remote.explain(connection, code, log)
        listener().begin("fetch")
        manifest = remote.manifest_there(connection, board)
        missing = {file: digest for file, digest in delivery.listed(manifest).items() if files.get(file) != digest}
        remote.fetch(connection, board, fetched, missing)
        return delivery.adopt(folder, fetched, store.to_json(manifest))


def _images_of(opened: "Graphs", eval: str | None) -> "Images | None":
    """The very images that the bundle's networks were scored on; None, with a note, where they are not here.

    Raises:
        UsageError: `eval` names others, whose numbers would not belong beside those of the bundle.
    """
    from edgehybrid import dataset

    recipe, report = opened.recipe, opened.report
    known = report.evaluation or report.calibration
    if known is None:
        return None
    split: Literal["calib", "eval"] = "calib" if report.evaluation is None else "eval"
    source = eval or recipe.eval or recipe.calib
    try:
        found = dataset.load(source, limit=known.images + len(known.skipped), seed=recipe.seed, split=split)
    except EdgeHybridError as error:
        if eval is not None:
            raise
        listener().note(f"the engine's answers are not scored: {error.what}; --eval says where {known.name} lies here")
        return None
    if found.spec.sha256 == known.sha256:
        return found
    if eval is None:
        listener().note(f"the engine's answers are not scored: {source} holds other images here")
        return None
    raise UsageError(
        f"--eval {eval} holds other images than the bundle was scored on",
        why=f"needed the {known.images:,} of {known.name}",
        fix="build without --eval; `edgehybrid evaluate BUNDLE --eval` scores the engine on any images",
    )


def _keep(
    run: "Run",
    folder: Path,
    opened: "Graphs",
    product: EngineBuild,
    control: EngineBuild | None,
    trial: "Trial",
    scored: "Images | None",
    outputs: Mapping[str, int] | None = None,
) -> Report:
    """Write engines into their bundle, and the report with what they did."""
    from edgehybrid import delivery, findings, stages

    report, target, spec = opened.report, opened.report.target, opened.report.model
    reference = truth = given = None
    if scored is not None and trial.logits:
        reference = stages.predict(run, "fp32", opened.baseline, scored, spec.preprocess, outputs=outputs)
        truth = stages.labels_for(scored, spec) if report.evaluation and spec.weights.trained else None
        given = findings.answers(trial.logits, truth, scored.order, spec.weights.trained, backend=target.backend)
    made = by_precision(opened.precision, product, control)
    here = trial.state or report.device
    names = {stage.name for stage in run.stages}
    graphs = tuple(row for row in report.rows if row.backend != target.backend)
    if here.name != report.device.name:
        graphs = findings.scored_elsewhere(graphs, target, report.device.name)
    found = replace(
        report,
        device=here,
        rows=(*graphs, *trial_rows(target, made, trial, reference, truth, outputs)),
        engine=placed(product, folder),
        stages=(*(s for s in report.stages if s.name not in names), *run.stages),
        bundle=str(folder),
        next_command=findings.bench_command(folder),
    )
    answers = findings.merge_answers(delivery.without_engines(opened.answers), given)
    delivery.write_engines(folder, found, product, control, stages.versions(), answers)
    return found
