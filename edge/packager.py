"""Init segments, parts and segments as bytes, made from the pages when somebody asks.

Each object is made at most once while it stays in the cache, whatever the number of viewers and
protocols, and can be made again, byte for byte, as long as the pages hold its records. Nothing is
ever made of a record that this node lacks.
"""

import hashlib
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import groupby

from common.errors import FormatError, PageGone, TrackUnsupported
from common.formats.cmaf import init_segment, part
from common.media.time import rescale
from common.media.track import Track
from common.track.index import INDEX_TIMESCALE, Opened
from common.track.record import Record
from edge.segments import Segment
from edge.timelines import Timelines

TAG_LENGTH = 32
"""Hexadecimal digits of a SHA-256 that stand in an ETag."""

Key = tuple[str, int, int, str, int]


@dataclass(frozen=True, slots=True)
class Packed:
    """One finished object."""

    body: bytes
    etag: str
    """With its quotes; equal on every node, because the bytes are."""

    capture_us: int = 0
    """When its last frame was captured; 0 for an init segment."""


class Packager:
    """The objects of all streams of one process, with a cache bounded by bytes."""

    def __init__(self, budget: int) -> None:
        """``budget``: bytes of finished objects that are kept, the least recently used go first."""
        self._budget = budget
        self._cache: OrderedDict[Key, Packed] = OrderedDict()
        self.size = 0
        """Bytes in the cache."""
        self.made = 0
        """Objects made so far."""

    def init(self, timelines: Timelines, track: int, number: int) -> Packed | None:
        """Return init segment ``number`` of a track, None if there is none."""
        key = key_of(timelines, track, "init", number)
        return self._cache_get(key) or self._keep(key, self._make_init(timelines, track, number))

    def part(self, timelines: Timelines, track: int, number: int) -> Packed | None:
        """Return a part, None if it is not complete or its records are not here."""
        key = key_of(timelines, track, "part", number)
        return self._cache_get(key) or self._keep(key, self._make_part(timelines, track, number))

    def segment(self, timelines: Timelines, track: int, number: int) -> Packed | None:
        """Return a segment, None if it is not closed or its records are not here."""
        key = key_of(timelines, track, "segment", number)
        return self._cache_get(key) or self._keep(key, self._make_segment(timelines, track, number))

    def peek(self, timelines: Timelines, track: int, kind: str, number: int) -> Packed | None:
        """Return an object that is finished already."""
        return self._cache_get(key_of(timelines, track, kind, number))

    def holds(self, key: Key, packed: Packed) -> bool:
        """Return whether an object is still kept; it counts as used then."""
        if self._cache.get(key) is not packed:
            return False
        self._cache.move_to_end(key)
        return True

    def forget(self, stream: str, epoch: int) -> None:
        """Drop what was made of an epoch: its records are others now."""
        for key in [key for key in self._cache if key[:2] == (stream, epoch)]:
            self.size -= len(self._cache.pop(key).body)

    def _cache_get(self, key: Key) -> Packed | None:
        packed = self._cache.get(key)
        if packed is not None:
            self._cache.move_to_end(key)
        return packed

    def _keep(self, key: Key, made: tuple[bytes, int] | None) -> Packed | None:
        if made is None:
            return None
        body, capture_us = made
        tag = hashlib.sha256(body, usedforsecurity=False).hexdigest()[:TAG_LENGTH]
        packed = Packed(body, f'"{tag}"', capture_us)
        self.made += 1
        if len(body) <= self._budget:
            self._cache[key] = packed
            self.size += len(body)
        while self.size > self._budget:
            _, old = self._cache.popitem(last=False)
            self.size -= len(old.body)
        return packed

    def _make_init(self, timelines: Timelines, track: int, number: int) -> tuple[bytes, int] | None:
        found = timelines.catalog.track(track)
        if found is None:
            return None
        try:
            return init_segment([(found, number)]), 0
        except (TrackUnsupported, FormatError):
            return None

    def _make_part(self, timelines: Timelines, track: int, number: int) -> tuple[bytes, int] | None:
        timeline = timelines.tracks.get(track)
        segment = timeline.with_part(number) if timeline is not None else None
        if timeline is None or segment is None or segment.lost:
            return None
        known = number - segment.first_part
        try:
            if known < len(segment.parts):
                one = segment.parts[known]
                records = timelines.reader.track(track).records(one.first, one.first + one.count)
            else:
                records = [r for r in _records(timelines, track, segment) if r.part == number]
            return _part_bytes(timelines, timeline.track, segment.opened, records)
        except (PageGone, FormatError):
            return None

    def _make_segment(
        self, timelines: Timelines, track: int, number: int
    ) -> tuple[bytes, int] | None:
        timeline = timelines.tracks.get(track)
        segment = timeline.segment(number) if timeline is not None else None
        if timeline is None or segment is None or not segment.servable:
            return None
        parts = []
        capture_us = 0
        try:
            for _, group in groupby(_records(timelines, track, segment), key=_number):
                made = _part_bytes(timelines, timeline.track, segment.opened, list(group))
                if made is None:
                    return None
                parts.append(made[0])
                capture_us = made[1]
        except (PageGone, FormatError):
            return None
        return b"".join(parts), capture_us


def key_of(timelines: Timelines, track: int, kind: str, number: int) -> Key:
    """Return what an object is kept under; ``kind``: ``init``, ``segment`` or ``part``."""
    return timelines.reader.stream, timelines.reader.epoch, track, kind, number


def _number(record: Record) -> int:
    return record.part


def _records(timelines: Timelines, track: int, segment: Segment) -> list[Record]:
    return timelines.reader.track(track).records(segment.first, segment.first + segment.count)


def _part_bytes(
    timelines: Timelines, track: Track, opened: Opened, records: Sequence[Record]
) -> tuple[bytes, int] | None:
    """Write one part and say when its last frame was captured; None if a record is lost."""
    if not records or any(record.lost for record in records):
        return None
    payload = timelines.reader.track(track.id).joined(records[0].seq, records[-1].seq + 1)
    dts = records[0].dts
    # The segment's clock, carried on: the same on every node because the index row is.
    wall_us = opened.wall_us + rescale(dts, track.timescale, INDEX_TIMESCALE) - opened.start_us
    return part(track, records, [payload], None, (dts, wall_us)), records[-1].capture_us
