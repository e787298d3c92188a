"""int8 against ONNX Runtime's `quantize_static` and NVIDIA's Model Optimizer: same float32 graph, images, evaluation.

    python benchmarks/quantizers.py --weights cmt_ti_cifar10_64.safetensors --crop-pct 1.0 \
        --calib cifar10_calib.npz --eval cifar10_eval.npz --output benchmarks/results/quantizers/cmt_ti-cifar10.json
    python benchmarks/quantizers.py --table benchmarks/results/quantizers/*.json

Every tool gets the rewritten float32 graph and the same preprocessed images, in a process of its own (`peers.py`).
Peers quantize what they would by themselves, and once more only what this project quantizes too ("our coverage").
Every result is scored in canonical numerics: ONNX Runtime with graph optimisation disabled, Q/DQ as written.

- drop: top-1 lost, paired, with its 95 % interval, for peers also by how much ours is behind on the same images;
  agreement and SQNR of the logits.
- layers: SQNR at the outputs of all convolutions and products, biases included, that every result still computes under
  its name, up to one factor and one constant per channel, as equalization and zero points move such into the next
  layer; the mean over layers, and the worst difference of one layer to ours. Of evaluation images: on those of
  calibration a range that reaches their maximum clips nothing. Once of all images together, where one that puts out ten
  times as much counts a hundred times, and once of each image, in dB, averaged over images (factors and constants are
  medians then, as an image that puts out hardly anything but noise would else spoil them for all).
- cost: seconds over those of bare forward passes of the same images, and the peak resident set, for several numbers of
  images, medians over rounds in which every tool takes its turn; imports are not counted. Where there are fewer images,
  they are repeated. Ours decodes and preprocesses its images in that time, peers read theirs ready.
- lint: what `edgehybrid lint` finds, errors and warnings by rule.
- order: how many activation scales are the same, bit for bit, when the images come in another order.

Model Optimizer runs in a virtual environment (`--modelopt`, made on first use), which borrows torch from this one:
from PyPI it comes with gigabytes of CUDA. Needs the network then, and only then. `--modelopt none` leaves it out.
"""

import argparse
import dataclasses
import json
import os
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir
from numpy.typing import NDArray
from PIL import Image

from edgehybrid import dataset, device, evaluator, exporter, graph, linter, rewrites, zoo
from edgehybrid.calibrator.session import open_session
from edgehybrid.dataset import Images
from edgehybrid.dataset.preprocessing import crop, normalise
from edgehybrid.decibels import decibels
from edgehybrid.graph.products import bias_place
from edgehybrid.records import Preprocess
from edgehybrid.runtime import open_runner

HERE = Path(__file__).parent
OURS = "edgehybrid mse"
LAYERS = ("Conv", "MatMul", "Gemm")

MODELOPT = "nvidia-modelopt==0.47.0"
MODELOPT_NEEDS = (  # its extra [onnx] without CUDA; onnxruntime as it asks for it, on a CPU
    "onnxruntime~=1.24.2", "onnx~=1.21.0", "onnx-graphsurgeon>=0.6.1", "onnxconverter-common~=1.16.0",
    "onnxslim>=0.1.76", "polygraphy>=0.53.4", "lief", "ml_dtypes", "numpy", "scipy", "tqdm", "PyYAML>=6",
    "omegaconf>=2.3", "pulp<4", "pydantic>=2", "regex", "rich", "safetensors", "nvidia-ml-py>=12", "packaging",
    "setuptools>=80",
)  # fmt: skip


@dataclass(frozen=True)
class Tool:
    """One way to quantize."""

    label: str
    tool: str
    method: str
    exclude: tuple[str, ...] = ()


@dataclass(frozen=True)
class Scored:
    """What a tool wrote, and its logits of the evaluation images."""

    path: Path
    logits: NDArray[np.float32]


