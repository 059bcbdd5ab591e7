"""HTTP that every role serves: health, metrics, errors as problem+json, CORS, a server to run on.

The deadlines and caps here are the ones that SECURITY.md lists.
"""

import asyncio
import contextlib
import ipaddress
import socket
from collections.abc import Awaitable, Callable, Iterable

from aiohttp import web

from common.errors import AccessDenied, HeadwaterError, NodeUnavailable, StreamNotFound
from common.runtime import metrics, serving
from common.runtime.logs import Log

log = Log("http")

RETIRING: web.AppKey[asyncio.Event] = web.AppKey("retiring", asyncio.Event)
"""Set while a server lets its clients go: each answer is the last one of its connection."""

BODY_DEADLINE = 10.0
"""Seconds from the end of a request's header to the end of its body. After that the connection is
shut."""

LINGER = 2.0
"""Seconds that the rest of a body is read for which nobody has a use."""

LEAST_LINGER = 0.5
"""Seconds that a server which retires goes on at least."""

RETIRE_LOOK = 0.05
"""Seconds between two looks whether its clients have left."""

MAX_BODY = 64 * 1024
"""Bytes of a request's body, except where a handler reads a stream. More are answered with 413."""

_SWITCHING = 101

RETRY_AFTER = 1
"""Seconds after which a refused client may try again."""

CORS = {
    "Access-Control-Allow-Origin": "*",
    "Access-Control-Allow-Methods": "GET, HEAD, OPTIONS",
    "Access-Control-Allow-Headers": "*",
    "Access-Control-Expose-Headers": "*",
    "Access-Control-Max-Age": "86400",
}
"""Any page may play what it may fetch; without credentials, so no cookie is ever sent."""

Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@web.middleware
async def own_host(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Refuse requests that name this machine by a name that is not its own."""
    host = request.url.host or ""
    try:
        ipaddress.ip_address(host)
    except ValueError:
        if host != "localhost":
            raise AccessDenied(f"the admin port answers to its address, not to {host!r}") from None
    return await handler(request)


@web.middleware
async def errors(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Answer with the status that an error of ours carries."""
    try:
        return await handler(request)
    except HeadwaterError as error:
        return problem(error, cors=True)


@web.middleware
async def bodies(request: web.Request, handler: Handler) -> web.StreamResponse:
    """Have the whole body of a request in time, before anybody asks for it."""
    if request.can_read_body:
        try:
            async with asyncio.timeout(BODY_DEADLINE):
                await request.read()
        except TimeoutError:
            metrics.CONNECTIONS_CUT.labels("body").inc()
            late = web.Response(status=408, text="the body took too long\n")
            late.force_close()
            return late
    return await handler(request)


def problem(error: HeadwaterError, *, cors: bool = False) -> web.Response:
    """Return an error as ``application/problem+json`` (RFC 9457)."""
    headers = {"Cache-Control": "no-store", **(CORS if cors else {})}
    if isinstance(error, StreamNotFound | NodeUnavailable):
        headers["Retry-After"] = str(RETRY_AFTER)
    words = "".join(f" {c}" if c.isupper() else c for c in type(error).__name__).strip()
    body = {"type": "about:blank", "title": words.capitalize(), "detail": str(error)}
    return web.json_response(
        {**body, "status": error.http_status},
        status=error.http_status,
        headers=headers,
        content_type="application/problem+json",
    )


def health_routes(
    ready: Callable[[], str | None], metrics_text: Callable[[], bytes | str]
) -> list[web.RouteDef]:
    """Return ``/healthz``, ``/readyz`` and ``/metrics``.

    ``ready`` returns None, or what the node is still waiting for.
    """

    async def healthz(_: web.Request) -> web.Response:
        return web.Response(text="ok\n", headers={"Cache-Control": "no-store"})

    async def readyz(_: web.Request) -> web.Response:
        missing = ready()
        headers = {"Cache-Control": "no-store"}
        if missing is None:
            return web.Response(text="ready\n", headers=headers)
        headers["Retry-After"] = str(RETRY_AFTER)
        return web.Response(text=f"{missing}\n", status=503, headers=headers)

    async def metrics(_: web.Request) -> web.Response:
        text = metrics_text()
        return web.Response(
            body=text.encode() if isinstance(text, str) else text,
            headers={"Content-Type": "text/plain; version=0.0.4; charset=utf-8"},
        )

    return [
        web.get("/healthz", healthz),
        web.get("/readyz", readyz),
        web.get("/metrics", metrics),
    ]


def application(routes: Iterable[web.AbstractRouteDef] = ()) -> web.Application:
    """Return an application with the error middleware and ``routes``."""
    app = web.Application(middlewares=[errors, bodies], client_max_size=MAX_BODY)
    app.add_routes(list(routes))
    retirable(app)
    return app


def retirable(app: web.Application) -> None:
    """Make :func:`retire` work for an application."""
    app[RETIRING] = asyncio.Event()
    app.on_response_prepare.append(_last_answer)


async def _last_answer(request: web.Request, response: web.StreamResponse) -> None:
    if request.app[RETIRING].is_set() and response.status != _SWITCHING:
        response.force_close()
        response.headers["Connection"] = "close"  # aiohttp has written its own by now


async def retire(runner: web.AppRunner, limit: float) -> None:
    """Accept nobody any more and wait until all clients have left, at most ``limit`` seconds.

    Requests under way are answered. A connection that waits for its next request is not closed
    under the client's hands: the next answer says that it is the last, or the client lets it rest
    until it would have been closed anyhow. ``cleanup()`` of the runner ends what is left.
    """
    assert runner.app is not None
    runner.app[RETIRING].set()
    sites = tuple(runner.sites)
    for site in sites:
        await site.stop()
    server = runner.server
    doors = [site.door for site in sites if isinstance(site, serving.DoorSite)]

    def left() -> bool:
        return any(door.pending for door in doors) or bool(server and server.connections)

    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(limit):
            # A connection accepted a moment ago is not in the list yet.
            await asyncio.sleep(min(limit, LEAST_LINGER))
            while left():  # noqa: ASYNC110 - aiohttp has no event
                await asyncio.sleep(RETIRE_LOOK)


async def preflight(_: web.Request) -> web.Response:
    """Answer an OPTIONS request of a browser."""
    return web.Response(status=204, headers=CORS)


async def serve(
    app: web.Application,
    *listeners: socket.socket,
    speaks: Callable[[str], bool] | None = None,
) -> web.AppRunner:
    """Serve ``app`` on bound sockets; ``cleanup()`` of the runner that is returned ends it.

    ``speaks`` says from which addresses connections begin with a header of the PROXY protocol.
    """
    return await serving.serve(app, listeners, speaks=speaks, lingering_time=LINGER)
