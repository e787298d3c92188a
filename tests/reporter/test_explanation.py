"""Why accuracy was lost, and whether int8 was worth it."""

from dataclasses import replace

import pytest

from edgehybrid.records import Drop, Floor, LayerError, Report
from edgehybrid.reporter import explanation
from tests.reporter.samples import deferred, labelled, untrained


def lossy(report: Report, low: float, sqnr: float) -> Report:
    """The report with another drop and fidelity of int8, and three layers."""
    layers = (
        LayerError("/a/Conv", "Conv", "a", 12.0, 11.9),
        LayerError("/b/Conv", "Conv", "b", 14.0, 40.0),
        LayerError("/c/Conv", "Conv", "c", 30.0, None),
    )
    drop = Drop(low + 1, (low, low + 2), 0.01, 40)
    rows = tuple(
        replace(row, drop=drop if row.drop else None, fidelity=replace(row.fidelity, sqnr_db=sqnr))
        if row.fidelity
        else row
        for row in report.rows
    )
    return replace(report, rows=rows, layers=layers)


def test_the_layer_that_adds_noise_is_named_not_the_one_that_passes_it_on() -> None:
    said = explanation.remarks(lossy(labelled(), 0.5, 30.0))
    assert said[0].startswith("most noise enters at /b/Conv (in 40.0 dB, out 14.0 dB")
    assert "/c/Conv (in exact, out 30.0 dB" in said[0]


def test_a_certain_loss_makes_int8_not_worth_it() -> None:
    assert any("int8 is not worth it here" in text for text in explanation.remarks(lossy(labelled(), 0.5, 30.0)))


def test_poor_logits_name_culprits_whatever_the_labels_say() -> None:
    said = explanation.remarks(lossy(labelled(), -1.0, 12.0))
    assert said[0].startswith("most noise enters at")
    assert not any("loses accuracy for certain" in text for text in said)


def test_where_nothing_was_lost_no_layer_is_blamed() -> None:
    said = explanation.remarks(lossy(labelled(), -1.0, 35.0))
    assert not any("noise enters" in text for text in said)


def test_untrained_weights_lose_no_accuracy() -> None:
    said = explanation.remarks(lossy(untrained(), 0.5, 35.0))
    assert not any("loses accuracy" in text for text in said)


def test_noise_that_a_layer_adds_is_what_leaves_beyond_what_arrives() -> None:
    assert explanation.added_noise(LayerError("n", "Conv", "t", 20.0, None)) == pytest.approx(0.01)
    assert explanation.added_noise(LayerError("n", "Conv", "t", 20.0, 20.0)) == pytest.approx(0)


@pytest.mark.parametrize(("moved", "worth"), [(1_000_000, True), (50_000_000, True), (98_000_000, False)])
def test_a_data_sheet_that_promises_no_gain_over_fp16_is_quoted_as_an_estimate(moved: int, worth: bool) -> None:
    """fp16 moves 100 MB at least; int8 that moves as much is bound by memory just the same."""
    rates = {"gpu_int8_dense": 20.0, "gpu_fp16_dense": 10.0, "memory_bandwidth": 100.0}
    ops = {"int8": 10**9, "fp16": 10**8}
    floors = (
        Floor("fp32", "board", 2.0, "memory", 0.2, 2.0, {"fp32": 11 * 10**8}, 200_000_000, rates),
        Floor("int8", "board", max(0.06, moved / 1e8), "memory", 0.06, moved / 1e8, ops, moved, rates),
    )
    said = explanation.remarks(replace(deferred(), roofline=floors))
    assert any("estimated, nothing was measured" in text for text in said) != worth
