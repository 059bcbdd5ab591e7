"""One stream on its way from the bus into the track pages of this node.

:class:`Receiver` has neither sockets nor a clock: messages are handed to :meth:`Receiver.deliver`,
time passes with :meth:`Receiver.tick`, what it has to say leaves through ``send``. It joins, hands
live records to the repair, pulls what is missing, fetches the window's past, and writes.

Fencing: (term, epoch) only rises. A message of an older term is ignored; a newer epoch gets pages
of its own, and those of the old one stay for as long as playlists show them.
"""

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from common.bus.backfill import Backfill, Run
from common.bus.shelf import Shelf, Store
from common.bus.tally import Tally
from common.errors import StoreFull, StreamBusy
from common.track.catalog import Catalog
from common.wire.bucket import TokenBucket
from common.wire.control import Absent, Control, Gone, Join, Joined, Pull, Records
from common.wire.media import Item
from common.wire.messages import CatalogChange, Heartbeat, Media
from common.wire.repair import LIVE, PULLED, Commit, Rejoin, RepairLimits, StreamRepair

JOIN_RETRY_US = 300_000
MAX_JOIN_WAIT = 3
"""A join is repeated after at most ``JOIN_RETRY_US`` times two to this power."""

MAX_ASKED = 256
"""Joins and pulls that are remembered; what answers an older one is ignored."""

EVICT_US = 1_000_000

AHEAD = 4 * 1024 * 1024
"""Bytes that may be fetched beyond the rate of repair while a viewer waits: a segment or two."""

Message = Media | CatalogChange | Heartbeat | Joined | Absent | Records | Gone


@dataclass(frozen=True, slots=True)
class _Asked:
    """A pull under way; ``past`` if backfill wants it."""

    run: Run
    past: bool


