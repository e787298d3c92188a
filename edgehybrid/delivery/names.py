"""What the files of a bundle are called."""

from edgehybrid.records import EngineBuild

ANSWERS_SCHEMA = "edgehybrid.answers/1"
BASELINE, MODEL, PLAN = "baseline.onnx", "model.onnx", "engine.plan"
TORCH_PLAN = "engine.pt2"
"""What Torch-TensorRT compiles: a program of torch, not a plan."""
CONTROL, CONTROL_PLAN = "control.onnx", "control.plan"
"""The same network in fp16, beside int8 for a TensorRT target: what int8 must be faster than."""
SCALES = "calibration.cache"
"""NVDLA's int8 scales, where the target has a DLA."""
ANSWERS = "answers.json"
CALIBRATION, STAMPS = "calibration.json", "engine.json"
REPORT, PAGE = "report.json", "report.html"
OWN = frozenset(
    {BASELINE, MODEL, PLAN, TORCH_PLAN, CONTROL, CONTROL_PLAN, SCALES, ANSWERS, CALIBRATION, STAMPS, REPORT, PAGE}
)
"""All of them: what a new build may remove from the bundle that it replaces, whatever a manifest there lists."""


def plan_name(product: EngineBuild) -> str:
    """What a bundle calls the engine of a product."""
    return TORCH_PLAN if product.engine.flavor == "torch-tensorrt" else PLAN
