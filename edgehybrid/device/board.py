"""Tell which target this machine is: a Jetson by its device tree, an RTX card by its driver, else a plain CPU."""

import functools
import importlib.util
import json
import re
import subprocess
import sys
from collections.abc import Callable, Collection
from dataclasses import dataclass
from pathlib import Path

from edgehybrid import resources
from edgehybrid.device.machine import board_model, l4t_release, memory_gib, power_mode, read

MODULES = {
    "p3767-0000": "orin-nx-16gb",
    "p3767-0001": "orin-nx-8gb",
    "p3767-0003": "orin-nano-8gb",
    "p3767-0004": "orin-nano-4gb",
    "p3767-0005": "orin-nano-8gb",  # the module of the developer kit
    "p3701-0000": "agx-orin-64gb",  # the 32 GB developer kit: it has the 64 GB module's GPU
    "p3701-0004": "agx-orin-32gb",
    "p3701-0005": "agx-orin-64gb",
    "p3701-0008": "agx-orin-industrial",
    "p3834-0008": "agx-thor-t5000",
    **dict.fromkeys(("p2888-0001", "p2888-0003", "p2888-0004", "p2888-0005", "p2888-0008"), "agx-xavier"),
    **dict.fromkeys(("p3668-0000", "p3668-0001", "p3668-0003"), "xavier-nx"),
    **dict.fromkeys(("p3310-1000", "p3489-0000", "p3489-0888", "p3636-0001"), "tx2"),
    **dict.fromkeys(("p3448-0000", "p3448-0002"), "nano-4gb"),
}
"""NVIDIA's part number of a Jetson module -> target. Source: nvpmodel_p3767_*.conf and nvpmodel_p3701_*.conf; for the
others the module table of jetson_stats (jtop/core/jetson_variables.py @f41d5cad)."""

JETPACKS = {
    "39.2": "7.2", "38.4": "7.1", "38.2": "7.0", "36.5.2": "6.2.3", "36.5": "6.2.2", "36.4.7": "6.2.1",
    "36.4.4": "6.2.1", "36.4.3": "6.2", "36.4": "6.1", "36.3": "6.0", "36.2": "6.0", "35.6.4": "5.1.6",
    "35.6.0": "5.1.4", "35.6": "5.1.5", "35.5": "5.1.3",
    "35.4": "5.1.2", "35.3": "5.1.1", "35.2": "5.1", "35.1": "5.0.2", "32.7": "4.6.1",
    "32.6": "4.6",
}  # fmt: skip
"""Release of Jetson Linux, or the beginning of one -> JetPack. Source: NVIDIA_JETPACK of jetson_stats @f41d5cad; of
32.7 the patch releases (4.6.1 to 4.6.6) are not told apart, as they ship one TensorRT."""

RTX_CAPABILITIES = ((7, 5), (8, 0), (8, 6), (8, 9), (12, 0), (12, 1))
"""Compute capabilities that TensorRT-RTX 1.7 builds for (its ComputeCapability names); no Jetson is among them."""

_PROBE_SECONDS = 20
PROBE = """
import ctypes, json
try:
    cuda = ctypes.CDLL("libcuda.so.1")
except OSError as error:
    raise SystemExit(f"no CUDA driver: {error}")
def call(name, *args):
    if code := getattr(cuda, name)(*args):
        raise SystemExit(f"{name} returned CUDA error {code}")
call("cuInit", 0)
version, count = ctypes.c_int(), ctypes.c_int()
call("cuDriverGetVersion", ctypes.byref(version))
call("cuDeviceGetCount", ctypes.byref(count))
gpus = []
for i in range(count.value):
    device, major, minor = ctypes.c_int(), ctypes.c_int(), ctypes.c_int()
    name = ctypes.create_string_buffer(256)
    call("cuDeviceGet", ctypes.byref(device), i)
    call("cuDeviceGetName", name, 256, device)
    call("cuDeviceGetAttribute", ctypes.byref(major), 75, device)
    call("cuDeviceGetAttribute", ctypes.byref(minor), 76, device)
    gpus.append([name.value.decode(errors="replace"), major.value, minor.value])
print(json.dumps([version.value, gpus]))
"""
"""What the child process of `probe_cuda` runs. 75 and 76 are the attributes of the compute capability."""


@dataclass(frozen=True)
class Gpu:
    """One CUDA device."""

    name: str
    capability: tuple[int, int]  # compute capability


@dataclass(frozen=True)
class Cuda:
    """What the CUDA driver says."""

    version: str | None  # newest CUDA the driver supports; None: no working driver
    gpus: tuple[Gpu, ...] = ()
    reason: str = ""  # why there is none