class Bench:
    """One float32 network, its images as files that every tool can read, and processes to quantize it in."""

    def __init__(self, folder: Path, model: graph.Graph, python: dict[str, Path], threads: int) -> None:
        self.folder, self.model, self.python, self.threads = folder, model, python, threads
        self.reference = folder / "fp32.onnx"
        self.reference.write_bytes(model.to_bytes())
        self.shape = (1, *graph.shape_of(model.input)[1:])

    def store(self, images: Images, preprocess: Preprocess, most: int) -> None:
        """Write crops for us and finished inputs for the others, repeated up to `most`."""
        crops = np.stack([crop(Image.fromarray(images.image(i)), preprocess) for i in range(len(images))])
        crops = crops[np.arange(max(most, len(crops))) % len(crops)]
        with (self.folder / "images.raw").open("wb") as file:
            for one in crops:
                file.write(normalise(one[None], preprocess).tobytes())
        self.crops, self.preprocess = crops, preprocess

    def run(self, tool: Tool, indexes: Sequence[int], output: Path) -> dict[str, float] | str:
        """Quantize in a fresh process: its costs, or the last line of what it complained about."""
        order: dict[str, object] = {
            "tool": tool.tool, "method": tool.method, "model": str(self.reference), "shape": self.shape,
            "input": self.model.input.name, "images": str(self.folder / "images.raw"), "indexes": list(indexes),
            "exclude": list(tool.exclude), "output": str(output), "threads": self.threads,
        }  # fmt: skip
        if tool.tool == "edgehybrid":
            order["crops"] = str(self.folder / f"crops-{len(indexes)}.npz")
            order["normalisation"] = {"mean": self.preprocess.mean, "std": self.preprocess.std}
            np.savez(str(order["crops"]), x=self.crops[list(indexes)])
        note = self.folder / "order.json"
        note.write_text(json.dumps(order))
        with tempfile.TemporaryDirectory(dir=self.folder) as cache:
            environment = {
                **os.environ,
                "EDGEHYBRID_CACHE_DIR": cache,  # nothing done before may be reused
                "PYTHONPATH": str(HERE.parent) if tool.tool == "edgehybrid" else "",
                "OMP_NUM_THREADS": str(self.threads),
            }
            command = [str(self.python.get(tool.tool, Path(sys.executable))), str(HERE / "peers.py"), str(note)]
            done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=self.folder)
        if done.returncode:
            return (done.stderr.strip().splitlines() or [f"exit code {done.returncode}"])[-1]
        found: dict[str, float] = json.loads(done.stdout.strip().splitlines()[-1])
        return found


def main() -> None:
    """Quantize with each, score each, print, write; or print the table of results there are."""
    options = parse()
    if options.table:
        print_table([json.loads(path.read_text()) for path in options.table])
        return
    module, spec = zoo.load(options.model, options.weights, input_size=options.input_size, crop_pct=options.crop_pct)
    calibration = dataset.load(options.calib, split="calib", at_most=options.num_calib)
    evaluation = dataset.load(options.eval, split="eval", at_most=options.num_eval)
    if evaluation.labels is None:
        raise SystemExit("--eval needs labels")
    model, _ = rewrites.apply(exporter.trace(module, spec))
    python = {} if options.modelopt == "none" else {"modelopt": find_modelopt(Path(options.modelopt))}
    with tempfile.TemporaryDirectory() as name:
        bench = Bench(Path(name), model, python, options.threads)
        bench.store(calibration, spec.preprocess, max([0, *options.costs]))
        count = len(calibration)
        truth = score(bench.reference, evaluation, spec.preprocess)
        probe = next(evaluation.batches(spec.preprocess, options.layer_images))
        outputs: dict[str, Scored] = {}

        def take(tool: Tool) -> dict[str, object]:
            return judge(bench, tool, count, truth, evaluation, spec.preprocess, outputs)

        every = [Tool(f"edgehybrid {method}", "edgehybrid", method) for method in options.methods]
        rows = [take(tool) for tool in every]
        exclude = left_float(model, graph.load(outputs[OURS].path)) if OURS in outputs else ()
        others = peers(options.coverage if OURS in outputs else ["own"], exclude, with_modelopt=bool(python))
        rows += [take(tool) for tool in others]
        every += others
        add_layers(rows, model, exclude, outputs, probe)
        costs = measure_costs(bench, every, options.costs, options.rounds)
        for row in rows:
            row["cost"] = costs.get(str(row["quantizer"]), {})
        state = device.state(options.threads)
    document = {
        "model": spec.name, "weights": Path(options.weights).name, "input": spec.preprocess.size,
        "fp32": dataclasses.asdict(evaluator.accuracy(truth, evaluation.labels)),
        "calibration": {"name": calibration.spec.name, "images": count, "sha256": calibration.spec.sha256},
        "evaluation": {"name": evaluation.spec.name, "images": len(evaluation), "sha256": evaluation.spec.sha256},
        "device": dataclasses.asdict(state), "rows": rows,
    }  # fmt: skip
    print_table([document])
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(document, indent=1, default=dict) + "\n")


