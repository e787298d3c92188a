"""The page's server: who may look, that viewers get the newest picture and hold nothing up."""

import asyncio
import base64
import contextlib
import hashlib
import json
import re
import socket
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from pathlib import Path
from typing import get_args

import aiohttp
import pytest

from edgehybrid.errors import ResourceError
from edgehybrid.records import Precision
from edgehybrid.streamer import reception
from edgehybrid.streamer import server as server_module
from edgehybrid.streamer.access import Door, host_of, is_loopback
from edgehybrid.streamer.drawing import jpeg
from edgehybrid.streamer.frame import Frame
from edgehybrid.streamer.gallery import Gallery
from edgehybrid.streamer.network import Answer, Network
from edgehybrid.streamer.server import SENDS_PER_S, Server, page
from tests.streamer.scenes import picture, subject

TOKEN = "a-token-of-the-test"


@pytest.fixture
def gallery(tmp_path: Path) -> Gallery:
    whole = subject(tmp_path)
    return Gallery(whole, Network(whole, threads=1), "rtsp://cam/main", live=True, synthetic=False, max_age=1.0)


@pytest.fixture
def server(gallery: Gallery) -> Iterator[Server]:
    with Server(gallery, Door("127.0.0.1"), "127.0.0.1", 0) as running:
        yield running


@pytest.fixture
def guarded(gallery: Gallery) -> Iterator[Server]:
    """As bound to an address that others reach, but on loopback."""
    with Server(gallery, Door("192.0.2.7", TOKEN), "127.0.0.1", 0) as running:
        yield running


def answer(number: int) -> Answer:
    now = time.monotonic()
    frame = Frame(number, picture(number % 5, 90, 160), now - 0.02, live=True)
    return Answer(frame, "int8", ((2, 0.7), (1, 0.2), (0, 0.1)), 5.0, now)


@contextlib.contextmanager
def answering(gallery: Gallery, fps: float = 100.0) -> Iterator[None]:
    """Answers come, as from the inference thread."""
    done = threading.Event()

    def work() -> None:
        number = 0
        while not done.wait(1 / fps):
            gallery.answered(answer(number), late=False)
            number += 1

    thread = threading.Thread(target=work)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def browse(work: Callable[[aiohttp.ClientSession], Awaitable[None]]) -> None:
    async def whole() -> None:
        async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
            await work(session)

    asyncio.run(whole())


@contextlib.asynccontextmanager
async def viewer(session: aiohttp.ClientSession, server: Server) -> AsyncIterator[aiohttp.ClientWebSocketResponse]:
    async with session.ws_connect(f"http://127.0.0.1:{server.port}/view") as socket:
        introduction = await socket.receive_json()
        assert introduction["kind"] == "introduction"
        yield socket


async def next_picture(socket: aiohttp.ClientWebSocketResponse) -> tuple[dict[str, object], bytes]:
    while True:
        await socket.send_json({"ready": True})
        message = await socket.receive(timeout=10)
        if message.type is aiohttp.WSMsgType.BINARY:
            length = int.from_bytes(message.data[:4], "big")
            return json.loads(message.data[4 : 4 + length]), message.data[4 + length :]
        assert message.type is aiohttp.WSMsgType.TEXT, message


# --- the page ---------------------------------------------------------------------------------------


def test_the_page_is_one_file_that_loads_nothing_and_runs_only_its_own_script() -> None:
    whole, policy = page()
    text = whole.decode()
    assert "https:" not in text
    assert re.findall(r"""(?:src|href)=["'](?!data:|/state\.json)""", text) == []
    for tag in ("style", "script"):
        (content,) = re.findall(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)
        assert len(content) > 1000
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        assert f"{tag}-src 'sha256-{digest}'" in policy
    assert "default-src 'none'" in policy


def test_every_precision_has_a_colour_in_light_and_in_dark() -> None:
    text = page()[0].decode()
    assert {name: text.count(f"--{name}: #") for name in get_args(Precision)} == dict.fromkeys(get_args(Precision), 2)


def test_the_page_and_the_state_are_served_without_a_cache(server: Server, gallery: Gallery) -> None:
    async def work(session: aiohttp.ClientSession) -> None:
        async with session.get(server.url) as response:
            assert (response.status, response.content_type) == (200, "text/html")
            assert response.headers["Cache-Control"] == "no-store"
            assert "Access-Control-Allow-Origin" not in response.headers
        gallery.answered(answer(0), late=False)
        async with session.get(f"{server.url}state.json") as response:
            state = await response.json()
            assert (state["source"], state["variant"], state["phase"]) == ("rtsp://cam/main", "int8", "connecting")

    browse(work)


# --- who may look -----------------------------------------------------------------------------------

