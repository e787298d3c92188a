"""The machine as its files tell it: a laptop, Jetsons, a machine that tells nothing; no test looks at this one's."""

import dataclasses
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from edgehybrid import device
from edgehybrid.device import Cuda, Gpu, board, health, machine
from edgehybrid.device.doctor import BASE, EXTRAS
from edgehybrid.device.installation import GPU_ALONE
from edgehybrid.records import Check
from tests.fakes import jetson_files, laptop_files, write_tree

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

NO_CUDA = Cuda(None, reason="no CUDA driver")
RTX = Cuda("13.0", (Gpu("NVIDIA GeForce RTX 4070", (8, 9)),))
ORIN = Cuda("12.6", (Gpu("Orin", (8, 7)),))


@pytest.fixture
def laptop(tmp_path: Path) -> Path:
    return write_tree(tmp_path, laptop_files())


@pytest.fixture
def jetson(tmp_path: Path) -> Path:
    return write_tree(tmp_path, jetson_files())


def named(checks: tuple[Check, ...], name: str) -> Check:
    (found,) = [check for check in checks if check.name == name]
    return found


def installed(name: str) -> str | None:
    """A complete installation, with newer versions than needed."""
    least = {name: version for table in (BASE, *EXTRAS.values()) for name, version in table.items()}.get(name)
    return None if least is None else f"{least}.9+cpu"


# --- state ----------------------------------------------------------------------------------------


def test_a_laptop_is_described_by_its_files(laptop: Path) -> None:
    found = device.state(3, root=laptop)
    assert found.name == "Test CPU @ 2.40GHz"
    assert (found.cores, found.threads) == (2, 3)  # 4 hyper-threads
    assert found.memory_gib == 16.0
    assert found.system == "Debian GNU/Linux 12 (bookworm), Linux 6.1.0-18-amd64"
    assert found.load == 0.25
    assert found.clocks_mhz == {"cpu": 1500.0, "cpu_max": 2400.0}
    assert found.temperature_c == 45.5
    assert found.power_mode == "governor powersave"


def test_a_jetson_is_described_by_its_files(jetson: Path) -> None:
    found = device.state(6, root=jetson)
    assert found.name == "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super"
    assert found.cores == 6
    assert found.memory_gib == pytest.approx(7.4, abs=1e-5)
    assert found.system == "Ubuntu 22.04.5 LTS, Linux 5.15.148-tegra, L4T 36.4.3"
    assert found.clocks_mhz == {"cpu": 729.6, "cpu_max": 1497.6, "gpu": 306.0, "gpu_max": 1020.0}
    assert found.temperature_c == 48.968  # the PMIC's constant 100 does not count
    assert found.power_mode == "15W (nvpmodel 0)"


def test_a_virtual_machine_tells_its_clock_in_cpuinfo(tmp_path: Path) -> None:
    files = {name: text for name, text in laptop_files().items() if "cpufreq" not in name and "thermal" not in name}
    found = device.state(1, root=write_tree(tmp_path, files))
    assert found.clocks_mhz == {"cpu": 803.5}
    assert found.temperature_c is None
    assert found.power_mode is None


def test_a_sensor_that_is_switched_off_is_no_temperature(laptop: Path) -> None:
    write_tree(laptop, {f"sys/class/thermal/thermal_zone{i}/temp": "-256000\n" for i in range(3)})
    assert device.state(1, root=laptop).temperature_c is None


def test_a_machine_that_tells_nothing_still_has_a_state(tmp_path: Path) -> None:
    found = device.state(root=tmp_path)
    assert found.name.endswith("processor")
    assert found.cores >= 1
    assert found.threads >= 1
    assert (found.memory_gib, found.load, found.temperature_c, found.power_mode) == (None, None, None, None)
    assert found.clocks_mhz == {}
    json.dumps(dataclasses.asdict(found), allow_nan=False)


