"""Calibrate: watch a network's activations on real images in one streaming pass, choose int8 ranges, compare layers.

`observe` counts activations into histograms (histogram.py, observer.py), `choose` turns histograms into ranges
(ranges.py), `compare` says how much noise quantization left at each layer (fidelity.py).
"""

from edgehybrid.calibrator.fidelity import compare
from edgehybrid.calibrator.histogram import Histogram, Observations
from edgehybrid.calibrator.observer import observe
from edgehybrid.calibrator.ranges import choose, expected_error

__all__ = ["Histogram", "Observations", "choose", "compare", "expected_error", "observe"]
