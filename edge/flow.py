"""Whether a viewer keeps up, judged by what its connection takes over time (no I/O)."""

PATIENCE = 3.0
"""Seconds that a connection may hold too much without getting emptier."""

BLOCKED = 1.0
"""Seconds that it may hold too much and take nothing at all."""

MAX_WAITING = 64 * 1024 * 1024
"""Bytes that may wait for one viewer, whatever the reason. With more it gets nothing until the next
keyframe at which it has caught up."""

LEAST_LIMIT = 256 * 1024
"""Bytes that may always wait: streams of little rate, and the first second of any."""


class Rate:
    """Bytes a second of a feed."""

    def __init__(self) -> None:
        self._rate = 0.0
        self._began = 0.0
        self._bytes = 0

    def add(self, now: float, size: int) -> float:
        """Count ``size`` bytes; return the rate, at least ``LEAST_LIMIT``."""
        if not self._bytes:
            self._began = now
        self._bytes += size
        took = now - self._began
        if took >= 1.0:
            fresh = self._bytes / took
            self._rate = (self._rate + fresh) / 2 if self._rate else fresh
            self._bytes = 0
        return max(self._rate, LEAST_LIMIT)


class Flow:
    """The record of one connection: bytes written to it, and when it last took some."""

    __slots__ = ("_low", "_low_at", "_progress_at", "_taken", "written")

    def __init__(self, now: float) -> None:
        self.written = 0
        self._taken = 0
        self._progress_at = now
        self._low = -1
        self._low_at = now

    def stalled(self, now: float, waiting: int) -> float:
        """Return for how many seconds the connection has taken nothing of ``waiting`` bytes."""
        taken = self.written - waiting
        if not waiting or taken != self._taken:
            self._taken = taken
            self._progress_at = now
        return now - self._progress_at

    def slow(self, now: float, waiting: int, limit: float) -> bool:
        """Return whether the viewer has to skip: too much waits and it does not get less."""
        idle = self.stalled(now, waiting)
        if waiting <= limit:
            self._low = -1
            return False
        if self._low < 0 or waiting < self._low:
            self._low, self._low_at = waiting, now
        return waiting > MAX_WAITING or idle > BLOCKED or now - self._low_at > PATIENCE

    def keeps_up(self, now: float, size: int) -> None:
        """Count bytes written while nothing waited, instead of asking whether it is slow."""
        self._taken = self.written
        self._progress_at = now
        self._low = -1
        self.written += size

    def caught_up(self) -> None:
        """Forget how slow it was."""
        self._low = -1
