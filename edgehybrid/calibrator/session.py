"""Open an ONNX Runtime session on a copy of a graph whose outputs are the tensors one wants to see."""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from edgehybrid import memory
from edgehybrid.cores import available_cores
from edgehybrid.errors import ImagesError, StageError
from edgehybrid.graph import CHECK, Graph, label_nodes, name_of, shape_of, values
from edgehybrid.graph.weights import outline

_PROVIDERS = ["CPUExecutionProvider"]
_SILENT = 4  # fatal only: every error also arrives as an exception


def open_session(
    graph: Graph, tensors: Sequence[str], *, threads: int = 0, optimise: bool = True
) -> onnxruntime.InferenceSession:
    """A CPU session that computes `tensors` and nothing that only other outputs need.

    The arena is off: with static shapes it saves nothing and keeps the peak of memory for ever.

    Args:
        graph: Not modified.
        tensors: Names of computed tensors; none keeps the graph's own outputs.
        threads: 0 for every core this process may use.
        optimise: False for canonical numerics: every node runs as written.

    Raises:
        StageError: ONNX Runtime does not take the graph.
    """
    proto, weights = outline(graph.model)
    if tensors:
        del proto.graph.output[:]
        for name in tensors:
            proto.graph.output.add(name=name)
    arrays = {name: np.ascontiguousarray(tensor.numpy()) for name, tensor in weights.items()}
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads or available_cores()
    options.inter_op_num_threads = 1
    options.enable_cpu_mem_arena = False
    options.log_severity_level = _SILENT
    level = onnxruntime.GraphOptimizationLevel
    options.graph_optimization_level = level.ORT_ENABLE_ALL if optimise else level.ORT_DISABLE_ALL
    # Threads that spin between operators would take the core on which activations are counted meanwhile.
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    memory.retain()
    held = [onnxruntime.OrtValue.ortvalue_from_numpy(array) for array in arrays.values()]
    options.add_external_initializers(list(arrays), held)
    try:
        session = onnxruntime.InferenceSession(proto.SerializeToString(), options, providers=_PROVIDERS)
    except Exception as error:  # ONNX Runtime's exceptions share no base class but Exception
        raise run_error(error) from error
    # Of what ONNX Runtime needed to read and optimise the graph: as much as the weights once more.
    memory.trim(cycles=False)
    session.weights = arrays  # ONNX Runtime reads them in place: they must live as long as it does
    return session


class Slot:
    """Memory for one run: the input, and every tapped tensor, which ONNX Runtime writes in place.

    Fresh outputs would be mapped and zeroed by the kernel at every run; for CMT-Ti that costs as much as counting.
    """

    def __init__(self, graph: Graph, session: onnxruntime.InferenceSession, taps: Sequence[str]) -> None:
        shapes = {name_of(v): shape_of(v) for v in values(graph) if v.name in taps or v is graph.input}
        self.arrays = {name: np.empty(shape, np.float32) for name, shape in shapes.items()}
        self._input = self.arrays[name_of(graph.input)]
        self._session = session
        self._binding = session.io_binding()
        for port in session.get_inputs():
            self._bind(self._binding.bind_input, port.name)
        for port in session.get_outputs():
            if port.name in self.arrays:
                self._bind(self._binding.bind_output, port.name)
            else:
                self._binding.bind_output(port.name, "cpu")

    def run(self, images: NDArray[np.float32]) -> None:
        """Fill `arrays` with what one batch of images gives."""
        np.copyto(self._input, images)
        try:
            self._session.run_with_iobinding(self._binding)
        except Exception as error:  # ONNX Runtime's exceptions share no base class but Exception
            raise run_error(error) from error

    def _bind(self, bind: Callable[..., None], name: str) -> None:
        array = self.arrays[name]
        bind(name, "cpu", 0, np.float32, array.shape, array.ctypes.data)


def run_through(
    graph: Graph,
    session: onnxruntime.InferenceSession,
    taps: Sequence[str],
    batches: Iterable[NDArray[np.float32]],
    use: Callable[[Mapping[str, NDArray[np.float32]], int], None],
) -> Iterator[int]:
    """Run images, and while what one run gave is used, the next one, where there is a second core for it.

    Args:
        graph: What the session runs.
        session: From `open_session`.
        taps: Names of the tensors to use.
        batches: As of `regroup`.
        use: Given the tensors by name, the input as well, valid until it returns, and how many copies of each image
            they hold; one call at a time, in the order of the images, in another thread.

    Yields:
        After each run, of how many images it was.

    Raises:
        ImagesError: An image does not fit the graph, or there is none.
        StageError: ONNX Runtime failed.
    """
    slots = [Slot(graph, session, taps) for _ in range(min(2, available_cores()))]
    with ThreadPoolExecutor(max_workers=1) as pool:
        pending: Future[None] | None = None
        for number, (group, copies) in enumerate(regroup(batches, shape_of(graph.input))):
            slot = slots[number % len(slots)]
            if pending is not None and len(slots) == 1:
                pending.result()
            slot.run(group)
            if pending is not None:
                pending.result()
            pending = pool.submit(use, slot.arrays, copies)
            yield len(group) // copies
        if pending is not None:
            pending.result()


def regroup(
    batches: Iterable[NDArray[np.float32]], shape: tuple[int, ...]
) -> Iterator[tuple[NDArray[np.float32], int]]:
    """Cut a stream of batches of any size into groups of the graph's own batch.

    Images that are left over at the end come one by one, each filling a whole group.

    Args:
        batches: float32 (B, 3, H, W), B as it comes.
        shape: (N, 3, H, W) of the graph's input.

    Yields:
        float32 of `shape`, valid until the next one, and how many copies of each image it holds (1 or N).

    Raises:
        ImagesError: An image does not fit the graph, or there is none.
    """
    group = np.empty(shape, np.float32)
    filled = seen = 0
    for batch in batches:
        if batch.shape[1:] != shape[1:] or batch.dtype != np.float32:
            raise ImagesError(
                "the images do not fit the network",
                why=f"found {batch.dtype} {batch.shape[1:]}, needed float32 {shape[1:]}",
                fix="preprocess the images to the network's input size",
            )
        for image in batch:
            group[filled] = image
            filled, seen = filled + 1, seen + 1
            if filled == len(group):
                yield group, 1
                filled = 0
    if not seen:
        raise ImagesError("there are no images", why="found 0, needed at least 1", fix="give a set of images")
    for image in group[:filled].copy():
        group[:] = image
        yield group, len(group)


def run_error(error: Exception) -> StageError:
    """What a failure of ONNX Runtime means to the user."""
    return StageError(
        "ONNX Runtime cannot run the network on the calibration images",
        why=" ".join(str(error).split()) or type(error).__name__,
        fix=f"check the ONNX file with `{CHECK}`, or export it again",
    )


def not_finite(graph: Graph, name: str, found: str) -> StageError:
    """An activation with NaN or infinity, by the node that computes it; `found` says how many, and where."""
    makers = {out.name: f"{n.op_type} node '{label}'" for n, label in label_nodes(graph).items() for out in n.outputs}
    return StageError(
        f"activation '{name}' is not finite",
        why=f"{makers.get(name, 'the input')} gave {found}",
        fix="check the weights and the preprocessing: the float network itself fails on these images",
    )
