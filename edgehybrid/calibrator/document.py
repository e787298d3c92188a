"""Write, read and merge `calibration.json`: ranges, what they belong to, and the histograms that they came from.

Histograms add up, so that a calibration split over machines ends in the very ranges of one pass, whatever the method.
Of ranges alone only the largest values could be merged.
"""

import base64
import hashlib
import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import chain
from pathlib import Path

from edgehybrid.calibrator.observations import Observations
from edgehybrid.calibrator.ranges import EXPONENTS, choose
from edgehybrid.errors import ArtifactError, NotFoundError, UsageError
from edgehybrid.graph.half import FLOAT16_MAX
from edgehybrid.printable import counted
from edgehybrid.records import LEVELS, Method, Preprocess, Ranges
from edgehybrid.store import decode, to_json

SCHEMA = "edgehybrid.calibration/1"

_STEEPEST = 8 * 64  # eighths of an octave; a float32 holds such a factor, its inverse and products with weights


@dataclass(frozen=True, eq=False)
class Calibration:
    """What one `calibration.json` holds."""

    ranges: Ranges
    graph: str  # fingerprint of the float32 graph; empty in files of an earlier version
    preprocess: Preprocess | None
    digests: tuple[str, ...]  # of each image, in ascending order; empty where only their number is known
    observations: Observations | None  # None: the file cannot be merged unless its method is minmax


def to_document(calibration: Calibration) -> bytes:
    """The file; equal calibrations give equal bytes."""
    seen = calibration.observations
    fields = {
        "schema": SCHEMA,
        **vars(calibration.ranges),
        "graph": calibration.graph,
        "preprocess": calibration.preprocess,
        "digests": list(calibration.digests),
        "histograms": None if seen is None else base64.b64encode(seen.to_bytes()).decode(),
    }
    return to_json(fields)


def read_document(path: Path) -> Calibration:
    """A file that `to_document` wrote.

    Raises:
        NotFoundError: No such file.
        ArtifactError: It is damaged, or something else.
    """
    if not path.is_file():
        raise NotFoundError(f"no calibration file {path}", why="nothing is there", fix="edgehybrid calibrate")
    try:
        fields = json.loads(path.read_bytes())
        if not isinstance(fields, Mapping) or fields.get("schema") != SCHEMA:
            raise ValueError(f"needed a document of schema {SCHEMA}")
        optional = {
            key: fields[key]
            for key in ("tied", "factors", "offsets", "zero_points", "exponent", "uneven")
            if key in fields
        }
        needed = {key: fields.get(key) for key in ("method", "images", "sha256", "tensors")}
        ranges = decode(Ranges, needed | optional)
        _check(ranges)
        digests = decode(tuple[str, ...], fields.get("digests", ()))
        digest_of(digests)  # so that what is no hash is found here
        packed, preprocess = fields.get("histograms"), fields.get("preprocess")
        seen = None if packed is None else Observations.from_bytes(base64.b64decode(packed, validate=True))
        if seen is not None and (set(seen.tensors) != set(ranges.tensors) or seen.images != ranges.images):
            raise ValueError("its histograms and its ranges do not belong together")
        return Calibration(
            ranges,
            decode(str, fields.get("graph", "")),
            None if preprocess is None else decode(Preprocess, preprocess),
            digests,
            seen,
        )
    except Exception as error:  # json, base64, zipfile and numpy raise a dozen unrelated types
        raise ArtifactError(
            f"{path} is not a usable calibration file",
            why=" ".join(str(error).split()) or type(error).__name__,
            fix="edgehybrid calibrate writes one",
        ) from error


def _check(ranges: Ranges) -> None:
    """Raise ValueError where a number or a name is none that calibration writes."""
    if not all(0 <= amax < math.inf for amax in ranges.tensors.values()):
        raise ValueError("a range is negative or not finite")
    if ranges.images < 1 or ranges.exponent not in EXPONENTS:
        raise ValueError(f"{ranges.images} images or the exponent {ranges.exponent} cannot be")
    if not ranges.uneven.keys() <= ranges.tensors.keys() or not all(0 <= n <= LEVELS for n in ranges.uneven.values()):
        raise ValueError(f"'uneven' names a tensor without a range, or levels beyond 0 to {LEVELS}")
    if not ranges.tensors.keys() >= set(chain.from_iterable(ranges.tied)):
        raise ValueError("'tied' names a tensor without a range")
    if not all(abs(int(each)) <= _STEEPEST for text in ranges.factors.values() for each in text.split()):
        raise ValueError(f"a factor lies beyond 2**{_STEEPEST // 8}")
    if not all(math.isfinite(float(each)) for text in ranges.offsets.values() for each in text.split()):
        raise ValueError("an offset is not finite")
    if not all(abs(each) <= FLOAT16_MAX for each in ranges.zero_points.values()):
        raise ValueError("a zero point is none that float16 holds")


