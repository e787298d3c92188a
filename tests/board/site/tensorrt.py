"""What the builder's child finds as TensorRT on the board of `tests.board`."""

import os
import sys

from tests.board import RELEASE, make_module
from tests.runtime.fake_cuda import FakeDevice

device = FakeDevice()
device.stacked = 1  # TensorRT makes a context for itself where there is none
sys.modules[__name__] = make_module(device, os.environ[RELEASE])
