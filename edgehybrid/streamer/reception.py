"""Bound how many connections a page has, and how long a stranger may hold one without saying what is wanted."""

import asyncio

from aiohttp import web

MOST_CONNECTIONS = 320
"""Each holds a file, of which a process has about a thousand: cameras and logs need theirs."""
REQUEST_S = 5.0
"""So long may the first request of a connection take to arrive."""


class Reception:
    """Makes a protocol for each connection that comes, as `asyncio.loop.create_server` asks for.

    Args:
        server: Answers requests.
    """

    def __init__(self, server: web.Server) -> None:
        self._server = server
        self._silent: dict[asyncio.BaseProtocol, asyncio.TimerHandle] = {}

    def __call__(self) -> asyncio.BaseProtocol:
        """For the next connection."""
        if len(self._server.connections) >= MOST_CONNECTIONS:
            return _Refusal()
        guest = self._server()
        self._silent[guest] = asyncio.get_running_loop().call_later(REQUEST_S, self._show_out, guest)
        return guest

    def hear(self, request: web.Request) -> None:
        """A request has arrived whole."""
        if (timer := self._silent.pop(request.protocol, None)) is not None:
            timer.cancel()

    def _show_out(self, guest: web.RequestHandler) -> None:
        del self._silent[guest]
        if guest.transport is not None:
            guest.transport.abort()


class _Refusal(asyncio.Protocol):
    """Hangs up."""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.WriteTransport)
        transport.abort()
