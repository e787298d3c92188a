"""Take in an ONNX file that somebody else exported: fix what it leaves open, refuse by name what cannot be built."""

from collections.abc import Callable, Sequence
from pathlib import Path

import onnx
import onnx.inliner
import onnx_ir as ir

from edgehybrid.errors import GraphError, UsageError
from edgehybrid.graph import (
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
from edgehybrid.graph.folding import compute_shapes
from edgehybrid.graph.naming import name_by_modules
from edgehybrid.graph.soundness import check_operators, check_structure

REWRITABLE = (onnx.TensorProto.FLOAT,)
"""Element types of the image that a model to be rewritten and quantized may have."""
RUNNABLE = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16)
"""The same of a model that is run as it is."""
LARGEST_SIDE = 8192  # px


def ignore(message: str) -> None:
    """Where messages go that nobody wants."""


def adopt(
    path: Path, *, batch: int = 1, input_size: int | None = None, notify: Callable[[str], None] = ignore
) -> Graph:
    """Open somebody's classifier or backbone as a graph that every stage can take.

    Args:
        path: An `.onnx` file with one image input of any name and any number of outputs, wherever it came from.
        batch: N of the graph where the file leaves it open.
        input_size: Side in px where the file leaves it open.
        notify: Told what was fixed.

    Returns:
        Static shapes, standard operators only, weights no longer among the inputs, local functions inlined.

    Raises:
        GraphError: As `load`; a file that is already int8 or fp16; an operator that is unknown or control flow, by the
            name of its node; inputs other than one image (N, 3, S, S) in float32; a size that stays open.
        UsageError: `batch` or `input_size` contradicts what the file fixes.
    """
    if batch < 1:
        raise UsageError(f"--batch {batch} is no batch", why="at least 1 image is needed", fix="--batch 1")
    with reading(path):
        proto = read_proto(path)
        check_opset(proto)
        _normalise(proto)
        check_operators(proto)
        image = _find_image(proto)
        check_structure(proto)
        fixed = _fix_dimensions(image, batch, input_size)
        if fixed:
            notify(f"input '{image.name}' fixed to {_dims(image)}")
            _substitute(proto, fixed)
        graph = compute_shapes(from_proto(proto))
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
        notify(f"of {len(graph.outputs)} outputs, '{name_of(scores_of(graph))}' is taken for the class scores")
    return graph


