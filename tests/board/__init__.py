"""A machine with a GPU that is not there, from the driver to the engine: builds, loads, runs and times.

The builder keeps the ONNX file in its plan, the runtime has ONNX Runtime compute it as written, and time on the device
is a clock that moves with the size of the file. Names are those of one release of TensorRT (tests/engine). Nothing here
says how fast or how right a real engine is: it says that the road to that answer is whole.
"""

import base64
import json
import os
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

import edgehybrid
from edgehybrid.device import Cuda, Gpu, board
from edgehybrid.engine.build import installed_version
from tests.engine.fake_tensorrt import make_tensorrt
from tests.runtime import fake_cuda
from tests.runtime.fake_cuda import FakeDevice

RELEASE = "EDGEHYBRID_TEST_TENSORRT"
"""Environment variable that tells the builder's child which release it finds."""
SITE = Path(__file__).parent / "site"
ORIN = Cuda("12.6", (Gpu("Orin", (8, 7)),))


def make_module(device: FakeDevice, release: str) -> ModuleType:
    """TensorRT of a release, building and running."""
    trt, _ = make_tensorrt(release, engine=keep)
    for name, value in vars(fake_cuda.make_runtime(device, release)).items():
        setattr(trt, name, value)
    return trt


def keep(onnx_path: Path) -> bytes:
    """A plan that holds what it was built from."""
    return json.dumps({"onnx": base64.b64encode(onnx_path.read_bytes()).decode()}).encode()


def install(patch: pytest.MonkeyPatch, release: str = "10.3.0", cuda: Cuda = ORIN) -> Iterator[FakeDevice]:
    """Make this machine one with a GPU, until the iterator goes on; the device."""
    device = FakeDevice()
    fake_cuda.install(patch, device, release)
    patch.setitem(sys.modules, "tensorrt", make_module(device, release))
    patch.setenv(RELEASE, release)
    installed_version.cache_clear()
    patch.setenv("PYTHONPATH", os.pathsep.join((str(SITE), str(SITE.parents[2]))))
    for module in (board, edgehybrid.device):
        patch.setattr(module, "probe_cuda", lambda: cuda)
    yield device
    installed_version.cache_clear()
    for name in [name for name in sys.modules if name.startswith("edgehybrid.runtime.trt")]:
        del sys.modules[name]  # it holds the stand-in
