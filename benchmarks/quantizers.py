"""int8 accuracy against ONNX Runtime's `quantize_static`: same float32 graph, images, evaluation and numerics.

    python benchmarks/quantizers.py --weights cmt_ti_cifar10_64.safetensors --crop-pct 1.0 \
        --calib cifar10_calib.npz --eval cifar10_eval.npz

Peers quantize Conv, MatMul and Gemm with per-channel symmetric int8 weights and symmetric int8 activations, as
TensorRT needs them (no int32 bias, no output Q/DQ beyond what their placement asks for), by minmax, entropy and
percentile; once everything of these kinds, once only what this project quantizes too. Every graph is scored in
ONNX Runtime with graph optimisation disabled. Writes `benchmarks/results/quantizers.json`. Accuracy only: what
calibration costs in time is `calibration.py`.
"""

import argparse
import dataclasses
import json
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import onnxruntime.quantization as peer
from numpy.typing import NDArray

from edgehybrid import calibrator, dataset, device, evaluator, exporter, graph, placement, quantizer, rewrites, zoo
from edgehybrid.dataset import Images
from edgehybrid.records import Method, Preprocess
from edgehybrid.runtime import open_runner

RESULT = Path(__file__).parent / "results" / "quantizers.json"
OWN: tuple[Method, ...] = ("mse", "minmax", "percentile", "entropy")
PEERS = {
    "minmax": peer.CalibrationMethod.MinMax,
    "entropy": peer.CalibrationMethod.Entropy,
    "percentile": peer.CalibrationMethod.Percentile,
}


class Reader(peer.CalibrationDataReader):  # type: ignore[misc]
    """Calibration images one at a time, as ONNX Runtime asks for them."""

    def __init__(self, images: Images, preprocess: Preprocess) -> None:
        self.batches = images.batches(preprocess, 1)

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        """The next image, or None at the end."""
        batch = next(self.batches, None)
        return None if batch is None else {"input": batch}


def main() -> None:
    """Quantize with each, score each, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", default="cmt_ti")
    parser.add_argument("--weights", required=True)
    parser.add_argument("--crop-pct", type=float)
    parser.add_argument("--calib", required=True)
    parser.add_argument("--eval", required=True)
    parser.add_argument("--output", type=Path, default=RESULT)
    options = parser.parse_args()

    module, spec = zoo.load(options.model, options.weights, crop_pct=options.crop_pct)
    calibration = dataset.load(options.calib, split="calib")
    evaluation = dataset.load(options.eval, split="eval")
    if evaluation.labels is None:
        parser.error("--eval needs labels")
    exported = exporter.trace(module, spec)
    baseline, _ = rewrites.apply(exported)
    state = device.state(0)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        reference = folder / "fp32.onnx"
        reference.write_bytes(baseline.to_bytes())
        logits = score(reference, evaluation, spec.preprocess)
        truth = evaluator.accuracy(logits, evaluation.labels)
        print(f"fp32 {truth.top1:.2f} % of {truth.n}")
        rows = []
        for label, quantize in {
            **{f"edgehybrid {m}": own(baseline, calibration, spec.preprocess, m) for m in OWN},
            **{f"onnxruntime {m}": theirs(reference, calibration, spec.preprocess, m, ()) for m in PEERS},
            **{
                f"onnxruntime {m}, our coverage": theirs(
                    reference, calibration, spec.preprocess, m, left_float(baseline)
                )
                for m in PEERS
            },
        }.items():
            path = folder / f"{label.replace(' ', '-')}.onnx"
            quantize(path)
            found = score(path, evaluation, spec.preprocess)
            rows.append(
                {
                    "quantizer": label,
                    "drop": dataclasses.asdict(evaluator.drop(logits, found, evaluation.labels)),
                    "fidelity": dataclasses.asdict(evaluator.fidelity(logits, found)),
                    "int8_layers": int8_layers(path),
                }
            )
            print_row(rows[-1])
    document = {
        "model": spec.name,
        "weights": Path(options.weights).name,
        "fp32_top1": truth.top1,
        "calibration": {"name": calibration.spec.name, "images": len(calibration), "sha256": calibration.spec.sha256},
        "evaluation": {"name": evaluation.spec.name, "images": len(evaluation), "sha256": evaluation.spec.sha256},
        "device": dataclasses.asdict(state),
        "rows": rows,
    }
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(document, indent=1, default=dict) + "\n")


def own(model: graph.Graph, images: Images, preprocess: Preprocess, method: Method) -> Callable[[Path], None]:
    """This project's calibration, placement and quantizer."""

    def quantize(path: Path) -> None:
        plan = placement.plan(model, "fp32")
        tensors = sorted({d.tensor for d in plan.decisions if d.kind == "activation"})
        seen = calibrator.observe(model, images.batches(preprocess, 16), tensors)
        ranges = calibrator.choose(seen, method, images=len(images), sha256=images.spec.sha256)
        path.write_bytes(quantizer.quantize(model, ranges, plan).to_bytes())

    return quantize


def theirs(
    model: Path, images: Images, preprocess: Preprocess, method: str, exclude: Sequence[str]
) -> Callable[[Path], None]:
    """ONNX Runtime's static quantization, set to what TensorRT accepts."""

    def quantize(path: Path) -> None:
        peer.quantize_static(
            model,
            path,
            Reader(images, preprocess),
            quant_format=peer.QuantFormat.QDQ,
            nodes_to_exclude=list(exclude),
            op_types_to_quantize=["Conv", "MatMul", "Gemm"],
            per_channel=True,
            activation_type=peer.QuantType.QInt8,
            weight_type=peer.QuantType.QInt8,
            calibrate_method=PEERS[method],
            extra_options={"ActivationSymmetric": True, "WeightSymmetric": True, "QuantizeBias": False},
        )

    return quantize


def left_float(model: graph.Graph) -> tuple[str, ...]:
    """Nodes of the kinds that peers quantize and this project's placement leaves float."""
    int8 = {d.node for d in placement.plan(model, "fp32").decisions if d.kind == "weight"}
    return tuple(node.name or "" for node in model.nodes("Conv", "MatMul", "Gemm") if node.name not in int8)


def score(path: Path, images: Images, preprocess: Preprocess) -> NDArray[np.float32]:
    """Logits in canonical numerics."""
    with open_runner(path, canonical=True) as runner:
        return evaluator.predict(runner, images.batches(preprocess, 16))


def int8_layers(path: Path) -> dict[str, int]:
    """How many nodes of each weighted kind read a dequantized activation: equal coverage makes a fair comparison."""
    counts: dict[str, int] = {}
    for node in graph.load(path).nodes("Conv", "MatMul", "Gemm"):
        producer = None if node.inputs[0] is None else node.inputs[0].producer()
        if producer is not None and producer.op_type == "DequantizeLinear":
            counts[node.op_type] = counts.get(node.op_type, 0) + 1
    return counts


def print_row(row: dict[str, object]) -> None:
    """One line of the table."""
    drop, fidelity = row["drop"], row["fidelity"]
    assert isinstance(drop, dict)
    assert isinstance(fidelity, dict)
    print(
        f"{row['quantizer']:<24} drop {drop['points']:+.2f} [{drop['ci95'][0]:+.2f}, {drop['ci95'][1]:+.2f}]"
        f"  agreement {fidelity['agreement']:.2f} %  SQNR {fidelity['sqnr_db']:.1f} dB"
        f"  int8 {row['int8_layers']}"
    )


if __name__ == "__main__":
    main()
