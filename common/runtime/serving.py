"""The HTTP server of every role: aiohttp behind a :class:`~common.runtime.door.Door`, in limits.

A connection has to bring a whole request header in time, may be idle for a while, and is ended by
the kernel once its client has taken nothing for some seconds.
"""

import asyncio
import contextlib
import socket
from collections.abc import Callable, Iterable
from typing import Any, cast

from aiohttp import web, web_protocol

from common.runtime import listen, metrics
from common.runtime.door import NOBODY, Crowd, Door, Visit, most_connections
from common.runtime.tls import Certificate

HEADER_DEADLINE = 5.0
"""Seconds from the opening of a connection, or from the first byte of a later request, to the end
of the request's header. After that the connection is shut."""

KEEPALIVE = 15.0
"""Seconds that an idle connection is kept; aiohttp's runner would keep it for an hour. After that
it is shut."""

MAX_LINE = 8190
"""Bytes of the request line, and of one header field. More are answered with 400."""

MAX_HEADERS = 64
"""Fields of a request's header. More are answered with 400."""

NOTSENT_LOWAT = 128 * 1024
"""Bytes the kernel keeps unsent for one connection; without it a client that stops reading pins
megabytes of kernel memory. With more the rest waits in the process, where it is counted."""

STALL = 10.0
"""Seconds that a client may take nothing of what is sent to it. After that the connection is
shut."""

STALL_GRACE = 2.0
"""Seconds more that the kernel waits than an output that watches its viewers itself."""

SHUTDOWN = 0.5
"""Seconds that requests under way get when the server stops."""

FIRST_WORD = 0.2
"""Seconds that a client who came in at the last moment gets for its request."""

LOOK = 0.005
"""Seconds between two looks whether it has come."""


class Connection(web_protocol.RequestHandler):
    """A connection with a deadline for the header of each request.

    Uses attributes of aiohttp's handler that are not public (``_current_request``, ``_messages``,
    ``_loop``, ``peername``): the tests say so at once if a version of aiohttp has others.
    """

    __slots__ = ("_deadline", "admission")

    def __init__(self, manager: "Server", admission: Visit, **options: Any) -> None:
        super().__init__(manager, **options)
        self.admission = admission
        self._deadline: asyncio.TimerHandle | None = None

    @property
    def peername(self) -> Any:
        """Who is at the other end; behind a proxy who the header of the connection says it is."""
        header = self.admission.header
        if header is not None and header.host:
            return header.host, header.port
        return super().peername

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Start the clock."""
        super().connection_made(transport)
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
        self.admission.end()
        super().connection_lost(exc)

    @property
    def expected(self) -> bool:
        """Whether the header of a request is still to come, in time."""
        return self._deadline is not None

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
            metrics.CONNECTIONS_CUT.labels("header").inc()
            self.force_close()  # forgets the transport
            transport.abort()


class Server(web.Server):
    """Makes :class:`Connection` objects for the doors."""

    def __call__(self, admission: Visit = NOBODY) -> Connection:
        """Return the protocol of a new connection."""
        return Connection(self, admission, loop=self._loop, **self._kwargs)

    def expects(self) -> bool:
        """Return whether any client has not said yet what it wants."""
        return any(cast(Connection, one).expected for one in self.connections)

    def adopt(self, app: web.Application) -> None:
        """Take from the application what connections need."""


class DoorSite(web.BaseSite):
    """One listening socket of a server."""

    __slots__ = ("_certificate", "_crowd", "_listener", "_speaks", "door")

    def __init__(
        self,
        runner: web.AppRunner,
        listener: socket.socket,
        crowd: Crowd,
        certificate: Certificate | None,
        speaks: Callable[[str], bool] | None,
    ) -> None:
        super().__init__(runner)
        self._speaks = speaks
        self._listener = listener
        self._crowd = crowd
        self._certificate = certificate
        self.door: Door

    @property
    def name(self) -> str:
        """The URL of the socket."""
        scheme = "https" if self._certificate else "http"
        return f"{scheme}://{listen.authority(self._listener)}"

    async def start(self) -> None:
        """Accept connections."""
        await super().start()
        server = cast(Server, self._runner.server)
        self.door = Door(self._listener, server, self._crowd, self._certificate, self._speaks)
        self._server = cast(asyncio.AbstractServer, self.door)  # as far as aiohttp uses one

    async def stop(self) -> None:
        """Accept nobody any more; who has come already is let in, and gets to say what it wants."""
        self.door.last()
        await super().stop()
        server = cast(Server, self._runner.server)
        with contextlib.suppress(TimeoutError):
            async with asyncio.timeout(FIRST_WORD):
                while self.door.pending or server.expects():  # noqa: ASYNC110 - no event for it
                    await asyncio.sleep(LOOK)


async def serve(
    app: web.Application,
    listeners: Iterable[socket.socket],
    secure: Iterable[socket.socket] = (),
    certificate: Certificate | None = None,
    *,
    crowd: Crowd | None = None,
    stall: float = STALL,
    speaks: Callable[[str], bool] | None = None,
    kind: type[Server] = Server,
    **options: Any,
) -> web.AppRunner:
    """Serve ``app`` on bound sockets; ``cleanup()`` of the runner that is returned ends it.

    On those that are ``secure`` over TLS, with ``certificate``. ``speaks`` says from which
    addresses connections begin with a header of the PROXY protocol. ``options`` are aiohttp's.
    """
    runner = web.AppRunner(
        app,
        access_log=None,
        auto_decompress=False,  # a small gzip body must not become a large one
        handle_signals=False,
        keepalive_timeout=KEEPALIVE,
        max_field_size=MAX_LINE,
        max_headers=MAX_HEADERS,
        max_line_size=MAX_LINE,
        shutdown_timeout=SHUTDOWN,
        **options,
    )
    await runner.setup()
    server = cast(Server, runner.server)
    server.__class__ = kind
    server.adopt(app)
    crowd = crowd or Crowd(most_connections())
    for listener in listeners:
        prepare(listener, stall)
        await DoorSite(runner, listener, crowd, None, speaks).start()
    for listener in secure:
        prepare(listener, stall)
        await DoorSite(runner, listener, crowd, certificate, speaks).start()
    return runner


def prepare(listener: socket.socket, stall: float = STALL) -> None:
    """Set the options that accepted connections inherit."""
    patience = round((stall + STALL_GRACE) * 1000)
    for option, value in (
        (socket.TCP_NODELAY, 1),
        (socket.TCP_NOTSENT_LOWAT, NOTSENT_LOWAT),
        # Also for a client that lives, and whose window stays shut: a connection that is being
        # closed would wait for it for ever.
        (socket.TCP_USER_TIMEOUT, patience),
    ):
        listener.setsockopt(socket.IPPROTO_TCP, option, value)
