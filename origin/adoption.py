"""What an origin reads from the pages of its earlier run, to go on where that one stopped."""

from collections.abc import Sequence
from dataclasses import dataclass

from common.media.track import INDEX_TRACK
from common.track.catalog import Catalog
from common.track.index import Closed, Opened, Row
from common.track.record import Record
from common.track.store import StreamReader, StreamWriter

SECOND_US = 1_000_000

REORDERED = 16
"""Records before an open segment that are read too: their presentation times may be later."""


@dataclass(frozen=True, slots=True)
class Adopted:
    """The end of what the pages hold."""

    catalog: Catalog
    rows: list[Row]
    row_head: int
    tails: dict[int, list[Record]]
    """Per track its records of segments without a closed row, or at least the last one."""

    @property
    def opened(self) -> Opened:
        """The newest segment."""
        rows = [row for row in self.rows if isinstance(row, Opened)]
        rows += [row.opened for row in self.rows if isinstance(row, Closed)]
        return max(rows, key=lambda row: row.segment)  # of equal ones the first

    @property
    def whole(self) -> bool:
        """Whether all records are there that belong to segments without a closed row."""
        lost = any(record.lost for records in self.tails.values() for record in records)
        newest = max((records[-1].segment for records in self.tails.values()), default=0)
        return not lost and newest <= self.opened.segment

    @property
    def open(self) -> bool:
        """Whether the newest segment is not closed: its owner was in the middle of it."""
        newest = self.opened.segment
        return not any(isinstance(r, Closed) and r.opened.segment == newest for r in self.rows)

    @property
    def end_us(self) -> int:
        """The stream time at which the last record ends."""
        scales = {track.id: track.timescale for track in self.catalog.tracks}
        last = ((number, records[-1]) for number, records in self.tails.items())
        ends = ((r.dts + r.duration) * SECOND_US // scales[number] for number, r in last)
        return max(ends, default=-1)

    @property
    def ingest_us(self) -> int:
        """When the last record came, Unix microseconds."""
        return max((records[-1].ingest_us for records in self.tails.values()), default=0)


def read_pages(writer: StreamWriter) -> Adopted | None:
    """Return what an epoch's pages hold; None if they cannot be gone on with."""
    catalog = writer.catalog
    if catalog is None:
        return None
    reader = writer.reader()
    try:
        rows = [row for _, row in reader.rows()]
        heads = {track.id: writer.head(track.id) for track in catalog.tracks}
        if not rows or not _complete(rows, heads):
            return None
        closed = max((row.opened.segment for row in rows if isinstance(row, Closed)), default=-1)
        tails = {
            number: _tail(reader, number, closed + 1) for number, head in heads.items() if head
        }
        return Adopted(catalog, rows, writer.head(INDEX_TRACK), tails)
    finally:
        reader.close()


def _tail(reader: StreamReader, number: int, segment: int) -> list[Record]:
    """Return the records of a track from ``segment`` on, or its last one, and a few before."""
    track = reader.track(number)
    head = track.head
    first = track.first_from_segment(segment)
    start = head - 1 if first is None else first
    return track.records(max(start - REORDERED, min(start, track.contiguous_from)), head)


def _complete(rows: Sequence[Row], heads: dict[int, int]) -> bool:
    """Whether the pages still hold what the rows say was written."""
    pieces = [piece for row in rows if isinstance(row, Closed) for piece in row.pieces]
    return all(piece.first + piece.count <= heads.get(piece.track, 0) for piece in pieces)
