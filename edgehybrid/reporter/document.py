"""The JSON document `edgehybrid.report/1`: a report written, and read back without loss."""

import math
import re
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, fields, is_dataclass, replace
from typing import cast

from edgehybrid.errors import ArtifactError
from edgehybrid.records import Measurement, Report, Row
from edgehybrid.sizes import sides
from edgehybrid.store import decode

SCHEMA = "edgehybrid.report/1"
MEASUREMENT_SCHEMA = "edgehybrid.measurement/1"

_PASSWORD = re.compile(r"(?<=://)[^/@\s:]*:[^/@\s]*(?=@)")
_SURROGATE = re.compile("[\ud800-\udfff]")
LATENCY_KEYS = ("p50", "p90", "p95", "p99", "min", "max", "mean", "std", "n")


def to_json(report: Report) -> dict[str, object]:
    """The report as one strict JSON document.

    The top level has exactly the keys that DESIGN.md section 4 lists; everything else (placement, layers, single
    latencies, provenance) stands under `details`. JSON has no infinity, yet the SQNR of identical outputs is
    infinite: such a number becomes null and its true value is listed under `details.non_finite` by path.

    Args:
        report: What was found. Passwords in URLs, and accuracy of untrained weights, do not get out of here.

    Returns:
        Dicts, lists, strings, numbers, booleans and None. Equal reports give equal documents.
    """
    report = publishable(report)
    model, images = report.model, report.calibration
    document: dict[str, object] = {
        "schema": SCHEMA,
        "edgehybrid": report.version,
        "model": {
            "name": model.name,
            "weights": model.weights.source,
            "trained": model.weights.trained,
            "params": report.params,
            "macs": report.macs,
            "input": [report.batch, 3, *sides(model.preprocess.size)],
            "classes": model.classes,
        },
        "target": asdict(report.target),
        "device": asdict(report.device),
        "calibration": None
        if images is None
        else {"name": images.name, "images": images.images, "sha256": images.sha256, "method": report.method},
        "evaluation": None
        if report.evaluation is None
        else {k: getattr(report.evaluation, k) for k in ("name", "images", "sha256")},
        "rows": [row_to_json(row) for row in report.rows],
        "engine": asdict(report.engine),
        "stages": [asdict(stage) for stage in report.stages],
        "bundle": report.bundle,
        "details": _details(report),
    }
    return _strict(document)


def from_json(document: object) -> Report:
    """The report that `to_json` wrote.

    Args:
        document: Parsed JSON, from a file nobody vouches for.

    Raises:
        ArtifactError: Another schema, or a field that is missing or of the wrong type; `why` names it.
    """
    with _usable("report", fix="build again; `edgehybrid verify BUNDLE` says which file was changed"):
        return decode(Report, _record_tree(_restored(_of_schema(document, SCHEMA))))


def measurement_details(rows: Sequence[Row]) -> dict[str, object]:
    """What the keys of a row have no place for: single latencies and ratios, by row."""
    named = list(zip(_row_keys([(row.precision, row.backend) for row in rows]), rows, strict=True))
    return {
        "latency_samples": {
            k: list(r.latency.samples) for k, r in named if r.latency is not None and r.latency.samples
        },
        "latency_ratios": {key: asdict(row.ratio) for key, row in named if row.ratio is not None},
    }


def measurement_from_json(document: object) -> Measurement:
    """The measurement that `bench --json` or `evaluate --json` printed.

    Args:
        document: Parsed JSON, from a file nobody vouches for.

    Raises:
        ArtifactError: Another schema, or a field that is missing or of the wrong type; `why` names it.
    """
    with _usable("measurement", fix="measure again: edgehybrid bench BUNDLE --json > measurement.json"):
        found = _of_schema(document, MEASUREMENT_SCHEMA)
        details = found.get("details") or {"latency_samples": {}, "latency_ratios": {}}
        tree = {key: value for key, value in found.items() if key not in ("schema", "details")}
        return decode(Measurement, tree | {"rows": _row_trees(found, cast(Mapping[str, object], details))})


