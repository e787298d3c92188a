"""What a camera stream costs and how it holds: rate, age of frames, memory, lost connections, first paint, Ctrl-C.

    python -m benchmarks.stream --engine builds/quickstart [--seconds 600] [--rounds 5] [--disconnects 100]
    python -m benchmarks.stream --engine slower.onnx --parts age --seconds 3600 --output hour.json

Run from the repository's root (it uses the tests' own camera). Each part prints its number, the bound it is held to and
whether it is within; all of it goes to `benchmarks/results/stream.json`. `first paint` needs Chromium and playwright.
"""

import argparse
import dataclasses
import functools
import json
import os
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from edgehybrid import device
from edgehybrid.cores import available_cores
from edgehybrid.pipeline.streams import subject_of
from edgehybrid.streamer.access import Door
from edgehybrid.streamer.address import parse
from edgehybrid.streamer.capture import HEALTHY_S, Health
from edgehybrid.streamer.frame import Frame
from edgehybrid.streamer.gallery import Gallery
from edgehybrid.streamer.network import Answer, Network, Subject
from edgehybrid.streamer.readers import open_reader
from edgehybrid.streamer.server import Server
from edgehybrid.streamer.session import Limits, Session
from tests.streamer.cameras import MjpegCamera, free_port
from tests.streamer.scenes import write_clip

RESULT = Path(__file__).parent / "results" / "stream.json"
SOURCE_FPS = 60.0
PARTS = ("rate", "age", "disconnects", "viewers", "first_paint", "end")
RATE_BOUND, RECOVERY_BOUND_S, SLOPE_BOUND, PAINT_BOUND_MS, END_BOUND_S = 0.95, 2.0, 1.0, 500.0, 2.0


