"""Streams as the origin's segmenter cuts them, to be played into timelines or pages."""

from pathlib import Path

from common.media.codec import Codec
from common.media.track import INDEX_TRACK, Track
from common.track.catalog import Catalog
from common.track.index import decode_row
from common.track.limits import Limits
from common.track.record import Record
from common.track.store import StreamWriter
from edge.timeline import Timeline
from origin.segmenter import Cuts, Sample, Segmenter
from tests.unit.media.samples import ASC_LC, AVCC_BASELINE

VIDEO = Track(1, Codec.H264, 90_000, (AVCC_BASELINE,), frame_duration=3600)
AUDIO = Track(2, Codec.AAC, 48_000, (ASC_LC,), language="en", frame_duration=1024)
EPOCH = 1_700_000_000_000_000
WALL = 1_800_000_000_000_000
START = 10

Entry = tuple[int, Record, bytes]


class CutStream:
    """Video at 25 frames a second and AAC, through the segmenter; what comes out is kept."""

    def __init__(
        self,
        tracks: tuple[Track, ...] = (VIDEO, AUDIO),
        *,
        gop: int = 50,
        cuts: Cuts | None = None,
        window_us: int = 60_000_000,
        name: str = "live",
        size: int = 40,
    ) -> None:
        self.entries: list[Entry] = []
        self.tracks = tracks
        self.gop = gop
        self.live = True
        self.epoch = EPOCH
        self._name = name
        self._size = size
        self._window_us = window_us
        self._version = 1
        self._counts = {track.id: 0 for track in tracks}
        self.inits = {track.id: 0 for track in tracks}
        self.segmenter = Segmenter(
            cuts or Cuts(),
            lambda us: WALL + us,
            lambda track, record, data: self.entries.append((track, record, data)),
        )
        for track in tracks:
            self.segmenter.add_track(track.id, track.codec.kind, track.timescale)

    @property
    def catalog(self) -> Catalog:
        """The catalog as the origin would publish it now."""
        promises = self.segmenter.promises
        return Catalog(
            self._name,
            self.epoch,
            1,
            self._version,
            target_duration=promises.target_duration,
            part_target_us=promises.part_target_us,
            window_us=self._window_us,
            independent=promises.independent,
            live=self.live,
            tracks=self.tracks,
        )

    def run(self, seconds: float) -> "CutStream":
        """Push frames of all tracks, the earliest first."""
        end = seconds + min(self._at(track) for track in self.tracks)
        while True:
            track = min(self.tracks, key=self._at)
            if self._at(track) >= end - 1e-9:
                return self
            self.push(track)

    def push(self, track: Track) -> None:
        """Push the next frame of a track."""
        number = self._counts[track.id]
        self._counts[track.id] = number + 1
        step = track.frame_duration
        key = track.id != VIDEO.id or number % self.gop == 0
        data = f"{track.id}:{number}:".encode()
        data = data.ljust((self._size if track.id == VIDEO.id else 40) + number % 7, b".")
        dts = START * track.timescale + number * step
        init = self.inits[track.id]
        self.segmenter.push(Sample(track.id, dts, 0, step, key, init, WALL, WALL, data))

    def skip(self, track: Track, frames: int) -> None:
        """Leave out frames of a track."""
        self._counts[track.id] += frames

    def change(self) -> None:
        """Publish another version of the catalog."""
        self._version += 1

    def finish(self) -> "CutStream":
        """End the stream."""
        self.segmenter.finish()
        self.live = False
        self.change()
        return self

    def _at(self, track: Track) -> float:
        return START + self._counts[track.id] * track.frame_duration / track.timescale

    def timelines(self, upto: int | None = None) -> dict[int, Timeline]:
        """Return timelines that have been told everything, or the first entries."""
        found = {track.id: Timeline(track) for track in self.tracks}
        for entry in self.entries[:upto]:
            tell(found, entry)
        return found


def tell(timelines: dict[int, Timeline], entry: Entry) -> None:
    """Give one entry to whom it concerns."""
    number, record, data = entry
    if number == INDEX_TRACK:
        for timeline in timelines.values():
            timeline.row(decode_row(data))
    else:
        timelines[number].extend([record])


class Pages:
    """Pages on a disk that entries are written to."""

    def __init__(self, root: Path, stream: CutStream, name: str = "live") -> None:
        self.root = root
        self.stream = stream
        self.written = 0
        self.writer = StreamWriter.open(root, name, stream.epoch, Limits())

    def write(self, count: int | None = None) -> None:
        """Write the next entries, all if ``count`` is None."""
        self.writer.set_catalog(self.stream.catalog)
        stop = len(self.stream.entries) if count is None else self.written + count
        for number, record, data in self.stream.entries[self.written : stop]:
            self.writer.append(number, record, data)
        self.written = min(stop, len(self.stream.entries))
