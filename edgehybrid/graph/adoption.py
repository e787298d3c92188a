"""Take in an ONNX file that somebody else exported: fix what it leaves open, refuse by name what cannot be built."""

from collections.abc import Callable
from pathlib import Path

import onnx
import onnx.inliner
from onnx_ir.passes.common import LiftConstantsToInitializersPass

from edgehybrid.errors import GraphError, UsageError
from edgehybrid.graph import (
    CHECK,
    MIN_OPSET,
    Graph,
    check_opset,
    external_tensors,
    from_proto,
    name_of,
    opset_of,
    precision,
    read_proto,
    reading,
    shape_of,
    shapes,
)
from edgehybrid.graph.branching import has_branches, take_branches
from edgehybrid.graph.folding import compute_shapes
from edgehybrid.graph.group_norm import write_group_norms
from edgehybrid.graph.image_input import (
    RUNNABLE,
    dims_of,
    find_image,
    fix_dimensions,
    has_channels_last,
    put_channels_first,
    set_dims,
    substitute,
)
from edgehybrid.graph.naming import name_by_modules
from edgehybrid.graph.narrowing import narrow_doubles
from edgehybrid.graph.padding import write_pads
from edgehybrid.graph.soundness import check_operators, check_structure, check_weights, check_wiring
from edgehybrid.graph.structure import scores_of
from edgehybrid.graph.upgrading import OLDEST, raise_opset
from edgehybrid.printable import counted
from edgehybrid.sizes import Size


def ignore(message: str) -> None:
    """Where messages go that nobody wants."""


def adopt(
    path: Path, *, batch: int = 1, input_size: Size | None = None, notify: Callable[[str], None] = ignore
) -> Graph:
    """Open somebody's classifier or backbone as a graph that every stage can take.

    Args:
        path: An `.onnx` file with one image input of any name and any number of outputs, wherever it came from.
        batch: N of the graph where the file leaves it open.
        input_size: Of the image, where the file leaves it open.
        notify: Told what was fixed.

    Returns:
        Static shapes, standard operators only, weights no longer among the inputs nor (from 16 numbers on) in Constant
        nodes, local functions inlined, and of an If whose condition is known the branch that is taken.

    Raises:
        GraphError: As `load`, but for opsets from 7 on; a file that is already int8 or fp16; an operator that is
            unknown, control flow or without a form in opset 17, by the name of its node; inputs other than one image
            (N, 3, H, W) in float32; a size that stays open.
        UsageError: `batch` or `input_size` contradicts what the file fixes.
    """
    if batch < 1:
        raise UsageError(f"--batch {batch} is no batch", why="at least 1 image is needed", fix="--batch 1")
    with reading(path):
        proto = read_proto(path)
        check_opset(proto, OLDEST)
        _normalise(proto)
        check_operators(proto, branching=True)
        put_channels_first(proto, notify)
        image = find_image(proto)
        check_structure(proto)
        fixed = fix_dimensions(image, batch, input_size)
        if fixed:
            notify(f"input '{image.name}' fixed to {dims_of(image)}")
            substitute(proto, fixed)
        if has_branches(proto):
            proto, taken = take_branches(proto)
            check_operators(proto)
            check_structure(proto)
            notify(f"{counted(taken, 'If')} always {'goes' if taken == 1 else 'go'} one way, which is taken")
        graph = write_group_norms(compute_shapes(from_proto(_raised(proto, notify))))
    if narrowed := narrow_doubles(graph):
        notify(f"{counted(narrowed, 'tensor')} of float64 computed in float32, as engines have no other")
    _lift_constants(graph)
    write_pads(graph)
    name_by_modules(graph)
    if (found := precision(graph)) != "fp32":
        raise GraphError(
            f"{path} is already {found}",
            why="a model is rewritten, calibrated and quantized from its float32 form",
            fix="give the float32 file; `edgehybrid bench`, `evaluate` and `lint` take this one as it is",
        )
    for output in graph.body.outputs:
        shape_of(output)  # raises where it stayed open
    if len(graph.outputs) > 1:
        scores = scores_of(graph)
        said = "none holds class scores" if scores is None else f"'{name_of(scores)}' is taken for the class scores"
        notify(f"of {len(graph.outputs)} outputs, {said}")
    return graph


