"""Which layers cost accuracy: the cached runs behind a ranking, and behind its check."""

import functools
import json
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from edgehybrid.dataset import Images
from edgehybrid.errors import GraphError, StageError, UsageError
from edgehybrid.progress import listener
from edgehybrid.records import GroupLoss, LayerGroup, Preprocess, RankCheck
from edgehybrid.stages.gradients import find_obstacle
from edgehybrid.stages.quantization import Quantized
from edgehybrid.stages.run import FORWARD_BATCH, Run
from edgehybrid.store import decode, sha256_of, to_json, write_atomic

if TYPE_CHECKING:
    from edgehybrid.graph import Graph
    from edgehybrid.search import Answer, Switched

How = Literal["auto", "fisher", "designs"]
Unit = Literal["group", "layer"]


@dataclass(frozen=True)
class Ranking:
    """What each group of int8 layers costs, the costliest first."""

    how: Literal["fisher", "designs"]
    images: int
    forwards: float
    groups: tuple[GroupLoss, ...]
    notes: tuple[str, ...]


def rank_groups(
    run: Run,
    baseline: Path,
    quantized: Quantized,
    images: Images,
    preprocess: Preprocess,
    *,
    how: How = "auto",
    unit: Unit = "group",
    seed: int = 0,
    skip: int = 0,
) -> Ranking:
    """Estimate what every group costs alone.

    Args:
        run: The chain.
        baseline: The float32 graph.
        quantized: Its int8 graphs.
        images: To estimate on.
        preprocess: Of the images.
        how: `fisher` (torch), `designs` (ONNX Runtime alone), or `auto`: the first that works here.
        unit: Groups that TensorRT fuses, or every layer for itself.
        seed: Of the dealing, and of the gradient's random signs.
        skip: How many images at the end to leave for a check.

    Raises:
        StageError: The plan has no int8 layer.
    """

    def produce(folder: Path) -> None:
        opened = _open(run, baseline, quantized, unit)
        write_atomic(folder / "ranking.json", to_json(_estimate(opened, images, preprocess, how, seed, skip)))

    inputs = {**_identity(baseline, quantized, images, preprocess, unit), "how": how, "seed": seed, "skip": skip}
    folder = run.do("sensitivity", inputs, produce)
    return decode(Ranking, json.loads((folder / "ranking.json").read_bytes()))


