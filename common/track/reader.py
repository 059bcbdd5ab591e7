"""Read the pages of one stream, from any process.

Nothing is copied or mapped before it is asked for. The writer's ``state`` words tell when the
folder has to be listed again; else a look at the head costs one read of the newest page's commit
counter. A page may go at any moment: :exc:`PageGone` is an ordinary answer.
"""

from bisect import bisect_right
from pathlib import Path

import numpy as np
import numpy.typing as npt

from common.errors import FormatError, PageGone, StreamNotFound
from common.media.track import INDEX_TRACK
from common.track.catalog import Catalog
from common.track.folder import CATALOG, State, folder_name
from common.track.index import Row, decode_row
from common.track.listing import RETRIES, Listing, Span
from common.track.record import RECORD_DTYPE, Flag, Record
from common.track.view import PageView


class StreamReader:
    """One epoch of a stream as a reader sees it."""

    def __init__(self, folder: Path, stream: str, epoch: int, state: State) -> None:
        """Use :meth:`open`."""
        self.stream = stream
        self.epoch = epoch
        self._folder = folder
        self._state = state
        self._catalog: Catalog | None = None
        self._catalogs_seen = -1
        self._tracks: dict[int, TrackReader] = {}
        self._pages = Listing(folder, state, self._forget)

    @classmethod
    def open(cls, root: Path, stream: str, epoch: int) -> "StreamReader":
        """Attach to a stream's folder.

        Raises:
            StreamNotFound: If there is none.
        """
        folder = root / folder_name(stream, epoch)
        reader = cls(folder, stream, epoch, State.view(folder))
        reader.refresh()
        return reader

    def close(self) -> None:
        """Drop all maps. A reader that is simply forgotten drops them as well."""
        self._pages.close()
        self._state.close()

    def _forget(self) -> None:
        for track in self._tracks.values():
            track.forget()

    @property
    def generation(self) -> int:
        """Counts how often pages were seen to have come or gone.

        Brought up to date by any look at a track; while it stays the same only heads have moved.
        """
        return self._pages.generation

    @property
    def catalog(self) -> Catalog:
        """The catalog as of the last :meth:`refresh`.

        Raises:
            StreamNotFound: If the writer has set none yet.
        """
        if self._catalog is None:
            raise StreamNotFound(f"{self.stream} has no catalog yet")
        return self._catalog

    def refresh(self) -> bool:
        """Read the catalog if it was replaced; return whether it was."""
        seen = self._state.catalogs
        if seen == self._catalogs_seen:
            return False
        try:
            catalog = Catalog.decode((self._folder / CATALOG).read_bytes())
        except (FileNotFoundError, FormatError):
            self._catalogs_seen = seen
            return False
        self._catalogs_seen = seen
        changed = catalog != self._catalog
        self._catalog = catalog
        return changed

    @property
    def replaced(self) -> bool:
        """Whether the folder has been removed and made anew: open it again to see what is there."""
        return self._state.replaced(self._folder)

    @property
    def removed(self) -> bool:
        """Whether the folder is gone."""
        return not self._folder.is_dir()

    def tracks(self) -> list[int]:
        """Return the tracks that hold records, the index track included."""
        self._pages.relist()
        return self._pages.tracks

    def track(self, number: int) -> "TrackReader":
        """Return the reader of a track; it holds nothing while the track has no records."""
        reader = self._tracks.get(number)
        if reader is None:
            reader = self._tracks[number] = TrackReader(self._pages, number)
        return reader

    def rows(self, from_seq: int = 0) -> list[tuple[int, Row]]:
        """Return the decoded index rows held from ``from_seq`` on, with their seqs."""
        return self.track(INDEX_TRACK).rows(from_seq)