def settle(
    path: Path,
    *,
    batch: int = 1,
    input_size: int | None = None,
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
        The graph with its open dimensions fixed; None where none was open, and the file can be run itself.

    Raises:
        GraphError: As `load`; inputs other than one image; a size that stays open.
        UsageError: `batch` or `input_size` contradicts what the file fixes.
    """
    with reading(path):
        proto = read_proto(path)
        check_opset(proto)
        _normalise(proto)
        dims = [dim for value in proto.graph.input for dim in value.type.tensor_type.shape.dim]
        if not must_be_image and batch == 1 and input_size is None and all(dim.dim_value for dim in dims):
            return None
        image = _find_image(proto, RUNNABLE)
        check_structure(proto)
        fixed = _fix_dimensions(image, batch, input_size)
        if not fixed:
            return None
        notify(f"input '{image.name}' fixed to {_dims(image)}")
        _substitute(proto, fixed)
        return from_proto(proto)


def open_unchecked(path: Path) -> Graph:
    """Open any ONNX file to look at it: no operator, opset or shape is refused, and no stage may take the result.

    Args:
        path: The `.onnx` file.

    Returns:
        The graph, local functions inlined, shapes inferred as far as they are known.

    Raises:
        GraphError: Not ONNX, damaged, or without the standard operator set.
    """
    with reading(path):
        proto = read_proto(path)
        if not opset_of(proto):
            raise GraphError(
                f"{path} names no version of the ONNX operator set",
                why="its operators have no meaning without one",
                fix="check the file with `check-model FILE` or export it again",
            )
        others = [entry for entry in proto.opset_import if entry.domain not in ("", "ai.onnx")]
        _normalise(proto)
        proto.opset_import.extend(others)
        return Graph(shapes.open_model(proto))


def scores_of(graph: Graph) -> ir.Value:
    """The output that is taken for the class scores: the first of shape (N, classes), else the first."""
    outputs = graph.body.outputs
    return next((value for value in outputs if len(shape_of(value)) == 2), outputs[0])


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


def _find_image(proto: onnx.ModelProto, kinds_taken: Sequence[int] = REWRITABLE) -> onnx.ValueInfoProto:
    """The one input, an image of three channels."""
    inputs: list[onnx.ValueInfoProto] = list(proto.graph.input)
    kinds = [(value.type.tensor_type.elem_type, len(value.type.tensor_type.shape.dim)) for value in inputs]
    found = ", ".join(f"'{v.name}' {_dims(v)}" for v in inputs) or "none"
    if len(kinds) != 1 or kinds[0][0] not in kinds_taken or kinds[0][1] != 4:
        types = ", ".join(onnx.TensorProto.DataType.Name(kind).lower() for kind, _ in kinds)
        raise GraphError(
            "the network does not take one image",
            why=f"inputs are {found} ({types or 'of no type'}); needed one float32 (N, 3, H, W)",
            fix="export the image network alone, in float32, without its preprocessing",
        )
    _, channels, height, width = (d.dim_value for d in inputs[0].type.tensor_type.shape.dim)
    channels = channels or _count_channels(proto, inputs[0].name)
    if channels not in (0, 3):
        thrice = "give --mean and --std the grey value three times"
        grey = f"grayscale: begin the network with x.mean(1, keepdim=True), export again, {thrice}"
        last = "channels last: begin the network with x.permute(0, 3, 1, 2) and export again"
        raise GraphError(
            f"input {found} is no image of three channels",
            why=f"found {channels} channels, needed (N, 3, H, W) in RGB",
            fix=last if width in (1, 3) else grey if channels == 1 else "export a network for RGB images",
        )
    if height and width and height != width:
        raise GraphError(
            f"input {found} is not square",
            why="images are cut to a square here",
            fix="export with height and width equal",
        )
    if height > LARGEST_SIDE:
        raise GraphError(
            f"input {found} is larger than any camera's",
            why=f"its side is over {LARGEST_SIDE} px",
            fix="export for the size that the network will see",
        )
    return inputs[0]


def _count_channels(proto: onnx.ModelProto, name: str) -> int:
    """How many channels the first convolution takes of an image that leaves them open; 0 where it does not tell."""
    kernels = {tensor.name: tensor.dims for tensor in proto.graph.initializer}
    for node in proto.graph.node:
        if node.op_type == "Conv" and node.input[0] == name and len(kernels.get(node.input[1], ())) == 4:
            groups = next((a.i for a in node.attribute if a.name == "group"), 1)
            return int(kernels[node.input[1]][1]) * groups
    return 0


def _fix_dimensions(image: onnx.ValueInfoProto, batch: int, size: int | None) -> dict[str, int]:
    """Give every open dimension of the input a number; which symbols stand for which number, "" for none."""
    dims = image.type.tensor_type.shape.dim
    if size is None and not all(d.dim_value for d in dims[2:]):
        size = next((d.dim_value for d in dims[2:] if d.dim_value), None)
    if size is None and not all(d.dim_value for d in dims[2:]):
        raise GraphError(
            f"input '{image.name}' {_dims(image)} leaves the image size open",
            why="an engine here is built for one size",
            fix="--input-size PX",
        )
    wanted = (batch if batch > 1 else None, None, size, size)
    fixed = {}
    for dim, asked, value, option in zip(
        dims, wanted, (batch, 3, size, size), ("batch", "", "input-size", "input-size"), strict=True
    ):
        if dim.dim_value and asked not in (None, dim.dim_value):
            raise UsageError(
                f"--{option} {asked} does not fit the file",
                why=f"its input '{image.name}' is fixed to {_dims(image)}",
                fix=f"leave --{option} out, or export again with that dimension open",
            )
        if not dim.dim_value and value is not None:
            fixed[dim.dim_param] = value
            dim.dim_value = value
    return fixed


def _substitute(proto: onnx.ModelProto, fixed: dict[str, int]) -> None:
    """Put numbers for symbols into the outputs, and forget the shapes in between: they are inferred again."""
    del proto.graph.value_info[:]
    for output in proto.graph.output:
        for dim in output.type.tensor_type.shape.dim:
            if dim.dim_param and dim.dim_param in fixed:
                dim.dim_value = fixed[dim.dim_param]


def _dims(value: onnx.ValueInfoProto) -> str:
    dims = value.type.tensor_type.shape.dim
    return f"({', '.join(str(d.dim_value) if d.dim_value else d.dim_param or '?' for d in dims)})"
