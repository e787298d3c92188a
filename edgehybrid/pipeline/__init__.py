"""The verbs, and the only place that knows the order of stages.

Every function in COMMANDS is a command of the same name: `edgehybrid.build(model="cmt_ti", precision="int8")`
is `edgehybrid build --model cmt_ti --precision int8`. Read `builds.build` first.
"""

from edgehybrid.pipeline import builds, measures, queries, sensitivities, steps, streams
from edgehybrid.pipeline.arguments import forgive

build, quickstart = forgive(builds.build), forgive(builds.quickstart)
models, targets, doctor = forgive(queries.models), forgive(queries.targets), forgive(queries.doctor)
export, calibrate, quantize = forgive(steps.export), forgive(steps.calibrate), forgive(steps.quantize)
bench, evaluate = forgive(measures.bench), forgive(measures.evaluate)
report, compare, verify, lint = (
    forgive(queries.report),
    forgive(queries.compare),
    forgive(queries.verify),
    forgive(queries.lint),
)
sensitivity = forgive(sensitivities.sensitivity)
stream = forgive(streams.stream)

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
