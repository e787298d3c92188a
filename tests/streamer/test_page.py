"""The page in a real browser: what it shows, by mouse and by keyboard, at laptop and phone width, light and dark."""

import contextlib
import os
import shutil
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from edgehybrid.streamer.access import Door
from edgehybrid.streamer.capture import Health
from edgehybrid.streamer.frame import Frame
from edgehybrid.streamer.gallery import Gallery
from edgehybrid.streamer.network import Answer, Network
from edgehybrid.streamer.server import Server
from edgehybrid.streamer.synthetic import Scene
from tests.streamer.scenes import subject

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser") or shutil.which("google-chrome")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium is installed")
FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
SHOTS = os.environ.get("EDGEHYBRID_SCREENSHOTS")
"""A folder, if somebody wants to look."""
FIGURES = {
    "fps": 21.4, "inferred": 1234, "captured": 2345, "dropped": 1100, "stale": 2, "blank": 0, "damaged": 9, "late": 1,
    "reconnects": 1, "age_p50": 41.2, "age_p99": 66.0, "age_max": 120.0, "inference_p50": 31.5, "inference_p99": 40.1,
}  # fmt: skip


@pytest.fixture(scope="module")
def browser() -> Iterator["Browser"]:
    playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    with playwright.sync_playwright() as running:
        found = running.chromium.launch(executable_path=CHROMIUM, headless=True, args=FLAGS)
        yield found
        found.close()


CONTRASTS = """() => {
    const numbers = (text) => text.match(/[\\d.]+/g).map(Number);
    const light = (rgb) => rgb.map((v) => (v /= 255) <= 0.03928 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4)
        .reduce((sum, v, i) => sum + v * [0.2126, 0.7152, 0.0722][i], 0);
    const behind = (element) => {
        for (; element; element = element.parentElement) {
            const [r, g, b, a = 1] = numbers(getComputedStyle(element).backgroundColor);
            if (a === 1) return [r, g, b];
        }
        return [255, 255, 255];
    };
    return [...document.querySelectorAll("body *")]
        .filter((e) => e.checkVisibility() && [...e.childNodes].some((n) => n.nodeType === 3 && n.data.trim()))
        .map((e) => {
            const back = behind(e), opacity = Number(getComputedStyle(e).opacity);
            const ink = numbers(getComputedStyle(e).color).slice(0, 3);
            const shown = ink.map((v, i) => opacity * v + (1 - opacity) * back[i]);
            const [one, other] = [light(back) + 0.05, light(shown) + 0.05];
            return [e.outerHTML.slice(0, 80), Math.max(one, other) / Math.min(one, other)];
        });
}"""
"""Of each text with what is behind it, as WCAG defines it."""


class Stage:
    """A gallery whose answers come from a thread, and its server."""

    def __init__(self, folder: Path) -> None:
        self.subject = subject(folder)
        self.network = Network(self.subject, threads=1)
        self.gallery = Gallery(self.subject, self.network, "rtsp://cam/main", live=True, synthetic=False, max_age=1.0)
        self.gallery.figures = lambda: FIGURES
        self.gallery.device = lambda: {"machine": "a <b>test</b>", "power": "7.5 W"}
        self.gallery.changed(Health("live", "h264 320x180"))
        self.answers = threading.Event()
        self.answers.set()
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._answer)

    def __enter__(self) -> "Stage":
        self.server = Server(self.gallery, Door("127.0.0.1"), "127.0.0.1", 0).__enter__()
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()
        self.server.__exit__()

    def _answer(self) -> None:
        scene, number = Scene(320, 180), 0
        while not self._done.wait(0.05):
            if self.answers.is_set():
                now = time.monotonic()
                frame = Frame(number, scene.draw(number / 20), now - 0.04, live=True)
                found = self.network.answer(frame)
                self.gallery.answered(Answer(frame, found.variant, found.top, 8.0, now), late=False)
                number += 1


@pytest.fixture
def stage(tmp_path: Path) -> Iterator[Stage]:
    with Stage(tmp_path) as running:
        yield running


@contextlib.contextmanager
def opened(
    browser: "Browser", stage: Stage, size: tuple[int, int] = (1280, 800), scheme: str = "light"
) -> Iterator["Page"]:
    """The page, showing its first picture; any error or warning of the browser fails the test."""
    context = browser.new_context(
        viewport={"width": size[0], "height": size[1]},
        color_scheme=scheme,  # type: ignore[arg-type]
        accept_downloads=True,
    )
    page, said = context.new_page(), []
    page.on("console", lambda message: said.append(message.text))
    page.on("pageerror", lambda error: said.append(str(error)))
    page.goto(stage.server.url)
    wait(lambda: page.inner_text("#frame").startswith("frame"))  # in Python: the page's policy forbids eval
    yield page
    context.close()
    assert [text for text in said if "WebSocket" not in text] == []


