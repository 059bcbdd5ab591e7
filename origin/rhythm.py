"""Where the leader's keyframes, and the grid of streams without video, ask for a new segment."""

from collections.abc import Iterable

from common.track.index import Course, Opened
from common.track.record import Record
from origin.lane import Lane


class Rhythm:
    """What a segmenter has to know of the past to choose the next cut."""

    __slots__ = ("begun_us", "gop_us", "grid_us", "key_us")

    def __init__(self) -> None:
        self.begun_us = 0
        """Where the leader's pictures of the newest segment begin."""
        self.grid_us = 0
        self.key_us: int | None = None
        self.gop_us = 0

    def open(self, start_us: int, grid_us: int) -> None:
        """Note that a segment begins."""
        self.begun_us = start_us
        self.grid_us = grid_us

    def key(self, pts_us: int) -> bool:
        """Note a keyframe of the leader; return whether it tells how long a GOP is."""
        told = self.key_us is not None and pts_us > self.key_us
        if told:
            self.gop_us = pts_us - (self.key_us or 0)
        self.key_us = pts_us
        return told

    def due(self, pts_us: int, half_us: int, segment_us: int, limit_us: int) -> bool:
        """Whether a keyframe opens the next segment; ``half_us`` of its duration is tolerance."""
        elapsed = pts_us - self.begun_us
        if elapsed >= segment_us - half_us:
            return True
        return self.gop_us > 0 and elapsed > 0 and elapsed + self.gop_us > limit_us

    def course(self, leader: Lane | None, alone: bool, grid_us: int, drift_us: int) -> Course:
        """Return what a successor needs to know of a segment that is being opened."""
        number = leader.number if leader is not None else 0
        key_us = -1 if self.key_us is None else self.key_us
        return Course(number, alone, grid_us, self.gop_us, key_us, drift_us)

    def resume(self, opened: Opened, leader: Lane | None, records: Iterable[Record]) -> None:
        """Take up the course of the newest segment; ``records`` are the leader's newest."""
        course = opened.course
        self.open(opened.start_us, course.grid_us)
        self.gop_us = course.gop_us
        self.key_us = course.key_us if course.key_us >= 0 else None
        if leader is None:
            return
        first = True
        for record in records:
            pts_us = leader.to_us(record.dts + record.cts)
            if leader.video and record.key and (self.key_us is None or pts_us > self.key_us):
                self.key(pts_us)
            if record.segment == opened.segment and first and course.alone:
                self.begun_us = pts_us
            first = first and record.segment != opened.segment