def parse() -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="cmt_ti")
    parser.add_argument("--weights", default="fashion-mnist")
    parser.add_argument("--input-size", type=int)
    parser.add_argument("--crop-pct", type=float)
    parser.add_argument("--calib", default="fashion-mnist")
    parser.add_argument("--num-calib", type=int, default=128)
    parser.add_argument("--eval", default="fashion-mnist")
    parser.add_argument("--num-eval", type=int)
    parser.add_argument("--methods", nargs="*", default=["mse"], help="of ours; mse is what `build` does by default")
    parser.add_argument(
        "--coverage", choices=("own", "ours"), nargs="*", default=["own", "ours"], help="which layers peers quantize"
    )
    parser.add_argument("--costs", type=int, nargs="*", default=[8, 128, 1000], help="numbers of images to time")
    parser.add_argument("--rounds", type=int, default=3, help="of timing; in each, every tool takes its turn")
    parser.add_argument("--layer-images", type=int, default=128)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--modelopt", default=str(HERE / ".modelopt"), help="its virtual environment, or none")
    parser.add_argument("--output", type=Path, default=HERE / "results" / "quantizers.json")
    parser.add_argument("--table", type=Path, nargs="*", help="print the table of these results, and nothing else")
    return parser.parse_args()


def peers(coverage: Sequence[str], exclude: tuple[str, ...], *, with_modelopt: bool) -> list[Tool]:
    """Every peer as it comes ("own") and at our coverage ("ours")."""
    found = []
    methods = [("onnxruntime", method) for method in ("minmax", "entropy", "percentile")]
    methods += [("modelopt", method) for method in ("max", "entropy")] if with_modelopt else []
    for tool, method in methods:
        found += [Tool(f"{tool} {method}", tool, method)] if "own" in coverage else []
        found += [Tool(f"{tool} {method}, our coverage", tool, method, exclude)] if "ours" in coverage else []
    return found


def left_float(model: graph.Graph, ours: graph.Graph) -> tuple[str, ...]:
    """Nodes of the kinds that peers quantize and this project, having seen the calibration images, left float."""
    int8 = {n.name for n in ours.nodes(*LAYERS) if is_dequantized(n.inputs[1])}
    return tuple(node.name or "" for node in model.nodes(*LAYERS) if node.name not in int8)


def is_dequantized(value: ir.Value | None) -> bool:
    """Whether a DequantizeLinear made it."""
    maker = None if value is None else value.producer()
    return maker is not None and maker.op_type == "DequantizeLinear"


def judge(
    bench: Bench,
    tool: Tool,
    count: int,
    truth: NDArray[np.float32],
    images: Images,
    preprocess: Preprocess,
    outputs: dict[str, Scored],
) -> dict[str, object]:
    """What became of one tool; what can be scored is put into `outputs`."""
    row, path = measure(bench, tool, count)
    if path is not None:
        logits = score(path, images, preprocess)
        row["drop"] = dataclasses.asdict(evaluator.drop(truth, logits, images.labels))
        if OURS in outputs:
            row["ours_behind"] = dataclasses.asdict(evaluator.drop(logits, outputs[OURS].logits, images.labels))
        row["fidelity"] = dataclasses.asdict(evaluator.fidelity(truth, logits))
        row["int8_layers"] = int8_layers(graph.load(path))
        row["lint"] = lint(path)
        outputs[tool.label] = Scored(path, logits)
    print(line(row), flush=True)
    return row


