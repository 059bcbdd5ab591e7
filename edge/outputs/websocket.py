"""Fragmented MP4 over WebSocket for Media Source Extensions: ``ws`` on ``/{stream}.mp4``.

Text frames are JSON control as MistServer speaks it, binary frames are fMP4: an init segment, then
one fragment a frame. A viewer sends ``request_codec_data`` with what it can decode and gets
``codec_data``; ``play`` starts. ``?autoplay=1`` needs neither. Besides ``hold``, ``seek`` (to live)
and ``set_speed`` are understood; other speeds than that of the stream are answered, not granted.

When the edge drains, ``{"type": "move", "data": {"url": ...}}`` says where to go on: frames
still come here until the viewer has opened that and closed this, or the drain is over (code 1012).

The frames of the media are built once and written by the hub to every viewer's transport
(RFC 6455 section 5.2: a server's frames are not masked).
"""

import asyncio
import json
import struct
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from aiohttp import WSCloseCode, WSMsgType, web

from common.errors import HeadwaterError
from common.formats.cmaf import fragment, init_segment, setup_bytes
from common.media.codec import Codec, Kind
from common.media.describe import describe
from common.media.track import Track
from edge.feed import Format, Item, runs_of
from edge.hub import Viewer
from edge.mirrors import Mirror
from edge.output import Capability, Output
from edge.selection import Selection

CODECS = frozenset({Codec.H264, Codec.HEVC, Codec.AV1, Codec.VP9, Codec.AAC, Codec.OPUS})
MAX_MESSAGE = 64 * 1024
"""Bytes of a message from a viewer. A longer one ends the connection (close code 1009)."""

MAX_CODECS = 32
"""Codecs that a viewer may name. Those named after them are ignored."""

CLOSE_TIMEOUT = 2.0
"""Seconds that a viewer has to answer a close frame."""

_MIST = {
    "H264": Codec.H264,
    "HEVC": Codec.HEVC,
    "AV1": Codec.AV1,
    "VP9": Codec.VP9,
    "AAC": Codec.AAC,
    "OPUS": Codec.OPUS,
}


def frame(data: bytes, text: bool = False) -> bytes:
    """Return ``data`` as one unmasked WebSocket frame."""
    first, size = (0x81 if text else 0x82), len(data)
    if size < 126:
        return bytes((first, size)) + data
    if size < 65536:
        return struct.pack(">BBH", first, 126, size) + data
    return struct.pack(">BBQ", first, 127, size) + data


def control(message: Mapping[str, Any]) -> bytes:
    """Return a control message as a text frame."""
    return frame(json.dumps(message, separators=(",", ":")).encode(), text=True)


def codec_data(tracks: Sequence[Track], inits: Mapping[int, int]) -> dict[str, Any]:
    """Return the message that tells a player how to set up its source buffers."""
    codecs = [
        describe(track.codec, setup_bytes(track, inits[track.id])).codec_string for track in tracks
    ]
    return {"type": "codec_data", "codecs": codecs, "tracks": [track.id for track in tracks]}


class MseFormat(Format):
    """Control and media frames of a WebSocket."""

    protocol = "websocket"

    def __init__(self, codecs: frozenset[Codec] = CODECS) -> None:
        self.codecs = codecs
        self.variant = ",".join(sorted(codecs))

    def header(self, tracks: Sequence[Track], inits: Mapping[int, int]) -> bytes:
        """Return ``codec_data`` and the init segment."""
        init = init_segment([(track, inits[track.id]) for track in tracks])
        return control(codec_data(tracks, inits)) + frame(init)

    def media(self, items: Sequence[Item], number: int) -> bytes:
        """Return one fragment; at keyframes ``on_time`` goes first."""
        runs = runs_of(items)
        data = [(run.records, run.payloads) for run in runs]
        media = frame(fragment([run.track for run in runs], data, number))
        first = items[0]
        if first.record.key and first.track.codec.kind is Kind.VIDEO:
            return control(_on_time(items)) + media
        return media


def _on_time(items: Sequence[Item]) -> dict[str, Any]:
    """Say where in the stream this is; ``unixoffset`` turns stream time into Unix ms."""
    track, record, _ = items[0]
    current = (record.dts + record.cts) * 1000 // track.timescale
    last = items[-1]
    end = (last.record.dts + last.record.cts) * 1000 // last.track.timescale
    return {
        "type": "on_time",
        "data": {
            "current": current,
            "end": end,
            "unixoffset": record.capture_us // 1000 - current,
            "tracks": sorted({item.track.id for item in items}),
            "play_rate_curr": 1,
        },
    }


class WebSocketOutput(Output):
    """The fastest way into a browser that needs nothing but TCP: a tenth of a second."""

    capability = Capability(
        description="MP4 over WebSocket",
        url="/{stream}.mp4",
        type="ws/video/mp4",
        mime="video/mp4",
        codecs=CODECS,
        priority=10,
        upgrade="websocket",
    )

    def routes(self) -> Iterable[web.RouteDef]:
        """Answer WebSocket requests for ``/{stream}.mp4``."""
        return [web.get("/{stream}.mp4", self.play)]

    async def play(self, request: web.Request) -> web.StreamResponse:
        """Serve one viewer until it leaves or the stream ends."""
        socket = web.WebSocketResponse(
            compress=False, max_msg_size=MAX_MESSAGE, timeout=CLOSE_TIMEOUT
        )
        await socket.prepare(request)
        try:
            mirror = await self.context.mirrors.get(request.match_info["stream"])
            await _Conversation(self, request, socket, mirror).run()
        except HeadwaterError as error:
            await socket.send_json({"type": "error", "message": str(error)})
            await socket.close(code=4000 + error.http_status, message=b"not available")
        return socket