@contextmanager
def _usable(what: str, *, fix: str) -> Iterator[None]:
    """Errors in a document that nobody vouches for, as one error."""
    try:
        yield
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError) as error:
        missing = f"the field {error} is missing" if isinstance(error, KeyError) else str(error)
        raise ArtifactError(f"this is not a usable EdgeHybrid {what}", why=missing[:300], fix=fix) from error


def _of_schema(document: object, schema: str) -> Mapping[str, object]:
    """The document, which must be one of this schema."""
    if not isinstance(document, Mapping) or document.get("schema") != schema:
        found = document.get("schema") if isinstance(document, Mapping) else type(document).__name__
        raise ValueError(f"found schema {found!r}, needed {schema!r}")
    return document


def publishable(report: Report) -> Report:
    """What may be shown: passwords in URLs masked, text valid Unicode, no accuracy of untrained weights."""
    clean = cast(Report, _cleaned(report))
    if clean.model.weights.trained:
        return clean
    return replace(clean, rows=tuple(replace(row, accuracy=None, drop=None) for row in clean.rows))


def _cleaned(value: object) -> object:
    if isinstance(value, str):
        return _SURROGATE.sub("\ufffd", _PASSWORD.sub("***", value))
    if is_dataclass(value) and not isinstance(value, type):
        return replace(value, **{f.name: _cleaned(getattr(value, f.name)) for f in fields(value)})
    if isinstance(value, tuple):
        return tuple(_cleaned(item) for item in value)
    if isinstance(value, Mapping):
        return {str(_cleaned(k)): _cleaned(value[k]) for k in sorted(value)}
    return value


def _details(report: Report) -> dict[str, object]:
    """What the schema's own keys have no place for."""
    return {
        "model": asdict(report.model),
        "method": report.method,
        "calibration": None if report.calibration is None else asdict(report.calibration),
        "evaluation": None if report.evaluation is None else asdict(report.evaluation),
        **measurement_details(report.rows),
        "placement": [asdict(decision) for decision in report.placement],
        "layers": [asdict(layer) for layer in report.layers],
        "search": None if report.search is None else asdict(report.search),
        "adjustments": [asdict(adjustment) for adjustment in report.adjustments],
        "notes": list(report.notes),
        "next_command": report.next_command,
        "command": report.command,
        "roofline": [asdict(floor) for floor in report.roofline],
    }


def row_to_json(row: Row) -> dict[str, object]:
    """One row with the keys of the schema, in its order."""
    latency = row.latency
    return {
        "precision": row.precision,
        "backend": row.backend,
        "status": row.status,
        "reason": row.reason,
        "latency_ms": None if latency is None else {k: getattr(latency, k) for k in LATENCY_KEYS},
        "accuracy": None if row.accuracy is None else asdict(row.accuracy),
        "drop": None if row.drop is None else asdict(row.drop),
        "fidelity": None if row.fidelity is None else asdict(row.fidelity),
        "bytes": row.bytes,
        "conditions": None if latency is None or latency.conditions is None else asdict(latency.conditions),
    }


def _row_keys(rows: Sequence[tuple[object, object]]) -> list[str]:
    """A name per (precision, backend), as in 'int8/onnxruntime-cpu'; a second one of that name gets '#2'."""
    seen: Counter[str] = Counter()
    keys = []
    for precision, backend in rows:
        name = f"{precision}/{backend}"
        seen[name] += 1
        keys.append(name if seen[name] == 1 else f"{name}#{seen[name]}")
    return keys


