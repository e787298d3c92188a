"""What noise at the output of a layer costs, by gradients: where torch is installed and knows every operator."""

import importlib.util
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from edgehybrid.dataset import Images
from edgehybrid.errors import GraphError, StageError
from edgehybrid.progress import listener
from edgehybrid.records import Preprocess
from edgehybrid.stages.run import FORWARD_BATCH

if TYPE_CHECKING:
    from edgehybrid.graph import Graph
    from edgehybrid.graph.products import Product


def find_obstacle(graph: "Graph") -> str | None:
    """What stands in the way of gradients, as far as can be seen without computing any."""
    from edgehybrid.graph.structure import scores_of

    if scores_of(graph) is None:
        return "the network has no class scores"
    if importlib.util.find_spec("torch") is None:
        return "torch is not installed"
    from edgehybrid.search import differentiation

    unknown = differentiation.unknown_operators(graph)
    return f"no gradient is known of {', '.join(unknown)}" if unknown else None


def weigh_outputs(
    path: Path, graph: "Graph", products: "list[Product]", images: Images, preprocess: Preprocess, rows: int
) -> dict[str, NDArray[np.float32]] | None:
    """The gradients at the positions that `calibrator.sample` takes; None, with a word to the user, where none are had.

    Args:
        path: The network.
        graph: The same, opened.
        products: Whose outputs are meant.
        images: All of them are used.
        preprocess: Of the images.
        rows: Positions per layer at most.

    Returns:
        First output of each product -> (groups, rows, out).
    """
    obstacle = find_obstacle(graph)
    if obstacle is None:
        try:
            return _differentiate(path, graph, products, images, preprocess, rows)
        except (GraphError, StageError) as error:  # an attribute that torch's operators do not know
            obstacle = f"{error.what}: {error.why}"
    listener().note(f"ranges are judged without gradients: {obstacle}")
    return None


def _differentiate(
    path: Path, graph: "Graph", products: "list[Product]", images: Images, preprocess: Preprocess, rows: int
) -> dict[str, NDArray[np.float32]]:
    from edgehybrid import calibrator
    from edgehybrid.calibrator.session import regroup
    from edgehybrid.graph import name_of, shape_of
    from edgehybrid.graph.structure import class_scores
    from edgehybrid.runtime import open_runner
    from edgehybrid.search import fisher

    shape, scores = shape_of(graph.input), name_of(class_scores(graph))
    batches = max(1, len(images) // shape[0])
    with open_runner(path, canonical=True) as runner:
        return fisher.gradients_at(
            graph,
            products,
            (group for group, _ in regroup(images.batches(preprocess, FORWARD_BATCH), shape)),
            lambda product: calibrator.rows_per_batch(product, rows, batches),
            expected=lambda group: runner.run({name_of(graph.input): group})[scores].astype(np.float32),
        )
