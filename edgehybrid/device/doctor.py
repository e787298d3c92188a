"""Say what works on this machine and what to run for the rest, in one line per thing looked at.

`fail`: EdgeHybrid cannot work, or not safely. `warn`: something it can do is missing, or a number would be disturbed.
`ok` includes what is rightly absent, as TensorRT is on a laptop.
"""

import os
import platform
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from edgehybrid import resources
from edgehybrid.cores import available_cores
from edgehybrid.device.board import Cuda, detect_target, is_jetson, probe_cuda
from edgehybrid.device.machine import (
    board_model,
    cpu_flags,
    installed_version,
    load_average,
    memory_gib,
    power_mode,
    power_modes,
    processor_name,
)
from edgehybrid.errors import EdgeHybridError
from edgehybrid.records import Check
from edgehybrid.store import cache_root

BASE = {"numpy": "1.26", "pillow": "10.3", "typer": "0.20", "rich": "13", "onnxruntime": "1.18", "jinja2": "3.1"}
EXTRAS = {
    "host": {
        "torch": "2.10",
        "onnx": "1.21",
        "onnx-ir": "1.1",
        "onnxscript": "0.6",
        "onnxsim": "0.4.36",
        "safetensors": "0.5",
    },
    "rtx": {"tensorrt-rtx-cu13-libs": "1.7", "tensorrt-rtx-cu13-bindings": "1.7"},
}
"""Extra -> distribution -> lowest version, as in pyproject.toml (a test compares them)."""
PURPOSE = {"host": "to load zoo models, export and quantize", "rtx": "to build engines for RTX cards, on any PC"}

_INT8 = frozenset({"avx512_vnni", "avx_vnni", "asimddp"})  # 8-bit dot products: x86, x86, Arm
_OLDEST_PYTHON = (3, 10)

Find = Callable[[str], str | None]
"""Distribution -> installed version, None where it is not installed."""


def checks(
    *, root: Path = Path("/"), find: Find = installed_version, probe: Callable[[], Cuda] = probe_cuda
) -> tuple[Check, ...]:
    """Look at everything that decides what this machine can do.

    Args:
        root: Where /proc, /sys and /etc are found; a test passes a fake tree.
        find: Looks up an installed version; a test passes its own.
        probe: Asks the CUDA driver; a test passes its own.

    Returns:
        One record per thing, most basic first. Nothing is imported, changed or downloaded.
    """
    cuda = probe()
    target = detect_target(root, probe=lambda: cuda, has_rtx=find("tensorrt-rtx-cu13-libs") is not None)
    return (
        _python(),
        _environment(),
        *(_library(name, least, find, None) for name, least in BASE.items()),
        *(_library(name, least, find, extra) for extra, rows in EXTRAS.items() for name, least in rows.items()),
        _tensorrt(root, find),
        _driver(root, cuda),
        Check("target", "ok", f"{target} (what --target auto means here)"),
        _processor(root),
        _load(root),
        *_power(root),
        _memory(memory_gib("MemAvailable", root)),
        *_storage(cache_root()),
        _bundled(),
    )


def _python() -> Check:
    found = f"{platform.python_version()} at {sys.executable}"
    if sys.version_info < _OLDEST_PYTHON:
        return Check("python", "fail", found, "install Python 3.10 or newer")
    return Check("python", "ok", found)


def _environment() -> Check:
    if sys.prefix != sys.base_prefix:
        return Check("virtual environment", "ok", sys.prefix)
    fix = "python3 -m venv .venv && . .venv/bin/activate"
    return Check("virtual environment", "warn", "none: packages go to the system's Python", fix)


def _library(name: str, least: str, find: Find, extra: str | None) -> Check:
    """A library of the base install (extra None: it must be there) or of an extra (it may be missing)."""
    found = find(name) or (find("onnxruntime-gpu") if name == "onnxruntime" else None)
    status: Literal["warn", "fail"] = "fail" if extra is None else "warn"
    fix = f"pip install '{name}>={least}'" if extra is None else f"pip install 'edgehybrid[{extra}]'"
    if found is None:
        purpose = "" if extra is None else f", needed {PURPOSE[extra]}"
        return Check(name, status, f"not installed{purpose}", fix)
    if _numbers(found) < _numbers(least):
        return Check(name, status, f"{found}, needed {least} or newer", fix)
    return Check(name, "ok", found)


