"""The verbs, and the only place that knows the order of stages.

Every function in COMMANDS is a command of the same name: `edgehybrid.build(model="cmt_ti", precision="int8")`
is `edgehybrid build --model cmt_ti --precision int8`. Read `build` first.
"""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from edgehybrid.errors import GateError, UsageError
from edgehybrid.records import (
    Artifact,
    Diagnosis,
    Lint,
    Measurement,
    Method,
    Models,
    ModelSpec,
    Precision,
    Recipe,
    Report,
    Target,
    Targets,
    Verification,
)
from edgehybrid.version import __version__

if TYPE_CHECKING:
    from edgehybrid.dataset import Images

DEFAULT_CALIB_IMAGES = 128


def build(
    *,
    model: str = "cmt_ti",
    weights: str = "auto",
    num_classes: int | None = None,
    input_size: int | None = None,
    crop_pct: float | None = None,
    batch: int = 1,
    precision: Precision = "int8",
    target: str = "auto",
    calib: str = "photos",
    num_calib: int | None = None,
    method: Method = "mse",
    eval: str | None = None,
    num_eval: int | None = None,
    max_drop: float | None = None,
    output: Path | None = None,
    seed: int = 0,
) -> Report:
    """Quantize, check and measure a model.

    The result is a bundle: the deployable graph, its ranges, a report, and a manifest with every hash.

    Args:
        model: A name from `edgehybrid models`, timm/NAME, or an ONNX file.
        weights: auto, imagenet, fashion-mnist, random, or a checkpoint file (.safetensors, .pth, .pt).
        num_classes: Classes of the model; inferred from a checkpoint.
        input_size: Side of the square input in px; the published size or the checkpoint's by default.
        crop_pct: Fraction of the resized image that the crop keeps; the model's own by default.
        batch: Images per call of the built model.
        precision: fp32, fp16 or int8.
        target: A name from `edgehybrid targets`, a TOML file, or auto: the machine this runs on.
        calib: Calibration images: a named set, a folder, or an .npz file.
        num_calib: How many of them; 128 or all there are by default.
        method: How ranges are chosen: mse, minmax, percentile or entropy.
        eval: Labelled images to score accuracy on: a named set, a folder of classes, or an .npz file.
        num_eval: How many of them; all by default.
        max_drop: Fail with exit code 6 unless top-1 is lost by at most this many points, 95 % sure.
        output: Folder of the bundle; builds/<model>-<size>-b<batch>-<precision>-<target> by default.
        seed: Of image sampling and of untrained weights.

    Returns:
        The report; it is also in the bundle as report.json and report.html.

    Raises:
        EdgeHybridError: See errors.py; the exit code tells the kind.
    """
    from edgehybrid import dataset, delivery, device, findings, stages, store

    _check_options(batch, num_calib, num_eval, max_drop, eval)
    goal = _load_target(target, precision)
    source = stages.Source(model, weights, num_classes, input_size, crop_pct, batch, seed)
    if output is not None:
        store.check_output(output, source.name)
    images = _calibration_images(calib, num_calib, seed)
    scored = images if eval is None else dataset.load(eval, limit=num_eval, seed=seed, split="eval")
    state = device.state(threads=0)

    run = stages.Run()
    made = stages.export(run, source, images)
    spec = made.spec
    folder = output or Path("builds") / f"{spec.name}-{spec.preprocess.size}-b{made.batch}-{precision}-{goal.name}"
    store.check_output(folder, spec.name)
    labels = None if eval is None else stages.labels_for(scored, spec)
    baseline = stages.rewrite(run, made.path)
    ranges = stages.calibrate(run, baseline, images, spec.preprocess, method) if precision == "int8" else None
    quantized = stages.quantize(run, baseline, precision, ranges)
    engine, plan_file = stages.build_engine(run, quantized.typed, goal, precision)

    files: dict[Precision, Path] = {"fp32": baseline, precision: quantized.runnable}
    latencies = stages.bench(run, files, images, made, state) if goal.backend == "onnxruntime" else {}
    logits = {p: stages.predict(run, p, path, scored, spec.preprocess) for p, path in files.items()}
    stages.check_collapse(logits, spec)
    layers = stages.layer_noise(run, baseline, quantized, images, spec.preprocess)

    rows = findings.accuracy_rows(files, logits, labels, spec.weights.trained)
    rows = findings.with_latency(rows, latencies, goal) + findings.target_rows(goal, precision, engine)
    recipe = Recipe(
        model=spec.name,
        weights=weights,
        precision=precision,
        target=goal.name,
        batch=made.batch,
        input_size=spec.preprocess.size,
        crop_pct=spec.preprocess.crop_pct,
        num_classes=spec.classes,
        calib=calib,
        num_calib=len(images),
        method=method,
        eval=eval,
        num_eval=0 if eval is None else len(scored),
        seed=seed,
    )
    calibration = images.spec if precision == "int8" else None
    evaluation = None if eval is None else scored.spec
    shared = dataset.overlap(images, scored) if calibration and evaluation else 0
    found = Report(
        version=__version__,
        model=spec,
        params=made.params,
        macs=made.macs,
        batch=made.batch,
        target=goal,
        device=state,
        calibration=calibration,
        method=method if precision == "int8" else None,
        evaluation=evaluation,
        rows=rows,
        engine=engine if plan_file is None else replace(engine, path=str(folder / delivery.PLAN)),
        stages=tuple(run.stages),
        bundle=str(folder),
        placement=quantized.plan.decisions,
        layers=layers,
        notes=(
            *findings.weight_notes(spec),
            *findings.image_notes(calib, calibration, evaluation, shared),
            *findings.sample_notes(rows),
        ),
        command=findings.command(recipe),
        next_command=findings.next_command(recipe, goal, folder),
    )
    delivery.write(
        folder,
        found,
        recipe,
        baseline=baseline,
        deployed=quantized.deployed(goal),
        ranges=ranges,
        plan=plan_file,
        versions=stages.versions(),
    )
    findings.gate(found, max_drop)
    return found


