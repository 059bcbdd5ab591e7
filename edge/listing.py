"""Which segments and parts of a track a playlist shows, and how far that goes."""

from dataclasses import dataclass

from common.formats.m3u8 import MILLION
from common.media.time import rescale
from edge.segments import Part, Segment

PART_ENTRIES = 3
"""Segments at the end, the open one among them, whose parts are listed: three target durations
(RFC 8216bis 4.4.4.9), counted as the strictest of validators does."""


@dataclass(frozen=True, slots=True)
class Listing:
    """The segments that a track's playlist shows."""

    segments: tuple[Segment, ...]
    """Contiguous numbers; all closed but perhaps the last, which then has parts."""

    @property
    def last_closed(self) -> int:
        """The number of the last complete segment; one before the first if there is none."""
        last = self.segments[-1]
        return last.number if last.closed else last.number - 1

    @property
    def parts_from(self) -> int:
        """The number of the first segment whose parts are listed.

        What is not complete takes the last place, even while it has no part to show.
        """
        return self.last_closed + 2 - PART_ENTRIES

    @property
    def open_parts(self) -> int:
        """How many parts of the segment after :attr:`last_closed` are listed."""
        last = self.segments[-1]
        return 0 if last.closed else last.part_count

    def end_us(self, timescale: int) -> int:
        """Return the stream time at which the last part or segment ends."""
        last = self.segments[-1]
        ticks = last.start + last.duration if last.duration is not None else _end(last.parts[-1])
        return rescale(ticks, timescale, MILLION)

    def position(self, timescale: int, until_us: int | None) -> tuple[int, int]:
        """Return the last segment and the place of its last part that end by ``until_us``.

        None stands for the end. An absent segment has part 0: who asks for the one behind that is
        sent on to the next segment.
        """
        for segment in reversed(self.segments):
            if until_us is None or _ends_by(segment, timescale, until_us):
                return segment.number, max(0, segment.part_count - 1)
            early = [p for p in segment.parts if rescale(_end(p), timescale, MILLION) <= until_us]
            if early:
                return segment.number, len(early) - 1
        return self.segments[0].number, 0

    @property
    def next_part(self) -> int:
        """The number of the part that comes next."""
        there = [one.first_part + one.part_count for one in self.segments if not one.absent]
        return there[-1] if there else 0


def _end(part: Part) -> int:
    return part.dts + part.duration


def _ends_by(segment: Segment, timescale: int, until_us: int) -> bool:
    if segment.duration is None:
        return False
    return rescale(segment.start + segment.duration, timescale, MILLION) <= until_us