def numbers(page: "Page") -> int:
    text = page.inner_text("#frame")
    return int(text.split()[1].rstrip(",").replace(",", ""))


def wait(until: Callable[[], bool], seconds: float = 10.0) -> None:
    end = time.monotonic() + seconds
    while not until():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize(("name", "size"), [("laptop", (1280, 800)), ("phone", (390, 844))])
def test_it_fits_and_shows_what_is_true(
    browser: "Browser", stage: Stage, name: str, size: tuple[int, int], scheme: str
) -> None:
    with opened(browser, stage, size, scheme) as page:
        assert page.evaluate("document.documentElement.scrollWidth") == size[0]
        assert page.inner_text("#phase") == "live"
        assert page.inner_text("#fps") == "21.4"
        assert page.inner_text("#frames") == "1,234 of 2,345 frames"
        assert page.inner_text("#age99") == "p99 66, max 120 ms"
        assert page.inner_text("#refused") == "2 stale, 9 damaged, 1 late, 1 reconnect"
        assert page.locator("#top li").count() == 5
        assert page.locator("#top li").first.inner_text().startswith("colour ")
        assert page.inner_text("#device dd >> nth=0") == "a <b>test</b>"  # text, not markup
        inside = "e => e.getBoundingClientRect().right <= innerWidth + 0.5 && e.getBoundingClientRect().left >= -0.5"
        for element in page.query_selector_all("main *"):
            assert element.evaluate(inside), element.evaluate("e => e.outerHTML.slice(0, 120)")
        assert [text for text, ratio in page.evaluate(CONTRASTS) if ratio < 4.5] == []
        first = numbers(page)
        wait(lambda: numbers(page) > first + 3)
        assert "," in (page.get_attribute("#line-age", "points") or "")
        if SHOTS:
            page.screenshot(path=f"{SHOTS}/{name}-{scheme}.png", full_page=True)


def test_a_frozen_picture_is_said_to_be_frozen(browser: "Browser", stage: Stage) -> None:
    with opened(browser, stage, (390, 844), "dark") as page:
        stage.answers.clear()
        stage.gallery.changed(Health("frozen", "h264"))
        page.wait_for_selector("main.old", timeout=5000)
        assert page.inner_text("#phase") == "frozen"
        assert "repeats its picture" in page.inner_text("#over")
        if SHOTS:
            page.screenshot(path=f"{SHOTS}/frozen.png", full_page=True)


def test_keys_alone_change_the_variant_pause_and_save(browser: "Browser", stage: Stage, tmp_path: Path) -> None:
    with opened(browser, stage) as page:
        for _ in range(6):
            page.keyboard.press("Tab")
            if page.evaluate("document.activeElement.name") == "variant":
                break
        assert page.evaluate("document.activeElement.value") == "int8"
        page.keyboard.press("ArrowUp")
        wait(lambda: ", fp32," in page.inner_text("#frame"))
        assert stage.network.current.name == "fp32"
        page.keyboard.press("p")
        assert page.get_attribute("#pause", "aria-pressed") == "true"
        time.sleep(0.2)
        held = numbers(page)
        time.sleep(0.5)
        assert numbers(page) == held
        with page.expect_download() as waiting:
            page.keyboard.press("s")
        saved = tmp_path / "snapshot.png"
        waiting.value.save_as(saved)
        assert waiting.value.suggested_filename == f"edgehybrid-frame-{held}.png"
        assert saved.read_bytes().startswith(b"\x89PNG")
        if SHOTS:
            shutil.copy(saved, f"{SHOTS}/snapshot.png")
        page.keyboard.press("p")
        wait(lambda: numbers(page) > held)


def test_a_picture_that_is_no_longer_true_is_not_shown_as_if_it_were(browser: "Browser", stage: Stage) -> None:
    with opened(browser, stage) as page:
        assert page.locator("main.old").count() == 0
        stage.answers.clear()
        stage.gallery.changed(Health("waiting", "h264", "connection reset", 3.2))
        page.wait_for_selector("main.old", timeout=5000)
        assert page.inner_text("#phase") == "lost"
        assert "connection reset; next attempt after 3.2 s" in page.inner_text("#over")
        if SHOTS:
            page.screenshot(path=f"{SHOTS}/lost.png", full_page=True)
        stage.gallery.changed(Health("live", "h264"))
        stage.answers.set()
        wait(lambda: page.locator("main.old").count() == 0)
        stage.answers.clear()  # frames stop and nobody says why
        page.wait_for_selector("main.old", timeout=8000)
        assert "No new answer" in page.inner_text("#over")


def test_a_page_left_open_says_that_the_command_has_ended(browser: "Browser", stage: Stage) -> None:
    with opened(browser, stage) as page:
        stage.server.__exit__()
        wait(lambda: page.inner_text("#phase") == "no server")
        assert "has ended" in page.inner_text("#over")
