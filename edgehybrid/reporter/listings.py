"""The results of the smaller verbs: models, targets, checks, single files and measurements."""

from collections.abc import Sequence
from dataclasses import asdict

from rich.console import Group, RenderableType
from rich.text import Text

from edgehybrid.printable import counted, plain
from edgehybrid.records import (
    Comparison,
    DeviceState,
    Diagnosis,
    Issue,
    Lint,
    Listing,
    Measurement,
    Models,
    Power,
    Row,
    Sensitivity,
    Stream,
    Summary,
    Targets,
    Verification,
)
from edgehybrid.reporter import ranking, wording
from edgehybrid.reporter.contrast import contrast_table
from edgehybrid.reporter.document import LATENCY_KEYS, measurement_details, row_to_json, to_json
from edgehybrid.reporter.overview import overview_table
from edgehybrid.reporter.tables import grid
from edgehybrid.reporter.target import figure_text, target_sheet

SHOWN_PLACES = 3
"""Places shown of each rule that a graph breaks."""

ENDINGS = {
    "duration": "--duration",
    "source": "the end of the source",
    "interrupted": "Ctrl-C",
    "terminated": "SIGTERM",
}
TIMED = ("p50 ms", "p90", "p99", "max", "calls")
POWERED = ("W", "mJ/call")
SCORED = ("images", "top-1 %\n(95 %)", "drop\n(95 %)", "agree")


def to_document(result: Listing) -> dict[str, object]:
    """The JSON document of a result; its schema is `edgehybrid.<kind>/1`."""
    body = asdict(result)
    if isinstance(result, Measurement):
        body["rows"] = [row_to_json(row) for row in result.rows]
        for timing in body["timings"]:
            timing["parts"] = {name: {k: part[k] for k in LATENCY_KEYS} for name, part in timing["parts"].items()}
        body["details"] = measurement_details(result.rows)
    if isinstance(result, Summary):
        body["reports"] = [to_json(report) for report in result.reports]
    if isinstance(result, Comparison):
        return {"schema": "edgehybrid.compare/1", **body}
    return {"schema": f"edgehybrid.{type(result).__name__.lower()}/1", **body}


def to_table(result: Listing) -> RenderableType:
    """What a terminal shows of a result."""
    if isinstance(result, Models):
        return _models(result)
    if isinstance(result, Targets):
        return _targets(result)
    if isinstance(result, Diagnosis):
        return _checks(result)
    if isinstance(result, Measurement):
        return _measurement(result)
    if isinstance(result, Lint):
        return _lint(result)
    if isinstance(result, Comparison):
        return contrast_table(result)
    if isinstance(result, Summary):
        return overview_table(result.reports)
    if isinstance(result, Stream):
        return _stream(result)
    if isinstance(result, Sensitivity):
        return ranking.to_table(result)
    if isinstance(result, Verification):
        state = "" if result.trained else ", UNTRAINED WEIGHTS"
        lines = [f"{result.path}: {result.model}{state}", f"{counted(len(result.files), 'file')} match their hashes"]
        return Group(*map(_line, (*lines, f"loaded: {', '.join(result.loads)}")))
    head = f"{result.path}  {wording.size(result.bytes)}  sha256 {result.sha256[:16]}..."
    return Group(_line(head), *_notes(result.notes))


def _models(result: Models) -> RenderableType:
    table = grid("model", "input", "params", "MACs", "top-1", "licence", "weights")
    for card in result.models:
        table.add_row(
            card.name,
            f"{card.input_size} px",
            f"{card.params / 1e6:.1f} M",
            f"{card.macs / 1e9:.2f} G",
            card.published.get("top1", ""),
            card.licence.split(" (")[0],
            "download" if card.weights_url else "by hand" if "http" in card.weights_note else "none",
        )
    return Group(
        table,
        Text(
            "params and MACs are counted by this code; top-1 on ImageNet is the authors'\n"
            "weights: `download` with --weights imagenet; `by hand` from the page named in --json, then --weights FILE"
        ),
    )


