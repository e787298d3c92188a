"""Quantize one ONNX file with one tool, alone in a process, and say what that cost; `quantizers.py` calls it.

    python benchmarks/peers.py ORDER.json

The order names tool, method, model, images, output and the nodes to leave alone. Prints one JSON document: seconds of
the work (imports not counted), and the peak resident set in MiB of the whole process. Needs nothing but the tool
itself and numpy, so that it runs in an environment that the tool asks for.
"""

import json
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

OPERATORS = ["Conv", "MatMul", "Gemm"]


def main() -> None:
    """Run the order, print what it cost."""
    order = json.loads(Path(sys.argv[1]).read_text())
    quantize = {"forward": forward, "edgehybrid": own, "onnxruntime": runtime, "modelopt": modelopt}[order["tool"]]
    seconds, earlier = quantize(order)
    # Not getrusage: its peak includes that of the parent, which a child shares until it starts its own program.
    status = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    print(json.dumps({"seconds": seconds, "peak_rss_mib": max(earlier, int(status["VmHWM"].split()[0]) / 1024)}))


def images_of(order: dict[str, Any]) -> Iterator[NDArray[np.float32]]:
    """Preprocessed images (1, 3, H, W) in the order asked for, read from the file one at a time."""
    shape = tuple(order["shape"])
    size = 4 * int(np.prod(shape))
    with Path(order["images"]).open("rb") as file:
        for index in order["indexes"]:
            file.seek(index * size)
            yield np.frombuffer(file.read(size), np.float32).reshape(shape)


def forward(order: dict[str, Any]) -> tuple[float, float]:
    """The images through the float32 network and nothing else: what every other time is divided by.

    As of all tools, seconds, and the peak in MiB before the process's own record of it began anew.
    """
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = order["threads"]
    session = onnxruntime.InferenceSession(order["model"], options, providers=["CPUExecutionProvider"])
    start = time.perf_counter()
    for image in images_of(order):
        session.run(None, {order["input"]: image})
    return time.perf_counter() - start, 0


def own(order: dict[str, Any]) -> tuple[float, float]:
    """`edgehybrid quantize`, every step after the rewrites that the other tools are given the result of."""
    from edgehybrid import calibrator, pipeline, placement, progress, quantizer, rewrites, stages, tuner
    from edgehybrid.records import Stage

    assert all((calibrator, placement, quantizer, rewrites, stages, tuner))  # the verb imports them late

    class Given(progress.Silence):
        """Adds up seconds of what the others are given; stages measure their peaks, and each begins anew."""

        seconds = peak = 0.0

        def end(self, stage: Stage) -> None:
            """A stage ended."""
            self.peak = max(self.peak, stage.peak_rss_mb)
            self.seconds += stage.seconds if stage.name in ("export", "rewrite") else 0.0

    given = Given()
    start = time.perf_counter()
    with progress.listening(given):
        pipeline.quantize(
            model=order["model"],
            crop_pct=1.0,
            **order["normalisation"],
            target="cpu",
            calib=order["crops"],
            num_calib=len(order["indexes"]),
            method=order["method"],
            output=Path(order["output"]),
        )
    return time.perf_counter() - start - given.seconds, given.peak


class Reader:
    """Images one at a time, as both peers ask for them."""

    def __init__(self, order: dict[str, Any]) -> None:
        self.order = order
        self.rewind()

    def get_next(self) -> dict[str, NDArray[np.float32]] | None:
        """The next image, or None at the end."""
        image = next(self.images, None)
        return None if image is None else {self.order["input"]: image}

    def get_first(self) -> dict[str, NDArray[np.float32]]:
        """The first image; Model Optimizer looks at it for its shape."""
        return {self.order["input"]: next(images_of(self.order))}

    def rewind(self) -> None:
        """Begin again."""
        self.images = images_of(self.order)


def runtime(order: dict[str, Any]) -> tuple[float, float]:
    """ONNX Runtime's static quantization, set to what TensorRT accepts: symmetric, per channel, no int32 bias."""
    import onnxruntime.quantization as peer

    class Source(Reader, peer.CalibrationDataReader):  # type: ignore[misc]
        """A reader that ONNX Runtime recognises."""

    methods = {
        "minmax": peer.CalibrationMethod.MinMax,
        "entropy": peer.CalibrationMethod.Entropy,
        "percentile": peer.CalibrationMethod.Percentile,
    }
    start = time.perf_counter()
    peer.quantize_static(
        order["model"],
        order["output"],
        Source(order),
        quant_format=peer.QuantFormat.QDQ,
        nodes_to_exclude=order["exclude"],
        op_types_to_quantize=OPERATORS,
        per_channel=True,
        activation_type=peer.QuantType.QInt8,
        weight_type=peer.QuantType.QInt8,
        calibrate_method=methods[order["method"]],
        extra_options={"ActivationSymmetric": True, "WeightSymmetric": True, "QuantizeBias": False},
    )
    return time.perf_counter() - start, 0


def modelopt(order: dict[str, Any]) -> tuple[float, float]:
    """NVIDIA's Model Optimizer with its own placement, floats kept float32 so that all graphs run alike on a CPU."""
    import modelopt.onnx.quantization as peer
    from onnxruntime.quantization.calibrate import CalibrationDataReader

    class Source(Reader, CalibrationDataReader):  # type: ignore[misc]
        """A reader that ONNX Runtime recognises."""

    start = time.perf_counter()
    peer.quantize(
        order["model"],
        quantize_mode="int8",
        calibration_method=order["method"],
        calibration_data_reader=Source(order),
        calibration_eps=["cpu"],
        nodes_to_exclude=order["exclude"] or None,
        high_precision_dtype="fp32",
        output_path=order["output"],
        log_level="ERROR",
    )
    return time.perf_counter() - start, 0


if __name__ == "__main__":
    main()
