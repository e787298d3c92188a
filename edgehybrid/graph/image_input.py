"""The image that a network takes: found among the inputs of a file, turned channels first, its open sizes fixed."""

from collections.abc import Callable, Sequence

import onnx

from edgehybrid.errors import GraphError, UsageError
from edgehybrid.sizes import Size, sides, spelled

REWRITABLE = (onnx.TensorProto.FLOAT,)
"""Element types of the image that a model to be rewritten and quantized may have."""
RUNNABLE = (onnx.TensorProto.FLOAT, onnx.TensorProto.FLOAT16)
"""The same of a model that is run as it is."""
LARGEST_SIDE = 8192  # px
FIRST = [0, 3, 1, 2]
"""The axes of (N, H, W, C) in the order of (N, C, H, W)."""
PREPARATION = ("Add", "Cast", "Div", "Identity", "Mul", "Sub")
"""What networks of TensorFlow do with an image before they turn it."""


def put_channels_first(proto: onnx.ModelProto, notify: Callable[[str], None]) -> bool:
    """Let a network that takes images (N, H, W, 3), as TensorFlow's do, take (N, 3, H, W); whether it had to."""
    if not has_channels_last(proto):
        return False
    image = proto.graph.input[0]
    before = dims_of(image)
    last = f"{image.name}_channels_last"
    for node in proto.graph.node:
        node.input[:] = [last if name == image.name else name for name in node.input]
    turn = onnx.helper.make_node("Transpose", [image.name], [last], name=last, perm=[0, 2, 3, 1])
    proto.graph.node.insert(0, turn)
    dims = image.type.tensor_type.shape.dim
    dims.insert(1, dims.pop(3))
    notify(f"input '{image.name}' {before} takes images channels first from here on: {dims_of(image)}")
    return True


def has_channels_last(proto: onnx.ModelProto) -> bool:
    """Whether the one input is (N, H, W, 3), and the network turns it before anything else looks at its axes."""
    if len(proto.graph.input) != 1:
        return False
    image = proto.graph.input[0]
    dims = [dim.dim_value for dim in image.type.tensor_type.shape.dim]
    if len(dims) != 4 or dims[3] != 3 or dims[1] == 3:
        return False
    unturned, found = {image.name}, False
    for node in proto.graph.node:
        if any(attribute.HasField("g") for attribute in node.attribute):
            return False  # a branch, which may read the image unseen
        if unturned.isdisjoint(node.input):
            continue
        if node.op_type == "Transpose" and [*next((a.ints for a in node.attribute if a.name == "perm"), ())] == FIRST:
            found = True
        elif node.op_type in PREPARATION:
            unturned.update(node.output)
        else:
            return False
    return found


def set_dims(value: onnx.ValueInfoProto, dims: Sequence[int]) -> None:
    """Give an input or output a fixed shape."""
    shape = value.type.tensor_type.shape
    del shape.dim[:]
    shape.dim.extend(onnx.TensorShapeProto.Dimension(dim_value=dim) for dim in dims)


def find_image(proto: onnx.ModelProto, kinds_taken: Sequence[int] = REWRITABLE) -> onnx.ValueInfoProto:
    """The one input, an image of three channels."""
    inputs: list[onnx.ValueInfoProto] = list(proto.graph.input)
    kinds = [(value.type.tensor_type.elem_type, len(value.type.tensor_type.shape.dim)) for value in inputs]
    found = ", ".join(f"'{v.name}' {dims_of(v)}" for v in inputs) or "none"
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
    if max(height, width) > LARGEST_SIDE:
        raise GraphError(
            f"input {found} is larger than any camera's",
            why=f"a side is over {LARGEST_SIDE} px",
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


def fix_dimensions(image: onnx.ValueInfoProto, batch: int, size: Size | None) -> dict[str, int]:
    """Give every open dimension of the input a number; which symbols stand for which number, "" for none."""
    dims = image.type.tensor_type.shape.dim
    if size is None and not all(d.dim_value for d in dims[2:]):
        known = "x".join(str(d.dim_value or side) for d, side in zip(dims[2:], ("HEIGHT", "WIDTH"), strict=True))
        raise GraphError(
            f"input '{image.name}' {dims_of(image)} leaves the image size open",
            why="an engine here is built for one size",
            fix=f"--input-size {known}" if any(d.dim_value for d in dims[2:]) else "--input-size PX, or HEIGHTxWIDTH",
        )
    height, width = (None, None) if size is None else sides(size)
    if size is not None and max(sides(size)) > LARGEST_SIDE:
        raise UsageError(
            f"--input-size {spelled(size)} is larger than any camera's",
            why=f"a side is over {LARGEST_SIDE} px",
            fix="give the size that the network will see",
        )
    if isinstance(size, tuple) and dims[2].dim_param and dims[2].dim_param == dims[3].dim_param:
        raise UsageError(
            f"--input-size {spelled(size)} does not fit the file",
            why=f"its input '{image.name}' {dims_of(image)} has one name for both sides",
            fix="export again with a name for each, or give one side",
        )
    wanted = (batch if batch > 1 else None, None, height, width)
    fixed = {}
    for dim, asked, value, option in zip(
        dims, wanted, (batch, 3, height, width), ("batch", "", "input-size", "input-size"), strict=True
    ):
        if dim.dim_value and asked not in (None, dim.dim_value):
            said = asked if option == "batch" or size is None else spelled(size)
            raise UsageError(
                f"--{option} {said} does not fit the file",
                why=f"its input '{image.name}' is fixed to {dims_of(image)}",
                fix=f"leave --{option} out, or export again with that dimension open",
            )
        if not dim.dim_value and value is not None:
            fixed[dim.dim_param] = value
            dim.dim_value = value
    return fixed


def substitute(proto: onnx.ModelProto, fixed: dict[str, int]) -> None:
    """Put numbers for symbols into the outputs, and forget the shapes in between: they are inferred again."""
    del proto.graph.value_info[:]
    for output in proto.graph.output:
        for dim in output.type.tensor_type.shape.dim:
            if dim.dim_param and dim.dim_param in fixed:
                dim.dim_value = fixed[dim.dim_param]


def dims_of(value: onnx.ValueInfoProto) -> str:
    """The shape in words, `?` where it is open and has no name."""
    dims = value.type.tensor_type.shape.dim
    return f"({', '.join(str(d.dim_value) if d.dim_value else d.dim_param or '?' for d in dims)})"
