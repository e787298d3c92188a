"""The verb that runs a network on a camera."""

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from edgehybrid.errors import ArtifactError, NotFoundError, UsageError
from edgehybrid.records import Stream

if TYPE_CHECKING:
    from edgehybrid.streamer import Subject


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
    web: bool = True,
    address: str = "127.0.0.1",
    port: int = 8080,
    record: Path | None = None,
    json_lines: Path | None = None,
) -> Stream:
    """Run a network on a camera or a clip.

    The newest frame wins: a camera's frame that was not inferred before the next one came is dropped and counted.

    Args:
        source: test://, csi://0, v4l2:///dev/video0 or 0, rtsp://, http:// (MJPEG), file://clip.mp4, or a folder.
        engine: A bundle folder, an engine.plan of a bundle, or an ONNX file.
        variant: Which network of a bundle runs first, by precision; the one it was built for by default.
        duration: Seconds after which to end; without end by default.
        max_fps: Infer at most so many frames per second.
        max_age: Seconds after which a camera's frame is stale and is not inferred.
        realtime: Play a clip at its own pace and drop what comes too late, as with a camera.
        loop: Begin a clip or a folder anew when it ends.
        web: Show the stream on a page; its address is printed.
        address: Where the page is served; one that others can reach needs the token that is printed.
        port: Of the page; 0 takes a free one.
        record: Film the frames with their answers in this new .mp4 file.
        json_lines: Append a line per frame and per loss of the connection to this file.

    Returns:
        Frames, rates, ages, and what became of every frame that was not inferred.

    Raises:
        StageError: No frame was inferred.
    """
    from edgehybrid import stages

    for module in ("av", "aiohttp"):
        stages.require(module, "stream", "run a stream")
    from edgehybrid import streamer

    subject = subject_of(engine, variant)
    wish = streamer.Play(duration, max_fps, max_age, realtime, loop, web, address, port, record, json_lines)
    return streamer.play(streamer.parse(source), subject, wish)


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
    from edgehybrid import delivery, stages
    from edgehybrid.streamer import Subject, Variant

    if path.is_dir():
        return _bundled(path)
    if not path.is_file():
        raise NotFoundError(f"no bundle or file {path}", why="nothing is there", fix="edgehybrid quickstart")
    if path.suffix == ".onnx":
        fixed = stages.settle(stages.Run(), path, batch=1, input_size=None, must_be_image=True)
        spec = delivery.spec_of(fixed)
        return Subject(path.name, (Variant("model", fixed, "onnxruntime"),), "model", spec.preprocess, trained=True)
    if path.suffix in (".plan", ".engine"):
        return _engine(path)
    raise UsageError(
        f"cannot run {path}", why="needed a bundle, an .onnx or an engine", fix="--engine builds/quickstart"
    )


def _bundled(folder: Path) -> "Subject":
    from edgehybrid import delivery
    from edgehybrid.streamer import Subject, Variant

    files = delivery.runnable_files(folder)
    report = delivery.read_report(folder)
    preprocess, trained = report.model.preprocess, report.model.weights.trained
    rows = {row.precision: row for row in report.rows if row.accuracy or row.fidelity or row.latency}
    variants = []
    for precision, path in files.items():
        row = rows.get(precision)
        variants.append(
            Variant(
                precision,
                path,
                "onnxruntime",
                drop=row.drop if row else None,
                fidelity=row.fidelity if row else None,
                latency=row.latency if row else None,
                measured_on=report.device.name,
            )
        )
    named = report.model.labels or (report.evaluation.classes if report.evaluation else ())
    labels = named if len(named) == report.model.classes else ()
    return Subject(str(folder), tuple(variants), variants[-1].name, preprocess, labels, trained)


def _engine(path: Path) -> "Subject":
    """An engine is executable input: only one whose hash a manifest holds is loaded.

    Raises:
        ArtifactError: It lies in no bundle, or the bundle does not list it.
    """
    from edgehybrid import delivery, store
    from edgehybrid.streamer import Variant

    bundle = store.open_bundle(path.parent)
    plan = bundle.file(path.name)
    made = json.loads(bundle.file("engine.json").read_bytes())
    backend, precision = made["engine"]["flavor"], delivery.read_report(path.parent).rows[-1].precision
    if backend is None:
        raise ArtifactError(
            f"{path} cannot be run", why="its bundle does not say what built it", fix="edgehybrid build"
        )
    whole = _bundled(path.parent)
    return replace(whole, title=str(path), variants=(Variant(precision, plan, backend),), first=precision)