def measure(bench: Bench, tool: Tool, count: int) -> tuple[dict[str, object], Path | None]:
    """What another order of images changes, and the graph made of all calibration images; None where it failed."""
    stem = tool.label.replace(" ", "-").replace(",", "")
    path, other = bench.folder / f"{stem}.onnx", bench.folder / f"{stem}-order.onnx"
    row: dict[str, object] = {"quantizer": tool.label}
    first = bench.run(tool, range(count), path)
    if isinstance(first, str):
        return {**row, "failed": first}, None
    shuffled = np.random.default_rng(1).permutation(count).tolist()
    again = bench.run(tool, shuffled, other)
    row["order"] = again if isinstance(again, str) else same_scales(graph.load(path), graph.load(other))
    return row, path


def measure_costs(
    bench: Bench, every: Sequence[Tool], counts: Sequence[int], rounds: int
) -> dict[str, dict[str, dict[str, float]]]:
    """Label -> number of images -> medians over rounds in which bare forward passes and every tool take turns.

    Tools at our coverage are left out: they cost what they cost without.
    """
    forward, output = Tool("forward", "forward", ""), bench.folder / "cost.onnx"
    turns = [forward, *(tool for tool in every if not tool.exclude)]
    spent: dict[tuple[str, int], list[tuple[float, float, float]]] = {}
    for _ in range(rounds):
        for n in counts:
            bare = 0.0
            for tool in turns:
                found = bench.run(tool, range(n), bench.reference if tool is forward else output)
                if isinstance(found, str):
                    continue
                bare = found["seconds"] if tool is forward else bare
                one = (found["seconds"], found["seconds"] / bare, found["peak_rss_mib"])
                spent.setdefault((tool.label, n), []).append(one)
    costs: dict[str, dict[str, dict[str, float]]] = {}
    for (label, n), samples in spent.items():
        seconds, ratio, peak = (float(x) for x in np.median(samples, axis=0))
        found = {"seconds": seconds, "over_forward": ratio, "peak_rss_mib": peak, "rounds": len(samples)}
        costs.setdefault(label, {})[str(n)] = found
    return costs


def same_scales(first: graph.Graph, second: graph.Graph) -> dict[str, float]:
    """Of the activation scales in both: how many are equal, and the largest ratio of two."""
    ours, theirs = scales(first), scales(second)
    pairs = [(ours[name], theirs[name]) for name in ours if name in theirs]
    ratios = [max(a, b) / min(a, b) for a, b in pairs]
    return {"scales": len(pairs), "equal": sum(a == b for a, b in pairs), "largest_ratio": max(ratios, default=1.0)}


def scales(model: graph.Graph) -> dict[str, float]:
    """Quantized activation -> its scale."""
    found = {}
    for node in model.nodes("QuantizeLinear"):
        scale = graph.constant(node.inputs[1])
        if scale is not None and scale.size == 1 and graph.constant(node.inputs[0]) is None:
            found[graph.name_of(node.inputs[0])] = float(scale)  # type: ignore[arg-type]
    return found


def score(path: Path, images: Images, preprocess: Preprocess) -> NDArray[np.float32]:
    """Logits in canonical numerics."""
    with tempfile.TemporaryDirectory() as folder:
        rounded = Path(folder) / "rounded.onnx"
        rounded.write_bytes(round_weights(graph.load(path)).to_bytes())
        with open_runner(rounded, canonical=True) as runner:
            return evaluator.predict(runner, images.batches(preprocess, 16))


