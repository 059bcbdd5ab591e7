"""What to fetch of a stream's past, and in which order.

A stream starts with the live GOP, so that a viewer can start. Then the rest of the window comes,
the newest first and all tracks down together, one pull of at most 256 kB at a time; a segment that
somebody asks for goes before that. Pure: it decides, the receiver pulls and writes.
"""

from collections import deque
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from common.track.record import Record
from common.wire.ranges import RangeSet

RETRY_US = 1_000_000
"""An unanswered pull is repeated after this long, twice as long each time after."""

MAX_ATTEMPT = 3
"""Doublings of the wait for an answer to a pull of the past. After that the wait stays the same."""

MAX_WANTED = 256
"""Runs of records of a stream that viewers may have fetched out of turn. Of more, the oldest wishes
are forgotten."""

MAX_RUN = 4096
"""Records asked for at once. The rest is asked for next; the answer is cut by bytes anyhow."""

SECOND = 1_000_000


class Run(NamedTuple):
    """Records ``first`` to ``stop - 1`` of a track."""

    track: int
    first: int
    stop: int


@dataclass(slots=True)
class _Track:
    floor: int
    """Everything from here on is held, or repair's business."""

    oldest: int
    """First seq that the sender still has."""

    timescale: int
    held: RangeSet = field(default_factory=RangeSet)
    """What is held below the floor."""

    reached_us: int = 2**63
    """Stream time down to which it is filled."""

    done: bool = False

    def hole(self) -> tuple[int, int] | None:
        """Return the newest run that is missing."""
        holes = self.held.missing(self.oldest, self.floor)
        return holes[-1] if holes else None


class Backfill:
    """The past of one epoch of one stream."""

    def __init__(self) -> None:
        self._tracks: dict[int, _Track] = {}
        self._wanted: deque[Run] = deque()
        self._asked: Run | None = None
        self._sent_us = 0
        self._attempt = 0

    def start(
        self,
        track: int,
        floor: int,
        oldest: int,
        timescale: int,
        held: Iterable[tuple[int, int]] = (),
        reached_us: int = 2**63,
    ) -> None:
        """Fill ``track`` below ``floor``, down to the sender's ``oldest``, but for ``held``.

        ``reached_us`` is the stream time of the floor, if it is known.
        """
        entry = self._tracks[track] = _Track(floor, oldest, timescale, reached_us=reached_us)
        for first, stop in held:
            entry.held.add(first, min(stop, floor))

    def want(self, run: Run) -> bool:
        """Fetch a run out of turn, as far as it is missing; return whether any of it is."""
        entry = self._tracks.get(run.track)
        if entry is None:
            return False
        found = False
        for first, stop in entry.held.missing(max(run.first, entry.oldest), run.stop):
            if first < min(stop, entry.floor):
                found = True
                piece = Run(run.track, first, min(stop, entry.floor))
                if piece not in self._wanted:
                    self._wanted.append(piece)
        while len(self._wanted) > MAX_WANTED:
            self._wanted.popleft()
        return found

    def reach(self) -> dict[int, int]:
        """Return how far back every track may yet come to reach, of those that are being filled."""
        return {track: entry.oldest for track, entry in self._tracks.items() if not entry.done}

    def oldest(self, track: int, otherwise: int) -> int:
        """Return the oldest record of a track that is known to exist."""
        entry = self._tracks.get(track)
        return entry.oldest if entry is not None else otherwise

    def request(self, now: int, since_us: int) -> Run | None:
        """Return the run to pull now, the newest of it first; nothing older than ``since_us``."""
        if self._asked is not None:
            if now < self._sent_us + (RETRY_US << min(self._attempt, MAX_ATTEMPT)):
                return None
            return self._asked
        while self._wanted:
            run = self._wanted[0]
            holes = self._tracks[run.track].held.missing(run.first, run.stop)
            if holes:
                return Run(run.track, *holes[-1])
            self._wanted.popleft()
        return self._next(since_us)

    def _next(self, since_us: int) -> Run | None:
        best: tuple[int, Run] | None = None
        for track, entry in self._tracks.items():
            if entry.done:
                continue
            hole = entry.hole()
            if hole is None or entry.reached_us < since_us:
                entry.done = True
                continue
            if best is None or entry.reached_us > best[0]:
                best = (entry.reached_us, Run(track, max(hole[0], hole[1] - MAX_RUN), hole[1]))
        return best[1] if best else None

    def asked(self, run: Run, now: int) -> None:
        """Note that a run of :meth:`request` was pulled."""
        self._attempt = self._attempt + 1 if self._asked == run else 0
        self._asked = run
        self._sent_us = now

    def answered(self, run: Run, records: Sequence[Record]) -> bool:
        """Take note of the answer to the pull of ``run``; return whether it is to be stored.

        ``records`` are in order of seq and without gaps.
        """
        entry = self._tracks.get(run.track)
        first, stop = records[0].seq, records[-1].seq + 1
        if entry is None or first < run.first or stop != run.stop:
            return False
        if self._asked == run:
            self._asked = None
        entry.held.add(first, stop)
        if entry.timescale:
            start_us = records[0].dts * SECOND // entry.timescale
            entry.reached_us = min(entry.reached_us, start_us)
        return True

    def refused(self, run: Run) -> None:
        """Learn that the one who was asked has not got it: the next may be asked at once."""
        if self._asked == run:
            self._asked = None

    def attempt(self, run: Run) -> int:
        """Return how often a run was asked for in vain."""
        return self._attempt + 1 if self._asked == run else 0

    def gone(self, run: Run, oldest: int) -> None:
        """Learn that the sender has nothing of ``run`` before ``oldest`` any more."""
        entry = self._tracks.get(run.track)
        if self._asked == run:
            self._asked = None
        if entry is None:
            return
        entry.oldest = max(entry.oldest, min(oldest, entry.floor))
        self._wanted = deque(
            Run(track, max(first, entry.oldest) if track == run.track else first, stop)
            for track, first, stop in self._wanted
            if track != run.track or stop > entry.oldest
        )

    def retry(self) -> None:
        """Pull again at once: the answer was lost with a connection."""
        self._asked = None

    def stop(self) -> None:
        """Fetch nothing more: there is no room."""
        self._wanted.clear()
        for entry in self._tracks.values():
            entry.done = True

    @property
    def pressing(self) -> bool:
        """Whether somebody waits for what is to be fetched next."""
        return bool(self._wanted)

    @property
    def busy(self) -> bool:
        """Whether something is still to be fetched."""
        return bool(self._wanted) or any(not entry.done for entry in self._tracks.values())
