"""How well layers are ranked by gradients, by single-group runs and by random halves, against leave-one-out.

    python benchmarks/sensitivity.py --weights cmt_ti_cifar10_64.safetensors --crop-pct 1.0 --calib cifar10_calib.npz
    python benchmarks/sensitivity.py --weights fashion-mnist --calib fashion-mnist --output results/other.json

The network is tuned as a build tunes it. Every way ranks the same groups on the same images; leave-one-out runs each
group alone in int8 on other images and takes the mean divergence of the softmax. `edgehybrid sensitivity` runs it on
16 and weighs the images; how both rank 16 images like all others is told beside. Halves are what is
usually meant by random designs: half of the groups in int8, at random, and a ridge regression of the loss; here with as
many runs as the single-group runs take. Costs are forward passes per image by arithmetic, and processor time over that
of ONNX Runtime's forward pass. Writes `benchmarks/results/sensitivity/<weights>.json`.
"""

import argparse
import dataclasses
import json
import tempfile
import time
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgehybrid import dataset, device, exporter, graph, search, stages, zoo
from edgehybrid.graph.counting import count_macs
from edgehybrid.records import Plan, Preprocess
from edgehybrid.runtime import open_runner
from edgehybrid.search import fisher

RESULTS = Path(__file__).parent / "results"
RIDGE = 3.0
PRINTED = 16
"""Images that `edgehybrid sensitivity` runs leave-one-out on."""