@pytest.mark.parametrize("name", sorted(laptop_files()))
@pytest.mark.parametrize("content", ["", "\0\0", "garbage: : :\n\n\n: garbage", "999999999999999999999999\n"])
def test_no_file_can_break_it(tmp_path: Path, name: str, content: str) -> None:
    root = write_tree(tmp_path, laptop_files() | {name: content})
    found = device.state(1, root=root)
    assert found.cores >= 1
    json.dumps(dataclasses.asdict(found), allow_nan=False)


def test_a_file_of_arbitrary_bytes_or_a_folder_in_its_place_cannot_break_it(laptop: Path) -> None:
    (laptop / "proc/cpuinfo").write_bytes(bytes(range(256)) * 4)
    (laptop / "proc/loadavg").unlink()
    (laptop / "proc/loadavg").mkdir()
    assert device.state(1, root=laptop).load is None


def test_two_sockets_have_twice_the_cores(tmp_path: Path) -> None:
    block = "processor\t: {}\nphysical id\t: {}\ncore id\t\t: {}\n"
    blocks = [block.format(4 * s + c, s, c % 2) for s in range(2) for c in range(4)]
    assert machine.core_count(write_tree(tmp_path, {"proc/cpuinfo": "\n".join(blocks)})) == 4


def test_versions_are_those_installed() -> None:
    found = machine.versions()
    assert found["numpy"] == np.__version__
    assert {"edgehybrid", "python", "onnxruntime"} <= found.keys()
    assert "tensorrt" not in found or found["tensorrt"]


# --- target ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("part", "target"),
    [
        ("p3767-0000", "orin-nx-16gb"),
        ("p3767-0001", "orin-nx-8gb"),
        ("p3767-0003", "orin-nano-8gb"),
        ("p3767-0004", "orin-nano-4gb"),
        ("p3767-0005", "orin-nano-8gb"),
        ("p3701-0000", "agx-orin-64gb"),
        ("p3701-0004", "agx-orin-32gb"),
        ("p3701-0005", "agx-orin-64gb"),
        ("p3701-0008", "agx-orin-industrial"),
        ("p3834-0008", "agx-thor-t5000"),
        ("p2888-0004", "agx-xavier"),
        ("p3668-0001", "xavier-nx"),
        ("p3310-1000", "tx2"),
        ("p3448-0000", "nano-4gb"),
    ],
)
def test_a_jetson_is_known_by_its_part_number_on_any_carrier(tmp_path: Path, part: str, target: str) -> None:
    for carrier in ("p3768-0000", "p3737-0000", "p3509-0000"):
        text = f"nvidia,{carrier}+{part}\0nvidia,{part}\0nvidia,tegra234\0"
        root = write_tree(tmp_path, jetson_files(text, "Some Carrier Board"))
        assert device.detect_target(root) == target


@pytest.mark.parametrize(
    ("model", "memory", "target"),
    [
        ("NVIDIA Jetson Orin Nano Developer Kit", 7.4, "orin-nano-8gb"),
        ("NVIDIA Jetson Orin Nano Developer Kit Super", 7.4, "orin-nano-8gb-super"),
        ("NVIDIA Orin Nano", 3.4, "orin-nano-4gb"),
        ("NVIDIA Orin NX Developer Kit", 15.3, "orin-nx-16gb"),
        ("NVIDIA Orin NX Developer Kit", 7.3, "orin-nx-8gb"),
        ("NVIDIA Jetson AGX Orin Developer Kit", 61.4, "agx-orin-64gb"),
        ("NVIDIA Jetson AGX Orin", 29.9, "agx-orin-32gb"),
        ("NVIDIA Jetson AGX Orin Industrial", 58.0, "agx-orin-industrial"),
        ("NVIDIA Jetson AGX Orin 32GB Super", 29.9, "agx-orin-32gb-super"),
        ("NVIDIA Jetson AGX Thor Developer Kit", 122.8, "agx-thor-t5000"),
        ("NVIDIA Jetson T4000 Thor", 62.0, "thor-t4000"),
        ("NVIDIA Jetson Xavier NX", 7.6, "xavier-nx"),
        ("NVIDIA Jetson-AGX Xavier", 31.0, "agx-xavier"),
        ("NVIDIA Jetson TX2", 7.7, "tx2"),
        ("NVIDIA Jetson Nano Developer Kit", 3.9, "nano-4gb"),
        ("NVIDIA Jetson Nano 2GB Developer Kit", 1.9, "cpu"),  # no profile
        ("NVIDIA Jetson TX1", 3.9, "cpu"),
        ("Raspberry Pi 5 Model B", 7.9, "cpu"),
    ],
)
def test_without_a_part_number_the_boards_name_and_memory_decide(
    tmp_path: Path, model: str, memory: float, target: str
) -> None:
    root = write_tree(tmp_path, jetson_files("vendor,board\0", model, memory))
    assert device.detect_target(root) == target


