"""One stream on its way from the bus into the track pages of this node.

:class:`Receiver` has neither sockets nor a clock: messages are handed to :meth:`Receiver.deliver`,
time passes with :meth:`Receiver.tick`, what it has to say leaves through ``send``. It joins, hands
live records to the repair, pulls what is missing, fetches the window's past, and writes.

Fencing: (term, epoch) only rises. A message of an older term is ignored; a newer epoch gets pages
of its own, and those of the old one stay for as long as playlists show them.

It does not matter over how many paths messages come: (stream, epoch, track, seq) is the identity of
a record, and the first copy of it is taken.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace

from common.bus.backfill import Backfill, Run
from common.bus.pulls import Pulls, forget_oldest, sound
from common.bus.shelf import Shelf, Store
from common.bus.sources import Skew, Source, Sources
from common.bus.tally import Tally
from common.errors import StoreFull, StreamBusy
from common.track.catalog import Catalog
from common.wire.bucket import TokenBucket
from common.wire.control import Absent, Gone, Join, Joined, Position, Records
from common.wire.media import Item
from common.wire.messages import CatalogChange, Heartbeat, Media
from common.wire.repair import LIVE, Commit, Lost, Rejoin, RepairLimits, StreamRepair

JOIN_RETRY_US = 300_000
MAX_JOIN_WAIT = 3
"""Doublings of the wait for the answer to a join. After that the wait stays the same."""

EVICT_US = 1_000_000
FORGET_US = 2_000_000
"""What a source said it has not got is believed for so long."""

Message = Media | CatalogChange | Heartbeat | Joined | Absent | Records | Gone


class Receiver:
    """One stream that this node carries."""

    def __init__(
        self,
        stream: str,
        store: Store,
        bucket: TokenBucket,
        *,
        limits: RepairLimits,
        wall_us: Callable[[], int],
        pass_on: Callable[[str, int, int, list[Item]], None] | None = None,
    ) -> None:
        """Whom to ask has to be said with ``sources.use``; ``wall_us`` tells the Unix time.

        ``pass_on`` (stream, epoch, term, items) gets what has to be sent on and did not come in a
        message that can be sent on as it is: what was pulled, and what is lost.
        """
        self.stream = stream
        self.epoch = 0
        self.term = 0
        self.state = "joining"
        """``joining``, ``live``, ``ended`` or ``absent``."""
        self.tally = Tally()
        self.shelf = Shelf(stream, store, self.tally, wall_us)
        self.sources = Sources()
        self._pulls = Pulls(stream, self.shelf, self.sources, bucket, StreamRepair(limits))
        self._pass_on = pass_on
        self._limits = limits
        self._joining = True
        self._join_due_us = 0
        self._join_attempt = 0
        self._joins: dict[int, tuple[Source, Mapping[int, int]]] = {}
        self._evict_due_us = self._forget_due_us = 0
        self._skew = Skew()
        self._awaited: dict[int, int] = {}
        """Heads to reach before others may be told of the stream."""
        self._owner = ""
        """The node that owned the stream when its positions were last told by the owner."""
        self._doubtful: dict[int, int] = {}
        """Heads at the last change of term: what comes again from below is compared."""

    # What comes from outside.

    def adopt(self, epoch: int, now: int) -> bool:
        """Go on with pages that are here already; return whether they could be used."""
        if not self.shelf.adopt(epoch, now):
            return False
        catalog = self.shelf.catalog
        assert catalog is not None
        self.epoch, self.term = epoch, catalog.term
        self._pulls.repair = StreamRepair(self._limits, self.shelf.heads())
        self._tell()
        return True

    def connected(self, now: int) -> None:
        """Learn that the way to the origin is a new one: ask again for all that is missing."""
        self._pulls.retry()
        self._rejoin(now)
        self._join(now)

    def unreachable(self, now: int) -> None:
        """Learn that the sender is silent: what is missing is not lost before it can be asked."""
        self._repair.unreachable(now)

    def deliver(self, message: Message, now: int) -> bool:
        """Take in a message about this stream; return whether it is to be passed on as it is."""
        news = self._take_in(message, now)
        self._apply(now)
        self._pull(now)
        return news

    def _take_in(self, message: Message, now: int) -> bool:
        match message:
            case Media(_, epoch, term, items):
                return self._admit(epoch, term, now) and self._receive(items, now)
            case Heartbeat(_, epoch, term):
                if not self._admit(epoch, term, now):
                    return False
                self._heartbeat(message, now)
                return True
            case CatalogChange(_, catalog):
                if not self._admit(catalog.epoch, catalog.term, now):
                    return False
                before = self.shelf.catalog
                return self._set_catalog(catalog, now) and self.shelf.catalog != before
            case Joined(_, _, catalog):
                if message.id in self._joins and self._admit(catalog.epoch, catalog.term, now):
                    self._joined(message, now)
            case Records():
                self._pulls.records(message, self.epoch, self.term, now)
            case Gone():
                self._pulls.gone(message, self.epoch)
            case Absent(number):
                self._absent(number, now)
        return False

    def tick(self, now: int) -> None:
        """Do what is due: call it every 50 ms or so."""
        self._repair.tick(now)
        self._apply(now)
        if self._joining and now >= self._join_due_us:
            self._join(now)
        self._pull(now)
        if now >= self._evict_due_us:
            self._evict_due_us = now + EVICT_US
            self.shelf.evict(now)
        if now >= self._forget_due_us:
            self._forget_due_us = now + FORGET_US
            self.sources.forget()

    @property
    def ready(self) -> bool:
        """Whether another node can be told what is here: all tracks have begun."""
        if self._awaited and self.shelf.started:
            heads = self.shelf.heads()
            late = {t: head for t, head in self._awaited.items() if heads.get(t, 0) < head}
            self._awaited = late
        return self.shelf.started and not self._awaited

    def reach(self) -> dict[int, tuple[int, int]]:
        """Return for each track how far back it may yet come to reach, and its next record."""
        back = self._backfill.reach()
        return {t: (back.get(t, head), head) for t, head in self._repair.positions().items()}

    def fetch(self, run: Run, now: int) -> bool:
        """Fetch records of the past that somebody asks for; return whether they will come."""
        found = self._backfill.want(run)
        self._pull(now)
        return found

    def want_segment(self, track: int, segment: int, now: int) -> None:
        """Fetch what a track has in a closed segment of the past before the rest of it."""
        for run in self.shelf.pieces(segment):
            if run.track == track:
                self._backfill.want(run)
        self._pull(now)

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
            if self.state != "absent":
                self.state = "joining"  # nobody can read the new epoch yet
            self._pulls.repair = StreamRepair(self._limits)
            self._awaited = {}
            self._pulls.backfill = Backfill()
            self._pulls.clear()
            self._joins = {number: (source, {}) for number, (source, _) in self._joins.items()}
            self._doubtful = {}
            self.sources.forget()
            self.shelf.drop_waiting()
        else:
            self._doubtful = self._repair.positions()
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
        self._join_due_us = now + (JOIN_RETRY_US << min(self._join_attempt, MAX_JOIN_WAIT))
        source = self.sources.to_join(self._join_attempt)
        if source is None:
            return
        number = self._pulls.number()
        self._joins[number] = (source, self._repair.positions())
        forget_oldest(self._joins)
        source.send(Join(number, self.stream))
        self._join_attempt += 1

    def _joined(self, message: Joined, now: int) -> None:
        source, asked = self._joins.pop(message.id)
        if not self._set_catalog(message.catalog, now):
            return
        self._joining = False
        self._join_attempt = 0
        if self.state == "absent":
            self.state = "joining"
        self._repair.join(self._believe(message, source), now, self._binding(source, asked))
        self._apply(now)
        positions = self._repair.positions()
        if not self.shelf.started or self._awaited:
            places = message.positions.items()
            self._awaited = {t: place.head for t, place in places if place.head > place.gop}
        for track, position in message.positions.items():
            held = self.shelf.held(track)
            floor, floor_us = positions.get(track, position.gop), 2**63
            if held and held.head == floor:
                floor, floor_us = held.floor, held.floor_us
            scale = self.shelf.timescale(track)
            runs = held.runs if held else ()
            oldest = min(position.oldest, self._backfill.oldest(track, position.oldest))
            self._backfill.start(track, floor, oldest, scale, runs, floor_us)

    def _believe(self, message: Joined, source: Source) -> Mapping[int, Position]:
        """Return the positions; what one source has not got may be had from another."""
        if not self.sources.several and source.kind != "edge":
            return message.positions
        heads = self._repair.positions()
        return {
            track: replace(place, oldest=min(place.oldest, heads.get(track, place.oldest)))
            for track, place in message.positions.items()
        }

    def _binding(self, source: Source, asked: Mapping[int, int]) -> Mapping[int, int]:
        """Return the heads that a source cannot be behind of.

        These are the owner's own. A relay lags, and a successor may: what it sends again is
        compared with what is here.
        """
        if source.kind != "owner":
            return {}
        before, self._owner = self._owner, source.node
        return asked if before in ("", source.node) else {}

    def _absent(self, number: int, now: int) -> None:
        source, _ = self._joins.pop(number, (None, None))
        if source is None or not self._joining:
            return
        # An origin that has just been started may not have it yet: go on asking, show what is here.
        if source.kind == "edge":
            if self._join_attempt < self.sources.count:
                self._join_due_us = now  # the next one may have it
        elif not self.shelf.started:
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

    def _receive(self, items: list[Item], now: int) -> bool:
        """Take records in; return whether all of them are new."""
        tally = self.tally
        hopeful = self.sources.several
        first = items[0]
        if self._doubtful and any(self._contradicts(item) for item in items):
            self._restart(Rejoin("the numbering was used again", wipe=True), now)
        repair = self._repair
        repair.skew_us = self._skew_us()
        news = []
        for item in items:
            tally.received += 1
            tally.received_bytes += len(item.payload)
            if not sound(item):
                tally.dropped["damaged"] += 1
                continue
            before = repair.duplicates
            repair.receive(item, now, LIVE, hopeful)
            if repair.duplicates == before:
                news.append(item)
        if news and news[0] is first:
            self._skew.first(first.track, first.record.seq, now)
        elif not news:
            self._skew.again(first.track, first.record.seq, now)
        tally.merged += len(items) - len(news)
        if len(news) == len(items):
            return True
        if news and self._pass_on is not None:
            self._pass_on(self.stream, self.epoch, self.term, news)
        return False

    def _skew_us(self) -> int:
        """Return how long another path may bring what this one has not brought."""
        several = len(self.sources.paths) > 1
        return max(self._limits.skew_us, self._skew.us) if several else self._limits.skew_us

    def _contradicts(self, item: Item) -> bool:
        """Return whether a record is not what is held under its number since before the term."""
        stop = self._doubtful.get(item.track, 0)
        seq = item.record.seq
        if seq >= stop - 1:
            self._doubtful.pop(item.track, None)
        held = self.shelf.record(item.track, seq) if seq < stop else None
        if held is None or held.lost or item.record.lost:
            return False
        # When a frame came is another matter at every origin that it came to.
        same = {"offset": held.offset, "capture_us": held.capture_us, "ingest_us": held.ingest_us}
        return held != item.record._replace(**same)

    def _heartbeat(self, message: Heartbeat, now: int) -> None:
        self._repair.heads(message.heads, now)
        catalog = self.shelf.catalog
        if catalog is None or message.catalog_version > catalog.version:
            self._rejoin(now)

    def _apply(self, now: int) -> None:
        """Carry out what the repair has decided."""
        shelf = self.shelf
        late: list[Item] = []
        self.tally.gaps += self._repair.gaps
        self._repair.gaps = 0
        for instruction in self._repair.take():
            if isinstance(instruction, Rejoin):
                self._restart(instruction, now)
                break
            shelf.put(instruction)
            if isinstance(instruction, Lost):
                late.append(Item(instruction.track, instruction.record, b""))
            elif isinstance(instruction, Commit) and instruction.source != LIVE:
                self.tally.repaired[instruction.source] += 1
                late.append(Item(instruction.track, instruction.record, instruction.payload))
        if late and self._pass_on is not None:
            self._pass_on(self.stream, self.epoch, self.term, late)
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
            self._pulls.backfill = Backfill()
        self._pulls.repair = StreamRepair(self._limits, self.shelf.heads())
        self._pulls.clear()
        self._rejoin(now)

    def _pull(self, now: int) -> None:
        """Ask for what is missing, and for the past."""
        if self._pulls.pull_missing(self.epoch, now):
            self._apply(now)
        if not self._joining:
            self._pulls.pull_past(self.epoch, now)

    @property
    def _repair(self) -> StreamRepair:
        return self._pulls.repair

    @property
    def _backfill(self) -> Backfill:
        return self._pulls.backfill

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
