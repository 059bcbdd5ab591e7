"""What a segment of a track is made of: complete parts, and runs of records that become parts."""

from dataclasses import dataclass

from common.track.index import Opened
from common.track.record import Flag, Record

_KEY = int(Flag.KEY)
_PART_END, _DISCONTINUITY = int(Flag.PART_END), int(Flag.DISCONTINUITY)


@dataclass(frozen=True, slots=True)
class Part:
    """A complete part: nothing will be added to it."""

    number: int
    """Counted through the epoch."""

    first: int
    """seq of its first record."""

    count: int
    dts: int
    duration: int
    """Ticks: from its first dts to the end of its last record."""

    size: int
    """Payload bytes."""

    key: bool
    """Whether it holds a keyframe."""


@dataclass(frozen=True, slots=True)
class Segment:
    """What is known of one segment on this track."""

    number: int
    opened: Opened
    first: int
    """seq of its first record."""

    count: int
    """Records; of an open segment those in complete parts."""

    start: int
    """dts of its first record."""

    duration: int | None
    """Ticks to the next segment's first record; None while the segment is open."""

    init: int
    size: int
    """Payload bytes, as far as it goes."""

    first_part: int
    part_count: int
    """All parts of a closed segment, the complete ones of an open one."""

    parts: tuple[Part, ...]
    """Complete parts from the start on; all of them only if their records have been read."""

    key: bool
    """Whether it starts with a keyframe."""

    lost: bool = False
    """A record is missing on this node for good: the segment is not served."""

    absent: bool = False
    """The track has no record in this segment."""

    @property
    def closed(self) -> bool:
        """Whether nothing will be added."""
        return self.duration is not None

    @property
    def servable(self) -> bool:
        """Whether the segment exists as an object here, once its records have come."""
        return self.duration is not None and not self.lost and not self.absent


class OpenPart:
    """A part that is being put together."""

    __slots__ = ("dts", "end", "ended", "first", "key", "number", "size", "stop")

    def __init__(self, record: Record) -> None:
        self.number = record.part
        self.first = record.seq
        self.dts = record.dts
        self.size = 0
        self.key = False
        self.add(record)

    def add(self, record: Record) -> None:
        """Append a record."""
        self.stop = record.seq + 1
        self.end = record.dts + record.duration
        self.size += record.size
        self.key = self.key or bool(record.flags & _KEY)
        self.ended = bool(record.flags & _PART_END)

    def join(self, later: "OpenPart") -> None:
        """Append what comes right after."""
        self.stop, self.end, self.ended = later.stop, later.end, later.ended
        self.size += later.size
        self.key = self.key or later.key

    def view(self) -> Part:
        """Return what others see of it."""
        return Part(
            self.number,
            self.first,
            self.stop - self.first,
            self.dts,
            self.end - self.dts,
            self.size,
            self.key,
        )


class Span:
    """A run of records of one segment without a hole."""

    __slots__ = ("breaks", "first", "init", "key", "last_duration", "parts", "segment", "stop")

    def __init__(self, record: Record) -> None:
        self.segment = record.segment
        self.first = record.seq
        self.stop = record.seq + 1
        self.init = record.init
        self.key = bool(record.flags & _KEY)
        self.breaks = bool(record.flags & _DISCONTINUITY)
        self.last_duration = record.duration
        self.parts = [OpenPart(record)]

    @property
    def start(self) -> int:
        """Its first dts."""
        return self.parts[0].dts

    def add(self, record: Record) -> bool:
        """Append a record; return whether a part has become complete."""
        self.stop = record.seq + 1
        self.last_duration = record.duration
        last = self.parts[-1]
        if last.number == record.part:
            last.add(record)
            return last.ended
        self.parts.append(OpenPart(record))
        return True

    def join(self, later: "Span") -> None:
        """Append a run that comes right after."""
        if self.parts[-1].number == later.parts[0].number:
            self.parts[-1].join(later.parts.pop(0))
        self.parts += later.parts
        self.stop = later.stop
        self.last_duration = later.last_duration

    def complete(self, whole: bool) -> tuple[Part, ...]:
        """Return the parts that are complete; ``whole``: the last one is for sure."""
        parts = [part.view() for part in self.parts[:-1]]
        if whole or self.parts[-1].ended:
            parts.append(self.parts[-1].view())
        return tuple(parts)
