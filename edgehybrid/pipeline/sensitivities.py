"""`sensitivity`: which layers cost accuracy."""

from pathlib import Path
from typing import Literal

from edgehybrid.errors import GraphError
from edgehybrid.pipeline.options import calibration_images, check_check, check_ranking_format, images_to_check
from edgehybrid.pipeline.outputs import check_file, write_beside_result
from edgehybrid.records import Interpolation, Method, Sensitivity


def sensitivity(
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
    calib: str = "photos",
    num_calib: int | None = None,
    method: Method = "mse",
    how: Literal["auto", "fisher", "designs"] = "auto",
    unit: Literal["group", "layer"] = "group",
    check: int | None = None,
    output: Path | None = None,
    seed: int = 0,
) -> Sensitivity:
    """Rank layers by what int8 costs them.

    All layers of the network that `build` quantizes by default, tuned as it tunes them, are ranked at the price of 3 to
    5 forward passes per image, without labels: the cost is the divergence of the softmax from the float network's. The
    ranking is then checked against leave-one-out, one run per group.

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
        calib: Images to calibrate and to rank on: a named set, a folder, or an .npz file.
        num_calib: How many of them; 128 or all there are by default.
        method: How ranges are chosen: mse, minmax, percentile or entropy.
        how: fisher (gradients, needs torch), designs (runs with one group in int8), or auto.
        unit: group (layers that TensorRT fuses) or layer (every one for itself).
        check: Images for the check, which runs each group alone on each; by default 16, or up to a quarter of them
            where there are few groups; 0 leaves it out.
        output: Also write the ranking to this file, .csv or .json.
        seed: Of image sampling, of the runs drawn, and of untrained weights.

    Returns:
        Groups, the costliest first, and Spearman's correlation with leave-one-out.
    """
    from edgehybrid import dataset, findings, reporter, stages

    check_file(output, (model, weights, preprocess), [calib])
    check_ranking_format(output)
    run = stages.Run()
    stated = dataset.read_stated(
        preprocess=preprocess, size=input_size, crop_pct=crop_pct, mean=mean, std=std, interpolation=interpolation
    )
    source = stages.Source(model, weights, num_classes, stated, 1, seed)
    images = calibration_images(calib, num_calib, seed)
    check_check(check, len(images))
    made = stages.export(run, source, images)
    if not made.spec.classes:
        raise GraphError(
            f"{model} has no class scores",
            why="what a layer costs is read from how far it moves the softmax",
            fix="give the network with its classification head",
        )
    spec, baseline = made.spec, stages.rewrite(run, made.path)
    prepared = stages.prepare(run, baseline, images, spec.preprocess, method)
    # No peaks: only the float32-typed form is run.
    int8 = stages.quantize(run, prepared.path, "int8", prepared.ranges, None, tuning=prepared.tuning)
    groups = stages.count_groups(run, prepared.path, int8, unit)
    count = images_to_check(groups, len(images)) if check is None else check
    disjoint = 0 < count <= len(images) // 2
    ranking = stages.rank_groups(
        run, prepared.path, int8, images, spec.preprocess, how=how, unit=unit, seed=seed, skip=count if disjoint else 0
    )
    checked, losses = None, ranking.groups
    if count:
        checked, losses = stages.check_ranking(
            run, prepared.path, int8, images, spec.preprocess, ranking, unit=unit, count=count, disjoint=disjoint
        )
    found = Sensitivity(
        model=made.spec.name,
        trained=made.spec.weights.trained,
        how=ranking.how,
        images=ranking.images,
        forwards=ranking.forwards,
        groups=losses,
        check=checked,
        calibration=images.spec,
        method=method,
        notes=(
            *findings.weight_notes(made.spec),
            *findings.set_notes(images.spec),
            *ranking.notes,
            *findings.ranking_notes(ranking.forwards, checked),
        ),
    )
    if output is not None:
        write_beside_result(output, reporter.ranking_file(found, output.suffix))
    return found