ELSEWHERE = ["evil.example", "evil.example:8080", "127.0.0.1.evil.example", "", "localhost@evil.example", "a b"]


@pytest.mark.parametrize("path", ["/", "/view", "/state.json"])
@pytest.mark.parametrize("host", ELSEWHERE)
def test_a_site_that_points_its_name_here_is_refused(server: Server, path: str, host: str) -> None:
    async def work(session: aiohttp.ClientSession) -> None:
        async with session.get(f"http://127.0.0.1:{server.port}{path}", headers={"Host": host}) as response:
            assert response.status in (400, 421)

    browse(work)


@pytest.mark.parametrize("origin", ["http://evil.example", "null", "http://127.0.0.1:1", "https://127.0.0.1"])
def test_another_page_is_refused(server: Server, origin: str) -> None:
    async def work(session: aiohttp.ClientSession) -> None:
        for path in ("/", "/view", "/state.json"):
            url = f"http://127.0.0.1:{server.port}{path}"
            async with session.get(url, headers={"Origin": origin}) as response:
                assert response.status == 403
        with pytest.raises(aiohttp.WSServerHandshakeError):
            await session.ws_connect(f"http://127.0.0.1:{server.port}/view", headers={"Origin": origin})
        own = {"Origin": f"http://127.0.0.1:{server.port}"}
        async with session.ws_connect(f"http://127.0.0.1:{server.port}/view", headers=own) as socket:
            assert (await socket.receive_json())["kind"] == "introduction"

    browse(work)


def test_an_address_that_others_reach_needs_the_token(guarded: Server) -> None:
    base = f"http://127.0.0.1:{guarded.port}"

    async def work(session: aiohttp.ClientSession) -> None:
        for path in ("/", "/state.json", "/view", "/?token=wrong", "/?token=", "/nothing"):
            async with session.get(base + path) as response:
                assert response.status == 401, path
        async with session.get(f"{base}/?token={TOKEN}", allow_redirects=False) as response:
            assert (response.status, response.headers["Location"]) == (303, "/")
            assert (response.headers["Cache-Control"], response.headers["Referrer-Policy"]) == (
                "no-store",
                "no-referrer",
            )
            cookie = response.headers["Set-Cookie"]
            assert "HttpOnly" in cookie
            assert "SameSite=Strict" in cookie
        kept = {"Cookie": cookie.split(";")[0]}
        async with session.get(base, headers=kept) as response:
            assert response.status == 200
            assert TOKEN not in await response.text()
        async with session.ws_connect(f"{base}/view", headers=kept) as socket:
            assert (await socket.receive_json())["kind"] == "introduction"

    browse(work)
    assert guarded.url.endswith(f"?token={TOKEN}")


def test_a_server_that_others_reach_knows_its_names() -> None:
    door, name = Door("Robot.example"), socket.gethostname()
    for host in (
        "robot.example",
        "ROBOT.example:80",
        name,
        f"{name}.local",
        "localhost",
        "10.1.2.3:80",
        "[fe80::1]:80",
    ):
        assert door.lets_host(host), host
    for host in ("evil.example", f"{name}.evil.example", "robot.example.evil.example", "10.1.2.3.evil.example"):
        assert not door.lets_host(host), host


def test_tokens_are_random_and_only_for_addresses_that_others_reach() -> None:
    tokens = {Door("0.0.0.0").token for _ in range(20)}
    assert len(tokens) == 20
    assert all(token is not None and len(token) >= 24 for token in tokens)
    assert [Door(address).token for address in ("127.0.0.1", "localhost", "::1")] == [None, None, None]
    assert not is_loopback("camera.local")


@pytest.mark.parametrize(
    ("header", "host"),
    [("cam:80", "cam"), ("[::1]:80", "::1"), ("CAM", "cam"), ("a/b", None), ("u@h", None), ("", None), ("x:y", None)],
)
def test_host_headers_are_read(header: str, host: str | None) -> None:
    assert host_of(header) == host


PATHS = [
    "/../etc/passwd",
    "/%2e%2e/%2e%2e/etc/passwd",
    "/..%2f..%2fetc%2fpasswd",
    "/page.js",
    "//etc/passwd",
    "/view/../x",
]


@pytest.mark.parametrize("path", PATHS)
def test_there_is_nothing_but_three_paths(server: Server, path: str) -> None:
    answer = send(server, f"GET {path} HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n".encode())
    assert answer.split()[1] in (b"404", b"400")
    assert b"root:" not in answer