def digest_of(digests: Sequence[str]) -> str:
    """SHA-256 of a set of images from those of its images, as image sets have it."""
    return hashlib.sha256(b"".join(sorted(bytes.fromhex(digest) for digest in digests))).hexdigest()


def merge(parts: Mapping[str, Calibration], method: Method | None) -> Calibration:
    """The calibration of all images together; the same, bit for bit, as of one pass over them.

    Args:
        parts: Name -> calibration, at least two; their order does not matter.
        method: How ranges are chosen; None keeps the method that all parts have.

    Raises:
        UsageError: One part alone, images that are in two parts, or parts of different methods and none asked for.
        ArtifactError: Parts of different networks or preprocessing, or without what merging needs.
    """
    given = list(parts.values())
    if len(given) < 2:
        raise UsageError(
            "one calibration is nothing to merge", why="needed two files or more", fix="give --merge twice"
        )
    chosen = _common_method(parts) if method is None else method
    _check_alike(parts)
    first, digests = given[0], _join_digests(given)
    images = sum(part.ranges.images for part in given)
    if len(digests) != images:
        lacking = next(name for name, part in parts.items() if len(part.digests) != part.ranges.images)
        raise _unmergeable(lacking, "it does not say which images it is of")
    sha256, seen = digest_of(digests), _merge_observations(parts)
    if seen is not None:
        return replace(
            first,
            ranges=choose(seen, chosen, images=images, sha256=sha256, tied=first.ranges.tied),
            digests=digests,
            observations=seen,
        )
    lacking = next(name for name, part in parts.items() if part.observations is None)
    if chosen != "minmax" or any(part.ranges.method != "minmax" for part in given):
        raise _unmergeable(lacking, f"it holds ranges without histograms: only minmax merges so, not {chosen}")
    peaks = {name: max(part.ranges.tensors[name] for part in given) for name in sorted(first.ranges.tensors)}
    ranges = Ranges("minmax", images, sha256, peaks, uneven=_merge_uneven([part.ranges for part in given], peaks))
    return replace(first, ranges=ranges, digests=digests, observations=None)


def _check_alike(parts: Mapping[str, Calibration]) -> None:
    """Refuse parts of different networks or preprocessing, each held against the first."""
    (earliest, first), *others = parts.items()
    for name, part in others:
        for what, ours, theirs in (
            ("networks", first.graph, part.graph),
            ("preprocessing", first.preprocess, part.preprocess),
            ("tensors", set(first.ranges.tensors), set(part.ranges.tensors)),
        ):
            if ours != theirs:
                raise ArtifactError(
                    f"{earliest} and {name} cannot be merged",
                    why=f"they are of different {what}",
                    fix="calibrate all parts with the same model, weights, --input-size and --crop-pct",
                )


def _join_digests(given: Sequence[Calibration]) -> tuple[str, ...]:
    """The digests of all images, in ascending order.

    Raises:
        UsageError: Some images are in two parts.
    """
    if len({part.ranges.sha256 for part in given}) < len(given):
        raise UsageError(
            "the same images are given twice",
            why="two of the files are of the same set of images, which would count double",
            fix="calibrate each part with its own --shard",
        )
    digests = tuple(sorted(chain.from_iterable(part.digests for part in given)))
    shared = len(digests) - len(set().union(*(part.digests for part in given)))
    shared -= sum(len(part.digests) - len(set(part.digests)) for part in given)  # a set may hold an image twice
    if shared:
        raise UsageError(
            "some images are given twice",
            why=f"{counted(shared, 'image')} of {len(digests):,} would count double, as several files have them",
            fix="calibrate each part with its own --shard of the same images, or on images that no other part has",
        )
    return digests


def _merge_uneven(parts: Sequence[Ranges], amax: Mapping[str, float]) -> dict[str, float]:
    """What is uneven in any part, with the fewest levels that a part's median image reaches of the merged range."""
    found: dict[str, float] = {}
    for part in parts:
        for name, levels in part.uneven.items():
            reached = round(levels * part.tensors[name] / amax[name], 1) if amax[name] else 0.0
            found[name] = min(reached, found.get(name, reached))
    return dict(sorted(found.items()))


def _common_method(parts: Mapping[str, Calibration]) -> Method:
    methods = {part.ranges.method for part in parts.values()}
    if len(methods) > 1:
        raise UsageError(
            "the files were calibrated with different methods",
            why=f"found {' and '.join(sorted(methods))}",
            fix="say which one the result should have: --method",
        )
    return methods.pop()


def _merge_observations(parts: Mapping[str, Calibration]) -> Observations | None:
    """All histograms added up; None where a part has none."""
    found = [part.observations for part in parts.values()]
    total: Observations | None = None
    for one in found:
        if one is None:
            return None
        total = one if total is None else total.merge(one)
    return total


def _unmergeable(name: str, why: str) -> ArtifactError:
    return ArtifactError(
        f"{name} cannot be merged", why=why, fix="edgehybrid calibrate writes files that can; those in bundles cannot"
    )
