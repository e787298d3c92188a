"""EdgeHybrid: quantize, check and measure hybrid CNN-Transformer vision models for embedded NVIDIA GPUs.

Every command is a function here: `edgehybrid.build(model="cmt_ti", precision="int8")`.
"""

import importlib
from typing import TYPE_CHECKING

from edgehybrid import lazy_imports
from edgehybrid.version import __version__

if TYPE_CHECKING:
    from edgehybrid import errors as errors
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


def __getattr__(name: str) -> object:
    """A function or module of `__all__`, loaded when it is first asked for: the command line has to begin at once."""
    if name not in __all__:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    if name in ("errors", "records"):
        return importlib.import_module(f"{__name__}.{name}")
    return getattr(importlib.import_module(f"{__name__}.pipeline"), name)
