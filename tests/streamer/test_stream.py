"""The verb end to end: a bundle on every kind of source, its log, its film, its page, and how it ends."""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import av
import numpy as np
import pytest
from PIL import Image

import edgehybrid
from edgehybrid import reporter, store
from edgehybrid.errors import ArtifactError, InputError, NotFoundError, ResourceError, StageError, UsageError
from edgehybrid.records import Stream
from tests.reporter import samples
from tests.streamer.cameras import MjpegCamera, free_port
from tests.streamer.scenes import CLASSES, PREPROCESS, picture, read_lines, write_clip, write_network, write_pictures

FATES = ("frames", "dropped", "stale", "blank", "damaged", "frozen")


@pytest.fixture(scope="module")
def bundle(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A bundle of the small network: float32 and int8 by name, with a report whose figures are made up."""
    folder = tmp_path_factory.mktemp("stream")
    report = samples.labelled()
    labels = tuple(f"colour {n}" for n in range(CLASSES))
    model = replace(report.model, classes=CLASSES, labels=labels, preprocess=PREPROCESS)
    report = replace(report, model=model)
    content: dict[str, store.Content] = {
        "baseline.onnx": write_network(folder / "fp32.onnx"),
        "model.onnx": write_network(folder / "int8.onnx", seed=1),
        "report.json": store.to_json(reporter.to_json(report)),
        "engine.json": store.to_json({"engine": {"flavor": None}}),
    }
    facts = {"recipe": samples_recipe(), "preprocess": PREPROCESS, "trained": True}
    store.write_bundle(folder / "bundle", content, facts)
    return folder / "bundle"


def samples_recipe() -> dict[str, object]:
    return {
        "model": "small", "weights": "made up", "precision": "int8", "target": "cpu", "batch": 1, "input_size": 32,
        "crop_pct": 1.0, "num_classes": CLASSES, "calib": "photos", "num_calib": 1, "method": "mse", "eval": None,
        "num_eval": 0, "seed": 0,
    }  # fmt: skip


def check(found: Stream) -> None:
    assert found.captured == sum(getattr(found, fate) for fate in FATES)
    assert found.age_ms is not None
    assert found.inference_ms is not None
    assert found.age_ms["p50"] <= found.age_ms["p99"] <= found.age_ms["max"]
    assert found.seconds > 0


def test_a_test_scene_says_that_it_is_one(bundle: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    log = tmp_path / "log.jsonl"
    found = edgehybrid.stream("test://?fps=100", engine=bundle, duration=2.0, web=False, json_lines=log)
    check(found)
    assert found.frames > 5
    assert (found.ended, found.source, found.variant, found.reconnects) == ("duration", "test://?fps=100", "int8", 0)
    assert any("synthetic" in note for note in found.notes)
    reporter.print_result(found)
    shown = capsys.readouterr().out
    assert f"{found.frames:,} inferred of {found.captured:,} captured" in shown
    assert "ended by --duration" in shown
    lines = read_lines(log)
    assert lines[0]["event"] == "start"
    assert [line["phase"] for line in lines if line["event"] == "connection"] == ["live"]
    assert lines[-1]["event"] == "end"
    frames = [line for line in lines if line["event"] == "frame"]
    assert len(frames) == found.frames == lines[-1]["frames"]
    assert lines[-1]["captured"] == sum(lines[-1][fate] for fate in FATES)  # type: ignore[misc]
    assert [line["id"] for line in frames] == sorted({line["id"] for line in frames})  # type: ignore[type-var]
    assert frames[0]["top"][0]["label"].startswith("colour ")  # type: ignore[index]


def test_a_folder_gets_the_answers_of_evaluation(bundle: Path, tmp_path: Path) -> None:
    from edgehybrid import dataset
    from edgehybrid.runtime import open_runner

    for number in range(4):
        Image.fromarray(picture(number)).save(tmp_path / f"{number}.png")
    log = tmp_path / "log.jsonl"
    found = edgehybrid.stream(str(tmp_path), engine=bundle, variant="fp32", web=False, json_lines=log)
    assert found.variant == "fp32"
    assert (found.frames, found.captured, found.ended) == (4, 4, "source")
    with open_runner(bundle / "baseline.onnx", threads=1) as runner:
        batches = dataset.load(tmp_path).batches(PREPROCESS, 1)
        true = [int(np.argmax(runner.run({"input": batch})["logits"])) for batch in batches]
    told = [line["top"][0]["class"] for line in read_lines(log) if line["event"] == "frame"]  # type: ignore[index]
    assert told == true


def test_a_clip_is_filmed_with_its_answers(bundle: Path, tmp_path: Path) -> None:
    clip, film = write_clip(tmp_path / "clip.mp4", frames=25, size=(320, 240)), tmp_path / "out.mp4"
    found = edgehybrid.stream(f"file://{clip}", engine=bundle, web=False, record=film)
    check(found)
    assert (found.frames, found.dropped, found.recorded) == (25, 0, str(film))
    with av.open(str(film)) as shown:
        frames = [frame.to_ndarray(format="rgb24") for frame in shown.decode(video=0)]
    assert len(frames) == 25
    assert frames[0].shape == (240, 320, 3)
    panel = frames[12][200:236, 4:60].astype(int)
    with av.open(str(clip)) as before:
        plain = [frame.to_ndarray(format="rgb24") for frame in before.decode(video=0)][12][200:236, 4:60].astype(int)
    assert np.abs(panel - plain).mean() > 10  # the bars
    with pytest.raises(UsageError, match="exists"):
        edgehybrid.stream(str(clip), engine=bundle, web=False, record=film)


def test_a_clip_at_its_own_pace_drops_what_is_late_and_ends(bundle: Path, tmp_path: Path) -> None:
    """As a camera's, its frames age; unlike a camera, it is not lost when it ends, nor hung when it stands still."""
    clip = write_pictures(tmp_path / "clip.mp4", [picture(1, 64, 96)] * 20, (96, 64))
    found = edgehybrid.stream(str(clip), engine=bundle, realtime=True, max_fps=5, duration=20, web=False)
    check(found)
    assert (found.ended, found.captured, found.reconnects, found.frozen) == ("source", 20, 0, 0)
    assert found.dropped > found.frames


def test_a_film_keeps_its_size_when_the_picture_changes_it(bundle: Path, tmp_path: Path) -> None:
    for number, size in enumerate(((48, 64), (64, 48), (90, 200))):
        Image.fromarray(picture(number, *size)).save(tmp_path / f"{number}.png")
    film = tmp_path / "out" / "film.mp4"
    assert edgehybrid.stream(str(tmp_path), engine=bundle, web=False, record=film).frames == 3
    with av.open(str(film)) as shown:
        assert {(frame.width, frame.height) for frame in shown.decode(video=0)} == {(64, 48)}


def test_a_run_that_never_began_leaves_no_film(bundle: Path, tmp_path: Path) -> None:
    film, clip = tmp_path / "film.mp4", tmp_path / "clip.mp4"
    clip.write_bytes(b"no video")
    with pytest.raises(InputError):
        edgehybrid.stream(str(clip), engine=bundle, web=False, record=film)
    assert not film.exists()


def test_an_onnx_file_alone_is_run_with_numbers_for_labels(tmp_path: Path) -> None:
    path, log = write_network(tmp_path / "alone.onnx"), tmp_path / "log.jsonl"
    found = edgehybrid.stream("test://", engine=path, duration=2.0, web=False, json_lines=log)
    assert (found.variant, found.engine) == ("model", "alone.onnx")
    frame = next(line for line in read_lines(log) if line["event"] == "frame")
    assert frame["top"][0]["label"].startswith("class ")  # type: ignore[index]


def test_a_reconnect_is_in_the_summary_and_no_credential_is_anywhere(bundle: Path, tmp_path: Path) -> None:
    log = tmp_path / "log.jsonl"
    with MjpegCamera(protected=True) as camera:
        url = camera.url.replace("http://", "http://admin:s3cr3t@") + "?token=abc123xyz"
        import threading

        threading.Timer(1.0, camera.cut).start()
        found = edgehybrid.stream(url, engine=bundle, duration=3.0, web=False, json_lines=log)
    check(found)
    assert found.reconnects >= 1
    assert found.longest_gap_s > 0.3
    for text in (repr(found), log.read_text()):
        assert not any(secret in text for secret in ("s3cr3t", "admin", "abc123xyz"))


def test_a_run_that_breaks_says_why_in_its_log(bundle: Path, tmp_path: Path) -> None:
    log, clip = tmp_path / "log.jsonl", tmp_path / "clip.mp4"
    clip.write_bytes(b"no video")
    for _ in range(2):
        with pytest.raises(InputError):
            edgehybrid.stream(str(clip), engine=bundle, web=False, json_lines=log)
    last = read_lines(log)[-1]
    assert (last["event"], last["error"]) == ("end", "the source cannot be opened")
    assert [line["event"] for line in read_lines(log)].count("start") == 2  # earlier runs stay


@pytest.mark.parametrize(
    ("options", "kind", "say"),
    [
        ({"duration": 0}, UsageError, "--duration"),
        ({"max_fps": -1}, UsageError, "--max-fps"),
        ({"max_age": 0}, UsageError, "--max-age"),
        ({"port": 70000}, UsageError, "--port"),
        ({"address": ""}, UsageError, "--address"),
        ({"variant": "fp8"}, UsageError, "no variant fp8"),
        ({"engine": Path("gone.onnx")}, NotFoundError, "gone.onnx"),
        ({"engine": Path(__file__)}, UsageError, "cannot run"),
        ({"record": Path("film.gif")}, UsageError, "film.gif"),
        ({"record": Path(__file__) / "film.mp4"}, ResourceError, "film.mp4"),
        ({"json_lines": Path(__file__) / "log"}, ResourceError, "cannot write"),
        ({"source": "v4l2:///dev/video63"}, InputError, "cannot be opened"),
        ({"source": "test://", "max_age": 1e-9}, StageError, "no frame"),
    ],
)
def test_what_cannot_be_is_said_in_three_lines(
    bundle: Path, options: dict[str, object], kind: type[Exception], say: str
) -> None:
    wish = {"source": "test://", "engine": bundle, "duration": 0.5, "web": False, **options}
    with pytest.raises(kind, match=say):
        edgehybrid.stream(**wish)  # type: ignore[arg-type]


def test_an_engine_that_no_manifest_vouches_for_is_not_loaded(bundle: Path, tmp_path: Path) -> None:
    plan = tmp_path / "engine.plan"
    plan.write_bytes(b"code")
    with pytest.raises(ArtifactError, match="not a bundle"):
        edgehybrid.stream("test://", engine=plan, web=False)
    stray = bundle / "other.plan"
    stray.write_bytes(b"code")
    with pytest.raises(ArtifactError, match=r"other\.plan is not in the manifest"):
        edgehybrid.stream("test://", engine=stray, web=False)
    stray.unlink()


# --- as a command -----------------------------------------------------------------------------------


@contextlib.contextmanager
def command(*words: str, **environment: str) -> "Iterator[subprocess.Popen[str]]":
    """The command in a process of its own, killed if it outlives the test."""
    with subprocess.Popen(
        [sys.executable, "-m", "edgehybrid", "stream", *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"} | environment,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs ignore it
    ) as process:
        try:
            yield process
        finally:
            process.kill()


@contextlib.contextmanager
def killing(process: "subprocess.Popen[str]", after: float) -> "Iterator[None]":
    """Kill it if what is done within takes that many seconds, so that no read waits for ever."""
    timer = threading.Timer(after, process.kill)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def until(process: "subprocess.Popen[str]", text: str) -> str:
    assert process.stderr is not None
    seen = ""
    while text not in seen:
        line = process.stderr.readline()
        assert line, seen
        seen += line
    return seen


STATES = {
    "live, with a page": (["test://", "--port", "0"], " live: "),
    "lost": ([f"http://127.0.0.1:{free_port()}/x.mjpeg", "--no-web"], " lost: "),
    "a clip in a loop, filmed": (["CLIP", "--loop", "--no-web", "--record", "FILM"], " live: "),
}


@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize(
    ("sent", "code", "ended"), [(signal.SIGINT, 130, "interrupted"), (signal.SIGTERM, 143, "terminated")]
)
def test_a_signal_ends_it_with_a_summary(
    bundle: Path, tmp_path: Path, state: str, sent: signal.Signals, code: int, ended: str
) -> None:
    words, sign = STATES[state]
    names = {"CLIP": str(write_clip(tmp_path / "clip.mp4")), "FILM": str(tmp_path / "film.mp4")}
    with command(*(names.get(word, word) for word in words), "--engine", str(bundle), "--json") as process:
        until(process, sign)
        time.sleep(0.3)
        began = time.monotonic()
        process.send_signal(sent)
        process.send_signal(sent)  # a wrapper that passes it on to its whole group does that
        assert process.stdout is not None
        with killing(process, after=20):
            out = process.stdout.readline()
            process.send_signal(sent)  # or it is late
            out += process.stdout.read()
            process.wait()
        assert time.monotonic() - began < 5  # 2 s on a quiet machine
    document = json.loads(out)
    assert (document["schema"], document["ended"], process.returncode) == ("edgehybrid.stream/1", ended, code)
    if "FILM" in words:
        with av.open(names["FILM"]) as film:
            assert sum(1 for _ in film.decode(video=0)) > 0


def test_a_login_of_the_environment_is_seen_nowhere(bundle: Path, tmp_path: Path) -> None:
    """Not by other users of the machine, nor in what is printed, logged, served or filmed; nor when it is refused."""
    film, log, said = tmp_path / "film.mp4", tmp_path / "log.jsonl", ""
    with MjpegCamera(protected=True) as camera:
        words = [camera.url, "--engine", str(bundle), "--port", "0", "--json", "-vv"]
        words += ["--record", str(film), "--json-lines", str(log)]
        with command(*words, EDGEHYBRID_LOGIN="admin:s3cret") as process:
            said += until(process, " live: ")
            said += Path(f"/proc/{process.pid}/cmdline").read_text()
            with urllib.request.urlopen(said.split("page: ")[1].split()[0] + "state.json", timeout=10) as state:
                said += state.read().decode()
            camera.status = 403
            camera.cut()
            said += until(process, "403")
            process.send_signal(signal.SIGINT)
            said += "".join(process.communicate(timeout=20))
        with command(*words[:4], "0", "-vv", EDGEHYBRID_LOGIN="admin:s3cret") as process:
            said += "".join(process.communicate(timeout=20))
        assert process.returncode == 4
    assert b"Authorization: Basic" in camera.requests[-1]
    assert "Traceback" in said
    for text in (said.encode(), log.read_bytes(), film.read_bytes()):
        assert b"s3cret" not in text
        assert b"admin" not in text
    assert b"127.0.0.1" not in film.read_bytes()


def test_quiet_tells_where_the_page_is_and_nothing_else(bundle: Path) -> None:
    with command("test://", "--engine", str(bundle), "--address", "0.0.0.0", "--port", "0", "--quiet") as process:
        first = until(process, "\n")
        process.send_signal(signal.SIGINT)
        _, rest = process.communicate(timeout=20)
    assert re.fullmatch(r"page: http://127\.0\.0\.1:\d+/\?token=[\w-]{24,}\n", first)
    assert "note" not in rest


def test_an_address_that_others_reach_prints_a_token_and_its_meaning(bundle: Path) -> None:
    with command("test://", "--engine", str(bundle), "--address", "0.0.0.0", "--port", "0") as process:
        seen = until(process, "nothing is encrypted")
        process.send_signal(signal.SIGINT)
        out, rest = process.communicate(timeout=20)
    token = seen.split("?token=")[1].split()[0]
    assert len(token) >= 24
    assert token not in out + rest
