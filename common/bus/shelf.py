"""The pages of one stream on this edge: what may be written when, and what has to go.

A record is written once the catalog knows its track and its setup bytes, so that no reader meets a
frame that it cannot describe. Until then, or while there is no room, records wait in order.
"""

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import NamedTuple, Protocol

from common.bus.backfill import Run
from common.bus.tally import Tally
from common.errors import PageGone, StoreFull, StreamBusy
from common.media.track import INDEX_TRACK
from common.track.catalog import Catalog
from common.track.index import INDEX_TIMESCALE, Closed, decode_row
from common.track.record import Record
from common.track.store import StreamReader, StreamWriter
from common.wire.media import Item
from common.wire.repair import LIVE, Commit, Lost, Skip

MARGIN_US = 15_000_000
"""How much more than the window is kept: a segment that begins before it is still needed whole."""

LEAST_US = 20_000_000
"""How much is always kept: the three longest segments from which a player begins, and some."""

MAX_WAITING = 32 * 1024 * 1024
"""Bytes of payload that may wait for a catalog or for room. With more they are dropped, and the
edge joins the stream anew."""

CLOSED_WITHIN = 64
"""Index rows among which a segment's closed row is, from its opened row on."""

SECOND = 1_000_000


class Store(Protocol):
    """Where the pages of this node are."""

    def open(self, stream: str, epoch: int) -> StreamWriter:
        """Become the writer of one epoch of a stream.

        Raises:
            StoreFull: If there is no room for it.
            StreamBusy: If another process writes there.
        """


class Held(NamedTuple):
    """What is held of a track."""

    runs: list[tuple[int, int]]
    head: int
    floor: int
    """First seq of the newest run."""

    floor_us: int
    """Stream time of that."""


@dataclass(slots=True)
class _Old:
    writer: StreamWriter
    until_us: int


