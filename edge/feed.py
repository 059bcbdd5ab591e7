"""One muxed view of a stream, made once and shared by all viewers that want the same.

A feed follows chosen tracks of a mirror. On each wake it reads the new records of all its tracks,
puts them into dts order and has its format mux them into chunks: a chunk is the same bytes for
every viewer. A chunk begins at each keyframe of the leading track and wherever setup bytes
change, so that a viewer can be let in, or skip ahead, at a chunk that begins with a keyframe.
"""

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import NamedTuple

from common.errors import PageGone
from common.media.codec import Codec, Kind
from common.media.track import Track
from common.track.record import Record
from edge.mirrors import Mirror

YOUNG = 1.5
"""Seconds: a stream that began so recently is sent from its first keyframe, so that viewers who
waited for it miss nothing."""

MAX_KEPT = 16 * 1024 * 1024
"""Bytes that a feed keeps for those who join next. What is more is made for each of them."""

FLOOR_SCAN = 512
"""Records of a track that are looked through for the one that belongs to a keyframe."""


class Item(NamedTuple):
    """One frame on its way to viewers."""

    track: Track
    record: Record
    payload: bytes


class Run(NamedTuple):
    """What one track has among some items."""

    track: Track
    records: list[Record]
    payloads: list[bytes]


def runs_of(items: Sequence[Item]) -> list[Run]:
    """Return the items by track, in the order in which the tracks come."""
    runs: dict[int, Run] = {}
    for track, record, payload in items:
        run = runs.get(track.id)
        if run is None:
            run = runs[track.id] = Run(track, [], [])
        run.records.append(record)
        run.payloads.append(payload)
    return list(runs.values())


class Format(ABC):
    """How frames become the bytes of a protocol, framing included; holds no state."""

    protocol: str
    """Name for sessions and metrics; with ``variant`` it tells feeds apart."""

    variant: str = ""
    codecs: frozenset[Codec]

    @abstractmethod
    def header(self, tracks: Sequence[Track], inits: Mapping[int, int]) -> bytes:
        """Return what a viewer gets first; ``inits``: position in ``Track.inits`` by track."""

    @abstractmethod
    def media(self, items: Sequence[Item], number: int) -> bytes:
        """Return the bytes of some frames in dts order, never of none.

        ``number`` rises from call to call of one viewer: it counts frames of all tracks.
        """

    def change(self, tracks: Sequence[Track], inits: Mapping[int, int], dts_us: int) -> bytes:
        """Return what tells viewers of new setup bytes from ``dts_us`` on; default: the header."""
        return self.header(tracks, inits)


@dataclass(slots=True)
class Chunk:
    """Bytes that are the same for every viewer of a feed."""

    key: bool
    """Viewers can begin here, with ``header(inits)`` and ``media``."""

    inits: dict[int, int]
    items: list[Item]
    change: bytes = b""
    media: bytes = b""
    capture_us: int = 0

    @property
    def data(self) -> bytes:
        """What a viewer gets that had everything before."""
        return self.change + self.media if self.change else self.media


