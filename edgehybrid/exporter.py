"""torch to ONNX: one static graph of opset 17, simplified, and checked against torch before anyone uses it."""

import contextlib
import logging
import tempfile
import warnings
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir
import onnxsim
import torch
from numpy.typing import NDArray
from torch import nn

from edgehybrid.errors import GraphError, StageError, UsageError
from edgehybrid.graph import (
    Graph,
    add_constant,
    constant,
    first_line,
    from_proto,
    known_shape,
    name_of,
    shape_of,
    sweep,
)
from edgehybrid.graph.adoption import adopt, ignore
from edgehybrid.graph.folding import compute_shapes
from edgehybrid.printable import counted
from edgehybrid.records import ModelSpec
from edgehybrid.runtime import open_runner
from edgehybrid.sizes import sides
from edgehybrid.store.files import guarding

OPSET = 17
"""The first with LayerNormalization as one operator, and what TensorRT 8.5 still reads."""
CAPTURED_OPSET = 18
"""The oldest that torch's newer exporter writes."""
INPUT = "input"
OUTPUT = "logits"
TOLERANCE = 1e-4
"""Largest difference to torch, relative to the largest logit. Measured on the four CMT: 1e-6."""
KEEP = (
    "eliminate_duplicate_initializer",
    "fuse_matmul_add_bias_into_gemm",
    "fuse_matmul_add_bias_into_gemm_batched",
    "fuse_qkv",
)
"""Steps of onnxsim left out: they give one layer's weight another layer's name, or replace nodes by unnamed ones.
CMT-Ti@160 in ONNX Runtime is as fast without them (26.1 against 26.4 ms, 1 thread); merging is for the rewrites."""
DETAILS = "run again with -vv for the details; `edgehybrid doctor` shows which versions are installed"
ROLES = {"Conv": ("weight", "bias"), "MatMul": ("weight",), "Gemm": ("weight", "bias"), "Reshape": ("shape",)}
"""Operator -> what its constant inputs are, from the second on."""


@dataclass(frozen=True)
class Agreement:
    """How close the ONNX graph is to the torch module."""

    images: int
    max_abs: float  # largest difference of a logit
    scale: float  # largest logit
    same_top1: int  # images


def trace(
    module: nn.Module,
    spec: ModelSpec,
    *,
    batch: int = 1,
    images: NDArray[np.float32] | None = None,
    notify: Callable[[str], None] = ignore,
) -> Graph:
    """Export a module to a graph of one fixed shape.

    Node names are the module's own paths (`/blocks_a.0/attn/q/MatMul`), as reports show them. torch's TorchScript
    exporter is used: the newer one writes opset 18 when asked for 17 and only logs it (torch 2.13), and names
    nodes by number. It is asked where the older one fails.

    Args:
        module: float32, in eval mode; images (N, 3, S, S) -> logits (N, classes).
        spec: Its input size and number of classes.
        batch: N of the graph.
        images: What to compare on, (M, 3, S, S) normalised, M at least 1; None takes seeded noise.
        notify: Told how close ONNX and torch are, and where the newer exporter was needed.

    Returns:
        Opset 17, or 18 of the newer exporter; input `input` (N, 3, S, S), output `logits` (N, classes).

    Raises:
        UsageError: `batch` is below 1.
        StageError: The export or the simplification failed, or the result differs from torch by more than 1e-4
            of the largest logit.
        ResourceError: No space for temporary files.
    """
    if batch < 1:
        raise UsageError(f"--batch {batch} is no batch", why="at least 1 image is needed", fix="--batch 1")
    if any(part.training for part in module.modules()):
        raise ValueError("the module must be in eval mode")
    height, width = sides(spec.preprocess.size)
    if images is None:
        images = np.random.default_rng(0).standard_normal((batch, 3, height, width), np.float32)
    if images.shape[1:] != (3, height, width) or len(images) < 1:
        raise ValueError(f"images must be (M, 3, {height}, {width}) with M > 0, got {images.shape}")
    with _one_thread(), tempfile.TemporaryDirectory(prefix="edgehybrid-") as folder, guarding(Path(folder)):
        graph = _graph_of(module, spec, batch, Path(folder) / "raw.onnx", notify)
        _check_interface(graph, spec, batch)
        _name_constants(graph)
        path = Path(folder) / "model.onnx"
        path.write_bytes(graph.to_bytes())
        agreement = _compare(module, path, batch, images)
    _check_agreement(agreement, spec)
    notify(
        f"ONNX agrees with torch on {counted(agreement.images, 'image')}: largest difference {agreement.max_abs:.1e} "
        f"at logits up to {agreement.scale:.1f}, same top-1 on {agreement.same_top1}"
    )
    return graph


