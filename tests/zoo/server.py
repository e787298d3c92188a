"""A file server on loopback that can be told to misbehave."""

import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer


class FileServer:
    """Serves one file, with ranges, as RFC 9110 says; every attribute may change between requests."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        self.etag: str | None = '"v1"'
        self.modified: str | None = None
        self.ranges = True
        self.status = 200
        self.cuts: list[int] = []  # the next response ends after so many bytes of its body, then the one after it
        self.pause_at = 0  # the body stops here until `ready` is set again; 0: never
        self.extra_length = 0  # bytes promised beyond those that exist
        self.says_length = True
        self.redirect: str | None = None
        self.ready = threading.Event()  # headers are sent only when set
        self.ready.set()
        self.asked: list[str | None] = []  # the Range header of each request
        self.url = ""

    @contextmanager
    def running(self) -> "Iterator[FileServer]":
        """Serve until the block ends."""

        class Handler(BaseHTTPRequestHandler):
            def do_GET(handler) -> None:  # noqa: N805
                self._answer(handler)

            def log_message(handler, *args: object) -> None:  # noqa: N805
                """Keep quiet."""

        with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
            self.url = f"http://127.0.0.1:{server.server_port}/release/net.pth"
            thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.01})
            thread.start()
            try:
                yield self
            finally:
                self.ready.set()
                server.shutdown()
                thread.join()

    def _answer(self, handler: BaseHTTPRequestHandler) -> None:
        self.asked.append(handler.headers.get("Range"))
        self.ready.wait(10)
        if self.redirect or self.status != 200:
            handler.send_response(302 if self.redirect else self.status)
            if self.redirect:
                handler.send_header("Location", self.redirect)
            handler.send_header("Content-Length", "0")
            handler.end_headers()
            return
        start = 0
        wanted, condition = handler.headers.get("Range"), handler.headers.get("If-Range")
        if wanted and self.ranges and condition in (None, self.etag, self.modified):
            start = int(wanted.removeprefix("bytes=").removesuffix("-"))
        if start >= len(self.content) > 0:
            handler.send_error(416)
            return
        body = self.content[start:]
        handler.send_response(206 if start else 200)
        if start:
            total = len(self.content) + self.extra_length
            handler.send_header("Content-Range", f"bytes {start}-{total - 1}/{total}")
        if self.says_length:
            handler.send_header("Content-Length", str(len(body) + self.extra_length))
        if self.etag:
            handler.send_header("ETag", self.etag)
        if self.modified:
            handler.send_header("Last-Modified", self.modified)
        handler.end_headers()
        with suppress(ConnectionError):  # the client may leave early
            if self.pause_at:
                handler.wfile.write(body[: self.pause_at])
                self.ready.clear()
                self.ready.wait(10)
                body = body[self.pause_at :]
            handler.wfile.write(body[: self.cuts.pop(0)] if self.cuts else body)
