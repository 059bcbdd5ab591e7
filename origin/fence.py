"""What keeps a stream from being published by an origin that was succeeded while it stood still."""

from common.media.frame import Frame
from origin.publisher import Publisher

FROZEN_US = 500_000
"""So long after its last pulse a followed stream publishes nothing before it has asked whose it is.
Less than the silence after which its follower takes over."""

MAX_PARKED = 4096
"""Frames of a stream that wait until an origin knows whether it is still the owner. Further ones
are dropped, and counted."""

_NEVER = 2**63


class Fence:
    """The fence of one stream: open as long as :meth:`pulse` is called."""

    def __init__(self) -> None:
        self.until_us = _NEVER
        """When it closes, on the monotonic clock; looked at with every frame."""
        self._parked: list[tuple[Publisher, Frame, int, int]] = []

    def pulse(self, mono: int, armed: bool) -> bool:
        """Show that this process runs: every 100 ms; return whether frames wait.

        ``armed``: another origin may go on with the stream.
        """
        if mono > self.until_us or self._parked:
            return True
        self.until_us = mono + FROZEN_US if armed else _NEVER
        return False

    def park(self, publisher: Publisher, frame: Frame, now: int, mono: int) -> bool:
        """Keep a frame that came at ``now``, and at ``mono``; return whether there was room."""
        if len(self._parked) >= MAX_PARKED:
            return False
        self._parked.append((publisher, frame, now, mono))
        return True

    def open(self) -> list[tuple[Publisher, Frame, int, int]]:
        """Return what was parked: whose the stream is has been found out."""
        parked, self._parked = self._parked, []
        self.until_us = _NEVER
        return parked
