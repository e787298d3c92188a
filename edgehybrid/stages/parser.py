"""What a target's parser reads: the ONNX opset and the operators of its TensorRT."""

import re
from pathlib import Path

from edgehybrid.records import Target
from edgehybrid.stages.run import Run
from edgehybrid.store import sha256_of, write_atomic


def check_parser(path: Path, target: Target) -> None:
    """Refuse, before it is calibrated, a graph that cannot be written in an opset that the target's parser reads.

    Raises:
        GraphError: An operator has no such form, by the name of its node.
    """
    from edgehybrid import graph, quantizer

    newest = _newest_opset(target)
    if newest is not None and _opset(path) > newest:
        quantizer.lower_opset(graph.load(path), newest)


def suit_parser(run: Run, path: Path, target: Target) -> Path:
    """The graph in an opset and in operators that the target's parser has: 8.5's has no layer normalisation."""
    from edgehybrid import graph, quantizer

    newest = _newest_opset(target)
    if target.backend != "tensorrt":
        return path
    figure = target.figures.get("tensorrt")
    version = re.findall(r"\d+", str(None if figure is None else figure.value))[:2]
    decompose = target.dialect == "fp32" and not (8, 6) <= tuple(map(int, version)) < (9,)
    if not decompose and (newest is None or _opset(path) <= newest):
        return path

    def produce(folder: Path) -> None:
        found = graph.load(path)
        found = found if newest is None else quantizer.lower_opset(found, newest)
        write_atomic(folder / "model.onnx", (quantizer.decompose_norms(found) if decompose else found).pieces())

    inputs = {"model": sha256_of(path), "newest": newest, "decompose": decompose}
    return run.do(f"suit {path.stem}", inputs, produce) / "model.onnx"


def _opset(path: Path) -> int:
    """Of a file, without inferring the shapes in it."""
    from edgehybrid import graph

    return graph.opset_of(graph.read_proto(path))


def _newest_opset(target: Target) -> int | None:
    """What the target's parser reads at most; None where that is not known, or it runs no engine."""
    figure = target.figures.get("onnx_opset_max") if target.backend == "tensorrt" else None
    return figure.value if figure is not None and isinstance(figure.value, int) else None