def _tensorrt(root: Path, find: Find) -> Check:
    """Full TensorRT, which on a Jetson comes with JetPack and hides from a closed virtual environment."""
    if version := find("tensorrt"):
        return Check("tensorrt", "ok", version)
    if not is_jetson(root):
        return Check("tensorrt", "ok", "not installed: engines for a Jetson are built on the Jetson")
    if any((root / "usr/lib").glob("python3*/dist-packages/tensorrt")):
        fix = "python3 -m venv --system-site-packages .venv"
        return Check("tensorrt", "warn", "installed by JetPack, not visible in this virtual environment", fix)
    return Check("tensorrt", "warn", "not installed, needed to build engines here", "sudo apt install nvidia-jetpack")


def _driver(root: Path, cuda: Cuda) -> Check:
    if cuda.gpus:
        names = ", ".join(f"{gpu.name} (compute capability {'.'.join(map(str, gpu.capability))})" for gpu in cuda.gpus)
        return Check("cuda driver", "ok", f"CUDA {cuda.version}: {names}")
    if is_jetson(root):
        return Check("cuda driver", "fail", cuda.reason, "sudo apt install nvidia-l4t-cuda, or flash the board again")
    return Check("cuda driver", "ok", f"none ({cuda.reason}): the target is cpu")


def _processor(root: Path) -> Check:
    name = f"{processor_name(root)}, {available_cores(root)} cores for this process"
    if cpu_flags(root) & _INT8:
        return Check("processor", "ok", f"{name}, 8-bit dot products")
    found = f"{name}, no 8-bit dot products: int8 is hardly faster than fp32 here, and may saturate"
    return Check("processor", "warn", found)


def _load(root: Path) -> Check:
    load, cores = load_average(root), available_cores(root)
    if load is None:
        return Check("load", "warn", "unknown: this system does not tell")
    found = f"{load:.1f} processes on {cores} cores in the last minute"
    if load > 0.5 * cores:
        return Check("load", "warn", f"{found}: latencies will be disturbed", "close other programs before `bench`")
    return Check("load", "ok", found)


def _power(root: Path) -> tuple[Check, ...]:
    """The power mode of a Jetson; numbers to be compared with others' come from its fastest mode."""
    mode = power_mode(root)
    if not is_jetson(root) or mode is None:
        return ()
    fastest = [number for number, name in power_modes(root).items() if name.startswith("MAXN")]
    if mode.startswith("MAXN") or not fastest:
        return (Check("power mode", "ok", mode),)
    fix = f"sudo nvpmodel -m {fastest[0]} && sudo jetson_clocks"
    return (Check("power mode", "warn", f"{mode}: below {board_model(root)}'s fastest", fix),)


def _memory(available: float | None) -> Check:
    if available is None:
        return Check("memory", "warn", "unknown: this system does not tell")
    found = f"{available:.1f} GiB free"
    if available < 1:
        return Check("memory", "fail", f"{found}, needed 1 for the smallest model", "close other programs")
    if available < 4:
        return Check("memory", "warn", f"{found}, 4 are comfortable for export", "close other programs")
    return Check("memory", "ok", found)


def _storage(cache: Path) -> tuple[Check, ...]:
    """Free space and permission where the cache is or would be created."""
    place = next(path for path in (cache, *cache.absolute().parents) if path.exists())
    writable = place.is_dir() and os.access(place, os.W_OK | os.X_OK)
    if writable:
        first = Check("cache", "ok", str(cache))
    else:
        first = Check("cache", "fail", f"{cache} cannot be written", "export EDGEHYBRID_CACHE_DIR=/some/folder")
    return first, _disk(shutil.disk_usage(place).free / 2**30, place)


def _disk(free: float, place: Path) -> Check:
    found = f"{free:.1f} GiB free at {place}"
    if free < 0.5:
        return Check(
            "disk", "fail", f"{found}, needed 0.5 for one build", "free some space or set EDGEHYBRID_CACHE_DIR"
        )
    if free < 5:
        return Check("disk", "warn", f"{found}, 5 are comfortable", "free some space or set EDGEHYBRID_CACHE_DIR")
    return Check("disk", "ok", found)


def _bundled() -> Check:
    """The targets and image sets that ship beside the code."""
    try:
        targets, sets = resources.targets(), resources.image_sets()
    except EdgeHybridError as error:
        return Check("bundled data", "fail", error.why, error.fix)
    if not targets or not sets:
        found = f"{len(targets)} targets and {len(sets)} image sets"
        return Check("bundled data", "fail", found, "pip install --force-reinstall edgehybrid")
    return Check("bundled data", "ok", f"{len(targets)} targets; image sets {', '.join(sets)}")


def _numbers(version: str) -> tuple[int, ...]:
    """The leading numbers of a version: "2.13.0+cpu" is (2, 13, 0)."""
    found = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(part) for part in found[0].split(".")) if found else ()
