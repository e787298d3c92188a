"""Doctor on a Jetson and on a laptop: what has spoilt a build or a measurement before has a line and a fix."""

import io
import sys
from pathlib import Path

import pytest
from rich.console import Console

from edgehybrid import device
from edgehybrid.device import Cuda, Gpu, health, surroundings
from edgehybrid.device.installation import BASE, EXTRAS, load_module
from edgehybrid.records import Check, Diagnosis
from edgehybrid.reporter.listings import to_document, to_table
from tests.fakes import jetson_files, laptop_files, write_tree

ORIN = Cuda("12.6", (Gpu("Orin", (8, 7)),))
NO_CUDA = Cuda(None, reason="no CUDA driver")
LOCKED = {
    "sys/devices/system/cpu/cpu0/cpufreq/scaling_min_freq": "1497600\n",
    "sys/class/devfreq/17000000.gpu/min_freq": "1020000000\n",
}


def installed(name: str) -> str | None:
    """Everything, and the TensorRT of JetPack 6.2."""
    tables = (BASE, *EXTRAS.values(), {"tensorrt": "10.3.0"})
    return next((table[name] for table in tables if name in table), None)


def look(root: Path, tensorrt: str = "ok 10.3.0", version: str = "10.3.0") -> dict[str, Check]:
    found = device.checks(
        root=root,
        find=lambda name: version if name == "tensorrt" else installed(name),
        probe=lambda: ORIN,
        ask=lambda name: tensorrt,
    )
    assert len({check.name for check in found}) == len(found)
    assert all((check.status == "ok") == (check.fix is None) or check.name in ("processor", "load") for check in found)
    return {check.name: check for check in found}


@pytest.fixture
def jetson(tmp_path: Path) -> Path:
    return write_tree(tmp_path, jetson_files())


# --- a Jetson -------------------------------------------------------------------------------------


