"""Index rows: what a segment is, on every track, as payloads of track 0.

The origin writes an :class:`Opened` row just before the first record of a segment and a
:class:`Closed` row when every track that nothing waits for in vain has left the segment. Both are
ordinary records: they have a seq, live in pages, travel over the bus and are repaired like any
frame. Muxed and whole-segment outputs use closed rows only.
"""

from dataclasses import dataclass, field
from typing import Any

import msgpack

from common.errors import FormatError

INDEX_TIMESCALE = 1_000_000
"""dts of an index record: the stream time in microseconds at which the segment it speaks of
starts (opened) or ends (closed)."""

MAX_ROW = 64 * 1024
"""Bytes of an index row. A longer one is a FormatError."""


@dataclass(frozen=True, slots=True)
class Course:
    """What decides where the next segments begin, as it was when a segment was opened.

    Players need none of it: an origin that goes on in the place of another one does.
    """

    leader: int = 0
    """The track that opens segments; 0 if there is none."""

    alone: bool = False
    """Whether another track opened this segment, because it was full."""

    grid_us: int = 0
    """Where the next segment is due on a stream without video."""

    gop_us: int = 0
    """Distance of the leader's last two keyframes; 0 while unknown."""

    key_us: int = -1
    """pts of the leader's last keyframe; -1 if it has none."""

    drift_us: int = 0
    """How far the wall clock moves against stream time until the next segment opens."""


@dataclass(frozen=True, slots=True)
class Opened:
    """A segment has begun."""

    segment: int
    start_us: int
    """Stream time of the cut: where the leader's first pts is."""

    wall_us: int
    """Unix microseconds of ``start_us`` by the origin's filtered clock, fixed here for good."""

    discontinuity: int
    """EXT-X-DISCONTINUITY-SEQUENCE of this segment: breaks in the epoch up to and with its
    start."""

    breaks: bool
    """Whether a discontinuity stands right before this segment."""

    course: Course = field(default=Course(), compare=False)
    """Only in rows that open segments."""


@dataclass(frozen=True, slots=True)
class Piece:
    """What one track has in one segment."""

    track: int
    first: int
    """seq of its first record."""

    count: int
    init: int
    start: int
    """dts of the first record, in the track's timescale."""

    duration: int
    """Ticks: dts of the next segment's first record minus ``start``, else the sum of durations."""

    size: int
    """Payload bytes."""

    first_part: int
    parts: int
    key: bool
    """Whether it starts with a keyframe."""


CONTIGUOUS_US = 90_000
"""A record that begins so near the end of the one before, and within one duration of it, goes on
without a hole: a segment lasts until the next one's first record. Across a hole its closed row
decides, which never says more than the target duration."""


@dataclass(frozen=True, slots=True)
class Closed:
    """A segment is complete: nothing will be added to it on any track."""

    opened: Opened
    duration_us: int
    """Stream time from its cut to the next one."""

    pieces: tuple[Piece, ...]

    def piece(self, track: int) -> Piece | None:
        """Return what ``track`` has in this segment."""
        return next((piece for piece in self.pieces if piece.track == track), None)


Row = Opened | Closed


def encode_row(row: Row) -> bytes:
    """Return the payload of an index record."""
    opened = row if isinstance(row, Opened) else row.opened
    head: list[Any] = [
        opened.segment,
        opened.start_us,
        opened.wall_us,
        opened.discontinuity,
        opened.breaks,
    ]
    if isinstance(row, Opened):
        course = row.course
        head.append([course.leader, course.alone, course.grid_us])
        head[-1] += [course.gop_us, course.key_us, course.drift_us]
    else:
        head += [row.duration_us, [_piece_fields(piece) for piece in row.pieces]]
    packed: bytes = msgpack.packb(head)
    return packed


def _piece_fields(piece: Piece) -> list[int | bool]:
    return [
        piece.track,
        piece.first,
        piece.count,
        piece.init,
        piece.start,
        piece.duration,
        piece.size,
        piece.first_part,
        piece.parts,
        piece.key,
    ]


def decode_row(data: bytes) -> Row:
    """Read the payload of an index record.

    Raises:
        FormatError: If the bytes are not a row.
    """
    if len(data) > MAX_ROW:
        raise FormatError("index row: too large")
    try:
        items: Any = msgpack.unpackb(data, max_array_len=256, max_map_len=0, max_ext_len=0)
    except (ValueError, msgpack.UnpackException, OverflowError) as error:
        raise FormatError(f"index row: not msgpack: {error}") from error
    match items:
        case [int(segment), int(start), int(wall), int(number), bool(breaks), list(fields)]:
            return Opened(segment, start, wall, number, breaks, _course(fields))
        case [
            int(segment),
            int(start),
            int(wall),
            int(number),
            bool(breaks),
            int(lasts),
            list(rows),
        ]:
            opened = Opened(segment, start, wall, number, breaks)
            return Closed(opened, lasts, tuple(_piece(row) for row in rows))
        case _:
            raise FormatError("index row: not a row")


def _course(items: list[Any]) -> Course:
    kinds = [type(item) for item in items]
    if kinds != [int, bool, int, int, int, int]:
        raise FormatError("index row: not a course")
    return Course(*items)


def _piece(items: Any) -> Piece:
    if not isinstance(items, list) or len(items) != 10 or type(items[9]) is not bool:
        raise FormatError("index row: not a piece")
    if not all(type(number) is int for number in items[:9]):
        raise FormatError("index row: not a piece")
    return Piece(*items)
