"""What can be said of a target without having it: the least time that a call must take there."""

from collections.abc import Mapping
from pathlib import Path

from edgehybrid.records import Floor, Precision, Target


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
