"""The timelines of all tracks of one epoch, kept up with the pages it lies in.

Index rows are read all; of records only the newest few segments, because older segments are known
from their closed rows and packaged from the pages when somebody asks. Lost records are looked for
everywhere.
"""

import numpy as np

from common.errors import FormatError, PageGone
from common.formats.mp4_entries import CARRIED
from common.media.track import INDEX_TRACK
from common.track.catalog import Catalog
from common.track.index import Closed, Opened, Row, decode_row
from common.track.reader import StreamReader, TrackReader
from common.track.record import Flag
from common.wire.ranges import RangeSet
from edge.timeline import Timeline

RECENT = 4
"""Closed segments at the end of which the records are looked at."""

SCAN = 65_536
"""Records that are looked through for lost ones at a time."""

KEEP_WINDOWS = 2
"""Windows, and a minute, after which a segment is forgotten."""

Range = tuple[int, int]


class _Progress:
    """How far one track has been read."""

    __slots__ = ("generation", "head", "ranges")

    def __init__(self) -> None:
        self.generation = -1
        self.head = 0
        self.ranges = RangeSet()

    def news(self, reader: StreamReader, track: TrackReader) -> list[Range]:
        """Return the ranges that have come since, and take note of them."""
        head = track.head
        if self.generation == reader.generation:
            if head <= self.head:
                return []
            news = [(self.head, head)]
        else:
            news = self._missing(track)
        return news

    def done(self, reader: StreamReader, track: TrackReader, news: list[Range]) -> None:
        """Take note of what has been read; called only if all of it could be."""
        for first, stop in news:
            self.ranges.add(first, stop)
            self.head = max(self.head, stop)
        if not self._missing(track):
            self.generation = reader.generation

    def _missing(self, track: TrackReader) -> list[Range]:
        return [hole for run in track.runs() for hole in self.ranges.missing(*run)]


class Timelines:
    """What is known of all tracks of one epoch."""

    def __init__(self, reader: StreamReader) -> None:
        self.reader = reader
        self.tracks: dict[int, Timeline] = {}
        self.index_from_start = False
        """Whether no index row from before the oldest one exists."""
        self._rows: dict[int, Row] = {}
        self._progress: dict[int, _Progress] = {}
        self._newest = -1

    @property
    def catalog(self) -> Catalog:
        """The newest catalog."""
        return self.reader.catalog

    def update(self) -> None:
        """Read what has come into the pages since the last call."""
        for track in self.catalog.tracks:
            if track.codec in CARRIED and track.id not in self.tracks:
                timeline = self.tracks[track.id] = Timeline(track)
                for number in sorted(self._rows):
                    timeline.row(self._rows[number])
        self._read(INDEX_TRACK, None)
        for number, timeline in self.tracks.items():
            self._read(number, timeline)
        self._forget()

    def _read(self, number: int, timeline: Timeline | None) -> None:
        track = self.reader.track(number)
        progress = self._progress.setdefault(number, _Progress())
        news = progress.news(self.reader, track)
        if not news:
            return
        try:
            for first, stop in news:
                if timeline is None:
                    self._read_rows(track, first, stop)
                else:
                    self._read_media(track, timeline, first, stop)
        except PageGone:
            return  # evicted meanwhile: the next call sees what is held then
        progress.done(self.reader, track, news)

    def _read_rows(self, track: TrackReader, first: int, stop: int) -> None:
        if first == 0:
            self.index_from_start = True
        for record in track.records(first, stop):
            if record.lost:
                continue
            try:
                row = decode_row(track.payload(record, verify=True))
            except FormatError:
                continue  # as if it had been lost
            self._take_row(row)

    def _take_row(self, row: Row) -> None:
        number = row.segment if isinstance(row, Opened) else row.opened.segment
        if isinstance(self._rows.get(number), Closed):
            return
        self._rows[number] = row
        for timeline in self.tracks.values():
            timeline.row(row)

    def _read_media(self, track: TrackReader, timeline: Timeline, first: int, stop: int) -> None:
        recent = min(stop, max(first, self._recent_seq(timeline)))
        for start in range(first, recent, SCAN):
            end = min(recent, start + SCAN)
            lost = np.flatnonzero(track.array(start, end)["flags"] & int(Flag.LOST))
            if len(lost):
                timeline.lose(start + int(position) for position in lost)
        if recent < stop:
            timeline.extend(track.records(recent, stop))

    def _recent_seq(self, timeline: Timeline) -> int:
        """Return the seq from which on records are looked at one by one."""
        newest = timeline.newest
        if newest is None:
            return 0
        for number in range(newest - RECENT, newest + 1):
            segment = timeline.segment(number)
            if segment is not None and segment.closed and not segment.absent:
                return segment.first
        return 0

    def _forget(self) -> None:
        newest = max((t.newest or -1 for t in self.tracks.values()), default=-1)
        if newest == self._newest:
            return
        self._newest = newest
        opened = next((o for t in self.tracks.values() if (o := t.opened(newest))), None)
        if opened is None:
            return
        keep_us = opened.start_us - KEEP_WINDOWS * self.catalog.window_us - 60_000_000
        for timeline in self.tracks.values():
            timeline.forget_records(newest - RECENT)
            oldest = timeline.from_us(keep_us)
            if oldest is not None and oldest != timeline.oldest:
                timeline.forget(oldest)
                for number in [n for n in self._rows if n < oldest]:
                    del self._rows[number]