class Receiver:
    """One stream that this node carries."""

    def __init__(
        self,
        stream: str,
        store: Store,
        send: Callable[[Control], bool],
        bucket: TokenBucket,
        *,
        limits: RepairLimits,
        wall_us: Callable[[], int],
    ) -> None:
        """``send`` returns whether the message was taken; ``wall_us`` tells the Unix time."""
        self.stream = stream
        self.epoch = 0
        self.term = 0
        self.state = "joining"
        """``joining``, ``live``, ``ended`` or ``absent``."""
        self.tally = Tally()
        self.shelf = Shelf(stream, store, self.tally, wall_us)
        self.send = send
        self.bucket = bucket
        self._limits = limits
        self._repair = StreamRepair(limits)
        self._backfill = Backfill()
        self._number = 0
        self._joining = True
        self._join_due_us = 0
        self._join_attempt = 0
        self._joins: dict[int, Mapping[int, int]] = {}
        self._pulls: dict[int, _Asked] = {}
        self._evict_due_us = 0

    # What comes from outside.

    def adopt(self, epoch: int, now: int) -> bool:
        """Go on with pages that are here already; return whether they could be used."""
        if not self.shelf.adopt(epoch, now):
            return False
        catalog = self.shelf.catalog
        assert catalog is not None
        self.epoch, self.term = epoch, catalog.term
        self._repair = StreamRepair(self._limits, self.shelf.heads())
        self._tell()
        return True

    def connected(self, now: int) -> None:
        """Learn that the way to the origin is a new one: ask again for all that is missing."""
        self._repair.retry()
        self._backfill.retry()
        self._rejoin(now)
        self._join(now)

    def unreachable(self, now: int) -> None:
        """Learn that the sender is silent: what is missing is not lost before it can be asked."""
        self._repair.unreachable(now)

    def deliver(self, message: Message, now: int) -> None:
        """Take in a message about this stream."""
        match message:
            case Media(_, epoch, term, items):
                if self._admit(epoch, term, now):
                    self._receive(items, now)
            case Heartbeat(_, epoch, term):
                if self._admit(epoch, term, now):
                    self._heartbeat(message, now)
            case CatalogChange(_, catalog):
                if self._admit(catalog.epoch, catalog.term, now):
                    self._set_catalog(catalog, now)
            case Joined(_, _, catalog):
                if message.id in self._joins and self._admit(catalog.epoch, catalog.term, now):
                    self._joined(message, now)
            case Records():
                self._records(message, now)
            case Gone():
                self._gone(message)
            case Absent(number):
                self._absent(number, now)
        self._apply(now)
        self._pull_missing(now)
        self._pull_past(now)

    def tick(self, now: int) -> None:
        """Do what is due: call it every 50 ms or so."""
        self._repair.tick(now)
        self._apply(now)
        if self._joining and now >= self._join_due_us:
            self._join(now)
        self._pull_missing(now)
        self._pull_past(now)
        if now >= self._evict_due_us:
            self._evict_due_us = now + EVICT_US
            self.shelf.evict(now)

    def want_segment(self, track: int, segment: int, now: int) -> None:
        """Fetch what a track has in a closed segment of the past before the rest of it."""
        for run in self.shelf.pieces(segment):
            if run.track == track:
                self._backfill.want(run)
        self._pull_past(now)

    def origin_gone(self) -> None:
        """Learn that nobody has owned the stream for long."""
        self.state = "ended" if self.shelf.started else "absent"

    # Fencing.

    def _admit(self, epoch: int, term: int, now: int) -> bool:
        """Return whether a message of this epoch and term is to be used."""
        if (term, epoch) == (self.term, self.epoch):
            return True
        if (term, epoch) < (self.term, self.epoch):
            self.tally.dropped["fenced"] += 1
            return False
        self.term = term
        if epoch != self.epoch:
            self.epoch = epoch
            self._repair = StreamRepair(self._limits)
            self._backfill = Backfill()
            self._pulls.clear()
            self._joins = {number: {} for number in self._joins}
            self.shelf.drop_waiting()
        self._joining = False  # whatever was asked before is not worth waiting for
        self._rejoin(now)
        return True

    # Joining.

    def _rejoin(self, now: int) -> None:
        if not self._joining:
            self._joining = True
            self._join_attempt = 0
            self._join_due_us = now

    def _join(self, now: int) -> None:
        self._number += 1
        self._joins[self._number] = self._repair.positions()
        _forget_oldest(self._joins)
        self.send(Join(self._number, self.stream))
        self._join_due_us = now + (JOIN_RETRY_US << min(self._join_attempt, MAX_JOIN_WAIT))
        self._join_attempt += 1

    def _joined(self, message: Joined, now: int) -> None:
        asked = self._joins.pop(message.id)
        if not self._set_catalog(message.catalog, now):
            return
        self._joining = False
        self._join_attempt = 0
        if self.state == "absent":
            self.state = "joining"
        self._repair.join(message.positions, now, asked)
        self._apply(now)
        positions = self._repair.positions()
        for track, position in message.positions.items():
            held = self.shelf.held(track)
            floor, floor_us = positions.get(track, position.gop), 2**63
            if held and held.head == floor:
                floor, floor_us = held.floor, held.floor_us
            scale = self.shelf.timescale(track)
            runs = held.runs if held else ()
            self._backfill.start(track, floor, position.oldest, scale, runs, floor_us)

    def _absent(self, number: int, now: int) -> None:
        if self._joins.pop(number, None) is None:
            return
        # An origin that has just been started may not have it yet: go on asking, show what is here.
        self._rejoin(now)
        if not self.shelf.started:
            self.state = "absent"

    def _set_catalog(self, catalog: Catalog, now: int) -> bool:
        old = self.shelf.catalog
        known = (old.epoch, old.term, old.version) if old else (0, 0, 0)
        if catalog.epoch == known[0] and (catalog.term, catalog.version) < known[1:]:
            return True
        try:
            self.shelf.set_catalog(catalog, now)
        except (StoreFull, StreamBusy):
            self.tally.dropped["store_full"] += 1
            self._rejoin(now)
            return False
        self.shelf.flush()
        self._tell()
        return True

    # Records.

    def _receive(self, items: list[Item], now: int) -> None:
        tally, repair = self.tally, self._repair
        for item in items:
            tally.received += 1
            tally.received_bytes += len(item.payload)
            if _sound(item):
                repair.receive(item, now, LIVE)
            else:
                tally.dropped["damaged"] += 1

    def _heartbeat(self, message: Heartbeat, now: int) -> None:
        self._repair.heads(message.heads, now)
        catalog = self.shelf.catalog
        if catalog is None or message.catalog_version > catalog.version:
            self._rejoin(now)

    def _records(self, message: Records, now: int) -> None:
        self.bucket.charge(sum(len(item.payload) for item in message.items))
        asked = self._pulls.pop(message.id, None)
        if (
            asked is None
            or message.epoch != self.epoch
            or message.items[0].track != asked.run.track
        ):
            self.tally.dropped["unasked"] += 1
            return
        run = asked.run
        items = message.items
        if not all(_sound(item) for item in items):
            self.tally.dropped["damaged"] += 1  # it will be pulled again
            return
        if asked.past:
            if self._backfill.answered(run, [item.record for item in items]) and not (
                self.shelf.insert(run.track, items)
            ):
                self._backfill.stop()
            return
        for item in items:
            self._repair.receive(item, now, PULLED)
        self._repair.answered(run.track, run.stop)

    def _gone(self, message: Gone) -> None:
        asked = self._pulls.pop(message.id, None)
        if asked is None or message.epoch != self.epoch:
            return
        if asked.past:
            self._backfill.gone(asked.run, message.oldest)
        else:
            self._repair.gone(asked.run.track, min(message.oldest, asked.run.stop))

    def _apply(self, now: int) -> None:
        """Carry out what the repair has decided."""
        shelf = self.shelf
        self.tally.gaps += self._repair.gaps
        self._repair.gaps = 0
        for instruction in self._repair.take():
            if isinstance(instruction, Rejoin):
                self._restart(instruction, now)
                break
            shelf.put(instruction)
            if isinstance(instruction, Commit) and instruction.source == PULLED:
                self.tally.repaired += 1
        shelf.flush()
        if shelf.overflown:
            shelf.drop_waiting()
            self._restart(Rejoin("too much waits to be written", wipe=False), now)
        elif shelf.lacks_catalog:
            self._rejoin(now)
        if shelf.moved and self.state == "joining":
            self._tell()

    def _restart(self, why: Rejoin, now: int) -> None:
        self.tally.dropped["restart"] += 1
        if why.wipe:
            self.shelf.wipe()
            self._backfill = Backfill()
        self._repair = StreamRepair(self._limits, self.shelf.heads())
        self._pulls.clear()
        self._rejoin(now)

    # Pulling.

    def _pull_missing(self, now: int) -> None:
        for track, first, stop in self._repair.requests(now):
            if not self.bucket.open(now) or not self._pull(Run(track, first, stop), past=False):
                return
            self._repair.asked(track, first, stop, now)

    def _pull_past(self, now: int) -> None:
        if self._joining or not self._backfill.busy:
            return
        if not self.bucket.open(now, AHEAD if self._backfill.pressing else 0):
            return
        run = self._backfill.request(now, self.shelf.since_us())
        if run is not None and self._pull(run, past=True):
            self._backfill.asked(run, now)

    def _pull(self, run: Run, past: bool) -> bool:
        self._number += 1
        self._pulls[self._number] = _Asked(run, past)
        _forget_oldest(self._pulls)
        pull = Pull(self._number, self.stream, self.epoch, *run, newest_first=past)
        return self.send(pull)

    # The outside.

    def _tell(self) -> None:
        catalog = self.shelf.catalog
        if catalog is not None and catalog.epoch == self.epoch and self.shelf.started:
            self.state = "live" if catalog.live else "ended"

    def close(self) -> None:
        """Let go of the pages; they stay for the next process."""
        self.shelf.close()

    def remove(self) -> None:
        """Delete the pages: nobody wants the stream any more."""
        self.shelf.remove()


def _sound(item: Item) -> bool:
    record = item.record
    return not record.crc32 or not record.size or zlib.crc32(item.payload) == record.crc32


def _forget_oldest(asked: dict[int, Any]) -> None:
    while len(asked) > MAX_ASKED:
        del asked[next(iter(asked))]
