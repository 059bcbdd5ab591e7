"""Write the pages of one stream; the readers of the same pages are offered here as well.

A stream's folder has one writer (the origin's process, or an edge's stream worker), which outlives
nothing: killed at any moment, it leaves pages that readers go on reading and that the next writer
adopts.
"""

import os
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TypeVar

from common.errors import FormatError, StoreFull
from common.media.track import INDEX_TRACK
from common.track.adopt import Adoption, adopt
from common.track.board import Board
from common.track.catalog import MAX_CATALOG, Catalog
from common.track.chain import INDEX_PAGE_US, PAGE_US, Chain, split_run
from common.track.folder import CATALOG, State, folder_name, streams_under
from common.track.index import INDEX_TIMESCALE
from common.track.limits import Budget, Limits
from common.track.page import MAX_PAYLOAD, Buffer, Disk, PageWriter, table_size
from common.track.reader import StreamReader, TrackReader
from common.track.record import Record
from common.track.view import PageCorrupt

T = TypeVar("T")

MIN_ARENA = 64 * 1024
ARENA_SHARE = 16
"""A page's arena is at most this part of what a stream may hold, so that eviction has pages."""

__all__ = [
    "Adoption",
    "Budget",
    "Limits",
    "PageCorrupt",
    "PageWriter",
    "StreamReader",
    "StreamWriter",
    "TrackReader",
    "streams_under",
]