def quickstart(*, target: str = "cpu", output: Path | None = None, seed: int = 0) -> Report:
    """Build int8 from bundled weights, offline.

    Trained weights and labelled images are bundled, so the numbers are true ones.

    Args:
        target: A name from `edgehybrid targets`, a TOML file, or auto.
        output: Folder of the bundle; builds/quickstart by default.
        seed: Of image sampling.

    Returns:
        The report of CMT-Ti, 64 px, trained on Fashion-MNIST; the sample of 1,000 test images is small.
    """
    return build(
        model="cmt_ti",
        weights="fashion-mnist",
        precision="int8",
        target=target,
        calib="fashion-mnist",
        eval="fashion-mnist",
        output=output or Path("builds/quickstart"),
        seed=seed,
    )


def models() -> Models:
    """List models, their size and source.

    Returns:
        One card per variant.
    """
    from edgehybrid import zoo

    return Models(zoo.cards())


def targets() -> Targets:
    """List boards and machines to build for.

    Returns:
        One profile per target; a figure that nobody could confirm is null.
    """
    from edgehybrid import resources

    return Targets(tuple(resources.load_target(name) for name in resources.targets()))


def doctor() -> Diagnosis:
    """Say what works here and how to fix the rest.

    Returns:
        One line per check, each with its fix.
    """
    from edgehybrid import device

    return Diagnosis(device.checks())


def export(
    *,
    model: str = "cmt_ti",
    weights: str = "auto",
    num_classes: int | None = None,
    input_size: int | None = None,
    crop_pct: float | None = None,
    batch: int = 1,
    rewrite: bool = True,
    output: Path | None = None,
    seed: int = 0,
) -> Artifact:
    """Write a float32 ONNX file.

    Its shapes are static, and its outputs are checked against torch.

    Args:
        model: A name from `edgehybrid models`, timm/NAME, or an ONNX file.
        weights: auto, imagenet, fashion-mnist, random, or a checkpoint file.
        num_classes: Classes of the model; inferred from a checkpoint.
        input_size: Side of the square input in px.
        crop_pct: Fraction of the resized image that the crop keeps.
        batch: Images per call.
        rewrite: Apply the exact rewrites; off gives the graph as torch exported it, simplified.
        output: The file; <model>-<size>-b<batch>-fp32.onnx by default.
        seed: Of untrained weights.

    Returns:
        The file.
    """
    from edgehybrid import stages

    run = stages.Run()
    source = stages.Source(model, weights, num_classes, input_size, crop_pct, batch, seed)
    made = stages.export(run, source, _calibration_images("photos", None, seed))
    path = stages.rewrite(run, made.path) if rewrite else made.path
    name = f"{made.spec.name}-{made.spec.preprocess.size}-b{made.batch}-fp32.onnx"
    return _deliver(output or Path(name), path, "onnx", made.spec)


