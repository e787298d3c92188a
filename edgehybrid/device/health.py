"""Check what disturbs or stops a measurement: power mode, clocks, heat, throttling, sensors, memory, disk."""

import os
import shutil
from pathlib import Path

from edgehybrid import resources
from edgehybrid.cores import available_cores
from edgehybrid.device.board import is_jetson
from edgehybrid.device.machine import (
    board_model,
    clocks_mhz,
    cpu_flags,
    load_average,
    memory_gib,
    power_mode,
    power_modes,
    processor_name,
)
from edgehybrid.device.power import read_draw
from edgehybrid.device.sensors import cooling, temperatures_c, throttle_events
from edgehybrid.errors import EdgeHybridError
from edgehybrid.printable import counted
from edgehybrid.records import BUSY, Check

HOT = 85.0
"""Degrees Celsius above which a machine at rest is close to throttling; a threshold of our own."""

_INT8 = frozenset({"avx512_vnni", "avx_vnni", "asimddp"})  # 8-bit dot products: x86, x86, Arm


def processor(root: Path) -> Check:
    """Whether its int8 arithmetic is worth measuring."""
    name = f"{processor_name(root)}, {counted(available_cores(root), 'core')} for this process"
    if cpu_flags(root) & _INT8:
        return Check("processor", "ok", f"{name}, 8-bit dot products")
    found = f"{name}, no 8-bit dot products: int8 is hardly faster than fp32 here, and may saturate"
    return Check("processor", "warn", found)


def load(root: Path) -> Check:
    """Whether other programs would disturb a measurement."""
    busy, cores = load_average(root), available_cores(root)
    if busy is None:
        return Check("load", "warn", "unknown: this system does not tell")
    found = f"{busy:.1f} processes on {counted(cores, 'core')} in the last minute"
    if busy > BUSY * cores:
        return Check("load", "warn", f"{found}: latencies will be disturbed", "close other programs before `bench`")
    return Check("load", "ok", found)


def power(root: Path) -> tuple[Check, ...]:
    """Power mode, clocks and power sensors of a Jetson: reference numbers come from its fastest mode, clocks locked."""
    if not is_jetson(root):
        return ()
    return (_mode(root), _clocks(root), _rails(root))


def _mode(root: Path) -> Check:
    mode = power_mode(root)
    if mode is None or mode.startswith("governor"):
        found = "unknown: nvpmodel has no status"
        return Check("power mode", "warn", found, "sudo nvpmodel -q, or install nvidia-l4t-nvpmodel")
    fastest = [number for number, name in power_modes(root).items() if name.startswith("MAXN")]
    if mode.startswith("MAXN") or not fastest:
        return Check("power mode", "ok", mode)
    fix = f"sudo nvpmodel -m {fastest[0]} && sudo jetson_clocks"
    return Check("power mode", "warn", f"{mode}: below {board_model(root)}'s fastest", fix)


def _clocks(root: Path) -> Check:
    """jetson_clocks sets the lowest clock to the highest; otherwise a clock rises while it is measured."""
    clocks = clocks_mhz(root)
    ends = {name: (clocks.get(f"{name}_min"), clocks.get(f"{name}_max")) for name in ("cpu", "gpu")}
    if any(low is None or high is None for low, high in ends.values()):
        return Check("clocks", "warn", "unknown: cpufreq or devfreq does not tell", "sudo jetson_clocks --show")
    loose = [f"{name} {low:g} to {high:g} MHz" for name, (low, high) in ends.items() if low != high]
    if loose:
        return Check("clocks", "warn", f"not locked ({', '.join(loose)}): latencies will vary", "sudo jetson_clocks")
    return Check("clocks", "ok", ", ".join(f"{name} locked at {high:g} MHz" for name, (_, high) in ends.items()))


def _rails(root: Path) -> Check:
    draw = read_draw(root)
    if draw is None:
        found = "no INA3221 or INA238 sensor answers: energy per inference cannot be measured"
        return Check("power sensors", "warn", found, "ls /sys/class/hwmon: the user needs read access there")
    return Check("power sensors", "ok", f"{draw.source}: {draw.watts:.1f} W now ({' + '.join(draw.counted)})")