def main() -> None:
    """Rank in three ways, measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="cmt_ti")
    parser.add_argument("--weights", required=True)
    parser.add_argument("--input-size", type=int)
    parser.add_argument("--crop-pct", type=float)
    parser.add_argument("--calib", required=True)
    parser.add_argument("--images", type=int, default=96, help="to rank on")
    parser.add_argument("--check", type=int, default=128, help="other images, for leave-one-out")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--unit", choices=("group", "layer"), default="group")
    parser.add_argument("--output", type=Path)
    options = parser.parse_args()

    module, spec = zoo.load(options.model, options.weights, input_size=options.input_size, crop_pct=options.crop_pct)
    images = dataset.load(options.calib, limit=options.images + options.check, split="calib")
    reference, twin, plan = quantize(exporter.trace(module, spec), images, spec.preprocess)
    groups = search.find_groups(reference, plan, single=options.unit == "layer")
    owner = search.owners(reference, plan, groups)
    switched = search.switch(reference, twin, owner)
    pieces = [x[None] for batch in images.batches(spec.preprocess, 16) for x in batch]
    ranked, checked = pieces[: options.images], pieces[options.images :]
    rows: list[dict[str, object]] = []
    with tempfile.TemporaryDirectory() as name:
        path = Path(name) / "switched.onnx"
        path.write_bytes(switched.graph.to_bytes())
        plain = Path(name) / "fp32.onnx"
        plain.write_bytes(reference.to_bytes())
        with open_runner(plain, canonical=True, threads=1) as runner:
            start = time.process_time()
            for piece in ranked:
                runner.run({switched.image: piece})
            forward = (time.process_time() - start) / len(ranked)
        with open_runner(path, canonical=True, threads=1) as runner:

            def answer(choice: NDArray[np.bool_], piece: NDArray[np.float32]) -> NDArray[np.float32]:
                outputs = runner.run({**switched.feeds(choice), switched.image: piece})
                return np.asarray(next(iter(outputs.values())), np.float32)

            none = np.zeros(len(groups), np.bool_)
            rounds = search.count_rounds(len(ranked), len(groups))
            start = time.process_time()
            losses = search.leave_one_out(answer, checked, groups=len(groups), progress=ignore)
            cost = (time.process_time() - start) / len(checked) / forward
            measured, few = losses.mean(axis=0), of_few(losses)
            print(f"{len(groups)} groups; leave-one-out {1 + len(groups)} forwards per image, {cost:.1f} by time")
            share = sum(group.macs for group in groups) / count_macs(reference)
            arithmetic = 1 + share + fisher.count_backward(reference, owner)
            for seed in range(options.seeds):
                for way in ("fisher", "single groups", "halves"):
                    start = time.process_time()
                    if way == "fisher":
                        found = fisher.estimate(
                            reference,
                            twin,
                            owner,
                            ranked,
                            groups=len(groups),
                            expected=lambda piece: answer(none, piece),
                            seed=seed,
                            progress=ignore,
                        )
                    elif way == "single groups":
                        found = search.estimate(
                            answer, ranked, groups=len(groups), count=len(ranked), seed=seed, progress=ignore
                        )
                    else:
                        found = regress_halves(answer, ranked, len(groups), rounds, seed)
                    row = {
                        "way": way,
                        "seed": seed,
                        "spearman": search.spearman(found, measured),
                        "spearman_printed": search.spearman(found, search.weigh(losses[:PRINTED], root=2)),
                        "sum_over_measured": float(found.sum() / measured.sum()),
                        "forwards": arithmetic if way == "fisher" else 1.0 + rounds,
                        "forwards_by_time": (time.process_time() - start) / len(ranked) / forward,
                    }
                    rows.append(row)
                    print(
                        f"{way:<14} seed {seed}  Spearman {row['spearman']:.3f}  printed "
                        f"{row['spearman_printed']:.3f}  forwards per image "
                        f"{row['forwards']:.1f} by arithmetic, {row['forwards_by_time']:.1f} by processor time"
                    )
    document = {
        "model": spec.name,
        "weights": Path(options.weights).name,
        "input": spec.preprocess.size,
        "unit": options.unit,
        "groups": len(groups),
        "ranked_on": len(ranked),
        "checked_on": len(checked),
        "leave_one_out": {"forwards": 1 + len(groups), "forwards_by_time": cost, "of_16": few},
        "measured_nats": {group.name: float(x) for group, x in zip(groups, measured, strict=True)},
        "device": dataclasses.asdict(device.state(1)),
        "rows": rows,
    }
    output = options.output or RESULTS / "sensitivity" / f"{Path(options.weights).stem}.json"
    output.write_text(json.dumps(document, indent=1, default=dict) + "\n")


def quantize(
    exported: graph.Graph, images: dataset.Images, preprocess: Preprocess
) -> tuple[graph.Graph, graph.Graph, Plan]:
    """The tuned float32 network, its int8 twin, and what was placed where."""
    with tempfile.TemporaryDirectory() as name:
        run, path = stages.Run(), Path(name) / "exported.onnx"
        path.write_bytes(exported.to_bytes())
        baseline = stages.rewrite(run, path)
        ready = stages.prepare(run, baseline, images, preprocess, "mse")
        made = stages.quantize(run, ready.path, "int8", ready.ranges, None, tuning=ready.tuning)
        return graph.load(ready.path), graph.load(made.runnable), made.plan


def of_few(losses: NDArray[np.float64]) -> dict[str, float]:
    """Spearman of leave-one-out on 16 images with the mean on all others: by means and weighed, mean of all 16s."""
    found: dict[str, list[float]] = {"by_means": [], "weighed": []}
    for at in range(0, len(losses) - PRINTED + 1, PRINTED):
        few, others = losses[at : at + PRINTED], np.delete(losses, np.s_[at : at + PRINTED], axis=0).mean(axis=0)
        found["by_means"].append(search.spearman(few.mean(axis=0), others))
        found["weighed"].append(search.spearman(search.weigh(few, root=2), others))
    return {name: float(np.mean(values)) for name, values in found.items()}


def regress_halves(
    answer: search.Answer, pieces: list[NDArray[np.float32]], groups: int, rounds: int, seed: int
) -> NDArray[np.float64]:
    """Ridge regression of each image's relative loss on which half of the groups was in int8."""
    rng = np.random.default_rng(seed)
    none = np.zeros(groups, np.bool_)
    designs, losses = [], []
    for piece in pieces:
        reference = answer(none, piece)
        chosen = [rng.permutation(groups) < groups // 2 for _ in range(rounds)]
        found = np.array([float(search.quadratic(reference, answer(choice, piece)).mean()) for choice in chosen])
        designs += chosen
        losses += list(found / max(found.mean(), 1e-30))
    x = np.concatenate([np.array(designs, np.float64), RIDGE * np.eye(groups)])
    y = np.concatenate([np.array(losses), np.zeros(groups)])
    return np.asarray(np.linalg.lstsq(x, y, rcond=None)[0])


def ignore(done: int) -> None:
    """Progress that nobody watches."""


if __name__ == "__main__":
    main()
