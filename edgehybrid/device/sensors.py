"""Read what disturbs a measurement: heat, throttling, the fan, memory in use, and why a sensor does not tell."""

import re
from collections.abc import Mapping
from pathlib import Path

from edgehybrid.device.board import is_jetson
from edgehybrid.device.machine import memory_gib, number, read

OVERCURRENT = {"oc1": "under-voltage", "oc2": "average over-current", "oc3": "instantaneous over-current"}
"""Throttling by Tegra's SOCTHERM: event counter -> cause. Source: tegra234 soctherm driver, Jetson Linux 35."""

_OFF = -200.0  # degrees Celsius; a zone that is switched off says -256


def temperatures_c(root: Path) -> dict[str, float]:
    """Thermal zone -> degrees Celsius; NVIDIA's PMIC zones, which report a constant, and zones switched off are out."""
    found: dict[str, float] = {}
    for zone in sorted((root / "sys/class/thermal").glob("thermal_zone*")):
        name = (read(zone / "type") or zone.name).strip() or zone.name
        value = number(read(zone / "temp") or "")
        if value is not None and value / 1e3 > _OFF and not name.startswith("PMIC"):
            found[name] = max(value / 1e3, found.get(name, _OFF))
    return found


def throttle_events(root: Path) -> dict[str, int] | None:
    """Cause -> how often it has slowed the processor since the machine was started; None where nothing counts.

    Tegra counts over-current and under-voltage (SOCTHERM), x86 counts heat per core and package.
    """
    found: dict[str, int] = {}
    for folder in sorted((root / "sys/class/hwmon").glob("hwmon*")):
        if (read(folder / "name") or "").strip() == "soctherm_oc":
            for file, cause in OVERCURRENT.items():
                _count(found, cause, folder / f"{file}_event_cnt")
    for folder in sorted((root / "sys/devices/system/cpu").glob("cpu[0-9]*/thermal_throttle")):
        _count(found, "core heat", folder / "core_throttle_count")
    # the package counter is the same number in the folder of each of its cores
    folders = sorted((root / "sys/devices/system/cpu").glob("cpu[0-9]*/thermal_throttle"))
    packages = [number(read(folder / "package_throttle_count") or "") for folder in folders]
    if known := [int(value) for value in packages if value is not None]:
        found["package heat"] = max(known)
    return found or None


def cooling(root: Path) -> dict[str, int]:
    """Devices that hold a clock down against heat now -> how far; a fan at work is none of them."""
    found = {}
    for folder in sorted((root / "sys/class/thermal").glob("cooling_device*")):
        name = (read(folder / "type") or folder.name).strip()
        state = number(read(folder / "cur_state") or "")
        if state and state > 0 and not re.search(r"fan|intel_powerclamp|thermald?_idle", name, re.IGNORECASE):
            found[f"{name} ({folder.name})"] = int(state)
    return found


def fan(root: Path) -> dict[str, float]:
    """What a fan tells: `percent` of full drive, `rpm`."""
    found: dict[str, float] = {}
    for folder in sorted((root / "sys/class/hwmon").glob("hwmon*")):
        name = (read(folder / "name") or "").strip()
        drive = number(read(folder / "pwm1") or "") if "fan" in name else None
        speed = number(read(folder / "fan1_input") or read(folder / "rpm") or "")
        if drive is not None:
            found["percent"] = max(100 * drive / 255, found.get("percent", 0.0))
        if speed is not None:
            found["rpm"] = max(speed, found.get("rpm", 0.0))
    if "percent" not in found and (drive := number(read(root / "sys/devices/pwm-fan/cur_pwm") or "")) is not None:
        found["percent"] = 100 * drive / 255  # JetPack 4
    return found


def memory_used_gib(root: Path) -> float | None:
    """Memory that programs hold, of CPU and GPU alike on a Jetson."""
    total, free = memory_gib("MemTotal", root), memory_gib("MemAvailable", root)
    return None if total is None or free is None else total - free


def reasons(root: Path, *, jetson: bool) -> dict[str, str]:
    """Why this kind of machine leaves a figure out: name of the figure -> reason. Only of use where it did."""
    board = "this board" if jetson else "this machine"
    hidden = (root / "sys/kernel/debug").exists() and read(root / "sys/kernel/debug/bpmp/debug/clk/emc/rate") is None
    return {
        "temperature_c": f"{board} shows no thermal zone that is switched on",
        "power_w": "no INA3221 or INA238 sensor is visible, and tegrastats gives no power"
        if jetson
        else "no INA3221 or INA238 power sensor, which only a Jetson has",
        "throttle": "no counters: Orin and Thor count over-current (soctherm_oc), Intel CPUs heat",
        "fan": "no fan that Linux knows of",
        "power_mode": "nvpmodel tells none: neither its status file nor `nvpmodel -q`"
        if jetson
        else "no frequency governor, as on a virtual machine",
        "load": "no /proc/loadavg",
        "gpu": "no devfreq domain of a GPU",
        "emc": "readable by root only (/sys/kernel/debug)"
        if jetson and hidden
        else "no memory clock under /sys/kernel/debug/bpmp",
        "cpu": "neither cpufreq nor /proc/cpuinfo tell",
    }


def missing_clocks(clocks: Mapping[str, float], root: Path) -> dict[str, str]:
    """Clock that this kind of machine should tell and does not -> why; GPU and memory clock are asked of a Jetson."""
    jetson = is_jetson(root)
    why = reasons(root, jetson=jetson)
    wanted = ("cpu", "gpu", "emc") if jetson else ("cpu",)
    return {f"clocks_mhz.{name}": why[name] for name in wanted if name not in clocks}


def _count(found: dict[str, int], name: str, path: Path) -> None:
    value = number(read(path) or "")
    if value is not None:
        found[name] = found.get(name, 0) + int(value)
