"""Check what a board is connected to: cameras, GStreamer, the container it may run in, the network."""

import os
from pathlib import Path

from edgehybrid.device.board import is_jetson
from edgehybrid.device.machine import read
from edgehybrid.records import Check

CSI_PLUGIN = "libgstnvarguscamerasrc.so"
_GST_LAUNCH = ("usr/bin/gst-launch-1.0", "usr/local/bin/gst-launch-1.0")
_PLUGINS = ("usr/lib/aarch64-linux-gnu/gstreamer-1.0", "usr/lib/x86_64-linux-gnu/gstreamer-1.0")
_CSV = "etc/nvidia-container-runtime/host-files-for-container.d"


def cameras(root: Path) -> tuple[Check, ...]:
    """Video devices, whether this user may open them, and NVIDIA's camera daemon on a Jetson."""
    devices = sorted((root / "dev").glob("video[0-9]*"), key=lambda path: (len(path.name), path.name))
    argus = (root / "tmp/argus_socket").exists()
    if not devices:
        found = ["no /dev/video device: streams, clips and the test scene work without one"]
        return (Check("cameras", "ok", found[0]), *_argus(root, argus))
    named = [f"/dev/{path.name}{_camera_name(root, path.name)}" for path in devices]
    closed = [path for path in devices if not os.access(path, os.R_OK | os.W_OK)]
    if closed:
        found_text = f"{', '.join(named)}; this user may not open /dev/{closed[0].name}"
        fix = "sudo usermod -aG video $USER, then log in again"
        return (Check("cameras", "warn", found_text, fix), *_argus(root, argus))
    return (Check("cameras", "ok", ", ".join(named)), *_argus(root, argus))


def _camera_name(root: Path, device: str) -> str:
    name = (read(root / f"sys/class/video4linux/{device}/name") or "").strip()
    return f" ({name})" if name else ""


def _argus(root: Path, running: bool) -> tuple[Check, ...]:
    """The daemon behind csi:// cameras."""
    if not is_jetson(root):
        return ()
    if running:
        return (Check("csi cameras", "ok", "nvargus-daemon runs"),)
    fix = "sudo systemctl restart nvargus-daemon"
    return (Check("csi cameras", "warn", "nvargus-daemon does not run: csi:// cameras cannot be opened", fix),)


def gstreamer(root: Path) -> Check:
    """GStreamer, through which csi:// cameras and the Jetson's decoder are reached."""
    tool = next((tool for tool in _GST_LAUNCH if (root / tool).is_file()), None)
    if tool is None:
        if is_jetson(root):
            return Check("gstreamer", "warn", "not installed: csi:// needs it", "sudo apt install gstreamer1.0-tools")
        return Check("gstreamer", "ok", "not installed: only csi:// cameras of a Jetson need it")
    if is_jetson(root) and not any((root / folder / CSI_PLUGIN).is_file() for folder in _PLUGINS):
        found = f"/{tool}, without nvarguscamerasrc: csi:// cannot be opened"
        return Check("gstreamer", "warn", found, "sudo apt install nvidia-l4t-gstreamer")
    return Check("gstreamer", "ok", f"/{tool}")


def container(root: Path) -> Check:
    """Whether this is a container and, on a Jetson, whether the board's libraries are mounted into it."""
    inside = (root / ".dockerenv").exists() or (root / "run/.containerenv").exists()
    runtime = (root / "usr/bin/nvidia-container-runtime").is_file()
    rules = sorted(path.name for path in (root / _CSV).glob("*.csv"))
    if not is_jetson(root):
        return Check("container", "ok", "inside one" if inside else "none")
    if inside:
        if any((root / "dev" / name).exists() for name in ("nvmap", "nvhost-gpu", "nvgpu")):
            return Check("container", "ok", "inside one, with the GPU's devices")
        fix = "start it with: docker run --runtime nvidia"
        return Check("container", "warn", "inside one, without the GPU's devices", fix)
    if runtime and not rules:
        found = f"nvidia-container-runtime has no rules in /{_CSV}: containers get no TensorRT"
        return Check("container", "warn", found, "sudo apt install --reinstall nvidia-jetpack-runtime")
    return Check("container", "ok", f"none; nvidia-container-runtime with {', '.join(rules)}" if runtime else "none")


def network(root: Path, offline: bool) -> Check:
    """Whether published weights could be fetched; nothing is contacted."""
    if offline:
        return Check("network", "ok", "not asked: EDGEHYBRID_OFFLINE is set")
    rows = [line.split() for line in (read(root / "proc/net/route") or "").splitlines()[1:]]
    if any(len(row) > 1 and row[1] == "00000000" for row in rows):
        return Check("network", "ok", "a default route; nothing was contacted")
    return Check("network", "ok", "no default route: bundled weights and your own files work, downloads do not")
