"""Give every frame its segment and its part, once and for good (DESIGN 4.1).

One leader opens segments: the first video track, at keyframes; without video an audio track, on a
grid of dts. Every other track follows with its next record at or after the cut. What is decided
here travels in the records, so that all edges make the same bytes of them.

Pure: frames go in, records and index rows come out through ``emit``, in the order in which they
have to be stored. State changes only after ``emit`` has returned, so an exception from it (no room
for a page) leaves a record unnumbered, not missing.
"""

from collections.abc import Callable, Collection, Sequence

from common.errors import StoreFull
from common.media.codec import Kind
from common.media.track import INDEX_TRACK
from common.track.index import Closed, Opened, Row
from common.track.record import Flag, Record
from origin.cuts import (
    GAP_US,
    HOLD_US,
    LATE_US,
    STALL_US,
    Cuts,
    Promises,
    Promising,
    most_us,
    part_target,
)
from origin.lane import Lane, Sample, content_end_us, index_record
from origin.recall import Past, Tails, recall
from origin.rhythm import Rhythm
from origin.waiting import WaitingRoom

__all__ = ["Cuts", "Promises", "Sample", "Segmenter"]

Emit = Callable[[int, Record, bytes], None]
"""Called with track, record and payload."""

_KEY, _FORCED = int(Flag.KEY), int(Flag.FORCED)
_DISCONTINUITY = int(Flag.DISCONTINUITY)