def calibrate(
    *,
    model: str = "cmt_ti",
    weights: str = "auto",
    num_classes: int | None = None,
    input_size: int | None = None,
    crop_pct: float | None = None,
    calib: str = "photos",
    num_calib: int | None = None,
    method: Method = "mse",
    output: Path | None = None,
    seed: int = 0,
) -> Artifact:
    """Write activation ranges of int8.

    Args:
        model: A name from `edgehybrid models`, timm/NAME, or an ONNX file.
        weights: auto, imagenet, fashion-mnist, random, or a checkpoint file.
        num_classes: Classes of the model; inferred from a checkpoint.
        input_size: Side of the square input in px.
        crop_pct: Fraction of the resized image that the crop keeps.
        calib: Calibration images: a named set, a folder, or an .npz file.
        num_calib: How many of them; 128 or all there are by default.
        method: mse, minmax, percentile or entropy.
        output: The file; <model>-<size>-calibration.json by default.
        seed: Of image sampling and of untrained weights.

    Returns:
        The file.
    """
    from edgehybrid import delivery, stages

    run = stages.Run()
    images = _calibration_images(calib, num_calib, seed)
    source = stages.Source(model, weights, num_classes, input_size, crop_pct, 1, seed)
    made = stages.export(run, source, images)
    ranges = stages.calibrate(run, stages.rewrite(run, made.path), images, made.spec.preprocess, method)
    name = f"{made.spec.name}-{made.spec.preprocess.size}-calibration.json"
    return _deliver(output or Path(name), delivery.calibration_document(ranges), "calibration", made.spec)


def quantize(
    *,
    model: str = "cmt_ti",
    weights: str = "auto",
    num_classes: int | None = None,
    input_size: int | None = None,
    crop_pct: float | None = None,
    batch: int = 1,
    precision: Literal["int8", "fp16"] = "int8",
    target: str = "auto",
    calib: str = "photos",
    num_calib: int | None = None,
    method: Method = "mse",
    output: Path | None = None,
    seed: int = 0,
) -> Artifact:
    """Write an int8 or fp16 ONNX file.

    It is in the dialect of the target and is not measured.

    Args:
        model: A name from `edgehybrid models`, timm/NAME, or an ONNX file.
        weights: auto, imagenet, fashion-mnist, random, or a checkpoint file.
        num_classes: Classes of the model; inferred from a checkpoint.
        input_size: Side of the square input in px.
        crop_pct: Fraction of the resized image that the crop keeps.
        batch: Images per call.
        precision: int8 (explicit Q/DQ) or fp16.
        target: A name from `edgehybrid targets`, a TOML file, or auto; decides the dialect.
        calib: Calibration images: a named set, a folder, or an .npz file.
        num_calib: How many of them; 128 or all there are by default.
        method: mse, minmax, percentile or entropy.
        output: The file; <model>-<size>-b<batch>-<precision>.onnx by default.
        seed: Of image sampling and of untrained weights.

    Returns:
        The file.
    """
    from edgehybrid import stages

    goal = _load_target(target, precision)
    run = stages.Run()
    images = _calibration_images(calib, num_calib, seed)
    source = stages.Source(model, weights, num_classes, input_size, crop_pct, batch, seed)
    made = stages.export(run, source, images)
    baseline = stages.rewrite(run, made.path)
    ranges = None
    if precision == "int8":
        ranges = stages.calibrate(run, baseline, images, made.spec.preprocess, method)
    quantized = stages.quantize(run, baseline, precision, ranges)
    name = f"{made.spec.name}-{made.spec.preprocess.size}-b{made.batch}-{precision}.onnx"
    return _deliver(output or Path(name), quantized.deployed(goal), "onnx", made.spec)