class _Conversation:
    """One viewer: what it says, and the feed it gets."""

    def __init__(
        self,
        output: WebSocketOutput,
        request: web.Request,
        socket: web.WebSocketResponse,
        mirror: Mirror,
    ) -> None:
        self._context = output.context
        self._request = request
        self._socket = socket
        self._mirror = mirror
        self._selection = Selection.of(request.query)
        self._form = MseFormat()
        self._viewer: Viewer | None = None

    async def run(self) -> None:
        if self._request.query.get("autoplay", "") not in ("", "0"):
            await self._play()
        try:
            while True:
                message = await self._next()
                if message is None or message.type not in (WSMsgType.TEXT, WSMsgType.BINARY):
                    break
                await self._heard(message.data)
        finally:
            if self._viewer is not None:
                self._context.hub.leave(self._viewer)
        if self._socket.closed:
            return
        if self._viewer is not None and self._viewer.reason == "moved":
            await self._socket.close(code=WSCloseCode.SERVICE_RESTART, message=b"go on elsewhere")
            return
        await self._socket.send_json({"type": "on_stop"})
        await self._socket.close()

    async def _next(self) -> Any:
        """Return the viewer's next message, None once nothing more will be sent to it."""
        receive = asyncio.ensure_future(self._socket.receive())
        waiting: set[asyncio.Future[Any]] = {receive}
        if self._viewer is not None:
            waiting.add(self._viewer.done)
        try:
            await asyncio.wait(waiting, return_when=asyncio.FIRST_COMPLETED)
        finally:
            if not receive.done():
                receive.cancel()
        return receive.result() if receive.done() and not receive.cancelled() else None

    async def _heard(self, data: str | bytes) -> None:
        try:
            message = json.loads(data)
        except (ValueError, RecursionError):
            message = None
        kind = message.get("type") if isinstance(message, dict) else None
        match kind:
            case "request_codec_data":
                await self._codec_data(message.get("supported_codecs"))
            case "play":
                await self._play()
            case "hold" | "pause" | "stop":
                if self._viewer is not None:
                    self._context.hub.hold(self._viewer)
            case "seek":
                await self._seek()
            case "set_speed":
                answer = {"play_rate_prev": 1, "play_rate_curr": 1}
                await self._socket.send_json({"type": "set_speed", "data": answer})
            case _:
                await self._socket.send_json({"type": "error", "message": "not understood"})

    async def _codec_data(self, supported: Any) -> None:
        """Narrow the codecs to those that the viewer names, and say which tracks there are."""
        if self._viewer is not None:
            return
        if isinstance(supported, list):
            named = frozenset(codec for name in supported[:MAX_CODECS] for codec in _named(name))
            self._form = MseFormat(named & CODECS)
        wait = self._context.settings.wait
        await self._context.hub.ready(self._mirror, self._selection, self._form, wait)
        tracks = self._selection.choose(self._mirror.catalog, self._form.codecs)
        newest = {track.id: max(len(track.inits) - 1, 0) for track in tracks}
        await self._socket.send_json(codec_data(tracks, newest))

    async def _play(self) -> None:
        hub = self._context.hub
        if self._viewer is not None:
            hub.resume(self._viewer)
            return
        await hub.ready(self._mirror, self._selection, self._form, self._context.settings.wait)
        transport = self._request.transport
        if transport is None:
            return
        session = self._context.sessions.open(
            self._mirror.stream, self._form.protocol, self._request
        )
        self._viewer = hub.join(self._mirror, self._selection, self._form, transport, session)
        self._viewer.on_move = self._move
        self._context.mover.joined(self._viewer)

    def _move(self, base: str) -> None:
        """Tell the viewer to go on at another edge; it gets its media here until it leaves.

        With an empty ``base`` it is to connect anew to the address that it used.
        """
        if self._viewer is not None:
            url = base.replace("http", "ws", 1) + self._request.raw_path
            self._viewer.write(control({"type": "move", "data": {"url": url}}))

    async def _seek(self) -> None:
        if self._viewer is not None:
            self._context.hub.resume(self._viewer)
        await self._socket.send_json({"type": "seek", "data": {"live_point": True}})


def _named(name: object) -> tuple[Codec, ...]:
    """Return the codec that MistServer's name stands for, or an RFC 6381 string."""
    if not isinstance(name, str):
        return ()
    if name.upper() in _MIST:
        return (_MIST[name.upper()],)
    prefix = name.partition(".")[0].lower()
    known = {
        "avc1": Codec.H264,
        "avc3": Codec.H264,
        "hvc1": Codec.HEVC,
        "hev1": Codec.HEVC,
        "av01": Codec.AV1,
        "vp09": Codec.VP9,
        "mp4a": Codec.AAC,
        "opus": Codec.OPUS,
    }
    return (known[prefix],) if prefix in known else ()
