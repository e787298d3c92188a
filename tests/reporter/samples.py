"""Reports of every kind a reader may meet, made of invented numbers in realistic proportions."""

import math
from dataclasses import replace

import numpy as np

from edgehybrid.records import (
    Accuracy,
    Decision,
    DeviceState,
    Drop,
    Engine,
    Fidelity,
    Figure,
    ImageSet,
    Latency,
    LayerError,
    Look,
    ModelCard,
    ModelSpec,
    Preprocess,
    Provenance,
    Ratio,
    Report,
    Row,
    Search,
    Stage,
    Target,
)

CPU = "Intel(R) Xeon(R) Platinum 8481C CPU @ 2.70GHz"
CLASSES = ("T-shirt/top", "Trouser", "Pullover", "Dress", "Coat", "Sandal", "Shirt", "Sneaker", "Bag", "Ankle boot")


def latency(p50: float, *, n: int = 300, seed: int = 0) -> Latency:
    """Samples with the long right tail of a machine that is not quiet."""
    noise = np.random.default_rng(seed)
    times = p50 * (0.97 + noise.gamma(1.2, 0.03, n))
    times[noise.integers(0, n, max(1, n // 60))] *= 2.4
    p = [float(x) for x in np.percentile(times, (50, 90, 95, 99))]
    samples = tuple(float(t) for t in times)
    return Latency(*p, min(samples), max(samples), float(times.mean()), float(times.std()), n=n, samples=samples)


def cpu_target() -> Target:
    return Target("cpu", "This computer, ONNX Runtime on its CPU", "onnxruntime", "fp32", ("fp32", "int8"))


def orin_nano() -> Target:
    return Target(
        "orin-nano-8gb",
        "Jetson Orin Nano 8GB",
        "tensorrt",
        "typed",
        ("fp32", "fp16", "int8"),
        figures={
            "gpu": Figure("Ampere (GA10B)", "NVIDIA nvpmodel conf: GPU node 17000000.ga10b"),
            "gpu_clock_max": Figure(624.75, "NVIDIA Jetson Linux r36.5, Platform Power and Performance", "MHz"),
            "dla": Figure(None, "not stated anywhere we looked", "cores"),
        },
        notes=("Clocks say what the board can do, not what a network reaches: measure on the board.",),
    )


def placement() -> tuple[Decision, ...]:
    """Decisions for the blocks of a small CMT, several hundred of them."""
    made: list[Decision] = []

    def add(node: str, op: str, rule: str, reason: str, int8: bool) -> None:
        kind = "activation" if int8 else "float"
        made.append(Decision(node, op, 0, f"{node}_in", kind, rule, reason))
        if int8:
            made.append(Decision(node, op, 1, f"{node}.weight", "weight", rule, reason, axis=0))

    add("/stem_conv1/Conv", "Conv", "thin-conv", "convolution from 3 to 16 channels stays float", False)
    for stage, depth, width in (("a", 2, 48), ("b", 2, 96), ("c", 10, 192), ("d", 2, 384)):
        for block in range(depth):
            at = f"/blocks_{stage}.{block}"
            add(f"{at}/proj/Conv", "Conv", "depthwise", "depthwise 3x3 convolution stays fp16", False)
            add(f"{at}/norm1/LayerNormalization", "LayerNormalization", "normalisation", "no int8 kernel", False)
            for name in ("q", "k", "v", "proj"):
                reason = f"matrix product 256x{width} by {width}x{width} runs in int8"
                add(f"{at}/attn/{name}/Gemm", "Gemm", "gemm-int8", reason, True)
            for name in ("MatMul", "MatMul_1"):
                add(f"{at}/attn/{name}", "MatMul", "attention-default", "attention core stays fp16", False)
            add(f"{at}/attn/Softmax", "Softmax", "softmax", "softmax stays float: small weights vanish", False)
            for name in ("conv1", "conv2"):
                reason = f"1x1 convolution from {width} to {width * 4} channels runs in int8"
                add(f"{at}/mlp/{name}/Conv", "Conv", "conv-int8", reason, True)
    return tuple(made)


def layers() -> tuple[LayerError, ...]:
    """One per quantized operator, worse towards the end."""
    noise = np.random.default_rng(7)
    nodes = [d for d in placement() if d.kind == "weight"]
    depth = np.linspace(0, 1, len(nodes))
    values = 42 - 14 * depth + noise.normal(0, 2.5, len(nodes))
    values[[17, 58]] -= 12
    return tuple(LayerError(d.node, d.op, f"{d.node}_out", float(v)) for d, v in zip(nodes, values, strict=True))


def stages() -> tuple[Stage, ...]:
    costs = (
        ("export", 9.41, 912.0), ("rewrite", 0.83, 640.5), ("calibrate", 14.27, 701.2), ("quantize", 0.92, 655.0),
        ("engine", 12.6, 1804.0), ("bench", 6.4, 420.3), ("evaluate fp32", 11.9, 512.9),
        ("evaluate int8", 17.2, 530.1), ("layers", 2.3, 602.2),
    )  # fmt: skip
    return tuple(Stage(name, seconds, rss, cached=name == "export") for name, seconds, rss in costs)


def model() -> ModelSpec:
    card = ModelCard(
        "cmt_ti", "CMT", 160, 9_490_000, 640_000_000, {"top1": "79.1", "macs": "0.6 G"}, "arXiv:2107.06263",
        "Apache-2.0", "https://github.com/example/cmt_tiny.pth",
    )  # fmt: skip
    weights = Provenance("calib/fashion-mnist/cmt_ti_64.safetensors", "5b" * 32, trained=True)
    return ModelSpec("cmt_ti", Preprocess(64, crop_pct=1.0), 10, weights, card, CLASSES)


def labelled() -> Report:
    """What quickstart finds: trained weights, 1,000 labelled images, int8 a little slower on this CPU."""
    fp32 = Row(
        "fp32", "onnxruntime-cpu", "measured", latency=latency(11.48, seed=1),
        accuracy=Accuracy(91.2, 99.6, 1000, (89.28, 92.8)), bytes=38_312_110,
    )  # fmt: skip
    int8 = Row(
        "int8", "onnxruntime-cpu", "measured", latency=latency(12.37, seed=2),
        accuracy=Accuracy(91.1, 99.6, 1000, (89.18, 92.71)), drop=Drop(0.1, (-0.49, 0.69), 1.0, 9),
        fidelity=Fidelity(98.7, 24.6, 0.0031, 1000), bytes=38_420_331,
        ratio=Ratio(1.0749, (1.0688, 1.0827), 60),
    )  # fmt: skip
    return Report(
        version="0.1.0",
        model=model(),
        params=9_137_512,
        macs=103_480_320,
        batch=1,
        target=cpu_target(),
        device=DeviceState(
            CPU, 2, 2, 7.8, "Linux 6.1.0 x86_64", load=0.42, clocks_mhz={"cpu0": 2700.0, "cpu1": 2699.5},
            versions={"python": "3.11.2", "onnxruntime": "1.31.0", "numpy": "2.3.4"},
        ),
        calibration=ImageSet(
            "fashion-mnist", "calib/fashion-mnist/calib.npz", 256, "a1" * 32, True, CLASSES, licence="MIT"
        ),
        method="mse",
        evaluation=ImageSet(
            "fashion-mnist", "calib/fashion-mnist/eval.npz", 1000, "c3" * 32, True, CLASSES, licence="MIT"
        ),
        rows=(fp32, int8),
        engine=Engine(
            "tensorrt-rtx", "checked", "TensorRT-RTX 1.7.1 built an engine from the typed graph on this CPU; not run"
        ),
        stages=stages(),
        bundle="builds/quickstart",
        placement=placement(),
        layers=layers(),
        notes=("small sample: 1,000 images cannot show a drop under about 0.6 points",),
        next_command="edgehybrid build --model cmt_ti --weights fashion-mnist --precision int8 "
        "--calib fashion-mnist --eval fashion-mnist --target orin-nano-8gb",
        command="edgehybrid build --model cmt_ti --weights fashion-mnist --input-size 64 --batch 1 --precision int8 "
        "--target cpu --calib fashion-mnist --num-calib 256 --method mse --eval fashion-mnist --num-eval 1000 --seed 0",
    )  # fmt: skip


def deferred() -> Report:
    """The same, for a Jetson that is not here."""
    report = labelled()
    elsewhere = "scored on this machine; latency is orin-nano-8gb's to measure"
    rows = tuple(replace(row, latency=None, ratio=None, reason=elsewhere) for row in report.rows)
    reason = "not measured: build and bench on the Jetson Orin Nano 8GB itself"
    return replace(
        report,
        target=orin_nano(),
        rows=(*rows, Row("int8", "tensorrt", "deferred", reason)),
        engine=Engine("tensorrt", "deferred", "needs TensorRT 10.3 on the Jetson; TensorRT-RTX accepted the graph"),
        bundle="builds/cmt_ti-64-b1-int8-orin-nano-8gb",
        next_command="edgehybrid build builds/cmt_ti-64-b1-int8-orin-nano-8gb --host ssh://user@BOARD",
    )


def on_board() -> Report:
    """Made on the Jetson itself: three engines measured, fp16 the better bargain, the clocks known."""
    report = labelled()
    score = Accuracy(79.02, 94.71, 50_000, (78.66, 79.38))
    rows = (
        Row("fp32", "tensorrt", "measured", latency=latency(9.8, n=2000, seed=3), accuracy=score, bytes=41_000_000),
        Row(
            "fp16", "tensorrt", "measured", latency=latency(4.62, n=2000, seed=4),
            accuracy=replace(score, top1=79.01), drop=Drop(0.01, (-0.03, 0.05), 0.61, 98),
            fidelity=Fidelity(99.7, 51.2, 2e-5, 50_000), bytes=20_900_000, ratio=Ratio(0.471, (0.47, 0.473), 400),
        ),
        Row(
            "int8", "tensorrt", "measured", "1.18x as fast as fp16 on this device", latency(3.91, n=2000, seed=5),
            accuracy=replace(score, top1=78.41), drop=Drop(0.61, (0.5, 0.72), 3.1e-23, 841),
            fidelity=Fidelity(97.9, 27.0, 0.004, 50_000), bytes=11_200_000, ratio=Ratio(0.399, (0.397, 0.4), 400),
        ),
        Row("int8", "tensorrt", "estimated", "from the clocks of the 25 W mode", latency=latency(3.1, seed=6)),
    )  # fmt: skip
    device = DeviceState(
        "NVIDIA Jetson Orin Nano Developer Kit", 6, 6, 7.4, "Linux 5.15.148-tegra aarch64", load=5.2,
        clocks_mhz={"gpu": 624.75}, temperature_c=51.5, power_mode="15W", versions={"tensorrt": "10.3.0"},
    )  # fmt: skip
    engine = Engine("tensorrt", "built", None, "builds/x/engine.plan", 11_200_000)
    return replace(report, target=orin_nano(), device=device, rows=rows, engine=engine, notes=())


def untrained() -> Report:
    """The literal first command, offline: no weights, photographs without labels."""
    report = labelled()
    weights = Provenance("random (seed 0)", "00" * 32, trained=False, note="no checkpoint in the cache, no network")
    rows = tuple(replace(row, accuracy=None, drop=None) for row in report.rows)
    return replace(
        report,
        model=replace(report.model, weights=weights, classes=1000, labels=(), preprocess=Preprocess(160)),
        calibration=ImageSet("photos", "calib/photos", 64, "d4" * 32, licence="CC0"),
        evaluation=None,
        rows=rows,
        notes=(
            "no checkpoint in the cache, no network",
            "UNTRAINED WEIGHTS: latency is real, accuracy is not measured",
            "calibrated on the bundled photographs, which are not your camera's: give your own with --calib DIR",
        ),
    )


def over_budget() -> Report:
    """No plan of mixed precision held the budget."""
    looks = (Look(0, Drop(1.0, (0.2, 1.8), 0.02, 19), passed=False),)
    return replace(labelled(), search=Search(0.5, 69, (), 100.0, looks, False, "fisher", 128, "estimated"))


def unlabelled() -> Report:
    """Trained weights, images without labels: agreement is all there is."""
    report = labelled()
    rows = tuple(
        replace(row, accuracy=None, drop=None, fidelity=row.fidelity and replace(row.fidelity, n=64, agreement=96.875))
        for row in report.rows
    )
    return replace(report, evaluation=None, rows=rows, notes=("no --eval given: accuracy is not measured",))


def failed() -> Report:
    """int8 came out of the quantizer and would not run; the engine did not build either."""
    report = labelled()
    reason = "outputs are not finite from /blocks_c.3/mlp/conv2/Conv on"
    return replace(
        report,
        rows=(report.rows[0], Row("int8", "onnxruntime-cpu", "failed", reason)),
        engine=Engine("tensorrt-rtx", "failed", "Error Code 4: could not find any implementation for node Conv_17"),
        layers=(),
        notes=(),
    )


def identical() -> Report:
    """int8 that changed nothing: infinite SQNR; a layer that broke: not a number."""
    report = labelled()
    rows = (report.rows[0], replace(report.rows[1], fidelity=Fidelity(100.0, math.inf, 0.0, 1000)))
    broken = LayerError("/blocks_a.0/proj/Conv", "Conv", "t", math.nan)
    exact = LayerError("/stem_conv1/Conv", "Conv", "t", math.inf)
    return replace(report, rows=rows, layers=(exact, broken, *report.layers))


def hostile() -> Report:
    """Text from strangers wherever text can stand: markup, terminal escapes, a broken file name, a password."""
    report = labelled()
    nasty = "<script>alert('x')</script>\x1b[31m[red]\udcff\u202e{{7*7}}"
    return replace(
        report,
        model=replace(
            report.model,
            name=nasty,
            labels=(nasty,),
            weights=Provenance("https://bob:hunter2@host/w.pth", "ee" * 32, trained=True, note=nasty),
        ),
        target=replace(report.target, title=nasty, notes=(nasty,), figures={nasty: Figure(nasty, nasty, nasty)}),
        device=replace(report.device, name=nasty, versions={nasty: nasty}, power_mode=nasty),
        calibration=ImageSet(
            nasty, nasty, 3, nasty, classes=(nasty,), skipped=(f"{nasty}.jpg: truncated",), note=nasty
        ),
        evaluation=ImageSet(nasty, nasty, 3, nasty, True, (nasty,)),
        rows=(
            *(replace(row, backend=nasty, reason=nasty) for row in report.rows),
            Row("fp16", nasty, "failed", nasty),
        ),
        engine=Engine("tensorrt", "failed", nasty, nasty, 3),
        stages=(Stage(nasty, 1.0, 2.0, False),),
        bundle=nasty,
        placement=(Decision(nasty, nasty, 0, nasty, "float", nasty, nasty),),
        layers=(LayerError(nasty, nasty, nasty, 12.0),),
        notes=(nasty,),
        next_command=nasty,
        command=nasty,
    )


def bare() -> Report:
    """fp32 alone, nothing measured, nothing optional."""
    report = labelled()
    return replace(
        report,
        model=replace(report.model, card=None, labels=()),
        device=DeviceState("unknown CPU", 1, 1, None, "Linux"),
        calibration=None,
        method=None,
        evaluation=None,
        rows=(Row("fp32", "onnxruntime-cpu", "deferred", "not asked for"),),
        engine=Engine(None, "deferred"),
        stages=(),
        placement=(),
        layers=(),
        notes=(),
        next_command="",
        command="",
    )


ALL = {
    make.__name__: make
    for make in (labelled, deferred, on_board, untrained, unlabelled, failed, identical, hostile, bare)
}
