"""The stages that stand alone as verbs: each writes one file."""

from pathlib import Path
from typing import Literal

from edgehybrid.pipeline.lowering import calibrates, prepare
from edgehybrid.pipeline.options import calibration_images, check_tuning, load_target, refuse_beside
from edgehybrid.pipeline.outputs import check_file, deliver
from edgehybrid.printable import counted
from edgehybrid.records import Artifact, Equalize, Interpolation, Method, Refine, Rounding
from edgehybrid.sizes import spelled


def export(
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
        input_size: Side of the square input in px; of an ONNX file that leaves it open also HEIGHTxWIDTH.
        crop_pct: Fraction of the resized image that the crop keeps.
        mean: R,G,B subtracted from pixels between 0 and 1; the model's own by default, as for the next three.
        std: R,G,B by which they are then divided.
        interpolation: How images are resized: bicubic or bilinear.
        preprocess: TOML file with any of size, crop_pct, mean, std, interpolation, labels; options win over it.
        labels: File of class names: one per line, or JSON as timm and Hugging Face write it.
        batch: Images per call.
        rewrite: Apply the exact rewrites; off gives the graph as torch exported it, simplified.
        output: The file; <model>-<size>-b<batch>-fp32.onnx by default.
        seed: Of untrained weights.

    Returns:
        The file.
    """
    from edgehybrid import dataset, findings, stages

    check_file(output, (model, weights, preprocess, labels))
    run = stages.Run()
    stated = dataset.read_stated(preprocess, labels, input_size, crop_pct, mean, std, interpolation)
    source = stages.Source(model, weights, num_classes, stated, batch, seed)
    made = stages.export(run, source, calibration_images("photos", None, seed))
    path = stages.rewrite(run, made.path) if rewrite else made.path
    name = f"{made.spec.name}-{spelled(made.spec.preprocess.size)}-b{made.batch}-fp32.onnx"
    return deliver(output or Path(name), path, "onnx", findings.weight_notes(made.spec))


def calibrate(
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
    calib: str = "photos",
    num_calib: int | None = None,
    method: Method | None = None,
    shard: str | None = None,
    merge: list[Path] | None = None,
    output: Path | None = None,
    seed: int = 0,
) -> Artifact:
    """Write activation ranges of int8.

    The file serves `build --ranges` for every target. It holds histograms, so that parts made on several machines
    merge into the very ranges of one pass over all images.

    Args:
        model: A name from `edgehybrid models`, timm/NAME, or an ONNX file.
        weights: auto, imagenet, fashion-mnist, random, or a checkpoint file.
        num_classes: Classes of the model; inferred from a checkpoint.
        input_size: Side of the square input in px; of an ONNX file that leaves it open also HEIGHTxWIDTH.
        crop_pct: Fraction of the resized image that the crop keeps.
        mean: R,G,B subtracted from pixels between 0 and 1; the model's own by default, as for the next three.
        std: R,G,B by which they are then divided.
        interpolation: How images are resized: bicubic or bilinear.
        preprocess: TOML file with any of size, crop_pct, mean, std, interpolation, labels; options win over it.
        labels: File of class names: one per line, or JSON as timm and Hugging Face write it.
        calib: Calibration images: a named set, a folder, or an .npz file.
        num_calib: How many of them; 128 or all there are by default.
        method: mse, minmax, percentile or entropy; mse by default, of merged files the one they have.
        shard: Calibrate on one part of the images only, as 1/4.
        merge: A calibration file; give it twice or more to merge files instead of calibrating. No model is needed.
        output: The file; <model>-<size>-calibration.json by default.
        seed: Of image sampling and of untrained weights.

    Returns:
        The file.
    """
    given = locals()
    from edgehybrid import dataset, findings, stages

    if merge:
        allowed = {"merge", "method", "output"}
        refuse_beside("--merge", calibrate, given, allowed, "merging adds up what the files hold; no model is run")
        merged = output or Path("calibration.json")
        check_file(merged, merge)
        content, count = stages.merge_calibrations(merge, method)
        notes = (f"{counted(len(merge), 'file')} merged, {counted(count, 'image')} in all",)
        return deliver(merged, content, "calibration", notes)
    check_file(output, (model, weights, preprocess, labels), [calib])
    run = stages.Run()
    stated = dataset.read_stated(preprocess, labels, input_size, crop_pct, mean, std, interpolation)
    source = stages.Source(model, weights, num_classes, stated, 1, seed)
    chosen = calibration_images(calib, num_calib, seed)
    images = stages.take_shard(chosen, shard)
    made = stages.export(run, source, chosen)
    spec, baseline = made.spec, stages.rewrite(run, made.path)
    content = stages.make_calibration(run, baseline, images, spec.preprocess, method or "mse")
    part = "" if shard is None else "-" + shard.replace("/", "-of-")
    name = f"{spec.name}-{spelled(spec.preprocess.size)}-calibration{part}.json"
    said = (*findings.set_notes(images.spec), *findings.weight_notes(spec))
    return deliver(output or Path(name), content, "calibration", said)


def quantize(
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
    precision: Literal["int8", "fp16"] = "int8",
    target: str = "auto",
    calib: str = "photos",
    num_calib: int | None = None,
    method: Method = "mse",
    ranges: Path | None = None,
    equalize: Equalize = "all",
    refine: Refine = "biases",
    rounding: Rounding = "nearest",
    output: Path | None = None,
    seed: int = 0,
) -> Artifact:
    """Write an int8 or fp16 ONNX file.

    It is in the dialect of the target and is not measured.

    Args:
        model: A name from `edgehybrid models`, timm/NAME, or an ONNX file.
        weights: auto, imagenet, fashion-mnist, random, or a checkpoint file.
        num_classes: Classes of the model; inferred from a checkpoint.
        input_size: Side of the square input in px; of an ONNX file that leaves it open also HEIGHTxWIDTH.
        crop_pct: Fraction of the resized image that the crop keeps.
        mean: R,G,B subtracted from pixels between 0 and 1; the model's own by default, as for the next three.
        std: R,G,B by which they are then divided.
        interpolation: How images are resized: bicubic or bilinear.
        preprocess: TOML file with any of size, crop_pct, mean, std, interpolation, labels; options win over it.
        labels: File of class names: one per line, or JSON as timm and Hugging Face write it.
        batch: Images per call.
        precision: int8 (explicit Q/DQ) or fp16.
        target: A name from `edgehybrid targets`, a TOML file, or auto; decides the dialect.
        calib: Calibration images: a named set, a folder, or an .npz file.
        num_calib: How many of them; 128 or all there are by default.
        method: mse, minmax, percentile or entropy.
        ranges: A calibration file, to use its ranges instead of calibrating.
        equalize: Rescale and centre channels and shift tensors by zero points, where it measures better at the layers:
            all; folded, which only changes constants that are there; or off.
        refine: Correct biases where it measures better: biases; all, which widens ranges too and gains little; or off.
        rounding: Of weights: nearest, or optimized, which solves for the best of each layer and takes longer.
        output: The file; <model>-<size>-b<batch>-<precision>.onnx by default.
        seed: Of image sampling and of untrained weights.

    Returns:
        The file.
    """
    from edgehybrid import dataset, findings, stages

    check_file(output, (model, weights, preprocess, labels, ranges), [calib])
    check_tuning(ranges, precision, refine, rounding)
    goal = load_target(target, precision)
    run = stages.Run()
    stated = dataset.read_stated(preprocess, labels, input_size, crop_pct, mean, std, interpolation)
    source = stages.Source(model, weights, num_classes, stated, batch, seed)
    images = calibration_images(calib, num_calib, seed)
    made = stages.export(run, source, images)
    spec, baseline = made.spec, stages.rewrite(run, made.path)
    stages.check_parser(baseline, goal)
    single = stages.of_one_image(run, source, made, images, baseline) if calibrates(precision, ranges) else baseline
    prepared, _ = prepare(
        run,
        baseline,
        single,
        images,
        spec.preprocess,
        precision,
        method,
        ranges,
        equalize=equalize,
        refine=refine,
        rounding=rounding,
    )
    path, scales, tuning = prepared.path, prepared.ranges, prepared.tuning
    if scales is not None and goal.dialect == "fp32":
        written, plan = stages.quantize_alone(run, path, scales, tuning)
    else:
        peaks = stages.find_peaks(run, path, images, spec.preprocess)
        both = stages.quantize(run, path, precision, scales, peaks, tuning=tuning)
        written, plan = both.deployed(goal), both.plan
    name = f"{spec.name}-{spelled(spec.preprocess.size)}-b{made.batch}-{precision}.onnx"
    product = stages.suit_parser(run, written, goal)
    notes = (
        *findings.int8_notes(precision, plan, stages.work_of(run, path)),
        *(findings.set_notes(images.spec) if ranges is None else ()),
        *findings.weight_notes(spec),
    )
    return deliver(output or Path(name), product, "onnx", notes)
