"""Numbers and sentences that the terminal table and the HTML page share, so that both say the same."""

import math
from dataclasses import dataclass

from edgehybrid.printable import counted
from edgehybrid.proportions import wilson
from edgehybrid.records import UNTRAINED, WORTHWHILE, Accuracy, Drop, Fidelity, Latency, Provenance, Report, Row

BACKENDS = {
    "onnxruntime": "ONNX Runtime",
    "onnxruntime-cpu": "ONNX Runtime CPU",
    "tensorrt": "TensorRT",
    "tensorrt-rtx": "TensorRT-RTX",
}
EXACT = 150.0
"""dB from which on a tensor is the float network's but for float32's own rounding."""


@dataclass(frozen=True)
class Comparison:
    """The lower precision that the report is about, beside fp32."""

    precision: str
    scored: Row | None  # whose accuracy or fidelity is quoted
    timed: Row | None  # whose latency is quoted
    reference: Row | None  # fp32 on the backend of `timed`, timed as well
    failure: str | None  # why there is nothing to compare


@dataclass(frozen=True)
class Speed:
    """How many times as fast as fp32."""

    value: float
    ci95: tuple[float, float] | None


# --- numbers ----------------------------------------------------------------------------------------


def fixed(value: float, digits: int) -> str:
    """A number with thousands separators; never 'nan', 'inf' or '-0.0'."""
    if math.isnan(value):
        return "not a number"
    if math.isinf(value):
        return "infinite" if value > 0 else "-infinite"
    text = f"{value:,.{digits}f}"
    return text.removeprefix("-") if not text.strip("-0.,") else text


def signed(value: float, digits: int) -> str:
    """As `fixed`, with a plus sign in front of what is above zero."""
    text = fixed(value, digits)
    return f"+{text}" if value > 0 and text.strip("0.,") else text


def millis(value: float) -> str:
    """Milliseconds to three significant digits."""
    digits = 2 - math.floor(math.log10(abs(value))) if math.isfinite(value) and value else 2
    return fixed(value, min(max(digits, 0), 4))


def size(count: int) -> str:
    """Bytes in decimal megabytes, or in the smaller unit that shows what there is."""
    if count >= 950_000:
        return f"{fixed(count / 1e6, 1)} MB"
    return f"{fixed(count / 1e3, 1 if count < 95_000 else 0)} kB" if count >= 1000 else counted(count, "byte")


def scaled(count: int) -> str:
    """A count in the unit that papers use: 9.14 M, 0.62 G."""
    if count >= 5e8:
        return f"{count / 1e9:.2f} G"
    return f"{count / 1e6:.2f} M" if count >= 1e4 else f"{count:,}"


def seconds(value: float) -> str:
    """A duration; minutes from 100 s on."""
    if value >= 99.95:
        return f"{value // 60:.0f} min {value % 60:02.0f} s"
    return f"{fixed(value, 1 if value >= 0.95 else 2)} s"


def probability(value: float, sign: str = "") -> str:
    """A p value to two digits; what is beyond belief only as a bound. `sign` stands in front of an exact one."""
    if value < 1e-4:
        return "< 0.0001"
    return f"{sign} {value:.2g}".strip() if value < 0.995 else f"{sign} 1".strip()


def interval(bounds: tuple[float, float], digits: int, *, sign: bool) -> str:
    """An interval in brackets, as in [-0.5, +0.7]."""
    show = signed if sign else fixed
    return f"[{show(bounds[0], digits)}, {show(bounds[1], digits)}]"


def digits_of(images: int) -> int:
    """Decimals of a percentage that this many images can resolve."""
    return 1 if images < 10_000 else 2


def agreement_interval(fidelity: Fidelity) -> tuple[float, float]:
    """Wilson's 95 % interval of the agreement, in percent."""
    if fidelity.agreement is None:
        raise ValueError("a network that is no classifier agrees with nothing")
    if fidelity.n < 1 or not 0 <= fidelity.agreement <= 100:
        return 0.0, 100.0
    low, high = wilson(round(fidelity.agreement / 100 * fidelity.n), fidelity.n)
    return 100 * low, 100 * high


