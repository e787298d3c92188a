"""Put together what a number of this machine must be quoted with: a DeviceState of now."""

from collections.abc import Callable
from pathlib import Path

from edgehybrid.cores import available_cores
from edgehybrid.device import board
from edgehybrid.device.board import is_jetson
from edgehybrid.device.machine import (
    clocks_mhz,
    core_count,
    load_average,
    memory_gib,
    power_mode,
    processor_name,
    system_name,
    versions,
)
from edgehybrid.device.power import read_draw
from edgehybrid.device.sensors import cooling, fan, missing_clocks, reasons, temperatures_c, throttle_events
from edgehybrid.records import DeviceState

GPU_NODES = ("nvidiactl", "nvidia0", "dxg")
"""In /dev: signs of an NVIDIA driver on a PC; without one nobody is asked."""


def state(threads: int = 0, *, root: Path = Path("/"), probe: Callable[[], board.Cuda] | None = None) -> DeviceState:
    """The state of this machine now.

    Clocks are in MHz: "cpu" is the fastest core's at this moment, "cpu_max" what its governor may choose and "cpu_min"
    what it may not go below; "gpu", "gpu_max" and "gpu_min" likewise on a Jetson, whose memory clock is "emc". The
    temperature is the hottest sensor's.

    Args:
        threads: Used by the runner; 0 means every physical core this process may use.
        root: Where /proc, /sys and /etc are found; a test passes a fake tree.
        probe: Asks the CUDA driver, where there is a sign of one; a test passes its own.

    Returns:
        What could be read; the rest is None or absent, with the reason under `unknown`.
    """
    draw, heat, clocks = read_draw(root), temperatures_c(root), clocks_mhz(root)
    hottest, load, mode = max(heat.values(), default=None), load_average(root), power_mode(root)
    watts, throttle, air = None if draw is None else draw.watts, throttle_events(root), fan(root)
    told = {
        "load": load,
        "temperature_c": hottest,
        "power_mode": mode,
        "power_w": watts,
        "throttle": throttle,
        "fan": air or None,
    }
    why = reasons(root, jetson=is_jetson(root))
    return DeviceState(
        name=_name(root, probe or board.probe_cuda),
        cores=core_count(root),
        threads=threads or available_cores(root),
        memory_gib=memory_gib("MemTotal", root),
        system=system_name(root),
        load=load,
        clocks_mhz=clocks,
        temperature_c=hottest,
        power_mode=mode,
        versions=versions(),
        memory_free_gib=memory_gib("MemAvailable", root),
        temperatures_c=heat,
        power_w=watts,
        rails_w={} if draw is None else {rail: mw / 1e3 for rail, mw in draw.rails_mw.items()},
        throttle=throttle,
        cooling=cooling(root),
        fan=air,
        unknown={name: why[name] for name, value in told.items() if value is None} | missing_clocks(clocks, root),
    )


def _name(root: Path, probe: Callable[[], board.Cuda]) -> str:
    """The board; of a PC its processor, and its GPU: an engine's time says nothing without it."""
    name = processor_name(root)
    if is_jetson(root) or not any((root / "dev" / node).exists() for node in GPU_NODES):
        return name
    gpus = probe().gpus
    return f"{name} with {gpus[0].name}" if gpus else name
