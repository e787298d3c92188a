"""Stand-ins for what a test cannot have: a clock, a network of known speed and outputs, a machine's device files."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import cycle
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from edgehybrid.progress import Silence
from edgehybrid.runtime import TensorInfo, Tensors, check_feeds


class FakeClock:
    """Seconds that pass only when told to."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def advance(self, seconds: float) -> None:
        self.now += seconds


class Notes(Silence):
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def note(self, text: str) -> None:
        self.told.append(text)


class FakeRunner:
    """A network whose outputs are a function of its inputs and whose calls take known times.

    Args:
        answer: Images (B, 3, H, W) -> logits (B, classes).
        shape: Of the input.
        classes: Of the output.
        clock: Advanced by each call; None: calls take no time.
        seconds: How long the calls take in turn, repeated for ever.
        diary: Every call appends `name` to it.
        name: Of this runner in the diary.
    """

    def __init__(
        self,
        answer: Callable[[NDArray[np.float32]], NDArray[np.float32]] | None = None,
        *,
        shape: tuple[int, ...] = (1, 3, 2, 2),
        classes: int = 4,
        clock: FakeClock | None = None,
        seconds: Sequence[float] = (0.010,),
        diary: list[str] | None = None,
        name: str = "a",
    ) -> None:
        self.inputs: Mapping[str, TensorInfo] = {"input": TensorInfo(shape, np.dtype("float32"))}
        self.outputs: Mapping[str, TensorInfo] = {"logits": TensorInfo((shape[0], classes), np.dtype("float32"))}
        self.calls = 0
        self._answer = answer or (lambda images: np.zeros((len(images), classes), np.float32))
        self._clock = clock
        self._seconds: Iterator[float] = cycle(seconds)
        self._diary = [] if diary is None else diary
        self._name = name

    def run(self, feeds: Tensors) -> dict[str, NDArray[np.generic]]:
        check_feeds(self.inputs, feeds)
        self.calls += 1
        self._diary.append(self._name)
        if self._clock is not None:
            self._clock.advance(next(self._seconds))
        return {"logits": self._answer(np.asarray(feeds["input"], np.float32))}

    def __enter__(self) -> "FakeRunner":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        return None


def write_tree(root: Path, files: Mapping[str, str]) -> Path:
    """Device files below a root: path -> content."""
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content, encoding="utf-8")
    return root


def laptop_files() -> dict[str, str]:
    """An x86 laptop: one socket, 2 cores with 2 hyper-threads each, VNNI, one sensor switched off."""
    blocks = [
        f"processor\t: {cpu}\nmodel name\t: Test CPU  @ 2.40GHz\ncpu MHz\t\t: {800 + cpu}.5\nphysical id\t: 0\n"
        f"core id\t\t: {cpu % 2}\nflags\t\t: fpu sse avx2 avx_vnni\n"
        for cpu in range(4)
    ]
    files = {
        "proc/cpuinfo": "\n".join(blocks),
        "proc/meminfo": "MemTotal:       16777216 kB\nMemFree:         1048576 kB\nMemAvailable:    8388608 kB\n",
        "proc/loadavg": "0.25 0.50 0.75 1/200 4242\n",
        "proc/sys/kernel/osrelease": "6.1.0-18-amd64\n",
        "etc/os-release": 'NAME="Debian"\nPRETTY_NAME="Debian GNU/Linux 12 (bookworm)"\n',
        "sys/class/thermal/thermal_zone0/type": "x86_pkg_temp\n",
        "sys/class/thermal/thermal_zone0/temp": "45500\n",
        "sys/class/thermal/thermal_zone1/type": "iwlwifi_1\n",
        "sys/class/thermal/thermal_zone1/temp": "-256000\n",
        "sys/class/thermal/thermal_zone2/type": "broken\n",
        "sys/class/thermal/thermal_zone2/temp": "not a number\n",
    }
    for cpu in range(4):
        base = f"sys/devices/system/cpu/cpu{cpu}"
        files[f"{base}/topology/thread_siblings_list"] = f"{cpu % 2},{cpu % 2 + 2}\n"
        files[f"{base}/cpufreq/scaling_cur_freq"] = f"{1200000 + 100000 * cpu}\n"
        files[f"{base}/cpufreq/scaling_max_freq"] = "2400000\n"
        files[f"{base}/cpufreq/scaling_governor"] = "powersave\n"
    return files


