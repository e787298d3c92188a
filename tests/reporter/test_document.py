"""The JSON document has the published shape, is strict, and loses nothing."""

import json
import math
from dataclasses import replace

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from edgehybrid import reporter
from edgehybrid.errors import ArtifactError
from edgehybrid.records import Fidelity, Report
from edgehybrid.store import to_json as to_bytes
from tests.reporter import samples

QUICK = (Phase.explicit, Phase.reuse, Phase.generate)
"""Shrinking a whole report would take minutes."""

REPORTS = [name for name in samples.ALL if name not in ("hostile", "identical")]


def through_a_file(report: Report) -> Report:
    """Written as a bundle writes it, and read back."""
    return reporter.from_json(json.loads(to_bytes(reporter.to_json(report))))


def refuse(constant: str) -> float:
    raise AssertionError(f"{constant} is not JSON")


def test_the_document_has_exactly_the_published_keys() -> None:
    document = reporter.to_json(samples.labelled())
    assert list(document) == [
        "schema", "edgehybrid", "model", "target", "device", "calibration", "evaluation", "rows", "engine", "stages",
        "bundle", "details",
    ]  # fmt: skip
    assert document["schema"] == "edgehybrid.report/1"
    assert document["model"] == {
        "name": "cmt_ti",
        "weights": "calib/fashion-mnist/cmt_ti_64.safetensors",
        "trained": True,
        "params": 9_137_512,
        "macs": 103_480_320,
        "input": [1, 3, 64, 64],
        "classes": 10,
    }
    assert document["calibration"] == {"name": "fashion-mnist", "images": 256, "sha256": "a1" * 32, "method": "mse"}
    assert document["evaluation"] == {"name": "fashion-mnist", "images": 1000, "sha256": "c3" * 32}
    assert set(document["engine"]) == {"flavor", "status", "reason", "path", "bytes"}
    stages = document["stages"]
    assert isinstance(stages, list)
    assert list(stages[0]) == ["name", "seconds", "peak_rss_mb", "cached"]


def test_a_row_has_exactly_the_published_keys() -> None:
    rows = reporter.to_json(samples.labelled())["rows"]
    assert isinstance(rows, list)
    fp32, int8 = rows
    keys = ["precision", "backend", "status", "reason", "latency_ms", "accuracy", "drop", "fidelity", "bytes"]
    keys += ["conditions"]
    assert list(fp32) == list(int8) == keys
    assert list(int8["latency_ms"]) == ["p50", "p90", "p95", "p99", "min", "max", "mean", "std", "n"]
    assert list(int8["accuracy"]) == ["top1", "top5", "n", "ci95"]
    assert list(int8["drop"]) == ["points", "ci95", "mcnemar_p", "discordant"]
    assert int8["drop"]["ci95"] == [-0.49, 0.69]
    assert list(int8["fidelity"]) == ["agreement", "sqnr_db", "logit_kl", "n"]
    assert fp32["drop"] is None
    assert fp32["fidelity"] is None


def test_what_was_not_measured_is_null() -> None:
    document = reporter.to_json(samples.bare())
    row = document["rows"][0]
    assert document["calibration"] is None
    assert document["evaluation"] is None
    assert [row[k] for k in ("latency_ms", "accuracy", "drop", "fidelity", "bytes")] == [None] * 5


def test_single_latencies_stand_under_details_by_precision_and_backend() -> None:
    report = samples.labelled()
    latency = report.rows[1].latency
    assert latency is not None
    details = reporter.to_json(report)["details"]
    assert details["latency_samples"]["int8/onnxruntime-cpu"] == list(latency.samples)


@pytest.mark.parametrize("name", samples.ALL)
def test_documents_are_strict_json_and_do_not_depend_on_the_order_of_mappings(name: str) -> None:
    report = samples.ALL[name]()
    text = to_bytes(reporter.to_json(report))
    json.loads(text, parse_constant=refuse)
    device = report.device
    shuffled = replace(device, versions=dict(reversed(device.versions.items())))
    assert to_bytes(reporter.to_json(replace(report, device=shuffled))) == text