def test_a_well_kept_jetson_has_nothing_to_mend(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEHYBRID_CACHE_DIR", str(tmp_path / "cache"))
    files = jetson_files(mode=2) | LOCKED | {
        "sys/class/hwmon/hwmon2/oc2_event_cnt": "0\n",
        "usr/src/tensorrt/bin/trtexec": "",
        "usr/bin/gst-launch-1.0": "",
        f"usr/lib/aarch64-linux-gnu/gstreamer-1.0/{surroundings.CSI_PLUGIN}": "",
        "tmp/argus_socket": "",
        "dev/video0": "",
        "sys/class/video4linux/video0/name": "vi-output, imx219 9-0010\n",
    }  # fmt: skip
    files["proc/meminfo"] += "SwapTotal:       3900000 kB\n"
    found = look(write_tree(tmp_path / "root", files))
    wrong = {name: check for name, check in found.items() if check.status != "ok"}
    assert set(wrong) <= {"virtual environment", "disk", "processor"}
    assert found["jetpack"].found == "6.2"
    assert found["tensorrt"].found == "10.3.0"
    assert found["clocks"].found == "cpu locked at 1497.6 MHz, gpu locked at 1020 MHz"
    assert found["power sensors"].found == "ina3221: 6.0 W now (VDD_IN)"
    assert found["cameras"].found == "/dev/video0 (vi-output, imx219 9-0010)"
    assert found["csi cameras"].found == "nvargus-daemon runs"


def test_clocks_that_may_move_are_to_be_locked(jetson: Path) -> None:
    assert look(jetson)["clocks"].fix == "sudo jetson_clocks --show"  # the fake kernel tells no lowest clock
    write_tree(jetson, LOCKED | {"sys/class/devfreq/17000000.gpu/min_freq": "306000000\n"})
    loose = look(jetson)["clocks"]
    assert (loose.status, loose.fix) == ("warn", "sudo jetson_clocks")
    assert "gpu 306 to 1020 MHz" in loose.found
    assert "cpu" not in loose.found


@pytest.mark.parametrize(
    ("version", "said", "status"),
    [
        ("10.3.0", "ok 10.3.0", "ok"),
        ("10.7.0", "ok 10.7.0", "warn"),
        ("8.5.2", "ok 8.5.2", "warn"),
        ("10.3.0", "ImportError: libnvinfer.so.10: cannot open shared object file", "fail"),
        ("10.3.0", "it crashed with signal 11", "fail"),
    ],
)
def test_tensorrt_must_load_and_be_its_jetpacks(jetson: Path, version: str, said: str, status: str) -> None:
    check = look(jetson, said, version)["tensorrt"]
    assert check.status == status
    assert status != "warn" or ("10.3.0" in check.found and "build" in (check.fix or ""))
    assert status != "fail" or said in check.found


@pytest.mark.parametrize(
    ("release", "word"), [("R35 (release), REVISION: 4.1,", "trtexec"), ("R77 (release)", "@jp6.2")]
)
def test_an_old_or_unknown_jetpack_says_what_to_do(jetson: Path, release: str, word: str) -> None:
    write_tree(jetson, {"etc/nv_tegra_release": f"# {release}\n"})
    check = look(jetson)["jetpack"]
    assert check.status == "warn"
    assert word in (check.fix or "")


def test_throttling_heat_and_a_missing_sensor_are_named(jetson: Path) -> None:
    assert "3 x average over-current" in look(jetson)["throttling"].found
    hot = {
        "sys/class/thermal/thermal_zone0/temp": "92000\n",
        "sys/class/thermal/cooling_device1/cur_state": "2\n",
        "sys/class/hwmon/hwmon1/name": "something\n",
    }
    found = look(write_tree(jetson, hot))
    assert found["temperature"].found.startswith("92 C at cpu-thermal")
    assert "held down now: devfreq-17000000.gpu" in found["throttling"].found
    assert {found[name].status for name in ("temperature", "throttling", "power sensors")} == {"warn"}


def test_a_small_board_wants_swap(jetson: Path) -> None:
    text = jetson_files()["proc/meminfo"]
    write_tree(jetson, {"proc/meminfo": f"{text}SwapTotal: 0 kB\n"})
    assert look(jetson)["swap"].status == "warn"
    write_tree(jetson, {"proc/meminfo": f"{text}SwapTotal: 3900000 kB\n"})
    assert look(jetson)["swap"] == Check("swap", "ok", "3.7 GiB")


def test_cameras_need_their_daemon_and_gstreamer_its_plugin(jetson: Path) -> None:
    found = look(jetson)
    assert "nvargus" in (found["csi cameras"].fix or "")
    assert found["gstreamer"].fix == "sudo apt install gstreamer1.0-tools"
    write_tree(jetson, {"usr/bin/gst-launch-1.0": ""})
    assert look(jetson)["gstreamer"].fix == "sudo apt install nvidia-l4t-gstreamer"


def test_a_camera_that_may_not_be_opened_wants_a_group(jetson: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_tree(jetson, {"dev/video0": "", "dev/video10": "", "dev/video2": ""})
    monkeypatch.setattr(surroundings.os, "access", lambda path, mode: path.name != "video2")
    check = look(jetson)["cameras"]
    assert (check.status, check.fix) == ("warn", "sudo usermod -aG video $USER, then log in again")
    assert check.found.startswith("/dev/video0, /dev/video2, /dev/video10; this user may not open /dev/video2")


def test_a_container_on_a_jetson_needs_the_boards_devices(jetson: Path) -> None:
    assert look(jetson)["container"].found == "none"
    write_tree(jetson, {"usr/bin/nvidia-container-runtime": ""})
    assert look(jetson)["container"].status == "warn"
    write_tree(jetson, {f"{surroundings._CSV}/drivers.csv": "lib, /usr/lib/x\n"})
    assert "drivers.csv" in look(jetson)["container"].found
    write_tree(jetson, {".dockerenv": ""})
    assert look(jetson)["container"].fix == "start it with: docker run --runtime nvidia"
    write_tree(jetson, {"dev/nvmap": ""})
    assert look(jetson)["container"].status == "ok"


# --- a laptop -------------------------------------------------------------------------------------


def test_what_only_a_jetson_has_is_not_missed_on_a_laptop(tmp_path: Path) -> None:
    found = device.checks(root=write_tree(tmp_path, laptop_files()), find=lambda n: None, probe=lambda: NO_CUDA)
    names = {check.name: check for check in found}
    assert {"jetpack", "power mode", "clocks", "power sensors", "csi cameras"}.isdisjoint(names)
    quiet = (
        "pycuda",
        "cuda-bindings",
        "torch-tensorrt",
        "trtexec",
        "tensorrt",
        "swap",
        "cameras",
        "gstreamer",
        "container",
        "network",
        "cuda driver",
        "temperature",
    )
    assert {names[name].status for name in quiet} == {"ok"}


def test_the_network_is_looked_at_and_not_used(tmp_path: Path) -> None:
    assert "no default route" in surroundings.network(tmp_path, offline=False).found
    route = "Iface\tDestination\tGateway\neth0\t00000000\t0100A8C0\n"
    assert "a default route" in surroundings.network(write_tree(tmp_path, {"proc/net/route": route}), False).found
    assert "EDGEHYBRID_OFFLINE" in surroundings.network(tmp_path, offline=True).found


def test_little_disk_is_found_by_its_own_check(tmp_path: Path) -> None:
    assert health.disk(0.1, tmp_path).status == "fail"


def test_what_can_be_done_follows_from_what_is_there(jetson: Path, tmp_path: Path) -> None:
    board = tuple(look(jetson).values())
    can, cannot = device.abilities(board)
    assert {"build engines for this machine", "run and time engines"} <= set(can)
    assert cannot == ()
    hidden = tuple(look(jetson, "it crashed with signal 11").values())
    assert device.abilities(hidden)[1] == ("build engines for this machine", "run and time engines")
    without = device.checks(
        root=jetson,
        find=lambda name: None if name == "pycuda" else "10.3.0" if name == "tensorrt" else installed(name),
        probe=lambda: ORIN,
        ask=lambda name: "ok 10.3.0",
    )
    assert device.abilities(without)[1] == ("run and time engines",)
    missing = next(check for check in without if check.name == "pycuda")
    assert (missing.status, missing.fix) == ("warn", "pip install 'edgehybrid[jetson]'")
    root = write_tree(tmp_path / "pc", laptop_files())
    bare = device.checks(root=root, find=lambda name: BASE.get(name), probe=lambda: NO_CUDA)
    assert device.abilities(bare)[0] == ("measure and score ONNX files",)
    nothing = device.checks(root=root, find=lambda name: None, probe=lambda: NO_CUDA)
    assert device.abilities(nothing)[0] == ()


# --- telling --------------------------------------------------------------------------------------


def test_a_module_is_loaded_in_a_child_that_may_crash(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    (tmp_path / "fine.py").write_text("__version__ = '1.2'")
    (tmp_path / "broken.py").write_text("raise ImportError('libnvinfer.so.10: no such file')")
    (tmp_path / "crashing.py").write_text("import os; os.kill(os.getpid(), 11)")
    assert load_module("fine") == "ok 1.2"
    assert "libnvinfer.so.10" in load_module("broken")
    assert load_module("crashing") == "it crashed with signal 11"
    assert "fine" not in sys.modules


def test_the_brackets_of_an_extra_survive_the_terminal() -> None:
    result = Diagnosis((Check("torch", "warn", "not installed", "pip install 'edgehybrid[host]'"),))
    console = Console(width=100, record=True, file=io.StringIO())
    console.print(to_table(result))
    assert "pip install 'edgehybrid[host]'" in console.export_text()
    assert to_document(result)["schema"] == "edgehybrid.diagnosis/1"
