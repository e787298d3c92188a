"""What can be said without running anything: how much work is where, and the least time that a target takes for it."""

from collections.abc import Mapping
from pathlib import Path

from edgehybrid.records import Floor, Precision, Target
from edgehybrid.stages.run import Run


def work_of(run: Run, path: Path) -> dict[str, int]:
    """Multiply-accumulates of every convolution and matrix product, by the names that plans know them under."""
    from edgehybrid import graph
    from edgehybrid.graph.counting import COUNTED, macs_of

    opened = run.open(path)
    labels = graph.label_nodes(opened)
    return {labels[node]: macs_of(node) for node in opened.nodes(*COUNTED)}


def floors(graphs: Mapping[Precision, Path], target: Target) -> tuple[Floor, ...]:
    """A floor per precision, from the graphs as deployed and the data sheet of the target.

    Args:
        graphs: Precision -> ONNX file; int8 and fp16 in their typed form, which says what computes in what.
        target: Its figures are those of the power mode that was chosen.
    """
    from edgehybrid import graph, roofline

    return tuple(
        roofline.floor(roofline.count(graph.load(path)), target, precision) for precision, path in graphs.items()
    )