class Shelf:
    """The pages of one stream: the newest epoch is written, earlier ones wait for their end."""

    def __init__(self, stream: str, store: Store, tally: Tally, wall_us: Callable[[], int]) -> None:
        self.stream = stream
        self.catalog: Catalog | None = None
        self.moved = False
        """Set when readers have something to look at; the owner clears it."""
        self._store = store
        self.tally = tally
        self._wall_us = wall_us
        self._writer: StreamWriter | None = None
        self._reader: StreamReader | None = None
        self._old: list[_Old] = []
        self._inits: dict[int, int] = {}
        self._newest: dict[int, Record] = {}
        self._waiting: deque[Commit | Lost | Skip] = deque()
        self._waiting_bytes = 0
        self._share = 1.0

    @property
    def writer(self) -> StreamWriter | None:
        """The pages of the newest epoch."""
        return self._writer

    def hand_over(self) -> StreamWriter | None:
        """Give the newest epoch to another writer in this process; what waits is dropped."""
        self._close_reader()
        self._drop_waiting()
        writer, self._writer = self._writer, None
        return writer

    @property
    def started(self) -> bool:
        """Whether there is something to show."""
        return self._writer is not None and bool(self._writer.tracks())

    def adopt(self, epoch: int, now: int) -> bool:
        """Go on with pages that are here already; return whether they could be used."""
        try:
            writer = self._store.open(self.stream, epoch)
        except (StoreFull, StreamBusy):
            return False
        catalog = writer.catalog
        if catalog is None or catalog.epoch != epoch or catalog.stream != self.stream:
            writer.remove()
            return False
        self._take(writer, now)
        self._use(catalog)
        for track in writer.tracks():
            self._note_newest(track, writer)
        return True

    def set_catalog(self, catalog: Catalog, now: int) -> None:
        """Take a catalog: of this epoch, or the first one of a newer epoch.

        Raises:
            StoreFull: If there is no room; the call may be repeated.
            StreamBusy: If another process writes there.
        """
        if self._writer is None or self._writer.epoch != catalog.epoch:
            self._take(self._store.open(self.stream, catalog.epoch), now)
        assert self._writer is not None
        if catalog != self._writer.catalog:
            self._writer.set_catalog(catalog)
            self.moved = True
        self._use(catalog)

    def _take(self, writer: StreamWriter, now: int) -> None:
        if self._writer is not None:
            window = self.catalog.window_us if self.catalog else 0
            self._old.append(_Old(self._writer, now + window + MARGIN_US))
            self._writer.close()
        self._close_reader()
        self._writer = writer
        self._newest.clear()
        self._drop_waiting()

    def _use(self, catalog: Catalog) -> None:
        self.catalog = catalog
        self._inits = {track.id: max(1, len(track.inits)) for track in catalog.tracks}
        self._inits[INDEX_TRACK] = 1

    def heads(self) -> dict[int, int]:
        """Return the next seq of every track that holds records."""
        if self._writer is None:
            return {}
        return {track: self._writer.head(track) for track in self._writer.tracks()}

    def put(self, instruction: Commit | Lost | Skip) -> None:
        """Write a record, now or when it can be."""
        if self._waiting or not self._write(instruction):
            self._waiting.append(instruction)
            if isinstance(instruction, Commit):
                self._waiting_bytes += len(instruction.payload)

    def flush(self) -> None:
        """Write what waits, as far as it can be."""
        while self._waiting and self._write(self._waiting[0]):
            done = self._waiting.popleft()
            if isinstance(done, Commit):
                self._waiting_bytes -= len(done.payload)

    @property
    def lacks_catalog(self) -> bool:
        """Whether something waits for a newer catalog."""
        return bool(self._waiting) and not self._describable(self._waiting[0])

    @property
    def overflown(self) -> bool:
        """Whether more waits than may."""
        return self._waiting_bytes > MAX_WAITING

    def _describable(self, instruction: Commit | Lost | Skip) -> bool:
        if type(instruction) is Commit:
            return instruction.record.init < self._inits.get(instruction.track, 0)
        return instruction.track in self._inits

    def _write(self, instruction: Commit | Lost | Skip) -> bool:
        writer = self._writer
        track = instruction.track
        if writer is None or not self._describable(instruction):
            return False
        if isinstance(instruction, Skip):
            if instruction.first > writer.head(track):
                writer.skip(track, instruction.first)
            return True
        record = instruction.record
        payload = instruction.payload if type(instruction) is Commit else b""
        try:
            writer.append(track, record, payload)
        except StoreFull:
            self.tally.dropped["store_full"] += 1
            return False
        self._newest[track] = record
        self.moved = True
        if type(instruction) is Lost:
            self.tally.lost[instruction.reason] += 1
        elif type(instruction) is Commit and instruction.source == LIVE:
            self.tally.delay(record.capture_us, self._wall_us())
        return True

    def insert(self, track: int, items: Sequence[Item], source: str) -> bool:
        """Store records of the past, had from ``source``; return whether there was room."""
        assert self._writer is not None
        try:
            stored = self._writer.insert(track, [(item.record, item.payload) for item in items])
        except StoreFull:
            self.tally.dropped["store_full"] += 1
            return False
        self.tally.backfilled[source] += stored
        self.moved = self.moved or stored > 0
        return True

    def record(self, track: int, seq: int) -> Record | None:
        """Return a record that is held."""
        if self._writer is None:
            return None
        try:
            return self._read().track(track).record(seq)
        except PageGone:
            return None

    def pages(self) -> StreamReader | None:
        """Return the pages of the newest epoch; None if nothing is held."""
        return self._read() if self._writer is not None else None

    def held(self, track: int) -> Held | None:
        """Return what is held of a track; ``None`` if nothing is."""
        runs = self._read().track(track).runs() if self._writer is not None else []
        if not runs:
            return None
        floor, head = runs[-1]
        try:
            floor_us = self._time(track, self._read().track(track).record(floor).dts)
        except PageGone:
            floor_us = 2**63
        return Held(runs, head, floor, floor_us)

    def pieces(self, segment: int) -> list[Run]:
        """Return what the index says of a closed segment."""
        if self._writer is None:
            return []
        index = self._read().track(INDEX_TRACK)
        try:
            first = index.first_from_segment(segment)
            if first is None:
                return []
            for record in index.records(first, min(first + CLOSED_WITHIN, index.head)):
                row = None if record.lost else decode_row(index.payload(record, verify=True))
                if isinstance(row, Closed) and row.opened.segment == segment:
                    return [Run(p.track, p.first, p.first + p.count) for p in row.pieces]
        except PageGone:
            pass
        return []

    def _read(self) -> StreamReader:
        assert self._writer is not None
        if self._reader is None:
            self._reader = self._writer.reader()
        return self._reader

    def timescale(self, track: int) -> int:
        """Return a track's ticks a second; 0 if it is not known."""
        if track == INDEX_TRACK:
            return INDEX_TIMESCALE
        known = self.catalog.track(track) if self.catalog else None
        return known.timescale if known else 0

    def _time(self, track: int, dts: int) -> int:
        timescale = self.timescale(track)
        return dts * SECOND // timescale if timescale else 0

    def since_us(self) -> int:
        """Return the stream time from which on records are wanted."""
        newest = max((self._time(t, r.dts) for t, r in self._newest.items()), default=0)
        whole = (self.catalog.window_us if self.catalog else 0) + MARGIN_US // 2
        return newest - max(int(whole * self._share), min(whole, LEAST_US))

    def _note_newest(self, track: int, writer: StreamWriter) -> None:
        try:
            self._newest[track] = self._read().track(track).record(writer.head(track) - 1)
        except PageGone:
            self._newest.pop(track, None)

    def keep(self, share: float) -> int:
        """Keep and fetch so much of the window, 0 to 1; return the bytes that are freed by that."""
        less, self._share = share < self._share, share
        if not less or self._writer is None:
            return 0
        before = self._writer.bytes_held
        self._writer.evict(self.since_us() - MARGIN_US // 2)
        self._writer.drop_spares()
        return before - self._writer.bytes_held

    def evict(self, now: int) -> None:
        """Remove what has left the window, and epochs whose time is over."""
        if self._writer is not None:
            self._writer.evict(self.since_us() - MARGIN_US // 2)
        for old in [old for old in self._old if old.until_us <= now]:
            self._old.remove(old)
            self._discard(old.writer.epoch)

    def _discard(self, epoch: int) -> None:
        try:
            self._store.open(self.stream, epoch).remove()
        except (StoreFull, StreamBusy):
            self.tally.dropped["store_full"] += 1

    def wipe(self) -> None:
        """Delete what is held of the newest epoch."""
        if self._writer is not None:
            self._close_reader()
            self._writer.remove()
            self._writer = None
        self._newest.clear()
        self._drop_waiting()

    def drop_waiting(self) -> None:
        """Give up what waits."""
        self._drop_waiting()

    def _drop_waiting(self) -> None:
        self._waiting.clear()
        self._waiting_bytes = 0

    def _close_reader(self) -> None:
        if self._reader is not None:
            self._reader.close()
            self._reader = None

    def close(self) -> None:
        """Let go of the pages; they stay for the next process."""
        self._close_reader()
        if self._writer is not None:
            self._writer.close()
            self._writer = None

    def remove(self) -> None:
        """Delete everything."""
        self.wipe()
        for old in self._old:
            self._discard(old.writer.epoch)
        self._old.clear()