def round_weights(model: graph.Graph) -> graph.Graph:
    """The same with weights in int8 that a tool left in float before a QuantizeLinear: else every run rounds them."""
    result = model.clone()
    for node in list(result.nodes("QuantizeLinear")):
        weight, scale = graph.constant(node.inputs[0]), graph.constant(node.inputs[1])
        zero = graph.constant(node.inputs[2]) if len(node.inputs) > 2 else np.zeros(1, np.uint8)
        if weight is None or scale is None or zero is None:
            continue
        shape = [1] * weight.ndim
        if scale.size > 1:
            shape[node.attributes.get_int("axis", 1)] = scale.size
        info, by = np.iinfo(zero.dtype), scale.reshape(shape if scale.size > 1 else ())
        levels = np.rint(weight / by) + zero.reshape(shape if zero.size > 1 else ())
        constant = graph.add_constant(result, "rounded", np.clip(levels, info.min, info.max).astype(zero.dtype))
        node.outputs[0].replace_all_uses_with(constant)
    return graph.tidy(result)


def int8_layers(model: graph.Graph) -> dict[str, int]:
    """How many nodes of each weighted kind read a dequantized activation: equal coverage makes a fair comparison."""
    counts: dict[str, int] = {}
    for node in model.nodes(*LAYERS):
        if is_dequantized(node.inputs[0]):
            counts[node.op_type] = counts.get(node.op_type, 0) + 1
    return counts


def lint(path: Path) -> dict[str, dict[str, int]]:
    """How many errors and warnings TensorRT's rules give, by rule."""
    counts: dict[str, dict[str, int]] = {"error": {}, "warning": {}}
    for issue in linter.lint(path).issues:
        found = counts[issue.severity]
        found[issue.rule] = found.get(issue.rule, 0) + 1
    return counts


def add_layers(
    rows: list[dict[str, object]],
    model: graph.Graph,
    exclude: Sequence[str],
    outputs: dict[str, Scored],
    images: NDArray[np.float32],
) -> None:
    """SQNR per layer of every result, over the layers that all of them have and that are int8 in ours."""
    if OURS not in outputs:
        return
    names = [result_of(node) for node in model.nodes(*LAYERS) if node.name not in exclude]
    graphs = {label: round_weights(graph.load(result.path)) for label, result in outputs.items()}
    for opened in graphs.values():
        computed = {value.name for node in opened.nodes() for value in node.outputs}
        names = [name for name in names if name in computed]
    found = {label: layer_sqnr(model, opened, names, images) for label, opened in graphs.items()}
    for row in rows:
        label = str(row["quantizer"])
        if label in found:
            ways = {way: lead(found[OURS][way], levels, names) for way, levels in found[label].items()}
            row["layers"] = {"count": len(names), "images": len(images), **ways}


def lead(ours: NDArray[np.float64], theirs: NDArray[np.float64], names: Sequence[str]) -> dict[str, object]:
    """How far our layers are ahead, in dB."""
    gain = ours - theirs
    return {
        "mean_sqnr_db": float(theirs.mean()), "ours_better_by_db": float(gain.mean()),
        "ours_worst_layer_db": float(gain.min()), "ours_worst_layer": names[int(gain.argmin())],
    }  # fmt: skip


def result_of(node: ir.Node) -> str:
    """What a layer computes, its bias included: centring moves a constant from the one to the other."""
    place = bias_place(node)
    return graph.name_of((node if place is None else place[0]).outputs[0])