class StreamWriter:
    """The one writer of one epoch of a stream."""

    def __init__(
        self, root: Path, stream: str, epoch: int, limits: Limits, board: Board, disk: Disk
    ) -> None:
        """Use :meth:`open`."""
        self.stream = stream
        self.epoch = epoch
        self.catalog: Catalog | None = None
        """The newest catalog, an adopted one included."""

        self.adoption = Adoption()
        """What was found in the folder when it was opened."""

        self._root = root
        self._folder = root / folder_name(stream, epoch)
        self._limits = limits
        self._budget = limits.budget
        self._board = board
        self._disk = disk
        self._chains: dict[int, Chain] = {}
        self._bytes = 0
        self._state = State.lock(self._folder)
        self._slot = -1

    @classmethod
    def open(
        cls,
        root: Path,
        stream: str,
        epoch: int,
        limits: Limits,
        *,
        board: Board | None = None,
        disk: Disk | None = None,
    ) -> "StreamWriter":
        """Become the writer of a stream's folder and adopt what is in it.

        Args:
            root: The node's page folder.
            stream: Name of the stream.
            epoch: Its numbering.
            limits: What the pages may take; share one ``budget`` among all streams.
            board: The root's counter board, to share one map among all streams.
            disk: How pages reach the disk.

        Raises:
            StreamBusy: If another process writes there.
            StoreFull: If there is no room, or no slot on the board.
        """
        board = board if board is not None else Board.create(root)
        writer = cls(root, stream, epoch, limits, board, disk or Disk())
        try:
            writer._slot = board.claim(stream, epoch)
        except StoreFull:
            writer._state.close()
            raise
        writer._adopt()
        writer._budget.join(writer)
        return writer

    @staticmethod
    def existing(root: Path) -> list[tuple[str, int]]:
        """Return every (stream, epoch) with a folder under ``root``."""
        return streams_under(root)

    def _adopt(self) -> None:
        tracks, self.adoption = adopt(self._folder)
        for number, pages in tracks.items():
            self._chain(number).adopt(pages)
        path = self._folder / CATALOG
        try:
            self.catalog = Catalog.decode(path.read_bytes())
        except FileNotFoundError:
            self.catalog = None
        except FormatError as error:
            self.adoption.dropped.append(f"{CATALOG}: {error}")
            path.unlink(missing_ok=True)
        self._set_page_ticks()
        self._bytes = sum(chain.size for chain in self._chains.values())
        self._state.bump_pages()
        self._state.bump_catalogs()
        self._board.bump(self._slot)

    @property
    def slot(self) -> int:
        """Its slot on the board."""
        return self._slot

    @property
    def bytes_held(self) -> int:
        """Bytes its pages take."""
        return self._bytes

    def limit(self, bytes_per_stream: int) -> None:
        """Let the pages take so many bytes from now on."""
        self._limits = replace(self._limits, bytes_per_stream=bytes_per_stream)

    def set_catalog(self, catalog: Catalog) -> None:
        """Replace the catalog, for readers at one stroke.

        Where the disk is full, the oldest pages of the process's biggest stream go for it.

        Raises:
            StoreFull: If there is no room for it; the old one stays.
            ValueError: If it is larger than any reader accepts.
        """
        data = catalog.encode()
        if len(data) > MAX_CATALOG:
            raise ValueError(f"a catalog of {len(data)} bytes")
        self._insist(partial(self._write_catalog, data))
        self.catalog = catalog
        self._set_page_ticks()
        self._state.bump_catalogs()
        self._board.bump_catalog(self._slot)

    def _write_catalog(self, data: bytes) -> None:
        scratch = self._folder / f".{CATALOG}"
        try:
            scratch.write_bytes(data)
            scratch.chmod(0o600)
            scratch.rename(self._folder / CATALOG)
        except OSError as error:
            scratch.unlink(missing_ok=True)
            raise StoreFull(f"no room for a catalog: {error.strerror}") from error

    def _set_page_ticks(self) -> None:
        for number, chain in self._chains.items():
            length = INDEX_PAGE_US if number == INDEX_TRACK else PAGE_US
            chain.page_ticks = length * self._timescale(number) // 1_000_000

    def _timescale(self, number: int) -> int:
        """Return a track's timescale, 0 while the catalog does not have it."""
        if number == INDEX_TRACK:
            return INDEX_TIMESCALE
        track = self.catalog.track(number) if self.catalog is not None else None
        return track.timescale if track is not None else 0

    def _chain(self, number: int) -> Chain:
        chain = self._chains.get(number)
        if chain is None:
            share = self._limits.bytes_per_stream // ARENA_SHARE
            arena = min(max(share, MIN_ARENA), MAX_PAYLOAD)
            chain = Chain(self._folder, number, self._disk, arena)
            self._chains[number] = chain
            self._set_page_ticks()
        return chain

    def tracks(self) -> list[int]:
        """Return the tracks that hold records."""
        return sorted(number for number, chain in self._chains.items() if not chain.empty)

    def head(self, track: int) -> int:
        """Return the next seq of a track; 0 if nothing of it is held."""
        chain = self._chains.get(track)
        return chain.head if chain is not None else 0

    def oldest(self, track: int) -> int:
        """Return the first seq held of a track; its head if nothing is."""
        chain = self._chains.get(track)
        return chain.oldest if chain is not None else 0

    def append(self, track: int, record: Record, payload: Buffer) -> Record:
        """Publish the next record of a track; return it as stored.

        ``offset`` and ``size`` are set, and ``crc32`` is computed where it is 0. The first record
        of a track may have any seq. A gap is filled with lost records, or left by :meth:`skip`.
        Where the disk is full, the oldest pages of the process's biggest stream go for it.

        Raises:
            StoreFull: If there is no room for it; nothing was published, the call may be repeated.
            ValueError: If its seq is not the head's, its payload larger than ``MAX_PAYLOAD`` or a
                field out of range; nothing was published.
        """
        size = len(payload)
        chain = self._chains.get(track) or self._chain(track)
        if record.seq != chain.head and not chain.empty:
            raise ValueError(f"track {track}: seq {record.seq} at head {chain.head}")
        if size > MAX_PAYLOAD:
            raise ValueError(f"track {track}: a payload of {size} bytes")
        if chain.wants_page(record, size):
            self._begin_page(chain, record, size)
        if self._bytes + size > self._limits.bytes_per_stream or (
            self._budget.used + size > self._budget.total
        ):
            self._make_room(size)
        try:
            stored = chain.append(record, payload, size)
        except StoreFull:
            stored = self._insist(partial(chain.append, record, payload, size))
        self._bytes += size
        self._budget.used += size
        self._board.bump(self._slot)
        return stored

    def _begin_page(self, chain: Chain, record: Record, size: int) -> None:
        if self._limits.window_us:
            self.evict(self._newest_us() - self._limits.window_us)
        capacity = chain.next_capacity()
        self._make_room(table_size(capacity) + size)
        self._insist(partial(chain.begin, record, size, capacity, self._state.pages))
        self._recount()
        self._state.bump_pages()

    def _insist(self, write: Callable[[], T]) -> T:
        """Write; where the disk is full, give up the oldest pages until it succeeds.

        Raises:
            StoreFull: If nothing is left that could be given up.
        """
        while True:
            try:
                return write()
            except StoreFull:  # of the disk; the oldest page may be a small one
                if not self._budget.evict_oldest():
                    raise

    def _recount(self) -> None:
        """Bring the bytes held up to date after pages came or went."""
        held = sum(chain.size for chain in self._chains.values())
        self._budget.used += held - self._bytes
        self._bytes = held

    def _make_room(self, size: int) -> None:
        while self._bytes + size > self._limits.bytes_per_stream:
            if not self.evict_oldest():
                raise StoreFull(
                    f"{self.stream} may take {self._limits.bytes_per_stream} bytes and these are "
                    "taken by the newest page of every track"
                )
        if self._budget.used + size > self._budget.total:
            self._budget.make_room(size)

    def skip(self, track: int, seq: int) -> None:
        """Let a track go on at a later seq; what lies between is not held (and may be inserted).

        Raises:
            ValueError: If ``seq`` is below the head.
        """
        chain = self._chain(track)
        if seq < chain.head:
            raise ValueError(f"track {track}: cannot skip back to {seq} from {chain.head}")
        chain.skip(seq)
        self._recount()
        self._state.bump_pages()

    def insert(self, track: int, run: Sequence[tuple[Record, Buffer]]) -> int:
        """Store an older run of records; return how many of them were not held yet.

        What is held already, and what lies at or behind the head, is left out. The rest becomes
        sealed pages. Nothing newer is evicted for it.

        Raises:
            StoreFull: If there is no room for it; a first part of it may have been stored.
            ValueError: If the seqs are not contiguous or a payload is larger than ``MAX_PAYLOAD``.
        """
        if not run:
            return 0
        first = run[0][0].seq
        for index, (record, payload) in enumerate(run):
            if record.seq != first + index or len(payload) > MAX_PAYLOAD:
                raise ValueError(f"track {track}: record {record.seq} cannot stand in this run")
        chain = self._chain(track)
        stored = 0
        try:
            for start, stop in chain.missing(first, first + len(run)):
                for piece in split_run(run[start - first : stop - first], MAX_PAYLOAD):
                    self._insert_page(chain, piece)
                    stored += len(piece)
        finally:
            if stored:
                self._state.bump_pages()
                self._board.bump(self._slot)
        return stored

    def _insert_page(self, chain: Chain, piece: Sequence[tuple[Record, Buffer]]) -> None:
        size = table_size(len(piece)) + sum(len(payload) for _, payload in piece)
        if (
            self._bytes + size > self._limits.bytes_per_stream
            or self._budget.used + size > self._budget.total
        ):
            raise StoreFull(f"no room for older records of {self.stream}")
        chain.insert(piece, self._state.pages)
        self._recount()

    def reader(self) -> StreamReader:
        """Return a reader of the same folder."""
        return StreamReader.open(self._root, self.stream, self.epoch)

    def _end_us(self, chain: Chain, end: int) -> int:
        timescale = self._timescale(chain.track)
        return end * 1_000_000 // timescale if timescale else 0

    def _newest_us(self) -> int:
        return max((self._end_us(chain, chain.end) for chain in self._chains.values()), default=0)

    def evict(self, before_us: int) -> None:
        """Retire the oldest pages whose last record ends at or before this stream time."""
        evicted = False
        for chain in self._chains.values():
            if not self._timescale(chain.track):
                continue
            while (page := chain.evictable) and self._end_us(chain, page.end) <= before_us:
                chain.retire()
                evicted = True
        if evicted:
            self._evicted()

    def drop_spares(self) -> bool:
        """Give back the memory of retired pages; return whether there were any."""
        found = [chain.drop_spares() for chain in self._chains.values()]
        self._recount()
        return any(found)

    def evict_oldest(self) -> bool:
        """Give back the memory of retired pages, or that of the page that ends first.

        False if each track has but its newest page left.
        """
        if self.drop_spares():
            return True
        oldest: tuple[int, Chain] | None = None
        for chain in self._chains.values():
            page = chain.evictable
            if page is not None:
                end = self._end_us(chain, page.end)
                if oldest is None or end < oldest[0]:
                    oldest = (end, chain)
        if oldest is None:
            return False
        oldest[1].evict()
        self._evicted()
        return True

    def _evicted(self) -> None:
        self._recount()
        self._state.bump_pages()
        self._board.bump(self._slot)

    def close(self) -> None:
        """Seal the open pages and let another writer in. The pages stay."""
        if self._slot < 0:
            return
        for chain in self._chains.values():
            chain.seal()
            chain.drop_spares()
        self._state.bump_pages()
        self._board.bump(self._slot)
        self._budget.leave(self)
        self._state.close()
        self._slot = -1

    def remove(self) -> None:
        """Delete the stream's folder. Readers see that nothing is held any more."""
        if self._slot < 0:
            return
        self._budget.leave(self)
        for chain in self._chains.values():
            chain.seal()
        os.unlink(self._folder / "state")
        shutil.rmtree(self._folder, ignore_errors=True)
        self._state.bump_pages()
        self._state.bump_catalogs()
        self._board.release(self.stream, self.epoch)
        self._state.close()
        self._slot = -1