# --- names ------------------------------------------------------------------------------------------


def backend(name: str) -> str:
    """The backend as its makers write it."""
    return BACKENDS.get(name, name)


def training(weights: Provenance) -> str:
    """What is known of it: nothing where an ONNX file is all there is, whose weights are taken as they are."""
    if not weights.trained:
        return "untrained"
    return "as the file has them" if weights.source.endswith(".onnx") else "trained"


def place(report: Report, row: Row) -> str:
    """Whose number it is: a measured one belongs to the machine the report was made on, others to the target."""
    if row.backend.startswith("onnxruntime"):
        return "this CPU"
    return "this machine" if row.status == "measured" else report.target.title


def on_target(report: Report, row: Row) -> bool:
    """Whether a row runs on the backend of the target."""
    return row.backend in (report.target.backend, f"{report.target.backend}-cpu")


# --- findings ---------------------------------------------------------------------------------------


def compare(report: Report) -> Comparison | None:
    """Pick the rows that answer whether the lower precision was worth it; None where there is only fp32."""
    lower = [row for row in report.rows if row.precision != "fp32"]
    if not lower:
        return None
    made = {row.precision for row in lower}
    precision = next((p for p in ("mixed", "int8") if p in made), lower[0].precision)
    rows = sorted((row for row in lower if row.precision == precision), key=lambda row: not on_target(report, row))
    measured = [row for row in rows if row.status == "measured"]
    timed = next((row for row in measured if row.latency is not None), None)
    by_drop = next((row for row in measured if row.drop is not None), None)
    by_fidelity = next((row for row in measured if row.fidelity is not None), None)
    reference = next(
        (
            row
            for row in report.rows
            if timed is not None
            and row.precision == "fp32"
            and row.backend == timed.backend
            and row.status == "measured"
            and row.latency is not None
        ),
        None,
    )
    failure = next((row.reason or "no reason given" for row in rows if row.status == "failed"), None)
    return Comparison(precision, by_drop or by_fidelity, timed, reference, None if measured else failure)


def speed(found: Comparison) -> Speed | None:
    """How many times as fast as fp32 on the same machine; None where either was not timed."""
    if found.timed is None or found.timed.latency is None:
        return None
    ratio = found.timed.ratio
    if ratio is not None and ratio.value > 0:
        bounds = ratio.ci95
        return Speed(1 / ratio.value, None if bounds is None or bounds[0] <= 0 else (1 / bounds[1], 1 / bounds[0]))
    if found.reference is None or found.reference.latency is None or not found.timed.latency.p50:
        return None
    return Speed(found.reference.latency.p50 / found.timed.latency.p50, None)


def question(report: Report) -> str:
    """What the reader wants to know first."""
    found = compare(report)
    return "What was measured?" if found is None else f"Is {found.precision} worth it here?"


def headline(report: Report) -> str:
    """The answer in one sentence, with its interval."""
    found = compare(report)
    if found is None:
        timed = next((row for row in report.rows if row.latency is not None and row.status == "measured"), None)
        if timed is None or timed.latency is None:
            return "Only fp32 was built, and no latency was measured: there is nothing to compare."
        return f"Only fp32 was built: {millis(timed.latency.p50)} ms per call on {place(report, timed)} (median)."
    if found.failure is not None:
        return f"{found.precision} failed: {found.failure.rstrip('.')}."
    accuracy = _accuracy_clause(report, found)
    if found.timed is None:
        return f"{accuracy}; its speed on {_goal(report)} has not been measured."
    pace = _speed_clause(report, found)
    unseen = not on_target(report, found.timed)
    return f"{accuracy}{pace}{f'; {_goal(report)} has not been measured' if unseen else ''}."


def stamps(report: Report) -> tuple[str, ...]:
    """What nobody may miss, whatever the numbers say."""
    said = [] if report.model.weights.trained else [UNTRAINED]
    if report.search is not None and not report.search.reached:
        said.append(f"BUDGET NOT HELD: no plan was shown to stay within {report.search.max_drop:g} points")
    return tuple(said)


