"""What is recorded beside a latency: conditions and, where a sensor measures it, energy per call."""

import itertools
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import edgehybrid
from edgehybrid import device, findings, stages
from edgehybrid.device.power import Draw
from edgehybrid.device.sampler import Reading, Sampler
from edgehybrid.records import Conditions, Power
from edgehybrid.reporter import from_json, page, to_json
from edgehybrid.reporter.wording import remarks
from tests.fakes import FakeRunner
from tests.reporter import samples
from tests.single import SingleNet

FEEDS = {"input": np.zeros((1, 3, 2, 2), np.float32)}
POWER = Power(6.0, 7.5, 4.0, 60.0, 3.0, 15, 300, ("VDD_IN",), "ina3221")
COLD = Conditions(3.0, 2, 48.0, {"cpu": 1500.0}, {"under-voltage": 0}, {}, 2.0, POWER, {"clocks_mhz.emc": "root only"})


def test_every_latency_is_quoted_with_the_conditions_it_was_measured_in(tmp_path: Path) -> None:
    net = SingleNet(1, 16, 8, 8)
    path = tmp_path / "model.onnx"
    path.write_bytes(net.graph(net.conv("input", 16, 32, 3)).to_bytes())
    (found,) = stages.measure({"fp32": path}, warmup=0.0, duration=0.0, iterations=1).values()
    assert found.conditions is not None
    assert found.conditions.readings == 2  # at both ends: nothing is read while calls are timed
    assert (found.conditions.power is None) == ("power_w" in found.conditions.unknown)


def test_each_network_draws_its_power_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    watts = itertools.chain([4.0, 4.0], [9.0, 9.0], [6.0, 6.0])
    diary: list[str] = []
    runners = [FakeRunner(diary=diary, name=name) for name in "ab"]

    def sampler() -> Sampler:
        return Sampler(None, sense=lambda: Reading(draw=Draw({"VDD_IN": 1e3 * next(watts)}, "ina3221")))

    monkeypatch.setattr(device, "tells_power", lambda: True)
    monkeypatch.setattr(device, "Sampler", sampler)
    powers = stages.measure_power(runners, FEEDS, duration=0.0, settle=0.0)
    assert [power and power.mean_w for power in powers] == [9.0, 6.0]
    assert [power and power.idle_w for power in powers] == [4.0, 4.0]
    assert diary == ["a", "b"]


def test_where_nothing_measures_power_no_network_runs_for_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(device, "tells_power", lambda: False)
    runner = FakeRunner()
    assert stages.measure_power([runner], FEEDS) == [None]
    assert runner.calls == 0


def test_conditions_come_back_from_the_report() -> None:
    report = samples.labelled()
    rows = tuple(replace(row, latency=row.latency and replace(row.latency, conditions=COLD)) for row in report.rows)
    report = replace(report, rows=rows)
    document = to_json(report)
    assert from_json(document) == from_json(to_json(from_json(document))) == report
    (first, *_) = document["rows"]  # type: ignore[misc]
    assert first["conditions"]["power"]["energy_mj"] == 60.0


def test_the_page_shows_power_and_why_there_is_none() -> None:
    report = samples.labelled()
    fp32, int8 = report.rows
    dark = replace(COLD, power=None, temperature_c=None, unknown={"power_w": "no sensor", "temperature_c": "no zone"})
    assert fp32.latency is not None
    assert int8.latency is not None
    rows = (
        replace(fp32, latency=replace(fp32.latency, conditions=dark)),
        replace(int8, latency=replace(int8.latency, conditions=COLD)),
    )
    shown = page(replace(report, rows=rows))
    for text in ("not told: no sensor", "not told: no zone", "energy per call, mJ", "60.0", "hottest sensor, °C"):
        assert text in shown


def test_a_machine_that_slowed_itself_down_is_named() -> None:
    fp32, int8 = samples.labelled().rows
    assert fp32.latency is not None
    hot = replace(COLD, throttle={"average over-current": 2, "under-voltage": 0}, cooling={"cpufreq-cpu0": 3})
    slowed = replace(fp32, latency=replace(fp32.latency, conditions=hot))
    notes = [note for note in findings.speed_notes((slowed, int8)) if "throttled" in note]
    assert len(notes) == 1
    assert "2 x average over-current, cpufreq-cpu0 held down" in notes[0]
    fine = replace(fp32, latency=replace(fp32.latency, conditions=COLD))
    assert not [note for note in findings.speed_notes((fine,)) if "throttled" in note]


def test_a_latency_from_the_cache_keeps_the_load_it_was_measured_under(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EDGEHYBRID_CACHE_DIR", str(tmp_path / "cache"))
    net, now, busy = SingleNet(1, 3, 8, 8), device.state(), []
    (tmp_path / "tiny.onnx").write_bytes(net.graph(net.conv("input", 3, 16, 3)).to_bytes())
    for load, output in ((100.0 * now.cores, "busy"), (0.0, "idle")):  # the second finds every stage in the cache
        monkeypatch.setattr(device, "state", lambda threads=0, load=load: replace(now, load=load))
        built = edgehybrid.build(
            model=str(tmp_path / "tiny.onnx"), precision="fp32", target="cpu", num_calib=2, output=tmp_path / output
        )
        busy.append((built.device.load, any("the machine was busy" in said for said in remarks(built))))
    assert busy == [(100.0 * now.cores, True)] * 2
