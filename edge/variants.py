"""The multivariant playlist of a stream: which tracks go together, and what they take.

Bandwidths come from the closed segments that the media playlists show, with the boxes around the
frames counted to the byte, so that every edge states the same figures.
"""

from collections.abc import Mapping, Sequence
from fractions import Fraction

from common.errors import FormatError
from common.formats.cmaf import overhead
from common.formats.m3u8 import (
    MultivariantPlaylist,
    Rendition,
    Variant,
    write_multivariant,
)
from common.media.codec import Codec, Kind
from common.media.describe import Description, describe
from common.media.track import Track
from edge.around import Around
from edge.listing import Listing
from edge.playlists import WAIT, Playlists, Source, Text, Wait
from edge.redundancy import redundant
from edge.segments import Segment

ALONE = Around()
"""No other edge is known."""

Rates = tuple[int, int]
"""Peak and average bits a second."""


class Variants:
    """The multivariant playlist of one epoch of a stream."""

    def __init__(self, source: Source, playlists: Playlists) -> None:
        self._source = source
        self._playlists = playlists
        self._known: tuple[object, Text] | None = None

    def tracks(self) -> list[Track] | None:
        """Return the tracks to offer; None while it is not clear which there will be.

        A track that was announced is waited for until another one has a whole segment.
        """
        catalog = self._source.catalog
        announced = [t for t in catalog.tracks if t.id in self._source.tracks and not t.ended]
        listings = {track.id: self._playlists.listing(track.id) for track in announced}
        there = [track for track in announced if listings[track.id] is not None]
        if len(there) < len(announced) and not any(
            listing is not None and listing.segments[0].closed for listing in listings.values()
        ):
            return None
        return there or None

    def text(self, around: Around = ALONE, path: str = "") -> Text | Wait:
        """Return the playlist, as soon as every track has something to play.

        ``around`` are the edges that have the same stream at ``path``.
        """
        catalog = self._source.catalog
        tracks = self.tracks()
        if tracks is None or not catalog.target_duration or not catalog.part_target_us:
            return WAIT
        listings = {track.id: self._playlists.listing(track.id) for track in tracks}
        stamp = (
            catalog.version,
            around,
            path,
            *((number, id(found)) for number, found in listings.items()),
        )
        if self._known is None or self._known[0] != stamp:
            rates = {
                number: rates_of(
                    found, self._source.tracks[number].track.timescale, catalog.target_duration
                )
                for number, found in listings.items()
                if found is not None
            }
            playlist = assemble(tracks, rates, independent=catalog.independent)
            turn = max(found.last_closed for found in listings.values() if found is not None)
            playlist = redundant(playlist, around, path, turn)
            self._known = (stamp, Text(write_multivariant(playlist).encode()))
        return self._known[1]


def rates_of(listing: Listing, timescale: int, target: int) -> Rates:
    """Return what a track takes, boxes included; ``target`` is the target duration."""
    closed = [one for one in listing.segments if one.closed and not one.absent]
    if closed:
        spans = [(_size(one), one.duration or 0) for one in closed]
    else:
        spans = [(_size(one), sum(part.duration for part in one.parts)) for one in listing.segments]
    total = sum(ticks for _, ticks in spans)
    average = _rate(sum(size for size, _ in spans), total, timescale)
    return max(_peak(spans, timescale, target), average), average


def _size(segment: Segment) -> int:
    return segment.size + overhead(segment.part_count, segment.count)


def _rate(size: int, ticks: int, timescale: int) -> int:
    """Return bits a second, rounded up."""
    return -(-size * 8 * timescale // max(1, ticks))


def _peak(spans: Sequence[tuple[int, int]], timescale: int, target: int) -> int:
    """Return the largest rate of neighbours that last 0.5 to 1.5 target durations together.

    That is what "peak segment bit rate" means (RFC 8216bis 4.4.6.2): a short segment before a
    break does not count alone.
    """
    peak = 0
    for first in range(len(spans)):
        size = ticks = 0
        for more_size, more_ticks in spans[first:]:
            size += more_size
            ticks += more_ticks
            if 2 * ticks > 3 * target * timescale:
                break
            if 2 * ticks >= target * timescale:
                peak = max(peak, _rate(size, ticks, timescale))
    return peak


def assemble(
    tracks: Sequence[Track], rates: Mapping[int, Rates], *, independent: bool
) -> MultivariantPlaylist:
    """Put tracks together: every video track with every audio codec; without video, audio alone."""
    described = [(track, found) for track in tracks if (found := _describe(track)) is not None]
    videos = [(t, d) for t, d in described if t.codec.kind is Kind.VIDEO]
    audios = [(t, d) for t, d in described if t.codec.kind is Kind.AUDIO]
    if not videos:
        variants = [_variant(track, found, rates[track.id]) for track, found in audios]
        return MultivariantPlaylist(tuple(variants), (), independent)
    groups: dict[Codec, list[tuple[Track, Description]]] = {}
    for track, found in audios:
        groups.setdefault(track.codec, []).append((track, found))
    variants = []
    for track, found in videos:
        if not groups:
            variants.append(_variant(track, found, rates[track.id]))
        for codec, members in groups.items():
            variants.append(_with_audio(track, found, rates, codec, members))
    renditions = [one for codec, members in groups.items() for one in _renditions(codec, members)]
    return MultivariantPlaylist(tuple(variants), tuple(renditions), independent)


def _describe(track: Track) -> Description | None:
    """Describe a track by its newest setup bytes; None if they cannot be read."""
    try:
        return describe(track.codec, track.inits[-1] if track.inits else b"")
    except FormatError:
        return None


def _variant(
    track: Track, found: Description, rates: Rates, codecs: str = "", audio: str = ""
) -> Variant:
    video = track.codec.kind is Kind.VIDEO
    rate = found.frame_rate
    if rate is None and track.frame_duration:
        rate = Fraction(track.timescale, track.frame_duration)
    return Variant(
        uri=f"{track.id}.m3u8",
        bandwidth=rates[0],
        average_bandwidth=rates[1],
        codecs=codecs or found.codec_string,
        width=found.shown_width,
        height=found.height,
        frame_rate=rate if video else None,
        video_range=found.display.video_range if video else "",
        audio=audio,
    )


def _with_audio(
    track: Track,
    found: Description,
    rates: Mapping[int, Rates],
    codec: Codec,
    members: Sequence[tuple[Track, Description]],
) -> Variant:
    peak, average = rates[track.id]
    peak += max(rates[member.id][0] for member, _ in members)
    average += max(rates[member.id][1] for member, _ in members)
    strings = dict.fromkeys([found.codec_string, *(one.codec_string for _, one in members)])
    return _variant(track, found, (peak, average), ",".join(strings), f"audio-{codec}")


def _renditions(codec: Codec, members: Sequence[tuple[Track, Description]]) -> list[Rendition]:
    names: set[str] = set()
    renditions: list[Rendition] = []
    for track, found in members:
        name = track.name or (track.language if track.language != "und" else f"Audio {track.id}")
        if name in names:  # unique in its group (4.4.6.1.1)
            name = f"{name} ({track.id})"
        names.add(name)
        renditions.append(
            Rendition(
                group=f"audio-{codec}",
                name=name,
                uri=f"{track.id}.m3u8",
                language="" if track.language == "und" else track.language,
                channels=found.channels,
                default=not renditions,
            )
        )
    return renditions
