"""Progressive fragmented MP4: ``/{stream}.mp4``, one endless file from the newest keyframe on."""

from collections.abc import Callable, Iterable, Mapping, Sequence

from aiohttp import web

from common.formats.cmaf import fragment, init_segment
from common.media.codec import Codec
from common.media.track import Track
from edge import progressive
from edge.feed import Format, Item, runs_of
from edge.output import Capability, Output

CODECS = frozenset({Codec.H264, Codec.HEVC, Codec.AV1, Codec.VP9, Codec.AAC, Codec.MP3, Codec.OPUS})


class Mp4Format(Format):
    """An init segment, then one fragment a flush with all tracks in it."""

    protocol = "mp4"
    codecs = CODECS

    def __init__(self, variant: str, wrap: Callable[[bytes], bytes]) -> None:
        self.variant = variant
        self._wrap = wrap

    def header(self, tracks: Sequence[Track], inits: Mapping[int, int]) -> bytes:
        """Return the init segment."""
        return self._wrap(init_segment([(track, inits[track.id]) for track in tracks]))

    def media(self, items: Sequence[Item], number: int) -> bytes:
        """Return one fragment."""
        runs = runs_of(items)
        data = [(run.records, run.payloads) for run in runs]
        return self._wrap(fragment([run.track for run in runs], data, number))


class Mp4(Output):
    """Plays in a ``<video>`` element, ffmpeg and most players; a second or two behind live."""

    capability = Capability(
        description="Progressive MP4",
        url="/{stream}.mp4",
        type="html5/video/mp4",
        mime="video/mp4",
        codecs=CODECS,
        priority=8,
    )
    _chunks = Mp4Format("chunked", progressive.chunked)
    _raw = Mp4Format("raw", progressive.plain)

    def routes(self) -> Iterable[web.RouteDef]:
        """Answer ``/{stream}.mp4``."""
        return [web.get("/{stream}.mp4", self.play)]

    async def play(self, request: web.Request) -> web.StreamResponse:
        """Send the stream until the viewer leaves."""
        mime = "video/mp4"
        return await progressive.serve(self.context, request, self._chunks, self._raw, mime)