def test_a_super_flash_gets_the_super_profile_where_there_is_one(jetson: Path) -> None:
    assert device.detect_target(jetson) == "orin-nano-8gb-super"
    assert device.detect_target(jetson, known=("cpu", "orin-nano-8gb")) == "orin-nano-8gb"
    assert device.detect_target(jetson, known=("cpu",)) == "cpu"


@pytest.mark.parametrize(
    ("cuda", "has_rtx", "target"),
    [
        (RTX, True, "rtx"),
        (RTX, False, "cpu"),
        (NO_CUDA, True, "cpu"),
        (Cuda("13.0", (Gpu("NVIDIA H200", (9, 0)),)), True, "cpu"),  # TensorRT-RTX builds nothing for it
        (Cuda("13.0", (Gpu("NVIDIA H200", (9, 0)), *RTX.gpus)), True, "rtx"),
    ],
)
def test_a_pc_is_rtx_only_with_a_card_and_a_library_for_it(
    laptop: Path, cuda: Cuda, has_rtx: bool, target: str
) -> None:
    assert device.detect_target(laptop, probe=lambda: cuda, has_rtx=has_rtx, has_tensorrt=False) == target


@pytest.mark.parametrize(
    ("cuda", "target"), [(RTX, "cuda"), (Cuda("13.0", (Gpu("H200", (9, 0)),)), "cuda"), (NO_CUDA, "cpu")]
)
def test_any_gpu_is_cuda_where_full_tensorrt_is_installed(laptop: Path, cuda: Cuda, target: str) -> None:
    assert device.detect_target(laptop, probe=lambda: cuda, has_rtx=True, has_tensorrt=True) == target


@pytest.mark.parametrize(
    ("release", "jetpack"),
    [
        ("R36 (release), REVISION: 4.3,", "6.2"),
        ("R36 (release), REVISION: 4.0,", "6.1"),
        ("R36 (release), REVISION: 4.7,", "6.2.1"),
        ("R36 (release), REVISION: 5.2,", "6.2.3"),
        ("R35 (release), REVISION: 6.2,", "5.1.5"),
        ("R35 (release), REVISION: 4.1,", "5.1.2"),
        ("R38 (release), REVISION: 2.1,", "7.0"),
        ("R39 (release), REVISION: 2.0,", "7.2"),
        ("R32 (release), REVISION: 7.4,", "4.6.1"),
        ("R99 (release), REVISION: 1.0,", None),
        ("nonsense", None),
    ],
)
def test_the_release_of_jetson_linux_tells_the_jetpack(jetson: Path, release: str, jetpack: str | None) -> None:
    write_tree(jetson, {"etc/nv_tegra_release": f"# {release} GCID: 1\n"})
    assert device.detect_jetpack(jetson) == jetpack


def test_the_power_mode_is_part_of_what_a_jetson_is(jetson: Path, laptop: Path, tmp_path: Path) -> None:
    assert device.detect_mode(jetson) == "15W"
    plain = write_tree(tmp_path / "laptop", laptop_files())
    assert (device.detect_mode(plain), device.detect_jetpack(plain)) == (None, None)
    unknown = write_tree(tmp_path / "custom", jetson_files(mode=77))
    assert device.detect_mode(unknown) is None