def _targets(result: Targets) -> RenderableType:
    if len(result.targets) == 1:
        return target_sheet(result.targets[0])
    table = grid("target", "JetPack", "TensorRT", "int8 TOPS", "GB/s", "memory")
    for target in result.targets:
        figures = [target.figures.get(name) for name in ("jetpack", "tensorrt")]
        runs = {"onnxruntime": "none", "tensorrt-rtx": f"RTX {figure_text(figures[1])}"}
        table.add_row(
            target.name,
            figure_text(figures[0]) or "-",
            runs.get(target.backend, figure_text(figures[1])).removesuffix(" TensorRT-RTX"),
            figure_text(target.figures.get("gpu_int8_dense"), bare=True) or "-",
            figure_text(target.figures.get("memory_bandwidth"), bare=True) or "-",
            figure_text(target.figures.get("memory"), short=True) or "-",
        )
    said = "`edgehybrid targets NAME` shows one with its power modes, JetPacks and the source of every figure"
    return Group(table, Text(f"-: unknown, or read from the machine; ?: not confirmed; TOPS are dense\n{said}"))


def _checks(result: Diagnosis) -> RenderableType:
    colours = {"ok": "green", "warn": "yellow", "fail": "red"}
    table = grid("", "check", "found", folded=("found",))
    for check in result.checks:
        found = plain(check.found) + ("" if check.fix is None else f"\nfix: {plain(check.fix)}")
        table.add_row(Text(check.status.upper(), style=colours[check.status]), check.name, Text(found))
    told = [(name, deeds) for name, deeds in (("can", result.can), ("cannot yet", result.cannot)) if deeds]
    return Group(table, *(_line(f"{name}: {', '.join(deeds)}") for name, deeds in told))


def _measurement(result: Measurement) -> RenderableType:
    timed = any(row.latency for row in result.rows)
    powered = any(_power(row) is not None for row in result.rows)
    table = grid("precision", "backend", *(TIMED if timed else SCORED), *(POWERED if powered else ()))
    for row in result.rows:
        cells = [*(_timed(row) if timed else _scored(row)), *(_drawn(row) if powered else ())]
        table.add_row(row.precision, row.backend, *cells)
    head = _line(f"{result.path} on {_machine(result.device)}")
    return Group(head, table, *_timings(result), *_notes(result.notes))


def _timings(result: Measurement) -> list[RenderableType]:
    """What the table of latencies has no column for: throughput, scatter, parts of a call, layers."""
    if not result.timings:
        return []
    parts = any(timing.parts for timing in result.timings)
    names = tuple(result.timings[0].percentiles)
    columns = ("calls/s", "scatter", *(f"p{name}\n(nearest)" for name in names))
    table = grid("", "", *columns, *(("upload", "compute", "download", "enqueue") if parts else ()))
    for timing in result.timings:
        medians = [f"{timing.parts[part].p50:.3f}" for part in ("h2d", "compute", "d2h", "enqueue") if timing.parts]
        asked = [f"{timing.percentiles[name]:.2f}" for name in names]
        table.add_row(
            timing.precision, timing.backend, f"{timing.throughput:.1f}", f"{timing.variation:.1f} %", *asked, *medians
        )
    shown: list[RenderableType] = [table]
    for timing in result.timings:
        slowest = sorted(timing.layers, key=lambda layer: -layer.ms)[: result.shown_layers]
        if slowest:
            name = f"{timing.precision}: slowest layers"
            layers = grid(name, "kind", "ms", "share", folded=(name, "kind"))
            for layer in slowest:
                layers.add_row(plain(layer.name), layer.kind, f"{layer.ms:.3f}", f"{layer.percent:.1f} %")
            shown.append(layers)
    return shown


def _timed(row: Row) -> tuple[str, ...]:
    latency = row.latency
    if latency is None:
        return ("",) * len(TIMED)
    return f"{latency.p50:.2f}", f"{latency.p90:.2f}", f"{latency.p99:.2f}", f"{latency.max:.2f}", str(latency.n)


def _power(row: Row) -> Power | None:
    seen = None if row.latency is None else row.latency.conditions
    return None if seen is None else seen.power


