"""Follow several tracks of a stream in decode order, from a keyframe of the leader.

Two ways to go on, by what an output needs:

* :meth:`Cursor.next` is for muxers: records come in the order of their decode times across all
  tracks, compared exactly whatever the timescales. A record is held back until no track can still
  bring an earlier one, or until the stream is ``wait_us`` further on (a track that has fallen
  silent stops nobody for longer; what it brings then comes late). The wait is measured in stream
  time, so it needs no clock; at the end of a stream the rest is had with ``flush``.
* :meth:`Cursor.live` is for pushed outputs: all that has arrived since the last call, at once,
  sorted among itself. Across calls only the order within each track is promised.

A cursor that is overtaken by eviction, or meets a hole, goes on at the next keyframe of the leader
and says how many records of each track were left out.
"""

from collections.abc import Callable, Iterator, Sequence
from math import lcm
from typing import NamedTuple

from common.errors import PageGone, StreamNotFound
from common.media.codec import Kind
from common.media.track import Track
from common.track.reader import StreamReader, TrackReader
from common.track.record import Record

WAIT_US = 1_000_000
LIMIT = 256
_RETRIES = 3
_NEVER = -(1 << 100)
"""A key before all others."""


class Item(NamedTuple):
    """One record with its payload, empty for a lost one."""

    track: int
    record: Record
    payload: bytes


class _Lane:
    """Where the cursor is on one track. Keys are decode times in ticks of a common timescale."""

    __slots__ = (
        "counted",
        "factor",
        "key",
        "not_before",
        "pending",
        "position",
        "reader",
        "track",
    )

    def __init__(self, track: Track, reader: TrackReader, common: int) -> None:
        self.track = track
        self.reader = reader
        self.factor = common // track.timescale
        self.position = 0
        self.key = _NEVER  # of the last record given out
        self.not_before: int | None = None  # presentation time the first record must reach
        self.counted = False  # whether records passed over for that are reported
        self.pending: list[Record] = []

    @property
    def sparse(self) -> bool:
        """Whether nothing waits for this track."""
        return self.track.codec.sparse or self.track.ended

    def time(self, record: Record) -> int:
        """Return the presentation time as a key."""
        return (record.dts + record.cts) * self.factor

    def load(self, limit: int) -> int:
        """Read up to ``limit`` records from the position on; return how many were passed over.

        Raises:
            PageGone: If the record at the position has gone.
        """
        passed = 0
        while True:
            stop = min(self.reader.head, self.position + limit)
            self.pending = self.reader.records(self.position, stop)
            if self.not_before is None or not self.pending:
                return passed
            for index, record in enumerate(self.pending):
                if not record.lost and self.time(record) >= self.not_before:
                    del self.pending[:index]
                    self.position += index
                    self.not_before = None
                    return passed + index
            passed += len(self.pending)
            self.position += len(self.pending)

    def newest(self) -> int:
        """Return the decode time of the newest record held, as a key.

        Raises:
            PageGone: If it went in this moment.
        """
        head = self.reader.head
        if head <= self.position + len(self.pending):
            return _NEVER
        record = self.reader.record(head - 1)
        return _NEVER if record.lost else record.dts * self.factor

    def keys(self) -> list[int]:
        """Return the decode times of what is pending; a lost record has that of the one before."""
        keys = []
        key = self.key
        for record in self.pending:
            if not record.lost:
                key = record.dts * self.factor
            keys.append(key)
        return keys


