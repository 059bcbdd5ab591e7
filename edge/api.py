"""The admin side of an edge: health, metrics, and what it carries for whom, as JSON.

Loopback by default; elsewhere, what changes something or tells of viewers takes a token. A browser
on this machine must not be a way in (DNS rebinding), so the Host header has to be an address or
``localhost``.
"""

import time
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from aiohttp import web

from common import __version__
from common.errors import (
    HeadwaterError,
    ProtocolError,
    StreamError,
    StreamNotFound,
)
from common.media.describe import describe
from common.media.track import Track
from common.runtime import admin, reload, trust
from common.runtime.http import health_routes
from common.runtime.registry import DRAIN_TIMEOUT
from common.runtime.units import Duration
from common.track.reader import StreamReader
from edge.draining import Drain
from edge.supervisor import Supervisor

NO_STORE = {"Cache-Control": "no-store"}


@dataclass(slots=True)
class Api:
    """What the admin routes read."""

    node: str
    root: Path
    supervisor: Supervisor
    endpoints: dict[str, str]
    capacity: dict[str, float]
    drain: Drain
    token: str = ""
    """What clients on other machines need for what changes something, or tells of viewers."""
    registered: bool = False
    began: float = field(default_factory=time.time)

    def missing(self) -> str | None:
        """Return what the edge still waits for, None when it serves."""
        waiting = self.supervisor.missing()
        if waiting is None and not self.registered:
            waiting = "waiting for the registry"
        if waiting is None and self.drain.active:
            waiting = "draining"
        return waiting

    def routes(self) -> Iterable[web.RouteDef]:
        """Return every admin route."""
        guarded = trust.guard(self.token, "edge")
        return [
            *health_routes(self.missing, self.supervisor.merger.text),
            web.get("/api/v1/node", self.describe_node),
            web.get("/api/v1/streams", self.streams),
            web.get("/api/v1/streams/{stream}", self.stream),
            web.get("/api/v1/sessions", guarded(self.sessions)),
            web.get("/api/v1/drain", self.drained),
            web.post("/api/v1/drain", guarded(self.begin_drain)),
            web.post("/api/v1/undrain", guarded(self.end_drain)),
            web.post(admin.RESTART, guarded(admin.restart)),
            *reload.routes(self.token),
        ]

    async def describe_node(self, _: web.Request) -> web.Response:
        """Say who this is and how it does."""
        children = self.supervisor.children
        return _json(
            {
                "node": self.node,
                "role": "edge",
                "version": __version__,
                "uptime_seconds": round(time.time() - self.began, 3),
                "ready": self.missing() is None,
                "draining": self.drain.active,
                "overload": self.supervisor.overload.stage.name.lower(),
                "endpoints": self.endpoints,
                "capacity": self.capacity,
                "sessions": self.supervisor.viewing,
                "egress_bits_per_second": round(sum(c.report.bits_per_second for c in children)),
                "children": [
                    {"name": child.name, "pid": child.pid, "ready": child.ready}
                    for child in children
                ],
            }
        )

    async def streams(self, _: web.Request) -> web.Response:
        """List the streams that the viewers want."""
        known = self.supervisor.states
        names = sorted(self.supervisor.wanted() | known.keys())
        return _json({"streams": [self._stream(name) for name in names]})

    async def stream(self, request: web.Request) -> web.Response:
        """Describe one stream."""
        name = request.match_info["stream"]
        if name not in self.supervisor.states:
            raise StreamNotFound(f"{name} is not carried by this edge")
        return _json(self._stream(name))

    async def sessions(self, request: web.Request) -> web.Response:
        """List the sessions of all viewer processes, of one stream if ``?stream=`` says so."""
        stream = request.query.get("stream")
        found = await self.supervisor.sessions()
        if stream is not None:
            found = [session for session in found if session.get("stream") == stream]
        return _json({"sessions": found})

    async def drained(self, _: web.Request) -> web.Response:
        """Say whether the edge drains, and how many viewers are left."""
        return _json(self.drain.status())

    async def begin_drain(self, request: web.Request) -> web.Response:
        """Move the viewers away; a body ``{"timeout": "60s"}`` says within what time.

        Raises:
            ProtocolError: If the body is not that.
        """
        body = await admin.body(request)
        try:
            timeout = Duration.parse(body.get("timeout", DRAIN_TIMEOUT))
        except ValueError as error:
            raise ProtocolError(f"timeout: {error}") from error
        await self.drain.set(True, timeout)
        return _json({"draining": True, "timeout": timeout}, status=202)

    async def end_drain(self, request: web.Request) -> web.Response:
        """Take viewers again."""
        await admin.body(request)
        await self.drain.set(False)
        return _json({"draining": False}, status=202)

    def _stream(self, name: str) -> dict[str, Any]:
        state, epoch = self.supervisor.states.get(name, ("joining", 0))
        told: dict[str, Any] = {"stream": name, "state": state, "epoch": epoch}
        try:
            reader = StreamReader.open(self.root, name, epoch)
        except StreamError:
            return told
        try:
            catalog = reader.catalog
            tracks = [_track(track, reader) for track in catalog.tracks]
        except HeadwaterError:
            return told
        finally:
            reader.close()
        return {
            **told,
            "term": catalog.term,
            "version": catalog.version,
            "target_duration": catalog.target_duration,
            "part_target_us": catalog.part_target_us,
            "window_us": catalog.window_us,
            "tracks": tracks,
        }


def _track(track: Track, reader: StreamReader) -> dict[str, Any]:
    held = reader.track(track.id)
    about = describe(track.codec, track.inits[-1] if track.inits else b"")
    return {
        "id": track.id,
        "kind": track.codec.kind.value,
        "codec": about.codec_string,
        "slot": track.slot,
        "language": track.language,
        "timescale": track.timescale,
        "width": about.width,
        "height": about.height,
        "sample_rate": about.sample_rate,
        "channels": about.channels,
        "ended": track.ended,
        "head": held.head,
        "oldest": held.oldest,
        "contiguous_from": held.contiguous_from,
    }


def _json(tree: dict[str, Any], status: int = 200) -> web.Response:
    return web.json_response(tree, headers=NO_STORE, status=status)
