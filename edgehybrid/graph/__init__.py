"""The one currency between stages: an ONNX graph, how to open, save, check and measure it."""

import contextlib
import hashlib
import math
import shlex
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
from numpy.typing import NDArray

from edgehybrid import memory
from edgehybrid.errors import EdgeHybridError, GraphError, withheld
from edgehybrid.graph import shapes
from edgehybrid.graph.weights import NOTHING, Weights, pieces
from edgehybrid.records import Precision

MIN_OPSET = 13
MAX_OPSET = 23
CHECK = "check-model FILE"
"""In errors of those who do not know which file it is: `reading` does."""
LARGEST_FILE = 2**31 - 1  # bytes; what a protobuf message can have
WEIGHTED = ("Conv", "ConvTranspose", "Gemm", "MatMul", "LayerNormalization", "BatchNormalization")
"""Operators whose constants are trained weights."""
STORING = ("Constant", "Cast", "Identity")
"""Operators that a tensor goes through before anything is computed with it."""
PRODUCTS = ("Conv", "Gemm", "MatMul")
"""Operators that may run in int8 here: convolutions and matrix products."""


class Graph:
    """An ONNX model of standard operators with static shapes; `model` may be edited in place by its owner."""

    def __init__(self, model: ir.Model) -> None:
        self.model = model

    @property
    def body(self) -> ir.Graph:
        """The main graph."""
        return self.model.graph

    @property
    def opset(self) -> int:
        """Version of the default operator set."""
        return self.model.opset_imports[""]

    @property
    def input(self) -> ir.Value:
        """The image input, float32 (N, 3, H, W)."""
        return self.body.inputs[0]

    @property
    def outputs(self) -> tuple[str, ...]:
        """Names of the outputs."""
        return tuple(name_of(v) for v in self.body.outputs)

    def clone(self) -> "Graph":
        """An independent copy; constant data is shared, as it is never written in place."""
        return Graph(self.model.clone())

    def to_bytes(self) -> bytes:
        """The ONNX protobuf."""
        return b"".join(self.pieces())

    def pieces(self) -> Iterator[bytes]:
        """The ONNX protobuf in pieces, to be written one after the other: a large one is not held whole."""
        return pieces(self.model)

    def digest(self) -> str:
        """SHA-256 of the protobuf."""
        found = hashlib.sha256()
        for piece in self.pieces():
            found.update(piece)
        return found.hexdigest()

    def fingerprint(self) -> str:
        """SHA-256 of operators, tensor names and weights of layers: the same for every batch size of a network.

        Other constants are left out: a class token, for one, is repeated for each image of the batch.
        """
        found = hashlib.sha256()
        for node in self.body:
            found.update(repr((node.op_type, [value.name for value in node.outputs])).encode())
            for value in node.inputs if node.op_type in WEIGHTED else ():
                array = constant(value)
                if array is not None:
                    found.update(repr(array.shape).encode() + np.ascontiguousarray(array).tobytes())
        return found.hexdigest()

    def nodes(self, *ops: str) -> Iterator[ir.Node]:
        """Nodes of the main graph in order, all or only those of the operators named."""
        for node in self.body:
            if not ops or (node.op_type in ops and node.domain == ""):
                yield node


def load(path: Path) -> Graph:
    """Open and check an ONNX file.

    Args:
        path: The `.onnx` file. External data must lie in its folder.

    Returns:
        The graph, shapes inferred.

    Raises:
        GraphError: Not ONNX, damaged, an opset outside 13..23, or operators outside the standard domain.
    """
    with reading(path):
        graph = from_proto(read_proto(path))
    memory.trim()  # of the file and its protobuf: twice as much as the weights
    return graph


def read_proto(path: Path) -> onnx.ModelProto:
    """Parse a file and the weights beside it.

    Raises:
        GraphError: Larger than a protobuf can be; weights outside the folder of the file, missing, cut off, or of
            another length than their shape.
    """
    if not path.is_file():  # a pipe would be waited for, for ever
        found = "nothing" if not path.exists() else "a folder" if path.is_dir() else "a pipe or device"
        raise GraphError(f"{path} is not a usable ONNX file", why=f"found {found}, needed a file", fix="check the path")
    if path.stat().st_size == 0:
        fix = "copy or export it again"
        raise GraphError(f"{path} is not a usable ONNX file", why="found an empty file", fix=fix)
    if path.stat().st_size > LARGEST_FILE:
        raise GraphError(
            f"{path} has {path.stat().st_size / 2**30:.1f} GiB",
            why="an ONNX file ends at 2 GiB; a larger one is damaged, or no ONNX file",
            fix="check the path; weights of large models go into a file beside it (save_as_external_data)",
        )
    proto = onnx.load(path, load_external_data=False)
    total = sum(_bound(tensor, path) for tensor in external_tensors(proto))
    if total > LARGEST_FILE:
        raise GraphError(
            f"{path} has {total / 2**30:.1f} GiB of weights",
            why="graphs are handled whole here, and a whole one ends at 2 GiB",
            fix="export a smaller model: an image network for an embedded board is far below that",
        )
    try:
        onnx.load_external_data_for_model(proto, str(path.parent))  # refuses what lies outside (onnx >= 1.21)
    except Exception as error:  # onnx raises its own types, ValueError and OSError
        raise GraphError(
            f"cannot read the weights that {path} keeps in another file",
            why=first_line(error),
            fix="put its data files into the same folder, whole, or save the model as one file",
        ) from error
    return proto


