"""The wall clock of a stream: what Unix time its moments have, without jumps.

Encoders' clocks drift against ours, arrivals jitter, and an administrator may set the machine's
clock. Players want dates that follow the media second by second (EXT-X-PROGRAM-DATE-TIME, prft).
Players also lay renditions side by side by these dates: hls.js compares a date at one place of a
playlist with one at another, and a difference of 20 ms between date and media made it wait for
sound that was there. So the mapping is a constant offset, and constant it stays while it is about
right; far off it is pulled, slowly, towards the least delay seen of late. It steps only where the
timeline breaks anyway, and even there never back. What is asked next is
decided one answer ahead (:attr:`WallClock.drift_us`), so that an origin that takes over can say
exactly what the one before it would have said.
"""

from collections import deque

SECOND_US = 1_000_000

WINDOW_US = 2 * SECOND_US
"""Stream time over which the frame with the least delay is sought."""

WINDOWS = 5
"""So many windows are looked at: a burst after a stall moves nothing."""

RIGHT_US = SECOND_US // 4
"""Dates that are wrong by no more are left alone."""

SLEW_PPM = 250
"""Microseconds that the mapping may move per second of stream time: no encoder drifts faster."""

FAR_US = 2 * SECOND_US
"""Dates that are wrong by more are worse than renditions out of step for a while..."""

FAR_PPM = 2_000
"""...and move at this speed."""


class WallClock:
    """Maps stream time to Unix microseconds."""

    def __init__(self) -> None:
        self._offset: int | None = None
        self._next: int | None = None  # the offset of the next answer
        self._target = 0
        self._least: int | None = None
        self._windows: deque[int] = deque(maxlen=WINDOWS)
        self._window_us = 0
        self._slewed_us = 0
        self._said_us = 0
        self._step = False
        self.drift_us = 0
        """How far the next answer moves against stream time from the last one."""

    def observe(self, stream_us: int, arrival_us: int) -> None:
        """Note that the frame at ``stream_us`` came at ``arrival_us`` (Unix microseconds)."""
        delay = arrival_us - stream_us
        if self._offset is None or self._step:
            self._begin(stream_us, delay)
            return
        if self._least is None or delay < self._least:
            self._least = delay
        if stream_us - self._window_us >= WINDOW_US:
            self._windows.append(self._least)
            self._least = None
            self._window_us = stream_us
            self._target = min(self._windows)
            self._slew(stream_us)

    def wall(self, stream_us: int) -> int:
        """Return the Unix microseconds of a stream time."""
        offset = self._next if self._next is not None else self._offset or 0
        self._next = self._offset
        self.drift_us = 0 if self._next is None else self._next - offset
        self._said_us = stream_us + offset
        return self._said_us

    def step(self) -> None:
        """Take the next frame's arrival for what it is: the timeline breaks there."""
        self._step = True

    def resume(self, stream_us: int, wall_us: int) -> None:
        """Go on with what an earlier run of the origin said of one moment."""
        self._offset = wall_us - stream_us
        self._said_us = wall_us
        self._step = True

    def succeed(self, stream_us: int, wall_us: int, drift_us: int) -> None:
        """Go on without a step after the last answer of another clock."""
        self._said_us = wall_us
        self._offset = self._next = self._target = wall_us - stream_us + drift_us
        self._least = None
        self._windows.clear()
        self._window_us = self._slewed_us = stream_us
        self._step = False

    def _begin(self, stream_us: int, delay: int) -> None:
        self._offset = max(delay, self._said_us - stream_us)
        self._next = None
        self._target = self._offset
        self._least = None
        self._windows.clear()
        self._window_us = self._slewed_us = stream_us
        self._step = False

    def _slew(self, stream_us: int) -> None:
        assert self._offset is not None
        error = self._target - self._offset
        excess = error - max(-RIGHT_US, min(RIGHT_US, error))
        speed = SLEW_PPM if abs(error) <= FAR_US else FAR_PPM
        most = (stream_us - self._slewed_us) * speed // SECOND_US
        self._offset += max(-most, min(most, excess))
        self._slewed_us = stream_us
