"""Compile an exported torch program with Torch-TensorRT: the other road to an engine, without ONNX in between.

It takes floating-point networks only: int8 lives in the Q/DQ of ONNX files here, and Torch-TensorRT wants its own.
"""

import inspect
from pathlib import Path
from types import ModuleType

import torch
from torch.export.passes import move_to_device_pass

from edgehybrid.engine.bridge import version_of
from edgehybrid.engine.order import Made, Order, RefusedError


def compile_program(trt: ModuleType, order: Order) -> Made:
    """Compile on the first CUDA device, in a child process.

    Args:
        trt: `torch_tensorrt`, 2.8 (JetPack 6) to 2.14.
        order: `onnx` names a program of torch.export.save, `engine` the file to write, `precision` is fp32 or fp16.

    Raises:
        RefusedError: An option or a precision that this road does not have.
    """
    program = move_to_device_pass(torch.export.load(order.onnx), "cuda")
    arguments, _ = program.example_inputs
    inputs = [argument.cuda() for argument in arguments]
    compiled = trt.dynamo.compile(program, inputs=inputs, **settings(trt, order))
    assert order.engine is not None
    trt.save(compiled, order.engine, output_format="exported_program", arg_inputs=inputs)
    return Made(version_of(trt), Path(order.engine).stat().st_size)


def try_program(trt: ModuleType, order: Order) -> Made:
    """Load a compiled program, to see whether it loads at all.

    Args:
        trt: `torch_tensorrt`, whose import registers the operators of its engines.
        order: `engine` names the program.
    """
    torch.export.load(str(order.engine)).module()
    return Made(version_of(trt), Path(str(order.engine)).stat().st_size)


def export_program(module: torch.nn.Module, shape: tuple[int, ...], path: Path) -> None:
    """Write a module as the program that `compile_program` reads.

    Args:
        module: A float32 network, put into evaluation mode.
        shape: Of its input, (N, 3, H, W).
        path: The file.
    """
    with torch.inference_mode(False), torch.no_grad():
        torch.export.save(torch.export.export(module.eval(), (torch.zeros(shape),)), path)


def settings(trt: ModuleType, order: Order) -> dict[str, object]:
    """Keyword arguments of `torch_tensorrt.dynamo.compile` in this release.

    2.8 allows precisions with `enabled_precisions`; 2.14, on TensorRT 11, has strongly typed networks alone, and
    autocast inserts the float16.

    Raises:
        RefusedError: As in `compile_program`.
    """
    known = inspect.signature(trt.dynamo.compile).parameters
    options, told = order.options, dict[str, object]()
    if options.dla_core is not None or order.precision not in ("fp32", "fp16"):
        raise RefusedError("Torch-TensorRT builds fp32 and fp16 for the GPU here; int8 and DLA go through ONNX")
    if order.precision == "fp16" and "enabled_precisions" in known:
        told["enabled_precisions"] = {torch.float32, torch.float16}
    elif order.precision == "fp16":
        told |= {"enable_autocast": True, "autocast_low_precision_type": torch.float16}
    if options.workspace_mib is not None:
        told["workspace_size"] = options.workspace_mib << 20
    if options.optimization_level is not None:
        told["optimization_level"] = options.optimization_level
    if options.hardware_compatible:
        told["hardware_compatible"] = True
    if options.version_compatible:
        told["version_compatible"] = True
    if missing := sorted(told.keys() - known.keys()):
        raise RefusedError(f"Torch-TensorRT {trt.__version__} has no {', '.join(missing)}")
    return told
