"""Power, heat and throttling from fake device files, and a window of time watched without a real clock."""

import json
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from edgehybrid import device
from edgehybrid.device.machine import power_mode
from edgehybrid.device.power import Draw, parse_tegrastats, read_draw, tegrastats_line
from edgehybrid.device.sampler import Reading, Sampler, take_reading
from edgehybrid.device.sensors import cooling, fan, temperatures_c, throttle_events
from tests.fakes import FakeClock, ina3221_files, jetson_files, laptop_files, write_tree

SAMPLES = json.loads((Path(__file__).parent / "tegrastats.json").read_text(encoding="utf-8"))


def script(root: Path, name: str, lines: str) -> Path:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(f"#!/bin/sh\n{lines}\n")
    path.chmod(0o755)
    return path


def readings(*found: Reading) -> Iterator[Reading]:
    yield from found


# --- tegrastats -----------------------------------------------------------------------------------


@pytest.mark.parametrize("sample", SAMPLES, ids=[f"{s['gen']} {s['board'][:20]}" for s in SAMPLES])
def test_every_line_that_tegrastats_was_seen_to_print_is_read(sample: dict[str, object]) -> None:
    found, expect = parse_tegrastats(str(sample["line"])), sample["expect"]
    assert isinstance(expect, dict)
    assert found.rails_mw == expect["rails"]
    assert found.temperatures_c == expect["temps"]
    assert found.gpu_percent == expect["gpu"]
    assert (None if found.gpu_mhz is None else list(found.gpu_mhz)) == expect["gpu_mhz"]
    draw = Draw(found.rails_mw, "tegrastats")
    assert draw.watts == pytest.approx(expect["mw"] / 1e3)
    assert draw.counted == ((expect["total"],) if expect["total"] else tuple(expect["rails"]))
    assert found.memory_mb is not None
    assert found.memory_mb[0] <= found.memory_mb[1]


def test_there_are_twelve_of_them() -> None:
    assert len(SAMPLES) == 12


@pytest.mark.parametrize("line", ["", "garbage", "VDD_IN x/y GPU@C", "RAM 1/2MB VDD_IN 5", "\0" * 100])
def test_what_is_no_line_of_tegrastats_has_no_power(line: str) -> None:
    assert parse_tegrastats(line).rails_mw == {}
    assert parse_tegrastats(line).temperatures_c == {}


def test_tegrastats_is_stopped_after_its_first_line(tmp_path: Path) -> None:
    path = script(tmp_path, "tegrastats", "echo one\nexec sleep 60")
    assert tegrastats_line((str(path),)) == "one"
    assert tegrastats_line((str(script(tmp_path, "silent", "exit 1")),)) is None
    assert tegrastats_line((str(tmp_path / "missing"),)) is None


def test_it_is_asked_only_where_no_sensor_is_visible(tmp_path: Path) -> None:
    script(tmp_path, "usr/bin/tegrastats", f"echo '{SAMPLES[0]['line']}'")
    assert read_draw(tmp_path) == Draw({"POM_5V_IN": 900, "POM_5V_GPU": 0, "POM_5V_CPU": 123}, "tegrastats")
    write_tree(tmp_path, ina3221_files({"VDD_IN": (5000, 1000)}))
    assert read_draw(tmp_path) == Draw({"VDD_IN": 5000.0}, "ina3221")


# --- power ----------------------------------------------------------------------------------------


def test_a_board_with_a_total_rail_is_not_counted_twice(tmp_path: Path) -> None:
    found = read_draw(write_tree(tmp_path, jetson_files()))
    assert found == Draw({"VDD_IN": 6000.0, "VDD_CPU_GPU_CV": 2000.0, "VDD_SOC": 1400.0}, "ina3221")
    assert found.watts == 6.0


def test_a_board_without_one_is_the_sum_of_its_rails_on_both_chips(tmp_path: Path) -> None:
    first = ina3221_files({"VDD_GPU_SOC": (12000, 200), "VDD_CPU_CV": (12000, 100), "VIN_SYS_5V0": (5000, 800)})
    second = ina3221_files({"NC": (5000, 999), "VDDQ_VDD2_1V8AO": (5000, 60)}, hwmon=2)
    found = read_draw(write_tree(tmp_path, first | second))
    assert found is not None
    assert set(found.counted) == {"VDD_GPU_SOC", "VDD_CPU_CV", "VIN_SYS_5V0", "VDDQ_VDD2_1V8AO"}
    assert found.watts == pytest.approx(2.4 + 1.2 + 4.0 + 0.3)


def test_thors_input_is_its_own_sensor(tmp_path: Path) -> None:
    rails = ina3221_files({"VDD_GPU": (12000, 163), "VDD_CPU_SOC_MSS": (12000, 490), "VIN_SYS_5V0": (5000, 1127)})
    files = {"sys/class/hwmon/hwmon9/name": "ina238\n", "sys/class/hwmon/hwmon9/power1_input": "19780000\n"}
    found = read_draw(write_tree(tmp_path, rails | files))
    assert found is not None
    assert (found.counted, found.watts, found.source) == (("VIN",), 19.78, "ina3221 + ina238")