def test_the_driver_is_not_asked_where_nothing_depends_on_it(laptop: Path, jetson: Path) -> None:
    def explode() -> Cuda:
        raise AssertionError("asked")

    assert device.detect_target(laptop / "nowhere", probe=explode, has_rtx=False, has_tensorrt=False) == "cpu"
    assert device.detect_target(jetson, probe=explode, has_rtx=True) == "orin-nano-8gb-super"


# --- the CUDA driver ------------------------------------------------------------------------------

FAKE_LIBCUDA = r"""
#include <string.h>
#include <stdlib.h>
int cuInit(unsigned flags) { const char *code = getenv("FAKE_CUDA"); return code ? atoi(code) : 0; }
int cuDriverGetVersion(int *version) { *version = 12060; return 0; }
int cuDeviceGetCount(int *count) { *count = 1; return 0; }
int cuDeviceGet(int *device, int index) { *device = index; return 0; }
int cuDeviceGetName(char *name, int size, int device) { strncpy(name, "Fake GPU", size); return 0; }
int cuDeviceGetAttribute(int *value, int attribute, int device) {
    *value = attribute == 75 ? 8 : attribute == 76 ? 7 : -1;
    return 0;
}
"""


def test_a_driver_is_asked_in_its_own_words(tmp_path: Path) -> None:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("needs a C compiler to make a stand-in for libcuda.so.1")
    (tmp_path / "cuda.c").write_text(FAKE_LIBCUDA)
    subprocess.run([compiler, "-shared", "-fPIC", "-o", tmp_path / "libcuda.so.1", tmp_path / "cuda.c"], check=True)
    python = ("env", f"LD_LIBRARY_PATH={tmp_path}", sys.executable, "-I", "-c", board.PROBE)
    assert device.probe_cuda(python) == Cuda("12.6", (Gpu("Fake GPU", (8, 7)),))
    failing = device.probe_cuda(("env", "FAKE_CUDA=100", *python[1:]))
    assert (failing.version, failing.reason) == (None, "cuInit returned CUDA error 100")


def test_a_machine_without_a_driver_says_so(tmp_path: Path) -> None:
    python = (sys.executable, "-I", "-c", board.PROBE.replace("libcuda.so.1", "libcuda-that-is-not-there.so.1"))
    found = device.probe_cuda(python)
    assert found.gpus == ()
    assert found.reason.startswith("no CUDA driver: libcuda-that-is-not-there.so.1")


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("import os; os.kill(os.getpid(), 11)", "crashed with code -11"),
        ("raise SystemExit('cuInit returned CUDA error 999')", "cuInit returned CUDA error 999"),
        ("import json; print(json.dumps([12060, []]))", "the driver has no device"),
    ],
)
def test_a_driver_that_crashes_or_fails_takes_only_the_child_with_it(code: str, said: str) -> None:
    found = device.probe_cuda((sys.executable, "-I", "-c", code))
    assert found.gpus == ()
    assert said in found.reason


def test_a_driver_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(board, "_PROBE_SECONDS", 0.2)
    found = device.probe_cuda((sys.executable, "-I", "-c", "import time; time.sleep(60)"))
    assert "did not answer" in found.reason


def test_the_capability_is_that_of_the_first_device() -> None:
    assert device.capability(Cuda("13.0", (*ORIN.gpus, *RTX.gpus))) == "8.7"
    assert device.capability(NO_CUDA) is None


def test_one_process_asks_the_driver_once(tmp_path: Path) -> None:
    line = f"open({str(tmp_path / 'asked')!r}, 'a').write('x'); print('[12060, []]')"
    command = (sys.executable, "-I", "-c", line)
    assert device.probe_cuda(command) == device.probe_cuda(command)
    assert (tmp_path / "asked").read_text() == "x"


def test_a_pc_is_named_with_its_gpu_and_nobody_is_asked_where_there_is_none(laptop: Path) -> None:
    def never() -> Cuda:
        raise AssertionError("the driver was asked")

    assert device.state(root=laptop, probe=never).name == "Test CPU @ 2.40GHz"
    write_tree(laptop, {"dev/nvidiactl": ""})
    card = Cuda("13.0", (Gpu("NVIDIA RTX 4090", (8, 9)),))
    assert device.state(root=laptop, probe=lambda: card).name == "Test CPU @ 2.40GHz with NVIDIA RTX 4090"
    assert device.state(root=laptop, probe=lambda: NO_CUDA).name == "Test CPU @ 2.40GHz"


