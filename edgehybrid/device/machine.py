"""Read what the machine is: processor, memory, load, clocks, power mode, versions of libraries."""

import importlib.metadata
import math
import os
import platform
import re
import subprocess
from collections.abc import Iterable, Iterator
from pathlib import Path

from edgehybrid.version import __version__

LIBRARIES = ("numpy", "onnxruntime", "tensorrt", "tensorrt-rtx-cu13-libs")
"""Distributions whose version shapes a latency."""
_GPU = re.compile(r"gpu|ga10b|gv11b|gp10b|gm20b")
"""Names of the GPU's clock domain under /sys/class/devfreq, from Jetson Nano to Thor."""
_EMC = "sys/kernel/debug/bpmp/debug/clk/emc/rate"
"""Clock of the memory of a Jetson, which only root may read."""
_NVPMODEL_SECONDS = 5


def processor_name(root: Path) -> str:
    """Name of the board on a Jetson or another device-tree machine, else of the processor."""
    if board := board_model(root):
        return board
    info = _cpuinfo(root)
    names = (block.get(key) for key in ("model name", "Hardware", "Model") for block in info)
    return next((" ".join(name.split()) for name in names if name), f"{platform.machine() or 'unknown'} processor")


def board_model(root: Path) -> str | None:
    """What the device tree calls the board, as in "NVIDIA Jetson AGX Orin Developer Kit"; None on a PC."""
    text = read(root / "proc/device-tree/model")
    return text.strip("\0 \n") or None if text else None


def core_count(root: Path) -> int:
    """Physical cores of the machine; logical ones where it does not tell them apart."""
    info = _cpuinfo(root)
    cores = {(block["physical id"], block["core id"]) for block in info if {"physical id", "core id"} <= block.keys()}
    processors = sum("processor" in block for block in info)
    return len(cores) or processors or os.cpu_count() or 1


def cpu_flags(root: Path) -> frozenset[str]:
    """Instruction set extensions common to all cores."""
    sets = [set((b.get("flags") or b.get("Features") or "").split()) for b in _cpuinfo(root) if "processor" in b]
    return frozenset(set.intersection(*sets)) if sets else frozenset()


def memory_gib(key: str, root: Path) -> float | None:
    """A line of /proc/meminfo, as "MemTotal" or "MemAvailable"."""
    found = re.search(rf"^{key}:\s+(\d+) kB", read(root / "proc/meminfo") or "", re.MULTILINE)
    return int(found[1]) / 2**20 if found else None


def system_name(root: Path) -> str:
    """Distribution, kernel and, on a Jetson, the L4T release."""
    found = re.search(r'^PRETTY_NAME="?([^"\n]+)', read(root / "etc/os-release") or "", re.MULTILINE)
    kernel = (read(root / "proc/sys/kernel/osrelease") or "").strip()
    parts = [found[1] if found else platform.system() or "unknown system", f"Linux {kernel}" if kernel else ""]
    if l4t := l4t_release(root):
        parts.append(f"L4T {l4t}")
    return ", ".join(part for part in parts if part)


def l4t_release(root: Path) -> str | None:
    """NVIDIA's release of Linux for Tegra, as in "36.4.3"; None elsewhere."""
    found = re.search(r"R(\d+) \(release\), REVISION: ([\d.]+)", read(root / "etc/nv_tegra_release") or "")
    return f"{found[1]}.{found[2]}" if found else None


def load_average(root: Path) -> float | None:
    """Mean number of processes that wanted to run during the last minute."""
    return number((read(root / "proc/loadavg") or "").split(" ")[0])


