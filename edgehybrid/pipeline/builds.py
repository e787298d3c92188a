"""`build`, the whole flow in order, and `quickstart`. Read `build` first."""

from dataclasses import replace
from pathlib import Path
from typing import Literal

from edgehybrid.pipeline import engines
from edgehybrid.pipeline.lowering import calibrates, lower
from edgehybrid.pipeline.mixing import check_mixed, check_profile, check_trained
from edgehybrid.pipeline.options import (
    OF_A_BUNDLE,
    calibration_images,
    check_counts,
    check_roles,
    check_tuning,
    engine_options,
    load_target,
    refuse_beside,
)
from edgehybrid.progress import listener
from edgehybrid.records import Equalize, Interpolation, Method, Precision, Recipe, Refine, Report, Rounding
from edgehybrid.sizes import spelled
from edgehybrid.version import __version__


def build(
    bundle: Path | None = None,
    *,
    model: str = "cmt_ti",
    weights: str = "auto",
    num_classes: int | None = None,
    input_size: int | str | None = None,
    crop_pct: float | None = None,
    mean: str | None = None,
    std: str | None = None,
    interpolation: Interpolation | None = None,
    preprocess: Path | None = None,
    labels: Path | None = None,
    batch: int = 1,
    precision: Precision = "int8",
    target: str = "auto",
    calib: str = "photos",
    num_calib: int | None = None,
    method: Method = "mse",
    ranges: Path | None = None,
    equalize: Equalize = "all",
    refine: Refine = "biases",
    rounding: Rounding = "nearest",
    eval: str | None = None,
    num_eval: int | None = None,
    max_drop: float | None = None,
    profile: Path | None = None,
    output: Path | None = None,
    seed: int = 0,
    workspace: int | None = None,
    opt_level: int | None = None,
    hardware_compatible: bool = False,
    version_compatible: bool = False,
    dla: int | None = None,
    host: str | None = None,
    flavor: Literal["tensorrt", "torch-tensorrt"] = "tensorrt",
) -> Report:
    """Quantize, check and measure a model.

    The result is a bundle: the deployable graph, its ranges, a report, and a manifest with every hash.

    Args:
        bundle: A bundle made elsewhere: build only its engine, on the device that will run it.
        model: A name from `edgehybrid models`, timm/NAME, or an ONNX file.
        weights: auto, imagenet, fashion-mnist, random, or a checkpoint file (.safetensors, .pth, .pt).
        num_classes: Classes of the model; inferred from a checkpoint.
        input_size: Side of the square input in px; the published size or the checkpoint's by default. Of an ONNX file
            that leaves it open also HEIGHTxWIDTH.
        crop_pct: Fraction of the resized image that the crop keeps; the model's own by default.
        mean: R,G,B subtracted from pixels between 0 and 1; the model's own by default, as for the next three.
        std: R,G,B by which they are then divided.
        interpolation: How images are resized: bicubic or bilinear.
        preprocess: TOML file with any of size, crop_pct, mean, std, interpolation, labels; options win over it.
        labels: File of class names: one per line, or JSON as timm and Hugging Face write it.
        batch: Images per call of the built model.
        precision: fp32, fp16, int8, or mixed: int8 without the layers that would break --max-drop.
        target: A name from `edgehybrid targets`, which may go on with a power mode and a JetPack
            (orin-nano-8gb@15w@jp6.0), a TOML file, or auto: the machine this runs on.
        calib: Calibration images: a named set, a folder, or an .npz file.
        num_calib: How many of them; 128 or all there are by default.
        method: How ranges are chosen: mse, minmax, percentile or entropy.
        ranges: A calibration file, of `edgehybrid calibrate` or a bundle, to use its ranges instead of calibrating.
        equalize: Rescale and centre channels and shift tensors by zero points, where it measures better at the layers:
            all; folded, which only changes constants that are there; or off.
        refine: Correct biases where it measures better: biases; all, which widens ranges too and gains little; or off.
        rounding: Of weights: nearest, or optimized, which solves for the best of each layer and takes longer.
        eval: Labelled images to score accuracy on: a named set, a folder of classes, or an .npz file. With a bundle:
            where those lie that it was scored on.
        num_eval: How many of them; all by default.
        max_drop: Fail with exit code 6 unless top-1 is lost by at most this many points, 95 % sure; mixed takes
            layers back to float until it is.
        profile: Measured per-layer times for mixed, from `bench BUNDLE --layers 1000 --json` on the device; what a
            layer gains by int8 is estimated without.
        output: Folder of the bundle; builds/<model>-<size>-b<batch>-<precision>-<target> by default.
        seed: Of image sampling and of untrained weights.
        workspace: MiB of device memory the engine's builder may use; all of it by default.
        opt_level: How hard the engine's builder tries, 0 (fast build) to 5 (fast engine); its own default otherwise.
        hardware_compatible: Build an engine for every GPU from Ampere on, which is slower.
        version_compatible: Build an engine that the lean runtime of later TensorRT releases loads.
        dla: NVDLA core that gets what it can take, from the float graph and its ranges; the GPU does the rest.
        host: ssh://[user@]host[:port] of the board that builds the engine; OpenSSH's config and keys decide how.
        flavor: What compiles the engine: tensorrt (from ONNX) or torch-tensorrt (from torch, fp32 and fp16).

    Returns:
        The report; it is also in the bundle as report.json and report.html.

    Raises:
        EdgeHybridError: See errors.py; the exit code tells the kind.
    """
    given = locals()
    from edgehybrid import dataset, delivery, device, engine, findings, stages, store

    options = engine_options(workspace, opt_level, hardware_compatible, version_compatible, dla)
    check_roles(bundle, model)
    if bundle is not None:
        only_engine = "a bundle holds its model as it was built; only its engine is built from it"
        refuse_beside(str(bundle), build, given, OF_A_BUNDLE, only_engine)
        return engines.build_engines(bundle, options, host, eval)
    check_counts(batch, num_calib, num_eval, max_drop, eval)
    check_tuning(ranges, precision, refine, rounding)
    check_mixed(precision, max_drop, dla)
    check_profile(precision, profile)
    goal = load_target(target, precision)
    engines.check_host(host, goal)
    stated = dataset.read_stated(preprocess, labels, input_size, crop_pct, mean, std, interpolation)
    source = stages.Source(model, weights, num_classes, stated, batch, seed)
    if flavor == "torch-tensorrt":
        stages.check_torch_flavor(source, precision, goal, options)
    engine.check_dla(goal, options)
    if output is not None:
        store.check_output(output, source.name, precision=precision)
    images = calibration_images(calib, num_calib, seed)
    scored = images if eval is None else dataset.load(eval, limit=num_eval, seed=seed, split="eval")
    if max_drop is not None and (early := findings.too_few(len(scored), max_drop)) is not None:
        listener().note(f"{early}: the bundle will be written, and the exit code will be 6")
    state = device.state(threads=0)

    run = stages.Run()
    made = stages.export(run, source, images)
    spec = made.spec
    outputs = stages.columns_of(made.path, spec)
    check_trained(precision, spec)
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
        mean=mean,
        std=std,
        interpolation=interpolation,
        preprocess=_text(preprocess),
        labels=_text(labels),
        ranges=_text(ranges),
        max_drop=max_drop,
        profile=_text(profile),
        equalize=equalize,
        refine=refine,
        rounding=rounding,
    )
    folder = output or _bundle_folder(recipe)
    held = spec.weights if output is None else None  # by a name that other weights have, too
    store.check_output(folder, spec.name, weights=held, classes=spec.classes, precision=precision)
    truth = None if eval is None else stages.labels_for(scored, spec)
    baseline = stages.rewrite(run, made.path)
    stages.check_parser(baseline, goal)
    single = stages.of_one_image(run, source, made, images, baseline) if calibrates(precision, ranges) else baseline
    lowered = lower(run, recipe, baseline, single, images, scored, truth, spec, goal)
    ordered = engines.order(run, lowered, goal, options)
    if flavor == "torch-tensorrt":
        product = stages.compile_torch(run, source, made.batch, goal, precision, options)
    else:
        product = engines.build_product(run, ordered)
    control = engines.build_control(run, ordered)

    files = lowered.scored
    timed = stages.bench(run, files, images, made, state) if goal.backend == "onnxruntime" else None
    labels_of = {p: lowered.mixed.scored_as if lowered.mixed and p == "mixed" else p for p in files}
    logits = {
        p: stages.predict(run, labels_of[p], path, scored, spec.preprocess, outputs=outputs)
        for p, path in files.items()
    }
    stages.check_collapse(logits, spec)
    products = engines.by_precision(precision, product, control)
    trial = stages.try_engines(run, products, images, scored, spec.preprocess, state, outputs)
    layers = stages.layer_noise(run, lowered.prepared.path, lowered.quantized, scored, spec.preprocess)

    ranges_used = lowered.prepared.ranges
    recipe = recipe if ranges_used is None else replace(recipe, method=ranges_used.method)
    again = replace(recipe, model=model)
    rows = findings.accuracy_rows(files, logits, truth, spec.weights.trained, outputs)
    rows = findings.with_latency(rows, timed.latencies if timed else {}, goal)
    known = truth if spec.weights.trained else None
    answers = findings.merge_answers(
        findings.answers(logits, truth, scored.order, spec.weights.trained),
        findings.answers(trial.logits, truth, scored.order, spec.weights.trained, backend=goal.backend),
    )
    evaluation = None if eval is None else scored.spec
    shared = dataset.overlap(images, scored) if lowered.calibration and evaluation and ranges is None else 0
    found = Report(
        version=__version__,
        model=spec,
        params=made.params,
        macs=made.macs,
        batch=made.batch,
        target=goal,
        device=timed.state if timed else trial.state or state,
        calibration=lowered.calibration,
        method=None if ranges_used is None else ranges_used.method,
        evaluation=evaluation,
        rows=rows + engines.trial_rows(goal, products, trial, logits["fp32"], known, outputs),
        engine=engines.placed(product, folder),
        stages=tuple(run.stages),
        bundle=str(folder),
        placement=lowered.quantized.plan.decisions,
        roofline=stages.floors({"fp32": baseline, precision: lowered.quantized.typed}, goal),
        layers=layers,
        adjustments=lowered.prepared.adjustments,
        notes=(
            *findings.int8_notes(precision, lowered.quantized.plan, stages.work_of(run, lowered.prepared.path)),
            *findings.weight_notes(spec),
            *findings.image_notes(recipe, lowered.calibration, evaluation, shared),
            *findings.tuning_notes(lowered.prepared.adjustments),
            *findings.uneven_notes(lowered.quantized.plan, ranges_used),
            *findings.sample_notes(rows),
            *findings.output_notes(logits, outputs, stages.choosers_of(baseline, outputs)),
            *findings.range_notes(lowered.quantized.plan, goal),
            *findings.search_notes(lowered.search, evaluation),
        ),
        command=findings.command(again),
        next_command=findings.next_command(
            again,
            goal,
            folder,
            counts={"num-classes": num_classes, "num-calib": num_calib, "num-eval": num_eval},
            options=options,
            has_engine=product.engine.status == "built",
        ),
        search=lowered.search,
    )
    delivery.write(
        folder,
        found,
        recipe,
        baseline=baseline,
        deployed=ordered.model,
        ranges=ranges_used,
        scales=lowered.scales,
        product=product,
        control=control,
        versions=stages.versions(),
        answers=answers,
    )
    findings.gate(found, max_drop, recipe, dla=dla is not None)
    return found if host is None else engines.build_engines(folder, options, host)


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


def _text(path: Path | None) -> str | None:
    """A path as recipes hold it."""
    return None if path is None else str(path)


def _bundle_folder(recipe: Recipe) -> Path:
    """Where a bundle goes unless told."""
    place = recipe.target.replace("@", "-")
    return Path("builds") / f"{recipe.model}-{spelled(recipe.input_size)}-b{recipe.batch}-{recipe.precision}-{place}"
