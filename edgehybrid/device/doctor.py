"""Say what works on this machine and what to run for the rest, in one line per thing looked at.

`fail`: EdgeHybrid cannot work, or not safely. `warn`: something it can do is missing, or a number would be disturbed.
`ok` includes what is rightly absent, as TensorRT is on a laptop.
"""

import os
from collections.abc import Callable
from pathlib import Path

from edgehybrid import resources
from edgehybrid.device import health, installation, surroundings
from edgehybrid.device.board import Cuda, detect_jetpack, detect_target, is_jetson, probe_cuda
from edgehybrid.device.installation import BASE, EXTRAS, Ask, Find, load_module
from edgehybrid.device.machine import installed_version, memory_gib, system_name
from edgehybrid.errors import EdgeHybridError
from edgehybrid.records import Check, Target
from edgehybrid.store import cache_root


def checks(
    *,
    root: Path = Path("/"),
    find: Find = installed_version,
    probe: Callable[[], Cuda] = probe_cuda,
    ask: Ask = load_module,
) -> tuple[Check, ...]:
    """Look at everything that decides what this machine can do.

    Args:
        root: Where /proc, /sys and /etc are found; a test passes a fake tree.
        find: Looks up an installed version; a test passes its own.
        probe: Asks the CUDA driver; a test passes its own.
        ask: Loads a module in a child; a test passes its own.

    Returns:
        One record per thing, most basic first. Nothing is imported here, changed or downloaded.
    """
    cuda = probe()
    name = detect_target(
        root,
        probe=lambda: cuda,
        has_rtx=find("tensorrt-rtx-cu13-libs") is not None,
        has_tensorrt=find("tensorrt") is not None,
    )
    target, jetpack = _known(name, detect_jetpack(root))
    expected = None if target is None or jetpack is None else str(target.figures["tensorrt"].value)
    offline = os.environ.get("EDGEHYBRID_OFFLINE", "0") not in ("", "0")
    return (
        installation.python(),
        installation.environment(),
        *(installation.library(each, least, find, None) for each, least in BASE.items()),
        *(
            installation.library(each, least, find, extra, has_gpu=is_jetson(root) or bool(cuda.gpus))
            for extra, rows in EXTRAS.items()
            for each, least in rows.items()
        ),
        Check("system", "ok", system_name(root)),
        *_jetpack(root, detect_jetpack(root)),
        installation.tensorrt(root, find, expected, ask),
        installation.trtexec(root),
        _driver(root, cuda),
        Check("target", "ok", f"{name} (what --target auto means here)"),
        health.processor(root),
        health.load(root),
        *health.power(root),
        *health.heat(root),
        health.memory(memory_gib("MemAvailable", root)),
        health.swap(root),
        *health.storage(cache_root()),
        health.bundled(),
        *surroundings.cameras(root),
        surroundings.gstreamer(root),
        surroundings.container(root),
        surroundings.network(root, offline),
    )


def abilities(found: tuple[Check, ...]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """What this machine can do and what it cannot yet, by the checks that each needs to be in order.

    Args:
        found: What `checks` returned.
    """
    sound = {check.name for check in found if check.status != "fail"}
    there = {check.name for check in found if check.status == "ok"}
    base = set(BASE) | {"python", "cache"} <= sound
    host, rtx, stream = (base and set(EXTRAS[extra]) <= there for extra in ("host", "rtx", "stream"))
    text = {check.name: check.found for check in found}
    builds = base and "tensorrt" in there and text["cuda driver"].startswith("CUDA") and text["tensorrt"][:1].isdigit()
    runs = builds and text["pycuda"][:1].isdigit() and "pycuda" in there
    deeds = {
        "measure and score ONNX files": base,
        "export and quantize": host,
        "have graphs checked by NVIDIA's compiler": rtx,
        "build engines for this machine": builds,
        "run and time engines": runs,
        "stream": stream,
    }
    return tuple(deed for deed, able in deeds.items() if able), tuple(deed for deed, able in deeds.items() if not able)


def _known(name: str, jetpack: str | None) -> tuple[Target | None, str | None]:
    """The target under its JetPack, as far as the profile knows both."""
    try:
        target = resources.load_target(name)
        return (target, None) if jetpack is None else (resources.at_jetpack(target, jetpack), jetpack)
    except EdgeHybridError:  # `bundled data` reports what is wrong with the profiles
        return None, None


def _jetpack(root: Path, found: str | None) -> tuple[Check, ...]:
    """JetPack of a Jetson, by its release of Jetson Linux."""
    if not is_jetson(root):
        return ()
    if found is None:
        text = "unknown: /etc/nv_tegra_release names no release that is known here"
        return (Check("jetpack", "warn", text, "choose it by hand: --target NAME@jp6.2"),)
    if found.startswith(("4.", "5.")):
        text = f"{found}: its TensorRT has a Python module for Python 3.8 or 3.6 only"
        return (Check("jetpack", "warn", text, "build bundles on a PC and their engines with trtexec here"),)
    return (Check("jetpack", "ok", found),)


def _driver(root: Path, cuda: Cuda) -> Check:
    if cuda.gpus:
        names = ", ".join(f"{gpu.name} (compute capability {'.'.join(map(str, gpu.capability))})" for gpu in cuda.gpus)
        return Check("cuda driver", "ok", f"CUDA {cuda.version}: {names}")
    if is_jetson(root):
        return Check("cuda driver", "fail", cuda.reason, "sudo apt install nvidia-l4t-cuda, or flash the board again")
    return Check("cuda driver", "ok", f"none ({cuda.reason}): the target is cpu")