def test_jetpack_4_names_its_rails_elsewhere(tmp_path: Path) -> None:
    base = "sys/bus/i2c/drivers/ina3221x/7-0040/iio:device0"
    files = {f"{base}/rail_name_0": "POM_5V_IN\n", f"{base}/in_power0_input": "2310\n", f"{base}/rail_name_1": "NC\n"}
    assert read_draw(write_tree(tmp_path, files)) == Draw({"POM_5V_IN": 2310.0}, "ina3221x")


@pytest.mark.parametrize("content", ["", "none", "nan", "inf", "\0"])
def test_a_sensor_that_does_not_answer_is_no_rail(tmp_path: Path, content: str) -> None:
    files = ina3221_files({"VDD_IN": (5000, 1000)}) | {"sys/class/hwmon/hwmon1/curr1_input": content}
    assert read_draw(write_tree(tmp_path, files)) is None


# --- heat, throttling, fan ------------------------------------------------------------------------


def test_throttling_is_counted_by_cause(tmp_path: Path) -> None:
    assert throttle_events(write_tree(tmp_path / "orin", jetson_files())) == {
        "under-voltage": 0,
        "average over-current": 3,
        "instantaneous over-current": 0,
    }
    base = "sys/devices/system/cpu/cpu{}/thermal_throttle/{}_throttle_count"
    files = {base.format(cpu, kind): f"{7 + cpu}\n" for cpu in (0, 1) for kind in ("core", "package")}
    assert throttle_events(write_tree(tmp_path / "x86", files)) == {"core heat": 15, "package heat": 8}
    assert throttle_events(tmp_path / "nowhere") is None


def test_a_fan_at_work_is_no_throttling_but_a_clock_held_down_is(tmp_path: Path) -> None:
    root = write_tree(tmp_path, jetson_files())
    assert cooling(root) == {}
    assert fan(root) == {"percent": pytest.approx(40.0)}
    write_tree(root, {"sys/class/thermal/cooling_device1/cur_state": "4\n"})
    assert cooling(root) == {"devfreq-17000000.gpu (cooling_device1)": 4}


def test_zones_are_named_and_constants_left_out(tmp_path: Path) -> None:
    assert temperatures_c(write_tree(tmp_path, jetson_files())) == {"cpu-thermal": 47.125, "gpu-thermal": 48.968}


def test_a_power_mode_is_asked_of_nvpmodel_where_no_file_tells_it(tmp_path: Path) -> None:
    files = {name: text for name, text in jetson_files().items() if "nvpmodel/status" not in name}
    root = write_tree(tmp_path, files)
    script(root, "usr/sbin/nvpmodel", 'test "$1" = -q && printf "NV Power Mode: MAXN_SUPER\\n2\\n"')
    assert power_mode(root) == "MAXN_SUPER (nvpmodel 2)"
    script(root, "usr/sbin/nvpmodel", "exit 1")
    assert power_mode(root) is None


# --- state ----------------------------------------------------------------------------------------


def test_a_jetson_tells_everything_but_what_only_root_may_read(tmp_path: Path) -> None:
    root = write_tree(tmp_path, jetson_files() | {"sys/kernel/debug/x": ""})
    found = device.state(1, root=root)
    assert (found.power_w, found.rails_w["VDD_SOC"]) == (6.0, 1.4)
    assert found.unknown == {"clocks_mhz.emc": "readable by root only (/sys/kernel/debug)"}
    write_tree(root, {"sys/kernel/debug/bpmp/debug/clk/emc/rate": "3199000000\n"})
    assert device.state(1, root=root).clocks_mhz["emc"] == 3199.0
    assert device.state(1, root=root).unknown == {}


def test_a_laptop_says_why_it_has_no_power(tmp_path: Path) -> None:
    found = device.state(1, root=write_tree(tmp_path, laptop_files()))
    assert found.power_w is None
    assert set(found.unknown) == {"power_w", "throttle", "fan"}
    assert "only a Jetson" in found.unknown["power_w"]
    bare = device.state(1, root=tmp_path / "nowhere")
    assert {"load", "temperature_c", "power_mode", "power_w", "clocks_mhz.cpu"} <= set(bare.unknown)


# --- a window of time -----------------------------------------------------------------------------


def watched(clock: FakeClock, *watts: float, step: float = 1.0) -> Sampler:
    """One reading per number, `step` seconds apart: the first on entering, the last on leaving."""
    source = readings(*(Reading(draw=Draw({"VDD_IN": 1e3 * w, "VDD_SOC": 1.0}, "ina3221")) for w in watts))
    with Sampler(None, sense=lambda: next(source), clock=clock) as window:
        for _ in watts[1:-1]:
            clock.advance(step)
            window.take()
        clock.advance(step)
    return window


