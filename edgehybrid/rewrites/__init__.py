"""Exact rewrites: another graph that computes the same function with less work, for any ONNX file.

Each rewrite is a function `Graph -> int` that edits its argument and returns the number of places where it
applied; its docstring holds the algebra. They work by pattern on the graph, whoever exported it. `layer.py`
gives one view of the ways in which exporters write a layer, `trace.py` follows channels through reshapes,
`attention.py` finds attention that may be changed, `pattern.py` holds the common questions and edits.
"""

from collections.abc import Callable, Sequence

import numpy as np

from edgehybrid.errors import unknown_name
from edgehybrid.graph import Graph, has_open_shapes, infer_shapes, sweep, tidy
from edgehybrid.graph.folding import fold_constants
from edgehybrid.rewrites.attention_bias import drop_key_bias, move_value_bias
from edgehybrid.rewrites.attention_mask import drop_masks
from edgehybrid.rewrites.attention_norm import fold_into_value
from edgehybrid.rewrites.attention_scale import fold_scale
from edgehybrid.rewrites.batch_norm import fold_into_next, fold_into_previous
from edgehybrid.rewrites.bias import fold_added_vector
from edgehybrid.rewrites.branches import merge_branches
from edgehybrid.rewrites.head_size import pad_head_size
from edgehybrid.rewrites.heads import merge_heads
from edgehybrid.rewrites.hidden_width import pad_hidden_width
from edgehybrid.rewrites.key_value import merge_key_value
from edgehybrid.rewrites.layer_norm import fuse_layer_norm
from edgehybrid.rewrites.layer_scale import fold_layer_scale
from edgehybrid.rewrites.layout import remove_no_ops
from edgehybrid.rewrites.one_token import take_only_value
from edgehybrid.rewrites.pooling import pool_first, pool_globally
from edgehybrid.rewrites.relative_shift import index_relative_positions
from edgehybrid.rewrites.residual import fold_identity
from edgehybrid.rewrites.windows import fold_by_known_operators

REWRITES: tuple[tuple[str, Callable[[Graph], int]], ...] = (
    ("constants", fold_constants),
    ("no-ops", remove_no_ops),
    ("fold", fold_by_known_operators),
    ("one-token", take_only_value),
    ("attention-mask", drop_masks),
    ("layer-norm", fuse_layer_norm),
    ("relative-shift", index_relative_positions),
    ("added-vector", fold_added_vector),
    ("layer-scale", fold_layer_scale),
    ("bn-into-previous", fold_into_previous),
    ("branches", merge_branches),
    ("bn-into-next", fold_into_next),
    ("bn-into-value", fold_into_value),
    ("global-pool", pool_globally),
    ("pool-first", pool_first),
    ("depthwise-residual", fold_identity),
    ("attention-scale", fold_scale),
    ("key-bias", drop_key_bias),
    ("value-bias", move_value_bias),
    ("head-size", pad_head_size),
    ("key-value", merge_key_value),
    ("heads", merge_heads),
    ("hidden-width", pad_hidden_width),
)
"""Every rewrite under the name that `only` takes, in the order in which they run."""


def apply(graph: Graph, *, only: Sequence[str] | None = None) -> tuple[Graph, tuple[str, ...]]:
    """Rewrite a graph until no rewrite applies any more, so that a second call changes nothing.

    Args:
        graph: Left as it is.
        only: Names out of `REWRITES`; None for all.

    Returns:
        The rewritten copy, with the same inputs, outputs and opset, and one line per rewrite, "name: n sites".

    Raises:
        NotFoundError: A name in `only` that is not in `REWRITES`.
    """
    known = [name for name, _ in REWRITES]
    for name in only or ():
        if name not in known:
            raise unknown_name("rewrite", name, known, fix="choose from edgehybrid.rewrites.REWRITES")
    chosen = [(name, rewrite) for name, rewrite in REWRITES if only is None or name in only]
    copy = graph.clone()
    sweep(copy)  # what nothing reads would keep others from being merged
    sites = dict.fromkeys((name for name, _ in chosen), 0)
    busy = True
    while busy:
        busy = False
        for name, rewrite in chosen:
            with np.errstate(all="ignore"):  # `Layer.write` refuses what overflowed
                found = rewrite(copy)
            if found:
                sweep(copy)
                sites[name] += found
                busy = True
        if busy and has_open_shapes(copy):
            copy = infer_shapes(copy)  # folded constants may have made shapes known
    lines = tuple(f"{name}: {n} site{'' if n == 1 else 's'}" for name, n in sites.items())
    return tidy(copy), lines