def fix_shapes(
    path: Path,
    *,
    batch: int = 1,
    input_size: Size | None = None,
    must_be_image: bool = True,
    notify: Callable[[str], None] = ignore,
) -> Graph | None:
    """Give a file that is to be run as it is the fixed shapes that a runner needs; it may be int8 or fp16.

    Args:
        path: The `.onnx` file.
        batch: As in `adopt`.
        input_size: As in `adopt`.
        must_be_image: Refuse a file of fixed shapes, too, where its input is no image of three channels.
        notify: Told what was fixed.

    Returns:
        The graph with its open dimensions fixed, in an opset that the stages know; None where the file can be run
        itself.

    Raises:
        GraphError: As `adopt`, but for fp16 and int8, which are taken.
        UsageError: `batch` or `input_size` contradicts what the file fixes.
    """
    with reading(path):
        proto = read_proto(path)
        check_opset(proto, OLDEST)
        _normalise(proto)
        dims = [dim for value in proto.graph.input for dim in value.type.tensor_type.shape.dim]
        fixed: dict[str, int] = {}
        turned = put_channels_first(proto, notify)
        if must_be_image or batch > 1 or input_size is not None or not all(dim.dim_value for dim in dims):
            image = find_image(proto, RUNNABLE)
            check_structure(proto)
            fixed = fix_dimensions(image, batch, input_size)
        if fixed:
            notify(f"input '{image.name}' fixed to {dims_of(image)}")
            substitute(proto, fixed)
        elif not turned and opset_of(proto) >= MIN_OPSET:
            check_weights(proto)
            return None
        return from_proto(_raised(proto, notify))


def as_written(path: Path, adopted: Graph) -> onnx.ModelProto:
    """The operators of a file as they are in it, with the fixed shapes that it was adopted with, to compare the two.

    Args:
        path: What `adopt` was given.
        adopted: What it returned.

    Returns:
        Its image is (N, H, W, 3) where the file has channels last.
    """
    proto = read_proto(path)
    _normalise(proto)
    batch, channels, *sides = shape_of(adopted.input)
    last = has_channels_last(proto)
    set_dims(proto.graph.input[0], (batch, *sides, channels) if last else (batch, channels, *sides))
    for output, value in zip(proto.graph.output, adopted.body.outputs, strict=True):
        set_dims(output, shape_of(value))
    del proto.graph.value_info[:]
    return proto


def open_unchecked(path: Path) -> Graph:
    """Open any ONNX file to look at it: no operator, opset or shape is refused, and no stage may take the result.

    Args:
        path: The `.onnx` file.

    Returns:
        The graph, local functions inlined, shapes inferred as far as they are known.

    Raises:
        GraphError: Not ONNX, damaged, with a loose end, or without the standard operator set.
    """
    with reading(path):
        proto = read_proto(path)
        if not opset_of(proto):
            raise GraphError(
                f"{path} names no version of the ONNX operator set",
                why="its operators have no meaning without one",
                fix=f"check the file with `{CHECK}` or export it again",
            )
        others = [entry for entry in proto.opset_import if entry.domain not in ("", "ai.onnx")]
        _normalise(proto)
        proto.opset_import.extend(others)
        check_wiring(proto)
        return Graph(shapes.open_model(proto))


def companions(path: Path) -> tuple[Path, ...]:
    """The other files that hold weights of an ONNX file, whether they exist or not; none that lies elsewhere.

    Raises:
        GraphError: Not ONNX.
    """
    with reading(path):
        proto = onnx.load(path, load_external_data=False)
    tensors = external_tensors(proto)
    names = {entry.value for tensor in tensors for entry in tensor.external_data if entry.key == "location"}
    return tuple(path.parent / name for name in sorted(names) if Path(name).name == name)


def _normalise(proto: onnx.ModelProto) -> None:
    """One way to write what ONNX lets exporters write in several."""
    if proto.functions:
        proto.CopyFrom(onnx.inliner.inline_local_functions(proto))
    opset = opset_of(proto)
    for node in proto.graph.node:
        node.domain = "" if node.domain == "ai.onnx" else node.domain
    del proto.opset_import[:]
    proto.opset_import.append(onnx.helper.make_opsetid("", opset))
    proto.ir_version = max(proto.ir_version, 4)  # before, every weight had to be an input as well
    for value in (*proto.graph.input, *proto.graph.output):
        for dim in value.type.tensor_type.shape.dim:
            if dim.HasField("dim_value") and dim.dim_value < 1:
                dim.ClearField("dim_value")  # some exporters write -1 or 0 where they leave a size open
    weights = {tensor.name for tensor in proto.graph.initializer}
    inputs = [value for value in proto.graph.input if value.name not in weights]
    del proto.graph.input[:]
    proto.graph.input.extend(inputs)


def _lift_constants(graph: Graph) -> None:
    """Make initializers of Constant nodes of 16 numbers and more, in place: some exporters keep weights in them."""
    LiftConstantsToInitializersPass()(graph.model)
    for name, value in graph.body.initializers.items():
        if value.const_value is not None:
            value.const_value.name = name  # that of a node need not have any


def _raised(proto: onnx.ModelProto, notify: Callable[[str], None]) -> onnx.ModelProto:
    """In an opset that the stages know."""
    before = opset_of(proto)
    raised = raise_opset(proto)
    if raised is not proto:
        notify(f"written in opset {opset_of(raised)}, as opset {before} is older than all stages know")
    return raised
