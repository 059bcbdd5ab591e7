"""What a stream lacks, and the pulls for it: whom was asked for what, and what came of it.

:class:`StreamRepair` knows what is missing of the present, :class:`Backfill` what of the past, and
:class:`Sources` whom to ask. A source that has not got a record, or has lost it itself, is followed
by the next one; when nobody is left, the record is given up.
"""

from dataclasses import dataclass
from typing import Any

from common.bus.backfill import Backfill, Run
from common.bus.shelf import Shelf
from common.bus.sources import Source, Sources
from common.track import checksum
from common.wire.bucket import TokenBucket
from common.wire.control import MAX_PULL, Gone, Pull, Records
from common.wire.media import Item
from common.wire.repair import MAX_TRACKS, StreamRepair

MAX_ASKED = 256
"""Joins and pulls that are remembered. What answers an older one is ignored."""

AHEAD = 4 * 1024 * 1024
"""Bytes that may be fetched beyond the rate of repair while a viewer waits: a segment or two."""


FIRST_PULL = 12 * 1024
"""Bytes of the first pull over a new connection, which fit into what TCP sends before it knows the
way: so the frame that viewers wait for comes after one round trip. Each answer doubles it."""


@dataclass(frozen=True, slots=True)
class _Asked:
    """A pull under way; ``past`` if backfill wants it."""

    run: Run
    past: bool
    source: Source

    @property
    def seq(self) -> int:
        """The record that it is about above all."""
        return self.run.stop - 1 if self.past else self.run.first


class Pulls:
    """The pulls of one stream."""

    def __init__(
        self,
        stream: str,
        shelf: Shelf,
        sources: Sources,
        bucket: TokenBucket,
        repair: StreamRepair,
    ) -> None:
        """``repair`` and ``backfill`` are replaced when the stream starts anew."""
        self.repair = repair
        self.backfill = Backfill()
        self._stream = stream
        self._shelf = shelf
        self._tally = shelf.tally
        self._sources = sources
        self._bucket = bucket
        self._number = 0
        self._asked: dict[int, _Asked] = {}
        self._most = FIRST_PULL

    def retry(self) -> None:
        """Pull again at once what is missing: the way is a new one, and answers are lost."""
        self.repair.retry()
        self.backfill.retry()
        self._most = FIRST_PULL

    def number(self) -> int:
        """Return a number for a question."""
        self._number += 1
        return self._number

    def clear(self) -> None:
        """Want no answer any more."""
        self._asked.clear()

    def records(self, message: Records, epoch: int, term: int, now: int) -> None:
        """Take in what was pulled, if it is of this epoch and no older term."""
        self._bucket.charge(sum(len(item.payload) for item in message.items))
        asked = self._asked.pop(message.id, None)
        if asked is None or message.epoch != epoch or message.items[0].track != asked.run.track:
            self._tally.dropped["unasked"] += 1
            return
        items = message.items
        if message.term < term:
            self._tally.dropped["fenced"] += 1
            self._refuse(asked, asked.seq)
        elif not all(sound(item) for item in items):
            self._tally.dropped["damaged"] += 1  # it will be pulled again
        elif asked.past:
            self._take_past(asked, items)
        else:
            self._take_missing(asked, items, now)

    def _take_missing(self, asked: _Asked, items: list[Item], now: int) -> None:
        track, _, stop = asked.run
        self._most = min(2 * self._most, MAX_PULL)
        for item in items:
            seq = item.record.seq
            if item.record.lost and not self._sources.alone(asked.source, track, seq):
                self._refuse(asked, seq)
                break
            self.repair.receive(item, now, asked.source.kind)
        self.repair.answered(track, stop)

    def _take_past(self, asked: _Asked, items: list[Item]) -> None:
        run, source = asked.run, asked.source
        for place in range(len(items) - 1, -1, -1):
            seq = items[place].record.seq
            if items[place].record.lost and not self._sources.alone(source, run.track, seq):
                items = items[place + 1 :]  # up to here; for this one somebody else is asked
                self._sources.lost(source, run.track, seq)
                break
        if not items:
            self.backfill.refused(run)
        elif self.backfill.answered(run, [item.record for item in items]) and not (
            self._shelf.insert(run.track, items, source.kind)
        ):
            self.backfill.stop()

    def _refuse(self, asked: _Asked, seq: int) -> None:
        """Ask somebody else for a record."""
        self._sources.lost(asked.source, asked.run.track, seq)
        if asked.past:
            self.backfill.refused(asked.run)
        else:
            self.repair.refused(asked.run.track)

    def gone(self, message: Gone, epoch: int) -> None:
        """Learn that a source has not got what was pulled."""
        asked = self._asked.pop(message.id, None)
        if asked is None or message.epoch != epoch:
            return
        self._sources.refused(asked.source, asked.run.track, message.oldest)
        if asked.past:
            self.backfill.refused(asked.run)
        else:
            self.repair.refused(asked.run.track)

    def pull_missing(self, epoch: int, now: int) -> bool:
        """Pull what repair lacks; return whether something was given up instead."""
        hopeless = False
        for track, first, stop in self.repair.requests(now):
            if not self._bucket.open(now):
                break
            attempt, late = self.repair.urgency(track, now)
            source = self._sources.to_pull(track, first, attempt, late)
            if source is not None:
                if self._pull(Run(track, first, stop), epoch, source, past=False):
                    self.repair.asked(track, first, stop, now)
            elif self._sources.hopeless(track, first):
                oldest = max(self._sources.oldest(track, 0), first + 1)
                self.repair.gone(track, min(oldest, stop))
                hopeless = True
        return hopeless

    def pull_past(self, epoch: int, now: int) -> None:
        """Pull the next piece of the past."""
        if not self.backfill.busy:
            return
        if not self._bucket.open(now, AHEAD if self.backfill.pressing else 0):
            return
        for _ in range(MAX_TRACKS):
            run = self.backfill.request(now, self._shelf.since_us())
            if run is None:
                return
            track, _, stop = run
            source = self._sources.to_pull(track, stop - 1, self.backfill.attempt(run), late=False)
            if source is not None:
                if self._pull(run, epoch, source, past=True):
                    self.backfill.asked(run, now)
                return
            if not self._sources.hopeless(track, stop - 1):
                return
            self.backfill.gone(run, self._sources.oldest(track, stop))

    def _pull(self, run: Run, epoch: int, source: Source, past: bool) -> bool:
        number = self.number()
        self._asked[number] = _Asked(run, past, source)
        forget_oldest(self._asked)
        most = MAX_PULL if past else self._most
        return source.send(Pull(number, self._stream, epoch, *run, most, newest_first=past))


def sound(item: Item) -> bool:
    """Return whether a record's payload is what was sent."""
    record = item.record
    return not record.crc32 or not record.size or checksum.crc32(item.payload) == record.crc32


def forget_oldest(asked: dict[int, Any]) -> None:
    """Remember at most ``MAX_ASKED`` questions."""
    while len(asked) > MAX_ASKED:
        del asked[next(iter(asked))]