def clocks_mhz(root: Path) -> dict[str, float]:
    """Clocks in MHz, as `snapshot.state` says."""
    clocks: dict[str, float] = {}
    cpus = list((root / "sys/devices/system/cpu").glob("cpu[0-9]*/cpufreq"))
    gpus = [path for path in (root / "sys/class/devfreq").glob("*") if _GPU.search(path.name)]
    for name, files, unit in (
        ("cpu", (path / "scaling_cur_freq" for path in cpus), 1e3),
        ("cpu_max", (path / "scaling_max_freq" for path in cpus), 1e3),
        ("cpu_min", (path / "scaling_min_freq" for path in cpus), 1e3),
        ("gpu", (path / "cur_freq" for path in gpus), 1e6),
        ("gpu_max", (path / "max_freq" for path in gpus), 1e6),
        ("gpu_min", (path / "min_freq" for path in gpus), 1e6),
        ("emc", (root / _EMC,), 1e6),
    ):
        if (highest := max(_numbers(files), default=None)) is not None:
            clocks[name] = highest / unit
    if "cpu" not in clocks:  # a virtual machine has no cpufreq, and only x86 prints this line
        said = [number(block.get("cpu MHz", "")) for block in _cpuinfo(root)]
        if known := [value for value in said if value is not None]:
            clocks["cpu"] = max(known)
    return clocks


def power_mode(root: Path) -> str | None:
    """The mode nvpmodel set on a Jetson, as in "15W (nvpmodel 0)"; the frequency governor elsewhere.

    Source:
        /var/lib/nvpmodel/status holds "pmode:0002"; /etc/nvpmodel.conf names the modes. Ids differ between modules.
        `nvpmodel -q`, asked where there is no such file, prints "NV Power Mode: 15W" and the id.
    """
    status = re.search(r"pmode:(\d+)", read(root / "var/lib/nvpmodel/status") or "")
    if status:
        names = power_modes(root)
        return f"{names.get(int(status[1]), 'unnamed')} (nvpmodel {int(status[1])})"
    if (root / "usr/sbin/nvpmodel").is_file():
        said = re.search(r"NV Power Mode:\s*(\S+)\s+(\d+)", _nvpmodel(root / "usr/sbin/nvpmodel"))
        return f"{said[1]} (nvpmodel {said[2]})" if said else None
    governor = read(root / "sys/devices/system/cpu/cpu0/cpufreq/scaling_governor")
    return f"governor {governor.strip()}" if governor and governor.strip() else None


def _nvpmodel(program: Path) -> str:
    try:
        done = subprocess.run((program, "-q"), capture_output=True, text=True, timeout=_NVPMODEL_SECONDS, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout


def power_modes(root: Path) -> dict[int, str]:
    """Every mode that nvpmodel knows on this module: id -> name."""
    rows = re.findall(r"POWER_MODEL:? ID=(\d+) NAME=(\S+)", read(root / "etc/nvpmodel.conf") or "")
    return {int(number): name for number, name in rows}


def versions() -> dict[str, str]:
    """Versions of what shapes a latency, as installed."""
    found = {name: installed_version(name) for name in LIBRARIES}
    own = {"edgehybrid": __version__, "python": platform.python_version()}
    return own | {name: version for name, version in found.items() if version is not None}


def installed_version(distribution: str) -> str | None:
    """Version of an installed distribution, without importing it; None where it is not installed."""
    try:
        return importlib.metadata.version(distribution)
    except importlib.metadata.PackageNotFoundError:
        return None


def number(text: str) -> float | None:
    """A finite number, or None: a sensor that says anything else says nothing."""
    try:
        value = float(text)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def read(path: Path) -> str | None:
    """A small text file of the kernel, or None: absent, not permitted, or a sensor that does not answer."""
    try:
        return path.read_text(encoding="utf-8", errors="replace")
    except OSError:
        return None


def _cpuinfo(root: Path) -> list[dict[str, str]]:
    """/proc/cpuinfo as one mapping per blank-line-separated block."""
    blocks = (read(root / "proc/cpuinfo") or "").strip().split("\n\n")
    return [
        {
            key.strip(): value.strip()
            for key, found, value in (line.partition(":") for line in block.splitlines())
            if found
        }
        for block in blocks
    ]


def _numbers(files: Iterable[Path]) -> Iterator[float]:
    """What can be read as a number."""
    for path in files:
        value = number(read(path) or "")
        if value is not None:
            yield value