@pytest.mark.parametrize("name", REPORTS)
def test_reading_a_written_report_gives_the_report(name: str) -> None:
    report = samples.ALL[name]()
    assert through_a_file(report) == report


def test_two_rows_of_one_precision_and_backend_keep_their_own_samples() -> None:
    report = samples.on_board()
    assert report.rows[2].backend == report.rows[3].backend
    read = through_a_file(report)
    assert [row.latency for row in read.rows] == [row.latency for row in report.rows]


def test_infinity_is_null_in_the_document_and_comes_back() -> None:
    report = samples.identical()
    document = reporter.to_json(report)
    assert document["rows"][1]["fidelity"]["sqnr_db"] is None
    read = through_a_file(report)
    assert read.rows == report.rows
    assert read.layers[0].sqnr_db == math.inf
    assert math.isnan(read.layers[1].sqnr_db)


@settings(max_examples=40, deadline=None, suppress_health_check=list(HealthCheck), phases=QUICK)
@given(st.from_type(Report))
def test_any_report_survives_writing_and_reading(report: Report) -> None:
    document = reporter.to_json(report)
    again = reporter.from_json(json.loads(json.dumps(document, allow_nan=False)))
    assert reporter.to_json(again) == document


def test_untrained_weights_leave_no_accuracy_even_if_somebody_measured_one() -> None:
    report = samples.labelled()
    weights = replace(report.model.weights, trained=False)
    document = reporter.to_json(replace(report, model=replace(report.model, weights=weights)))
    assert [(row["accuracy"], row["drop"]) for row in document["rows"]] == [(None, None)] * 2


def test_passwords_and_broken_text_do_not_get_into_a_document() -> None:
    text = to_bytes(reporter.to_json(samples.hostile())).decode()
    assert "hunter2" not in text
    assert "https://***@host/w.pth" in text


@pytest.mark.parametrize(
    ("break_it", "needle"),
    [
        (lambda d: d.update(schema="edgehybrid.report/2"), "edgehybrid.report/2"),
        (lambda d: d.pop("schema"), "None"),
        (lambda d: d.pop("rows"), "rows"),
        (lambda d: d.pop("details"), "details"),
        (lambda d: d.update(rows={}), "rows"),
        (lambda d: d.update(rows=[7]), "rows"),
        (lambda d: d.update(stages=7), "stages"),
        (lambda d: d["rows"][0].pop("latency_ms"), "latency_ms"),
        (lambda d: d["rows"][0].update(status="guessed"), "status"),
        (lambda d: d["rows"][0]["latency_ms"].update(p50="fast"), "p50"),
        (lambda d: d["rows"][0]["latency_ms"].update(p50=10**400), ""),
        (lambda d: d["rows"][0]["latency_ms"].update(p50=None), "p50"),
        (lambda d: d["rows"][1]["drop"].update(ci95=[1.0]), "ci95"),
        (lambda d: d["model"].update(trained="yes"), "trained"),
        (lambda d: d["model"].update(input=[1, 3]), "input"),
        (lambda d: d["details"].update(placement=[{"node": 3}]), "node"),
        (lambda d: d["details"].update(non_finite=[]), "non_finite"),
    ],
)
def test_a_document_that_is_not_a_report_is_refused_with_its_fault_named(break_it, needle) -> None:
    document = json.loads(to_bytes(reporter.to_json(samples.labelled())))
    break_it(document)
    with pytest.raises(ArtifactError) as caught:
        reporter.from_json(document)
    assert needle in caught.value.why


@pytest.mark.parametrize("document", [None, [], "report", 3, {}])
def test_other_json_is_refused(document: object) -> None:
    with pytest.raises(ArtifactError):
        reporter.from_json(document)


def test_a_fidelity_without_noise_is_not_a_failure() -> None:
    report = samples.identical()
    assert report.rows[1].fidelity == Fidelity(100.0, math.inf, 0.0, 1000)
    assert "not finite" not in reporter.page(replace(report, layers=()))