def check_ranking(
    run: Run,
    baseline: Path,
    quantized: Quantized,
    images: Images,
    preprocess: Preprocess,
    ranking: Ranking,
    *,
    unit: Unit,
    count: int,
    disjoint: bool,
) -> tuple[RankCheck, tuple[GroupLoss, ...]]:
    """Hold an estimate against leave-one-out on the last `count` images.

    Returns:
        The check, and the groups with what was measured.
    """

    def produce(folder: Path) -> None:
        from edgehybrid import search

        opened = _open(run, baseline, quantized, unit)
        total = -(-count // opened.batch)
        with opened.answering() as answer:
            losses = search.leave_one_out(
                answer,
                opened.pieces(images, preprocess, len(images) - count, len(images)),
                groups=len(opened.groups),
                progress=lambda done: listener().advance(done * opened.batch, total * opened.batch),
            )
        names = [group.name for group in opened.groups]
        nats = search.weigh(losses, root=2).tolist()
        write_atomic(folder / "nats.json", to_json(dict(zip(names, nats, strict=True))))

    inputs = {**_identity(baseline, quantized, images, preprocess, unit), "count": count}
    nats = json.loads((run.do("leave-one-out", inputs, produce) / "nats.json").read_bytes())
    from edgehybrid import search

    groups = tuple(GroupLoss(x.group, x.nats, x.share, nats[x.group.name]) for x in ranking.groups)
    found = search.spearman(np.array([x.nats for x in groups]), np.array([x.checked for x in groups], np.float64))
    return RankCheck(count, 1.0 + len(groups), found, disjoint), groups


def count_groups(run: Run, baseline: Path, quantized: Quantized, unit: Unit) -> int:
    """How many groups of int8 layers there are.

    Raises:
        StageError: The plan has none.
    """
    return len(_find_groups(run.open(baseline), quantized, unit))


@dataclass(frozen=True)
class _Opened:
    """The network with its switches."""

    reference: "Graph"
    twin: "Graph"
    groups: tuple[LayerGroup, ...]
    owner: dict[str, int]  # first output of an operator -> number of its group
    switched: "Switched"
    scores: str  # name of the output with the class scores
    batch: int
    share: float  # of all multiply-accumulates that the groups do

    @contextmanager
    def answering(self) -> Iterator["Answer"]:
        """The network as a function of what is in int8."""
        from edgehybrid.runtime import open_runner

        with tempfile.TemporaryDirectory(prefix="edgehybrid-switched-") as folder:
            path = Path(folder) / "switched.onnx"
            path.write_bytes(self.switched.graph.to_bytes())
            with open_runner(path, canonical=True) as runner:

                def answer(choice: NDArray[np.bool_], images: NDArray[np.float32]) -> NDArray[np.float32]:
                    fed = {**self.switched.feeds(choice), self.switched.image: images}
                    return runner.run(fed)[self.scores].astype(np.float32)

                yield answer

    def pieces(self, images: Images, preprocess: Preprocess, first: int, last: int) -> Iterator[NDArray[np.float32]]:
        """Images `first` to `last` in batches of the graph; the last one is filled up with its own last image."""
        kept: list[NDArray[np.float32]] = []
        at = 0
        for batch in images.batches(preprocess, FORWARD_BATCH):
            for image in batch:
                if first <= at < last:
                    kept.append(image)
                at += 1
                if len(kept) == self.batch:
                    yield np.stack(kept)
                    kept = []
            if at >= last:
                break
        if kept:
            yield np.stack([*kept, *[kept[-1]] * (self.batch - len(kept))])


def _open(run: Run, baseline: Path, quantized: Quantized, unit: Unit) -> _Opened:
    """Groups and switches of a network and its int8 twin."""
    from edgehybrid import graph, search
    from edgehybrid.graph.counting import count_macs
    from edgehybrid.graph.structure import class_scores

    reference, twin = run.open(baseline), graph.load(quantized.runnable)
    groups = _find_groups(reference, quantized, unit)
    owner = search.owners(reference, quantized.plan, groups)
    switched = search.switch(reference, twin, owner)
    share = sum(group.macs for group in groups) / max(count_macs(reference), 1)
    scores, batch = graph.name_of(class_scores(reference)), graph.shape_of(reference.input)[0]
    return _Opened(reference, twin, groups, owner, switched, scores, batch, share)


def _find_groups(reference: "Graph", quantized: Quantized, unit: Unit) -> tuple[LayerGroup, ...]:
    from edgehybrid import search

    groups = search.find_groups(reference, quantized.plan, single=unit == "layer")
    if not groups:
        raise StageError(
            "nothing of the network is placed in int8",
            why="the rules of placement leave every layer in float, so none can cost accuracy",
            fix="read the reasons under placement in report.html of `edgehybrid build`",
        )
    return groups


def _estimate(opened: _Opened, images: Images, preprocess: Preprocess, how: How, seed: int, skip: int) -> Ranking:
    """Rank by the way asked for.

    Raises:
        UsageError: `fisher` was asked for and cannot be done here.
    """
    count = len(images) - skip
    pieces = functools.partial(opened.pieces, images, preprocess, 0, count)
    used: Literal["fisher", "designs"] = "designs"
    found, problem = None, None
    if how != "designs":
        problem = find_obstacle(opened.reference)
        if problem is None:
            try:
                found, used = _by_gradients(opened, pieces(), count, seed), "fisher"
            except (GraphError, StageError) as error:  # an attribute that torch's operators do not know
                problem = f"{error.what}: {error.why}"
    if found is None and how == "fisher":
        raise UsageError(
            "--how fisher cannot be done here", why=problem or "", fix="--how designs only runs the network"
        )
    nats, forwards = _by_runs(opened, pieces(), count, seed) if found is None else found
    whole = float(nats.sum())
    losses = [
        GroupLoss(group, float(loss), 100 * float(loss) / whole if whole else 0.0)
        for group, loss in zip(opened.groups, nats, strict=True)
    ]
    notes = () if problem is None else (f"ranked by runs with one group in int8, not by gradients: {problem}",)
    return Ranking(used, count, forwards, tuple(sorted(losses, key=lambda x: -x.nats)), notes)


def _by_gradients(
    opened: _Opened, pieces: Iterator[NDArray[np.float32]], count: int, seed: int
) -> tuple[NDArray[np.float64], float]:
    """Nats of each group, and forward passes per image that they took."""
    from edgehybrid.search import fisher

    none = np.zeros(len(opened.groups), np.bool_)
    with opened.answering() as answer:
        nats = fisher.estimate(
            opened.reference,
            opened.twin,
            opened.owner,
            pieces,
            groups=len(opened.groups),
            expected=lambda piece: answer(none, piece),
            seed=seed,
            progress=lambda done: listener().advance(min(done * opened.batch, count), count),
        )
    return nats, 1 + opened.share + fisher.count_backward(opened.reference, opened.owner)


def _by_runs(
    opened: _Opened, pieces: Iterator[NDArray[np.float32]], count: int, seed: int
) -> tuple[NDArray[np.float64], float]:
    """Nats of each group, and forward passes per image that they took."""
    from edgehybrid import search

    total = -(-count // opened.batch)
    with opened.answering() as answer:
        nats = search.estimate(
            answer,
            pieces,
            groups=len(opened.groups),
            count=total,
            seed=seed,
            progress=lambda done: listener().advance(min(done * opened.batch, count), count),
        )
    return nats, 1.0 + search.count_rounds(total, len(opened.groups))


def _identity(
    baseline: Path, quantized: Quantized, images: Images, preprocess: Preprocess, unit: Unit
) -> dict[str, object]:
    return {
        "baseline": sha256_of(baseline),
        "quantized": sha256_of(quantized.runnable),
        "images": images.order,
        "preprocess": preprocess,
        "unit": unit,
    }
