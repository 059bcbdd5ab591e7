"""The HLS playlists of one stream: what to answer now, and what to wait for.

Pure: asks timelines, answers with bytes, "wait", or a refusal; who waits, and how long, is the
output's business. A playlist is a function of how far the stream has come and of the catalog, never
of what this edge happens to hold: two edges at the same point write the same bytes. Each text is
written once for all who ask for it.
"""

import gzip
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Protocol

from common.errors import ProtocolError
from common.formats.m3u8 import (
    MILLION,
    MediaPlaylist,
    PartEntry,
    Report,
    SegmentEntry,
    write_media,
)
from common.media.codec import Kind
from common.media.time import rescale
from common.track.catalog import Catalog
from common.track.index import INDEX_TIMESCALE
from edge.listing import Listing
from edge.segments import Part, Segment
from edge.timeline import Timeline

LEAST_TARGETS = 4
"""Target durations that a playlist shows at least, whatever the window."""

ADVANCE_MSN = 2
"""Segments behind the last one up to which a reload may be asked for (6.2.5.2)."""

ADVANCE_PARTS = 3
"""Parts behind the last one up to which a reload may be asked for, where they last a second."""

MAX_NUMBER = 2**53
"""The largest number of a delivery directive. A larger one is answered with 400."""


class Source(Protocol):
    """Where playlists are made from; :class:`edge.timelines.Timelines` is one."""

    @property
    def catalog(self) -> Catalog:
        """The newest catalog."""

    @property
    def tracks(self) -> Mapping[int, Timeline]:
        """Every track that fMP4 carries."""

    @property
    def index_from_start(self) -> bool:
        """Whether no index row from before the oldest one exists."""


@dataclass(frozen=True, slots=True)
class Directives:
    """The delivery directives of a request for a media playlist (RFC 8216bis 6.2.5)."""

    msn: int | None = None
    part: int | None = None
    skip: bool = False

    @classmethod
    def of(cls, query: Mapping[str, str]) -> "Directives":
        """Read them from a query string.

        Raises:
            ProtocolError: If one is not a number, or a part is asked for of no segment.
        """
        msn, part = _number(query, "_HLS_msn"), _number(query, "_HLS_part")
        if part is not None and msn is None:
            raise ProtocolError("_HLS_part needs _HLS_msn")
        return cls(msn, part, query.get("_HLS_skip") in ("YES", "v2"))


def _number(query: Mapping[str, str], name: str) -> int | None:
    text = query.get(name)
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and len(text) <= 16 and int(text) < MAX_NUMBER):
        raise ProtocolError(f"{name} is no number")
    return int(text)


class Text:
    """A playlist that has been written; compressed once, by the first who asks for that."""

    __slots__ = ("_packed", "body")

    def __init__(self, body: bytes) -> None:
        self.body = body
        self._packed: bytes | None = None

    @property
    def packed(self) -> bytes:
        """The same with gzip; equal texts are equal bytes here, too."""
        if self._packed is None:
            self._packed = gzip.compress(self.body, 6, mtime=0)
        return self._packed


class Wait:
    """There is no answer yet: ask again when the stream has moved."""

    __slots__ = ()


WAIT = Wait()