def main() -> None:
    """Measure every part, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--engine", type=Path, default=Path("builds/quickstart"))
    parser.add_argument("--seconds", type=float, default=600.0, help="of the run that age and memory are taken from")
    parser.add_argument("--rounds", type=int, default=5, help="of the rate")
    parser.add_argument("--frames", type=int, default=600, help="of the clip")
    parser.add_argument("--disconnects", type=int, default=100)
    parser.add_argument("--signals", type=int, default=10, help="per state")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--output", type=Path, default=RESULT)
    options = parser.parse_args()
    subject, threads = subject_of(options.engine), max(1, available_cores() - 1)
    parts: dict[str, Callable[[], dict[str, object]]] = {
        "rate": lambda: {"rate": measure_rate(subject, threads, options.rounds, options.frames)},
        "age": lambda: measure_age(subject, threads, options.seconds),
        "disconnects": lambda: {"disconnects": measure_disconnects(subject, threads, options.disconnects)},
        "viewers": lambda: {"viewers": measure_viewers(subject, threads)},
        "first_paint": lambda: {"first_paint": measure_paint(subject, threads)},
        "end": lambda: {"end": measure_end(options.engine, options.signals)},
    }
    found: dict[str, object] = {
        "engine": subject.title,
        "variant": subject.first,
        "device": dataclasses.asdict(device.state(threads)),
    }
    for name in options.parts:
        found |= parts[name]()
    options.output.parent.mkdir(parents=True, exist_ok=True)
    options.output.write_text(json.dumps(found, indent=1) + "\n")


def say(name: str, text: str, within: bool | None) -> None:
    """One line per number."""
    print(f"{name:<14} {text}{'' if within is None else '  within' if within else '  NOT WITHIN'}", flush=True)


def measure_rate(subject: Subject, threads: int, rounds: int, frames: int) -> dict[str, object]:
    """End-to-end fps of a 640x360 H.264 clip over 1 / max(decode, inference), each measured alone, in turns."""
    ratios, rows = [], []
    with tempfile.TemporaryDirectory() as name, Network(subject, threads) as network:
        source = parse(str(write_clip(Path(name) / "clip.mp4", frames=frames, fps=30, size=(640, 360))))
        for _ in range(rounds):
            began, count, pixels = time.perf_counter(), 0, None
            reader = open_reader(source)
            for shot in reader.shots(lambda: True):
                pixels, count = shot.pixels, count + 1
            reader.close()
            decode = (time.perf_counter() - began) / count
            assert pixels is not None
            frame = Frame(0, pixels, time.monotonic(), live=False)
            began = time.perf_counter()
            for _ in range(frames):
                network.answer(frame)
            inference = (time.perf_counter() - began) / frames
            session = Session(functools.partial(open_reader, source), network, Limits(), live=False)
            session.run()
            ratios.append(session.fps() * max(decode, inference))
            rows.append({"decode_ms": decode * 1e3, "inference_ms": inference * 1e3, "fps": session.fps()})
    median = statistics.median(ratios)
    say(
        "rate",
        f"{median:.3f} of 1 / max(decode, inference), rounds {[round(r, 3) for r in ratios]}",
        median >= RATE_BOUND,
    )
    return {"median_ratio": median, "ratios": ratios, "rounds": rows, "bound": RATE_BOUND, "frames": frames}


def measure_age(subject: Subject, threads: int, seconds: float) -> dict[str, object]:
    """Age of frames from a 60 fps scene under a slower network, and the slope of memory meanwhile."""
    source, began = parse(f"test://?fps={SOURCE_FPS:g}"), time.monotonic()
    memory = np.zeros((int(seconds) + 8, 4))  # made beforehand: what watches memory must not take any
    readings = 0

    def watch() -> None:
        nonlocal readings
        files = sum(1 for _ in Path("/proc/self/fd").iterdir())
        memory[readings] = time.monotonic() - began, resident_mib(), threading.active_count(), files
        readings = min(readings + 1, len(memory) - 1)

    with Network(subject, threads) as network:
        session = Session(functools.partial(open_reader, source), network, Limits(duration=seconds), live=True)
        session.run(watch)
    times, tally = session.tally.quantiles(), session.counts()
    interval = 1e3 / SOURCE_FPS
    assert times["inference_p50"] is not None
    assert times["age_p99"] is not None
    bound = 2 * (interval + times["inference_p50"])
    say(
        "frame age",
        f"p50 {times['age_p50']:.1f}, p99 {times['age_p99']:.1f}, max {times['age_max']:.1f} ms; inference p50 "
        f"{times['inference_p50']:.1f}, p99 {times['inference_p99']:.1f} ms; bound {bound:.1f}; {tally}",
        times["age_p99"] <= bound,
    )
    at, used, active, files = memory[readings // 4 : readings].T  # after warming up
    slope = float(np.polyfit(at, used, 1)[0] * 3600) if len(at) > 2 else float("nan")
    say(
        "memory",
        f"{slope:+.2f} MiB per hour over {at[-1] - at[0]:.0f} s, {used[-1]:.0f} MiB at the end; threads "
        f"{active.min():.0f} to {active.max():.0f}, files {files.min():.0f} to {files.max():.0f}",
        slope < SLOPE_BOUND,
    )
    age = {**times, "interval_ms": interval, "bound_ms": bound, "seconds": seconds, "counts": tally}
    grown = {"slope_mib_per_hour": slope, "seconds": float(at[-1] - at[0]), "mib": used.tolist(), "bound": SLOPE_BOUND}
    return {"age": age, "memory": grown}


def measure_disconnects(subject: Subject, threads: int, times: int) -> dict[str, object]:
    """Cut the connection of an MJPEG camera again and again; seconds from cut to answer, less the backoff."""
    beyond, waits = [], []
    with MjpegCamera(fps=30) as camera, Network(subject, threads) as network:
        backoffs: list[float] = []

        class Watch:
            def answered(self, answer: Answer, *, late: bool) -> None:
                newest.append(time.monotonic())
                del newest[:-2]

            def changed(self, health: Health) -> None:
                if health.retry_s is not None and health.phase == "waiting":
                    backoffs.append(health.retry_s)

        newest: list[float] = []
        connect = functools.partial(open_reader, parse(camera.url))
        session = Session(connect, network, Limits(), live=True, watchers=[Watch()])
        thread = threading.Thread(target=session.run)
        thread.start()
        patient(lambda: len(newest) > 0)
        for _ in range(times):
            time.sleep(HEALTHY_S)  # a connection that breaks sooner makes the next backoff longer
            before, connects = len(backoffs), session.counts()["connects"]
            camera.cut()
            cut = time.monotonic()
            patient(lambda connects=connects: session.counts()["connects"] > connects)  # type: ignore[misc]
            joined = time.monotonic()
            patient(lambda joined=joined: newest[-1] > joined)  # type: ignore[misc]
            waits.append(time.monotonic() - cut)
            beyond.append(waits[-1] - sum(backoffs[before:]))
        session.stop()
        thread.join()
    inside = sum(one <= RECOVERY_BOUND_S for one in beyond)
    text = f"{inside} of {times} recovered within backoff + {RECOVERY_BOUND_S:g} s; beyond it: max {max(beyond):.2f} s"
    say("disconnects", text, inside == times)
    return {"times": times, "within": inside, "beyond_backoff_s": beyond, "waits_s": waits, "bound_s": RECOVERY_BOUND_S}


def measure_viewers(subject: Subject, threads: int, seconds: float = 10.0, viewers: int = 100) -> dict[str, object]:
    """Age and rate with a hundred viewers in another process, against none, on a 60 fps scene."""
    rows = {}
    with Network(subject, threads) as network:
        for count in (0, viewers):
            gallery = Gallery(subject, network, "test://", live=True, synthetic=True, max_age=1.0)
            connect = functools.partial(open_reader, parse(f"test://?fps={SOURCE_FPS:g}"))
            session = Session(connect, network, Limits(duration=seconds), live=True, watchers=[gallery])
            with Server(gallery, Door("127.0.0.1"), "127.0.0.1", 0) as server:
                code = VIEWERS.format(url=f"http://127.0.0.1:{server.port}/view", count=count, seconds=seconds)
                crowd = subprocess.Popen([sys.executable, "-c", code]) if count else None
                session.run()
                if crowd is not None:
                    crowd.wait()
            rows[count] = {**session.tally.quantiles(), "fps": session.fps()}
    alone, crowded = rows[0], rows[viewers]
    say(
        "viewers",
        f"{viewers} on this CPU: {crowded['fps']:.1f} fps, age p50 {crowded['age_p50']:.1f}, "
        f"p99 {crowded['age_p99']:.1f} ms; none: {alone['fps']:.1f} fps, age p50 {alone['age_p50']:.1f}, "
        f"p99 {alone['age_p99']:.1f} ms",
        None,
    )
    return {"none": alone, str(viewers): crowded, "seconds": seconds}


VIEWERS = """
import asyncio, aiohttp
async def look(session):
    async with session.ws_connect("{url}") as socket:
        await socket.receive()
        while True:
            await socket.send_str('{{"ready": true}}')
            await socket.receive()