REQUESTS = {
    "not utf-8 in the token": b"GET /?token=%ff%fe HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "half a character in the token": b"GET /?token=%ed%a0%80 HTTP/1.1\r\nHost: localhost\r\n\r\n",
    "not utf-8 in the cookie": b"GET / HTTP/1.1\r\nHost: localhost\r\nCookie: edgehybrid_PORT=\xff\xfe\r\n\r\n",
    "a Host in another alphabet": "GET / HTTP/1.1\r\nHost: löcalhost\r\n\r\n".encode(),
    "two Hosts": b"GET / HTTP/1.1\r\nHost: localhost\r\nHost: evil.example\r\n\r\n",
    "two lengths": b"GET / HTTP/1.1\r\nHost: localhost\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
    "an endless header": b"GET / HTTP/1.1\r\nHost: localhost\r\nX: " + b"a" * 100_000,
    "no HTTP": b"\x16\x03\x01\x00\xa5\x01\x00" + bytes(range(200)),
}


@pytest.mark.parametrize("what", REQUESTS)
def test_what_strangers_send_is_refused_and_told_nobody(
    guarded: Server, what: str, capsys: pytest.CaptureFixture[str], caplog: pytest.LogCaptureFixture
) -> None:
    answer = send(guarded, REQUESTS[what].replace(b"PORT", str(guarded.port).encode()))  # to its end: it hangs up
    assert answer.split()[1] in (b"400", b"401", b"421")
    assert (capsys.readouterr().err, caplog.text) == ("", "")


def test_connections_that_ask_for_nothing_are_ended_and_do_not_fill_the_server(
    server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reception, "MOST_CONNECTIONS", 20)
    monkeypatch.setattr(reception, "REQUEST_S", 1.0)

    async def dawdle() -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        with contextlib.suppress(ConnectionError):
            writer.write(b"GET / HTTP/1.1\r\nHost: local")
            await reader.read()  # until it hangs up
        writer.close()
        return b""

    async def work(session: aiohttp.ClientSession) -> None:
        async with viewer(session, server) as one:
            slow = [asyncio.ensure_future(dawdle()) for _ in range(60)]
            await asyncio.wait(slow, timeout=10)
            assert all(task.done() for task in slow)
            await one.send_json({"ready": True})  # who came before stays
            assert (await one.receive_json(timeout=5))["kind"] == "state"
            async with session.get(server.url) as response:
                assert response.status == 200

    browse(work)


def send(server: Server, request: bytes) -> bytes:
    """What the server answers until it hangs up."""

    async def work() -> bytes:
        reader, writer = await asyncio.open_connection("127.0.0.1", server.port)
        writer.write(request)
        try:
            return await asyncio.wait_for(reader.read(), 10)
        finally:
            writer.close()

    return asyncio.run(work())


# --- viewers ----------------------------------------------------------------------------------------


def test_a_viewer_gets_the_newest_picture_with_its_answer(server: Server, gallery: Gallery) -> None:
    async def work(session: aiohttp.ClientSession) -> None:
        async with viewer(session, server) as socket:
            for number in range(3):
                gallery.answered(answer(number), late=number == 2)
            caption, image = await next_picture(socket)
            assert (caption["id"], caption["late"], caption["ran"]) == (2, True, "int8")
            assert caption["top"] == [["colour 2", 0.7], ["colour 1", 0.2], ["colour 0", 0.1]]
            assert image == jpeg(picture(2, 90, 160))

    browse(work)


def test_a_viewer_without_a_new_picture_hears_of_the_connection(server: Server) -> None:
    async def work(session: aiohttp.ClientSession) -> None:
        async with viewer(session, server) as socket:
            await socket.send_json({"ready": True})
            state = await socket.receive_json(timeout=5)
            assert (state["kind"], state["phase"]) == ("state", "connecting")

    browse(work)


def test_a_viewer_that_does_not_answer_holds_nobody_up(server: Server, gallery: Gallery) -> None:
    async def work(session: aiohttp.ClientSession) -> None:
        async with viewer(session, server) as stuck, viewer(session, server) as quick:
            await stuck.send_json({"ready": True})  # and never again
            seen = [(await next_picture(quick))[0]["id"] for _ in range(10)]
            assert seen == sorted(set(seen))  # type: ignore[type-var]
            one = await stuck.receive(timeout=5)
            assert one.type is aiohttp.WSMsgType.BINARY
            with pytest.raises(asyncio.TimeoutError):
                await stuck.receive(timeout=0.5)  # nothing piled up
            await stuck.send_json({"ready": True})
            late = await stuck.receive(timeout=5)
            length = int.from_bytes(late.data[:4], "big")
            assert json.loads(late.data[4 : 4 + length])["id"] >= seen[-1]  # the newest, not the next

    with answering(gallery):
        browse(work)