def test_energy_is_mean_power_times_time_per_call() -> None:
    window = watched(FakeClock(), 5.0, 7.0, 7.0, 5.0)
    found = window.power(calls=300, idle_w=4.0)
    assert found is not None
    assert found.mean_w == pytest.approx(6 + 1 / 3)  # 6, 7 and 6 W for a second each
    assert found.energy_mj == pytest.approx(19.0 / 300 * 1e3)
    assert (found.max_w, found.idle_w, found.seconds, found.samples, found.calls) == (7.0, 4.0, 3.0, 4, 300)
    assert (found.rails, found.source) == (("VDD_IN",), "ina3221")
    assert window.conditions(found).power == found
    assert "power_w" not in window.conditions(found).unknown


def test_unequal_intervals_weigh_by_their_length() -> None:
    clock, source = FakeClock(), readings(*(Reading(draw=Draw({"VIN": w}, "s")) for w in (1000.0, 1000.0, 3000.0)))
    with Sampler(None, sense=lambda: next(source), clock=clock) as window:
        clock.advance(9)
        window.take()
        clock.advance(1)
    assert window.mean_watts() == pytest.approx((9 * 1 + 1 * 2) / 10)


def test_without_a_sensor_there_is_no_power_but_a_reason(tmp_path: Path) -> None:
    root = write_tree(tmp_path, laptop_files())
    with Sampler(None, root=root) as window:
        pass
    assert window.power(10) is None
    found = window.conditions()
    assert found.power is None
    assert set(found.unknown) == {"power_w", "throttle"}
    assert (found.readings, found.temperature_c) == (2, 45.5)
    assert found.clocks_mhz["cpu"] == 1500.0


def test_networks_that_took_turns_have_no_power_each() -> None:
    found = watched(FakeClock(), 5.0, 5.0).conditions()
    assert found.power is None
    assert "took turns" in found.unknown["power_w"]


def test_throttling_and_extremes_are_those_of_the_window(tmp_path: Path) -> None:
    root = write_tree(tmp_path, jetson_files())
    with Sampler(None, root=root) as window:
        hot = {
            "sys/class/thermal/thermal_zone1/temp": "91000\n",
            "sys/class/devfreq/17000000.gpu/cur_freq": "204000000\n",
            "sys/class/hwmon/hwmon2/oc2_event_cnt": "5\n",
            "sys/class/thermal/cooling_device1/cur_state": "4\n",
        }
        write_tree(root, hot)
        window.take()
        write_tree(root, {name: text for name, text in jetson_files().items() if name in hot and "oc2" not in name})
    found = window.conditions(window.power(1))
    assert found.temperature_c == 91.0
    assert found.clocks_mhz["gpu"] == 204.0
    assert found.throttle == {"under-voltage": 0, "average over-current": 2, "instantaneous over-current": 0}
    assert found.cooling == {"devfreq-17000000.gpu (cooling_device1)": 4}
    assert found.memory_gib == pytest.approx(7.4 - 5.0, abs=1e-5)


def test_a_thread_reads_in_between_and_ends_with_the_window(tmp_path: Path) -> None:
    enough, count = threading.Event(), []

    def sense() -> Reading:
        count.append(1)
        if len(count) == 4:
            enough.set()
        return Reading()

    with Sampler(0.001, sense=sense) as window:
        assert enough.wait(30)
    seen = len(count)
    assert len(window.readings) == seen >= 5
    assert not [t for t in threading.enumerate() if t.name == "sampler"]


def test_an_error_inside_ends_the_thread_too() -> None:
    with pytest.raises(RuntimeError, match="inside"), Sampler(0.001, sense=Reading):
        raise RuntimeError("inside")
    assert not [t for t in threading.enumerate() if t.name == "sampler"]


def test_a_reading_of_the_bare_root_is_empty(tmp_path: Path) -> None:
    assert take_reading(tmp_path) == Reading()


@given(st.lists(st.tuples(st.floats(0.01, 10), st.floats(0.1, 100)), min_size=2, max_size=20), st.integers(1, 1000))
def test_mean_power_lies_between_the_extremes_and_energy_is_shared_by_the_calls(
    steps: list[tuple[float, float]], calls: int
) -> None:
    clock, source = FakeClock(), iter([Reading(draw=Draw({"VIN": 1e3 * w}, "ina238")) for _, w in steps])
    with Sampler(None, sense=lambda: next(source), clock=clock) as window:
        for seconds, _ in steps[1:-1]:
            clock.advance(seconds)
            window.take()
        clock.advance(steps[-1][0])
    found = window.power(calls)
    assert found is not None
    watts = [w for _, w in steps]
    assert min(watts) * (1 - 1e-9) <= found.mean_w <= max(watts) * (1 + 1e-9)
    assert found.energy_mj * calls == pytest.approx(1e3 * found.mean_w * found.seconds)
