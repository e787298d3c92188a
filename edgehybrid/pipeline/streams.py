"""The verb that runs a network on a camera."""

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from edgehybrid.errors import UsageError
from edgehybrid.pipeline.outputs import check_file
from edgehybrid.records import Precision, Report, Runnable, Stream

if TYPE_CHECKING:
    from edgehybrid.streamer import Subject, Variant


def stream(
    source: str,
    *,
    engine: Path,
    variant: str | None = None,
    duration: float | None = None,
    max_fps: float | None = None,
    max_age: float = 1.0,
    realtime: bool = False,
    loop: bool = False,
    still: bool = False,
    web: bool = True,
    address: str = "127.0.0.1",
    port: int = 8080,
    record: Path | None = None,
    json_lines: Path | None = None,
) -> Stream:
    """Run a network on a camera or a clip.

    The newest frame wins: a camera's frame that was not inferred before the next one came is dropped and counted.

    Args:
        source: test://, csi://0, v4l2:///dev/video0 or 0, rtsp://, http:// (MJPEG), file://clip.mp4, or a folder. A
            camera's user:password may stand in the address or, unseen by others, in EDGEHYBRID_LOGIN.
        engine: A bundle folder, an engine.plan of a bundle, or an ONNX file.
        variant: Which network of a bundle runs first, by precision; the one it was built for by default.
        duration: Seconds after which to end; without end by default.
        max_fps: Infer at most so many frames per second.
        max_age: Seconds after which a camera's frame is stale and is not inferred.
        realtime: Play a clip at its own pace and drop what comes too late, as with a camera.
        loop: Begin a clip or a folder anew when it ends.
        still: The scene has neither motion nor noise. Else a camera that repeats its picture to the last bit for 5 s
            counts as hung: it is connected anew, and that picture is not inferred.
        web: Show the stream on a page; its address is printed, also with --quiet.
        address: Where the page is served; one that others can reach needs the token that is printed.
        port: Of the page; 0 takes a free one.
        record: Film the frames with their answers in this new .mp4 file.
        json_lines: Append a line per inferred frame and per change of the connection to this file.

    Returns:
        Frames, rates, ages, and what became of every frame that was not inferred.

    Raises:
        StageError: No frame was inferred.
    """
    from edgehybrid import stages

    for module in ("av", "aiohttp"):
        stages.require(module, "stream", "run a stream")
    from edgehybrid import streamer

    camera = streamer.parse(source)
    played = [camera.target] if camera.kind in ("clip", "pictures") else []
    check_file(json_lines, [engine], played, option="json-lines", appends=True)
    subject = subject_of(engine, variant)
    wish = streamer.Play(
        duration, max_fps, max_age, realtime, loop, still, web, address, port, record=record, json_lines=json_lines
    )
    return streamer.play(camera, subject, wish)


def subject_of(path: Path, first: str | None = None) -> "Subject":
    """What can be run of a bundle, an engine of a bundle, or an ONNX file.

    Args:
        path: Of it.
        first: Name of the variant to begin with.

    Raises:
        NotFoundError: Nothing is there.
        UsageError: There is no such variant, or the file is of another kind.
        ArtifactError: A bundle that is damaged, or an engine that no manifest vouches for.
    """
    whole = _subject(path)
    return whole if first is None else replace(whole, first=whole.variant(first).name)


def _subject(path: Path) -> "Subject":
    from edgehybrid import delivery, stages, store
    from edgehybrid.streamer import Subject, Variant

    if path.is_dir():
        return _bundled(path)
    if not path.is_file():
        raise store.no_bundle(path, "bundle or file")
    if path.suffix == ".onnx":
        fixed = stages.fix_shapes(stages.Run(), path, batch=1, input_size=None, must_be_image=True)
        spec = delivery.spec_of(fixed)
        return Subject(path.name, (Variant("model", fixed, "onnxruntime"),), "model", spec.preprocess, trained=True)
    if path.suffix in (".plan", ".engine"):
        return _engine(path)
    raise UsageError(
        f"cannot run {path}", why="needed a bundle, an .onnx or an engine", fix="--engine builds/quickstart"
    )


def _bundled(folder: Path) -> "Subject":
    """The float32 reference, the fp16 control where there is one, and what was built, which runs first.

    As engines where the bundle has them and this machine has a CUDA device; else as graphs, on the CPU.
    """
    from edgehybrid import delivery, device
    from edgehybrid.streamer import Subject

    report, graphs = delivery.read_report(folder), delivery.open_graphs(folder)
    files: dict[Precision, Runnable] = {"fp32": Runnable(graphs.baseline, "onnxruntime")}
    if graphs.control is not None:
        files["fp16"] = Runnable(graphs.control, "onnxruntime")
    files[graphs.precision] = Runnable(graphs.model, "onnxruntime")
    target, notes = report.target, tuple[str, ...]()
    if delivery.has_engine(folder) and device.capability() is not None:
        engines, notes = delivery.loadable_engines(folder, device.state().name)
        files |= engines
    elif target.backend != "onnxruntime":
        notes = (f"built for {target.name}, run here by ONNX Runtime: the times are this machine's, not that one's",)
    variants = tuple(_variant(report, precision, file) for precision, file in files.items())
    named = report.model.labels or (report.evaluation.classes if report.evaluation else ())
    labels = named if len(named) == report.model.classes else ()
    trained = report.model.weights.trained
    return Subject(str(folder), variants, graphs.precision, report.model.preprocess, labels, trained, notes)


def _variant(report: Report, precision: Precision, file: Runnable) -> "Variant":
    """A network with what its build measured of it, latency only where that was on this backend."""
    from edgehybrid.streamer import Variant

    rows = [row for row in report.rows if row.precision == precision]
    timed = next((row.latency for row in rows if row.latency and row.backend.startswith(file.backend)), None)
    return Variant(
        precision,
        file.path,
        file.backend,
        drop=next((row.drop for row in rows if row.drop), None),
        fidelity=next((row.fidelity for row in rows if row.fidelity), None),
        latency=timed,
        measured_on=report.device.name,
        dla_core=file.dla_core,
    )


def _engine(path: Path) -> "Subject":
    """One engine of a bundle. It is executable input: only one whose hash a manifest holds is loaded."""
    from edgehybrid import delivery, device

    engines, notes = delivery.loadable_engines(path, device.state().name)
    report, whole = delivery.read_report(path.parent), _bundled(path.parent)
    variants = tuple(_variant(report, precision, file) for precision, file in engines.items())
    return replace(whole, title=str(path), notes=notes, variants=variants, first=variants[0].name)
