"""The chain of pages of one track, as its writer keeps it."""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from common.errors import StoreFull
from common.track.page import Buffer, Disk, PageName, PageWriter, retire_page
from common.track.record import Flag, Record

PAGE_US = 4_000_000
"""Microseconds of media after which the next keyframe opens a new page."""

INDEX_PAGE_US = 30_000_000
"""The same for the index track, whose rows are few and small."""

FIRST_CAPACITY = 254
MIN_CAPACITY = 62
MAX_GUESS = 8_190
"""Records of a page: of the first one, and bounds of what is derived from the rate seen. The next
record opens a new page."""

MAX_SPARES = 2
"""Files of retired pages that are kept for the next ones. Two: when the older is used, a page has
passed since it was retired, and whoever read it has let go of it. Older ones are removed."""

_KEY = int(Flag.KEY)
_LOST = int(Flag.LOST)


@dataclass(slots=True)
class Held:
    """A sealed page."""

    path: Path
    first: int
    count: int
    size: int
    """Bytes it takes."""

    end: int
    """dts plus duration of its last record, in the track's timescale."""

    @property
    def stop(self) -> int:
        """The seq behind its last record."""
        return self.first + self.count


class Chain:
    """The pages of one track: sealed ones in order of seq, and the open one behind them."""

    __slots__ = ("_disk", "_folder", "_open", "_spares", "_start", "arena", "end", "head",
                 "page_ticks", "pages", "track")  # fmt: skip

    def __init__(self, folder: Path, track: int, disk: Disk, arena: int) -> None:
        self._folder = folder
        self._disk = disk
        self._open: PageWriter | None = None
        self._spares: list[tuple[Path, int]] = []
        self._start = 0  # dts of the open page's first record
        self.track = track
        self.arena = arena
        self.head = 0  # the next seq
        self.page_ticks = 0  # 0: not known yet, pages are sealed when they are full
        self.pages: list[Held] = []
        self.end = 0  # dts plus duration of the newest record

    @property
    def empty(self) -> bool:
        """Whether no record is held."""
        return self._open is None and not self.pages

    def adopt(self, pages: list[Held]) -> None:
        """Take over the sealed pages, in order, that a dead writer left."""
        self.pages = pages
        self.head = pages[-1].stop
        self.end = pages[-1].end

    @property
    def oldest(self) -> int:
        """The first seq held; the head if nothing is."""
        if self.pages:
            return self.pages[0].first
        return self._open.first if self._open is not None else 0

    def wants_page(self, record: Record, size: int) -> bool:
        """Whether the next page begins with this record."""
        page = self._open
        if page is None or not page.fits(size):
            return True
        return (
            self.page_ticks > 0
            and record.flags & (_KEY | _LOST) == _KEY
            and record.dts - self._start >= self.page_ticks
        )

    def next_capacity(self) -> int:
        """Return how many records the next page should have room for, from the rate seen."""
        page = self._open
        ticks = self.end - self._start
        if page is None or ticks <= 0 or not self.page_ticks:
            return FIRST_CAPACITY
        guess = page.count * self.page_ticks * 2 // ticks
        return max(MIN_CAPACITY, min(guess, MAX_GUESS))

    def begin(self, record: Record, size: int, capacity: int, serial: int) -> None:
        """Open a page that starts with ``record``; the one before is sealed.

        Raises:
            StoreFull: If there is no room for it; nothing has changed then.
        """
        if self._open is not None and not self._open.count:
            self.seal()  # it has the new one's name
        name = PageName(self.track, record.seq, serial)
        spare = self._spares.pop(0)[0] if len(self._spares) == MAX_SPARES else None
        page = PageWriter(self._folder, name, capacity, max(self.arena, size), self._disk, spare)
        self.seal()
        self._open = page
        self._start = record.dts
        self.head = record.seq

    def append(self, record: Record, payload: Buffer, size: int) -> Record:
        """Publish a record in the open page."""
        page = self._open
        assert page is not None
        stored = page.append(record, payload, size)
        self.head += 1
        if not record.flags & _LOST:
            self.end = record.dts + record.duration
        return stored

    def seal(self) -> None:
        """Seal the open page if there is one."""
        page = self._open
        if page is None:
            return
        self._open = None
        page.seal()
        if page.count:
            self.pages.append(Held(page.path, page.first, page.count, page.size, self.end))
        else:
            page.path.unlink(missing_ok=True)

    def skip(self, seq: int) -> None:
        """Go on at ``seq``: the open page ends, the next begins there."""
        self.seal()
        self.head = seq

    @property
    def size(self) -> int:
        """Bytes its pages take, retired ones too."""
        spares = sum(size for _, size in self._spares)
        open_size = self._open.size if self._open else 0
        return sum(page.size for page in self.pages) + spares + open_size

    @property
    def evictable(self) -> Held | None:
        """The oldest page, unless it is the newest one as well."""
        if self.pages and (len(self.pages) > 1 or self._open is not None):
            return self.pages[0]
        return None

    def evict(self) -> None:
        """Unlink the oldest page."""
        self.pages.pop(0).path.unlink(missing_ok=True)

    def retire(self) -> None:
        """Take the oldest page away, and keep its file for a later one."""
        page = self.pages.pop(0)
        with contextlib.suppress(FileNotFoundError):
            self._spares.append((retire_page(page.path), page.size))
        while len(self._spares) > MAX_SPARES:
            self._spares.pop(0)[0].unlink(missing_ok=True)

    def drop_spares(self) -> bool:
        """Unlink the files of retired pages; return whether there were any."""
        found = bool(self._spares)
        for path, _ in self._spares:
            path.unlink(missing_ok=True)
        self._spares.clear()
        return found

    def missing(self, first: int, stop: int) -> list[tuple[int, int]]:
        """Return the parts of ``first`` to ``stop`` that are not held and end before the head."""
        spans = [(page.first, page.stop) for page in self.pages]
        if self._open is not None:
            spans.append((self._open.first, max(stop, self.head)))
        elif self.pages or self.head:
            spans.append((self.head, max(stop, self.head)))
        found = []
        for start, end in spans:
            if first < min(start, stop):
                found.append((first, min(start, stop)))
            first = max(first, end)
        if first < stop:
            found.append((first, stop))
        return found

    def insert(self, run: Sequence[tuple[Record, Buffer]], serial: int) -> None:
        """Write one page of records that :meth:`missing` allows.

        Raises:
            StoreFull: If there is no room; nothing was stored then.
        """
        arena = sum(len(payload) for _, payload in run)
        first = run[0][0].seq
        name = PageName(self.track, first, serial)
        page = PageWriter(self._folder, name, len(run), arena, self._disk)
        end = run[0][0].dts
        try:
            for record, payload in run:
                page.append(record, payload, len(payload))
                if not record.flags & _LOST:
                    end = record.dts + record.duration
        except StoreFull:
            page.path.unlink(missing_ok=True)
            raise
        finally:
            page.seal()
        self.pages.append(Held(page.path, first, len(run), page.size, end))
        self.pages.sort(key=lambda held: held.first)
        if self._open is None and self.pages[-1].first == first:
            self.head = max(self.head, first + len(run))
            self.end = end


def split_run(
    run: Sequence[tuple[Record, Buffer]], arena: int
) -> list[Sequence[tuple[Record, Buffer]]]:
    """Cut a run into pieces that each fit into a page."""
    pieces: list[Sequence[tuple[Record, Buffer]]] = []
    start = taken = 0
    for index, (_, payload) in enumerate(run):
        if index > start and (taken + len(payload) > arena or index - start >= MAX_GUESS):
            pieces.append(run[start:index])
            start, taken = index, 0
        taken += len(payload)
    pieces.append(run[start:])
    return pieces