class Feed:
    """The chosen tracks of one mirror in one format; positions move with :meth:`pull`."""

    def __init__(self, mirror: Mirror, tracks: Sequence[Track], form: Format) -> None:
        self.mirror = mirror
        self.form = form
        self.tracks = {track.id: track for track in tracks}
        self.leader = next((t for t in tracks if t.codec.kind is Kind.VIDEO), tracks[0])
        self._reader = mirror.reader
        self._next = {number: self._reader.track(number).head for number in self.tracks}
        self._cut = _Cut(self.leader, self._inits(self._next))
        self._burst: list[Chunk] = []
        self._kept = 0
        """Bytes of the burst."""

        self._now_us = 0
        self.lost = 0
        """Frames that the node never got and that viewers therefore do not get either, since the
        owner last set this to 0; those that need them to be decoded are counted too."""

    @property
    def current(self) -> bool:
        """Whether the mirror still shows these pages, and no newer epoch or folder."""
        return self._reader is self.mirror.reader

    @property
    def video(self) -> bool:
        """Whether a video track leads, so that viewers begin at keyframes."""
        return self.leader.codec.kind is Kind.VIDEO

    def header(self, inits: Mapping[int, int]) -> bytes:
        """Return what a viewer gets first."""
        return self.form.header(tuple(self.tracks.values()), inits)

    def change(self, chunk: Chunk) -> bytes:
        """Return what a viewer needs before ``chunk`` that has other setup bytes."""
        return self._change(chunk.inits, chunk.items[0])

    def retrack(self, tracks: Sequence[Track]) -> Chunk | None:
        """Take the newest catalog's version of the tracks; return a chunk if there is one more.

        Tracks that were added begin with their next record.
        """
        added = [track for track in tracks if track.id not in self.tracks]
        self.tracks = {track.id: track for track in tracks}
        self.leader = self.tracks.get(self.leader.id, self.leader)
        self._cut.leader = self.leader
        self._next = {n: self._next.get(n, self._reader.track(n).oldest) for n in self.tracks}
        if not added:
            return None
        self._burst = []
        start = self._keyframe()
        for track in added:
            floor = self._floor(track, start) if start is not None else self._next[track.id]
            self._next[track.id] = floor
        fresh = self._inits({track.id: self._next[track.id] for track in added})
        self._cut.inits.update(fresh)
        chunk = Chunk(False, dict(self._cut.inits), [])
        chunk.change = self.form.change(tuple(self.tracks.values()), chunk.inits, self._now_us)
        return chunk

    def pull(self) -> list[Chunk]:
        """Return what is new on all tracks and move the positions past it.

        Raises:
            PageGone: If the records have left the window; call :meth:`jump`.
        """
        spans = {}
        for number in self.tracks:
            head = self._reader.track(number).head
            if head > self._next[number]:
                spans[number] = (self._next[number], head)
        if not spans:
            return []
        chunks = self._chunks(self._cut, spans)
        for number, (_, stop) in spans.items():
            self._next[number] = stop
        if chunks:
            last = chunks[-1].items[-1]
            self._now_us = last.record.dts * 1_000_000 // last.track.timescale
        self.lost += self._cut.lost
        self._cut.lost = 0
        self._keep(chunks)
        return chunks

    def jump(self) -> None:
        """Give up what is not read yet and go on with the newest records."""
        self._burst = []
        self._next = {number: self._reader.track(number).head for number in self.tracks}
        self._cut.broken = self.video

    def burst(self) -> list[Chunk]:
        """Return the chunks from the newest keyframe up to where the feed is; empty if none.

        Made once for all who begin with the same keyframe, and continued with what the others get:
        a crowd that joins shares the bytes.
        """
        if not self._burst:
            # The frames themselves are not needed any more, only what was made of them.
            self._burst = [replace(chunk, items=[]) for chunk in self._make_burst()]
            self._kept = sum(len(chunk.data) for chunk in self._burst)
        return self._burst

    def _keep(self, chunks: list[Chunk]) -> None:
        """Go on with the burst until a keyframe comes with which others will begin."""
        for chunk in chunks:
            if chunk.key or self._kept > MAX_KEPT:
                self._burst = []
            elif self._burst:
                self._burst.append(replace(chunk, items=[]))
                self._kept += len(chunk.data)

    def _make_burst(self) -> list[Chunk]:
        try:
            start = self._keyframe()
            if start is None:
                return []
            spans = {self.leader.id: (start, self._next[self.leader.id])}
            for track in self.tracks.values():
                if track.id != self.leader.id:
                    first = min(self._floor(track, start), self._next[track.id])
                    spans[track.id] = (first, self._next[track.id])
            cut = _Cut(self.leader, self._inits({n: first for n, (first, _) in spans.items()}))
            chunks = self._chunks(cut, spans)
        except PageGone:
            return []
        while chunks and not chunks[0].key:
            del chunks[0]  # frames of other tracks that are due a moment before the keyframe
        return chunks

    def _change(self, inits: Mapping[int, int], first: Item) -> bytes:
        when = first.record.dts * 1_000_000 // first.track.timescale
        return self.form.change(tuple(self.tracks.values()), inits, when)

    def _keyframe(self) -> int | None:
        """Return the seq of the leader's record that a viewer who joins now begins with."""
        reader = self._reader.track(self.leader.id)
        stop = self._next[self.leader.id]
        oldest = reader.contiguous_from
        if stop <= oldest:
            return None
        if oldest == 0:
            first, last = reader.record(0), reader.record(stop - 1)
            if last.dts - first.dts < YOUNG * self.leader.timescale and first.key:
                return 0
        return reader.keyframe_at_or_before(stop - 1)

    def _floor(self, track: Track, start: int) -> int:
        """Return the first seq of ``track`` that is presented with or after the leader's record."""
        key = self._reader.track(self.leader.id).record(start)
        pts = (key.dts + key.cts) * track.timescale
        reader = self._reader.track(track.id)
        stop = reader.head
        first = max(reader.oldest, stop - FLOOR_SCAN)
        while True:
            for record in reader.records(first, stop):
                if (record.dts + record.cts) * self.leader.timescale >= pts:
                    break
            else:
                return stop
            if record.seq > first or first <= reader.oldest:
                return record.seq
            first, stop = max(reader.oldest, first - FLOOR_SCAN), first + 1

    def _inits(self, positions: Mapping[int, int]) -> dict[int, int]:
        """Return which setup bytes the records at these positions need, the newest if none is."""
        inits = {}
        for number, seq in positions.items():
            reader = self._reader.track(number)
            if reader.oldest <= seq < reader.head:
                inits[number] = reader.record(seq).init
            elif reader.oldest < reader.head:
                inits[number] = reader.record(reader.head - 1).init
            else:
                inits[number] = max(len(self.tracks[number].inits) - 1, 0)
        return inits

    def _chunks(self, cut: "_Cut", spans: Mapping[int, tuple[int, int]]) -> list[Chunk]:
        items: list[tuple[int, bool, Item]] = []
        for number, (first, stop) in spans.items():
            reader, track = self._reader.track(number), self.tracks[number]
            payloads = reader.payloads(first, stop)
            for record, payload in zip(reader.records(first, stop), payloads, strict=True):
                when = record.dts * 1_000_000 // track.timescale
                items.append((when, number != self.leader.id, Item(track, record, payload)))
        items.sort(key=_order)
        number = sum(self._next.values()) + sum(
            first - self._next[n] for n, (first, _) in spans.items()
        )
        chunks = cut.chunks([item for _, _, item in items])
        for chunk in chunks:
            if chunk.change:
                chunk.change = self._change(chunk.inits, chunk.items[0])
            number += len(chunk.items)
            chunk.media = self.form.media(chunk.items, number)
            chunk.capture_us = max(item.record.capture_us for item in chunk.items)
        return chunks