@contextlib.contextmanager
def _one_thread() -> Iterator[None]:
    """Run torch on one thread: tracing is thousands of tiny steps, between which a thread pool only spins.

    CMT-Ti@160 on 2 busy cores: 2.9 CPU seconds with one thread, 12 with two.
    """
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _graph_of(module: nn.Module, spec: ModelSpec, batch: int, path: Path, notify: Callable[[str], None]) -> Graph:
    """By the older exporter; by the newer one where that has no form for the module, or leaves the result open."""
    why = "it leaves the shape of the logits open"
    try:
        _export(module, spec, batch, path)
    except StageError as error:
        why = error.why.partition(". ")[0]  # before what torch asks its users to do
    else:
        graph = compute_shapes(_simplify(path, spec))
        if known_shape(graph.body.outputs[0]) is not None:
            return graph
    try:
        graph = _capture(module, spec, batch, path)
    except (StageError, GraphError) as error:
        raise StageError(
            f"torch could not export {spec.name}",
            why=f"{why}; its newer exporter: {error.what}: {error.why}",
            fix=DETAILS,
        ) from error
    notify(f"exported by torch's newer exporter, to opset {graph.opset}, as its older one failed: {why}")
    return graph


def _export(module: nn.Module, spec: ModelSpec, batch: int, path: Path) -> None:
    example = torch.zeros(batch, 3, *sides(spec.preprocess.size))
    try:
        with warnings.catch_warnings(), torch.inference_mode(), _unlogged():
            # torch says that this exporter is the old one; the docstring of `trace` says why it is used
            warnings.simplefilter("ignore", DeprecationWarning)
            # and that branches of the module are frozen: those on shapes are meant to be, `_compare` finds the others
            warnings.simplefilter("ignore", torch.jit.TracerWarning)  # type: ignore[attr-defined]
            # and that it leaves some constants to onnxsim (the relative shift of timm's BoTNet)
            warnings.filterwarnings("ignore", "Constant folding", UserWarning)
            torch.onnx.export(
                module,
                (example,),
                path,
                opset_version=OPSET,
                dynamo=False,
                input_names=[INPUT],
                output_names=[OUTPUT],
            )
    except OSError:
        raise  # a full disk, which `guarding` explains
    except Exception as error:  # tracing runs the whole module: anything can be raised
        raise _failed(f"torch could not export {spec.name}", error) from error


@contextlib.contextmanager
def _unlogged() -> Iterator[None]:
    """Keep torch from printing the whole graph to stdout where its older exporter fails; `verbose` does not (2.13)."""
    before = torch._C._jit_onnx_log
    torch._C._jit_onnx_log = lambda *parts: None
    try:
        yield
    finally:
        torch._C._jit_onnx_log = before


def _capture(module: nn.Module, spec: ModelSpec, batch: int, path: Path) -> Graph:
    """By torch's newer exporter, as the file of a user who took that one is opened."""
    example = torch.zeros(batch, 3, *sides(spec.preprocess.size))
    log = logging.getLogger("torch.onnx")
    level = log.level
    log.setLevel(logging.ERROR)  # it warns that torchvision is not there
    try:
        with warnings.catch_warnings(), torch.inference_mode():
            warnings.simplefilter("ignore")  # about its own insides
            torch.onnx.export(
                module,
                (example,),
                path,
                opset_version=CAPTURED_OPSET,
                dynamo=True,
                input_names=[INPUT],
                output_names=[OUTPUT],
                verbose=False,
            )
    except OSError:
        raise
    except Exception as error:  # capturing runs the whole module, too; what went wrong is behind what torch says of it
        raise _failed(f"torch could not export {spec.name}", error.__cause__ or error) from error
    finally:
        log.setLevel(level)
    return adopt(path, batch=batch)


def _simplify(path: Path, spec: ModelSpec) -> Graph:
    """Fold constants and shape arithmetic."""
    try:
        proto, sound = onnxsim.simplify(str(path), skipped_optimizers=list(KEEP))
    except Exception as error:  # onnxsim raises whatever its C++ parts throw
        raise _failed(f"onnxsim could not simplify {spec.name}", error) from error
    if not sound:
        raise StageError(
            f"onnxsim changed what {spec.name} computes",
            why="its own comparison of before and after failed",
            fix="pip install -U onnxsim",
        )
    del proto.metadata_props[:]  # onnxsim's log of what it did, kilobytes of names that the graph no longer has
    return from_proto(proto)


