"""The verbs, and the only place that knows the order of stages.

Every function in COMMANDS is a command of the same name: `edgehybrid.build(model="cmt_ti", precision="int8")`
is `edgehybrid build --model cmt_ti --precision int8`. Read `builds.build` first.
"""

from edgehybrid.pipeline.builds import build, quickstart
from edgehybrid.pipeline.measures import bench, evaluate
from edgehybrid.pipeline.queries import compare, doctor, lint, models, report, targets, verify
from edgehybrid.pipeline.sensitivities import sensitivity
from edgehybrid.pipeline.steps import calibrate, export, quantize
from edgehybrid.pipeline.streams import stream

COMMANDS = (
    build,
    quickstart,
    models,
    targets,
    doctor,
    export,
    calibrate,
    quantize,
    bench,
    evaluate,
    report,
    sensitivity,
    compare,
    verify,
    lint,
    stream,
)

__all__ = [
    "COMMANDS",
    "bench",
    "build",
    "calibrate",
    "compare",
    "doctor",
    "evaluate",
    "export",
    "lint",
    "models",
    "quantize",
    "quickstart",
    "report",
    "stream",
    "sensitivity",
    "targets",
    "verify",
]
