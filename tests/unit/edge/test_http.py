import asyncio
import contextlib
import inspect
import re
import resource
import socket
import time
from collections.abc import AsyncIterator, Iterable
from unittest.mock import MagicMock

import aiohttp
import pytest
from aiohttp import web, web_protocol

from common.errors import AccessDenied
from common.runtime import door, listen, serving
from common.runtime.serving import KEEPALIVE
from edge import http
from edge.output import Capability, Output
from edge.sessions import Sessions
from tests.unit.edge.lines import Line


class Plain(Output):
    capability = Capability(description="plain", url="/x")

    def routes(self) -> Iterable[web.RouteDef]:
        return [web.get("/{stream}.x", self.answer)]

    async def answer(self, request: web.Request) -> web.Response:
        return web.Response(text=f"plain {request.match_info['stream']}")


class Upgraded(Output):
    capability = Capability(description="upgraded", url="/x", upgrade="websocket")

    def routes(self) -> Iterable[web.RouteDef]:
        only = web.get("/{stream}.only", self.answer)
        return [web.get("/{stream}.x", self.answer), only]

    async def answer(self, request: web.Request) -> web.StreamResponse:
        response = web.WebSocketResponse()
        await response.prepare(request)
        await response.send_str("upgraded")
        return response


@contextlib.asynccontextmanager
async def site(sessions: Sessions | None = None) -> AsyncIterator[tuple[str, int]]:
    context = MagicMock()
    outputs: dict[str, Output] = {"plain": Plain(context), "upgraded": Upgraded(context)}
    listener = listen.bind("127.0.0.1:0")
    runner = await http.serve(
        http.application(outputs, Sessions() if sessions is None else sessions), [listener]
    )
    try:
        yield listener.getsockname()
    finally:
        await runner.cleanup()


@pytest.fixture
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "HEADER_DEADLINE", 0.05)


async def raw(address: tuple[str, int], *pieces: bytes, pause: float = 0.02) -> bytes:
    """Send pieces with pauses and return all that comes until the end."""
    reader, writer = await asyncio.open_connection(*address)
    try:
        for piece in pieces:
            with contextlib.suppress(ConnectionError):
                writer.write(piece)
                await writer.drain()
            await asyncio.sleep(pause)  # the attack is to be slow
        got = b""
        with contextlib.suppress(ConnectionError):
            while data := await asyncio.wait_for(reader.read(65536), 5):
                got += data
        return got
    finally:
        writer.close()


async def test_outputs_that_share_a_url_are_told_apart_by_the_upgrade_header() -> None:
    async with site() as (host, port), aiohttp.ClientSession() as client:
        base = f"http://{host}:{port}"
        async with client.get(f"{base}/live.x") as response:
            assert await response.text() == "plain live"
        async with client.ws_connect(f"{base}/live.x") as upgraded:
            assert await upgraded.receive_str() == "upgraded"
        async with client.get(f"{base}/live.only") as response:
            assert response.status == 426
            assert response.headers["Upgrade"] == "websocket"
        async with client.options(f"{base}/live.x") as response:
            assert response.status == 204
            assert response.headers["Access-Control-Allow-Origin"] == "*"


@pytest.mark.usefixtures("quick")
@pytest.mark.parametrize(
    "pieces",
    [
        (),
        (b"GET /live",),
        (b"GET /live.x HTTP/1.1\r\nHost: x\r\n",),
        (b"GET /live.x HTTP/1.1\r\n", b"A: 1\r\n", b"B: 2\r\n", b"C: 3\r\n", b"D: 4\r\n"),
    ],
    ids=["silent", "half a request line", "half a header", "a header that trickles"],
)
async def test_a_connection_that_brings_no_whole_header_in_time_is_cut(
    pieces: tuple[bytes, ...],
) -> None:
    async with site() as address:
        assert await raw(address, *pieces) == b""


@pytest.mark.usefixtures("quick")
async def test_a_second_request_that_trickles_is_cut_too() -> None:
    async with site() as address:
        reader, writer = await asyncio.open_connection(*address)
        writer.write(b"GET /live.x HTTP/1.1\r\nHost: x\r\n\r\n")
        await reader.readuntil(b"plain live")
        for piece in (b"GET /li", b"ve.x", b" HTT", b"P/1.1"):
            writer.write(piece)
            await asyncio.sleep(0.03)  # the attack is to be slow
        with contextlib.suppress(ConnectionError):
            assert await asyncio.wait_for(reader.read(), 5) == b""
        writer.close()