def _failed(what: str, error: BaseException) -> StageError:
    return StageError(what, why=first_line(error), fix=DETAILS)


def _check_interface(graph: Graph, spec: ModelSpec, batch: int) -> None:
    """Exporters have been seen to write another opset than asked for, so nothing is taken on trust."""
    found = (
        graph.opset,
        tuple((name_of(v), shape_of(v)) for v in graph.body.inputs),
        tuple((name_of(v), shape_of(v)) for v in graph.body.outputs),
    )
    opset = CAPTURED_OPSET if graph.opset == CAPTURED_OPSET else OPSET
    needed = (opset, ((INPUT, (batch, 3, *sides(spec.preprocess.size))),), ((OUTPUT, (batch, spec.classes)),))
    if found != needed:
        raise StageError(
            f"the export of {spec.name} is not what was asked for",
            why=f"found opset, inputs, outputs {found}, needed {needed}",
            fix="install the torch and onnxsim versions that `edgehybrid doctor` names",
        )


def _name_constants(graph: Graph) -> None:
    """Name constants that the exporter or onnxsim made (`onnx::MatMul_3405`, `_v_2094`) after their module.

    Where onnxsim folds a factor into a weight (the half of a GELU into Conv2Former's depthwise convolution), it leaves
    a Constant node; that becomes an initializer like every other weight.
    """
    taken = {value.name for value in graph.body.initializers.values()}
    for node in graph.nodes(*ROLES):
        for value, role in zip(node.inputs[1:], ROLES[node.op_type], strict=False):
            array = constant(value)
            if value is None or array is None or not name_of(value).startswith(("onnx::", "_v_")):
                continue
            name = f"{node.name}/shape" if role == "shape" else f"{_module_path(node.name or '')}.{role}"
            if name in taken:
                continue
            if value.is_initializer():
                taken.add(name)
                value.name = name
            else:
                ir.convenience.replace_all_uses_with(value, add_constant(graph, name, array, taken=taken))
    sweep(graph)


def _module_path(node: str) -> str:
    """`/blocks_a.0/attn/sr/sr.0/Conv` -> `blocks_a.0.attn.sr.0`: children of a list repeat the list's name."""
    kept: list[str] = []
    for part in node.strip("/").split("/")[:-1]:
        if kept and part.startswith(f"{kept[-1]}."):
            kept.pop()
        kept.append(part)
    return ".".join(kept)


def _compare(module: nn.Module, path: Path, batch: int, images: NDArray[np.float32]) -> Agreement:
    """Run both on the same images; the last batch is filled up with its own last image."""
    want, got = [], []
    with open_runner(path, canonical=True) as runner, torch.inference_mode():
        for start in range(0, len(images), batch):
            chunk = images[start : start + batch]
            full = np.concatenate([chunk, np.repeat(chunk[-1:], batch - len(chunk), axis=0)])
            want.append(module(torch.from_numpy(full)).numpy()[: len(chunk)])
            got.append(runner.run({INPUT: full})[OUTPUT][: len(chunk)])
    reference, result = np.concatenate(want), np.concatenate(got)
    return Agreement(
        images=len(images),
        max_abs=float(np.abs(result - reference).max()),
        scale=float(np.abs(reference).max()),
        same_top1=int((result.argmax(1) == reference.argmax(1)).sum()),
    )


def _check_agreement(agreement: Agreement, spec: ModelSpec) -> None:
    if not np.isfinite(agreement.scale):
        raise StageError(
            f"{spec.name} computes NaN or infinite logits",
            why="torch itself does, before any export: an activation overflows or a variance is negative",
            fix="take other weights",
        )
    if not agreement.max_abs <= TOLERANCE * agreement.scale:  # also true of NaN
        raise StageError(
            f"the ONNX export of {spec.name} differs from torch",
            why=f"by {agreement.max_abs:.2g} at logits up to {agreement.scale:.2g} ({agreement.same_top1} of "
            f"{agreement.images} images keep their top-1); allowed is {TOLERANCE:g} of the largest",
            fix="`edgehybrid doctor` shows which versions of torch, onnxsim and onnxruntime are installed",
        )
