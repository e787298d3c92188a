"""Read what a user calls a camera or a clip, and keep its credentials out of everything that is shown."""

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal
from urllib.parse import parse_qsl, quote, unquote, urlsplit, urlunsplit

from edgehybrid.errors import NotFoundError, UsageError

_NUMBER = re.compile("[0-9]{1,3}")

Kind = Literal["test", "csi", "v4l2", "rtsp", "http", "clip", "pictures"]

FORMS = "test://, csi://0, v4l2:///dev/video0 or 0, rtsp://..., http://...mjpeg, file://clip.mp4 or a folder of images"

LOGIN_VARIABLE = "EDGEHYBRID_LOGIN"
"""user:password for a network camera whose address holds none: every user of a machine can read command lines."""

_SECRET = re.compile(r"(?i)(\w*(?:user|usr|login|pass|pwd|token|key|secret|auth|sig)\w*)=(?!\*\*\*)[^&/;\s]+")
"""`user=x` and the like, as some cameras want them inside the path."""


@dataclass(frozen=True)
class Address:
    """Where frames come from.

    Attributes:
        kind: Which reader is needed.
        target: What that reader opens: a URL with its credentials, a device, a path, a sensor number.
        shown: The same without credentials: the only form that may be printed, logged or sent.
        options: Of a test scene: "fps", "size".
    """

    kind: Kind
    target: str = field(repr=False)
    shown: str
    options: Mapping[str, str] = field(default_factory=dict)

    @property
    def is_live(self) -> bool:
        """Whether frames come by themselves, whoever looks, and without an end."""
        return self.kind not in ("clip", "pictures")

    def clean(self, text: str) -> str:
        """A library's message about this address on one line, without credentials or signs that steer a terminal."""
        text = "".join(sign if sign.isprintable() else " " for sign in text)
        text = " ".join(text.split()).replace(self.target, self.shown)
        try:
            parts = urlsplit(self.target)
            secrets = [parts.password, parts.username, parts.query, *(value for _, value in parse_qsl(parts.query))]
        except ValueError:
            secrets = []
        for secret in sorted({s for s in secrets if s}, key=len, reverse=True):
            for form in {secret, unquote(secret)}:
                text = text.replace(form, "***")
        return _SECRET.sub(r"\1=***", re.sub(r"://[^/@\s]*@", "://", text))


def parse(source: str) -> Address:
    """Tell what kind of source a user named.

    Args:
        source: One of `FORMS`; `file://` may be left out.

    Raises:
        UsageError: No form that is known, or a part of it makes no sense.
        NotFoundError: It reads like a path, and nothing is there.
    """
    scheme, found, rest = source.partition("://")
    scheme = scheme.lower()
    if not found:
        return _device(source) if _NUMBER.fullmatch(source) or source.startswith("/dev/video") else _path(source)
    if scheme == "test":
        return Address("test", source, source, _options(source))
    if scheme == "csi":
        if not _NUMBER.fullmatch(rest):
            raise UsageError(f"no such CSI camera: {source}", why="needed the sensor's number", fix="csi://0")
        return Address("csi", rest, source)
    if scheme == "v4l2":
        return _device(rest)
    if scheme in ("rtsp", "rtsps", "http", "https"):
        return _network("rtsp" if scheme.startswith("rtsp") else "http", source)
    if scheme == "file":
        return _path(unquote(rest))
    raise UsageError(f"no such source: {scheme}://", why=f"known: {FORMS}", fix="edgehybrid stream --help")


def _device(name: str) -> Address:
    path = f"/dev/video{name}" if _NUMBER.fullmatch(name) else name
    if not path.startswith("/dev/"):
        raise UsageError(f"no such camera: v4l2://{name}", why="needed its number or device", fix="v4l2:///dev/video0")
    return Address("v4l2", path, path)


def _path(text: str) -> Address:
    path = Path(text).expanduser()
    if text and path.is_dir():
        return Address("pictures", str(path), str(path))
    if path.is_file():
        return Address("clip", str(path), str(path))
    shown = re.sub(r".*@", "***@", text)  # perhaps an address that was mistyped
    raise NotFoundError(f"no source '{shown}'", why=f"no such file or folder; known: {FORMS}", fix="check the path")


def _network(kind: Kind, url: str) -> Address:
    """A camera's URL, with the login of the environment where it holds none."""
    shown, login = _shown(url), os.environ.get(LOGIN_VARIABLE, "")
    if login and "@" not in urlsplit(url).netloc:
        user, _, password = login.partition(":")
        url = url.replace("://", f"://{quote(user, safe='')}:{quote(password, safe='')}@", 1)
    return Address(kind, url, shown)


def _options(source: str) -> dict[str, str]:
    options = dict(parse_qsl(urlsplit(source).query))
    if unknown := sorted(options.keys() - {"fps", "size"}):
        raise UsageError(
            f"a test scene has no {unknown[0]}", why="known: fps, size", fix="test://?fps=60&size=1280x720"
        )
    return options


def _shown(url: str) -> str:
    """Without user, password and the values of the query, which is where cameras that know no better want them."""
    fix = "user:password@host:554/path, where %2F, %3F, %23 and %40 stand for / ? # @ within its parts"
    try:
        parts = urlsplit(url)
        port = "" if parts.port is None else f":{parts.port}"
        host = parts.hostname
    except ValueError:  # whose message may hold a part of the password
        raise UsageError("the address cannot be read", why="its host or port makes no sense", fix=fix) from None
    if "@" in url.partition("://")[2].removeprefix(parts.netloc):
        raise UsageError("the address cannot be read", why="found an @ behind the host", fix=fix)
    if not host:
        raise UsageError("the address has no host", why=f"found {parts.scheme}://", fix=f"{parts.scheme}://host/path")
    name = f"[{host}]" if ":" in host else host
    path = _SECRET.sub(r"\1=***", parts.path)
    return urlunsplit((parts.scheme, name + port, path, "***" if parts.query else "", ""))
