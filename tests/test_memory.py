"""Memory that is no longer used goes back to the system, and peaks begin anew."""

import ctypes
import mmap
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from edgehybrid import memory

glibc = pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "malloc_trim"), reason="the C library is not glibc")


def resident() -> float:
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * 4096 / 2**20


@glibc
@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_what_was_freed_goes_back_also_where_it_pointed_at_itself() -> None:
    small = 1 << 14  # bytes, below what glibc maps by itself
    ring: list[object] = [np.ones(small, np.uint8) for _ in range(4096)]
    ring.append(ring)
    anchor = np.ones(small, np.uint8)  # behind them on the heap
    before = resident()
    del ring
    memory.trim()
    assert resident() < before - 40
    assert anchor.all()


def faults_of_large_blocks(before: str) -> int:
    """Pages that a fresh process fetches while it writes and frees 32 blocks of 1 MiB, one after another.

    One MiB is more than glibc keeps by itself and less than the system has in one huge page.
    """
    code = f"""
import resource
from edgehybrid import memory
{before}
bytearray(b"x") * (1 << 20)
start = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
for _ in range(32):
    bytearray(b"x") * (1 << 20)
print(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - start)
"""
    env = {**os.environ, "MALLOC_TOP_PAD_": "0"}  # glibc's own thresholds then do not move with what is freed
    return int(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True, env=env).stdout)


@glibc
def test_retained_blocks_are_not_fetched_anew() -> None:
    assert faults_of_large_blocks("memory.retain()") < 100
    assert faults_of_large_blocks("") > 4096  # half of all pages


@pytest.mark.skipif(sys.platform != "linux", reason="memory is read from /proc")
def test_a_peak_is_that_since_the_last_reset() -> None:
    memory.reset_peak()
    low = memory.peak_mib()
    with mmap.mmap(-1, 64 << 20) as block:  # the C library might keep what is freed
        for page in range(0, len(block), mmap.PAGESIZE):
            block[page] = 1
        high = memory.peak_mib()
    assert high > low + 48
    assert memory.peak_mib() > high - 16
    memory.reset_peak()
    assert memory.peak_mib() < high - 40
