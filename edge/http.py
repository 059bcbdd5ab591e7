"""The HTTP side of a viewer process: all outputs on one port, and what bounds a connection.

Outputs that share a URL are told apart by the Upgrade header. A connection has to bring a whole
request header in time, may be idle for a while, and is refused when the process has as many as
its file descriptors allow: asyncio would otherwise spin on accept (reference: EMFILE).
"""

import asyncio
import resource
import socket
from collections.abc import Iterable, Mapping
from typing import Any, cast

from aiohttp import web, web_protocol

from common.runtime.http import CORS, KEEPALIVE, MAX_BODY, Handler, errors, preflight, retirable
from common.runtime.logs import Limited, Log
from edge.output import Output
from edge.sessions import Sessions

log = Log("edge.http")
limited = Limited(log)

HEADER_DEADLINE = 5.0
"""Seconds from the opening of a connection, or from the first byte of a later request, to the end
of the request's header."""

MAX_LINE = 8190
"""Bytes of the request line, and of one header field."""

MAX_HEADERS = 64
NOTSENT_LOWAT = 128 * 1024
"""Bytes the kernel keeps unsent for one connection; without it a viewer that stops reading pins
megabytes of kernel memory."""

RESERVED_FILES = 1024
"""Descriptors kept for pages and everything that is no viewer's connection."""

SHUTDOWN = 0.5
"""Seconds that requests under way get when the process stops."""


class Connection(web_protocol.RequestHandler):
    """A connection with a deadline for the header of each request.

    Uses attributes of aiohttp's handler that are not public (``_current_request``, ``_messages``,
    ``_loop``): the tests say so at once if a version of aiohttp has others.
    """

    __slots__ = ("_deadline",)

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start the clock, or refuse the connection if there are too many."""
        self._deadline: asyncio.TimerHandle | None = None
        super().connection_made(transport)
        manager = cast(Server, self._manager)
        if len(manager.connections_held) >= manager.most:
            limited.warning("connection refused", extra={"limit": manager.most})
            cast(asyncio.Transport, transport).abort()
            return
        manager.connections_held.add(self)
        self._arm()

    def data_received(self, data: bytes) -> None:
        """Stop the clock when a whole header is here."""
        super().data_received(data)
        if self._messages or self._current_request is not None:
            self._disarm()
        elif self._deadline is None:
            self._arm()

    def connection_lost(self, exc: BaseException | None) -> None:
        """Forget the connection."""
        self._disarm()
        if self._manager is not None:
            cast(Server, self._manager).connections_held.discard(self)
        super().connection_lost(exc)

    def _arm(self) -> None:
        self._disarm()
        self._deadline = self._loop.call_later(HEADER_DEADLINE, self._expired)

    def _disarm(self) -> None:
        if self._deadline is not None:
            self._deadline.cancel()
            self._deadline = None

    def _expired(self) -> None:
        self._deadline = None
        transport = self.transport
        if self._current_request is None and transport is not None:
            self.force_close()  # forgets the transport
            transport.abort()


class Server(web.Server):
    """Makes :class:`Connection` objects and counts them."""

    connections_held: set[Connection]
    most: int

    def __call__(self) -> Connection:
        """Return the protocol of a new connection."""
        return Connection(self, loop=self._loop, **self._kwargs)


def most_connections() -> int:
    """Return how many connections the file descriptors of this process allow."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return max(soft - RESERVED_FILES, soft // 2)


@web.middleware
async def admit(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Refuse what is no ordinary request, and ask the guards about a stream's viewer."""
    if not request.raw_path.startswith("/") and request.method != "OPTIONS":
        raise web.HTTPBadRequest(text="an absolute request target is for proxies\n")
    stream = request.match_info.get("stream")
    if stream is not None:
        for guard in request.app[SESSIONS].guards:
            await guard(request, stream)
    response = await handler(request)
    if request.can_read_body and not request.content.is_eof():
        response.force_close()  # nobody here reads the body of a GET
    return response


SESSIONS: web.AppKey[Sessions] = web.AppKey("sessions", Sessions)


def application(outputs: Mapping[str, Output], sessions: Sessions) -> web.Application:
    """Return the application that serves all outputs."""
    app = web.Application(middlewares=[errors, admit], client_max_size=MAX_BODY)
    app[SESSIONS] = sessions
    retirable(app)
    app.add_routes(list(dispatched(outputs.values())))
    app.router.add_route("OPTIONS", "/{path:.*}", preflight)
    return app


def dispatched(outputs: Iterable[Output]) -> Iterable[web.RouteDef]:
    """Return the routes of all outputs, one for each method and path.

    Where outputs share one, a request goes to the output whose ``upgrade`` it asks for.
    """
    shared: dict[tuple[str, str], dict[str, web.RouteDef]] = {}
    for output in outputs:
        for route in output.routes():
            same = shared.setdefault((route.method, route.path), {})
            same.setdefault(output.capability.upgrade, route)
    for (method, path), by_upgrade in shared.items():
        if set(by_upgrade) == {""}:
            yield by_upgrade[""]
        else:
            options: dict[str, Any] = next(iter(by_upgrade.values())).kwargs
            yield web.RouteDef(method, path, _dispatcher(by_upgrade), options)


def _dispatcher(by_upgrade: Mapping[str, web.RouteDef]) -> Handler:
    async def dispatch(request: web.Request) -> web.StreamResponse:
        wanted = request.headers.get("Upgrade", "").strip().lower()
        route = by_upgrade.get(wanted) or by_upgrade.get("")
        if route is None:
            needed = ", ".join(sorted(by_upgrade))
            raise web.HTTPUpgradeRequired(text=f"this is for {needed}\n", headers=_upgrade(needed))
        return await cast(Handler, route.handler)(request)

    return dispatch


def _upgrade(needed: str) -> dict[str, str]:
    return {"Upgrade": needed, "Connection": "Upgrade", **CORS}


async def serve(app: web.Application, listeners: Iterable[socket.socket]) -> web.AppRunner:
    """Serve viewers on bound sockets until ``cleanup()`` of the runner that is returned.

    A handler is cancelled when its viewer goes away.
    """
    runner = web.AppRunner(
        app,
        access_log=None,
        auto_decompress=False,  # a small gzip body must not become a large one
        handle_signals=False,
        handler_cancellation=True,
        keepalive_timeout=KEEPALIVE,
        lingering_time=0,  # nobody waits for the rest of a body that nobody reads
        max_field_size=MAX_LINE,
        max_headers=MAX_HEADERS,
        max_line_size=MAX_LINE,
        shutdown_timeout=SHUTDOWN,
    )
    await runner.setup()
    server = cast(Server, runner.server)
    server.__class__ = Server
    server.connections_held = set()
    server.most = most_connections()
    for listener in listeners:
        prepare(listener)
        await web.SockSite(runner, listener).start()
    return runner


def prepare(listener: socket.socket) -> None:
    """Set the options that accepted connections inherit."""
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, NOTSENT_LOWAT)
