"""Find the largest value that every float tensor takes: what a narrower float type would have to hold."""

from collections.abc import Iterable
from typing import cast

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray

from edgehybrid.calibrator.observer import source_of
from edgehybrid.calibrator.session import not_finite, open_session, regroup, run_error
from edgehybrid.graph import Graph, add_constant, constant, name_of, shape_of, unused, values
from edgehybrid.graph.structure import MOVES

_HIDING = MOVES | {"Add", "Concat", "Expand", "Slice", "Where"}
"""What carries a mask's -inf on; a softmax or a maximum makes numbers of it again."""


def find_peaks(graph: Graph, batches: Iterable[NDArray[np.float32]], *, threads: int = 0) -> dict[str, float]:
    """The absolute maximum of every float32 tensor that depends on the images, over all of them.

    The maxima are computed inside the graph, by two reductions per tensor, so that memory stays that of one run. A
    run takes about twice as long as a bare one, because no operators are fused.

    Args:
        graph: Static shapes. Not modified.
        batches: Preprocessed images, float32 (B, 3, H, W), B as it comes.
        threads: Of ONNX Runtime; 0 for every core this process may use.

    Returns:
        Tensor name -> absolute maximum; the input and what only rearranges another tensor included. Where a mask puts
        -inf, as before a softmax, it is that of the rest.

    Raises:
        ImagesError: An image does not fit the graph, or there is none.
        StageError: A tensor is not finite (names it and its node), or ONNX Runtime failed.
    """
    sources = {
        name_of(value): name_of(source_of(value))
        for value in values(graph)
        if value.dtype == ir.DataType.FLOAT and constant(value) is None
    }
    tapped = graph.clone()
    taps = _add_reductions(tapped, set(sources.values()))
    names = [tap for pair in taps.values() for tap in pair]
    session = open_session(tapped, names, threads=threads, optimise=False)
    found = dict.fromkeys(taps, 0.0)
    for group, _ in regroup(batches, shape_of(graph.input)):
        try:
            ends = cast("list[NDArray[np.float32]]", session.run(names, {name_of(graph.input): group}))
        except Exception as error:  # ONNX Runtime's exceptions share no base class but Exception
            raise run_error(error) from error
        for name, high, low in zip(taps, ends[::2], ends[1::2], strict=True):
            peak = max(float(np.abs(high)), float(np.abs(low)))
            if not np.isfinite(high) or not np.isfinite(low):
                raise not_finite(graph, name, "a NaN or an infinity")
            found[name] = max(found[name], peak)
    return {name: found[source] for name, source in sources.items()}


def _add_reductions(graph: Graph, tensors: set[str]) -> dict[str, tuple[str, str]]:
    """Tensor -> names of its largest and its smallest value, in the order of computation."""
    taken = {value.name for value in values(graph)}
    taps, masked, present = {}, _masked(graph), list(values(graph))
    zero = add_constant(graph, "unmasked", np.zeros((), np.float32), taken=taken) if masked else None
    for value in present:
        if value.name not in tensors:
            continue
        ends, rest = [], value
        if value in masked:
            is_masked = ir.node("IsInf", [value], {"detect_positive": 0}, name=unused(f"{value.name}_IsInf", taken))
            where = ir.node("Where", [is_masked.outputs[0], zero, value], name=unused(f"{value.name}_Where", taken))
            for node in (is_masked, where):
                node.outputs[0].name = unused(f"{node.name}_out", taken)
                graph.body.append(node)
            rest = where.outputs[0]
        for op, seen in (("ReduceMax", value), ("ReduceMin", rest)):
            node = ir.node(op, [seen], {"keepdims": 0})
            end = node.outputs[0]
            end.name, end.type = unused(f"{value.name}_{op}", taken), ir.TensorType(ir.DataType.FLOAT)
            end.shape = ir.Shape(())
            node.name = end.name
            graph.body.append(node)
            ends.append(end.name)
        taps[name_of(value)] = (ends[0], ends[1])
    return taps


def _masked(graph: Graph) -> set[ir.Value]:
    """Tensors in which a constant's -inf stands where a mask hides something."""
    found: set[ir.Value] = set()
    for value in values(graph):
        array = constant(value)
        if array is not None and array.dtype == np.float32 and (array == -np.inf).any():
            found.add(value)
    for node in graph.nodes():
        if node.op_type in _HIDING and not found.isdisjoint(node.inputs):
            found.update(node.outputs)
    return {value for value in found if constant(value) is None}
