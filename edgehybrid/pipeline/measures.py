"""The verbs that measure what exists already."""

from pathlib import Path

from edgehybrid.records import Interpolation, Measurement


def bench(
    model: Path,
    *,
    input_size: int | None = None,
    batch: int = 1,
    warmup: float = 0.2,
    duration: float = 3.0,
    iterations: int = 50,
) -> Measurement:
    """Measure latency on this machine.

    Args:
        model: A bundle folder or an ONNX file.
        input_size: Side of the square input in px, where the file leaves it open.
        batch: Images per call, where the file leaves it open.
        warmup: Seconds of untimed calls first.
        duration: Seconds of timed calls, at least.
        iterations: Timed calls, at least.

    Returns:
        Percentiles; of a bundle, the float32 reference is measured beside the model, calls interleaved.
    """
    from edgehybrid import delivery, device, findings, stages

    run = stages.Run()
    files = delivery.runnable_files(stages.settle(run, model, batch=batch, input_size=input_size, must_be_image=False))
    state = device.state(threads=0)
    measured = stages.measure(files, warmup=warmup, duration=duration, iterations=iterations)
    rows = findings.latency_rows(files, measured)
    return Measurement(str(model), state, rows, notes=findings.speed_notes(rows))


def evaluate(
    model: Path,
    *,
    eval: str,
    num_eval: int | None = None,
    input_size: int | None = None,
    crop_pct: float | None = None,
    mean: str | None = None,
    std: str | None = None,
    interpolation: Interpolation | None = None,
    preprocess: Path | None = None,
    labels: Path | None = None,
    seed: int = 0,
) -> Measurement:
    """Score accuracy on labelled images.

    Quantized graphs are scored in canonical numerics: every Q/DQ does exactly what it says.

    Args:
        model: A bundle folder or an ONNX file.
        eval: Labelled images: a named set, a folder of classes, or an .npz file.
        num_eval: How many of them; all by default.
        input_size: Side of the square input in px, where an ONNX file leaves it open.
        crop_pct: Fraction of the resized image that the crop keeps; the bundle's own by default.
        mean: R,G,B subtracted from pixels between 0 and 1; the bundle's own by default, as for the next three.
        std: R,G,B by which they are then divided.
        interpolation: How images are resized: bicubic or bilinear.
        preprocess: TOML file with any of size, crop_pct, mean, std, interpolation, labels; options win over it.
        labels: File of class names: one per line, or JSON as timm and Hugging Face write it.
        seed: Of image sampling.

    Returns:
        Accuracy with its interval; of a bundle, also the paired drop against the float32 reference.
    """
    from edgehybrid import dataset, delivery, device, findings, stages

    stated = dataset.read_stated(
        preprocess=preprocess,
        labels=labels,
        size=input_size,
        crop_pct=crop_pct,
        mean=mean,
        std=std,
        interpolation=interpolation,
    )
    run = stages.Run()
    open_size = stated.size if model.is_file() else None
    fixed = stages.settle(run, model, batch=1, input_size=open_size, must_be_image=True)
    files = delivery.runnable_files(fixed)
    images = dataset.load(eval, limit=num_eval, seed=seed, split="eval")
    spec = dataset.apply_stated(delivery.spec_of(fixed), stated, assumed=fixed.is_file())
    truth = None if images.labels is None else stages.labels_for(images, spec)
    logits = {label: stages.predict(run, label, path, images, spec.preprocess) for label, path in files.items()}
    rows = findings.accuracy_rows(files, logits, truth, spec.weights.trained)
    notes = (*spec.notes, *findings.sample_notes(rows))
    return Measurement(str(model), device.state(threads=0), rows, images.spec, notes)
