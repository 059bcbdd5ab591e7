"""A stream to put on the bus: pages with made-up frames, and how to compare two page folders."""

import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path

from common.bus.upstream import Place, Ways, ways
from common.media.codec import Codec
from common.media.track import INDEX_TRACK, Track
from common.runtime.registry import Owner
from common.track.catalog import Catalog
from common.track.index import Closed, Opened, Piece, Row, encode_row
from common.track.limits import Limits
from common.track.record import Flag, Record
from common.track.store import StreamReader, StreamWriter
from common.wire.control import Control
from common.wire.media import Item

VIDEO, AUDIO = 1, 2
START_US = 10_000_000
FPS = 25
GOP = 25


@dataclass(eq=False)
class Asked:
    """A node that can be asked; what it is asked goes to ``ask``."""

    ask: Callable[[Control], bool]
    kind: str = "owner"
    node: str = "origin"

    def send(self, message: Control) -> bool:
        return self.ask(message)


def found_by(owner: Callable[[str], Awaitable[Owner | None]]) -> Callable[[str], Awaitable[Ways]]:
    """Return a way to find streams at their owners alone."""

    async def find(stream: str) -> Ways:
        return ways(Place("edge"), stream, await owner(stream), [], [])

    return find


def catalog(stream: str = "live", epoch: int = 1000, term: int = 2000) -> Catalog:
    return Catalog(
        stream,
        epoch,
        term,
        target_duration=1,
        tracks=(
            Track(VIDEO, Codec.H264, 90_000, (b"avcC",)),
            Track(AUDIO, Codec.AAC, 48_000, (b"asc",)),
        ),
    )


class Source:
    """Writes a stream of 25 fps video and AAC into pages, as an origin does."""

    def __init__(self, root: Path, known: Catalog, size: int = 600, seed: int = 1) -> None:
        self.writer = StreamWriter.open(root, known.stream, known.epoch, Limits())
        self.writer.set_catalog(known)
        self.catalog = known
        self.frame = self.writer.head(VIDEO)
        self._audio = self.writer.head(AUDIO)
        self._began = {VIDEO: self.frame, AUDIO: self._audio}
        self._size = size
        self._random = random.Random(seed)

    def next(self, capture_us: int = 0) -> list[Item]:
        """Write one video frame and the audio up to it; return them in order of sending."""
        number, self.frame = self.frame, self.frame + 1
        segment, key = number // GOP, number % GOP == 0
        items = []
        if key:
            items += self._rows(segment, capture_us)
        while self._audio * 1024 * FPS < (number + 1) * 48_000:
            dts = 480_000 + self._audio * 1024
            at = min(segment, self._audio * 1024 // 48_000)
            data = self._random.randbytes(60)
            items.append(self._write(AUDIO, self._audio, dts, 1024, at, data, Flag.KEY, capture_us))
            self._audio += 1
        size = self._size * 6 if key else self._random.randint(1, self._size)
        data = self._random.randbytes(size)
        dts = 900_000 + number * 3600
        flags = Flag.KEY if key else 0
        items.append(self._write(VIDEO, number, dts, 3600, segment, data, flags, capture_us))
        return items

    def _rows(self, segment: int, capture_us: int) -> list[Item]:
        """Write the index rows of a cut: the segment before is closed, the next one opens."""
        start = START_US + segment * GOP * 1_000_000 // FPS
        rows: list[Row] = [Opened(segment, start, start, 0, False)]
        if segment:
            before = Opened(segment - 1, start - 1_000_000, start - 1_000_000, 0, False)
            rows.insert(0, Closed(before, 1_000_000, tuple(map(self._piece, self._began))))
        found = []
        for row in rows:
            seq, data = self.writer.head(INDEX_TRACK), encode_row(row)
            found.append(
                self._write(INDEX_TRACK, seq, start, 0, segment, data, Flag.KEY, capture_us)
            )
        return found

    def _piece(self, track: int) -> Piece:
        first = self._began[track]
        stop = self._began[track] = self.frame - 1 if track == VIDEO else self._audio
        return Piece(track, first, stop - first, 0, 0, 0, 0, 0, 0, True)

    def _write(
        self,
        track: int,
        seq: int,
        dts: int,
        duration: int,
        segment: int,
        data: bytes,
        flags: int,
        capture_us: int,
    ) -> Item:
        record = Record(
            seq, dts, capture_us, capture_us, 0, duration, segment, seq // 5, 0, len(data), 0,
            int(flags), 0,
        )  # fmt: skip
        return Item(track, self.writer.append(track, record, data), data)


def content(reader: StreamReader, track: int) -> dict[int, tuple[Record, bytes]]:
    """Return everything held of a track, by seq; where it stands in a page is left out."""
    found = {}
    view = reader.track(track)
    for first, stop in view.runs():
        pairs = zip(view.records(first, stop), view.payloads(first, stop), strict=True)
        found.update({record.seq: (record._replace(offset=0), data) for record, data in pairs})
    return found
