"""The HTTP side of a viewer process: all outputs on one port, and the short way to them.

Outputs that share a URL are told apart by the Upgrade header. What bounds a connection is in
:mod:`common.runtime.serving` and :mod:`common.runtime.door`.
"""

import asyncio
import socket
from collections.abc import Iterable, Mapping
from typing import Any, cast

from aiohttp import web
from aiohttp.streams import EMPTY_PAYLOAD
from aiohttp.typedefs import Middleware

from common.runtime import serving
from common.runtime.door import NOBODY, Crowd, Visit
from common.runtime.http import (
    CORS,
    MAX_BODY,
    RETIRING,
    Handler,
    errors,
    preflight,
    retirable,
)
from common.runtime.proxies import NONE, Proxies, behind
from common.runtime.tls import Certificate
from edge.asked import Asked
from edge.bypass import END, Bypass
from edge.output import Output
from edge.published import Waiting
from edge.sessions import Session, Sessions


class Connection(serving.Connection):
    """A connection with the bypass before aiohttp.

    Uses attributes of aiohttp's handler that are not public (``PINNED``): the tests say so at once
    if a version of aiohttp has others.
    """

    __slots__ = (
        "_bypass",
        "_heavy",
        "_whole",
        "asked",
        "behind",
        "parked",
        "peer",
        "visit",
        "waited",
    )

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Begin with nothing known of the viewer."""
        self._bypass = cast(Server, self._manager).bypass
        self._whole = True
        """Whether aiohttp's parser holds no piece of a request."""

        self._heavy = False
        """Whether aiohttp keeps the request that it answered last, and all that belonged to it."""

        self.asked: Asked | None = None
        """The header fields that came last."""
        self.visit: Session | None = None
        """Whose requests these are, as far as the bypass has answered them."""
        self.parked: tuple[bytes, Waiting] | None = None
        """The target that is waited for."""
        self.waited = 0.0
        """Seconds that the request which aiohttp has now waited before it got it."""

        super().connection_made(transport)
        peer = self.peername
        self.peer = str(peer[0] if isinstance(peer, list | tuple) else peer or "")
        proxies = self._bypass.proxies
        self.behind = proxies.any and proxies.trusts(self.peer)
        """Whether it is a proxy's, which says in each request whose that is."""

    def data_received(self, data: bytes) -> None:
        """Answer on the short way, or give aiohttp what has come."""
        if self.parked is not None:
            data = self._bypass.leave(self) + data  # aiohttp keeps the order of requests
        elif self._whole and not self._paused and data.endswith(END):
            waiter = self._waiter
            # What waits for it: aiohttp has answered everything before this.
            if waiter is not None and not waiter.done() and self._bypass.take(self, data):
                if self._deadline is not None:
                    self._disarm()
                if self._heavy:
                    self._lighten()
                return
        self.waited = 0.0
        self._feed(data)

    def hand_over(self, waited: float) -> None:
        """Leave the request that is parked to aiohttp; it has waited for so many seconds."""
        self.waited = waited
        self._feed(self._bypass.leave(self))

    def _process_keepalive(self) -> None:
        """Close the connection if it has been idle; one that still takes an answer is not."""
        if self.transport is not None and self.transport.get_write_buffer_size():
            self.rest(self._loop.time())
        super()._process_keepalive()

    def rest(self, since: float) -> None:
        """Take note that the connection is idle from then on, for aiohttp's keep-alive timer."""
        self._next_keepalive_close_time = since + self._keepalive_timeout

    def _lighten(self) -> None:
        """Let go of the request that aiohttp answered last: 5 kB for each viewer who goes on.

        The coroutine that waits for requests has it until the next one comes; another one waits
        instead.
        """
        self._heavy = False
        handler = self._task_handler
        if handler is not None and handler.cancel():
            self._task_handler = self._loop.create_task(self.start())

    def _feed(self, data: bytes) -> None:
        self._heavy = True
        super().data_received(data)
        messages = self._messages
        # Pipelined requests, bodies and upgrades leave something in the parser.
        self._whole = (
            len(messages) == 1
            and messages[0][1] is EMPTY_PAYLOAD
            and not self._upgraded
            and data.endswith(END)
        )

    def connection_lost(self, exc: BaseException | None) -> None:
        """Forget the connection."""
        if self.parked is not None:
            self._bypass.leave(self)
        super().connection_lost(exc)


PINNED = (
    "_current_request",
    "_keepalive_timeout",
    "_loop",
    "_manager",
    "_messages",
    "_next_keepalive_close_time",
    "_paused",
    "_task_handler",
    "_upgraded",
    "_waiter",
    "peername",
    "transport",
)
"""What :class:`Connection`, and the one that it is made from, use of aiohttp's handler."""


class Server(serving.Server):
    """Makes :class:`Connection` objects."""

    bypass: Bypass

    def __call__(self, admission: Visit = NOBODY) -> Connection:
        """Return the protocol of a new connection."""
        return Connection(self, admission, loop=self._loop, **self._kwargs)

    def adopt(self, app: web.Application) -> None:
        """Take from the application what connections need."""
        self.bypass = app[BYPASS]


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
BYPASS: web.AppKey[Bypass] = web.AppKey("bypass", Bypass)


def application(
    outputs: Mapping[str, Output], sessions: Sessions, proxies: Proxies = NONE
) -> web.Application:
    """Return the application that serves all outputs; ``proxies`` are believed about viewers."""
    restoring: list[Middleware] = [behind(proxies)] if proxies.networks else []
    app = web.Application(middlewares=[*restoring, errors, admit], client_max_size=MAX_BODY)
    app[SESSIONS] = sessions
    retirable(app)
    app[BYPASS] = Bypass(outputs.values(), sessions, app[RETIRING].is_set, proxies)
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


async def serve(
    app: web.Application,
    listeners: Iterable[socket.socket],
    secure: Iterable[socket.socket] = (),
    certificate: Certificate | None = None,
    *,
    crowd: Crowd | None = None,
    stall: float = serving.STALL,
) -> web.AppRunner:
    """Serve viewers on bound sockets until ``cleanup()`` of the runner that is returned.

    A handler is cancelled when its viewer goes away.
    """
    return await serving.serve(
        app,
        listeners,
        secure,
        certificate,
        crowd=crowd,
        stall=stall,
        speaks=app[BYPASS].proxies.speaks,
        kind=Server,
        handler_cancellation=True,
        lingering_time=0,  # nobody waits for the rest of a body that nobody reads
    )