class Cursor:
    """A reader's place on several tracks of one stream."""

    def __init__(
        self,
        reader: StreamReader,
        tracks: Sequence[Track],
        *,
        leader: int | None = None,
        wait_us: int = WAIT_US,
    ) -> None:
        """Stand before the first keyframe there will be; see the ``start`` methods.

        Args:
            reader: The stream.
            tracks: At least one of its media tracks, in the order in which equal times come out.
            leader: Id of the track whose keyframes are started from: by default the first video
                track, else the first that is not sparse.
            wait_us: Microseconds of stream time to wait for a track that has fallen silent.

        Raises:
            StreamNotFound: If ``tracks`` is empty or has no ``leader``.
        """
        common = lcm(1_000_000, *(track.timescale for track in tracks))
        self._lanes = {track.id: _Lane(track, reader.track(track.id), common) for track in tracks}
        chosen = self._lanes.get(leader if leader is not None else _leader(tracks))
        if chosen is None:
            raise StreamNotFound(f"{reader.stream}: no such track to follow")
        self._leader = chosen
        self._wait = wait_us * (common // 1_000_000)
        self._skipped: dict[int, int] = {}
        self._started = False

    def start(self, seq: int | None = None) -> bool:
        """Stand at a keyframe of the leader: the newest one, or the last one up to ``seq``.

        Where ``seq`` has left the window, at the first one that is held. Returns whether there is
        one; if not, :meth:`next` and :meth:`live` start at the newest as soon as there is.
        """
        return self._settle(lambda reader: _keyframe_near(reader, seq))

    def start_at_segment(self, segment: int) -> bool:
        """Stand at the first held keyframe of a segment or a later one; as :meth:`start`."""
        return self._settle(lambda reader: _keyframe_of(reader, segment))

    def _settle(self, choose: Callable[[TrackReader], int | None]) -> bool:
        for _ in range(_RETRIES):
            try:
                return self._stand(choose(self._leader.reader), counted=False)
            except PageGone:
                continue  # the window moved on in this moment
        return False

    @property
    def positions(self) -> dict[int, int]:
        """The seq that comes next on each track."""
        return {number: lane.position for number, lane in self._lanes.items()}

    def take_skipped(self) -> dict[int, int]:
        """Return how many records of each track were left out since the last call."""
        skipped, self._skipped = self._skipped, {}
        return skipped

    def next(self, limit: int = LIMIT, *, flush: bool = False) -> list[Item]:
        """Return up to ``limit`` records in the order of their decode times.

        Args:
            limit: The most records to return.
            flush: Wait for no track: nothing more will come.
        """
        return self._go(limit, patient=not flush)

    def live(self, limit: int = LIMIT) -> list[Item]:
        """Return up to ``limit`` of the records that have arrived, waiting for no track."""
        return self._go(limit, patient=False)

    def _go(self, limit: int, *, patient: bool) -> list[Item]:
        gone = False
        for _ in range(_RETRIES):
            try:
                if gone and not self._resume():
                    return []
                if not self._started and not self.start():
                    return []
                return self._take(self._choose(limit, patient=patient))
            except PageGone:
                gone = self._started
        return []

    def _choose(self, limit: int, *, patient: bool) -> list[_Lane]:
        """Load what is pending; return the lanes of the next records, in their order."""
        merged: list[tuple[int, int, _Lane]] = []
        newest = _NEVER
        settled: list[int] = []
        for rank, lane in enumerate(self._lanes.values()):
            passed = lane.load(limit)
            if lane.counted:
                self._count(lane, passed)
            keys = lane.keys()
            merged += [(key, rank, lane) for key in keys]
            edge = keys[-1] if keys else lane.key
            if not lane.sparse:
                settled.append(edge)
            newest = max(newest, edge, lane.newest())
        if patient and settled:
            safe = max(min(settled), newest - self._wait)
            merged = [entry for entry in merged if entry[0] <= safe]
        merged.sort(key=lambda entry: entry[:2])
        return [lane for _, _, lane in merged[:limit]]

    def _take(self, order: list[_Lane]) -> list[Item]:
        payloads: dict[int, Iterator[bytes]] = {}
        records: dict[int, Iterator[Record]] = {}
        for number, lane in self._lanes.items():
            count = sum(1 for chosen in order if chosen is lane)
            found = lane.reader.payloads(lane.position, lane.position + count)
            payloads[number] = iter(found)
            records[number] = iter(lane.pending)
        # Nothing was consumed up to here: a page that has gone leaves the cursor where it was.
        items = []
        for lane in order:
            number = lane.track.id
            record = next(records[number])
            if not record.lost:
                lane.key = record.dts * lane.factor
            lane.position += 1
            items.append(Item(number, record, next(payloads[number])))
        return items

    def _count(self, lane: _Lane, passed: int) -> None:
        if passed > 0:
            number = lane.track.id
            self._skipped[number] = self._skipped.get(number, 0) + passed

    def _stand(self, key: int | None, *, counted: bool) -> bool:
        if key is None:
            return False
        record = self._leader.reader.record(key)
        cut = self._leader.time(record)
        for lane in self._lanes.values():
            before = lane.position
            if lane is self._leader:
                lane.position = key
                lane.not_before = None
            else:
                found = lane.reader.first_from_segment(record.segment)
                lane.position = lane.reader.head if found is None else found
                lane.not_before = cut
            if counted:
                lane.position = max(lane.position, before)
                self._count(lane, lane.position - before)
            lane.counted = counted
            lane.pending = []
        self._started = True
        return True

    def _resume(self) -> bool:
        """Go on behind what is no longer held; return whether that is possible yet."""
        behind = 0
        gone = False
        times = [_NEVER]
        for lane in self._lanes.values():
            held = lane.reader.first_held(lane.position)
            if held is None or held == lane.position:
                continue
            gone = True
            if lane.sparse and lane is not self._leader:
                self._count(lane, held - lane.position)
                lane.position = held
                continue
            behind += 1
            record = lane.reader.record(held)
            if not record.lost:
                times.append(lane.time(record))
        if gone and not behind:
            return True
        # With nothing gone the page at one of the positions is damaged: go past it.
        return self._stand_after(self._leader.position + (not gone), max(times))

    def _stand_after(self, seq: int, time: int) -> bool:
        """Stand at the leader's first keyframe from ``seq`` on that is not before ``time``."""
        reader = self._leader.reader
        key = reader.keyframe_at_or_after(seq)
        while key is not None and self._leader.time(reader.record(key)) < time:
            key = reader.keyframe_at_or_after(key + 1)
        return self._stand(key, counted=True)


def _leader(tracks: Sequence[Track]) -> int:
    for kind in (Kind.VIDEO, Kind.AUDIO):
        for track in tracks:
            if track.codec.kind is kind and not track.ended:
                return track.id
    return tracks[0].id if tracks else -1


def _keyframe_near(reader: TrackReader, seq: int | None) -> int | None:
    key = reader.keyframe_at_or_before(reader.head if seq is None else seq)
    if key is None and seq is not None:
        key = reader.keyframe_at_or_after(seq)
    return key


def _keyframe_of(reader: TrackReader, segment: int) -> int | None:
    first = reader.first_from_segment(segment)
    return reader.keyframe_at_or_after(first) if first is not None else None
