"""CMAF playlists and objects as finished answers: what the bypass sends for ``/cmaf/...``.

Beside the output, which answers the same with request and response; both take header fields and
what is in a playlist from here and from the stream.
"""

import re
from collections.abc import Hashable, Mapping
from functools import partial

from common.errors import HeadwaterError
from common.media.codec import Kind
from common.runtime.http import CORS
from edge.cmaf_stream import Ask, CmafStream, Epoch, Gone, Missing
from edge.mirrors import Mirror
from edge.output import ViewerContext
from edge.packager import Packager, Packed, key_of
from edge.playlists import Directives, Text, Wait
from edge.published import Reply, Waiting

PROTOCOL = "hls"
"""Name for sessions and metrics."""

PLAYLIST_TYPE = "application/vnd.apple.mpegurl"

BLOCK_TARGETS = 3
"""Target durations that a blocking request waits at most."""

LEAST_GZIP = 512
"""Bytes below which compressing saves nothing."""

IMMUTABLE = "public, max-age=31536000, immutable"
"""An object behind a media URL never changes."""

SHORT = "public, max-age=1"

STALE = 0.1
"""Seconds after which a playlist is looked at again even if nothing has said that it is new."""

_TARGET = re.compile(
    r"/cmaf/(?P<stream>[A-Za-z0-9._~+=@-]+)/(?P<track>[0-9]{1,9})"
    r"(?:\.m3u8(?:\?(?P<query>[A-Za-z0-9_=&]+))?"
    r"|/(?P<epoch>[0-9]{1,20})\.(?P<packaging>[0-9]{1,5})/"
    r"(?P<kind>init-|s|p)(?P<number>[0-9]{1,15})\.(?P<suffix>mp4|m4s))",
    re.ASCII,
)
_KINDS = {("init-", "mp4"): "init", ("s", "m4s"): "segment", ("p", "m4s"): "part"}


def object_headers(packed: Packed, mime: str) -> dict[str, str]:
    """Return the header fields of an object."""
    return {
        "Content-Type": mime,
        "Cache-Control": IMMUTABLE,
        "ETag": packed.etag,
        "Accept-Ranges": "bytes",
        **CORS,
    }


def coded(text: Text, cache: str, gzip: bool) -> tuple[bytes, dict[str, str]]:
    """Return a playlist as it is sent to who takes ``gzip`` or not, and its header fields."""
    headers = {
        "Content-Type": PLAYLIST_TYPE,
        "Cache-Control": cache,
        "Vary": "Accept-Encoding",
        **CORS,
    }
    if gzip and len(text.body) >= LEAST_GZIP:
        return text.packed, headers | {"Content-Encoding": "gzip"}
    return text.body, headers


def cache_control(stream: CmafStream, ask: Directives) -> str:
    """Return how long a media playlist may be kept.

    What answers a blocking request stays an answer to it (RFC 8216bis, appendix B, caching).
    """
    target = stream.current.catalog.target_duration
    return SHORT if ask.msn is None else f"public, max-age={6 * target}"


def ask_for(epoch: Epoch, kind: str, track: int, number: int) -> Packed | Wait | Gone:
    """Return an object, or say whether it will come."""
    if kind == "part":
        return epoch.part(track, number)
    return epoch.segment(track, number) if kind == "segment" else epoch.init(track, number)


def following(epoch: Epoch, track: int) -> int:
    """Return the number of the part that comes next."""
    listing = epoch.playlists.listing(track)
    return listing.next_part if listing is not None else 0


def mime_of(epoch: Epoch, track: int) -> str:
    """Return the type of a track's objects."""
    found = epoch.catalog.track(track)
    return "audio/mp4" if found is not None and found.codec.kind is Kind.AUDIO else "video/mp4"


def object_patience(epoch: Epoch, wait: float) -> float:
    """Return the seconds that a request waits for an object."""
    target = epoch.catalog.target_duration
    return min(BLOCK_TARGETS * target, wait) if target else wait


class Playlist(Reply):
    """A playlist: the answer until the stream moves."""

    __slots__ = ("_source", "_until", "_version")

    def __init__(
        self, source: CmafStream, name: str, headers: Mapping[str, str], body: bytes, now: float
    ) -> None:
        super().__init__(name, PROTOCOL, headers, body)
        self._source = source
        self._version = source.version
        self._until = now + STALE

    def current(self, now: float) -> bool:
        """Return whether the stream still stands where it stood."""
        return self._version == self._source.version and now < self._until


class Object(Reply):
    """A segment, part or init segment: the answer while its epoch is here and it is kept."""

    __slots__ = ("_epoch", "_key", "_packager", "_packed", "_reader", "_readers")

    def __init__(
        self, stream: CmafStream, epoch: Epoch, packager: Packager, mime: str,
        kind: str, track: int, number: int, packed: Packed,
    ) -> None:  # fmt: skip
        timelines = epoch.timelines
        name = timelines.reader.stream
        super().__init__(name, PROTOCOL, object_headers(packed, mime), packed.body)
        self._readers = stream.readers
        self._reader = timelines.reader
        self._epoch = timelines.reader.epoch
        self._key = key_of(timelines, track, kind, number)
        self._packager = packager
        self._packed = packed

    def current(self, now: float) -> bool:
        """Return whether the object is served still; it counts as used then."""
        if self._readers.get(self._epoch) is not self._reader:
            return False
        return self._packager.holds(self._key, self._packed)


