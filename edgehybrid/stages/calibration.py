"""Calibration as a file: written for a set of images or a part of it, merged, and used again in another build."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from edgehybrid.dataset import Images
from edgehybrid.errors import ArtifactError, ImagesError, UsageError
from edgehybrid.printable import counted
from edgehybrid.progress import listener
from edgehybrid.records import ImageSet, Method, Preprocess, Ranges
from edgehybrid.stages.quantization import calibrate, observe
from edgehybrid.stages.run import Run


def take_shard(images: Images, shard: str | None) -> Images:
    """Part I of N of the images, every N-th one, copies of an image in one part; all of them for None.

    Raises:
        UsageError: Not of the form I/N with 1 <= I <= N.
        ImagesError: The part is empty.
    """
    if shard is None:
        return images
    first, _, count = shard.partition("/")
    if not (first.isdecimal() and count.isdecimal() and 1 <= int(first) <= int(count)):
        raise UsageError(f"--shard {shard} is no part", why="needed I/N with I from 1 to N", fix="--shard 1/4")
    places = {digest: place for place, digest in enumerate(dict.fromkeys(images.digests))}
    indexes = [i for i, digest in enumerate(images.digests) if places[digest] % int(count) == int(first) - 1]
    if not indexes:
        raise ImagesError(
            f"part {shard} of {images.spec.name} is empty",
            why=f"found {counted(len(images), 'image')}",
            fix="use fewer parts or more images",
        )
    return images.take(indexes)


def make_calibration(run: Run, baseline: Path, images: Images, preprocess: Preprocess, method: Method) -> bytes:
    """The file for these images, with the histograms that make it mergeable."""
    from edgehybrid import calibrator

    ranges = calibrate(run, baseline, images, preprocess, method)
    seen = calibrator.Observations.load(observe(run, baseline, images, preprocess))
    return calibrator.to_document(
        calibrator.Calibration(
            ranges=ranges,
            graph=run.open(baseline).fingerprint(),
            preprocess=preprocess,
            digests=tuple(sorted(digest.hex() for digest in images.digests)),
            observations=seen,
        )
    )


def merge_calibrations(paths: Sequence[Path], method: Method | None) -> tuple[bytes, int]:
    """The file of all parts together, as of one pass over their images; and how many images these are.

    Raises:
        EdgeHybridError: As `calibrator.read_document` and `calibrator.merge`.
    """
    from edgehybrid import calibrator

    parts = {str(path): calibrator.read_document(path) for path in paths}
    if len(parts) < len(paths):
        raise UsageError("a file is given twice", why="its images would count double", fix="name each file once")
    merged = calibrator.merge(parts, method)
    return calibrator.to_document(merged), merged.ranges.images


def reuse_calibration(
    run: Run, path: Path, baseline: Path, preprocess: Preprocess, method: Method
) -> tuple[Ranges, ImageSet]:
    """Ranges from a file, which must be of this very network, and the images they came from.

    Raises:
        ArtifactError: The file is of another network, or lacks a tensor that is to be quantized.
        UsageError: Another method is asked for than the file was made with.
        EdgeHybridError: As `calibrator.read_document`.
    """
    from edgehybrid import calibrator, placement, tuner

    found, model = calibrator.read_document(path), run.open(baseline)
    if method not in ("mse", found.ranges.method):  # mse is the default
        raise UsageError(
            f"--method {method} contradicts {path}",
            why=f"its ranges were chosen by {found.ranges.method}",
            fix=f"leave --method out, or make the file again with edgehybrid calibrate --method {method}",
        )
    if found.graph and found.graph != model.fingerprint():
        raise ArtifactError(
            f"{path} is of another network",
            why="weights or layers are not those it was calibrated with",
            fix="give the same --model and --weights, or calibrate this one",
        )
    model = tuner.apply_offsets(tuner.apply_factors(model, found.ranges.factors), found.ranges.offsets)
    needed = {d.tensor for d in placement.plan(model, "fp32").decisions if d.kind == "activation"}
    missing = sorted(needed - set(found.ranges.tensors))
    if missing:
        raise ArtifactError(
            f"{path} does not cover this network",
            why=f"{len(missing)} of the {len(needed)} tensors to quantize have no range, first '{missing[0]}'",
            fix="calibrate this network",
        )
    if found.preprocess is not None and found.preprocess != preprocess:
        listener().note(f"{path} was calibrated with other preprocessing: {found.preprocess}")
    used = {name: amax for name, amax in found.ranges.tensors.items() if name in needed}
    uneven = {name: levels for name, levels in found.ranges.uneven.items() if name in needed}
    tuned = bool(found.ranges.factors or found.ranges.offsets or found.ranges.zero_points)
    kept, lost = ("ranges and equalization", "") if tuned else ("ranges", "channels not equalized and ")
    note = f"{kept} taken from this file; {lost}biases not corrected, which needs a calibration in this build"
    about = ImageSet(path.name, str(path), found.ranges.images, found.ranges.sha256, note=note)
    return replace(found.ranges, tensors=used, uneven=uneven), about
