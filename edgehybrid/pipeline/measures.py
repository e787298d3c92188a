"""The verbs that measure what exists already."""

from pathlib import Path

from edgehybrid.records import Measurement


def bench(model: Path, *, warmup: float = 0.2, duration: float = 3.0, iterations: int = 50) -> Measurement:
    """Measure latency on this machine.

    Args:
        model: A bundle folder or an ONNX file.
        warmup: Seconds of untimed calls first.
        duration: Seconds of timed calls, at least.
        iterations: Timed calls, at least.

    Returns:
        Percentiles; of a bundle, the float32 reference is measured beside the model, calls interleaved.
    """
    from edgehybrid import delivery, device, findings, stages

    files = delivery.runnable_files(model)
    state = device.state(threads=0)
    measured = stages.measure(files, warmup=warmup, duration=duration, iterations=iterations)
    rows = findings.latency_rows(files, measured)
    return Measurement(str(model), state, rows, notes=findings.speed_notes(rows))


def evaluate(
    model: Path,
    *,
    eval: str,
    num_eval: int | None = None,
    crop_pct: float | None = None,
    seed: int = 0,
) -> Measurement:
    """Score accuracy on labelled images.

    Quantized graphs are scored in canonical numerics: every Q/DQ does exactly what it says.

    Args:
        model: A bundle folder or an ONNX file.
        eval: Labelled images: a named set, a folder of classes, or an .npz file.
        num_eval: How many of them; all by default.
        crop_pct: Fraction of the resized image that the crop keeps; the bundle's own by default.
        seed: Of image sampling.

    Returns:
        Accuracy with its interval; of a bundle, also the paired drop against the float32 reference.
    """
    from edgehybrid import dataset, delivery, device, findings, stages

    files = delivery.runnable_files(model)
    images = dataset.load(eval, limit=num_eval, seed=seed, split="eval")
    preprocess, trained = delivery.preprocess_of(model, crop_pct)
    run = stages.Run()
    logits = {label: stages.predict(run, label, path, images, preprocess) for label, path in files.items()}
    rows = findings.accuracy_rows(files, logits, images.labels, trained)
    return Measurement(str(model), device.state(threads=0), rows, images.spec, findings.sample_notes(rows))