def layer_sqnr(
    reference: graph.Graph, quantized: graph.Graph, names: Sequence[str], images: NDArray[np.float32]
) -> dict[str, NDArray[np.float64]]:
    """Decibels per layer, of all images together, and the mean image's.

    The best factor and constant per channel are taken out first.
    """
    sessions = [open_session(opened, names, threads=1, optimise=False) for opened in (reference, quantized)]
    axes = {result_of(n): 1 if n.op_type == "Conv" else -1 for n in reference.nodes(*LAYERS)}
    sums: list[list[NDArray[np.float64]]] = [[] for _ in names]  # per image: (6, channels)
    for image in images:
        want, got = (
            s.run(list(names), {g.input.name: image[None]})
            for s, g in zip(sessions, (reference, quantized), strict=True)
        )
        for i, name in enumerate(names):
            r, q = (
                np.moveaxis(a[i].astype(np.float64), axes[name], 0).reshape(a[i].shape[axes[name]], -1)
                for a in (want, got)
            )
            count = np.full(len(r), r.shape[1], np.float64)
            sums[i].append(np.stack([count, r.sum(1), q.sum(1), (r * r).sum(1), (q * q).sum(1), (r * q).sum(1)]))
    together, each = [], []
    for layer in sums:
        found = np.stack(layer)  # (images, 6, channels)
        count, r, q, *_ = found.sum(0)
        _, factor = spread(found.sum(0), r / count, q / count)
        noise = noise_of(found, factor, (factor * q - r) / count)
        together.append(decibels(found[:, 3].sum(), noise.sum()))
        middles = np.median(found[:, 1:3] / found[:, :1], axis=0)  # of the images' means of r and q
        power, factors = spread(found, *middles)
        factor = weighted_median(factors, divide(power, power.sum(1, keepdims=True)))
        noise = noise_of(found, factor, factor * middles[1] - middles[0])
        each.append(np.mean([decibels(s, n) for s, n in zip(found[:, 3].sum(1), noise, strict=True)]))
    return {"together": np.array(together), "image_by_image": np.array(each)}


