"""Turn what encoders send as timestamps into exact, strictly increasing ones.

RTMP clocks tick in rounded milliseconds, wrap at 2^31 or 2^32, jump when a laptop sleeps, and some
encoders send no decode times at all. What comes out per track: dts strictly increasing in the
track's own timescale, audio on a running sample clock, presentation times exact relative to each
other on all tracks of a slot. No frame is ever dropped here.

One :class:`Timeline` is a stream's time, one :class:`SlotTime` what one publisher's clock has to do
with it, one :class:`TrackTime` the state of one track. Nothing here reads a clock: ``arrival_us``
is given with every frame and must never run backwards.
"""

from collections import deque
from dataclasses import dataclass
from itertools import pairwise
from statistics import median_low
from typing import NamedTuple

from common.media.time import rescale

SECOND_US = 1_000_000
START_US = 10 * SECOND_US
"""Stream time of the first frame: early audio then never goes negative."""

MAX_BACKWARD_US = 1 * SECOND_US
"""Microseconds that a track may go back. With more it has a new timeline; with less its dts are
squeezed."""

MAX_FORWARD_US = 10 * SECOND_US
"""Microseconds that a frame may be ahead of the other tracks and of the time gone by. With more it
has a new timeline."""

MARGIN_US = 100_000
"""Left free before a new timeline, so that a track that interleaves late still fits."""

CONTINUES_US = 200_000
"""A reconnecting encoder whose clock left so small a hole goes on in its old timeline."""

DOUBTFUL_US = 500_000
"""While another track of the slot has a new timeline, a step as large as this is checked too."""

AUDIO_SNAP_US = 100_000
"""An audio gap as long as this is real at first sight."""

AUDIO_CONFIRM = 4
"""A smaller one only when so many frames in a row agree."""

NOMINAL_WINDOW = 9
"""Of so many distances between frames, the median is the nominal duration."""

REORDER_WINDOW = 16
"""As many presentation times are looked at where decode times are missing."""

CLIPPED = 2
"""Equal decode times in a row that only come from negative ones cut to 0, at the beginning."""

MAX_CTS = 2**31 - 1
"""Ticks from dts to pts: 31 bits. More are cut to this."""

MAX_DURATION = 2**31 - 1
"""Ticks of a frame: 31 bits. More are cut to this."""


class Stamp(NamedTuple):
    """What the normaliser says of one frame, in the track's timescale."""

    dts: int
    cts: int
    duration: int
    """Nominal ticks to the next frame."""

    breaks: bool
    """The source's timeline breaks right before this frame, on all tracks of the stream."""


@dataclass(slots=True)
class Timeline:
    """The time of a stream: how far its furthest frame reaches, and when that one came."""

    head_us: int = -1
    arrival_us: int = 0

    def expected(self, arrival_us: int) -> int:
        """Return the stream time that a frame arriving now would have."""
        if self.head_us < 0:
            return START_US
        return self.head_us + max(0, arrival_us - self.arrival_us)

    def reach(self, end_us: int, arrival_us: int) -> None:
        """Note that a frame which ends at ``end_us`` has come."""
        if end_us > self.head_us:
            self.head_us = end_us
            self.arrival_us = arrival_us


class SlotTime:
    """How one publisher's clock maps to stream time; shared by the tracks it sends."""

    __slots__ = ("_before_us", "generation", "offset_us", "owed", "source_us", "timeline")

    def __init__(self, timeline: Timeline, before: "SlotTime | None" = None) -> None:
        """``before`` is the mapping of the slot's publisher before this one."""
        self.timeline = timeline
        self._before_us: int | None = None
        if before is not None:
            self._before_us = before.offset_us if before.generation else before._before_us
        self.owed = False
        """Whether a break is still to be reported, by the next frame that is not sparse."""
        self.generation: int = 0
        """Rises with every break; a track that has a lower one still uses the old mapping."""
        self.offset_us: int = 0
        """Stream time minus source time."""
        self.source_us = 0
        """Unwrapped source time of the newest frame, so that clocks near a wrap agree."""

    def move(self, shift_us: int) -> None:
        """Let stream time be this much later."""
        self.offset_us += shift_us
        if self._before_us is not None:
            self._before_us += shift_us

    def anchor(self, source_us: int, arrival_us: int) -> None:
        """Begin a new mapping at this frame.

        Nothing breaks where a slot is used for the first time, or where an encoder that reconnects
        goes on where it was.
        """
        running = self.timeline.head_us >= 0
        before, self._before_us = self._before_us, None
        if running and before is not None:
            hole = source_us + before - self.timeline.head_us
            if -CONTINUES_US // 20 <= hole <= CONTINUES_US:
                self.generation += 1
                self.offset_us = before
                return
        self.owed = running and (self.generation > 0 or before is not None)
        self.generation += 1
        stream_us = self.timeline.expected(arrival_us) + (MARGIN_US if running else 0)
        self.offset_us = stream_us - source_us


