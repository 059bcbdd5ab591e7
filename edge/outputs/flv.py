"""Progressive FLV over HTTP: ``/{stream}.flv``, Enhanced RTMP codecs included."""

from collections.abc import Callable, Iterable, Mapping, Sequence

from aiohttp import web

from common.formats.flv import FlvMuxer
from common.media.codec import Codec
from common.media.track import Track
from edge import progressive
from edge.feed import Format, Item
from edge.output import Capability, Output

CODECS = frozenset({Codec.H264, Codec.HEVC, Codec.AV1, Codec.VP9, Codec.AAC, Codec.MP3, Codec.OPUS})


class FlvFormat(Format):
    """The file header with sequence headers, then one tag a frame."""

    protocol = "flv"
    codecs = CODECS

    def __init__(self, variant: str, wrap: Callable[[bytes], bytes]) -> None:
        self.variant = variant
        self._wrap = wrap

    def header(self, tracks: Sequence[Track], inits: Mapping[int, int]) -> bytes:
        """Return the file header, onMetaData and the sequence headers."""
        return self._wrap(FlvMuxer(tracks).header(inits))

    def change(self, tracks: Sequence[Track], inits: Mapping[int, int], dts_us: int) -> bytes:
        """Return new sequence headers; the file goes on."""
        muxer = FlvMuxer(tracks)
        when = dts_us // 1000
        return self._wrap(
            b"".join(muxer.sequence_header(track, inits[track.id], when) for track in tracks)
        )

    def media(self, items: Sequence[Item], number: int) -> bytes:
        """Return one tag a frame."""
        tag = _MUXER.tag
        return self._wrap(b"".join(tag(*item) for item in items))


_MUXER = FlvMuxer(())


class Flv(Output):
    """For players such as mpegts.js, VLC and ffplay, and for rtmp relays that pull over HTTP."""

    capability = Capability(
        description="Progressive FLV",
        url="/{stream}.flv",
        type="flash/7",
        mime="video/x-flv",
        codecs=CODECS,
        priority=5,
    )
    _chunks = FlvFormat("chunked", progressive.chunked)
    _raw = FlvFormat("raw", progressive.plain)

    def routes(self) -> Iterable[web.RouteDef]:
        """Answer ``/{stream}.flv``."""
        return [web.get("/{stream}.flv", self.play)]

    async def play(self, request: web.Request) -> web.StreamResponse:
        """Send the stream until the viewer leaves."""
        mime = "video/x-flv"
        return await progressive.serve(self.context, request, self._chunks, self._raw, mime)