def remarks(report: Report) -> tuple[str, ...]:
    """What keeps a reader from misreading the numbers, one plain sentence each; the report's own notes last."""
    found = compare(report)
    said = []
    trained = report.model.weights.trained
    if found is not None and found.scored is not None and found.scored.drop is not None and trained:
        said.append(_verdict(found.precision, found.scored.drop, _images(report, found.scored)))
    elif found is not None and found.scored is not None and _agrees(found.scored) and trained:
        said.append(
            "without labels nobody knows which answers are right: agreement says how often they stay the same, "
            "not how often they are correct"
        )
    for row in report.rows:
        fidelity = row.fidelity
        if fidelity is not None and (math.isnan(fidelity.sqnr_db) or not math.isfinite(fidelity.logit_kl or 0)):
            said.append(f"{row.precision} on {backend(row.backend)} gave outputs that are not finite: do not deploy it")
    device, timed = report.device, any(row.latency is not None for row in report.rows)
    if timed and device.is_busy:
        said.append(
            f"the machine was busy when the measurement began (load {device.load:.1f} on "
            f"{counted(device.cores, 'core')}): measure again with other programs closed"
        )
    said += [note for note in report.notes if note != UNTRAINED]
    return tuple(dict.fromkeys(said))


def engine_sentence(report: Report) -> str:
    """What became of the engine, and why."""
    engine = report.engine
    if engine.flavor is None and engine.reason is None:
        return "none: this target needs no engine"
    parts = [engine.status, "" if engine.flavor is None else f"({backend(engine.flavor)})"]
    text = " ".join(part for part in parts if part)
    taken = "" if engine.bytes is None else f", {size(engine.bytes)}"
    return f"{text}{taken}" + (f": {engine.reason}" if engine.reason else "")


def floor_sentence(report: Report) -> str:
    """The least time a call can take on the target, as estimated from its data sheet; empty where nothing is known."""
    known = [floor for floor in report.roofline if floor.ms is not None]
    if not known:
        return "" if report.target.backend == "onnxruntime" else _no_floor(report)
    parts = [f"{floor.precision} {millis(floor.ms or 0.0)} ms ({floor.bound})" for floor in known]
    doubt = "" if all(floor.confirmed for floor in known) else ", some of whose figures are not confirmed"
    source = f"estimated from the data sheet of {report.target.name}{doubt}, not a latency"
    text = f"{source}: with its weights read from memory once per call, no call is shorter than "
    return text + ", ".join(parts) + (f"; {_no_floor(report)}" if len(known) < len(report.roofline) else "")


def _no_floor(report: Report) -> str:
    return "; ".join(dict.fromkeys(f"none: {floor.reason}" for floor in report.roofline if floor.reason))


def time_sentence(report: Report) -> str:
    """Where the time of this build went: the total and the most expensive stages."""
    total = sum(stage.seconds for stage in report.stages)
    worst = sorted(report.stages, key=lambda stage: -stage.seconds)[:3]
    cached = sum(stage.cached for stage in report.stages)
    listed = ", ".join(f"{stage.name} {seconds(stage.seconds)}" for stage in worst)
    reused = f"; {cached} of {counted(len(report.stages), 'stage')} reused from the cache" if cached else ""
    return f"{seconds(total)}, most of it {listed}{reused}"


def drop_text(drop: Drop, images: int) -> tuple[str, str]:
    """Points and interval, positive where accuracy was lost."""
    digits = digits_of(images)
    return signed(drop.points, digits), interval(drop.ci95, digits, sign=True)


def top1_text(accuracy: Accuracy) -> tuple[str, str]:
    """Percent and interval."""
    digits = digits_of(accuracy.n)
    return fixed(accuracy.top1, digits), interval(accuracy.ci95, digits, sign=False)


def latency_text(latency: Latency) -> tuple[str, str]:
    """Median and 99th percentile in milliseconds."""
    return millis(latency.p50), millis(latency.p99)


