"""EdgeHybrid: quantize, check and measure hybrid CNN-Transformer vision models for embedded NVIDIA GPUs.

Every command is a function here: `edgehybrid.build(model="cmt_ti", precision="int8")`.
"""

from edgehybrid import errors as errors
from edgehybrid import lazy_imports
from edgehybrid import records as records
from edgehybrid.pipeline import (
    bench,
    build,
    calibrate,
    compare,
    doctor,
    evaluate,
    export,
    lint,
    models,
    quantize,
    quickstart,
    report,
    sensitivity,
    stream,
    targets,
    verify,
)
from edgehybrid.version import __version__

lazy_imports.install()

__all__ = [
    "__version__",
    "bench",
    "build",
    "calibrate",
    "compare",
    "doctor",
    "errors",
    "evaluate",
    "export",
    "lint",
    "models",
    "quantize",
    "quickstart",
    "records",
    "report",
    "stream",
    "sensitivity",
    "targets",
    "verify",
]
