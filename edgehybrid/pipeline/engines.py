"""Engines in the order of a build: the one asked for, its fp16 control, and those of a bundle made elsewhere."""

import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from edgehybrid.errors import NotReadyError, UsageError
from edgehybrid.progress import listener
from edgehybrid.records import Engine, EngineOptions, Precision, Product, Ranges, Report, Stage, Target

if TYPE_CHECKING:
    from edgehybrid.delivery import Graphs
    from edgehybrid.pipeline.lowering import Lowered
    from edgehybrid.stages import Run

DEFAULT_MODEL = "cmt_ti"


@dataclass(frozen=True)
class Ordered:
    """The graphs that an engine may be built from, and what is asked of its builder."""

    target: Target
    precision: Precision
    baseline: Path  # float32
    model: Path  # quantized, in the dialect of the target
    typed: Path  # quantized, strongly typed
    ranges: Ranges | None
    peaks: Mapping[str, float] | None  # what float16 would have to hold
    options: EngineOptions

    @property
    def deployed(self) -> Path:
        """What the bundle calls its model: TensorRT 8 makes fp16 of the float graph, as it reads no opset 19."""
        weak = self.target.backend == "tensorrt" and self.target.dialect == "fp32"
        return self.baseline if weak and self.precision == "fp16" else self.model


def order(run: "Run", lowered: "Lowered", target: Target, options: EngineOptions) -> Ordered:
    """What a builder is given of a build, in operators that the target's parser knows."""
    from edgehybrid import stages

    quantized = lowered.quantized
    floats, model = (stages.suit_parser(run, path, target) for path in (lowered.baseline, quantized.deployed(target)))
    return Ordered(target, lowered.precision, floats, model, quantized.typed, lowered.scales, lowered.peaks, options)


def by_precision(precision: Precision, product: Product, control: Product | None) -> dict[Precision, Engine]:
    """The engine asked for and, beside int8, its fp16 control."""
    made: dict[Precision, Engine] = {precision: product.engine}
    if control is not None:
        made["fp16"] = control.engine
    return made


def placed(product: Product, folder: Path) -> Engine:
    """The engine with its path in a bundle, where there is a file."""
    from edgehybrid import delivery

    if product.plan is None:
        return product.engine
    return replace(product.engine, path=str(folder / delivery.plan_name(product)))


def has_dla(target: Target) -> bool:
    """Whether a target has NVDLA cores, which take the float baseline and its ranges."""
    from edgehybrid import engine

    return engine.dla_cores(target) > 0


def build_product(run: "Run", ordered: Ordered) -> Product:
    """The engine asked for where it can be built here, else what NVIDIA's compiler says to its graph."""
    from edgehybrid import engine, stages

    options, target = ordered.options, ordered.target
    if options.dla_core is not None:
        scales = None if ordered.ranges is None else engine.calibration_cache(ordered.ranges)
        return stages.build_engine(
            run, ordered.baseline, target, ordered.precision, options=options, calibration_cache=scales
        )
    graph = ordered.deployed if target.backend == "tensorrt" else ordered.typed
    return stages.build_engine(run, graph, target, ordered.precision, options=options)


def build_control(run: "Run", ordered: Ordered) -> Product | None:
    """The fp16 twin that int8 must be faster than; None where the target runs no engine or int8 was not asked for."""
    from edgehybrid import stages

    target = ordered.target
    if ordered.precision not in ("int8", "mixed") or target.backend == "onnxruntime":
        return None
    half = ordered.baseline
    if target.dialect == "typed":
        half = stages.quantize(run, ordered.baseline, "fp16", None, ordered.peaks).typed
    if not stages.builds_here(target):
        return Product(Engine(None, "deferred", "the fp16 control is built beside the engine, on the device"), half)
    options = replace(ordered.options, dla_core=None)
    return stages.build_engine(run, half, target, "fp16", options=options, label="engine fp16")


