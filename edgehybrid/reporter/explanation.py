"""Why accuracy was lost and whether int8 was worth it: the layers where noise enters, and what else could be built."""

from edgehybrid.records import WORTHWHILE, LayerError, Report, Row
from edgehybrid.reporter import wording

POOR_SQNR = 20.0
"""dB of the logits below which int8 is called poor: the noise is a tenth of the signal."""
CULPRITS = 3
"""Layers named in a sentence."""
MOST_DB = 1600.0
"""dB beyond which no two float32 tensors can lie."""


def remarks(report: Report) -> tuple[str, ...]:
    """Culprits and verdict, where there is something to explain; one plain sentence each."""
    found = wording.compare(report)
    if found is None or found.precision not in ("int8", "mixed"):
        return ()
    said = []
    if found.scored is not None and _is_poor(report, found.scored):
        said.append(_culprits(report))
    said.append(_verdict(report, found))
    return tuple(sentence for sentence in said if sentence)


def added_noise(layer: LayerError) -> float:
    """Noise power that a layer adds to what arrives with its input, as a share of its signal's."""
    before = 0.0 if layer.input_db is None else _share(layer.input_db)
    return _share(layer.sqnr_db) - before


def _share(decibels: float) -> float:
    """Noise power over signal power."""
    return float(10 ** (-min(max(decibels, -MOST_DB), MOST_DB) / 10))


def _is_poor(report: Report, row: Row) -> bool:
    """Whether accuracy was lost for certain, or the logits are noisy whatever the labels say."""
    lost = report.model.weights.trained and row.drop is not None and row.drop.ci95[0] > 0
    return lost or (row.fidelity is not None and row.fidelity.sqnr_db < POOR_SQNR)


def _culprits(report: Report) -> str:
    """The layers that add most noise."""
    worst = sorted(report.layers, key=added_noise, reverse=True)[:CULPRITS]
    if not worst:
        return ""
    rules = {d.node: d.rule for d in report.placement if d.kind == "weight"}

    def name(layer: LayerError) -> str:
        exact = layer.input_db is None or layer.input_db >= wording.EXACT
        arrives = "exact" if exact else f"{wording.fixed(layer.input_db or 0, 1)} dB"
        rule = f", rule {rules[layer.node]}" if layer.node in rules else ""
        return f"{layer.node} (in {arrives}, out {wording.fixed(layer.sqnr_db, 1)} dB{rule})"

    return f"most noise enters at {', '.join(name(layer) for layer in worst)}"


def _verdict(report: Report, found: wording.Comparison) -> str:
    """That int8 is not worth it here, and why; empty where it may be."""
    what = found.precision
    drop = None if found.scored is None else found.scored.drop
    if report.model.weights.trained and drop is not None and drop.ci95[0] > 0 and what == "int8":
        return (
            "int8 is not worth it here as it is: it loses accuracy for certain, and fp16, which rounds 16 times finer, "
            "has not been shown to; build with --precision fp16, or mixed with --max-drop"
        )
    pace = wording.speed(found)
    if found.timed is None or not wording.on_target(report, found.timed):
        return _no_gain(report, what)
    if pace is not None and pace.value < WORTHWHILE:
        times = f"{pace.value:.2f}x as fast as fp32"
        return f"{what} is not worth it on {wording.place(report, found.timed)}: {times}, measured"
    return ""  # measured: what the data sheet promises is of no more interest


def _no_gain(report: Report, precision: str) -> str:
    """That the data sheet of the target promises no gain over fp16; empty where it does, or says too little."""
    floors = {floor.precision: floor for floor in report.roofline}
    low, full = next((f for p, f in floors.items() if p == precision), None), floors.get("fp32")
    if low is None or full is None or low.ms is None:
        return ""
    rate, bandwidth = low.rates.get("gpu_fp16_dense"), low.rates.get("memory_bandwidth")
    if not rate or not bandwidth:
        return ""
    half = max(sum(low.ops.values()) / (1e9 * rate), full.bytes / 2 / (1e6 * bandwidth))
    if half >= WORTHWHILE * low.ms:
        return ""
    return (
        f"{precision} is not worth it on {report.target.name} by its data sheet (estimated, nothing was measured): "
        f"no call takes less than {wording.millis(low.ms)} ms in {precision} and {wording.millis(half)} ms in fp16"
    )