def external_tensors(proto: onnx.ModelProto) -> list[onnx.TensorProto]:
    """Every weight and constant whose data lie in another file, those inside functions and branches too."""
    tensors = [*proto.graph.initializer]
    nodes = [*proto.graph.node, *(node for function in proto.functions for node in function.node)]
    while nodes:
        for attribute in nodes.pop().attribute:
            tensors += [*([attribute.t] if attribute.HasField("t") else []), *attribute.tensors]
            for branch in (*([attribute.g] if attribute.HasField("g") else []), *attribute.graphs):
                tensors += branch.initializer
                nodes += branch.node
    return [tensor for tensor in tensors if tensor.data_location == onnx.TensorProto.EXTERNAL]


def _bound(tensor: onnx.TensorProto, path: Path) -> int:
    """Bytes of a tensor in another file, which are what its shape needs: a length left open would read to the end."""
    size: int = math.prod(tensor.dims) * onnx.helper.tensor_dtype_to_np_dtype(tensor.data_type).itemsize
    said = {entry.key: entry.value for entry in tensor.external_data}
    if min(tensor.dims, default=0) < 0 or said.get("length", str(size)) != str(size):
        raise GraphError(
            f"cannot read the weights that {path} keeps in another file",
            why=f"'{tensor.name}' has shape {tuple(tensor.dims)}, {size} bytes, and a length of {said.get('length')}",
            fix="put its data files into the same folder, whole, or save the model as one file",
        )
    if "length" not in said:
        tensor.external_data.add(key="length", value=str(size))
    return size


@contextlib.contextmanager
def reading(path: Path) -> Iterator[None]:
    """Say which file an error of the ONNX libraries is about; a file that may not be read is a ResourceError."""
    try:
        yield
    except EdgeHybridError as error:
        error.rename(CHECK, f"check-model {shlex.quote(str(path))}")
        raise
    except PermissionError as error:
        raise withheld(error) from error
    except Exception as error:  # protobuf, onnx and onnx_ir raise a dozen unrelated types
        raise GraphError(
            f"{path} is not a usable ONNX file",
            why=first_line(error),
            fix=f"check the file with `check-model {shlex.quote(str(path))}` or export it again",
        ) from error


def first_line(error: BaseException) -> str:
    """What kind of error, and the first line of what it says."""
    text = str(error).strip()
    return f"{type(error).__name__}: {text.splitlines()[0] if text else 'no details'}"


def from_proto(proto: onnx.ModelProto, weights: Weights = NOTHING) -> Graph:
    """Check a protobuf, infer its shapes and wrap it.

    Args:
        proto: Loses its large weights to the graph.
        weights: Those that were left out of the protobuf before.

    Raises:
        GraphError: An opset outside 13..23 or an operator outside the standard domain.
    """
    check_opset(proto)
    for node in proto.graph.node:
        check_domain(node)
        for attribute in node.attribute if node.op_type == "Constant" else ():
            if attribute.HasField("t"):
                attribute.t.name = node.output[0]  # clones share what it holds, and name it when they rename its value
    return Graph(shapes.open_model(proto, weights))


def opset_of(proto: onnx.ModelProto) -> int:
    """Version of the default operator set, under either of its names; 0 for none."""
    versions: dict[str, int] = {o.domain: o.version for o in proto.opset_import}
    return versions.get("", versions.get("ai.onnx", 0))


def check_opset(proto: onnx.ModelProto, oldest: int = MIN_OPSET) -> None:
    """Raise GraphError where the opset is older, or newer than 23."""
    opset = opset_of(proto)
    if not oldest <= opset <= MAX_OPSET:
        raise GraphError(
            f"ONNX opset {opset} is not supported",
            why=f"needed is one of {oldest} to {MAX_OPSET}",
            fix="export again with opset_version=17",
        )


def check_domain(node: onnx.NodeProto) -> None:
    """Raise GraphError, by the name of the node, where its operator is not of the ONNX standard."""
    if node.domain not in ("", "ai.onnx"):
        raise GraphError(
            f"{describe(node)} uses {node.domain}.{node.op_type}",
            why="only operators of the ONNX standard can be rewritten and built by TensorRT",
            fix="export without custom or runtime-specific operators",
        )


def describe(node: onnx.NodeProto) -> str:
    """A node in words, also one without a name."""
    return f"node '{node.name}'" if node.name else f"the node that computes '{', '.join(node.output)}'"


def infer_shapes(graph: Graph) -> Graph:
    """The same graph with the shape and type of every value filled in again, after an edit."""
    for value in values(graph):
        if value.producer() is not None and not value.is_graph_output():
            value.shape = None
            value.type = None
    return Graph(shapes.infer(graph.model))