async def main():
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        tasks = [asyncio.ensure_future(look(session)) for _ in range({count})]
        await asyncio.wait(tasks, timeout={seconds} - 1)
        for task in tasks:
            task.cancel()
asyncio.run(main())
"""


def measure_paint(subject: Subject, threads: int, times: int = 5) -> dict[str, object] | None:
    """First contentful paint of the page in headless Chromium over loopback, while the network runs."""
    chromium = shutil.which("chromium")
    try:
        from playwright.sync_api import sync_playwright
    except ImportError:
        chromium = None
    if chromium is None:
        say("first paint", "not measured: needs chromium and playwright", None)
        return None
    flags = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--no-first-run", "--disable-sync"]
    paints = []
    with Network(subject, threads) as network:
        gallery = Gallery(subject, network, "test://", live=True, synthetic=True, max_age=1.0)
        session = Session(
            functools.partial(open_reader, parse("test://")), network, Limits(), live=True, watchers=[gallery]
        )
        thread = threading.Thread(target=session.run)
        thread.start()
        with Server(gallery, Door("127.0.0.1"), "127.0.0.1", 0) as server, sync_playwright() as running:
            browser = running.chromium.launch(executable_path=chromium, headless=True, args=flags)
            for _ in range(times):
                page = browser.new_page()
                page.goto(server.url)
                told: list[float] = []
                while not told:  # not by wait_for_function: the page's policy forbids eval
                    told = page.evaluate("performance.getEntriesByName('first-contentful-paint').map(e => e.startTime)")
                paints += told
                page.close()
            browser.close()
        session.stop()
        thread.join()
    say("first paint", f"max {max(paints):.0f} ms of {[round(p) for p in paints]}", max(paints) < PAINT_BOUND_MS)
    return {"ms": paints, "bound_ms": PAINT_BOUND_MS}


def measure_end(engine: Path, times: int) -> dict[str, object]:
    """Seconds from SIGINT to the end of the process, in every state."""
    results = {}
    with MjpegCamera() as mute, MjpegCamera() as camera:
        mute.silent = True
        states: dict[str, tuple[Sequence[str], str]] = {
            "live, page": (["test://", "--port", "0"], " live: "),
            "live, camera": ([camera.url, "--no-web"], " live: "),
            "connecting to a mute camera": ([mute.url, "--port", "0"], "page: "),
            "lost": ([f"http://127.0.0.1:{free_port()}/x.mjpeg", "--no-web"], " lost: "),
            "throttled": (["test://", "--no-web", "--max-fps", "0.2"], " live: "),
        }
        for state, (words, sign) in states.items():
            results[state] = [end_once([*words, "--engine", str(engine)], sign) for _ in range(times)]
            within = max(results[state]) < END_BOUND_S
            say("Ctrl-C", f"{state}: max {max(results[state]):.2f} s of {times}", within)
    return {"seconds": results, "bound_s": END_BOUND_S}


def end_once(words: Sequence[str], sign: str) -> float:
    """Start the command, interrupt it when `sign` was said, and wait."""
    with subprocess.Popen(
        [sys.executable, "-m", "edgehybrid", "stream", *words],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # a shell's background jobs ignore it
    ) as process:
        assert process.stderr is not None
        for line in process.stderr:
            if sign in line:
                break
        time.sleep(0.3)
        began = time.monotonic()
        process.send_signal(signal.SIGINT)
        process.wait()
        return time.monotonic() - began


def patient(until: Callable[[], bool], seconds: float = 60.0) -> None:
    """Wait for something that must come."""
    end = time.monotonic() + seconds
    while not until():
        if time.monotonic() > end:
            raise TimeoutError("the stream did not recover")
        time.sleep(0.005)


def resident_mib() -> float:
    """Memory of this process now."""
    return int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20


if __name__ == "__main__":
    main()
