"""HLS and low-latency HLS over CMAF: ``/cmaf/{stream}/index.m3u8`` and what it leads to.

RFC 8216bis (draft 22) section 6.2.5 for blocking reloads and delta updates. Playlists name media by
relative URIs with epoch and packaging version in them, so that an object behind a URL never
changes and playlists are the same for everybody.
"""

from collections.abc import Iterable
from functools import partial
from typing import Any
from urllib.parse import quote

from aiohttp import web

from common.errors import NodeUnavailable, StreamNotFound
from common.formats.mp4_entries import CARRIED
from common.runtime.http import CORS
from edge.cmaf_published import (
    BLOCK_TARGETS,
    PLAYLIST_TYPE,
    PROTOCOL,
    SHORT,
    CmafPublished,
    ask_for,
    cache_control,
    coded,
    following,
    mime_of,
    object_headers,
    object_patience,
    waiting_for,
)
from edge.cmaf_stream import CmafStream, Epoch, Gone
from edge.mirrors import Mirror
from edge.output import Capability, Output, ViewerContext
from edge.packager import Packager, Packed
from edge.playlists import Directives, Text, Wait
from edge.published import Reply, Waiting, waited
from edge.range import ranged, takes_gzip

CATCH_UP = 2.0
"""Seconds that a first viewer waits for an edge to know the whole window, once it could play."""

OBJECT_PATH = r"/cmaf/{stream}/{track:[0-9]{1,9}}/{epoch:[0-9]{1,20}}.{packaging:[0-9]{1,5}}/"
NUMBER = "{number:[0-9]{1,15}}"
"""Consul counts segments of a new stream from the Unix time: ten digits, and more to come."""

MISSING = {"Cache-Control": "public, max-age=1", **CORS}