class TrackReader:
    """One track of a stream. All calls see the newest state of the pages."""

    __slots__ = ("_page", "_pages", "number")

    def __init__(self, pages: Listing, number: int) -> None:
        self._pages = pages
        self._page: PageView | None = None
        self.number = number

    def forget(self) -> None:
        """Let go of the page used last. For :class:`StreamReader`."""
        self._page = None

    def _spans(self) -> list[Span]:
        """Return the held pages in order; the newest one's count is read from its page."""
        for _ in range(RETRIES):
            self._pages.relist()
            spans = self._pages.spans(self.number)
            if not spans or spans[-1].sealed:
                return spans
            try:
                spans[-1].count = self._pages.view(spans[-1]).refresh()
                return spans
            except PageGone:
                continue  # listed a moment ago: either it is damaged or the list is old
        return spans[:-1]

    def _page_of(self, seq: int) -> PageView:
        spans = self._spans()
        place = bisect_right(spans, seq, key=lambda span: span.first) - 1
        if place < 0 or seq >= spans[place].stop:
            raise PageGone(f"track {self.number}: record {seq} is not held")
        page = self._pages.view(spans[place])
        if seq - page.first >= page.count and seq - page.first >= page.refresh():
            raise PageGone(f"track {self.number}: record {seq} is not held")
        self._page = page
        return page

    def _page_for(self, seq: int) -> PageView:
        page = self._page
        if page is not None and 0 <= seq - page.first < page.count:
            return page
        return self._page_of(seq)

    @property
    def head(self) -> int:
        """The next seq; 0 if nothing is held."""
        spans = self._spans()
        return spans[-1].stop if spans else 0

    @property
    def oldest(self) -> int:
        """The first seq held; the head if nothing is."""
        spans = self._spans()
        return spans[0].first if spans else 0

    @property
    def contiguous_from(self) -> int:
        """The oldest seq from which everything up to the head is held."""
        runs = self.runs()
        return runs[-1][0] if runs else 0

    def runs(self) -> list[tuple[int, int]]:
        """Return the held ranges, (first, stop), in order."""
        runs: list[tuple[int, int]] = []
        for span in self._spans():
            if not span.count:
                continue
            if runs and runs[-1][1] == span.first:
                runs[-1] = (runs[-1][0], span.stop)
            else:
                runs.append((span.first, span.stop))
        return runs

    def record(self, seq: int) -> Record:
        """Return one record.

        Raises:
            PageGone: If it is not held.
        """
        page = self._page
        if page is None or not 0 <= seq - page.first < page.count:
            page = self._page_of(seq)
        return page.record(seq - page.first)

    def payload(self, record: Record | int, *, verify: bool = False) -> bytes:
        """Return a copy of the payload of a record, which may be given by its seq.

        Raises:
            PageGone: If it is not held; :exc:`PageCorrupt`, one of these, if it is damaged
                (its crc32 is looked at with ``verify``).
        """
        seq = record if isinstance(record, int) else record.seq
        page = self._page_for(seq)
        # The record is read again: the page may be another than the one it was once read from.
        return page.payload(page.record(seq - page.first), verify)

    def _pieces(self, first: int, stop: int) -> list[tuple[PageView, int, int]]:
        pieces = []
        while first < stop:
            page = self._page_for(first)
            if page.first + page.count < stop:
                page.refresh()
            end = min(stop, page.first + page.count)
            pieces.append((page, first - page.first, end - page.first))
            first = end
        return pieces

    def records(self, first: int, stop: int) -> list[Record]:
        """Return the records ``first`` to ``stop``.

        Raises:
            PageGone: If one of them is not held.
        """
        found: list[Record] = []
        for page, start, end in self._pieces(first, stop):
            found += page.records(start, end)
        return found

    def array(self, first: int, stop: int) -> npt.NDArray[np.void]:
        """Return the records ``first`` to ``stop`` as a structured array (``RECORD_DTYPE``).

        Raises:
            PageGone: If one of them is not held.
        """
        parts = [page.array(start, end) for page, start, end in self._pieces(first, stop)]
        if len(parts) == 1:
            return parts[0]
        return np.concatenate(parts) if parts else np.empty(0, RECORD_DTYPE)

    def payloads(self, first: int, stop: int, *, verify: bool = False) -> list[bytes]:
        """Return copies of the payloads of the records ``first`` to ``stop``.

        Raises:
            PageGone: If one of them is not held, or damaged (as :meth:`payload`).
        """
        found: list[bytes] = []
        for page, start, end in self._pieces(first, stop):
            found += page.payloads(start, end, verify)
        return found

    def joined(self, first: int, stop: int, *, verify: bool = False) -> bytes:
        """Return the payloads of the records ``first`` to ``stop`` in one piece, copied once.

        Raises:
            PageGone: If one of them is not held, or damaged (as :meth:`payload`).
        """
        pieces = [page.joined(start, end, verify) for page, start, end in self._pieces(first, stop)]
        return pieces[0] if len(pieces) == 1 else b"".join(pieces)

    def rows(self, from_seq: int = 0) -> list[tuple[int, Row]]:
        """Return the index rows held from ``from_seq`` on, with their seqs; lost ones are left out.

        Raises:
            FormatError: If one of them is not an index row.
        """
        found = []
        for first, stop in self.runs():
            first = max(first, from_seq)
            for record in self.records(first, stop) if first < stop else ():
                if not record.lost:
                    data = self.payload(record, verify=True)
                    found.append((record.seq, decode_row(data)))
        return found

    def _search(self, first: int, stop: int, column: str, value: int) -> int:
        """Return the first seq in a held run whose column is at or above ``value``, or ``stop``."""
        low, high = first, stop
        while low < high:
            middle = (low + high) // 2
            if getattr(self.record(middle), column) < value:
                low = middle + 1
            else:
                high = middle
        return low

    def _first_at(self, column: str, value: int) -> int | None:
        """Return the first held seq whose column is at or above ``value``."""
        for first, stop in self.runs():
            seq = self._search(first, stop, column, value)
            if seq < stop:
                return seq
        return None

    def first_of_segment(self, segment: int) -> int | None:
        """Return the seq of the first held record of a segment, ``None`` if none is held."""
        seq = self._first_at("segment", segment)
        return seq if seq is not None and self.record(seq).segment == segment else None

    def first_of_part(self, part: int) -> int | None:
        """Return the seq of the first held record of a part, ``None`` if none is held."""
        seq = self._first_at("part", part)
        return seq if seq is not None and self.record(seq).part == part else None

    def first_from_segment(self, segment: int) -> int | None:
        """Return the seq of the first held record of a segment or any later one."""
        return self._first_at("segment", segment)

    def first_held(self, seq: int) -> int | None:
        """Return the first held seq at or after ``seq``, ``None`` if nothing is held there."""
        for first, stop in self.runs():
            if seq < stop:
                return max(first, seq)
        return None

    def keyframe_at_or_before(self, seq: int) -> int | None:
        """Return the newest held keyframe up to ``seq``, ``None`` if none is held."""
        for first, stop in reversed(self.runs()):
            if first <= seq:
                found = self._keyframe(first, min(seq + 1, stop), newest=True)
                if found is not None:
                    return found
        return None

    def keyframe_at_or_after(self, seq: int) -> int | None:
        """Return the oldest held keyframe from ``seq`` on, ``None`` if none is held."""
        for first, stop in self.runs():
            if seq < stop:
                found = self._keyframe(max(first, seq), stop, newest=False)
                if found is not None:
                    return found
        return None

    def _keyframe(self, first: int, stop: int, *, newest: bool) -> int | None:
        pieces = self._pieces(first, stop)
        for page, start, end in reversed(pieces) if newest else pieces:
            flags = page.array(start, end)["flags"]
            keys = np.flatnonzero((flags & (Flag.KEY | Flag.LOST)) == Flag.KEY)
            if len(keys):
                return page.first + start + int(keys[-1 if newest else 0])
        return None
