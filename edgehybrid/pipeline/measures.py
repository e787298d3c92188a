"""The verbs that measure what exists already."""

from pathlib import Path

from edgehybrid.pipeline.options import bench_options
from edgehybrid.pipeline.outputs import check_file
from edgehybrid.records import DeviceState, Interpolation, Measurement, Precision, Runnable


def bench(
    model: Path,
    *,
    input_size: int | str | None = None,
    batch: int = 1,
    warmup: float = 0.2,
    duration: float = 3.0,
    iterations: int = 50,
    percentile: str = "90,95,99",
    streams: int = 1,
    cuda_graph: bool = False,
    transfers: bool = True,
    layers: int = 0,
    samples: Path | None = None,
) -> Measurement:
    """Measure latency on this machine.

    An engine is timed by events on the device, as trtexec 8 to 10 does by default, in turns with its fp16 control.

    Args:
        model: A bundle folder, one of its engines (engine.plan), or an ONNX file.
        input_size: Side of the input in px, or HEIGHTxWIDTH, where the file leaves it open.
        batch: Images per call, where the file leaves it open.
        warmup: Seconds of untimed calls first.
        duration: Seconds of timed calls, at least.
        iterations: Timed calls, at least.
        percentile: Further percentiles, as trtexec takes them: the nearest sample at or above.
        streams: Calls under way at once, each on a CUDA stream of its own (engines only).
        cuda_graph: Launch the network as one CUDA graph (engines only).
        transfers: Copy inputs and outputs in every call (leaving them out: engines only).
        layers: Show this many of the slowest layers, by the backend's own profiler.
        samples: Write every single call to this CSV file.

    Returns:
        Percentiles of the network alone and, in rows of their own, of preprocessing and network together; of a bundle,
        the reference is measured beside the model, calls interleaved.
    """
    from edgehybrid import dataset, delivery, device, findings, stages

    check_file(samples, [model], option="samples")
    size = dataset.read_size(input_size)
    options = bench_options(warmup, duration, iterations, percentile, streams, cuda_graph, transfers, layers)
    state = device.state(threads=0)
    files, notes = _engines_here(model, state, with_control=True)
    whole = model.parent if files and model.is_file() else model
    fixed = stages.fix_shapes(stages.Run(), whole, batch=batch, input_size=size, must_be_image=False)
    if not files:
        files = {label: Runnable(path, "onnxruntime") for label, path in delivery.runnable_files(fixed).items()}
    spec = delivery.spec_of(fixed)
    images = dataset.load("photos", at_most=8, split="calib")
    with delivery.loading(model):
        timed = stages.time_networks(files, options, spec.preprocess, images, samples)
    latencies = {precision: found.latency for precision, found in timed.items()}
    rows = findings.timed_rows(files, latencies, {precision: found.end_to_end for precision, found in timed.items()})
    said = (*notes, *findings.control_notes(files, latencies), *findings.speed_notes(rows))
    timings = tuple(found.timing for found in timed.values())
    subject = findings.subject_of(spec, files, batch=next(iter(timed.values())).batch)
    return Measurement(str(model), state, rows, notes=said, timings=timings, shown_layers=layers, subject=subject)


def evaluate(
    model: Path,
    *,
    eval: str,
    num_eval: int | None = None,
    input_size: int | str | None = None,
    crop_pct: float | None = None,
    mean: str | None = None,
    std: str | None = None,
    interpolation: Interpolation | None = None,
    preprocess: Path | None = None,
    labels: Path | None = None,
    seed: int = 0,
) -> Measurement:
    """Score accuracy on labelled images.

    Graphs are scored in canonical numerics: every Q/DQ does exactly what it says. Where a bundle has engines that this
    machine can load, they are scored in place of its quantized graph, beside the float32 reference.

    Args:
        model: A bundle folder, one of its engines (engine.plan), or an ONNX file.
        eval: Labelled images: a named set, a folder of classes, or an .npz file. Without labels there is no accuracy.
        num_eval: How many of them; all by default.
        input_size: Side of the input in px, or HEIGHTxWIDTH, where an ONNX file leaves it open.
        crop_pct: Fraction of the resized image that the crop keeps; the bundle's own by default.
        mean: R,G,B subtracted from pixels between 0 and 1; the bundle's own by default, as for the next three.
        std: R,G,B by which they are then divided.
        interpolation: How images are resized: bicubic or bilinear.
        preprocess: TOML file with any of size, crop_pct, mean, std, interpolation, labels; options win over it.
        labels: File of class names: one per line, or JSON as timm and Hugging Face write it.
        seed: Of image sampling.

    Returns:
        Accuracy with its interval; of a bundle, also the paired drop against the float32 reference.

    Raises:
        ArtifactError: An engine that was built for another machine or release, or that no manifest vouches for.
        NotReadyError: A library that runs engines is missing.
    """
    from edgehybrid import dataset, delivery, device, findings, stages

    stated = dataset.read_stated(preprocess, labels, input_size, crop_pct, mean, std, interpolation)
    run, state = stages.Run(), device.state(threads=0)
    engines, said = _engines_here(model, state)
    whole = model.parent if engines and model.is_file() else model
    open_size = stated.size if whole.is_file() else None
    fixed = stages.fix_shapes(run, whole, batch=1, input_size=open_size, must_be_image=True)
    files = delivery.runnable_files(fixed)
    if engines:
        files = {"fp32": files["fp32"]}
    images = dataset.load(eval, limit=num_eval, seed=seed, split="eval")
    spec = dataset.apply_stated(delivery.spec_of(fixed), stated, assumed=fixed.is_file())
    truth = None if images.labels is None else stages.labels_for(images, spec)
    with delivery.loading(model):
        logits = {label: stages.predict(run, label, path, images, spec.preprocess) for label, path in files.items()}
    trained = spec.weights.trained
    rows = findings.accuracy_rows(files, logits, truth, trained)
    answers = findings.answers(logits, truth, images.order, trained)
    scored = {label: Runnable(path, "onnxruntime") for label, path in files.items()}
    if engines:
        answered = {
            label: stages.predict(run, f"{label} engine", file, images, spec.preprocess, place=stages.place_of(state))
            for label, file in engines.items()
        }
        rows += findings.engine_rows(engines, answered, logits["fp32"], truth, trained)
        backend = next(iter(engines.values())).backend
        given = findings.answers(answered, truth, images.order, trained, backend=backend)
        answers = findings.merge_answers(answers, given)
    notes = (*said, *spec.notes, *findings.label_notes(images.spec, rows), *findings.sample_notes(rows))
    subject = findings.subject_of(spec, scored)
    return Measurement(str(model), state, rows, images.spec, notes, subject=subject, answers=answers)


def _engines_here(
    model: Path, state: DeviceState, *, with_control: bool = False
) -> tuple[dict[Precision, Runnable], tuple[str, ...]]:
    """Engines of a bundle, or the one named, that may be loaded here; and what to know about them.

    None of a bundle where there is no CUDA device: its graphs run anywhere. An engine that was named is never
    replaced by its graph.

    Raises:
        ArtifactError: As in `delivery.loadable_engines`.
        NotReadyError: Likewise.
    """
    from edgehybrid import delivery, device

    if not delivery.has_engine(model):
        return {}, ()
    if model.is_dir() and device.capability() is None:
        return {}, ("this machine has no CUDA device: the bundle's ONNX files were run, not its engine",)
    return delivery.loadable_engines(model, state.name, with_control=with_control)
