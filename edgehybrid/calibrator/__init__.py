"""Calibrate: watch a network's activations on real images in one streaming pass, choose int8 ranges, compare layers.

`observe` counts activations into histograms (observer.py, histogram.py, observations.py), `choose` turns histograms
into ranges (ranges.py), `find_peaks` finds the largest value of every tensor (peaks.py), `compare` says how much noise
quantization left at each layer (fidelity.py), `sample` keeps a few rows of what layers read (samples.py). A
`Calibration` is all that `calibration.json` holds (document.py).
"""

from edgehybrid.calibrator.document import Calibration, merge, read_document, to_document
from edgehybrid.calibrator.fidelity import compare
from edgehybrid.calibrator.histogram import Histogram
from edgehybrid.calibrator.observations import Observations
from edgehybrid.calibrator.observer import observe
from edgehybrid.calibrator.peaks import find_peaks
from edgehybrid.calibrator.ranges import choose, expected_error, range_of
from edgehybrid.calibrator.samples import Samples, rows_per_batch, sample

__all__ = [
    "Calibration",
    "Histogram",
    "Observations",
    "Samples",
    "choose",
    "compare",
    "expected_error",
    "find_peaks",
    "merge",
    "observe",
    "range_of",
    "read_document",
    "rows_per_batch",
    "sample",
    "to_document",
]