def jetson_files(
    compatible: str = "nvidia,p3768-0000+p3767-0005-super\0nvidia,p3767-0005\0nvidia,tegra234\0",
    model: str = "NVIDIA Jetson Orin Nano Engineering Reference Developer Kit Super",
    memory_gib: float = 7.4,
    mode: int = 0,
) -> dict[str, str]:
    """A Jetson under JetPack 6.2; by default an Orin Nano developer kit flashed Super, in its 15 W mode."""
    cpu = (
        "processor\t: {}\nBogoMIPS\t: 62.50\nFeatures\t: fp asimd asimddp\nCPU implementer\t: 0x41\nCPU part\t: 0xd42\n"
    )
    return {
        "proc/device-tree/model": model + "\0",
        "proc/device-tree/compatible": compatible,
        "proc/cpuinfo": "\n".join(cpu.format(i) for i in range(6)),
        "proc/meminfo": f"MemTotal:       {int(memory_gib * 2**20)} kB\nMemAvailable:    5242880 kB\n",
        "proc/loadavg": "0.10 0.10 0.10 1/200 4242\n",
        "proc/sys/kernel/osrelease": "5.15.148-tegra\n",
        "etc/os-release": 'PRETTY_NAME="Ubuntu 22.04.5 LTS"\n',
        "etc/nv_tegra_release": "# R36 (release), REVISION: 4.3, GCID: 38968081, BOARD: generic, EABI: aarch64\n",
        "etc/nvpmodel.conf": (
            "< POWER_MODEL ID=0 NAME=15W >\n< POWER_MODEL ID=1 NAME=25W >\n< POWER_MODEL ID=2 NAME=MAXN_SUPER >\n"
        ),
        "var/lib/nvpmodel/status": f"pmode:{mode:04d}\n",
        "sys/class/devfreq/17000000.gpu/cur_freq": "306000000\n",
        "sys/class/devfreq/17000000.gpu/max_freq": "1020000000\n",
        "sys/class/devfreq/15340000.vic/cur_freq": "999000000\n",
        "sys/devices/system/cpu/cpu0/cpufreq/scaling_cur_freq": "729600\n",
        "sys/devices/system/cpu/cpu0/cpufreq/scaling_max_freq": "1497600\n",
        "sys/class/thermal/thermal_zone0/type": "cpu-thermal\n",
        "sys/class/thermal/thermal_zone0/temp": "47125\n",
        "sys/class/thermal/thermal_zone1/type": "gpu-thermal\n",
        "sys/class/thermal/thermal_zone1/temp": "48968\n",
        "sys/class/thermal/thermal_zone2/type": "PMIC-Die\n",
        "sys/class/thermal/thermal_zone2/temp": "100000\n",
        **ina3221_files({"VDD_IN": (5000, 1200), "VDD_CPU_GPU_CV": (5000, 400), "VDD_SOC": (5000, 280)}),
        "sys/class/hwmon/hwmon2/name": "soctherm_oc\n",
        "sys/class/hwmon/hwmon2/oc1_event_cnt": "0\n",
        "sys/class/hwmon/hwmon2/oc2_event_cnt": "3\n",
        "sys/class/hwmon/hwmon2/oc3_event_cnt": "0\n",
        "sys/class/hwmon/hwmon3/name": "pwmfan\n",
        "sys/class/hwmon/hwmon3/pwm1": "102\n",
        "sys/class/thermal/cooling_device0/type": "pwm-fan\n",
        "sys/class/thermal/cooling_device0/cur_state": "2\n",
        "sys/class/thermal/cooling_device1/type": "devfreq-17000000.gpu\n",
        "sys/class/thermal/cooling_device1/cur_state": "0\n",
    }


def ina3221_files(rails: Mapping[str, tuple[int, int]], hwmon: int = 1) -> dict[str, str]:
    """A power sensor with up to three channels: rail -> (millivolts, milliamperes)."""
    base = f"sys/class/hwmon/hwmon{hwmon}"
    files = {f"{base}/name": "ina3221\n", f"{base}/in7_label": "sum of shunt voltages\n", f"{base}/in7_input": "1\n"}
    for channel, (label, (volts, amperes)) in enumerate(rails.items(), start=1):
        files |= {
            f"{base}/in{channel}_label": f"{label}\n",
            f"{base}/in{channel}_input": f"{volts}\n",
            f"{base}/curr{channel}_input": f"{amperes}\n",
        }
    return files