def _goal(report: Report) -> str:
    """The target inside a sentence."""
    if report.target.backend == "onnxruntime":
        return "this CPU"
    return f"the target, {report.target.title.split(',')[0]},"


def _images(report: Report, row: Row) -> int:
    if row.accuracy is not None:
        return row.accuracy.n
    if row.fidelity is not None:
        return row.fidelity.n
    return 0 if report.evaluation is None else report.evaluation.images


def _accuracy_clause(report: Report, found: Comparison) -> str:
    if not report.model.weights.trained:
        return f"The weights are untrained, so what {found.precision} costs in accuracy is not measured"
    row = found.scored
    if row is not None and row.drop is not None:
        images = _images(report, row)
        digits = digits_of(images)
        low, high = (signed(bound, digits) for bound in row.drop.ci95)
        return (
            f"{found.precision} costs {fixed(row.drop.points, digits)} points of top-1 "
            f"(95 %: {low} to {high}, n = {images:,})"
        )
    if row is not None and row.fidelity is not None:
        if row.fidelity.agreement is None:
            return (
                f"{found.precision} adds noise {fixed(row.fidelity.sqnr_db, 1)} dB below the signal of the outputs "
                f"(against fp32, n = {row.fidelity.n:,}; no classifier, so accuracy is not measured)"
            )
        low, high = (fixed(bound, 1) for bound in agreement_interval(row.fidelity))
        return (
            f"{found.precision} gives the same top-1 as fp32 on {fixed(row.fidelity.agreement, 1)} % of images "
            f"(95 %: {low} to {high}, n = {row.fidelity.n:,}; no labels, so accuracy is not measured)"
        )
    return f"What {found.precision} costs in accuracy is not measured"


def _agrees(row: Row) -> bool:
    """Whether the answers of a classifier were held against fp32's."""
    return row.fidelity is not None and row.fidelity.agreement is not None


def _speed_clause(report: Report, found: Comparison) -> str:
    if found.timed is None or found.timed.latency is None:
        return ""
    here, new = place(report, found.timed), found.timed.latency.p50
    subject = "" if report.model.weights.trained and found.scored is not None else f"; {found.precision}"
    join = subject or " and"
    pace = speed(found)
    if pace is None or found.reference is None or found.reference.latency is None:
        control = next((row.latency for row in report.rows if _is_control(row, found.timed)), None)
        if control is not None and new:
            detail = f"({millis(new)} against {millis(control.p50)} ms, medians)"
            return f"{join} runs {control.p50 / new:.2f}x as fast as fp16 on {here} {detail}"
        return f"{join} takes {millis(new)} ms on {here} (median), with no fp32 beside it"
    times = f"{pace.value:.2f}x as fast"
    # Not the quotient of the medians of all calls, which a slow stretch of the machine shifts.
    detail = f"(median of rounds in turns; of all calls {millis(new)} against {millis(found.reference.latency.p50)} ms)"
    if pace.value >= WORTHWHILE:
        return f"{join} runs {times} as fp32 on {here} {detail}"
    if pace.value > 1 / WORTHWHILE:
        return f"{join} is no faster than fp32 on {here}: {times} {detail}"
    return f"{join} is slower than fp32 on {here}: {times} {detail}"


def _is_control(row: Row, timed: Row) -> bool:
    """Whether a row is the fp16 engine that an int8 one was timed beside."""
    return row.precision == "fp16" != timed.precision and row.backend == timed.backend and row.status == "measured"


def _verdict(precision: str, drop: Drop, images: int) -> str:
    """What the interval allows to say, and what it does not."""
    digits = digits_of(images)
    low, high = drop.ci95
    moved = (
        f"McNemar p {probability(drop.mcnemar_p, '=')}, {drop.discordant} of {images:,} answers turned right or wrong"
    )
    if low > 0:
        return f"the loss is real: even the low end of the interval is {fixed(low, digits)} points ({moved})"
    if high < 0:
        return f"{precision} scored higher than fp32 on these images, beyond chance ({moved})"
    return (
        f"these images show no difference from fp32 and cannot rule out a loss of {fixed(high, digits)} points "
        f"({moved})"
    )