def build_engines(bundle: Path | None, model: str, options: EngineOptions, host: str | None = None) -> Report:
    """Build the engine of a bundle, and its control, here or on a board; everything else in the bundle stays.

    Args:
        bundle: A bundle folder; `model` names it where this is None.
        model: As given; with a bundle it must be the default.
        options: Of the builder.
        host: `ssh://[user@]host[:port]` of the board; None builds on this machine.

    Returns:
        The report of the bundle with its new engine.

    Raises:
        UsageError: The bundle's target has no engine, or a model was named beside the bundle.
        NotReadyError: This machine cannot build for the bundle's target.
    """
    from edgehybrid import delivery, stages

    if bundle is not None and model != DEFAULT_MODEL:
        raise UsageError(
            f"{bundle} and --model {model} contradict each other",
            why="a bundle holds its model already",
            fix="leave one of them out",
        )
    folder = bundle or Path(model)
    opened = delivery.open_graphs(folder)
    target = opened.report.target
    if target.backend == "onnxruntime":
        raise UsageError(
            f"{folder} is for {target.name}, which runs ONNX files as they are",
            why="there is no engine to build",
            fix="build a bundle with --target and a name from `edgehybrid targets`",
        )
    if host is not None:
        return _build_there(folder, opened, options, host)
    if not stages.builds_here(target):
        raise NotReadyError(
            f"this machine cannot build engines for {target.name}",
            why=stages.why_not_here(target),
            fix=f"edgehybrid build {folder} --host ssh://BOARD builds it on the board",
        )
    run = stages.Run()
    scales = opened.scales if options.dla_core is not None else None
    graph = opened.model if options.dla_core is None else opened.baseline
    product = stages.build_engine(run, graph, target, opened.precision, options=options, calibration_cache=scales)
    control = None
    if opened.control is not None:
        plain = replace(options, dla_core=None)
        control = stages.build_engine(run, opened.control, target, "fp16", options=plain, label="engine fp16")
    return _keep(folder, opened, product, control, tuple(run.stages))


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
    from edgehybrid import delivery, store
    from edgehybrid.engine import remote, ssh

    connection = ssh.Connection(host)
    listener().begin("push")
    board = remote.find_board(connection, folder, options)
    files = delivery.digests(folder)
    remote.push_bundle(connection, board, folder, files)
    listener().begin("build there")
    target = opened.report.target
    if board.edgehybrid is None:
        product, control = remote.build_with_trtexec(connection, board, folder, target, opened.precision, options)
        return _keep(folder, opened, product, control, ())
    code, log = remote.build_there(connection, board, remote.command_of(board, options))
    if code != 0:
        raise remote.explain(connection, code, log)
    listener().begin("fetch")
    manifest = remote.manifest_there(connection, board)
    with tempfile.TemporaryDirectory(prefix="edgehybrid-remote-") as name:
        fetched = Path(name)
        missing = {file: digest for file, digest in delivery.listed(manifest).items() if files.get(file) != digest}
        remote.fetch(connection, board, fetched, missing)
        return delivery.adopt(folder, fetched, store.to_json(manifest))


def _keep(folder: Path, opened: "Graphs", product: Product, control: Product | None, done: tuple[Stage, ...]) -> Report:
    """Write engines into their bundle, and the report that names them."""
    from edgehybrid import delivery, findings, stages

    report, target = opened.report, opened.report.target
    made = by_precision(opened.precision, product, control)
    kept = tuple(row for row in report.rows if row.backend != target.backend)
    found = replace(
        report,
        rows=kept + findings.target_rows(target, made),
        engine=replace(product.engine, path=str(folder / delivery.PLAN)),
        stages=tuple(s for s in report.stages if not s.name.startswith("engine")) + done,
        bundle=str(folder),
        next_command=findings.bench_command(folder),
    )
    delivery.write_engines(folder, found, product, control, stages.versions())
    return found