def _drawn(row: Row) -> tuple[str, ...]:
    power = _power(row)
    return ("-",) * len(POWERED) if power is None else (f"{power.mean_w:.2f}", f"{power.energy_mj:.1f}")


def _scored(row: Row) -> tuple[str, ...]:
    accuracy, drop, fidelity = row.accuracy, row.drop, row.fidelity
    return (
        f"{accuracy.n:,}" if accuracy else f"{fidelity.n:,}" if fidelity else "",
        f"{accuracy.top1:.1f}\n[{accuracy.ci95[0]:.1f}, {accuracy.ci95[1]:.1f}]" if accuracy else "not measured",
        f"{drop.points:+.2f}\n[{drop.ci95[0]:+.2f}, {drop.ci95[1]:+.2f}]" if drop else "-",
        f"{fidelity.agreement:.1f} %" if fidelity and fidelity.agreement is not None else "-",
    )


def _stream(result: Stream) -> RenderableType:
    age, inference = result.age_ms or {}, result.inference_ms or {}
    refused = f"{result.blank:,} blank, {result.damaged:,} damaged, {result.frozen:,} frozen"
    rows = (
        ("frames", f"{result.frames:,} inferred of {result.captured:,} captured, {result.fps:.1f} fps"),
        ("left out", f"{result.dropped:,} dropped, {result.stale:,} stale, {refused}"),
        (
            "age",
            f"p50 {age['p50']:.1f}, p99 {age['p99']:.1f}, max {age['max']:.1f} ms; {result.late} late" if age else "-",
        ),
        ("inference", f"p50 {inference['p50']:.1f}, p99 {inference['p99']:.1f} ms" if inference else "-"),
        ("connection", f"{counted(result.reconnects, 'reconnect')}, longest gap {result.longest_gap_s:.1f} s"),
        ("power", "the machine does not tell" if result.power_w is None else f"{result.power_w:.1f} W"),
        ("recorded", result.recorded or "no"),
    )
    table = grid("", "", folded=("",))
    table.show_header = False
    for name, text in rows:
        table.add_row(name, text)
    head = f"{result.source}, {result.engine} {result.variant} on {_machine(result.device)}"
    ended = f"{result.seconds:.1f} s, ended by {ENDINGS[result.ended]}"
    return Group(_line(head), _line(ended), table, *_notes(result.notes))


def _lint(result: Lint) -> RenderableType:
    """One block per rule that was broken, with the first places; --json has them all."""
    by_rule: dict[str, list[Issue]] = {}
    for issue in result.issues:
        by_rule.setdefault(issue.rule, []).append(issue)
    head = (
        f"{result.path}: opset {result.opset}, {result.pairs} dequantized tensors, {result.int8} of {result.products}"
    )
    blocks = [_line(f"{head} convolutions and matrix products in int8")]
    for rule, issues in by_rule.items():
        colour = "red" if issues[0].severity == "error" else "yellow"
        places = counted(len(issues), "place")
        blocks.append(Text.assemble("\n", (issues[0].severity.upper(), colour), f"  {rule}, {places}"))
        blocks += [_line(f"  {issue.node}: {issue.found}") for issue in issues[:SHOWN_PLACES]]
        if len(issues) > SHOWN_PLACES:
            blocks.append(Text(f"  and {len(issues) - SHOWN_PLACES} more, in --json"))
        blocks.append(_line(f"  fix: {issues[0].fix}"))
    errors = sum(issue.severity == "error" for issue in result.issues)
    warnings = counted(len(result.issues) - errors, "warning")
    total = f"{counted(errors, 'error')}, {warnings} from {len(result.rules)} rules"
    clean = "" if result.issues else "; that is no proof, a build is"
    return Group(*blocks, Text(f"\n{total}{clean}"))


def _machine(device: DeviceState) -> str:
    """Its name and how many threads ran."""
    return f"{device.name}, {counted(device.threads, 'thread')}"


def _notes(notes: Sequence[str]) -> list[Text]:
    return [_line(f"note: {note}") for note in notes]


def _line(text: str) -> Text:
    """One line, whatever names of files and nodes put into it."""
    return Text(plain(text))