@pytest.mark.usefixtures("quick")
async def test_a_request_that_came_in_time_may_take_longer_to_answer(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    async def slow(self: Plain, request: web.Request) -> web.Response:
        await asyncio.sleep(0.15)  # longer than the deadline for the header
        return web.Response(text="late")

    monkeypatch.setattr(Plain, "answer", slow)
    async with site() as address:
        got = await raw(address, b"GET /live.x HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n")
    assert got.endswith(b"late")


async def test_connections_above_the_limit_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(serving, "most_connections", lambda: 2)
    request = b"GET /live.x HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    async with site() as address:
        held = [await asyncio.open_connection(*address) for _ in range(2)]
        await asyncio.sleep(0.02)  # both have to be accepted
        assert await raw(address, request) == b""
        held[0][1].close()
        await asyncio.sleep(0.02)
        assert (await raw(address, request)).endswith(b"plain live")
        held[1][1].close()


async def test_an_absolute_target_is_refused_and_a_body_ends_the_connection() -> None:
    async with site() as address:
        end = b"Host: x\r\nConnection: close\r\n\r\n"
        assert b" 400 " in await raw(address, b"GET http://evil/live.x HTTP/1.1\r\n" + end)
        body = b"GET /live.x HTTP/1.1\r\nHost: x\r\nContent-Length: 50\r\n\r\nabc"
        assert b"plain live" in await raw(address, body)


async def test_guards_are_asked_before_the_handler() -> None:
    async def refuse(request: web.Request, stream: str) -> None:
        raise AccessDenied(f"not {stream}")

    sessions = Sessions()
    sessions.guards.append(refuse)
    request = b"GET /live.x HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"
    async with site(sessions) as address:
        assert b" 403 " in await raw(address, request)


async def test_accepted_connections_are_bounded_in_the_kernel() -> None:
    with listen.bind("127.0.0.1:0") as listener:
        serving.prepare(listener)
        with socket.create_connection(listener.getsockname()):
            while True:
                with contextlib.suppress(BlockingIOError):
                    accepted, _ = listener.accept()
                    break
            with accepted:
                level, option = socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT
                assert accepted.getsockopt(level, option) == serving.NOTSENT_LOWAT
                assert accepted.getsockopt(level, socket.TCP_NODELAY)


def test_aiohttp_still_has_what_deadline_and_bypass_use() -> None:
    """If this fails, aiohttp has changed: edge/http.py's Connection has to be adapted."""
    handler = web_protocol.RequestHandler
    slots = {slot for cls in handler.__mro__ for slot in getattr(cls, "__slots__", ())}
    missing = {*http.PINNED} - slots - {*dir(handler)}
    assert not missing, f"RequestHandler has no {missing} any more"
    source = inspect.getsource(http.Connection) + inspect.getsource(serving.Connection)
    used = set(source.replace("self._", " self._").split())
    words = set(re.findall(r"self\.(_\w+|transport|peername)", " ".join(used)))
    own = {*http.Connection.__slots__, *vars(http.Connection)}
    own |= {*serving.Connection.__slots__, *vars(serving.Connection)}
    own -= {"peername"}  # asks aiohttp's
    assert words - own == {*http.PINNED}, "PINNED is to name what Connection uses"
    for name in ("connection_made", "data_received", "connection_lost", "force_close", "start"):
        assert callable(getattr(handler, name, None)), f"RequestHandler.{name} is gone"


async def test_aiohttp_still_behaves_as_the_bypass_expects() -> None:
    """If this fails, aiohttp has changed: what the bypass takes for idle has to be adapted."""
    runner = await http.serve(http.application({}, Sessions()), [])
    assert isinstance(runner.server, http.Server)
    line = await Line(runner.server).feed(b"GET /nothing HTTP/1.1\r\nHost: x\r\n\r\n")
    handler = line.connection
    assert b" 405 " in line.taken
    assert handler._waiter is not None, "_waiter is what an idle handler waits for"
    assert not handler._waiter.done()
    close_at = handler._next_keepalive_close_time
    assert time.monotonic() < close_at <= time.monotonic() + KEEPALIVE, "when it is closed if idle"
    handler._process_keepalive()
    kept = line.transport.closing
    handler._next_keepalive_close_time = 0.0
    handler._process_keepalive()
    assert (kept, line.transport.closing) == (False, True)
    line.drop()
    await runner.cleanup()


def test_the_limit_leaves_room_for_other_files(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(resource, "getrlimit", lambda _: (65_536, 65_536))
    assert door.most_connections() == 65_536 - 1024
    monkeypatch.setattr(resource, "getrlimit", lambda _: (1024, 1024))
    assert door.most_connections() == 512
