"""Network cameras of the tests' own: MJPEG over HTTP that can be slow, cut, killed, half-open; RTSP by GStreamer."""

import contextlib
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from edgehybrid.streamer.drawing import jpeg
from edgehybrid.streamer.synthetic import Scene

Picture = Callable[[int], bytes]
BOUNDARY = b"--frame"


def scene_jpeg(number: int) -> bytes:
    return jpeg(Scene(160, 96).draw(number / 20))


def flat_jpeg(colour: tuple[int, int, int]) -> bytes:
    return jpeg(np.full((96, 160, 3), colour, np.uint8))


class MjpegCamera:
    """Serves multipart MJPEG on a loopback port until told otherwise; every connection is a new stream.

    Attributes:
        picture: Frame number -> JPEG; counted over all connections.
        fps: Of each connection.
        status: Answered instead of a stream where it is not 200.
        silent: Keep connections open and send nothing more: half-open, as when a cable is pulled.
        connections: How many were accepted.
        requests: What clients sent.
    """

    def __init__(
        self, picture: Picture = scene_jpeg, fps: float = 30.0, port: int = 0, *, protected: bool = False
    ) -> None:
        self._protected = protected
        self.picture, self.fps, self.status, self.silent = picture, fps, 200, False
        self.connections, self.number = 0, 0
        self.requests: list[bytes] = []
        self._open: set[socket.socket] = set()
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", port))
        self.port = self._listener.getsockname()[1]
        self._dead = False
        threading.Thread(target=self._accept, daemon=True).start()

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.port}/video.mjpeg"

    def cut(self) -> None:
        """Break every connection, as a reset does."""
        with self._lock:
            for one in self._open:
                with contextlib.suppress(OSError):
                    one.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
                    one.shutdown(socket.SHUT_RDWR)
                one.close()
            self._open.clear()

    def kill(self) -> None:
        """Stop listening too; a new camera may take the port."""
        self._dead = True
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        self.cut()

    def __enter__(self) -> "MjpegCamera":
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def _accept(self) -> None:
        while not self._dead:
            try:
                one, _ = self._listener.accept()
            except OSError:
                return
            with self._lock:
                self._open.add(one)
                self.connections += 1
            threading.Thread(target=self._serve, args=(one,), daemon=True).start()

    def _serve(self, one: socket.socket) -> None:
        try:
            self.requests.append(one.recv(4096))
            if self._protected and b"Authorization: Basic" not in self.requests[-1]:
                one.sendall(b'HTTP/1.1 401 no\r\nWWW-Authenticate: Basic realm="camera"\r\nConnection: close\r\n\r\n')
                one.close()
                return
            if self.status != 200:
                one.sendall(b"HTTP/1.1 %d no\r\nContent-Length: 0\r\nConnection: close\r\n\r\n" % self.status)
                one.close()
                return
            one.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: multipart/x-mixed-replace; boundary=frame\r\n\r\n")
            while True:
                while self.silent:
                    time.sleep(0.02)
                with self._lock:
                    number, self.number = self.number, self.number + 1
                body = self.picture(number)
                head = b"%s\r\nContent-Type: image/jpeg\r\nContent-Length: %d\r\n\r\n" % (BOUNDARY, len(body))
                one.sendall(head + body + b"\r\n")
                time.sleep(1 / self.fps)
        except OSError:
            return


RTSP_SERVER = """
import sys
import gi
gi.require_version("Gst", "1.0")
gi.require_version("GstRtspServer", "1.0")
from gi.repository import GLib, Gst, GstRtspServer
Gst.init(None)
server = GstRtspServer.RTSPServer()
server.set_address("127.0.0.1")
server.set_service(sys.argv[2])
if len(sys.argv) > 3:
    user, password = sys.argv[3:]
    auth = GstRtspServer.RTSPAuth()
    token = GstRtspServer.RTSPToken()
    token.set_string("media.factory.role", "user")
    auth.add_basic(GstRtspServer.RTSPAuth.make_basic(user, password), token)
    server.set_auth(auth)
factory = GstRtspServer.RTSPMediaFactory()
film = "" if sys.argv[1].endswith(".h264") else "qtdemux !"
factory.set_launch(f"( filesrc location={sys.argv[1]} ! {film} h264parse config-interval=-1 ! rtph264pay name=pay0 )")
if len(sys.argv) > 3:
    permissions = GstRtspServer.RTSPPermissions()
    permissions.add_permission_for_role("user", "media.factory.access", True)
    permissions.add_permission_for_role("user", "media.factory.construct", True)
    factory.set_permissions(permissions)
server.get_mount_points().add_factory("/clip", factory)
server.attach(None)
print("ready", flush=True)
GLib.MainLoop().run()
"""
"""Debian's GStreamer RTSP server, which is seen by the system's Python only."""

SYSTEM_PYTHON = "/usr/bin/python3"


def why_no_rtsp_server() -> str | None:
    """What is missing for one; None where nothing is."""
    check = RTSP_SERVER.split("server = ")[0] + "assert Gst.ElementFactory.find('rtph264pay'), 'no rtph264pay'\n"
    check += "assert all(map(Gst.ElementFactory.find, ('qtdemux', 'h264parse'))), 'no qtdemux or h264parse'\n"
    if sys.platform != "linux" or not Path(SYSTEM_PYTHON).exists():
        return "no system Python"
    done = subprocess.run([SYSTEM_PYTHON, "-c", check, "", "0"], capture_output=True, text=True, check=False)
    return None if done.returncode == 0 else (done.stderr.strip().splitlines() or ["it does not start"])[-1]


@contextlib.contextmanager
def rtsp_server(clip: Path, port: int, *credentials: str) -> Iterator[subprocess.Popen[str]]:
    """Serve an .mp4 or .h264 at rtsp://127.0.0.1:port/clip; every client sees it from its beginning."""
    command = [SYSTEM_PYTHON, "-c", RTSP_SERVER, str(clip), str(port), *credentials]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            assert server.stdout.readline() == "ready\n"
            yield server
        finally:
            server.kill()


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as one:
        port: int = one.getsockname()[1]
        return port


def mean_colour(pixels: NDArray[np.uint8]) -> tuple[int, ...]:
    return tuple(int(value) for value in pixels.reshape(-1, 3).mean(0))
