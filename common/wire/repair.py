"""Put the records of a stream in order, see gaps, ask for what is missing, give up in time.

Pure: records and heads go in, :class:`Commit`, :class:`Lost`, :class:`Skip` and :class:`Rejoin`
come out, and what to pull is asked for with :meth:`StreamRepair.requests`. ``now`` is in
microseconds of any clock that does not jump.

Records may come over several paths, twice, and in any order; (stream, epoch, track, seq) is their
identity. They leave in seq order of their track. A missing record is waited for ``deadline_us``
after it was seen to be missing; as long as pulls of the track bring something, the wait starts
anew, so that a long outage over a narrow link loses nothing. What does not come is written down as
lost.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from common.track.record import Record
from common.wire.control import Position
from common.wire.gaps import MAX_AHEAD, Pending, TrackGaps, Want
from common.wire.media import Item

MAX_TRACKS = 65
"""Tracks of a catalog, and the index. Records of further ones are dropped."""

LIVE = "live"
PULLED = "pulled"
"""From somebody who was asked; who that is may stand there instead."""


@dataclass(frozen=True, slots=True)
class RepairLimits:
    """How patient repair is, and how much it may hold."""

    deadline_us: int = 4_000_000
    """How long a missing record is waited for."""

    retry_us: int = 300_000
    """When a pull is repeated first; twice as long each time after."""

    skew_us: int = 0
    """How long another path may bring a missing record before it is pulled: 0 for one path, since
    TCP keeps the order."""

    pending_bytes: int = 32 * 1024 * 1024
    """Payload bytes of a stream that may wait for a missing record; what comes beyond that is
    dropped and pulled later."""

    max_lost: int = 20_000
    """Records of one hole that are written down one by one as lost."""

    max_behind: int = 3_000
    """Records that a track may lack at a join; with more the stream goes on at the live GOP."""


class Commit(NamedTuple):
    """Write this record; it is the next one of its track."""

    track: int
    record: Record
    payload: bytes
    source: str
    """``live``, or what kind of node it was pulled from."""


class Lost(NamedTuple):
    """Write down that the next record of this track never came."""

    track: int
    record: Record
    reason: str
    """``deadline``; ``gone``, when the sender has it no more; ``upstream``, when it never had."""


class Skip(NamedTuple):
    """Go on with the track at ``first``: what lies before it is not waited for."""

    track: int
    first: int


class Rejoin(NamedTuple):
    """Join again: too much is missing to be written down, or (``wipe``) what is held is wrong."""

    reason: str
    wipe: bool


Instruction = Commit | Lost | Skip | Rejoin


class StreamRepair:
    """One epoch of one stream."""

    def __init__(self, limits: RepairLimits, heads: Mapping[int, int] | None = None) -> None:
        """``heads`` says where to go on, for each track that is held already."""
        self._limits = limits
        self._out: list[Instruction] = []
        self._tracks: dict[int, TrackGaps] = {}
        self._budget = Pending(limits.pending_bytes)
        self.joined = False
        """Whether the sender has told its positions; before that, nothing is pulled."""
        self.skew_us = limits.skew_us
        self.gaps = 0
        self.duplicates = 0
        for track, head in (heads or {}).items():
            if (gaps := self._track(track)) is not None:
                gaps.begin(head, 0)

    def take(self) -> list[Instruction]:
        """Return what is to be done, in order, and forget it."""
        out, self._out = self._out, []
        return out

    def positions(self) -> dict[int, int]:
        """Return the next seq to commit of every track that has begun."""
        return {track: gaps.next for track, gaps in self._tracks.items() if gaps.next is not None}

    def join(self, positions: Mapping[int, Position], now: int, asked: Mapping[int, int]) -> None:
        """Learn where the sender is. A track not held yet starts at its live GOP.

        ``asked`` has our heads when we asked: a sender behind those has lost part of the epoch.
        """
        self.joined = True
        late = self._limits.max_behind
        known = [(number, position, self._track(number)) for number, position in positions.items()]
        tracks = [(number, position, gaps) for number, position, gaps in known if gaps]
        jump = any(gaps.next is not None and p.gop > gaps.next + late for _, p, gaps in tracks)
        for track, position, gaps in tracks:
            if position.head < asked.get(track, 0):
                self._out.append(Rejoin(f"track {track} went back", wipe=True))
                return
            if gaps.next is None or (jump and position.gop > gaps.next):
                self._out.append(Skip(track, position.gop))
                gaps.begin(position.gop, now)
            elif position.oldest > gaps.next:
                self._skip(track, gaps, position.oldest, "gone")
            gaps.notice(position.head, now)
            self._drain(track, gaps)
        for track, gaps in self._tracks.items():
            if gaps.next is None:
                gaps.begin(0, now)
                self._drain(track, gaps)

    def receive(self, item: Item, now: int, source: str = LIVE, hopeful: bool = False) -> None:
        """Take a record in, from whatever path.

        While one is ``hopeful`` that somebody else has what the sender says it has lost, that
        record counts as missing.
        """
        track, record, payload = item
        gaps = self._track(track)
        if gaps is None:
            return
        if hopeful and record.lost:
            gaps.notice(record.seq + 1, now)
            self.duplicates += 1
            return
        if gaps.next is None and self.joined:
            gaps.begin(0, now)  # it began after we joined
        seq = record.seq
        if seq == gaps.next:
            self._out.append(_instruction(track, record, payload, source))
            gaps.committed(record)
            if source != LIVE:
                gaps.progress_us = now
            if seq >= gaps.head:
                gaps.head = seq + 1
            if gaps.pending:
                self._drain(track, gaps)
            return
        if gaps.next is not None and (seq < gaps.next or seq > gaps.next + MAX_AHEAD):
            self.duplicates += 1
            return
        if gaps.notice(seq, now) and self.joined and source == LIVE:
            self.gaps += 1
        if not gaps.hold(record, payload, source):
            self.duplicates += 1

    def heads(self, heads: Mapping[int, int], now: int) -> None:
        """Learn from a heartbeat how far the tracks are: finds what was lost at the tail."""
        if not self.joined:
            return
        for track, head in heads.items():
            gaps = self._track(track)
            if gaps is None:
                continue
            if gaps.next is None:
                gaps.begin(0, now)
            if head > gaps.head and gaps.notice(head, now):
                self.gaps += 1

    def answered(self, track: int, stop: int) -> None:
        """Learn that a pull which ended before ``stop`` was answered; the next may go."""
        gaps = self._tracks.get(track)
        if gaps is not None:
            gaps.answered(stop)

    def gone(self, track: int, oldest: int) -> None:
        """Learn that the sender holds nothing before ``oldest`` any more."""
        gaps = self._tracks.get(track)
        if gaps is None or gaps.next is None:
            return
        gaps.want = None
        self._skip(track, gaps, min(oldest, gaps.head), "gone")

    def refused(self, track: int) -> None:
        """Learn that the one who was asked has not got it: the next may be asked at once."""
        gaps = self._tracks.get(track)
        if gaps is not None:
            gaps.want = None

    def requests(self, now: int) -> list[tuple[int, int, int]]:
        """Return the runs (track, first, stop) to pull now, at most one a track."""
        if not self.joined:
            return []
        found = []
        for track, gaps in self._tracks.items():
            run = gaps.due(now, self._limits.retry_us, self.skew_us)
            if run is not None:
                found.append((track, *run))
        return found

    def urgency(self, track: int, now: int) -> tuple[int, bool]:
        """Return how often a run of :meth:`requests` was pulled already, and whether half of the
        time for it is over.
        """
        gaps = self._tracks[track]
        attempt = gaps.want.attempt + 1 if gaps.want else 0
        return attempt, gaps.expired(now, self._limits.deadline_us // 2) is not None

    def asked(self, track: int, first: int, stop: int, now: int) -> None:
        """Note that a run of :meth:`requests` was pulled."""
        gaps = self._tracks[track]
        attempt = gaps.want.attempt + 1 if gaps.want else 0
        gaps.want = Want(first, stop, now, attempt)

    def retry(self) -> None:
        """Pull again at once what is missing: the answers were lost with a connection."""
        for gaps in self._tracks.values():
            gaps.want = None

    def unreachable(self, now: int) -> None:
        """Learn that nobody can be asked and nothing newer comes: the waits start anew."""
        for gaps in self._tracks.values():
            gaps.progress_us = now

    def tick(self, now: int) -> None:
        """Give up what has been missing for too long."""
        for track, gaps in self._tracks.items():
            stop = gaps.expired(now, self._limits.deadline_us)
            if stop is not None:
                gaps.want = None
                self._skip(track, gaps, stop, "deadline")

    def _track(self, track: int) -> TrackGaps | None:
        gaps = self._tracks.get(track)
        if gaps is None and len(self._tracks) < MAX_TRACKS:
            gaps = self._tracks[track] = TrackGaps(self._budget)
        return gaps

    def _drain(self, track: int, gaps: TrackGaps) -> None:
        for record, payload, source in gaps.ready():
            self._out.append(_instruction(track, record, payload, source))

    def _skip(self, track: int, gaps: TrackGaps, stop: int, reason: str) -> None:
        """Write down as lost what is missing before ``stop``, and go on behind it."""
        while gaps.next is not None and gaps.next < stop:
            lost = gaps.lose(stop, self._limits.max_lost)
            if lost is None:
                reason = f"track {track} lacks more than can be written down"
                self._out.append(Rejoin(reason, wipe=False))
                return
            self._out.extend(Lost(track, record, reason) for record in lost)
            self._drain(track, gaps)


def _instruction(track: int, record: Record, payload: bytes, source: str) -> Instruction:
    if record.lost:
        return Lost(track, record, "upstream")
    return Commit(track, record, payload, source)
