"""Check what is installed: Python, the libraries of the base and of every extra, TensorRT, NVIDIA's tools."""

import platform
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Literal

from edgehybrid.device.board import is_jetson
from edgehybrid.records import Check

BASE = {"numpy": "1.26", "pillow": "10.3", "typer": "0.20", "rich": "13", "onnxruntime": "1.18", "jinja2": "3.1"}
EXTRAS = {
    "onnx": {"onnx": "1.21", "onnx-ir": "1.1"},
    "host": {"torch": "2.10", "onnxscript": "0.6", "onnxsim": "0.4.36", "safetensors": "0.5"},
    "timm": {"timm": "1.0.20"},
    "rtx": {"tensorrt-rtx-cu13-libs": "1.7", "tensorrt-rtx-cu13-bindings": "1.7"},
    "jetson": {"pycuda": "2024.1", "cuda-bindings": "12.6"},
    "torch-tensorrt": {"torch-tensorrt": "2.8"},
    "stream": {"av": "15", "aiohttp": "3.10"},
}
"""Extra -> distribution -> lowest version, as in pyproject.toml (a test compares them)."""
PURPOSE = {
    "onnx": "to rewrite, calibrate and quantize ONNX files",
    "host": "to load zoo models and export them",
    "timm": "to load models of timm",
    "rtx": "to build engines for RTX cards, on any PC",
    "jetson": "to run engines and time them, with CUDA graphs",
    "torch-tensorrt": "to build with --flavor torch-tensorrt",
    "stream": "to run on cameras, clips and network streams",
}
GPU_ALONE = ("jetson", "torch-tensorrt")
"""Extras that are of no use without a GPU."""

_OLDEST_PYTHON = (3, 10)
_LOAD_FIX = "install NVIDIA's libraries of the same release beside the Python module"
_LOAD_SECONDS = 60

Find = Callable[[str], str | None]
"""Distribution -> installed version, None where it is not installed."""
Ask = Callable[[str], str]
"""Module -> "ok VERSION" if it loads, else why not."""


def python() -> Check:
    """The interpreter."""
    found = f"{platform.python_version()} at {sys.executable}"
    if sys.version_info < _OLDEST_PYTHON:
        return Check("python", "fail", found, "install Python 3.10 or newer")
    return Check("python", "ok", found)


def environment() -> Check:
    """Whether packages go to a virtual environment."""
    if sys.prefix != sys.base_prefix:
        return Check("virtual environment", "ok", sys.prefix)
    fix = "python3 -m venv .venv && . .venv/bin/activate"
    return Check("virtual environment", "warn", "none: packages go to the system's Python", fix)


def library(name: str, least: str, find: Find, extra: str | None, *, has_gpu: bool = True) -> Check:
    """A library of the base install (extra None: it must be there) or of an extra (it may be missing).

    Args:
        name: Of the distribution.
        least: Lowest version that will do.
        find: Looks up an installed version.
        extra: That brings it.
        has_gpu: Whether this machine has a CUDA device: without one some extras are rightly absent.
    """
    found = find(name) or (find("onnxruntime-gpu") if name == "onnxruntime" else None)
    status: Literal["warn", "fail"] = "fail" if extra is None else "warn"
    fix = f"pip install '{name}>={least}'" if extra is None else f"pip install 'edgehybrid[{extra}]'"
    if found is None:
        purpose = "" if extra is None else f", needed {PURPOSE[extra]}"
        if extra in GPU_ALONE and not has_gpu:
            return Check(name, "ok", f"not installed{purpose}, on a machine with a GPU")
        return Check(name, status, f"not installed{purpose}", fix)
    if numbers(found) < numbers(least):
        return Check(name, status, f"{found}, needed {least} or newer", fix)
    return Check(name, "ok", found)


def tensorrt(root: Path, find: Find, expected: str | None, ask: Ask) -> Check:
    """Full TensorRT, which on a Jetson comes with JetPack and hides from a closed virtual environment.

    Args:
        root: Where /usr is found.
        find: Looks up an installed version.
        expected: The version that this board's JetPack brings; None: unknown, or no board.
        ask: Loads the module in a child.
    """
    if version := find("tensorrt"):
        said = ask("tensorrt")
        if not said.startswith("ok "):
            return Check("tensorrt", "fail", f"{version} is installed and does not load: {said}", _LOAD_FIX)
        if expected is not None and numbers(version)[:2] != numbers(expected)[:2]:
            found = f"{version}, where this JetPack brings {expected}: neither loads engines of the other"
            return Check("tensorrt", "warn", found, "build every engine again: edgehybrid build")
        return Check("tensorrt", "ok", said.removeprefix("ok "))
    if not is_jetson(root):
        return Check("tensorrt", "ok", "not installed: engines for a Jetson are built on the Jetson")
    if any((root / "usr/lib").glob("python3*/dist-packages/tensorrt")):
        fix = "python3 -m venv --system-site-packages .venv"
        return Check("tensorrt", "warn", "installed by JetPack, not visible in this virtual environment", fix)
    return Check("tensorrt", "warn", "not installed, needed to build engines here", "sudo apt install nvidia-jetpack")


def trtexec(root: Path) -> Check:
    """NVIDIA's command line of TensorRT, with which a board can build where no Python module serves."""
    places = ("usr/src/tensorrt/bin/trtexec", "usr/bin/trtexec", "usr/local/bin/trtexec")
    found = next((place for place in places if (root / place).is_file()), None)
    if found is not None:
        return Check("trtexec", "ok", f"/{found}")
    if not is_jetson(root):
        return Check("trtexec", "ok", "not installed: not needed to prepare bundles")
    return Check("trtexec", "warn", "not installed: only Python can build engines", "sudo apt install libnvinfer-bin")


def load_module(name: str) -> str:
    """Import a module in a child, which may crash without taking us along: "ok VERSION", or why not."""
    code = f"import {name}; print('ok', getattr({name}, '__version__', '?'))"
    try:
        done = subprocess.run(
            (sys.executable, "-c", code), capture_output=True, text=True, timeout=_LOAD_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        return f"it did not load within {_LOAD_SECONDS} s"
    if done.returncode < 0:
        return f"it crashed with signal {-done.returncode}"
    lines = (done.stdout if done.returncode == 0 else done.stderr).strip().splitlines()
    return lines[-1] if lines else "it left no message"


def numbers(version: str) -> tuple[int, ...]:
    """The leading numbers of a version: "2.13.0+cpu" is (2, 13, 0)."""
    found = re.match(r"\d+(\.\d+)*", version)
    return tuple(int(part) for part in found[0].split(".")) if found else ()
