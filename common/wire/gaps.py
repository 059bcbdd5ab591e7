"""What one track has received, what it lacks since when, and what it has asked for."""

from collections import deque
from collections.abc import Iterator
from typing import NamedTuple

from common.track.record import Flag, Record

MAX_AHEAD = 1_000_000
"""Records that a track may be ahead of what is committed. A number beyond that is nonsense: the
record is dropped."""

MAX_PULLED = 4096
"""Records asked for at once. The rest is asked for next; the answer is cut by bytes anyhow."""

MAX_WAIT = 5
"""Doublings of the wait for a repair. After that the wait stays the same."""

OVERHEAD = 512
"""Bytes that a waiting record takes beside its payload."""

NEAR = 8
"""Holes that are no further apart are pulled in one go: that costs less than a round trip."""


class Want(NamedTuple):
    """A pull under way."""

    first: int
    stop: int
    sent_us: int
    attempt: int


class Notice(NamedTuple):
    """Everything before ``stop`` was known to exist at ``since_us``."""

    stop: int
    since_us: int


class Pending:
    """Bytes that may wait, shared by the tracks of a stream."""

    __slots__ = ("free",)

    def __init__(self, size: int) -> None:
        self.free = size


class TrackGaps:
    """One track: everything before ``next`` is committed, ``pending`` came too early."""

    __slots__ = ("_budget", "_last", "_notices", "head", "next", "pending", "progress_us", "want")

    def __init__(self, budget: Pending) -> None:
        self.next: int | None = None
        self.head = 0
        """Next seq of the sender, as far as known."""
        self.pending: dict[int, tuple[Record, bytes, str]] = {}
        self.progress_us = 0
        """When a pull last brought the record that was waited for."""
        self.want: Want | None = None
        self._notices: deque[Notice] = deque()
        self._last: Record | None = None
        self._budget = budget

    def begin(self, first: int, now: int) -> None:
        """Start with ``first``; what came before it is not wanted, the rest is missing from now."""
        self.next = first
        self.head = max(self.head, first)
        for seq in [seq for seq in self.pending if seq < first]:
            self._pop(seq)
        self._notices.clear()
        if self.head > first:
            self._notices.append(Notice(self.head, now))

    def notice(self, stop: int, now: int) -> bool:
        """Learn that records before ``stop`` exist; return whether some of them are missing."""
        if stop <= self.head:
            return False
        self.head = stop
        self._notices.append(Notice(stop, now))
        return True

    def hold(self, record: Record, payload: bytes, source: str) -> bool:
        """Keep a record that came too early; return whether it was not here already.

        Without room for it, it counts as missing: it will be pulled.
        """
        seq = record.seq
        if seq in self.pending:
            return False
        if self._budget.free >= len(payload) + OVERHEAD:
            self._budget.free -= len(payload) + OVERHEAD
            self.pending[seq] = (record, payload, source)
            self.head = max(self.head, seq + 1)
        return True

    def committed(self, record: Record) -> None:
        """Go on behind ``record``."""
        self._last = record
        self.next = record.seq + 1
        if self._notices:
            self._trim()

    def ready(self) -> Iterator[tuple[Record, bytes, str]]:
        """Take out the pending records that are next, and go on behind them."""
        while self.next in self.pending:
            assert self.next is not None
            entry = self._pop(self.next)
            self._last = entry[0]
            self.next += 1
            yield entry
        self._trim()

    def due(self, now: int, retry_us: int, skew_us: int) -> tuple[int, int] | None:
        """Return the run (first, stop) to pull now."""
        if self.next is None or self.next >= self.head:
            return None
        if self.want is not None:
            patience = retry_us << min(self.want.attempt, MAX_WAIT)
            if now < self.want.sent_us + patience:
                return None
        elif self._notices and now < self._notices[0].since_us + skew_us:
            return None
        return self.next, self._hole_end()

    def _hole_end(self) -> int:
        assert self.next is not None
        limit = min(self.head, self.next + MAX_PULLED)
        if not self.pending:
            return limit
        stop = seq = self.next
        while seq < limit and seq - stop < NEAR:
            seq += 1
            if seq - 1 not in self.pending:
                stop = seq
        return stop

    def answered(self, stop: int) -> None:
        """Learn that the pull up to ``stop`` was answered; if that was no use it is repeated."""
        want = self.want
        if want is not None and want.stop == stop and self.next and self.next > want.first:
            self.want = None

    def expired(self, now: int, deadline_us: int) -> int | None:
        """Return the seq before which what is missing has been waited for long enough."""
        stop = None
        for notice in self._notices:
            if now < max(notice.since_us, self.progress_us) + deadline_us:
                break
            stop = notice.stop
        return stop

    def lose(self, stop: int, limit: int) -> list[Record] | None:
        """Go on behind the hole at ``next``, at most to ``stop``; return its lost records.

        ``None`` if it is wider than ``limit``.
        """
        assert self.next is not None
        ahead = [seq for seq in self.pending if seq < stop]
        end = min(ahead, default=stop)
        if end - self.next > limit:
            return None
        after = self.pending.get(end)
        lost = list(self._lost(self.next, end, after[0] if after else None))
        self.next = end
        self.head = max(self.head, end)
        if lost:
            self._last = lost[-1]
        self._trim()
        return lost

    def _lost(self, first: int, stop: int, after: Record | None) -> Iterator[Record]:
        """Make records that stand for missing ones; their times lie between the neighbours'."""
        model = self._last or after
        last = self._last
        step = model.duration if model else 0
        dts = last.dts if last else (after.dts - (stop - first + 1) * step if after else 0)
        if last and after:
            step = max(0, min(step, (after.dts - last.dts) // (stop - first + 1)))
        for count, seq in enumerate(range(first, stop), 1):
            yield Record(
                seq=seq,
                dts=dts + count * step,
                capture_us=model.capture_us if model else 0,
                ingest_us=model.ingest_us if model else 0,
                cts=0,
                duration=step,
                segment=model.segment if model else 0,
                part=model.part if model else 0,
                offset=0,
                size=0,
                crc32=0,
                flags=Flag.LOST,
                init=model.init if model else 0,
            )

    def _pop(self, seq: int) -> tuple[Record, bytes, str]:
        entry = self.pending.pop(seq)
        self._budget.free += len(entry[1]) + OVERHEAD
        return entry

    def _trim(self) -> None:
        while self._notices and self.next is not None and self._notices[0].stop <= self.next:
            self._notices.popleft()
