"""This process's memory: give back what is no longer used, and how much was resident at most."""

import contextlib
import ctypes
import gc
import resource
from pathlib import Path

_M_TRIM_THRESHOLD, _M_MMAP_THRESHOLD = -1, -3  # malloc.h
_RETAINED = 256 << 20


def trim(*, cycles: bool = True) -> None:
    """Give unused memory back to the system: graphs, which point at themselves, and what the C library keeps.

    The C library part is glibc's; elsewhere nothing happens.

    Args:
        cycles: Look for what points at itself, which takes 0.2 s where torch is loaded.
    """
    if cycles:
        gc.collect()
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)


def retain() -> None:
    """Have the C library keep freed blocks of up to 256 MiB for the next request instead of giving them back at once.

    A network needs the same buffers in every run: fetched anew from the system, page by page, those of a BoTNet of 256
    px whose activations are watched take a third of the run. From now on, in this process; `trim` still gives back what
    is unused. The C library part is glibc's; elsewhere nothing happens.
    """
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        if libc.mallopt(_M_MMAP_THRESHOLD, _RETAINED):
            libc.mallopt(_M_TRIM_THRESHOLD, _RETAINED)


def reset_peak() -> None:
    """Begin a new measurement of the peak (Linux; elsewhere the peak is since start)."""
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")


def peak_mib() -> float:
    """Peak resident memory in MiB since `reset_peak`."""
    with contextlib.suppress(OSError, ValueError, IndexError):
        status = Path("/proc/self/status").read_text()
        return round(int(status.split("VmHWM:")[1].split()[0]) / 1024, 1)
    return round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024, 1)