class Playlists:
    """The media playlists of one epoch of a stream."""

    def __init__(self, source: Source) -> None:
        self._source = source
        self._listings: dict[int, tuple[tuple[int, int], Listing | None]] = {}
        self._texts: dict[tuple[int, bool], tuple[object, Text]] = {}

    @property
    def ended(self) -> bool:
        """Whether the publisher has left for good and every segment is closed."""
        if self._source.catalog.live:
            return False
        for timeline in self._source.tracks.values():
            newest = timeline.newest
            if newest is not None and timeline.closed(newest) is None:
                return False
        return True

    def listing(self, track: int) -> Listing | None:
        """Return what the playlist of a track shows; None while there is nothing to show."""
        timeline = self._source.tracks.get(track)
        if timeline is None:
            return None
        stamp = (timeline.version, self._source.catalog.version)
        known = self._listings.get(track)
        if known is None or known[0] != stamp:
            known = self._listings[track] = (stamp, self._list(timeline))
        return known[1]

    def settled(self, track: int) -> bool:
        """Return whether this edge knows all that the playlist says at this point.

        An edge that has joined a moment ago may lack rows at the beginning of the window, or the
        records behind the last parts.
        """
        timeline = self._source.tracks[track]
        listing = self.listing(track)
        if listing is None:
            return False
        newest = timeline.opened(timeline.newest) if timeline.newest is not None else None
        oldest = timeline.opened(timeline.oldest) if timeline.oldest is not None else None
        if newest is None or oldest is None:
            return False
        whole = oldest.start_us <= newest.start_us - self._window_us()
        if not whole and not self._source.index_from_start:
            return False
        return all(
            len(one.parts) == one.part_count or one.lost
            for one in listing.segments
            if one.number >= listing.parts_from
        )

    def media(self, track: int, ask: Directives) -> Text | Wait:
        """Return the playlist of a track, as soon as it has what is asked for.

        Raises:
            ProtocolError: If it is asked for what is too far ahead.
        """
        catalog = self._source.catalog
        listing = self.listing(track)
        if listing is None or not catalog.target_duration or not catalog.part_target_us:
            return WAIT
        if ask.msn is not None and not self.ended:
            self._check(listing, ask.msn, ask.part)
            if not self._reached(track, listing, ask.msn, ask.part):
                return WAIT
        return self._text(track, listing, ask.skip)

    def _check(self, listing: Listing, msn: int, part: int | None) -> None:
        last = listing.last_closed
        if msn > last + ADVANCE_MSN:
            raise ProtocolError(f"_HLS_msn {msn} is too far behind the last segment {last}")
        if part is None or msn <= last:
            return
        target_us = self._source.catalog.part_target_us
        limit = ADVANCE_PARTS if target_us >= MILLION else -(-ADVANCE_PARTS * MILLION // target_us)
        listed = listing.open_parts - 1 if msn == last + 1 else -1
        if part > listed + limit:
            raise ProtocolError(f"_HLS_part {part} is too far behind the last part {listed}")

    def _reached(self, track: int, listing: Listing, msn: int, part: int | None) -> bool:
        last = listing.last_closed
        if part is None:
            return msn <= last
        if msn <= last:
            segment = self._source.tracks[track].segment(msn)
            if segment is None or part < segment.part_count:
                return True
            # Past the final part: that is part 0 of the next segment (6.2.5.2).
            msn, part = msn + 1, 0
        return msn <= last or (msn == last + 1 and part < listing.open_parts)

    def _window_us(self) -> int:
        catalog = self._source.catalog
        return max(catalog.window_us, LEAST_TARGETS * catalog.target_duration * MILLION)

    def _list(self, timeline: Timeline) -> Listing | None:
        newest = timeline.opened(timeline.newest) if timeline.newest is not None else None
        if newest is None:
            return None
        first = timeline.from_us(newest.start_us - self._window_us())
        shown: list[Segment] = []
        for number in range(newest.segment if first is None else first, newest.segment + 1):
            if timeline.opened(number) is None:
                shown.clear()  # both rows are lost: what is listed must have contiguous numbers
                continue
            segment = timeline.segment(number)
            if segment is None:
                if shown:
                    break
                continue  # the track, or what this edge knows of it, begins later
            if segment.absent and not shown:
                continue
            if segment.closed or segment.parts:
                shown.append(segment)
            if not segment.closed:
                break
        while shown and shown[-1].absent and self.ended:
            shown.pop()  # another track ended later
        return Listing(tuple(shown)) if shown else None

    def _text(self, track: int, listing: Listing, skip: bool) -> Text:
        reports = self._reports(track, listing)
        ended = self.ended
        catalog = self._source.catalog
        stamp = (self._source.tracks[track].version, catalog.version, reports, ended)
        known = self._texts.get((track, skip))
        if known is not None and known[0] == stamp:
            return known[1]
        playlist = self._playlist(track, listing, reports, ended)
        text = Text(write_media(playlist, skip=skip).encode())
        self._texts[track, skip] = (stamp, text)
        return text

    def _reports(self, track: int, listing: Listing) -> tuple[Report, ...]:
        """Say how far the other tracks go, as of one part before this one's end.

        Tracks arrive side by side, never at the same instant: what is newest of another one would
        make two edges write different texts at the same head of this one.
        """
        until = None
        if not self.ended:
            end_us = listing.end_us(self._source.tracks[track].track.timescale)
            until = end_us - self._source.catalog.part_target_us
        return tuple(
            Report(f"{number}.m3u8", *other.position(timeline.track.timescale, until))
            for number, timeline in sorted(self._source.tracks.items())
            if number != track and (other := self.listing(number)) is not None
        )

    def _playlist(
        self, track: int, listing: Listing, reports: tuple[Report, ...], ended: bool
    ) -> MediaPlaylist:
        catalog = self._source.catalog
        timeline = self._source.tracks[track]
        base = f"{track}/{catalog.epoch}.{catalog.packaging}/"
        first = listing.segments[0]
        entries = []
        init = 0
        for segment in listing.segments:
            init = init if segment.absent else segment.init
            with_parts = segment.number >= listing.parts_from and not segment.lost
            entries.append(_entry(timeline, segment, base, init, with_parts))
        return MediaPlaylist(
            target_duration=catalog.target_duration,
            part_target_us=catalog.part_target_us,
            sequence=first.number,
            discontinuity_sequence=first.opened.discontinuity - first.opened.breaks,
            segments=tuple(entries),
            hint_uri="" if ended else f"{base}p{listing.next_part}.m4s",
            reports=reports,
            independent=catalog.independent,
            ended=ended,
        )


def _entry(
    timeline: Timeline, segment: Segment, base: str, init: int, with_parts: bool
) -> SegmentEntry:
    scale = timeline.track.timescale
    audio = timeline.track.codec.kind is Kind.AUDIO
    parts = tuple(_part(part, base, scale, audio) for part in segment.parts) if with_parts else ()
    duration = segment.duration
    return SegmentEntry(
        uri=f"{base}s{segment.number}.m4s",
        duration_us=None if duration is None else rescale(duration, scale, MILLION),
        wall_us=wall_us(timeline, segment),
        map_uri=f"{base}init-{init}.mp4",
        parts=parts,
        discontinuity=segment.opened.breaks,
        gap=segment.lost or segment.absent,
    )


def _part(part: Part, base: str, scale: int, audio: bool) -> PartEntry:
    return PartEntry(
        f"{base}p{part.number}.m4s", rescale(part.duration, scale, MILLION), audio or part.key
    )


def wall_us(timeline: Timeline, segment: Segment) -> int:
    """Return the Unix microseconds of a segment's beginning on this track.

    The cut is where the pictures begin; sound begins with the first frame at or after it.
    """
    opened = segment.opened
    if timeline.track.codec.kind is not Kind.AUDIO or segment.absent:
        return opened.wall_us
    start_us = rescale(segment.start, timeline.track.timescale, INDEX_TIMESCALE)
    return opened.wall_us + start_us - opened.start_us