def detect_target(
    root: Path = Path("/"),
    *,
    known: Collection[str] | None = None,
    probe: Callable[[], Cuda] | None = None,
    has_rtx: bool | None = None,
    has_tensorrt: bool | None = None,
) -> str:
    """The name of the target that this machine is.

    Args:
        root: Where /proc is found; a test passes a fake tree.
        known: Names of targets; the profiles that ship by default.
        probe: Asks the CUDA driver; `probe_cuda` by default, called only where a builder is installed.
        has_rtx: Whether TensorRT-RTX is installed; looked up by default.
        has_tensorrt: Whether full TensorRT is; looked up by default.

    Returns:
        A Jetson's profile, its Super one where the module is flashed so; "cuda" where full TensorRT is installed and
        the driver has a GPU; "rtx" where TensorRT-RTX is and has kernels for it; "cpu" otherwise, which every machine
        is: without a builder a GPU is of no use here.
    """
    names = resources.targets() if known is None else known
    if jetson := jetson_module(root):
        if is_super(root) and f"{jetson}-super" in names:
            return f"{jetson}-super"
        return jetson if jetson in names else "cpu"
    full = importlib.util.find_spec("tensorrt") is not None if has_tensorrt is None else has_tensorrt
    rtx = map(importlib.util.find_spec, ("tensorrt_rtx", "tensorrt_rtx_bindings"))  # the extra brings the latter
    light = any(rtx) if has_rtx is None else has_rtx
    gpus = (probe or probe_cuda)().gpus if full or light else ()
    if full and gpus and "cuda" in names:
        return "cuda"
    if light and "rtx" in names and any(gpu.capability in RTX_CAPABILITIES for gpu in gpus):
        return "rtx"
    return "cpu"


def detect_mode(root: Path = Path("/")) -> str | None:
    """Name of the power mode that nvpmodel has set, as "15W"; None on anything but a Jetson that tells it."""
    mode = power_mode(root) if is_jetson(root) else None
    return None if mode is None or mode.startswith(("governor", "unnamed")) else mode.split(" ")[0]


def detect_jetpack(root: Path = Path("/")) -> str | None:
    """JetPack of this Jetson by its release of Jetson Linux, as "6.2"; None elsewhere, or for a release not listed."""
    release = l4t_release(root)
    if release is None:
        return None
    fitting = [l4t for l4t in JETPACKS if release == l4t or release.startswith(f"{l4t}.")]
    return JETPACKS[max(fitting, key=len)] if fitting else None


def jetson_module(root: Path) -> str | None:
    """The target of a Jetson module; None on anything else, and on a Jetson that has no profile.

    The part number in the device tree decides. A carrier board that hides it leaves the board's name, which tells
    modules of one family apart by their memory alone.
    """
    compatible = read(root / "proc/device-tree/compatible") or ""
    for part in re.findall(r"p\d{4}-\d{4}", compatible):
        if part in MODULES:
            return MODULES[part]
    model, memory = board_model(root) or "", memory_gib("MemTotal", root) or 0.0
    if "Thor" in model:
        return "thor-t4000" if "T4000" in model or 0 < memory <= 64 else "agx-thor-t5000"
    if "Xavier" in model:
        return "xavier-nx" if "NX" in model else "agx-xavier"
    if "Orin" not in model:
        return "tx2" if "TX2" in model else "nano-4gb" if "Jetson Nano" in model and memory > 2.5 else None
    if "AGX" in model:
        return "agx-orin-industrial" if "Industrial" in model else f"agx-orin-{32 if memory <= 32 else 64}gb"
    if "NX" in model:
        return f"orin-nx-{8 if memory <= 8 else 16}gb"
    return f"orin-nano-{4 if memory <= 4 else 8}gb" if "Nano" in model else None


def is_jetson(root: Path) -> bool:
    """Any Jetson, with a profile or without."""
    return "Jetson" in (board_model(root) or "") or (root / "etc/nv_tegra_release").exists()


def is_super(root: Path) -> bool:
    """Whether the module is flashed with a Super configuration, which raises its clocks."""
    return "super" in f"{read(root / 'proc/device-tree/compatible')} {board_model(root)}".lower()


@functools.cache
def probe_cuda(command: tuple[str, ...] = (sys.executable, "-I", "-c", PROBE)) -> Cuda:
    """Ask the CUDA driver for its version and devices.

    In a child process: a driver that crashes or hangs takes only the child with it, and a process that has
    initialised CUDA could no longer fork. Full TensorRT ends the process where there is no driver, so it is asked
    first. The answer is kept: one process starts one child.

    Args:
        command: What to run; it prints [version, [[name, major, minor], ...]] as JSON. A test passes its own.
    """
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=_PROBE_SECONDS, check=False)
    except subprocess.TimeoutExpired:
        return Cuda(None, reason=f"the driver did not answer within {_PROBE_SECONDS} s")
    except OSError as error:
        return Cuda(None, reason=str(error))
    if done.returncode:
        last = (done.stderr.strip() or f"the driver crashed with code {done.returncode}").splitlines()[-1]
        return Cuda(None, reason=last)
    version, gpus = json.loads(done.stdout)
    found = tuple(Gpu(name, (major, minor)) for name, major, minor in gpus)
    return Cuda(f"{version // 1000}.{version % 1000 // 10}", found, "" if found else "the driver has no device")


def capability(cuda: Cuda | None = None) -> str | None:
    """Compute capability of the first CUDA device, as "8.7"; None without a driver or device.

    Args:
        cuda: What the driver said; it is asked by default.
    """
    gpus = (probe_cuda() if cuda is None else cuda).gpus
    return f"{gpus[0].capability[0]}.{gpus[0].capability[1]}" if gpus else None