class TrackTime:
    """The timestamps of one track during one publisher's visit."""

    def __init__(
        self,
        slot: SlotTime,
        *,
        clock: int,
        timescale: int,
        wrap_bits: int = 0,
        nominal: int = 0,
        audio: bool = False,
        sparse: bool = False,
        last_end: int | None = None,
    ) -> None:
        """``nominal`` and ``last_end`` are in the track's timescale.

        ``last_end`` is where the track's last record before this visit ends.
        """
        self._slot = slot
        self._clock = clock
        self._scale = timescale
        # A 31-bit clock looks like a 32-bit one until it wraps; counting turns of 2^31 fits both.
        self._turn = 0 if not wrap_bits else 1 << (31 if wrap_bits == 32 else wrap_bits)
        self._audio = _AudioClock(timescale) if audio else None
        self._sparse = sparse
        self._shift = 0
        self._generation = 0
        self._ticks: int | None = None
        self._dts: int | None = None if last_end is None else last_end - 1
        self._fresh = True
        self._nominal = nominal
        self._steps: deque[int] = deque(maxlen=NOMINAL_WINDOW)
        self._reorder: _Reorder | None = None
        self._stuck = 0
        self._back = MAX_BACKWARD_US * timescale // SECOND_US
        self._ahead = MAX_FORWARD_US * timescale // SECOND_US
        self._doubtful = DOUBTFUL_US * timescale // SECOND_US

    @property
    def nominal(self) -> int:
        """Nominal ticks from frame to frame, 0 while unknown."""
        return self._nominal

    def move(self, ticks: int) -> None:
        """Let everything from now on be this much later, in the track's timescale."""
        self._shift += ticks
        if self._dts is not None:
            self._dts += ticks
        if self._reorder is not None:
            self._reorder.move(ticks)

    def stamp(self, dts: int, cts: int, duration: int, arrival_us: int) -> Stamp:
        """Return the exact timestamps of the next frame.

        ``dts`` and ``cts`` are ticks of the source clock. ``duration`` is in the track's
        timescale, 0 if unknown; audio needs it.
        """
        slot = self._slot
        ticks = self._unwrap(dts)
        stuck = ticks == self._ticks and not self._fresh and self._audio is None
        raw = rescale(ticks, self._clock, self._scale)
        breaks = False if stuck else self._settle(ticks, raw, arrival_us)
        self._ticks = ticks
        at = raw + self._shift
        pts = at if not cts else rescale(ticks + cts, self._clock, self._scale) + self._shift
        restart = self._fresh or breaks
        if self._audio is not None:
            out = self._audio.next(pts, self._dts, duration or self._nominal, restart)
            pts = out
            length = duration or self._nominal or self._scale // 50
        else:
            out = self._video(at, pts, stuck)
            length = self._measure(out, duration, restart)
        self._fresh = False
        self._dts = out
        slot.timeline.reach((out + length) * SECOND_US // self._scale, arrival_us)
        return Stamp(out, _clamp(pts - out), length, breaks)

    def _unwrap(self, dts: int) -> int:
        """Return ``dts`` with the turns of its counter added: nearest to what came before."""
        if not self._turn:
            return dts
        near = self._ticks
        if near is None:
            if not self._slot.generation:
                return dts
            near = rescale(self._slot.source_us, SECOND_US, self._clock)
        ahead = (dts - near) % self._turn
        return near + (ahead if ahead < self._turn >> 1 else ahead - self._turn)

    def _settle(self, ticks: int, raw: int, arrival_us: int) -> bool:
        """Choose the mapping that fits this frame; return whether the timeline breaks."""
        slot, last = self._slot, self._dts
        step = None if last is None else raw + self._shift - last
        source_us = rescale(ticks, self._clock, SECOND_US)
        if step is None or self._fresh or not 0 < step < self._doubtful:
            self._resettle(raw, source_us, arrival_us)
        slot.source_us = source_us
        if slot.owed and not self._sparse:
            slot.owed = False
            return True
        return False

    def _resettle(self, raw: int, source_us: int, arrival_us: int) -> None:
        slot = self._slot
        if not slot.generation:
            slot.anchor(source_us, arrival_us)
            self._adopt(slot.offset_us)
            return
        newest = rescale(slot.offset_us, SECOND_US, self._scale)
        if self._generation != slot.generation and (
            self._fits(raw + newest, arrival_us)
            and (self._fresh or self._nearer(raw + newest, raw + self._shift))
        ):
            self._adopt(slot.offset_us)
        elif not self._fresh and self._fits(raw + self._shift, arrival_us):
            return
        elif self._sparse or self._fresh:
            # Nothing hangs on this track yet (or ever): it alone is placed by its arrival.
            self._adopt(slot.timeline.expected(arrival_us) - source_us)
        else:
            slot.anchor(source_us, arrival_us)
            self._adopt(slot.offset_us)

    def _adopt(self, offset_us: int) -> None:
        self._shift = rescale(offset_us, SECOND_US, self._scale)
        self._generation = self._slot.generation
        self._reorder = None

    def _fits(self, dts: int, arrival_us: int) -> bool:
        """Whether a frame at ``dts`` follows from what has been so far."""
        latest = self._slot.timeline.expected(arrival_us) * self._scale // SECOND_US
        if dts > latest + self._ahead:
            return False
        if self._dts is None:
            return dts >= max(0, latest - self._ahead)
        return dts > self._dts - self._back

    def _nearer(self, one: int, other: int) -> bool:
        last = self._dts or 0
        return abs(one - last) <= abs(other - last)

    def _video(self, at: int, pts: int, stuck: bool) -> int:
        """Return the dts of a frame that is no audio."""
        last = self._dts
        if last is None:
            return at
        self._stuck = self._stuck + 1 if stuck else 0
        if 0 < self._stuck <= CLIPPED:
            return last + max(1, self._nominal // 4)
        if stuck:
            if self._reorder is None:
                self._reorder = _Reorder(self._nominal or self._scale // 25)
            return self._reorder.next(pts, last)
        if at > last:
            return at
        return last + 1

    def _measure(self, out: int, duration: int, restart: bool) -> int:
        """Return the nominal duration: the median of the latest distances."""
        if self._sparse:
            return min(duration, MAX_DURATION)
        if self._dts is not None and not restart:
            step = out - self._dts
            if step < self._scale:
                self._steps.append(step)
        if len(self._steps) > 1 or (self._steps and not self._nominal):
            self._nominal = median_low(self._steps)
        return self._nominal or min(duration, MAX_DURATION) or self._scale // 25


class _AudioClock:
    """A running count of samples that follows the source's timestamps only where it must."""

    def __init__(self, timescale: int) -> None:
        self._snap = AUDIO_SNAP_US * timescale // SECOND_US
        self._least = timescale // 500
        self._length = 0
        self._doubts: list[int] = []

    def next(self, at: int, last: int | None, length: int, restart: bool) -> int:
        """Return the dts of a frame of ``length`` samples that the source puts at ``at``."""
        before, self._length = self._length, length
        if last is None:
            return at
        floor = last + max(1, before // 2)
        if restart or not before:
            self._doubts.clear()
            return max(at, floor)
        expected = last + before
        off = at - expected
        tolerance = max(before * 6 // 10, self._least)
        if abs(off) <= tolerance:
            self._doubts.clear()
            return expected
        if abs(off) >= self._snap:
            self._doubts.clear()
            return max(at, floor)
        if self._doubts and (self._doubts[-1] > 0) != (off > 0):
            self._doubts.clear()
        self._doubts.append(off)
        if len(self._doubts) < AUDIO_CONFIRM:
            return expected
        least = min(self._doubts, key=abs)
        self._doubts.clear()
        return max(expected + least, floor)


class _Reorder:
    """Decode times for a stream that has only presentation times.

    Frames are spaced evenly by the distance that their sorted presentation times show, and the
    whole is steered so that the smallest composition offset stays what it was.
    """

    def __init__(self, nominal: int) -> None:
        self._nominal = nominal
        self._recent: deque[int] = deque(maxlen=REORDER_WINDOW)
        self._slack: deque[int] = deque(maxlen=REORDER_WINDOW)
        self._aim: int | None = None

    def next(self, pts: int, last: int) -> int:
        """Return a dts after ``last`` for the frame shown at ``pts``."""
        self._recent.append(pts)
        if len(self._recent) >= 4:
            ordered = sorted(self._recent)
            gaps = [b - a for a, b in pairwise(ordered) if b > a]
            self._nominal = median_low(gaps) if gaps else self._nominal
        dts = last + self._nominal + self._steer()
        dts = max(dts, last + max(1, self._nominal // 4))
        self._slack.append(pts - dts)
        return dts

    def move(self, ticks: int) -> None:
        """Let what was seen be this much later."""
        self._recent = deque((pts + ticks for pts in self._recent), maxlen=REORDER_WINDOW)

    def _steer(self) -> int:
        if len(self._slack) < REORDER_WINDOW:
            return 0
        slack = min(self._slack)
        if self._aim is None:
            self._aim = slack
        off = slack - self._aim
        if off > 25 * self._nominal:
            self._slack.clear()
            return off
        return max(-self._nominal // 2, min(self._nominal, off // 4))


def _clamp(cts: int) -> int:
    return max(-MAX_CTS, min(MAX_CTS, cts))
