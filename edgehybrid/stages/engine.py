"""An engine as a stage: a graph put to NVIDIA's builder, and whether this machine has one for the target."""

import json
from pathlib import Path

from edgehybrid.records import Engine, EngineBuild, EngineOptions, EngineStamp, Precision, Target
from edgehybrid.stages.run import Run
from edgehybrid.store import decode, sha256_of, to_json, write_atomic

CALIBRATION_CACHE = "calibration.cache"
"""NVDLA's int8 scales; in the cache, beside the engine."""


def build_engine(
    run: Run,
    onnx_path: Path,
    target: Target,
    precision: Precision,
    *,
    options: EngineOptions | None = None,
    calibration_cache: bytes | None = None,
    label: str = "engine",
) -> EngineBuild:
    """What NVIDIA's compiler makes of a graph; and the engine file, where it is the product.

    Args:
        run: The chain.
        onnx_path: In the dialect that the builder will read.
        target: Where the engine will run.
        precision: Of the graph.
        options: Of the builder.
        calibration_cache: NVDLA's scales, with `options.dla_core` and int8.
        label: Name of the stage.
    """
    from edgehybrid import device, engine

    builders, told = engine.find_builders(), options or EngineOptions()
    state, driver = device.state(), device.probe_cuda().version

    def produce(folder: Path) -> None:
        scales = None
        if calibration_cache is not None:
            scales = folder / CALIBRATION_CACHE
            write_atomic(scales, calibration_cache)
        plan = folder / "engine.plan"
        found, made = engine.build(
            onnx_path,
            target,
            plan,
            precision=precision,
            options=told,
            calibration_cache=scales,
            builders=builders,
        )
        mark = None
        if made is not None and plan.is_file():
            mark = engine.stamp(
                made,
                builders,
                flavor=found.flavor or "",
                onnx_path=onnx_path,
                plan=plan,
                options=told,
                board=state.name,
                driver=driver,
            )
        document = {"engine": found, "stamp": mark, "log": () if made is None else made.log}
        write_atomic(folder / "engine.json", to_json(document))

    inputs = {
        "model": sha256_of(onnx_path),
        "target": target,
        "precision": precision,
        "builders": builders,
        "release": engine.release_for(target, builders),  # an engine of the one before an upgrade does not load
        "options": told,
        "scales": None if calibration_cache is None else calibration_cache.decode(),
        "machine": [state.name, driver],
    }
    folder = run.do(label, inputs, produce)
    return read_build(folder, onnx_path, folder / "engine.plan")


def read_build(folder: Path, source: Path, plan: Path) -> EngineBuild:
    """What a stage left of a build: engine.json, and the plan where one was written."""
    kept = json.loads((folder / "engine.json").read_bytes())
    return EngineBuild(
        engine=decode(Engine, kept["engine"]),
        onnx=source,
        plan=plan if plan.is_file() else None,
        stamp=None if kept["stamp"] is None else decode(EngineStamp, kept["stamp"]),
        log=tuple(kept["log"]),
    )


def suit_builder(target: Target) -> Target:
    """The target in the dialect that this machine's TensorRT reads, where this machine is the target."""
    from edgehybrid import engine

    return engine.dialect_for(target, engine.find_builders())


def builds_here(target: Target) -> bool:
    """Whether an engine for the target can be built on this machine."""
    from edgehybrid import engine

    return engine.can_build(target, engine.find_builders())


def why_not_here(target: Target) -> str:
    """What is missing on this machine to build engines for the target."""
    from edgehybrid import engine

    found = engine.find_builders()
    if target.backend == "tensorrt-rtx":
        return "TensorRT-RTX is not installed: pip install 'edgehybrid[rtx]'"
    if found.capability is None:
        return "it has no CUDA device, and an engine is tuned on the device that runs it"
    figure = target.figures.get("compute_capability")
    if not engine.fits(target, found.capability):
        wanted = "?" if figure is None else figure.value
        return f"its GPU has compute capability {found.capability}, {target.name} needs {wanted}"
    return "TensorRT is not installed: `edgehybrid doctor` says how it comes"
