"""Describe the machine: what a latency must be quoted with, which target it is, and what it lacks.

    machine.py   processor, memory, load, clocks, temperature, power mode -> DeviceState
    board.py     which Jetson module or GPU this is -> the name of a target
    doctor.py    what works here and what to fix -> Checks

Everything is read from files of Linux below a root folder, so that a test passes a fake tree; what a machine does
not tell stays None.
"""

from edgehybrid.device.board import Cuda, Gpu, capability, detect_target, probe_cuda
from edgehybrid.device.doctor import checks
from edgehybrid.device.machine import state

__all__ = ["Cuda", "Gpu", "capability", "checks", "detect_target", "probe_cuda", "state"]
