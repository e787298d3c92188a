"""Two measurements made apart: intervals that hold, verdicts that do not cry wolf, numbers kept with their machine."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from edgehybrid.benchmark import summarise
from edgehybrid.comparison import MARGIN, Side, compare, latency_ratio, side_of, unpaired_interval
from edgehybrid.errors import ArtifactError
from edgehybrid.records import Accuracy, Answers, Comparison, ImageSet, Latency, Measurement, Row, Timing
from edgehybrid.reporter import measurement_from_json
from edgehybrid.reporter.contrast import contrast_csv
from edgehybrid.reporter.listings import to_document
from tests.reporter import samples

DEVICE = samples.labelled().device
IMAGES = ImageSet("val", "val/", 400, "ab" * 32, labelled=True)


def drifting(p50: float, seed: int, n: int = 400, drift: float = 0.01) -> Latency:
    """A run whose neighbouring samples resemble each other, as on a real machine."""
    noise = np.random.default_rng(seed)
    slow = np.repeat(noise.normal(0, drift, n // 20 + 1), 20)[:n]
    return summarise([float(x) for x in p50 * (1 + slow + noise.gamma(1.0, 0.005, n))])


def side(path: str, p50: float = 10.0, seed: int = 0, **changes: object) -> Side:
    row = Row("int8", "onnxruntime-cpu", "measured", latency=drifting(p50, seed))
    return replace(Side(path, (row,), replace(DEVICE, load=0.1), 1), **changes)  # type: ignore[arg-type]


def answers(wrong: set[int], n: int = 400, order: str = "o") -> Answers:
    labels = tuple(i % 10 for i in range(n))
    given = tuple((x + 1) % 10 if i in wrong else x for i, x in enumerate(labels))
    return Answers(order, labels, {"int8": given})


def scored(path: str, found: Answers | None, right: int, images: ImageSet = IMAGES) -> Side:
    from edgehybrid.proportions import wilson

    low, high = wilson(right, 400)
    score = Accuracy(100 * right / 400, 99.0, 400, (100 * low, 100 * high))
    row = Row("int8", "onnxruntime-cpu", "measured", accuracy=score)
    return Side(path, (row,), DEVICE, 1, images, found)


def latency_of(found: Comparison) -> tuple[str, float | None, str | None]:
    change = found.contrasts[0].latency
    assert change is not None
    return change.verdict, change.ratio, change.reason


# --- latency --------------------------------------------------------------------------------------


def test_two_runs_of_one_file_show_no_difference() -> None:
    """A/A: at most one of twenty may be called different."""
    verdicts = [latency_of(compare(side("a", seed=2 * i), side("b", seed=2 * i + 1)))[0] for i in range(100)]
    assert verdicts.count("no difference shown") >= 95


def test_a_real_difference_is_found_in_its_direction() -> None:
    found = compare(side("a", 10.0, 1), side("b", 13.0, 2))
    verdict, ratio, reason = latency_of(found)
    assert (verdict, reason) == ("slower", None)
    assert ratio == pytest.approx(1.3, abs=0.02)
    assert latency_of(compare(side("a", 13.0, 1), side("b", 10.0, 2)))[0] == "faster"
    assert any("timed apart" in note for note in found.notes)


def test_a_difference_that_runs_apart_may_show_is_not_called_one() -> None:
    steady = [summarise([p50] * 400) for p50 in (10.0, 10.0 * (1 + MARGIN / 2))]
    rows = [(Row("int8", "onnxruntime-cpu", "measured", latency=latency),) for latency in steady]
    found = compare(side("a", rows=rows[0]), side("b", rows=rows[1]))
    verdict, _, reason = latency_of(found)
    assert verdict == "no difference shown"
    assert reason is not None
    assert "two runs of one file" in reason


def test_the_interval_of_correlated_runs_covers_the_truth() -> None:
    held = 0
    for i in range(60):
        _, interval = latency_ratio(drifting(10.0, 2 * i), drifting(11.0, 2 * i + 1))
        assert interval is not None
        held += interval[0] <= 1.1 <= interval[1]
    assert held >= 52  # 95 % of 60 is 57, less twice the noise of the count


def test_the_interval_is_the_same_every_time_and_absent_for_few_samples() -> None:
    a, b = drifting(10.0, 1), drifting(11.0, 2)
    assert latency_ratio(a, b) == latency_ratio(a, b)
    assert latency_ratio(a, summarise([10.0] * 29))[1] is None
    few = (Row("int8", "onnxruntime-cpu", "measured", latency=replace(a, samples=())),)
    verdict, ratio, reason = latency_of(compare(side("a", rows=few), side("b")))
    assert (verdict, ratio is not None) == ("no difference shown", True)
    assert reason is not None


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"device": replace(DEVICE, name="Jetson Orin Nano")}, "different machines"),
        ({"device": replace(DEVICE, power_mode="7W (nvpmodel 1)")}, "different power modes"),
        ({"device": replace(DEVICE, cores=64)}, "different numbers of cores"),
        ({"device": replace(DEVICE, memory_gib=61.0)}, "different memory sizes"),
        ({"device": replace(DEVICE, threads=1 + DEVICE.threads)}, "different numbers of threads"),
        ({"batch": 8}, "different batch sizes"),
        ({"way": "one call at a time, CUDA graph, copies left out"}, "different ways of calling"),
    ],
)
def test_a_number_of_one_machine_is_not_set_against_anothers(changes: dict[str, object], said: str) -> None:
    verdict, ratio, reason = latency_of(compare(side("a", device=DEVICE), side("b", 20.0, **changes)))
    assert (verdict, ratio) == ("not compared", None)
    assert reason is not None
    assert said in reason


def test_a_batch_size_that_nobody_told_does_not_stop_it() -> None:
    assert latency_of(compare(side("a", batch=None), side("b", seed=1, batch=8)))[0] == "no difference shown"


def test_a_busy_or_throttled_machine_and_other_clocks_are_named() -> None:
    busy = replace(DEVICE, load=9.0, clocks_mhz={"cpu_max": 2000.0})
    calm = replace(DEVICE, load=0.1, clocks_mhz={"cpu_max": 3000.0})
    notes = compare(side("a", device=calm), side("b", device=busy)).notes
    assert any("b: the machine was busy" in note for note in notes)
    assert any("clocks differ: cpu_max 3000 and 2000" in note for note in notes)


def test_a_difference_seen_on_a_busy_machine_is_not_called_one() -> None:
    busy = replace(DEVICE, load=9.0)
    verdict, ratio, reason = latency_of(compare(side("a"), side("b", 20.0, 1, device=busy)))
    assert (verdict, ratio) == ("no difference shown", pytest.approx(2.0, rel=0.05))
    assert reason is not None
    assert "b: the machine was busy" in reason


def test_against_fp32_of_the_same_rounds_the_machines_state_cancels() -> None:
    """One run on a machine half as fast: int8 is as much faster than fp32 as before, or is not."""

    def both(slow: float, gain: float, seed: int) -> tuple[Row, ...]:
        pace = slow * (1 + 0.3 * np.sin(np.arange(80) / 7 + seed))  # drifts over the run, for both alike
        noise = np.random.default_rng(seed)
        rows = []
        for precision, factor in (("fp32", 1.0), ("int8", gain)):
            times = np.repeat(pace, 5) * 10 * factor * (1 + noise.gamma(1.0, 0.01, 400))
            latency = summarise([float(t) for t in times])
            rows.append(Row(precision, "onnxruntime-cpu", "measured", latency=latency))  # type: ignore[arg-type]
        return tuple(rows)

    settings = {"model": "m", "weights": "w", "input": "64 px", "batch": "1"}
    busy = replace(DEVICE, load=9.0)
    before = side("a", rows=both(1.0, 0.5, 1), settings=settings)
    same = compare(before, side("b", rows=both(2.0, 0.5, 2), device=busy, settings=settings)).contrasts[1].latency
    assert same is not None
    assert (same.verdict, same.relative) == ("no difference shown", pytest.approx(1.0, abs=0.02))
    worse = compare(before, side("b", rows=both(2.0, 0.7, 3), device=busy, settings=settings)).contrasts[1].latency
    assert worse is not None
    assert (worse.verdict, worse.relative) == ("slower", pytest.approx(1.4, abs=0.03))
    other = compare(before, side("b", rows=both(2.0, 0.7, 3), settings=settings | {"model": "n"})).contrasts[1].latency
    assert other is not None
    assert other.relative is None  # another fp32 is no common measure


@pytest.mark.parametrize(("file", "judged"), [("same", "fp16"), ("another", None)])
def test_an_engine_is_judged_against_its_control_if_that_is_the_very_same_file(file: str, judged: str | None) -> None:
    def both(seed: int) -> tuple[Row, ...]:
        times = drifting(10.0, seed)
        return (Row("int8", "tensorrt", "measured", latency=times), Row("fp16", "tensorrt", "measured", latency=times))

    settings = {"model": "m", "weights": "w", "input": "64 px", "batch": "1", "fp16/tensorrt file": "same"}
    other = settings | {"fp16/tensorrt file": file}
    found = compare(side("a", rows=both(1), settings=settings), side("b", rows=both(2), settings=other))
    change = found.contrasts[0].latency
    assert change is not None
    assert change.relative_to == judged


@pytest.mark.parametrize("change", [{"p50": 0.0}, {"mean": -1.0}, {"samples": (1.0, 0.0)}, {"p50": float("nan")}])
def test_a_time_that_nothing_takes_is_refused(change: dict[str, object]) -> None:
    row = Row("int8", "onnxruntime-cpu", "measured", latency=replace(drifting(10.0, 1), **change))  # type: ignore[arg-type]
    with pytest.raises(ArtifactError, match=r"a\.json holds a latency that is none"):
        side_of("a.json", Measurement("m", DEVICE, (row,)), None)


def test_a_measurement_says_how_it_called_and_what_was_answered() -> None:
    timing = Timing("int8", "tensorrt", 100.0, 1.0, {}, streams=2, cuda_graph=True, transfers=False)
    given = answers(set())
    measured = Measurement("e.plan", DEVICE, (), IMAGES, timings=(timing,), subject={"batch": "4"}, answers=given)
    found = side_of("a", measurement_from_json(to_document(measured)), given)
    assert (found.way, found.batch) == ("2 calls at a time, CUDA graph, copies left out", 4)
    assert measurement_from_json(to_document(measured)).answers == given


def test_what_each_side_was_built_for_is_compared_even_under_another_precision() -> None:
    fp16 = (Row("fp16", "onnxruntime-cpu", "measured", latency=drifting(20.0, 5)),)
    found = compare(side("a"), side("b", rows=fp16))
    assert [(c.a, c.b) for c in found.contrasts] == [("int8/onnxruntime-cpu", "fp16/onnxruntime-cpu")]
    assert latency_of(found)[0] == "slower"
    nothing = compare(side("a"), side("b", rows=()))
    assert nothing.contrasts == ()
    assert "nothing to compare" in nothing.notes[-1]


# --- accuracy -------------------------------------------------------------------------------------


def test_answers_to_the_same_images_are_paired() -> None:
    found = compare(scored("a", answers(set(range(20))), 380), scored("b", answers(set(range(32))), 368))
    change = found.contrasts[0].accuracy
    assert change is not None
    assert (change.paired, change.points, change.verdict) == (True, 3.0, "worse")
    assert change.mcnemar_p == pytest.approx(2 * 0.5**12)
    assert change.ci95 is not None
    unpaired = compare(scored("a", None, 380), scored("b", None, 368)).contrasts[0].accuracy
    assert unpaired is not None
    assert (unpaired.paired, unpaired.verdict) == (False, "no difference shown")  # pairing is what finds it
    assert unpaired.reason is not None


@pytest.mark.parametrize(
    "other", [answers(set(), order="p"), replace(answers(set()), labels=(1,) * 400), answers(set(), n=300), None]
)
def test_answers_to_other_images_are_not_paired(other: Answers | None) -> None:
    change = compare(scored("a", answers(set()), 400), scored("b", other, 390)).contrasts[0].accuracy
    assert change is not None
    assert not change.paired


def test_another_image_set_is_no_comparison() -> None:
    other = replace(IMAGES, name="x", sha256="f" * 64)
    change = compare(scored("a", None, 380), scored("b", None, 300, other)).contrasts[0].accuracy
    assert change is not None
    assert (change.verdict, change.points) == ("not compared", None)


def test_the_same_images_under_another_name_are_the_same() -> None:
    moved = replace(IMAGES, name="x")
    found = compare(scored("a", answers({1}), 399), scored("b", answers({1, 2}), 398, moved)).contrasts[0].accuracy
    assert found is not None
    assert (found.paired, found.points) == (True, 0.25)


def test_a_side_against_itself_says_everything_once() -> None:
    busy = side("a", device=replace(DEVICE, load=9.0))
    notes = compare(busy, busy).notes
    assert len(set(notes)) == len(notes)


def test_the_unpaired_interval_is_newcombes() -> None:
    """Example of Newcombe 1998: 56/70 against 48/80 gives 0.0524 to 0.3339."""
    from edgehybrid.proportions import wilson

    def score(right: int, n: int) -> Accuracy:
        low, high = wilson(right, n)
        return Accuracy(100 * right / n, 100.0, n, (100 * low, 100 * high))

    assert unpaired_interval(score(56, 70), score(48, 80)) == pytest.approx((5.24, 33.39), abs=0.01)


# --- whole reports --------------------------------------------------------------------------------


def test_two_reports_say_in_what_they_differ() -> None:
    before = samples.labelled()
    after = replace(before, method="entropy", version="9.9")
    found = compare(side_of("a", before, None), side_of("b", after, None))
    assert set(found.differences) == {"calibration", "edgehybrid"}
    assert found.differences["edgehybrid"] == (before.version, "9.9")
    assert {c.a for c in found.contrasts} == {"fp32/onnxruntime-cpu", "int8/onnxruntime-cpu"}
    lines = contrast_csv(found).splitlines()
    assert len(lines) == 1 + sum((c.latency is not None) + (c.accuracy is not None) for c in found.contrasts)
    assert all(line.count(",") >= 12 for line in lines)


def test_a_report_compared_with_itself_differs_in_nothing(tmp_path: Path) -> None:
    found = compare(side_of("a", samples.labelled(), None), side_of("a", samples.labelled(), None))
    assert found.differences == {}
    assert {x.verdict for c in found.contrasts for x in (c.latency, c.accuracy) if x} == {"no difference shown"}
