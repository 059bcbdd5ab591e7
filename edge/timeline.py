"""What one track is made of, segment by segment and part by part, from its records and the index.

Pure and order-independent: records may come in any runs, newest first or last, rows before or
after them, and the answer depends only on what has come. Everything that packages or lists media
in segments reads it from here, so that playlists, manifests and objects agree.

A segment is known from its closed row alone (old segments of which no record was read), from its
records alone (the newest ones), or from both. A record that this node never got leaves a hole:
parts are known up to the hole, and a segment around one is ``lost``.
"""

from bisect import bisect_left, insort
from collections.abc import Iterable

from common.media.track import Track
from common.track.index import CONTIGUOUS_US, INDEX_TIMESCALE, Closed, Opened, Piece, Row
from common.track.record import Flag, Record
from edge.segments import Segment, Span

_LOST = int(Flag.LOST)


class Timeline:
    """The segments and parts of one track in one epoch."""

    def __init__(self, track: Track) -> None:
        self.track = track
        self.version = 0
        """Counts what can be seen from outside: parts that become complete, segments, rows."""
        self._opened: dict[int, Opened] = {}
        self._closed: dict[int, Closed] = {}
        self._pieces: dict[int, Piece] = {}
        self._piece_stops: set[int] = set()
        self._numbers: list[int] = []
        self._spans: dict[int, list[Span]] = {}
        self._by_first: dict[int, Span] = {}
        self._by_stop: dict[int, Span] = {}
        self._lost: list[int] = []
        self._views: dict[int, Segment] = {}

    # What comes in.

    def row(self, row: Row) -> None:
        """Take an index row."""
        opened = row if isinstance(row, Opened) else row.opened
        number = opened.segment
        if number not in self._opened:
            insort(self._numbers, number)
            self._opened[number] = opened
        if isinstance(row, Closed):
            self._closed[number] = row
            piece = row.piece(self.track.id)
            if piece is not None:
                self._pieces[number] = piece
                self._piece_stops.add(piece.first + piece.count)
        self._touch(number)

    def extend(self, records: Iterable[Record]) -> None:
        """Take records: a run that follows, comes before, or has nothing to do with the others."""
        for record in records:
            if record.flags & _LOST:
                self.lose((record.seq,))
            elif not self._has(record.segment, record.seq):
                self._add(record)

    def lose(self, seqs: Iterable[int]) -> None:
        """Note records that this node never got and never will."""
        for seq in seqs:
            place = bisect_left(self._lost, seq)
            if place == len(self._lost) or self._lost[place] != seq:
                self._lost.insert(place, seq)
        self.version += 1
        self._views.clear()

    def forget_records(self, before: int) -> None:
        """Drop what was read of records of segments below ``before``; their rows stay."""
        self._drop([n for n in self._spans if n < before and n in self._closed])

    def forget(self, before: int) -> None:
        """Drop all about segments below ``before``."""
        self._drop([n for n in self._spans if n < before])
        keep = bisect_left(self._numbers, before)
        for number in self._numbers[:keep]:
            del self._opened[number]
            self._closed.pop(number, None)
            self._views.pop(number, None)
            piece = self._pieces.pop(number, None)
            if piece is not None:
                self._piece_stops.discard(piece.first + piece.count)
        del self._numbers[:keep]
        self.version += 1

    def _drop(self, numbers: Iterable[int]) -> None:
        for number in numbers:
            for span in self._spans.pop(number):
                del self._by_first[span.first], self._by_stop[span.stop]
            self._views.pop(number, None)

    def _has(self, segment: int, seq: int) -> bool:
        return any(span.first <= seq < span.stop for span in self._spans.get(segment, ()))

    def _add(self, record: Record) -> None:
        seq, segment = record.seq, record.segment
        span = self._by_stop.get(seq)
        if span is not None and span.segment == segment:
            del self._by_stop[seq]
            visible = span.add(record)
        else:
            span = self._by_first[seq] = Span(record)
            spans = self._spans.setdefault(segment, [])
            insort(spans, span, key=lambda one: one.first)
            visible = True
        later = self._by_first.get(seq + 1)
        if later is not None and later.segment == segment:
            del self._by_first[later.first], self._by_stop[later.stop]
            self._spans[segment].remove(later)
            span.join(later)
            visible = True
        self._by_stop[span.stop] = span
        if visible or segment in self._closed:
            self._touch(segment)

    def _touch(self, number: int) -> None:
        self.version += 1
        self._views.pop(number, None)

    # What can be asked.

    @property
    def newest(self) -> int | None:
        """The number of the newest segment that an index row speaks of."""
        return self._numbers[-1] if self._numbers else None

    @property
    def oldest(self) -> int | None:
        """The number of the oldest segment that an index row speaks of."""
        return self._numbers[0] if self._numbers else None

    def opened(self, number: int) -> Opened | None:
        """Return where a segment starts, if a row has said it."""
        return self._opened.get(number)

    def closed(self, number: int) -> Closed | None:
        """Return the closed row of a segment."""
        return self._closed.get(number)

    def segment(self, number: int) -> Segment | None:
        """Return what is known; None if no row speaks of it or its start is not known yet."""
        view = self._views.get(number)
        if view is None:
            view = self._view(number)
            # Only what a closed row speaks of stays as it is until more comes for it.
            if view is not None and number in self._closed:
                self._views[number] = view
        return view

    def from_us(self, start_us: int) -> int | None:
        """Return the number of the first segment that starts at ``start_us`` or later."""
        place = bisect_left(self._numbers, start_us, key=lambda n: self._opened[n].start_us)
        return self._numbers[place] if place < len(self._numbers) else None

    def with_part(self, part: int) -> Segment | None:
        """Return the segment that a part belongs to, as far as known."""
        low, high = 0, len(self._numbers)
        # Part numbers rise with segment numbers; a segment without records here has none.
        while low < high:
            middle = (low + high) // 2
            found = self._first_part_from(middle, high)
            if found is None or found[1].first_part > part:
                high = middle
            else:
                low = found[0] + 1
        segment = self._last_present(low)
        if segment is not None and part < segment.first_part + segment.part_count:
            return segment
        return None

    def _first_part_from(self, place: int, stop: int) -> tuple[int, Segment] | None:
        for index in range(place, stop):
            segment = self.segment(self._numbers[index])
            if segment is not None and not segment.absent:
                return index, segment
        return None

    def _last_present(self, stop: int) -> Segment | None:
        for index in range(stop - 1, -1, -1):
            segment = self.segment(self._numbers[index])
            if segment is not None and not segment.absent:
                return segment
        return None

    def _view(self, number: int) -> Segment | None:
        opened = self._opened.get(number)
        if opened is None:
            return None
        piece = self._pieces.get(number)
        if piece is not None:
            return self._from_piece(opened, piece)
        if number in self._closed:
            return self._nothing(opened, self._closed[number].duration_us)
        return self._from_records(opened) or self._unknown(opened)

    def _from_piece(self, opened: Opened, piece: Piece) -> Segment:
        stop = piece.first + piece.count
        place = bisect_left(self._lost, piece.first)
        lost = place < len(self._lost) and self._lost[place] < stop
        span = self._by_first.get(piece.first)
        whole = span is not None and span.stop == stop
        return Segment(
            number=opened.segment,
            opened=opened,
            first=piece.first,
            count=piece.count,
            start=piece.start,
            duration=piece.duration,
            init=piece.init,
            size=piece.size,
            first_part=piece.first_part,
            part_count=piece.parts,
            parts=span.complete(whole) if span is not None else (),
            key=piece.key,
            lost=lost,
        )

    def _from_records(self, opened: Opened) -> Segment | None:
        spans = self._spans.get(opened.segment)
        if not spans or not self._begins(spans[0]):
            return None
        span = spans[0]
        duration = self._derived_duration(span)
        parts = span.complete(duration is not None or self._left(span))
        return Segment(
            number=opened.segment,
            opened=opened,
            first=span.first,
            count=parts[-1].first + parts[-1].count - span.first if parts else 0,
            start=span.start,
            duration=duration,
            init=span.init,
            size=sum(part.size for part in parts),
            first_part=span.parts[0].number,
            part_count=len(parts),
            parts=parts,
            key=span.key,
        )

    def _begins(self, span: Span) -> bool:
        """Whether a run is known to begin with the first record of its segment."""
        before = self._by_stop.get(span.first)
        return span.first == 0 or before is not None or span.first in self._piece_stops

    def _left(self, span: Span) -> bool:
        return span.stop in self._by_first

    def _derived_duration(self, span: Span) -> int | None:
        """Return the duration where the next segment's first record tells it for sure.

        Across a break or a pause the origin may count otherwise: there the closed row decides.
        """
        later = self._by_first.get(span.stop)
        if later is None or later.segment != span.segment + 1 or later.breaks:
            return None
        near = CONTIGUOUS_US * self.track.timescale // INDEX_TIMESCALE
        if abs(later.start - span.parts[-1].end) > min(span.last_duration, near):
            return None
        return later.start - span.start

    def _unknown(self, opened: Opened) -> Segment | None:
        """Return a segment whose index row is lost for good: a later one is closed already."""
        later, after = opened.segment + 1, self._opened.get(opened.segment + 1)
        if after is None or later not in self._closed:
            return None
        return self._nothing(opened, after.start_us - opened.start_us, lost=True)

    def _nothing(self, opened: Opened, duration_us: int, *, lost: bool = False) -> Segment:
        scale = self.track.timescale
        return Segment(
            number=opened.segment,
            opened=opened,
            first=0,
            count=0,
            start=opened.start_us * scale // INDEX_TIMESCALE,
            duration=max(1, duration_us * scale // INDEX_TIMESCALE),
            init=0,
            size=0,
            first_part=0,
            part_count=0,
            parts=(),
            key=False,
            lost=lost,
            absent=True,
        )