class Cmaf(Output):
    """Plays in every browser and on Apple devices; one to two seconds behind live with parts."""

    capability = Capability(
        description="HLS and low-latency HLS over CMAF",
        url="/cmaf/{stream}/index.m3u8",
        type="html5/application/vnd.apple.mpegurl;version=7",
        mime=PLAYLIST_TYPE,
        codecs=CARRIED,
        priority=9,
    )

    def __init__(self, context: ViewerContext, settings: Any = None) -> None:
        super().__init__(context, settings)
        self.packager = Packager(int(context.settings.cache))
        self._streams: dict[str, tuple[Mirror, CmafStream]] = {}
        self._published = CmafPublished(context, self.packager, self._streams)

    def published(self, target: str, gzip: bool) -> Reply | Waiting | None:
        """Return a playlist or an object that is finished, or what both are waited for with."""
        return self._published.find(target, gzip)

    def routes(self) -> Iterable[web.RouteDef]:
        """Answer playlists and media objects."""
        return [
            web.get("/cmaf/{stream}/index.m3u8", self.multivariant),
            web.get(r"/cmaf/{stream}/{track:[0-9]{1,9}}.m3u8", self.media),
            web.get(f"{OBJECT_PATH}init-{NUMBER}.mp4", self.init),
            web.get(f"{OBJECT_PATH}s{NUMBER}.m4s", self.segment),
            web.get(f"{OBJECT_PATH}p{NUMBER}.m4s", self.part),
        ]

    async def close(self) -> None:
        """Stop following streams."""
        for _, stream in self._streams.values():
            stream.close()
        self._streams.clear()

    async def stream(self, name: str) -> tuple[CmafStream, Epoch]:
        """Return a stream and its newest epoch, waiting for it to be live.

        Raises:
            StreamNotFound: If it is not.
        """
        mirror = await self.context.mirrors.get(name)
        known = self._streams.get(name)
        if known is None or known[0] is not mirror:
            for given_up in [n for n, (_, one) in self._streams.items() if one.closed]:
                self._streams.pop(given_up)[1].close()
            fetch = partial(self.context.mirrors.on_missing, name)
            known = self._streams[name] = (mirror, CmafStream(mirror, self.packager, fetch))
        return known[1], known[1].fresh(mirror)

    async def multivariant(self, request: web.Request) -> web.Response:
        """Send the multivariant playlist.

        Raises:
            StreamNotFound: If there is nothing to play in time.
        """
        stream, epoch = await self.stream(request.match_info["stream"])
        path = f"/cmaf/{quote(request.match_info['stream'], safe='+=')}/index.m3u8"
        answer = epoch.multivariant(self.context.mover.around, path)
        if isinstance(answer, Wait):

            def look() -> Text | Wait:
                return stream.current.multivariant(self.context.mover.around, path)

            answer = await stream.wait("multivariant", look, self.context.settings.wait)
        if isinstance(answer, Wait):
            raise StreamNotFound("the stream has nothing to play yet")
        return self._text(request, answer, SHORT)

    async def media(self, request: web.Request) -> web.Response:
        """Send the playlist of a track, at once or when it has what is asked for.

        Raises:
            ProtocolError: If the directives make no sense or ask for what is too far ahead.
            StreamNotFound: If there is nothing to play in time.
            NodeUnavailable: If what is asked for does not come in time.
        """
        ask = Directives.of(request.query)
        stream, epoch = await self.stream(request.match_info["stream"])
        track = int(request.match_info["track"])
        first = epoch.playlist(track, ask, patient=True)
        if isinstance(first, Wait):
            first = await self._blocked(stream, track, ask, waited(request))
        if isinstance(first, Gone):
            return web.Response(status=404, headers=MISSING)
        return self._text(request, first, cache_control(stream, ask))

    async def _blocked(
        self, stream: CmafStream, track: int, ask: Directives, before: float
    ) -> Text | Gone:
        ready = await self._first(stream, track)
        if isinstance(ready, Gone):
            return ready

        def look() -> Text | Wait | Gone:
            return stream.current.playlist(track, ask, patient=False)

        answer = look()
        if isinstance(answer, Wait):
            timeout = BLOCK_TARGETS * stream.current.catalog.target_duration
            answer = await stream.wait(("media", track, ask), look, timeout - before)
        if isinstance(answer, Wait):
            raise NodeUnavailable("the stream stands still")
        return answer

    async def _first(self, stream: CmafStream, track: int) -> Text | Gone:
        """Return the playlist as it is now, once there is one and this edge has caught up."""
        plain = Directives()
        for patient, timeout in ((True, CATCH_UP), (False, self.context.settings.wait)):

            def ask(patient: bool = patient) -> Text | Wait | Gone:
                return stream.current.playlist(track, plain, patient=patient)

            answer = ask()
            if isinstance(answer, Wait):
                answer = await stream.wait(("first", track, patient), ask, timeout)
            if not isinstance(answer, Wait):
                stream.current.accept(track)
                return answer
        raise StreamNotFound("the stream has nothing to play yet")

    async def init(self, request: web.Request) -> web.Response:
        """Send an init segment."""
        return await self._object(request, "init")

    async def segment(self, request: web.Request) -> web.Response:
        """Send a segment."""
        return await self._object(request, "segment")

    async def part(self, request: web.Request) -> web.Response:
        """Send a part, waiting for the one that was hinted."""
        return await self._object(request, "part")

    async def _object(self, request: web.Request, kind: str) -> web.Response:
        match = request.match_info
        stream, newest = await self.stream(match["stream"])
        track, number = int(match["track"]), int(match["number"])
        wanted = int(match["epoch"])
        epoch = stream.older(wanted, int(match["packaging"]))
        if epoch is None:
            return web.Response(status=404, headers=MISSING)
        answer = ask_for(epoch, kind, track, number)
        if isinstance(answer, Wait) and epoch is newest:
            key, ask, missing = waiting_for(stream, epoch, (kind, track, number))
            patience = object_patience(epoch, self.context.settings.wait) - waited(request)
            answer = await stream.wait(key, ask, patience, missing)
        if not isinstance(answer, Packed):
            return web.Response(status=404, headers=MISSING)
        if kind == "part" and number + 1 >= following(epoch, track):
            self.context.sessions.latency(PROTOCOL, answer.capture_us)
        return self._packed(request, answer, mime_of(epoch, track))

    def _packed(self, request: web.Request, packed: Packed, mime: str) -> web.Response:
        headers = object_headers(packed, mime)
        status, body, more = ranged(packed.body, packed.etag, request.headers)
        self._count(request, len(body))
        return web.Response(status=status, body=body, headers=headers | more)

    def _text(self, request: web.Request, text: Text, cache: str) -> web.Response:
        takes = takes_gzip(request.headers.get("Accept-Encoding", ""))
        body, headers = coded(text, cache, takes)
        self._count(request, len(body))
        return web.Response(body=body, headers=headers)

    def _count(self, request: web.Request, size: int) -> None:
        session = self.context.sessions.visit(request.match_info["stream"], PROTOCOL, request)
        if request.method != "HEAD":
            session.sent(size)