# --- doctor ---------------------------------------------------------------------------------------


def test_the_libraries_are_those_of_pyproject() -> None:
    text = (Path(__file__).parents[2] / "pyproject.toml").read_text(encoding="utf-8")
    project = tomllib.loads(text)["project"]

    def table(requirements: list[str]) -> dict[str, str]:
        found = (re.match(r"([\w-]+)>=([\d.]+)", line) for line in requirements if "python_version" not in line)
        return {match[1]: match[2] for match in found if match}

    assert table(project["dependencies"]) == BASE
    assert set(EXTRAS) == set(project["optional-dependencies"]) - {"dev"}
    for extra, libraries in EXTRAS.items():
        assert table(project["optional-dependencies"][extra]) == libraries


def test_a_complete_laptop_passes(laptop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EDGEHYBRID_CACHE_DIR", str(tmp_path / "cache"))
    found = device.checks(root=laptop, find=installed, probe=lambda: NO_CUDA)
    assert {check.status for check in found if check.name not in ("virtual environment", "disk")} == {"ok"}
    assert "built on the Jetson" in named(found, "tensorrt").found
    assert named(found, "target").found.startswith("cpu")
    assert not (tmp_path / "cache").exists()  # looking changes nothing


def test_an_empty_installation_fails_with_the_command_for_every_library(laptop: Path) -> None:
    found = device.checks(root=laptop, find=lambda name: None, probe=lambda: NO_CUDA)
    for name, least in BASE.items():
        assert named(found, name) == Check(name, "fail", "not installed", f"pip install '{name}>={least}'")
    for extra, libraries in EXTRAS.items():
        for name in libraries:
            check = named(found, name)
            wanted = ("ok", None) if extra in GPU_ALONE else ("warn", f"pip install 'edgehybrid[{extra}]'")
            assert (check.status, check.fix) == wanted
            assert "needed to" in check.found


@pytest.mark.parametrize(
    ("version", "status"),
    [("1.20.9", "warn"), ("1.21", "ok"), ("1.21.0rc1", "ok"), ("1.9.0", "warn"), ("2.0", "ok"), ("dev", "warn")],
)
def test_a_library_that_is_too_old_is_told_from_one_that_is_not(laptop: Path, version: str, status: str) -> None:
    found = device.checks(root=laptop, find=lambda n: version if n == "onnx" else installed(n), probe=lambda: NO_CUDA)
    check = named(found, "onnx")
    assert check.status == status
    assert version in check.found
    assert (check.fix is None) == (status == "ok")


def test_onnxruntime_for_gpus_counts_as_onnxruntime(laptop: Path) -> None:
    def find(name: str) -> str | None:
        return {"onnxruntime": None, "onnxruntime-gpu": "1.23.0"}.get(name, installed(name))

    assert named(device.checks(root=laptop, find=find, probe=lambda: NO_CUDA), "onnxruntime").found == "1.23.0"


def test_a_jetson_in_a_slow_mode_is_told_the_fast_one(jetson: Path) -> None:
    found = device.checks(
        root=jetson,
        find=lambda n: "10.3.0" if n == "tensorrt" else installed(n),
        probe=lambda: ORIN,
        ask=lambda n: "ok 10.3.0",
    )
    assert named(found, "power mode").fix == "sudo nvpmodel -m 2 && sudo jetson_clocks"
    assert named(found, "tensorrt") == Check("tensorrt", "ok", "10.3.0")
    assert named(found, "cuda driver").found == "CUDA 12.6: Orin (compute capability 8.7)"
    assert named(found, "target").found.startswith("orin-nano-8gb-super")
    assert named(found, "processor").status == "ok"
    fast = write_tree(jetson, jetson_files(mode=2))
    assert named(device.checks(root=fast, find=installed, probe=lambda: ORIN), "power mode").status == "ok"


def test_tensorrt_outside_the_virtual_environment_is_found_and_explained(jetson: Path) -> None:
    missing = named(device.checks(root=jetson, find=installed, probe=lambda: ORIN), "tensorrt")
    assert (missing.status, missing.fix) == ("warn", "sudo apt install nvidia-jetpack")
    write_tree(jetson, {"usr/lib/python3.10/dist-packages/tensorrt/__init__.py": ""})
    hidden = named(device.checks(root=jetson, find=installed, probe=lambda: ORIN), "tensorrt")
    assert (hidden.status, hidden.fix) == ("warn", "python3 -m venv --system-site-packages .venv")


def test_a_jetson_without_a_driver_fails_where_a_laptop_does_not(jetson: Path) -> None:
    assert named(device.checks(root=jetson, find=installed, probe=lambda: NO_CUDA), "cuda driver").status == "fail"


def test_a_busy_machine_and_one_without_int8_are_warned_about(tmp_path: Path) -> None:
    files = laptop_files() | {"proc/loadavg": "9.00 5.00 2.00 1/1 1\n"}
    files["proc/cpuinfo"] = files["proc/cpuinfo"].replace("avx_vnni", "")
    found = device.checks(root=write_tree(tmp_path, files), find=installed, probe=lambda: NO_CUDA)
    assert named(found, "load").status == "warn"
    assert "9.0 processes" in named(found, "load").found
    assert named(found, "processor").status == "warn"


@pytest.mark.parametrize(
    ("available", "status"), [("524288", "fail"), ("2097152", "warn"), ("8388608", "ok"), ("none", "warn")]
)
def test_little_memory_is_a_warning_and_next_to_none_a_failure(tmp_path: Path, available: str, status: str) -> None:
    root = write_tree(tmp_path, laptop_files() | {"proc/meminfo": f"MemAvailable: {available} kB\n"})
    assert named(device.checks(root=root, find=installed, probe=lambda: NO_CUDA), "memory").status == status


@pytest.mark.parametrize(("free", "status"), [(0.1, "fail"), (2.0, "warn"), (50.0, "ok")])
def test_little_disk_is_a_warning_and_next_to_none_a_failure(free: float, status: str) -> None:
    check = health.disk(free, Path("/cache"))
    assert check.status == status
    assert f"{free:.1f} GiB" in check.found


def test_a_cache_that_cannot_be_is_a_failure(laptop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").write_text("in the way")
    monkeypatch.setenv("EDGEHYBRID_CACHE_DIR", str(tmp_path / "file" / "cache"))
    check = named(device.checks(root=laptop, find=installed, probe=lambda: NO_CUDA), "cache")
    assert check.status == "fail"
    assert "EDGEHYBRID_CACHE_DIR" in (check.fix or "")


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_cache_without_permission_is_a_failure(laptop: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = tmp_path / "locked"
    folder.mkdir(mode=0o500)
    monkeypatch.setenv("EDGEHYBRID_CACHE_DIR", str(folder / "cache"))
    assert named(device.checks(root=laptop, find=installed, probe=lambda: NO_CUDA), "cache").status == "fail"


def test_what_is_not_ok_says_what_to_do_unless_nothing_can_be_done(tmp_path: Path) -> None:
    """On the poorest machine there is: an empty root and nothing installed."""
    found = device.checks(root=tmp_path, find=lambda name: None, probe=lambda: NO_CUDA)
    without_fix = {check.name for check in found if check.status != "ok" and check.fix is None}
    assert without_fix <= {"processor", "load", "memory"}
    assert all(check.fix is None for check in found if check.status == "ok")
    assert all(check.found and "\n" not in check.found for check in found)
    assert len({check.name for check in found}) == len(found)


def test_looking_imports_no_heavy_library() -> None:
    code = (
        "import sys; from edgehybrid import device; device.checks(); device.state(); "
        "print([m for m in ('torch', 'onnx', 'onnxruntime', 'tensorrt', 'tensorrt_rtx') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
