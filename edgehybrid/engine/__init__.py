"""Turn ONNX files into engines with NVIDIA's builders.

build.py           which builder serves a target, and what it made           parent
process.py         start the child, pass its progress on, explain its end    parent
order.py           what the two tell each other
child.py           read the order, import NVIDIA's module                    child
bridge.py          TensorRT 8.5 to 11 and TensorRT-RTX through one set of calls
torch_tensorrt.py  Torch-TensorRT, which takes a torch program
stamp.py           what an engine was built with, asked before it is loaded
dla.py             ranges as the calibration cache of NVDLA
remote.py, ssh.py  all of this on a board
"""

from edgehybrid.engine.build import (
    Builders,
    build,
    can_build,
    check_dla,
    compile_torch,
    dialect_for,
    dla_cores,
    find_builders,
    fits,
    release_for,
)
from edgehybrid.engine.dla import calibration_cache
from edgehybrid.engine.stamp import check_stamp, fits_gpu, fits_machine, stamp, try_loading

__all__ = [
    "Builders",
    "build",
    "calibration_cache",
    "can_build",
    "check_dla",
    "check_stamp",
    "compile_torch",
    "dialect_for",
    "dla_cores",
    "find_builders",
    "fits",
    "fits_gpu",
    "fits_machine",
    "release_for",
    "stamp",
    "try_loading",
]