def heat(root: Path) -> tuple[Check, ...]:
    """Temperature, what holds clocks down now, and what has since the machine was started."""
    found = []
    if zones := temperatures_c(root):
        name, hottest = max(zones.items(), key=lambda zone: zone[1])
        text = f"{hottest:.0f} C at {name}"
        if hottest >= HOT:
            found.append(Check("temperature", "warn", f"{text}: it will throttle", "let it cool, or give it a fan"))
        else:
            found.append(Check("temperature", "ok", text))
    held, events = cooling(root), throttle_events(root)
    past = [f"{count} x {cause}" for cause, count in (events or {}).items() if count]
    if held:
        text = f"clocks are held down now: {', '.join(held)}"
        found.append(Check("throttling", "warn", text, "let it cool, or choose a lower power mode"))
    elif past and is_jetson(root):
        text = f"since it was started: {', '.join(past)}"
        found.append(Check("throttling", "warn", text, "give it a stronger power supply or a lower power mode"))
    elif events is not None or (root / "sys/class/thermal").is_dir():
        since = "" if events is None else f"; {', '.join(past) or 'none'} since it was started"
        found.append(Check("throttling", "ok", f"none now{since}"))
    return tuple(found)


def memory(available: float | None) -> Check:
    """Memory that a build may take."""
    if available is None:
        return Check("memory", "warn", "unknown: this system does not tell")
    found = f"{available:.1f} GiB free"
    if available < 1:
        return Check("memory", "fail", f"{found}, needed 1 for the smallest model", "close other programs")
    if available < 4:
        return Check("memory", "warn", f"{found}, 4 are comfortable for export", "close other programs")
    return Check("memory", "ok", found)


def swap(root: Path) -> Check:
    """Swap of a small board: without it the builder of a large network is killed rather than slowed."""
    total, have = memory_gib("SwapTotal", root), memory_gib("MemTotal", root)
    if total is None or have is None:
        return Check("swap", "ok", "unknown")
    if total < 0.1 and have < 9 and is_jetson(root):
        fix = "sudo systemctl enable --now nvzramconfig, or add a swap file"
        return Check("swap", "warn", f"none, with {have:.1f} GiB of memory: TensorRT's builder may be killed", fix)
    return Check("swap", "ok", f"{total:.1f} GiB" if total >= 0.1 else "none")


def storage(cache: Path) -> tuple[Check, ...]:
    """Free space and permission where the cache is or would be created."""
    place = next(path for path in (cache, *cache.absolute().parents) if path.exists())
    writable = place.is_dir() and os.access(place, os.W_OK | os.X_OK)
    if writable:
        first = Check("cache", "ok", str(cache))
    else:
        first = Check("cache", "fail", f"{cache} cannot be written", "export EDGEHYBRID_CACHE_DIR=/some/folder")
    return first, disk(shutil.disk_usage(place).free / 2**30, place)


def disk(free: float, place: Path) -> Check:
    """Free space, in GiB."""
    found = f"{free:.1f} GiB free at {place}"
    if free < 0.5:
        return Check(
            "disk", "fail", f"{found}, needed 0.5 for one build", "free some space or set EDGEHYBRID_CACHE_DIR"
        )
    if free < 5:
        return Check("disk", "warn", f"{found}, 5 are comfortable", "free some space or set EDGEHYBRID_CACHE_DIR")
    return Check("disk", "ok", found)


def bundled() -> Check:
    """The targets and image sets that ship beside the code."""
    try:
        targets, sets = resources.targets(), resources.image_sets()
    except EdgeHybridError as error:
        return Check("bundled data", "fail", error.why, error.fix)
    if not targets or not sets:
        found = f"{len(targets)} targets and {len(sets)} image sets"
        return Check("bundled data", "fail", found, "pip install --force-reinstall edgehybrid")
    return Check("bundled data", "ok", f"{len(targets)} targets; image sets {', '.join(sets)}")
