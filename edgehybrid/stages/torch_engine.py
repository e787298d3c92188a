"""The other road to an engine: a zoo model compiled by Torch-TensorRT, without ONNX in between."""

from pathlib import Path

from edgehybrid.errors import NotReadyError, UsageError
from edgehybrid.records import Engine, EngineBuild, EngineOptions, Precision, Target
from edgehybrid.sizes import sides
from edgehybrid.stages.engine import builds_here, read_build, why_not_here
from edgehybrid.stages.run import Run, require
from edgehybrid.stages.source import Source, load_module
from edgehybrid.store import to_json, write_atomic

MODULE = "torch_tensorrt"


def check_torch_flavor(source: Source, precision: Precision, target: Target, options: EngineOptions) -> None:
    """Refuse what Torch-TensorRT cannot do, before any work begins.

    Raises:
        UsageError: int8, DLA, an ONNX file, or a target without full TensorRT.
        NotReadyError: The library or the device is missing.
    """
    flavor = "--flavor torch-tensorrt"
    if precision not in ("fp32", "fp16") or options.dla_core is not None:
        raise UsageError(
            f"{flavor} builds fp32 and fp16 for the GPU",
            why="int8 ranges live in the Q/DQ of ONNX files here, and NVDLA's in its calibration cache",
            fix="leave --flavor out, or give --precision fp16",
        )
    if source.is_file:
        raise UsageError(f"{flavor} compiles torch modules", why=f"{source.model} is an ONNX file", fix="leave it out")
    if target.backend != "tensorrt":
        raise UsageError(f"{flavor} needs a target with TensorRT", why=f"{target.name} has none", fix="give a --target")
    require(MODULE, "torch-tensorrt", "compile with Torch-TensorRT")
    if not builds_here(target):
        raise NotReadyError(
            f"this machine cannot build engines for {target.name}",
            why=why_not_here(target),
            fix="run the same command on the board: Torch-TensorRT builds where it runs",
        )


def compile_torch(
    run: Run, source: Source, batch: int, target: Target, precision: Precision, options: EngineOptions
) -> EngineBuild:
    """Compile the model on this machine's GPU, in a child.

    Args:
        run: The chain.
        source: Of the model, checked with `check_torch_flavor`.
        batch: Images per call.
        target: This machine.
        precision: fp32 or fp16.
        options: Of the builder.
    """
    from edgehybrid import device, engine

    state, driver, builders = device.state(), device.probe_cuda().version, engine.find_builders()

    def produce(folder: Path) -> None:
        module, spec, _ = load_module(source)
        program, plan = folder / "program.pt2", folder / "engine.pt2"
        made = engine.compile_torch(module, (batch, 3, *sides(spec.preprocess.size)), program, plan, precision, options)
        found = Engine("torch-tensorrt", "built", f"built by Torch-TensorRT {made.version} here", str(plan), made.bytes)
        mark = engine.stamp(
            made,
            builders,
            flavor="torch-tensorrt",
            onnx_path=program,
            plan=plan,
            options=options,
            board=state.name,
            driver=driver,
        )
        write_atomic(folder / "engine.json", to_json({"engine": found, "stamp": mark, "log": made.log}))

    inputs = {
        "source": source,
        "batch": batch,
        "target": target,
        "precision": precision,
        "options": options,
        "builders": builders,
        "machine": [state.name, driver],
    }
    folder = run.do("engine", inputs, produce)
    return read_build(folder, folder / "program.pt2", folder / "engine.pt2")