def _record_tree(document: Mapping[str, object]) -> dict[str, object]:
    """The document rearranged into the shape of `records.Report`; the schema's own keys win over `details`."""
    details, model = _object(document, "details"), _object(document, "model")
    shape, spec = _list(model, "input"), dict(_object(details, "model"))
    if len(shape) != 4:
        raise ValueError(f"model.input has {len(shape)} numbers, needed 4")
    spec |= {"name": model["name"], "classes": model["classes"]}
    spec["weights"] = _object(spec, "weights") | {"source": model["weights"], "trained": model["trained"]}
    preprocess = _object(spec, "preprocess")
    is_square = shape[2] == shape[3] and not isinstance(preprocess.get("size"), list)
    spec["preprocess"] = preprocess | {"size": shape[3] if is_square else shape[2:]}
    return {
        "version": document["edgehybrid"],
        "model": spec,
        "params": model["params"],
        "macs": model["macs"],
        "batch": shape[0],
        "target": document["target"],
        "device": document["device"],
        "calibration": _image_set(document, details, "calibration"),
        "method": details["method"],
        "evaluation": _image_set(document, details, "evaluation"),
        "rows": _row_trees(document, details),
        "engine": document["engine"],
        "stages": document["stages"],
        "bundle": document["bundle"],
        "placement": details["placement"],
        "layers": details["layers"],
        "search": details.get("search"),
        "adjustments": details.get("adjustments", ()),
        "notes": details["notes"],
        "next_command": details["next_command"],
        "command": details["command"],
        "roofline": details.get("roofline", []),
    }


def _row_trees(document: Mapping[str, object], details: Mapping[str, object]) -> list[dict[str, object]]:
    """Rows in the shape of `records.Row`: samples and ratios come back from `details`."""
    samples, ratios = _object(details, "latency_samples"), _object(details, "latency_ratios")
    items = [_object({"rows": item}, "rows") for item in _list(document, "rows")]
    rows = []
    for key, row in zip(_row_keys([(x["precision"], x["backend"]) for x in items]), items, strict=True):
        latency, conditions = row.pop("latency_ms"), row.pop("conditions", None)
        if latency is not None:
            times = {"samples": samples.get(key, ()), "conditions": conditions}
            latency = _object({"latency_ms": latency}, "latency_ms") | times
        rows.append(row | {"latency": latency, "ratio": ratios.get(key)})
    return rows


def _image_set(document: Mapping[str, object], details: Mapping[str, object], key: str) -> dict[str, object] | None:
    if document[key] is None:
        return None
    shown = _object(document, key)
    return _object(details, key) | {k: shown[k] for k in ("name", "images", "sha256")}


def _object(parent: Mapping[str, object], key: str) -> dict[str, object]:
    value = parent[key]
    if not isinstance(value, Mapping):
        raise ValueError(f"{key}: needed an object, found {type(value).__name__}")
    return dict(value)


def _list(parent: Mapping[str, object], key: str) -> list[object]:
    value = parent[key]
    if not isinstance(value, list | tuple):
        raise ValueError(f"{key}: needed a list, found {type(value).__name__}")
    return list(value)


def _strict(document: dict[str, object]) -> dict[str, object]:
    """Tuples as lists, and null for every number JSON cannot hold, listed under `details.non_finite`."""
    found: dict[str, str] = {}

    def plain(value: object, path: str) -> object:
        if isinstance(value, Mapping):
            return {k: plain(v, f"{path}/{k}") for k, v in value.items()}
        if isinstance(value, list | tuple):
            return [plain(v, f"{path}/{i}") for i, v in enumerate(value)]
        if isinstance(value, float) and not math.isfinite(value):
            found[path[1:]] = str(value)
            return None
        return value

    strict = cast(dict[str, object], plain(document, ""))
    cast(dict[str, object], strict["details"])["non_finite"] = found
    return strict


def _restored(document: Mapping[str, object]) -> Mapping[str, object]:
    """The document with the numbers of `details.non_finite` back in place."""
    listed = _object(_object(document, "details"), "non_finite")

    def put(value: object, path: str) -> object:
        if isinstance(value, Mapping):
            return {str(k): put(v, f"{path}/{k}") for k, v in value.items()}
        if isinstance(value, list):
            return [put(v, f"{path}/{i}") for i, v in enumerate(value)]
        if value is None and path[1:] in listed:
            return float(str(listed[path[1:]]))
        return value

    return cast(Mapping[str, object], put(document, ""))