def tidy(graph: Graph) -> Graph:
    """Drop what nothing reads any more, sort topologically, infer shapes."""
    sweep(graph)
    return infer_shapes(graph)


def sweep(graph: Graph) -> None:
    """Sort topologically and drop, in place, the nodes and initializers that nothing reads any more.

    What has the name of another tensor or node gets one of its own: rewrites name what they make after what was there.
    """
    graph.body.sort()
    for node in reversed(list(graph.body)):
        if not any(v.uses() or v.is_graph_output() for v in node.outputs):
            graph.body.remove(node, safe=True)
    for name, value in list(graph.body.initializers.items()):
        if not value.uses() and not value.is_graph_output():
            del graph.body.initializers[name]
    ends = {*graph.body.inputs, *graph.body.outputs}
    tensors, nodes = {value.name for value in ends}, set[str | None]()
    for value in list(values(graph)):
        if value.name and value not in ends and (name := unused(value.name, tensors)) != value.name:
            value.name = name
    for node in graph.body:
        if node.name and (name := unused(node.name, nodes)) != node.name:
            node.name = name


def values(graph: Graph) -> Iterator[ir.Value]:
    """Every value of the main graph once: inputs, initializers, node outputs."""
    yield from graph.body.inputs
    yield from graph.body.initializers.values()
    for node in graph.body:
        yield from node.outputs


def name_of(value: ir.Value) -> str:
    """The value's name; every value of a loaded graph has one."""
    if value.name is None:
        raise ValueError("a value without a name")
    return value.name


def label_nodes(graph: Graph) -> dict[ir.Node, str]:
    """A unique name for every node: its own, or that of its first output where it has none or shares it."""
    counts = Counter(node.name for node in graph.nodes())
    own = {node: node.name for node in graph.nodes() if node.name and counts[node.name] == 1}
    taken: set[str | None] = set(own.values())
    return {node: own.get(node) or unused(name_of(node.outputs[0]), taken) for node in graph.nodes()}


def shape_of(value: ir.Value) -> tuple[int, ...]:
    """The static shape of a value.

    Raises:
        GraphError: Unknown or dynamic.
    """
    dims = known_shape(value)
    if dims is None:
        raise GraphError(
            f"the shape of '{value.name}' is not static",
            why=f"found {value.shape}; engines here are built for one fixed size",
            fix="export with a fixed batch and input size; run `onnxsim FILE FILE` if both are fixed already",
        )
    return dims


def known_shape(value: ir.Value) -> tuple[int, ...] | None:
    """The static shape of a value; None where shape inference found none."""
    if value.shape is None:
        return None
    dims = tuple(d for d in value.shape if isinstance(d, int))
    return dims if len(dims) == len(value.shape) else None


def holds_floats(value: ir.Value) -> bool:
    """Whether the elements of a value are known to be floats."""
    return value.dtype is not None and value.dtype.is_floating_point()


def has_open_shapes(graph: Graph) -> bool:
    """Whether shape inference left any value of the main graph without a static shape."""
    return any(known_shape(value) is None for value in values(graph))


def constant(value: ir.Value | None) -> NDArray[np.generic] | None:
    """The array behind an initializer or Constant output; None for anything computed."""
    if value is None or value.is_graph_input():
        return None
    tensor = ir.convenience.get_const_tensor(value)
    return None if tensor is None else tensor.numpy()


def add_constant(
    graph: Graph, name: str, array: NDArray[np.generic], *, taken: set[str | None] | None = None
) -> ir.Value:
    """Register a new initializer under `name`, made unique by a suffix if it is taken.

    Args:
        graph: Edited in place.
        name: Wished for.
        array: The data.
        taken: Names in use, extended by the new one; saves looking through the graph for each of many constants.
    """
    taken = {v.name for v in values(graph)} if taken is None else taken
    unique = unused(name, taken)
    tensor = ir.tensor(np.asarray(array, order="C"), name=unique)
    value = ir.Value(name=unique, shape=ir.Shape(array.shape), type=ir.TensorType(tensor.dtype), const_value=tensor)
    graph.body.register_initializer(value)
    return value


def unused(name: str, taken: set[str | None]) -> str:
    """The name, with a suffix if it is taken; from now on it is."""
    unique, i = name, 1
    while unique in taken:
        unique, i = f"{name}_{i}", i + 1
    taken.add(unique)
    return unique


def precision(graph: Graph) -> Precision:
    """int8 with Q/DQ, fp16 where an operator computes in half precision, fp32 otherwise.

    What only stores its weights in half precision, each behind a Cast, computes in float32.
    """
    if any(graph.nodes("QuantizeLinear")):
        return "int8"
    computing = (node for node in graph.nodes() if node.op_type not in STORING)
    touched = (value for node in computing for value in (*node.inputs, *node.outputs) if value is not None)
    return "fp16" if any(value.dtype == ir.DataType.FLOAT16 for value in touched) else "fp32"