class CmafPublished:
    """Finds the finished answer to a target among the streams that are watched."""

    def __init__(
        self,
        context: ViewerContext,
        packager: Packager,
        streams: Mapping[str, tuple[Mirror, CmafStream]],
    ) -> None:
        self._context = context
        self._packager = packager
        self._streams = streams

    def find(self, target: str, gzip: bool) -> Reply | Waiting | None:
        """Return what a target stands for; None: ask the output."""
        match = _TARGET.fullmatch(target)
        if match is None:
            return None
        name, track = match["stream"], int(match["track"])
        known = self._streams.get(name)
        if known is None or known[1].closed or self._context.mirrors.peek(name) is not known[0]:
            return None
        mirror, stream = known
        newest = stream.fresh(mirror)
        try:
            if match["kind"] is None:
                return self._playlist(stream, name, track, match["query"] or "", gzip)
            kind = _KINDS.get((match["kind"], match["suffix"]))
            epoch = stream.older(int(match["epoch"]), int(match["packaging"]))
            if kind is None or epoch is None:
                return None
            number = int(match["number"])
            return self._object(stream, epoch, epoch is newest, (kind, track, number))
        except HeadwaterError:
            return None  # the handler says what is wrong

    def _playlist(
        self, stream: CmafStream, name: str, track: int, query: str, gzip: bool
    ) -> Reply | Waiting | None:
        given = _directives(query)
        if given is None:
            return None
        ask = Directives.of(given)
        epoch = stream.current
        answer = epoch.playlist(track, ask, patient=True)
        if isinstance(answer, Text):
            return self._text(stream, name, ask, gzip, answer)
        if isinstance(answer, Gone) or isinstance(
            epoch.playlist(track, Directives(), patient=True), Wait | Gone
        ):
            return None

        def look() -> Text | Wait | Gone:
            return stream.current.playlist(track, ask, patient=False)

        timeout = BLOCK_TARGETS * float(epoch.catalog.target_duration)
        parked = stream.park(("media", track, ask), look)

        def finish(found: Text | Gone) -> Reply | None:
            if isinstance(found, Gone):
                return None
            return self._text(stream, name, ask, gzip, found)

        leave = partial(stream.leave, ("media", track, ask), parked)
        return Waiting(name, PROTOCOL, parked.future, finish, leave, timeout)

    def _text(
        self, stream: CmafStream, name: str, ask: Directives, gzip: bool, text: Text
    ) -> Reply:
        body, headers = coded(text, cache_control(stream, ask), gzip)
        return Playlist(stream, name, headers, body, stream.now())

    def _object(
        self, stream: CmafStream, epoch: Epoch, newest: bool, what: tuple[str, int, int]
    ) -> Reply | Waiting | None:
        kind, track, number = what
        answer = ask_for(epoch, kind, track, number)
        if isinstance(answer, Packed):
            return self._packed(stream, epoch, what, answer)
        if isinstance(answer, Gone) or not newest:
            return None
        key, ask, missing = waiting_for(stream, epoch, what)
        parked = stream.park(key, ask, missing)
        timeout = object_patience(epoch, self._context.settings.wait)

        def finish(found: Packed | Gone) -> Reply | None:
            return self._packed(stream, epoch, what, found) if isinstance(found, Packed) else None

        leave = partial(stream.leave, key, parked)
        name = epoch.timelines.reader.stream
        return Waiting(name, PROTOCOL, parked.future, finish, leave, timeout)

    def _packed(
        self, stream: CmafStream, epoch: Epoch, what: tuple[str, int, int], packed: Packed
    ) -> Reply:
        kind, track, number = what
        made = Object(
            stream, epoch, self._packager, mime_of(epoch, track), kind, track, number, packed
        )
        if kind == "part":
            made.on_sent = partial(self._late, made, epoch, track, number, packed.capture_us)
        return made

    def _late(
        self, made: Reply, epoch: Epoch, track: int, number: int, capture_us: int, count: int
    ) -> None:
        """Say how late a part was, as long as it is the newest."""
        if number + 1 >= following(epoch, track):
            self._context.sessions.latency(PROTOCOL, capture_us, count)
        else:
            made.on_sent = None


def waiting_for(
    stream: CmafStream, epoch: Epoch, what: tuple[str, int, int]
) -> "tuple[Hashable, Ask[Packed | Gone], Missing | None]":
    """Return with which key, question and missing segment an object is waited for."""
    kind, track, number = what

    def ask() -> Packed | Wait | Gone:
        found = ask_for(epoch, kind, track, number)
        return Gone() if isinstance(found, Wait) and stream.current is not epoch else found

    missing = epoch.missing(track, number, part=kind == "part")
    return (kind, epoch.timelines.reader.epoch, track, number), ask, missing


def _directives(query: str) -> dict[str, str] | None:
    """Read a query of nothing but delivery directives, each once; None if it is another one."""
    given: dict[str, str] = {}
    for pair in query.split("&") if query else ():
        name, equals, value = pair.partition("=")
        if name not in ("_HLS_msn", "_HLS_part", "_HLS_skip") or name in given or not equals:
            return None
        given[name] = value
    return given