class Segmenter(Promising):
    """The segments and parts of one stream."""

    def __init__(
        self,
        cuts: Cuts,
        wall: Callable[[int], int],
        emit: Emit,
        *,
        first_segment: int = 0,
        promises: Promises | None = None,
        drift: Callable[[], int] = lambda: 0,
    ) -> None:
        """``wall`` tells the Unix microseconds of a stream time, asked once a segment.

        ``drift`` tells by how much its next answer will move against stream time.
        """
        self._lanes: dict[int, Lane] = {}
        super().__init__(cuts, promises or Promises(), self._lanes)
        self.dropped = 0
        """Frames before the first keyframe of their track or before the first cut."""
        self.closed = 0
        """Segments closed."""
        self.breaks = 0
        """Discontinuities written."""
        self._wall = wall
        self._drift = drift
        self._emit = emit
        self._open: list[Opened] = []
        self._alone: set[int] = set()  # opened without the leader
        self._room: WaitingRoom | None = WaitingRoom(self._lanes)
        self._leader: Lane | None = None
        self._holding = 0
        self._break = False
        self._cut = False
        self._next = first_segment
        self._discontinuities = 0
        self._rows = 0
        self._rhythm = Rhythm()

    @property
    def segment(self) -> int:
        """The number of the next segment."""
        return self._next

    def add_track(self, number: int, kind: Kind, timescale: int) -> None:
        """Make a track known; its first frame may come."""
        lane = self._lanes[number] = Lane(number, kind, timescale)
        lane.promise(self.promises.part_target_us)
        if self._open:
            lane.discontinuity = self._open[-1].discontinuity

    def leave(self, number: int) -> None:
        """Stop waiting for a track: its publisher has left, or it has ended."""
        lane = self._lanes[number]
        lane.live = False
        self._release(lane, everything=True)
        if lane is self._leader:
            self._elect()

    def join(self, number: int) -> None:
        """Expect frames of a track again; a video track goes on at its next keyframe."""
        lane = self._lanes[number]
        lane.live = True
        lane.needs_key = lane.video

    def break_timeline(self) -> None:
        """Let the next segment begin with a discontinuity: at the leader's next keyframe."""
        self._break = True

    def push(self, sample: Sample) -> None:
        """Give one frame its place.

        Raises:
            StoreFull: From ``emit``; go on with :meth:`interrupt`.
        """
        lane = self._lanes[sample.track]
        if lane.needs_key:
            if not sample.key:
                self.dropped += 1
                return
            lane.needs_key = False
            self._greet(lane)
        if self._room is not None:
            self._wait(self._room, sample)
        elif lane.held or self._early(lane, sample):
            lane.held.append(sample)
            self._holding += len(lane.held) == 1
            held_us = lane.to_us(sample.dts - lane.held[0].dts)
            self._release(lane, everything=held_us > HOLD_US)
        else:
            self._take(lane, sample)

    def finish(self) -> None:
        """Close what is open: no publisher is left. What comes next opens a new segment.

        Raises:
            StoreFull: From ``emit``; call it again.
        """
        if self._room is not None and (leader := self._room.leader(patient=False)) is not None:
            self._start(self._room, leader)
        for lane in self._lanes.values():
            self._release(lane, everything=True)
        if self._open:
            self._promise_any()
        while self._open:
            self._close()
        self._restart()

    def interrupt(self) -> None:
        """Forget frames that wait, for some before them are missing; then :meth:`finish`."""
        for lane in self._lanes.values():
            self.dropped += len(lane.held)
            lane.held.clear()
        self._holding = 0
        if self._room is not None:
            self.dropped += len(self._room.samples)
            self._room.samples.clear()
        self._break = True

    def adopt(self, rows: Sequence[Row], row_head: int, tails: Tails) -> None:
        """Go on after what the pages of an epoch hold; :meth:`finish` then closes what is open.

        ``rows`` are those held, ``row_head`` the next seq of the index track; ``tails`` are per
        track its records of segments without a closed row, or at least its last one.
        """
        past = recall(self._lanes, rows, tails)
        self._take_up(past, row_head)
        for number in tails:
            lane = self._lanes[number]
            lane.seal()
            lane.discontinuity = self._discontinuities
        self._break = past.newest is not None

    def resume(
        self, rows: Sequence[Row], row_head: int, tails: Tails, gone: Collection[int] = ()
    ) -> None:
        """Go on in the place of another segmenter as if it had never stopped.

        As for :meth:`adopt`; what comes next are the frames that the other one has not placed.
        ``gone`` are tracks of which nothing more is expected.

        Raises:
            StoreFull: From ``emit``.
        """
        past = recall(self._lanes, rows, tails)
        self._take_up(past, row_head)
        self._alone = {opened.segment for opened in past.open if opened.course.alone}
        for lane in self._lanes.values():
            lane.live = lane.number not in gone
            lane.needs_key = lane.video and not lane.started
        if not past.open or past.newest is None:
            self._restart()
            return
        self._leader = self._lanes.get(past.newest.course.leader)
        leads = tails.get(self._leader.number, ()) if self._leader is not None else ()
        self._rhythm.resume(past.newest, self._leader, leads)
        if self._leader is None or not self._leader.live:
            self._elect()
        self._close_finished()

    def _take_up(self, past: Past, row_head: int) -> None:
        self._open = past.open
        self._rows = row_head
        if past.newest is not None:
            self._next = max(self._next, past.newest.segment + 1)
            self._discontinuities = past.newest.discontinuity
        self._room = None

    # The beginning: wait until there is a leader.

    def _restart(self) -> None:
        """Wait for a leader, as at the beginning."""
        if self._room is not None:
            self.dropped += len(self._room.samples)
        self._room = WaitingRoom(self._lanes)
        self._leader = None
        self._rhythm.key_us = None
        for lane in self._lanes.values():
            lane.seal()
            lane.needs_key = lane.video

    def _wait(self, room: WaitingRoom, sample: Sample) -> None:
        self.dropped += room.add(sample)
        # The distance of two frames decides how long parts are.
        leader = room.leader(frames=1 if self.promises.part_target_us else 2)
        if leader is not None:
            self._start(room, leader)

    def _start(self, room: WaitingRoom, leader: Lane) -> None:
        """Open a segment with the leader's first frame, then place all that waited for it."""
        mine = room.of(leader)
        if not self.promises.part_target_us:
            self._promise(part_target_us=part_target(self._cuts, leader, mine))
            for lane in self._lanes.values():
                lane.promise(self.promises.part_target_us)
        if not leader.video and not self.promises.target_duration:
            self._promise_target(self._cuts.segment_us)
        self._leader = leader
        changes = any(self._lanes[one.track].init not in (-1, one.init) for one in room.samples)
        cut_us = leader.to_us(mine[0].dts + mine[0].cts)
        self._open_segment(cut_us, self._break or changes)
        self._room = None
        for position, sample in enumerate(room.samples):
            if self._too_early(self._lanes[sample.track], sample):
                self.dropped += 1
                continue
            try:
                self.push(sample)
            except StoreFull:
                self.dropped += len(room.samples) - position - 1
                raise

    def _too_early(self, lane: Lane, sample: Sample) -> bool:
        """Whether a frame that waited is from before the cut, where there is no segment."""
        opened = self._open[0]
        if lane is self._leader or lane.segment >= opened.segment:
            return False
        if not lane.before(sample, opened):
            return False
        lane.needs_key = lane.video
        return True

    # Ordinary life.

    def _greet(self, lane: Lane) -> None:
        """Let a video track that has come late lead, from this keyframe on."""
        if self._open and (self._leader is None or not self._leader.video):
            self._leader = lane
            self._rhythm.key_us = None
            self._cut = True

    def _elect(self) -> None:
        """Choose a new leader: the first video track that runs, else audio, else anything."""
        lanes = self._lanes.values()
        running = [lane for lane in lanes if lane.live and lane.started and not lane.needs_key]
        running.sort(key=lambda lane: (not lane.video, lane.sparse, lane.number))
        self._leader = running[0] if running else None
        self._rhythm.key_us = None
        if self._open:
            self._rhythm.grid_us = self._open[-1].start_us + self._cuts.segment_us

    def _take(self, lane: Lane, sample: Sample) -> None:
        """Open a segment if this frame does, then store it."""
        pts_us = lane.to_us(sample.dts + sample.cts)
        leads = lane is self._leader or self._leader is None
        newest = self._open[-1]
        if leads and lane.video and sample.key:
            self._note_key(pts_us)
        if lane.init not in (-1, sample.init) and not (
            newest.breaks and lane.segment < newest.segment
        ):
            self._open_segment(pts_us, True)
        elif leads:
            self._lead(lane, sample, pts_us)
        elif not lane.sparse and lane.outlasts(sample, newest, self._limit_us):
            self._open_segment(pts_us, False, alone=True)
        self._place(lane, sample, self._segment_for(lane, sample, pts_us), pts_us)
        if leads and self._holding:
            for other in self._lanes.values():
                self._release(other)
        if len(self._open) > 1:
            self._close_finished()

    def _lead(self, lane: Lane, sample: Sample, pts_us: int) -> None:
        """Open a segment if the leader's frame begins one."""
        newest = self._open[-1]
        overfull = lane.outlasts(sample, newest, self._limit_us)
        starts = sample.key or not lane.video
        hole = overfull and lane.started and lane.to_us(sample.dts) - lane.end_us > GAP_US
        if hole or (self._break and (starts or overfull)):
            self._open_segment(pts_us, True)
        elif self._cut and starts:
            self._open_segment(pts_us, False)
        elif not lane.video:
            self._follow_grid(pts_us)
        elif lane.segment < newest.segment and pts_us < newest.start_us:
            return  # others had to open it without the leader, who is late
        elif overfull or (sample.key and self._due(pts_us, lane.to_us(sample.duration) // 2)):
            self._open_segment(pts_us, False)

    def _follow_grid(self, pts_us: int) -> None:
        """Open a segment at every multiple of its duration; the grid does not drift."""
        grid_us = self._rhythm.grid_us
        if pts_us >= grid_us:
            grid_us = max(grid_us, pts_us - self._cuts.segment_us // 2)
            self._open_segment(pts_us, False, grid_us + self._cuts.segment_us)

    def _due(self, pts_us: int, half_us: int) -> bool:
        return self._rhythm.due(pts_us, half_us, self._cuts.segment_us, self._limit_us)

    def _note_key(self, pts_us: int) -> None:
        if self._rhythm.key(pts_us) and not self.promises.target_duration:
            self._promise_target(self._rhythm.gop_us)

    def _early(self, lane: Lane, sample: Sample) -> bool:
        """Whether a rendition has come to a cut before its leader, and should wait for it."""
        leader = self._leader
        if not lane.video or not sample.key or leader is None or leader is lane:
            return False
        if not leader.video or not leader.live:
            return False
        pts_us = lane.to_us(sample.dts + sample.cts)
        if pts_us - leader.front_us <= lane.slack_us(sample):
            return False
        return self._break or self._due(pts_us, lane.to_us(sample.duration) // 2)

    def _release(self, lane: Lane, everything: bool = False) -> None:
        """Place frames of a rendition that its leader has caught up with."""
        while lane.held and (everything or not self._early(lane, lane.held[0])):
            sample = lane.held.popleft()
            self._holding -= not lane.held
            self._take(lane, sample)

    def _segment_for(self, lane: Lane, sample: Sample, pts_us: int) -> int:
        """Return the newest segment that has begun for this frame."""
        least = max(lane.segment, self._open[0].segment)
        if least < self._open[-1].segment:
            due_us = self._cuts.segment_us if lane.segment + 1 in self._alone else None
            least += lane.must_leave(sample, self._limit_us, due_us)
        slack_us = lane.slack_us(sample) if lane.video else 0
        for opened in reversed(self._open):
            if opened.segment <= least or opened.breaks or pts_us + slack_us >= opened.start_us:
                return max(least, opened.segment)
        return least

    def _place(self, lane: Lane, sample: Sample, segment: int, pts_us: int) -> None:
        """Store a frame in a segment that is open."""
        flags = _KEY if sample.key else 0
        discontinuity = lane.discontinuity
        if segment != lane.segment:
            opened = next(one for one in self._open if one.segment == segment)
            if opened.discontinuity > discontinuity and (lane.started or opened.breaks):
                flags |= _DISCONTINUITY
            discontinuity = opened.discontinuity
            if lane.video and not sample.key:
                flags |= _FORCED
                self._promise(independent=False)
        record = lane.draft(sample, segment, flags)
        self._emit(lane.number, record, sample.payload)
        lane.commit(record)
        lane.discontinuity = discontinuity
        lane.front_us = max(lane.front_us, pts_us)
        if lane is self._leader and segment in self._alone and lane.tallies[segment].count == 1:
            self._rhythm.begun_us = pts_us

    # Segments.

    def _open_segment(
        self, start_us: int, breaks: bool, grid_us: int | None = None, *, alone: bool = False
    ) -> None:
        if self._open:
            self._promise_any()
        number = self._discontinuities + breaks
        wall_us = self._wall(start_us)
        grid_us = start_us + self._cuts.segment_us if grid_us is None else grid_us
        course = self._rhythm.course(self._leader, alone, grid_us, self._drift())
        opened = Opened(self._next, start_us, wall_us, number, breaks, course)
        self._write_row(opened, start_us, opened.segment)
        self.breaks += breaks
        self._discontinuities = number
        self._next += 1
        self._break = self._cut = False
        self._rhythm.open(start_us, grid_us)
        self._open.append(opened)
        if alone:
            self._alone.add(opened.segment)
        if breaks:
            self._close_finished()

    def _close_finished(self) -> None:
        """Close segments that every track has left, or that nobody should wait for any more."""
        while len(self._open) > 1 and self._open[-1].breaks:
            self._close()
        lanes = [lane for lane in self._lanes.values() if not lane.sparse and lane.started]
        front_us = max((lane.front_us for lane in lanes), default=0) - STALL_US
        if self._leader is not None:
            front_us = max(front_us, self._leader.front_us - LATE_US)
        while len(self._open) > 1:
            number = self._open[0].segment
            there = any(lane.live and lane.segment <= number for lane in lanes)
            if there and front_us < self._open[1].start_us:
                return
            self._close()

    def _close(self) -> None:
        """Write the closed row of the oldest open segment."""
        opened = self._open[0]
        lanes = self._lanes.values()
        most = most_us(self.promises)
        pieces = [piece for lane in lanes if (piece := lane.close(opened.segment, most))]
        if len(self._open) > 1 and not self._open[1].breaks:
            end_us = self._open[1].start_us
        else:
            end_us = content_end_us(lanes, opened)
        lasts_us = max(1, min(end_us - opened.start_us, most))
        row = Closed(opened, lasts_us, tuple(pieces))
        self._write_row(row, end_us, self._open[-1].segment)
        del self._open[0]
        self._alone.discard(opened.segment)
        self.closed += 1
        for lane in lanes:
            lane.forget(opened.segment)

    def _write_row(self, row: Row, dts: int, segment: int) -> None:
        self._emit(INDEX_TRACK, *index_record(row, self._rows, dts, segment))
        self._rows += 1
