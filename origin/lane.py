"""One track as the segmenter sees it: its numbering, its open part, its share of open segments."""

from collections import deque
from collections.abc import Iterable, Sequence
from typing import NamedTuple

from common.media.codec import Kind
from common.track.checksum import crc32
from common.track.index import Opened, Piece, Row, encode_row
from common.track.record import Flag, Record

SECOND_US = 1_000_000

ROUNDED_US = 1_100
"""Times that differ by less may be the same: RTMP rounds to milliseconds."""

_KEY, _PART_END = int(Flag.KEY), int(Flag.PART_END)


class Sample(NamedTuple):
    """A frame with exact timestamps, before it has a place."""

    track: int
    dts: int
    cts: int
    duration: int
    key: bool
    init: int
    capture_us: int
    ingest_us: int
    payload: bytes


def index_record(row: Row, seq: int, dts: int, segment: int) -> tuple[Record, bytes]:
    """Return an index row as a record and its payload; ``segment`` is the newest one."""
    payload = encode_row(row)
    wall = row.wall_us if isinstance(row, Opened) else row.opened.wall_us
    check, size = crc32(payload), len(payload)
    return Record(seq, dts, wall, wall, 0, 0, segment, 0, 0, size, check, _KEY, 0), payload


class Tally:
    """What one track has in one open segment; becomes a :class:`Piece`."""

    __slots__ = ("count", "end", "first", "key", "left", "record", "size")

    def __init__(self, record: Record) -> None:
        self.record = record
        self.count = 0
        self.size = 0
        self.end = 0
        """dts plus duration of the last record."""
        self.left: int | None = None
        """dts of the next segment's first record, once there is one."""
        self.first = record.part
        self.key = record.key

    def add(self, record: Record) -> int:
        """Count a record; return its part."""
        self.count += 1
        self.size += record.size
        self.end = record.dts + record.duration
        return record.part

    def piece(self, track: int, last_part: int, most: int) -> Piece:
        """Return it as a row states it; a hole behind it counts up to ``most`` ticks in all."""
        record = self.record
        end = self.end if self.left is None else self.left
        end = max(self.end, min(end, record.dts + most))
        return Piece(
            track=track,
            first=record.seq,
            count=self.count,
            init=record.init,
            start=record.dts,
            duration=end - record.dts,
            size=self.size,
            first_part=self.first,
            parts=last_part - self.first + 1,
            key=self.key,
        )


