"""What there is to play and how: ``/json_{stream}.js``, in MistServer's layout.

Plain JSON, or with ``?callback=NAME`` a call of that function. A stream that is not live is not an
HTTP error here but ``{"error": ...}``: players ask again. Of MistServer's fields those are filled
that we know; nothing is invented.
"""

import json
import re
from collections.abc import Iterable
from typing import Any
from urllib.parse import quote

from aiohttp import web

from common.errors import PageGone, StreamError, TrackUnsupported
from common.formats.forwarded import HOST
from common.media.codec import Codec, Kind
from common.media.describe import describe
from common.media.track import Track
from common.runtime.http import CORS
from common.runtime.proxies import BASE
from common.runtime.registry import url_of
from common.track.reader import TrackReader
from edge.mirrors import Mirror
from edge.output import Capability, Output

OFFLINE_WAIT = 2.0
"""Seconds to wait for a stream that nobody watches yet."""

MEASURED = 2
"""Seconds of media over which the bitrate is measured."""

_CALLBACK = re.compile(r"[A-Za-z_$][A-Za-z0-9_$.]{0,99}")


class Info(Output):
    """The document that players, embedding pages and monitoring read."""

    capability = Capability(description="Stream information", url="")

    def routes(self) -> Iterable[web.RouteDef]:
        """Answer ``/json_{stream}.js``."""
        return [web.get("/json_{stream}.js", self.show)]

    async def show(self, request: web.Request) -> web.Response:
        """Describe one stream."""
        stream = request.match_info["stream"]
        try:
            mirror = await self.context.mirrors.get(
                stream, min(OFFLINE_WAIT, self.context.settings.wait)
            )
            tree = self._describe(mirror, request)
        except StreamError as error:
            tree = {"error": "Stream is offline", "on_error": str(error)}
        text = json.dumps(tree, separators=(",", ":"))
        callback = request.query.get("callback")
        mime = "application/json"
        if callback is not None:
            if _CALLBACK.fullmatch(callback) is None:
                raise web.HTTPBadRequest(text="callback: not a name\n")
            text, mime = f"{callback}({text});", "application/javascript"
        headers = {"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff", **CORS}
        return web.Response(text=text, content_type=mime, headers=headers)

    def _describe(self, mirror: Mirror, request: web.Request) -> dict[str, Any]:
        catalog = mirror.catalog
        shown = [track for track in catalog.tracks if not track.ended]
        tracks = [_track(track, mirror.reader.track(track.id)) for track in shown]
        pictures = [entry for entry in tracks if entry["type"] == "video"]
        return {
            "type": "live",
            "width": max((entry["width"] for entry in pictures), default=0),
            "height": max((entry["height"] for entry in pictures), default=0),
            "unixoffset": _unix_offset(mirror, shown),
            "selver": 2,
            "capa": {"datachannels": False, "ssl": self._base(request).startswith("https:")},
            "edge": self.context.node,
            "meta": {
                "version": 4,
                "live": 1,
                "vod": 0,
                "buffer_window": catalog.window_us // 1000,
                "jitter": max((entry["jitter"] for entry in tracks), default=0),
                "bframes": int(any(entry.pop("bframes") for entry in tracks)),
                "tracks": {_name(entry): entry for entry in tracks},
            },
            "source": self._sources(mirror.stream, shown, request),
        }

    def _sources(
        self, stream: str, tracks: list[Track], request: web.Request
    ) -> list[dict[str, Any]]:
        base = self._base(request)
        found: list[dict[str, Any]] = []
        for output in self.context.outputs.values():
            about = output.capability
            fits = [track for track in tracks if track.codec in about.codecs]
            if not about.url or not fits:
                continue
            path = about.url.replace("{stream}", quote(stream, safe="+="))
            at = f"ws{base.removeprefix('http')}" if about.upgrade == "websocket" else base
            found.append(
                {
                    "type": about.type,
                    "hrn": about.description,
                    "url": f"{at}{path}",
                    "relurl": path.removeprefix("/"),
                    "priority": about.priority,
                    "simul_tracks": len({track.codec.kind for track in fits}),
                    "total_matches": len(fits),
                }
            )
        found.sort(key=lambda s: (-s["simul_tracks"], -s["priority"], -s["total_matches"]))
        return found

    def _base(self, request: web.Request) -> str:
        """Return the URL under which viewers have this edge: a proxy or the settings know best."""
        said = request.get(BASE, "")
        public = self.context.settings.public
        if said or "://" in public:
            return said or url_of(public)
        # Without a scheme it is where HTTP comes in, and HTTPS has a port of its own.
        host = public if public and request.scheme == "http" else request.host
        if not HOST.fullmatch(host):
            host = "localhost"
        return f"{request.scheme}://{host}"