def spread(
    found: NDArray[np.float64], middle: NDArray[np.float64], other: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """How far q spreads around a middle, and the best factor for that, per channel.

    Args:
        found: Sums of 1, r, q, rr, qq and rq, (..., 6, channels).
        middle: Of r, (channels,).
        other: Of q.
    """
    count, r, q, _, qq, rq = np.moveaxis(found, -2, 0)
    power = np.maximum(qq - 2 * other * q + other**2 * count, 0)
    return power, divide(rq - other * r - middle * q + middle * other * count, power)


def divide(part: NDArray[np.float64], whole: NDArray[np.float64]) -> NDArray[np.float64]:
    """0 where there is nothing."""
    return np.divide(part, whole, out=np.zeros(part.shape), where=whole > 0)


def weighted_median(values: NDArray[np.float64], weights: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of each column: half of the weight lies below. `numpy.quantile` takes weights only from NumPy 2.0 on."""
    order = values.argsort(axis=0)
    below = np.take_along_axis(weights, order, axis=0).cumsum(axis=0)
    middle = (below >= below[-1] / 2).argmax(axis=0)
    return np.asarray(np.take_along_axis(values, np.take_along_axis(order, middle[None], axis=0), axis=0)[0])


def noise_of(
    found: NDArray[np.float64], factor: NDArray[np.float64], constant: NDArray[np.float64]
) -> NDArray[np.float64]:
    """What is left of each image where each channel is multiplied by its factor, less its constant."""
    count, r, q, rr, qq, rq = np.moveaxis(found, 1, 0)
    moved = rr - 2 * factor * rq + factor**2 * qq  # (factor q - r)^2
    return np.asarray((moved - 2 * constant * (factor * q - r) + constant**2 * count).sum(1))


# --- Model Optimizer --------------------------------------------------------------------------------


def find_modelopt(folder: Path) -> Path:
    """The Python of its environment, made if it is not there yet."""
    python = folder / "bin" / "python"
    if not (folder / "ready").is_file():
        print(f"making {folder} for {MODELOPT}", flush=True)
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(folder)], check=True)
        pip = [str(python), "-m", "pip", "install", "--quiet"]
        subprocess.run([*pip, "--no-deps", MODELOPT], check=True)
        subprocess.run([*pip, "--only-binary", ":all:", *MODELOPT_NEEDS], check=True)
        code = "import sysconfig; print(sysconfig.get_path('purelib'))"
        site = subprocess.run([str(python), "-c", code], check=True, capture_output=True, text=True).stdout.strip()
        (Path(site) / "zz_torch.pth").write_text(sysconfig.get_path("purelib") + "\n")  # after its own packages
        subprocess.run([str(python), "-c", "import modelopt.onnx.quantization"], check=True, capture_output=True)
        (folder / "ready").touch()
    return python


# --- what is shown ----------------------------------------------------------------------------------


def line(row: dict[str, object]) -> str:
    """One row while the benchmark runs."""
    if "failed" in row:
        return f"{row['quantizer']:<36} failed: {row['failed']}"
    drop, fidelity = row["drop"], row["fidelity"]
    return (
        f"{row['quantizer']:<36} drop {drop['points']:+.2f} [{drop['ci95'][0]:+.2f}, {drop['ci95'][1]:+.2f}]"  # type: ignore[index]
        f"  agreement {fidelity['agreement']:.2f} %  SQNR {fidelity['sqnr_db']:.1f} dB  int8 {row['int8_layers']}"  # type: ignore[index]
    )


def print_table(documents: Sequence[dict[str, object]]) -> None:
    """Markdown, a table per model."""
    for document in documents:
        fp32, calibration, evaluation, machine = (document[k] for k in ("fp32", "calibration", "evaluation", "device"))
        print(
            f"\n`{document['model']}`, {document['weights']}, {document['input']} px: float32 {fp32['top1']:.2f} % of"  # type: ignore[index]
            f" {fp32['n']:,} images of {evaluation['name']}; {calibration['images']} calibration images."  # type: ignore[index]
            f" {machine['name']}, {machine['threads']} thread(s), load {machine['load']}.\n"  # type: ignore[index]
        )
        counts = sorted({int(n) for row in document["rows"] for n in row.get("cost", {})})  # type: ignore[attr-defined]
        cost = [f"time x forward, {n}" for n in counts] + [f"peak MiB, {n}" for n in counts]
        heads = ["quantizer", "drop, points (95 %)", "ours behind, points (95 %)", "agreement", "logit SQNR"]
        heads += ["layer SQNR", "ours worst layer", "layer SQNR, image by image", "ours worst layer"]
        heads += ["int8 layers", "lint errors", "warnings", "scales kept in another order", *cost]
        print("| " + " | ".join(heads) + " |\n|" + "---|" * len(heads))
        for row in document["rows"]:  # type: ignore[attr-defined]
            print("| " + " | ".join(cells(row, counts)) + " |")


def cells(row: dict[str, object], counts: Sequence[int]) -> list[str]:
    """One row of the table."""
    if "failed" in row:
        return [str(row["quantizer"]), f"failed: {row['failed']}"]
    fidelity, layers, order, cost = (row.get(k) or {} for k in ("fidelity", "layers", "order", "cost"))
    spent = [cost.get(str(n)) for n in counts]  # type: ignore[attr-defined]
    return [
        str(row["quantizer"]),
        *(points(row.get(key)) for key in ("drop", "ours_behind")),  # type: ignore[arg-type]
        f"{fidelity['agreement']:.2f} %",  # type: ignore[index]
        f"{fidelity['sqnr_db']:.1f} dB",  # type: ignore[index]
        *level_cells(layers),
        ", ".join(f"{n} {op}" for op, n in row["int8_layers"].items()),  # type: ignore[attr-defined]
        *(str(sum(row["lint"][kind].values())) for kind in ("error", "warning")),  # type: ignore[index]
        order if isinstance(order, str) else f"{order['equal']} of {order['scales']}",  # type: ignore[index]
        *(f"{s['over_forward']:.1f}" if s else "" for s in spent),
        *(f"{s['peak_rss_mib']:.0f}" if s else "" for s in spent),
    ]


def points(drop: dict[str, Any] | None) -> str:
    """Top-1 lost, with its interval."""
    return f"{drop['points']:+.2f} ({drop['ci95'][0]:+.2f} to {drop['ci95'][1]:+.2f})" if drop else ""


def level_cells(layers: dict[str, object]) -> list[str]:
    """Mean over layers, and ours at the layer where it is worst; both ways of weighing images."""
    ways = [layers.get(way) for way in ("together", "image_by_image")]
    levels = [(w["mean_sqnr_db"], w["ours_worst_layer_db"]) if w else None for w in ways]  # type: ignore[index]
    return [text for level in levels for text in ((f"{level[0]:.1f} dB", f"{level[1]:+.1f} dB") if level else ("", ""))]


if __name__ == "__main__":
    main()