def _order(entry: tuple[int, bool, Item]) -> tuple[int, bool]:
    return entry[:2]  # by time, the leader first where times are equal


class _Cut:
    """Cuts a row of items into chunks; knows which setup bytes viewers have."""

    def __init__(self, leader: Track, inits: dict[int, int]) -> None:
        self.leader = leader
        self.inits = inits
        self.broken = False
        """A frame of the leading video was lost: nothing of it decodes until its next keyframe."""
        self.lost = 0
        self._video = leader.codec.kind is Kind.VIDEO

    def chunks(self, items: Sequence[Item]) -> list[Chunk]:
        found: list[Chunk] = []
        for item in items:
            track, record, _ = item
            leads = track.id == self.leader.id
            if not self._decodes(record, leads):
                self.lost += 1
                continue
            changed = record.init != self.inits.get(track.id)
            if changed:
                self.inits[track.id] = record.init
            key = leads and self._video and record.key
            if changed or key or not found:
                key = key or (not self._video and not found)
                found.append(Chunk(key, dict(self.inits), [], b"?" if changed else b""))
            found[-1].items.append(item)
        return found

    def _decodes(self, record: Record, leads: bool) -> bool:
        if leads and self._video:
            self.broken = record.lost or (self.broken and not record.key)
            return not self.broken
        return not record.lost
