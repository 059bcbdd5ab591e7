"""Whom to ask for what a stream lacks: the paths it comes over, and others when these cannot help.

A source that has not got a record says so, and the next one is asked. Only when nobody is left is
the record given up before its time.
"""

from collections import deque
from collections.abc import Sequence
from typing import Protocol

from common.wire.control import Control

LEAST_SKEW_US = 20_000
"""With several paths, a missing record is not pulled before the other one could have brought it."""

MOST_SKEW_US = 300_000
MAX_ARRIVALS = 64
"""Messages whose arrival is remembered, to measure how far one path is behind the other. The oldest
are forgotten."""


class Source(Protocol):
    """One node that can be asked about a stream."""

    @property
    def kind(self) -> str:
        """``owner``, ``standby``, ``relay`` or ``edge``."""

    @property
    def node(self) -> str:
        """Its name."""

    def send(self, message: Control) -> bool:
        """Ask something; return whether the question could be queued."""


class Sources:
    """All that can be asked about one stream, and what they said they have not got."""

    def __init__(self) -> None:
        self.paths: tuple[Source, ...] = ()
        self.reserve: tuple[Source, ...] = ()
        """Who publishes nothing to us, but may hold what is missing."""
        self._gone: dict[tuple[Source, int], int] = {}
        self._lacks: dict[tuple[Source, int], int] = {}

    def use(self, paths: Sequence[Source], reserve: Sequence[Source]) -> None:
        """Ask these from now on, best first."""
        self.paths, self.reserve = tuple(paths), tuple(reserve)
        known = {*self.paths, *self.reserve}
        for table in (self._gone, self._lacks):
            for key in [key for key in table if key[0] not in known]:
                del table[key]

    @property
    def several(self) -> bool:
        """Whether somebody else could have what one of them has lost."""
        return self.count > 1

    @property
    def count(self) -> int:
        """How many there are."""
        return len(self.paths) + len(self.reserve)

    def to_join(self, attempt: int) -> Source | None:
        """Return whom to ask where the stream is."""
        known = self.paths + self.reserve if attempt > 1 or not self.paths else self.paths
        return known[attempt % len(known)] if known else None

    def to_pull(self, track: int, seq: int, attempt: int, late: bool) -> Source | None:
        """Return whom to ask for a record; ``late`` if there is not much time left for it."""
        paths = [one for one in self.paths if self._may_have(one, track, seq)]
        reserve = [one for one in self.reserve if self._may_have(one, track, seq)]
        choice = reserve + paths if late else paths or reserve
        return choice[attempt % len(choice)] if choice else None

    def _may_have(self, source: Source, track: int, seq: int) -> bool:
        place = (source, track)
        return seq >= self._gone.get(place, 0) and self._lacks.get(place) != seq

    def refused(self, source: Source, track: int, oldest: int) -> None:
        """Note that a source holds nothing of a track before ``oldest``."""
        self._gone[source, track] = oldest

    def lost(self, source: Source, track: int, seq: int) -> None:
        """Note that a source has lost this record itself."""
        self._lacks[source, track] = seq

    def hopeless(self, track: int, seq: int) -> bool:
        """Return whether everybody has said that a record is not there.

        While no path is up nobody can say so: the owner may be back in time.
        """
        everybody = self.paths + self.reserve
        return bool(self.paths) and not any(self._may_have(one, track, seq) for one in everybody)

    def alone(self, source: Source, track: int, seq: int) -> bool:
        """Return whether nobody but this source is left to ask for a record."""
        everybody = self.paths + self.reserve
        return not any(o is not source and self._may_have(o, track, seq) for o in everybody)

    def oldest(self, track: int, otherwise: int) -> int:
        """Return the oldest record of a track that any path has."""
        found = [self._gone[p, track] for p in self.paths if (p, track) in self._gone]
        return min(found, default=otherwise)

    def forget(self) -> None:
        """Ask everybody again: what they said is old."""
        self._gone.clear()
        self._lacks.clear()


class Skew:
    """How far one path is behind the other, from the messages that both brought."""

    def __init__(self) -> None:
        self._arrivals: dict[tuple[int, int], int] = {}
        self._order: deque[tuple[int, int]] = deque()
        self._worst_us = 0.0

    def first(self, track: int, seq: int, now: int) -> None:
        """Note when a record came for the first time."""
        key = (track, seq)
        if len(self._order) >= MAX_ARRIVALS:
            self._arrivals.pop(self._order.popleft(), None)
        self._order.append(key)
        self._arrivals[key] = now

    def again(self, track: int, seq: int, now: int) -> None:
        """Note that it came over another path too."""
        then = self._arrivals.get((track, seq))
        if then is not None:
            self._worst_us = max(now - then, self._worst_us * 0.98)

    @property
    def us(self) -> int:
        """How long to wait for the other path, in microseconds."""
        return int(min(max(self._worst_us * 1.25, LEAST_SKEW_US), MOST_SKEW_US))