def _track(track: Track, reader: TrackReader) -> dict[str, Any]:
    about = describe(track.codec, track.inits[-1] if track.inits else b"")
    entry: dict[str, Any] = {
        "idx": track.id - 1,
        "trackid": track.id,
        "type": "meta" if track.codec.kind in (Kind.METADATA, Kind.SUBTITLE) else track.codec.kind,
        "codec": _mist_name(track.codec),
        "codecstring": about.codec_string,
        "lang": track.language,
        "jitter": 0,
        "bframes": 0,
        **_measure(track, reader),
    }
    if track.codec.kind is Kind.VIDEO:
        rate = float(about.frame_rate or 0)
        if not rate and track.frame_duration:
            rate = track.timescale / track.frame_duration
        entry |= {"width": about.width, "height": about.height, "fpks": round(rate * 1000)}
    elif track.codec.kind is Kind.AUDIO:
        entry |= {"rate": about.sample_rate, "channels": about.channels, "size": 16}
    return entry


def _measure(track: Track, reader: TrackReader) -> dict[str, Any]:
    """Return times in stream milliseconds and the bitrate (MistServer: bytes a second)."""
    try:
        first, head = reader.contiguous_from, reader.head
        if head <= first:
            return {"firstms": 0, "lastms": 0, "nowms": 0, "bps": 0, "maxbps": 0}
        oldest, newest = reader.record(first), reader.record(head - 1)
        span = MEASURED * track.timescale
        mean = max((newest.dts - oldest.dts) // max(head - 1 - first, 1), 1)
        start = max(first, head - 1 - span // mean)
        rows = reader.array(start, head)
    except PageGone as error:
        raise TrackUnsupported("the track moved on while it was read") from error
    ticks = int(newest.dts + newest.duration - rows["dts"][0])
    rate = int(rows["size"].sum()) * track.timescale // max(ticks, 1)
    last = (newest.dts + newest.duration) * 1000 // track.timescale
    return {
        "firstms": oldest.dts * 1000 // track.timescale,
        "lastms": last,
        "nowms": last,
        "bps": rate,
        "maxbps": rate,
        "bframes": int(bool((rows["cts"] != rows["cts"][0]).any())),
    }


def _unix_offset(mirror: Mirror, tracks: list[Track]) -> int:
    """Return Unix milliseconds minus stream milliseconds, by the newest frame's capture."""
    for track in tracks:
        reader = mirror.reader.track(track.id)
        if not track.codec.sparse and reader.head:
            record = reader.record(reader.head - 1)
            return record.capture_us // 1000 - record.dts * 1000 // track.timescale
    return 0


def _mist_name(codec: Codec) -> str:
    return {Codec.OPUS: "opus", Codec.TEXT: "subtitle"}.get(codec, codec.value.upper())


def _name(entry: dict[str, Any]) -> str:
    """Return MistServer's name of a track: ``video_H264_1280x720_25fps_1``."""
    words = [str(entry["type"]), entry["codec"]]
    if "width" in entry:
        words += [f"{entry['width']}x{entry['height']}", f"{entry['fpks'] / 1000:g}fps"]
    if "rate" in entry:
        words += [f"{entry['channels']}ch", f"{entry['rate']}hz"]
    return "_".join([*words, str(entry["trackid"])])
