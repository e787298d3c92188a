"""Describe the machine: what a latency must be quoted with, which target it is, and what it lacks.

    machine.py    processor, memory, load, clocks, power mode, versions
    board.py      which Jetson module or GPU this is -> the name of a target
    power.py      rails of INA3221 and INA238, or a line of tegrastats -> Draw
    sensors.py    heat, throttling, fan, memory in use
    snapshot.py   all of it now -> DeviceState
    sampler.py    all of it while something runs -> Conditions, Power
    doctor.py     what works here and what to fix -> Checks, from installation.py, health.py and surroundings.py

Everything is read from files of Linux below a root folder, so that a test passes a fake tree; what a machine does
not tell stays None, with the reason.
"""

from edgehybrid.device.board import Cuda, Gpu, capability, detect_jetpack, detect_mode, detect_target, probe_cuda
from edgehybrid.device.doctor import abilities, checks
from edgehybrid.device.sampler import Sampler, tells_power
from edgehybrid.device.snapshot import state

__all__ = [
    "Cuda",
    "Gpu",
    "Sampler",
    "abilities",
    "capability",
    "checks",
    "detect_jetpack",
    "detect_mode",
    "detect_target",
    "probe_cuda",
    "state",
    "tells_power",
]
