"""One row of a page: 64 bytes that say all about a frame but its payload (DESIGN 4.1)."""

import struct
from enum import IntFlag
from typing import NamedTuple

import numpy as np

RECORD = struct.Struct("<QqqqiIIIIIIHH")
"""The layout of a record; little endian whatever the machine."""

RECORD_SIZE = 64
assert RECORD.size == RECORD_SIZE

RECORD_DTYPE = np.dtype(
    [
        ("seq", "<u8"),
        ("dts", "<i8"),
        ("capture_us", "<i8"),
        ("ingest_us", "<i8"),
        ("cts", "<i4"),
        ("duration", "<u4"),
        ("segment", "<u4"),
        ("part", "<u4"),
        ("offset", "<u4"),
        ("size", "<u4"),
        ("crc32", "<u4"),
        ("flags", "<u2"),
        ("init", "<u2"),
    ]
)
"""The same layout for vectorised reads of whole runs."""


class Flag(IntFlag):
    """Bits of ``Record.flags``."""

    KEY = 1
    """Decoding can start here."""

    DISCONTINUITY = 2
    """The timeline breaks before this record; it opens a segment."""

    LOST = 4
    """This node never got the frame; only ``seq`` is meaningful."""

    PART_END = 8
    """The last record of its part, known when it was written."""

    FORCED = 16
    """Opens a segment without being a keyframe."""


# Plain numbers: an operator of an enumeration costs ten times as much, on every frame.
_KEY, _LOST = Flag.KEY.value, Flag.LOST.value


class Record(NamedTuple):
    """One frame of one track, without its payload."""

    seq: int
    """Position in the track through the epoch; +1 a record, nothing left out."""

    dts: int
    """Decode time in the track's timescale; strictly increasing within a media track."""

    capture_us: int
    """Unix microseconds, the encoder's clock or the arrival. No output byte depends on it."""

    ingest_us: int
    """Unix microseconds when the origin had the whole frame. No output byte depends on it."""

    cts: int
    """pts minus dts, in the track's timescale."""

    duration: int
    """Nominal ticks to the next record, final when written."""

    segment: int
    part: int
    """Part number, counted per track through the epoch."""

    offset: int
    """Where the payload starts in the page's arena; differs from node to node."""

    size: int
    crc32: int
    flags: int
    init: int
    """Position of the setup bytes in ``Track.inits``."""

    @property
    def key(self) -> bool:
        """Whether decoding can start here."""
        return bool(self.flags & _KEY)

    @property
    def lost(self) -> bool:
        """Whether this node never got the frame."""
        return bool(self.flags & _LOST)