def test_a_hundred_viewers_share_one_drawing_and_a_budget(
    server: Server, gallery: Gallery, monkeypatch: pytest.MonkeyPatch
) -> None:
    drawn: list[float] = []

    def draw(pixels: object) -> bytes:
        drawn.append(time.monotonic())
        return b"a picture"

    monkeypatch.setattr(server_module, "jpeg", draw)
    got = [0] * 100

    async def look(session: aiohttp.ClientSession, number: int) -> None:
        async with viewer(session, server) as socket:
            end = time.monotonic() + 3
            while time.monotonic() < end:
                await next_picture(socket)
                got[number] += 1

    async def work(session: aiohttp.ClientSession) -> None:
        await asyncio.gather(*(look(session, number) for number in range(100)))

    began = time.monotonic()
    with answering(gallery):
        browse(work)
    seconds = time.monotonic() - began
    assert min(got) >= 2
    assert sum(got) <= SENDS_PER_S * seconds + 200
    assert len(drawn) <= server_module.VIEW_FPS * seconds + 2


def test_nothing_is_drawn_when_nobody_looks(server: Server, gallery: Gallery, monkeypatch: pytest.MonkeyPatch) -> None:
    drawn: list[object] = []
    monkeypatch.setattr(server_module, "jpeg", lambda pixels: drawn.append(pixels) or b"")
    with answering(gallery):
        browse(lambda session: asyncio.sleep(0.3))
        assert drawn == []

        async def look(session: aiohttp.ClientSession) -> None:
            async with viewer(session, server) as one:
                await next_picture(one)

        browse(look)
    assert drawn != []


def test_a_viewer_can_change_the_variant(server: Server, gallery: Gallery) -> None:
    async def work(session: aiohttp.ClientSession) -> None:
        async with viewer(session, server) as socket:
            await socket.send_json({"choose": "no such"})
            await socket.send_json({"choose": "fp32"})
            await socket.send_json({"ready": True})
            state = await socket.receive_json(timeout=5)
            assert state["wanted"] == "fp32"

    browse(work)


@pytest.mark.parametrize("said", ["", "{", "[]", '{"choose": 5}', '{"ready": true, "x": 1}', "x" * 2000])
def test_a_viewer_that_talks_nonsense_is_shown_out(server: Server, said: str) -> None:
    async def work(session: aiohttp.ClientSession) -> None:
        async with viewer(session, server) as socket:
            await socket.send_str(said)
            message = await socket.receive(timeout=5)
            assert message.type in (aiohttp.WSMsgType.CLOSE, aiohttp.WSMsgType.CLOSED)

    browse(work)


def test_the_server_ends_at_once_with_viewers_of_every_kind(gallery: Gallery) -> None:
    async def work(session: aiohttp.ClientSession) -> None:
        server = await asyncio.to_thread(Server(gallery, Door("127.0.0.1"), "127.0.0.1", 0).__enter__)
        async with viewer(session, server) as idle, viewer(session, server) as busy:
            await busy.send_json({"ready": True})
            began = time.monotonic()
            await asyncio.to_thread(server.__exit__)
            assert time.monotonic() - began < 1.5
            await busy.receive(timeout=2)
            assert not server._thread.is_alive()
            await idle.close()

    with answering(gallery):
        browse(work)


def test_a_port_that_is_taken_is_named(server: Server, gallery: Gallery) -> None:
    with pytest.raises(ResourceError, match=f":{server.port}") as caught:
        Server(gallery, Door("127.0.0.1"), "127.0.0.1", server.port).__enter__()
    assert "--port 0" in caught.value.fix


def test_an_address_that_no_host_can_have_is_named(gallery: Gallery) -> None:
    with pytest.raises(ResourceError, match=r"a\.\.b:0"), Server(gallery, Door("a..b"), "a..b", 0):
        raise AssertionError("served")


def test_a_page_without_pictures_ends_instead_of_standing_still(
    gallery: Gallery, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(_: object) -> bytes:
        raise ValueError("no picture")

    raised: list[BaseException | None] = []
    monkeypatch.setattr(server_module, "jpeg", fail)
    monkeypatch.setattr(threading, "excepthook", lambda given: raised.append(given.exc_value))

    async def look(session: aiohttp.ClientSession) -> None:
        async with session.ws_connect(f"http://127.0.0.1:{running.port}/view") as view:
            await view.send_json({"ready": True})
            assert [message async for message in view]  # until it is closed

    with Server(gallery, Door("127.0.0.1"), "127.0.0.1", 0) as running, answering(gallery):
        browse(look)
    assert [str(error) for error in raised] == ["no picture"]


def test_a_wish_of_a_thousand_brackets_is_not_understood(server: Server) -> None:
    async def look(session: aiohttp.ClientSession) -> None:
        async with session.ws_connect(f"http://127.0.0.1:{server.port}/view") as view:
            await view.send_str("[" * 1020)
            assert [message async for message in view]
            assert view.close_code == aiohttp.WSCloseCode.POLICY_VIOLATION

    browse(look)
