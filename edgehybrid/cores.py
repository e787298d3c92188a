"""Count the processor cores that this process may use: the default number of threads everywhere."""

import os
from collections.abc import Iterable
from pathlib import Path


def available_cores(root: Path = Path("/"), *, allowed: Iterable[int] | None = None) -> int:
    """Physical cores that this process may use, at least 1.

    Hyper-threads count once: two of them share the arithmetic units that a network keeps busy. The
    scheduler's affinity mask and a container's CPU quota both bound the number.

    Args:
        root: Where /sys is found; a test passes a fake tree.
        allowed: Logical CPUs this process may use; the scheduler is asked by default.
    """
    if allowed is None:
        allowed = os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1)
    cores = {_siblings(root, cpu) for cpu in allowed}
    return max(1, min(len(cores), _quota(root, otherwise=len(cores))))


def _siblings(root: Path, cpu: int) -> str:
    """The hyper-threads sharing one core, as the kernel lists them; the CPU alone where it does not tell."""
    try:
        return (root / f"sys/devices/system/cpu/cpu{cpu}/topology/thread_siblings_list").read_text().strip()
    except OSError:
        return f"cpu{cpu}"


def _quota(root: Path, otherwise: int) -> int:
    """Whole CPUs of the container's quota (control groups version 2): "max 100000" or "150000 100000"."""
    try:
        quota, period = (root / "sys/fs/cgroup/cpu.max").read_text().split()
        return int(quota) // int(period)
    except (OSError, ValueError, ZeroDivisionError):  # no control groups, or quota "max"
        return otherwise
