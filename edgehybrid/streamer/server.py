"""Serve the page and send each viewer the newest picture as fast as that viewer takes it; a thread of its own.

A viewer gets a picture, says that it has drawn it, and gets the newest one of that moment: a slow one skips pictures
instead of falling behind, and holds nothing up. Each picture is drawn once for all, and only if somebody looks.
"""

import asyncio
import base64
import contextlib
import hashlib
import importlib.resources
import json
import logging
import threading
import time
from collections.abc import Awaitable, Callable

from aiohttp import WSCloseCode, WSMsgType, web
from aiohttp.http_exceptions import HttpProcessingError

from edgehybrid.errors import EdgeHybridError, ResourceError
from edgehybrid.streamer.access import ANY, Door
from edgehybrid.streamer.drawing import jpeg
from edgehybrid.streamer.gallery import Gallery
from edgehybrid.streamer.reception import Reception

VIEW_FPS = 15.0
SENDS_PER_S = 100.0
"""Pictures sent per second to all viewers together: many viewers get fewer each, and the network loses no time."""
MOST_VIEWERS = 256
_STATE_S = 1.0
_SEND_TIMEOUT_S = 10.0
_IDLE_S = 15.0
_FAREWELL_S = 0.6

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


class Server:
    """The page of one session. A context manager.

    Args:
        gallery: What is shown.
        door: Who may look.
        address: To bind to.
        port: Likewise; 0: any that is free.

    Raises:
        ResourceError: The port is taken, or the address is not this machine's.
    """

    def __init__(self, gallery: Gallery, door: Door, address: str, port: int) -> None:
        self._gallery, self._door, self._address, self.port = gallery, door, address, port
        self._page, self._policy = page()
        self._loop = asyncio.new_event_loop()
        self._started = threading.Event()
        self._error: Exception | None = None
        self._drawn = 0.0
        self._sockets: set[web.WebSocketResponse] = set()
        self._picture: tuple[int, bytes] = (0, b"")
        self._thread = threading.Thread(target=self._serve, name="page", daemon=True)

    @property
    def url(self) -> str:
        """Where to look, token included."""
        host = ANY.get(self._address, self._address)
        host = f"[{host}]" if ":" in host else host
        return f"http://{host}:{self.port}/" + ("" if self._door.token is None else f"?token={self._door.token}")

    def __enter__(self) -> "Server":
        self._thread.start()
        self._started.wait()
        if self._error is not None:
            raise ResourceError(
                f"the page cannot be served at {self._address}:{self.port}",
                why=getattr(self._error, "strerror", None) or str(self._error),
                fix="--port 0 takes any free port, --address must be this machine's, --no-web serves no page",
            ) from self._error
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(RuntimeError):  # the loop has ended
            self._loop.call_soon_threadsafe(self._end.set)
        self._thread.join(2 * _FAREWELL_S)

    # --- the thread ---------------------------------------------------------------------------------

    def _serve(self) -> None:
        asyncio.set_event_loop(self._loop)
        try:
            self._loop.run_until_complete(self._main())
        except Exception as error:  # told by `__enter__`, if it waits still
            if self._started.is_set():
                raise
            self._error = error
        finally:
            self._started.set()
            self._loop.close()

    async def _main(self) -> None:
        self._end, self._wanted, self._changed = asyncio.Event(), asyncio.Event(), asyncio.Event()
        app = web.Application(middlewares=[self._guard], client_max_size=1024)
        app.router.add_get("/", self._show_page)
        app.router.add_get("/view", self._show_view)
        app.router.add_get("/state.json", self._show_state)
        runner = web.AppRunner(
            app, access_log=None, logger=_logger(), shutdown_timeout=_FAREWELL_S / 2, keepalive_timeout=_IDLE_S
        )
        await runner.setup()
        assert runner.server is not None  # after setup
        self._reception = Reception(runner.server)
        try:
            listening = await self._loop.create_server(self._reception, self._address, self.port)
        except (OSError, UnicodeError) as error:  # the latter of a name that no host can have
            self._error = error
            await runner.cleanup()
            return
        self.port = listening.sockets[0].getsockname()[1]
        self._started.set()
        drawing, ended = asyncio.ensure_future(self._draw()), asyncio.ensure_future(self._end.wait())
        await asyncio.wait((drawing, ended), return_when=asyncio.FIRST_COMPLETED)
        broken = drawing.exception() if drawing.done() else None  # without pictures there is nothing to serve
        drawing.cancel()
        listening.close()
        farewells = [one.close(code=WSCloseCode.GOING_AWAY, message=b"the stream ended") for one in self._sockets]
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(asyncio.gather(*farewells, return_exceptions=True), _FAREWELL_S / 2)
        with contextlib.suppress(asyncio.TimeoutError):
            await asyncio.wait_for(runner.cleanup(), _FAREWELL_S)
        if broken is not None:
            raise broken

    @web.middleware
    async def _guard(self, request: web.Request, handler: Handler) -> web.StreamResponse:
        """Refuse strangers, and say to a browser what the page may do."""
        self._reception.hear(request)
        if not self._door.lets_host(request.headers.get("Host")):
            return _refusal(421, "This server is not called that. Use its address.")
        if not self._door.lets_origin(request.headers):
            return _refusal(403, "Another page may not look.")
        if self._door.token is None:
            return await handler(request)
        given, cookie = request.query.get("token"), f"edgehybrid_{self.port}"
        if not self._door.lets_token(given or request.cookies.get(cookie)):
            return _refusal(401, "A token is needed: use the address that the command printed.")
        if given is None or request.path != "/":
            return await handler(request)
        moved = web.Response(status=303, headers={**_HEADERS, "Location": "/"})  # out of address bar and history
        moved.set_cookie(cookie, given, httponly=True, samesite="Strict", path="/")
        return moved

    async def _show_page(self, request: web.Request) -> web.StreamResponse:
        return web.Response(
            body=self._page,
            content_type="text/html",
            charset="utf-8",
            headers={**_HEADERS, "Content-Security-Policy": self._policy},
        )

    async def _show_state(self, request: web.Request) -> web.StreamResponse:
        body = {**self._gallery.introduction(), **self._gallery.state()}
        return web.json_response(body, headers=_HEADERS)

    async def _show_view(self, request: web.Request) -> web.StreamResponse:
        """A viewer: pictures out, one at a time; wishes in."""
        if len(self._sockets) >= MOST_VIEWERS:
            return _refusal(503, f"{MOST_VIEWERS} viewers look already.")
        socket = web.WebSocketResponse(heartbeat=15, max_msg_size=1024, compress=False)
        await socket.prepare(request)
        self._sockets.add(socket)
        ready = asyncio.Event()
        sender = asyncio.ensure_future(self._send(socket, ready))
        try:
            async for message in socket:
                if message.type is not WSMsgType.TEXT or not self._obey(message.data, ready):
                    await socket.close(code=WSCloseCode.POLICY_VIOLATION, message=b"not understood")
        finally:
            sender.cancel()
            self._sockets.discard(socket)
        return socket

    def _obey(self, text: str, ready: asyncio.Event) -> bool:
        """What a page may say: that it is ready for a picture, or which variant it wants."""
        try:
            wish = json.loads(text)
        except (ValueError, RecursionError):
            return False
        if wish == {"ready": True}:
            ready.set()
            return True
        if isinstance(wish, dict) and wish.keys() == {"choose"} and isinstance(wish["choose"], str):
            with contextlib.suppress(EdgeHybridError):  # no such variant: nothing changes
                self._gallery.choose(wish["choose"])
            return True
        return False

    async def _send(self, socket: web.WebSocketResponse, ready: asyncio.Event) -> None:
        """Send the newest picture whenever the viewer is ready for one; at least the state once a second."""
        shown, due = 0, 0.0
        try:
            await socket.send_json(self._gallery.introduction())
            while True:
                await ready.wait()
                ready.clear()
                number, picture = await self._newer_than(shown, due)
                due = time.monotonic() + max(1 / VIEW_FPS, len(self._sockets) / SENDS_PER_S)
                if number == shown:
                    await asyncio.wait_for(socket.send_json(self._gallery.state()), _SEND_TIMEOUT_S)
                else:
                    await asyncio.wait_for(socket.send_bytes(picture), _SEND_TIMEOUT_S)
                shown = number
        except (ConnectionError, asyncio.TimeoutError, RuntimeError):  # the viewer has gone, or takes nothing
            await socket.close()

    async def _newer_than(self, shown: int, due: float) -> tuple[int, bytes]:
        """The newest picture, from the moment `due` on; `shown` itself without bytes if none comes in time."""
        await asyncio.sleep(max(0.0, due - time.monotonic()))
        until = time.monotonic() + _STATE_S
        while (left := until - time.monotonic()) > 0:
            if self._picture[0] != shown and time.monotonic() - self._drawn < 1 / VIEW_FPS:
                return self._picture
            self._wanted.set()
            with contextlib.suppress(asyncio.TimeoutError):
                await asyncio.wait_for(self._changed.wait(), left)
        return shown, b""

    async def _draw(self) -> None:
        """Draw the newest answer for everybody who waits: length of the JSON in 4 bytes, the JSON, the JPEG."""
        while True:
            await self._wanted.wait()
            await asyncio.sleep(max(0.02, self._drawn + 1 / VIEW_FPS - time.monotonic()))
            if self._gallery.number == self._picture[0]:
                continue
            self._wanted.clear()
            sight = self._gallery.look()
            assert sight.answer is not None  # its number is above 0
            image = await self._loop.run_in_executor(None, jpeg, sight.answer.frame.pixels)
            caption = {**self._gallery.state(), "kind": "picture", **self._gallery.caption(sight)}
            head = json.dumps(caption).encode()
            self._picture, self._drawn = (sight.number, len(head).to_bytes(4, "big") + head + image), time.monotonic()
            changed, self._changed = self._changed, asyncio.Event()
            changed.set()


def page() -> tuple[bytes, str]:
    """The page in one file, and the policy that lets it run its own script and style and load nothing at all."""
    home = importlib.resources.files("edgehybrid.streamer")
    html, style, script = ((home / f"page.{kind}").read_text(encoding="utf-8") for kind in ("html", "css", "js"))
    whole = html.replace("/* page.css */", style).replace("/* page.js */", script)
    policy = (
        "default-src 'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'; connect-src 'self'; "
        f"img-src blob: data:; style-src 'sha256-{_digest(style)}'; script-src 'sha256-{_digest(script)}'"
    )
    return whole.encode(), policy


_HEADERS = {
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cross-Origin-Resource-Policy": "same-origin",
}


def _logger() -> logging.Logger:
    """aiohttp's, without what others do wrong: leave in the middle of a request, or send what is none."""
    theirs = (ConnectionError, HttpProcessingError)
    found = logging.getLogger("edgehybrid.page")
    found.filters = [lambda record: not (record.exc_info and isinstance(record.exc_info[1], theirs))]
    return found


def _digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _refusal(status: int, text: str) -> web.Response:
    refusal = web.Response(status=status, text=f"{text}\n", headers=_HEADERS)
    refusal.force_close()
    return refusal