def bench(model: Path, *, warmup: float = 0.2, duration: float = 3.0, iterations: int = 50) -> Measurement:
    """Measure latency on this machine.

    Args:
        model: A bundle folder or an ONNX file.
        warmup: Seconds of untimed calls first.
        duration: Seconds of timed calls, at least.
        iterations: Timed calls, at least.

    Returns:
        Percentiles; of a bundle, the float32 reference is measured beside the model, calls interleaved.
    """
    from edgehybrid import delivery, device, findings, stages

    files = delivery.runnable_files(model)
    state = device.state(threads=0)
    measured = stages.measure(files, warmup=warmup, duration=duration, iterations=iterations)
    rows = findings.latency_rows(files, measured)
    return Measurement(str(model), state, rows, notes=findings.speed_notes(rows))


def evaluate(
    model: Path,
    *,
    eval: str,
    num_eval: int | None = None,
    crop_pct: float | None = None,
    seed: int = 0,
) -> Measurement:
    """Score accuracy on labelled images.

    Quantized graphs are scored in canonical numerics: every Q/DQ does exactly what it says.

    Args:
        model: A bundle folder or an ONNX file.
        eval: Labelled images: a named set, a folder of classes, or an .npz file.
        num_eval: How many of them; all by default.
        crop_pct: Fraction of the resized image that the crop keeps; the bundle's own by default.
        seed: Of image sampling.

    Returns:
        Accuracy with its interval; of a bundle, also the paired drop against the float32 reference.
    """
    from edgehybrid import dataset, delivery, device, findings, stages

    files = delivery.runnable_files(model)
    images = dataset.load(eval, limit=num_eval, seed=seed, split="eval")
    preprocess, trained = delivery.preprocess_of(model, crop_pct)
    run = stages.Run()
    logits = {label: stages.predict(run, label, path, images, preprocess) for label, path in files.items()}
    rows = findings.accuracy_rows(files, logits, images.labels, trained)
    return Measurement(str(model), device.state(threads=0), rows, images.spec, findings.sample_notes(rows))


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


COMMANDS = (
    build,
    quickstart,
    models,
    targets,
    doctor,
    export,
    calibrate,
    quantize,
    bench,
    evaluate,
    report,
    verify,
    lint,
)


# --- helpers, in the order they are called --------------------------------------------------------


def _check_options(
    batch: int, num_calib: int | None, num_eval: int | None, max_drop: float | None, eval: str | None
) -> None:
    for name, value in (("batch", batch), ("num-calib", num_calib), ("num-eval", num_eval)):
        if value is not None and value < 1:
            raise UsageError(f"--{name} {value} makes no sense", why="it counts images", fix=f"--{name} 1 or more")
    if max_drop is not None and eval is None:
        raise UsageError(
            "--max-drop needs labelled images",
            why="without them no accuracy is measured, so no budget can be checked",
            fix="add --eval with a folder of classes, an .npz file or a named set",
        )


def _load_target(name: str, precision: Precision) -> Target:
    from edgehybrid import device, resources

    goal = resources.load_target(device.detect_target() if name == "auto" else name)
    if precision not in goal.precisions:
        raise UsageError(
            f"{goal.name} does not run {precision}",
            why=f"it runs {', '.join(goal.precisions)}",
            fix=f"--precision {goal.precisions[-1]}",
        )
    return goal


def _calibration_images(calib: str, count: int | None, seed: int) -> "Images":
    """`count` images, or all there are up to the default."""
    from edgehybrid import dataset

    at_most = DEFAULT_CALIB_IMAGES if count is None else None
    return dataset.load(calib, limit=count, at_most=at_most, seed=seed, split="calib")


def _deliver(path: Path, content: bytes | Path, kind: Literal["onnx", "calibration"], spec: ModelSpec) -> Artifact:
    """Write the one file that a single-stage verb is asked for."""
    from edgehybrid import findings, store

    if path.is_dir():
        raise UsageError(f"--output {path} is a folder", why="this command writes one file", fix="name a file")
    store.write_atomic(path, content)
    return Artifact(str(path), kind, path.stat().st_size, store.sha256_of(path), findings.weight_notes(spec))
