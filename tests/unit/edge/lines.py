"""Connections of a viewer process without sockets: bytes in, bytes out, on two ways."""

import asyncio
import re
import socket
import time
from collections.abc import Callable
from pathlib import Path
from unittest.mock import MagicMock

from aiohttp import web

from common.runtime.config import Duration
from common.runtime.proxies import NONE, Proxies
from edge import http
from edge.config import EdgeSettings
from edge.mirrors import Mirrors
from edge.moving import Mover
from edge.output import ViewerContext
from edge.outputs.cmaf import Cmaf
from edge.sessions import Sessions
from tests.unit.edge.cuts import EPOCH, CutStream, Pages
from tests.unit.edge.live import FakeTransport

AGENT = b"User-Agent: test\r\n"


class Line:
    """One connection and what it was answered."""

    def __init__(self, server: http.Server, peer: str = "192.0.2.1") -> None:
        self.transport = FakeTransport(peer)
        self.connection = server()
        self.connection.connection_made(self.transport)

    @property
    def taken(self) -> bytes:
        """Everything that it was answered, as if written in one second."""
        return re.sub(rb"\r\nDate: [^\r]*\r\n", b"\r\nDate: then\r\n", bytes(self.transport.taken))

    async def feed(self, *pieces: bytes) -> "Line":
        """Receive pieces, each in a turn of the loop of its own."""
        for piece in pieces:
            await settle(2)
            if self.transport.closing:
                break
            self.connection.data_received(piece)
        await settle()
        if self.transport.closing:
            self.drop()
        return self

    def drop(self) -> None:
        """Go away."""
        self.connection.connection_lost(None)


async def settle(turns: int = 40) -> None:
    """Let everything happen that waits for nothing but its turn."""
    for _ in range(turns):
        await asyncio.sleep(0)


async def until(condition: Callable[[], bool]) -> None:
    """Let time pass until something is the case."""
    async with asyncio.timeout(10):
        while not condition():  # noqa: ASYNC110 - a transport has no event
            await asyncio.sleep(0.002)


def get(path: str, *fields: bytes) -> bytes:
    """Return a request as players send it."""
    more = b"".join(field + b"\r\n" for field in fields)
    return b"GET %b HTTP/1.1\r\nHost: edge\r\n%b%b\r\n" % (path.encode(), AGENT, more)


class Node:
    """An edge with CMAF alone, served with and without the bypass."""

    def __init__(
        self,
        root: Path,
        stream: CutStream | None = None,
        wait: float = 5,
        proxies: Proxies = NONE,
    ) -> None:
        self.proxies = proxies
        self.stream = stream or CutStream()
        self.pages = Pages(root, self.stream)
        self.sessions = Sessions()
        self.mirrors = Mirrors(root, wait=wait)
        settings = EdgeSettings(wait=Duration(wait))
        self.mover = Mover(self.sessions, MagicMock(), time.monotonic)
        context = ViewerContext(self.mirrors, self.sessions, MagicMock(), self.mover, settings)
        self.output = Cmaf(context)

    async def start(self, seconds: float = 5, *listeners: socket.socket) -> "Node":
        """Serve, on ``listeners`` if any are given, with so much of the stream in the pages."""
        app = http.application({"cmaf": self.output}, self.sessions, self.proxies)
        self.runner = await http.serve(app, listeners)
        slow = http.application({"cmaf": self.output}, self.sessions, self.proxies)
        slow[http.BYPASS]._outputs = []
        self._slow_runner = await http.serve(slow, [])
        self.quick = self._server(self.runner)
        self.slow = self._server(self._slow_runner)
        self.bypass = self.quick.bypass
        self.mirrors.wanted()
        self.mirrors._used["live"] = 0
        self.run(seconds)
        return self

    @staticmethod
    def _server(runner: web.AppRunner) -> http.Server:
        assert isinstance(runner.server, http.Server)
        return runner.server

    def run(self, seconds: float) -> None:
        """Let the stream go on, and tell as the stream worker would."""
        self.stream.run(seconds)
        self.pages.write()
        self.mirrors.state("live", "live", EPOCH)
        self.mirrors.advance()

    async def known(self, peer: str = "192.0.2.1") -> Line:
        """Return a connection of a viewer whom the guards have let in."""
        line = await Line(self.quick, peer).feed(get("/cmaf/live/1.m3u8"))
        line.transport.taken.clear()
        self.bypass.answered = 0
        return line

    @property
    def waiting(self) -> int:
        """How many requests or groups of them wait for the stream."""
        _, stream = self.output._streams["live"]
        return sum(parked.count for parked in stream._parked.values())

    async def close(self) -> None:
        await self.output.close()
        await self.runner.cleanup()
        await self._slow_runner.cleanup()
        self.mirrors.close()