class Lane:
    """The numbering of one track."""

    def __init__(self, number: int, kind: Kind, timescale: int) -> None:
        self.number = number
        self.video = kind is Kind.VIDEO
        self.sparse = kind in (Kind.METADATA, Kind.SUBTITLE)
        self.timescale = timescale
        self.live = True
        self.needs_key = self.video
        """Whether frames are dropped until the next keyframe."""
        self.seq = 0
        self.segment = -1
        self.discontinuity = 0
        self.init = -1
        self.end_us = 0
        """Stream time at which its last record ends."""
        self.front_us = 0
        """Its greatest presentation time so far."""
        self.held: deque[Sample] = deque()
        """Frames of a rendition that is ahead of its leader at a cut."""
        self.tallies: dict[int, Tally] = {}
        self._parts: dict[int, int] = {}
        self._part = 0
        self._count = 0
        self._start = 0
        self._most = 0
        self._limit = 0

    @property
    def started(self) -> bool:
        """Whether it has a record."""
        return self.seq > 0

    def to_us(self, ticks: int) -> int:
        """Return ticks of this track in microseconds."""
        return ticks * SECOND_US // self.timescale

    def slack_us(self, sample: Sample) -> int:
        """Return how far from a rendition's keyframe this one may be and still mean its cut."""
        return max(ROUNDED_US, self.to_us(sample.duration) // 8)

    @property
    def begun_us(self) -> int | None:
        """Stream time at which its segment began on this track; None if that is closed."""
        tally = self.tallies.get(self.segment)
        return self.to_us(tally.record.dts) if tally is not None else None

    @property
    def share_us(self) -> int:
        """How long the part of its segment is that it has."""
        return self.end_us - self.begun_us if self.begun_us is not None else 0

    def before(self, sample: Sample, opened: Opened) -> bool:
        """Whether most of this frame is from before a segment."""
        return self.to_us(sample.dts + sample.cts + sample.duration // 2) < opened.start_us

    def outlasts(self, sample: Sample, opened: Opened, limit_us: int) -> bool:
        """Whether this frame ends too late for the segment ``opened``, or for its own share."""
        begun_us = opened.start_us
        if self.segment == opened.segment and self.begun_us is not None:
            begun_us = min(begun_us, self.begun_us)
        return self.to_us(sample.dts + sample.duration) - begun_us > limit_us

    def must_leave(self, sample: Sample, limit_us: int, due_us: int | None) -> bool:
        """Whether a frame goes to the next segment, although that begins later.

        Its share of the segment would be longer than ``limit_us``; or it is a keyframe and the
        share ``due_us`` long (not with None).
        """
        if self.sparse or self.begun_us is None:
            return False
        if self.to_us(sample.dts + sample.duration) - self.begun_us > limit_us:
            return True
        if due_us is None or not (self.video and sample.key):
            return False
        return self.to_us(sample.dts + sample.duration // 2) - self.begun_us >= due_us

    def promise(self, part_target_us: int) -> None:
        """Take the duration that no part may exceed."""
        self._limit = part_target_us * self.timescale // SECOND_US

    def draft(self, sample: Sample, segment: int, flags: int) -> Record:
        """Return the record that ``sample`` becomes in ``segment``; nothing changes yet."""
        part, count, start = self._part, self._count + 1, self._start
        dts, length, limit = sample.dts, sample.duration, self._limit
        if count > 1 and (segment != self.segment or (limit and dts + length - start > limit)):
            part += 1
            count = 1
        if count == 1:
            start = dts
        ahead = dts + 2 * length - start
        if self.sparse or (limit and (ahead > limit or self._full(count, length))):
            flags |= _PART_END
        return Record(
            self.seq,
            dts,
            sample.capture_us,
            sample.ingest_us,
            sample.cts,
            length,
            segment,
            part,
            0,
            len(sample.payload),
            crc32(sample.payload),
            flags,
            sample.init,
        )

    def _full(self, count: int, length: int) -> bool:
        """Whether ``count`` video frames make a part; 5 % are left for jitter."""
        if not self.video or not length:
            return False
        most = max(1, self._limit * 20 // (21 * length)) if count == 1 else self._most
        return count >= most

    def commit(self, record: Record) -> None:
        """Note that a drafted record has been stored."""
        if record.segment != self.segment or record.part != self._part or not self._count:
            self._count = 0
            self._start = record.dts
            length = record.duration
            self._most = max(1, self._limit * 20 // (21 * length)) if length else 1
        if record.segment != self.segment:
            before = self.tallies.get(self.segment)
            if before is not None:
                before.left = record.dts
            self.tallies[record.segment] = Tally(record)
        self._count += 1
        self._part = record.part
        self.seq = record.seq + 1
        self.segment = record.segment
        self.init = record.init
        self.end_us = (record.dts + record.duration) * SECOND_US // self.timescale
        self._parts[record.segment] = self.tallies[record.segment].add(record)
        if record.flags & _PART_END:
            self._part += 1
            self._count = 0

    def seal(self) -> None:
        """End the open part: what comes next belongs to another segment."""
        if self._count:
            self._part += 1
            self._count = 0

    def close(self, segment: int, most_us: int) -> Piece | None:
        """Return what it has in a segment that is being closed, ``most_us`` long at most."""
        tally = self.tallies.get(segment)
        if tally is None or segment not in self._parts:
            return None
        most = most_us * self.timescale // SECOND_US
        return tally.piece(self.number, self._parts[segment], most)

    def forget(self, segment: int) -> None:
        """Drop what was counted of a segment: it is closed."""
        self.tallies.pop(segment, None)
        self._parts.pop(segment, None)

    def resume(self, records: Sequence[Record]) -> None:
        """Go on after ``records``, the newest that the pages hold, oldest first."""
        for record in records:
            if record.part != self._part:
                self._part, self._count = record.part, 0
            self.commit(record)
            self.front_us = max(self.front_us, self.to_us(record.dts + record.cts))


def content_end_us(lanes: Iterable[Lane], opened: Opened) -> int:
    """Return where the content of a segment ends that nothing follows without a break."""
    ends = [
        (lane.video, not lane.sparse, lane.to_us(lane.tallies[opened.segment].end))
        for lane in lanes
        if opened.segment in lane.tallies
    ]
    return max(ends)[2] if ends else opened.start_us
