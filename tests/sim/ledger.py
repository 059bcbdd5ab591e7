"""The books of a simulation: what was published, what each edge holds, and whether they agree."""

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from common.errors import PageGone
from common.media.track import INDEX_TRACK
from common.track.index import Opened, Row, decode_row
from common.track.reader import StreamReader, TrackReader
from common.track.record import Flag, Record
from edge.packager import Packager
from edge.timelines import Timelines
from tests.sim.encoder import frame_id
from tests.sim.nodes import STREAM, EdgeHost

TRACKS = (INDEX_TRACK, 1, 2)
LOST = int(Flag.LOST)
Place = tuple[int, int, int]
"""Epoch, track, seq or number."""


@dataclass
class Viewer:
    """What somebody at an edge has read so far."""

    edge: EdgeHost
    reader: StreamReader | None = None
    timelines: Timelines | None = None
    read: dict[int, int] = field(default_factory=dict)
    """Next seq of each track."""


@dataclass
class Ledger:
    """Everything that was seen, by whom."""

    two_owners: bool = False
    """Whether two origins may publish at once for a while: what their clocks say may differ."""
    problems: list[str] = field(default_factory=list)
    records: dict[Place, tuple[Record, int]] = field(default_factory=dict)
    """The first copy of each record that anybody saw, and a hash of its payload."""
    objects: dict[tuple[int, int, str, int], tuple[str, str]] = field(default_factory=dict)
    """SHA-256 of each object, and the edge that served it first."""
    viewers: dict[str, Viewer] = field(default_factory=dict)

    def problem(self, text: str) -> None:
        """Write down what must not be."""
        if text not in self.problems:
            self.problems.append(text)

    def look(self, edge: EdgeHost) -> None:
        """Read what has come into an edge's pages, as a viewer does."""
        mirror = edge.mirrors.peek(STREAM) if edge.mirrors is not None else None
        if mirror is None:
            return
        viewer = self.viewers.setdefault(edge.name, Viewer(edge))
        if mirror.reader is not viewer.reader:
            viewer.reader, viewer.timelines = mirror.reader, Timelines(mirror.reader)
            viewer.read = {}
        for track in TRACKS:
            self._read(viewer, track)
        self._package(viewer, newest=1)

    def _read(self, viewer: Viewer, number: int) -> None:
        assert viewer.reader is not None
        track = viewer.reader.track(number)
        try:
            runs = track.runs()
            first = viewer.read.get(number, runs[-1][0] if runs else 0)
            self._saw_all(viewer.edge.name, viewer.reader.epoch, track, first, track.head)
            viewer.read[number] = track.head
        except PageGone:
            viewer.read.pop(number, None)

    def _saw_all(self, who: str, epoch: int, track: TrackReader, first: int, stop: int) -> int:
        """Look at a run of records; return how many are lost."""
        records, payloads = track.records(first, stop), track.payloads(first, stop)
        for record, payload in zip(records, payloads, strict=True):
            self.saw(who, epoch, track.number, record, payload)
        return sum(bool(record.flags & LOST) for record in records)

    def saw(self, who: str, epoch: int, track: int, record: Record, payload: bytes) -> None:
        """Compare a record with what others saw under its number."""
        if record.flags & LOST:
            if record.size or payload:
                self.problem(f"{who}: a lost record of {epoch}/{track}/{record.seq} has bytes")
            return
        mine = (record._replace(offset=0, capture_us=0, ingest_us=0), hash(payload))
        if track == INDEX_TRACK and self.two_owners:
            mine = (mine[0]._replace(crc32=0, size=0), hash(_bare(payload)))
        known = self.records.setdefault((epoch, track, record.seq), mine)
        if known != mine:
            self.problem(f"{who}: {epoch}/{track}/{record.seq} is {mine}, elsewhere {known}")

    def _package(self, viewer: Viewer, newest: int) -> None:
        """Take the objects of the newest segments, or all of them for 0."""
        timelines = viewer.timelines
        assert timelines is not None
        timelines.update()
        packager = Packager(0)
        for number, timeline in timelines.tracks.items():
            last = timeline.newest
            if last is None:
                continue
            first = timeline.oldest or 0
            for segment in range(max(first, last - newest) if newest else first, last + 1):
                packed = packager.segment(timelines, number, segment)
                if packed is not None:
                    self._object(viewer, number, "segment", segment, packed.body)
                known = timeline.segment(segment)
                for part in known.parts if known is not None else ():
                    made = packager.part(timelines, number, part.number)
                    if made is not None:
                        self._object(viewer, number, "part", part.number, made.body)

    def _object(self, viewer: Viewer, track: int, kind: str, number: int, body: bytes) -> None:
        assert viewer.reader is not None
        place = viewer.reader.epoch, track, kind, number
        digest = hashlib.sha256(body).hexdigest()
        known, first = self.objects.setdefault(place, (digest, viewer.edge.name))
        if known != digest:
            self.problem(f"{kind} {place} of {viewer.edge.name} is not that of {first}")

    # At the end.

    def close_edge(self, edge: EdgeHost, owner: StreamReader, *, patient: bool) -> None:
        """Compare what an edge holds in the end with the owner's pages."""
        self.look(edge)
        viewer = self.viewers.get(edge.name)
        if viewer is None or viewer.reader is None:
            self.problem(f"{edge.name}: has nothing")
            return
        if viewer.reader.epoch != owner.epoch:
            self.problem(f"{edge.name}: is in epoch {viewer.reader.epoch}, not {owner.epoch}")
            return
        self._package(viewer, newest=0)
        for number in TRACKS:
            self._compare(edge, viewer.reader, owner, number, patient=patient)
        self._twice(edge)

    def _compare(
        self, edge: EdgeHost, ours: StreamReader, owner: StreamReader, number: int, *, patient: bool
    ) -> None:
        theirs, mine = owner.track(number), ours.track(number)
        if mine.head != theirs.head:
            self.problem(f"{edge.name}: track {number} ends at {mine.head}, not {theirs.head}")
        if mine.runs() != theirs.runs():
            self.problem(f"{edge.name}: track {number} has {mine.runs()}, not {theirs.runs()}")
        for first, stop in theirs.runs():
            self._saw_all("the owner", owner.epoch, theirs, first, stop)
        lost = 0
        for first, stop in mine.runs():
            lost += self._saw_all(edge.name, ours.epoch, mine, first, stop)
        if patient and lost:
            self.problem(f"{edge.name}: track {number} has lost {lost} records for no reason")

    def _twice(self, edge: EdgeHost) -> None:
        """Look for frames that an edge has under two numbers.

        An origin that goes on without having seen what the other one has published begins a new
        epoch, with the frames that it holds: there they may be again.
        """
        assert edge.mirrors is not None
        mirror = edge.mirrors.peek(STREAM)
        readers = list(mirror.readers.values()) if mirror is not None else []
        for some in [[one] for one in readers] if self.two_owners else [readers]:
            for number in (1, 2):
                seen = Counter(frames_of(some, number))
                twice = sorted(one for one, count in seen.items() if count > 1)
                if twice:
                    self.problem(f"{edge.name}: frames {twice} of track {number} are there twice")


def _bare(payload: bytes) -> Row:
    """Return an index row without the wall clock."""
    row = decode_row(payload)
    opened = row if isinstance(row, Opened) else row.opened
    opened = replace(opened, wall_us=0, course=replace(opened.course, drift_us=0))
    return opened if isinstance(row, Opened) else replace(row, opened=opened)


def frames_of(readers: Sequence[StreamReader], number: int) -> list[int]:
    """Return the numbers of all frames that pages hold of a track."""
    found = []
    for reader in readers:
        track = reader.track(number)
        for first, stop in track.runs():
            for record, payload in zip(
                track.records(first, stop), track.payloads(first, stop), strict=True
            ):
                if not record.flags & LOST:
                    found.append(frame_id(number, payload))
    return found


def lost_in(reader: StreamReader) -> int:
    """Return how many records pages say are lost."""
    return sum(
        bool(record.flags & LOST)
        for number in TRACKS
        for run in reader.track(number).runs()
        for record in reader.track(number).records(*run)
    )
