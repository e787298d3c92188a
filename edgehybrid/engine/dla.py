"""Write ranges as the calibration cache that NVDLA reads, the one road to its int8: it takes no Q/DQ."""

import struct

from edgehybrid.records import LEVELS, Ranges

HEADING = "TRT-8501-EntropyCalibration2"
"""First line; the builder of another release gets its own (see `bridge`)."""


def calibration_cache(ranges: Ranges) -> bytes:
    """One line per tensor: its name and its scale (amax / 127) as a big-endian float32 in hexadecimal.

    Uneven tensors have none: what reads a tensor without a scale falls back to float, as TensorRT's builder says in a
    warning then (TensorRT #2462). No NVDLA was there to try it.

    Args:
        ranges: Activation ranges of the float graph that NVDLA will be given.

    Source:
        Format of the files that TensorRT 8's IInt8EntropyCalibrator2 writes; NVIDIA's qdq_translator
        (Deep-Learning-Accelerator-SW) writes them the same way.
    """
    kept = sorted((name, amax) for name, amax in ranges.tensors.items() if name not in ranges.uneven)
    lines = [f"{name}: {struct.pack('>f', amax / LEVELS).hex()}" for name, amax in kept]
    return "\n".join([HEADING, *lines, ""]).encode()
