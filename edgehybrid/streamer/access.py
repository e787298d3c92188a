"""Decide who may look: the address that is bound, a token for any but this machine's own, the Host and the Origin."""

import ipaddress
import secrets
import socket
from collections.abc import Mapping
from urllib.parse import urlsplit

LOOPBACK_NAMES = ("localhost", "127.0.0.1", "::1")
ANY = {"0.0.0.0": "127.0.0.1", "::": "::1"}
"""What stands for every address of this machine -> the one that this machine itself uses."""


class Door:
    """The rules for one bound address.

    Args:
        address: That the server binds to.
        token: What a viewer must know; drawn at random for any address but loopback, where None is needed.

    Attributes:
        token: None where only this machine can connect.
    """

    def __init__(self, address: str, token: str | None = None) -> None:
        self._address = address.lower()
        self.token = token or (None if is_loopback(address) else secrets.token_urlsafe(18))

    def lets_host(self, header: str | None) -> bool:
        """Whether a request names this server, and not a web site whose name was made to point here."""
        host = host_of(header)
        if host is None:
            return False
        if host in LOOPBACK_NAMES or host == self._address:
            return True
        if self.token is None:
            return False
        name = socket.gethostname().lower()  # no name server is asked: that may take seconds, at any stranger's wish
        return _is_ip(host) or host in (name, f"{name}.local")

    def lets_origin(self, headers: Mapping[str, str]) -> bool:
        """Whether a request comes from this server's own page, or from no page at all."""
        origin = headers.get("Origin")
        return origin is None or origin.lower() == f"http://{headers.get('Host', '')}".lower()

    def lets_token(self, given: str | None) -> bool:
        """Whether a viewer knows the token, compared in constant time."""
        if self.token is None:
            return True
        said = "" if given is None else given
        return secrets.compare_digest(said.encode(errors="surrogatepass"), self.token.encode())


def is_loopback(address: str) -> bool:
    """Whether only this machine can reach an address."""
    if address == "localhost":
        return True
    try:
        return ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False


def host_of(header: str | None) -> str | None:
    """The name in a Host header, without port and brackets; None where it is malformed."""
    if not header or any(sign in header for sign in "/@?#\\ "):
        return None
    try:
        parts = urlsplit(f"//{header}")
        _ = parts.port
    except ValueError:
        return None
    return parts.hostname


def _is_ip(host: str) -> bool:
    try:
        ipaddress.ip_address(host)
    except ValueError:
        return False
    return True
