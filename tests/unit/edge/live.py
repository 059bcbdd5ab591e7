"""A small live stream in real pages, written frame by frame, and a transport that records."""

import asyncio
import zlib
from pathlib import Path

from common.media.codec import Codec
from common.media.track import Track
from common.track.catalog import Catalog
from common.track.limits import Limits
from common.track.record import Flag, Record
from common.track.store import StreamWriter
from tests.unit.media.samples import ASC_LC, AVCC_BASELINE, AVCC_HIGH

VIDEO = Track(1, Codec.H264, 90_000, (AVCC_BASELINE,), frame_duration=3600)
AUDIO = Track(2, Codec.AAC, 48_000, (ASC_LC,), frame_duration=1024)
OTHER_INIT = AVCC_HIGH
START = 10


class LiveStream:
    """25 pictures a second with a keyframe every ``gop``, and AAC beside them."""

    def __init__(
        self, root: Path, name: str = "live", epoch: int = 7, gop: int = 10, audio: bool = True
    ) -> None:
        self.name = name
        self.epoch = epoch
        self.gop = gop
        self.writer = StreamWriter.open(root, name, epoch, Limits())
        self.tracks = [VIDEO, AUDIO] if audio else [VIDEO]
        self.init = 0
        self.sent: dict[int, list[Record]] = {1: [], 2: []}
        self.payloads: dict[int, list[bytes]] = {1: [], 2: []}
        self.publish()

    def publish(self, live: bool = True) -> None:
        version = self.writer.catalog.version + 1 if self.writer.catalog else 1
        self.writer.set_catalog(
            Catalog(self.name, self.epoch, 1, version, live=live, tracks=tuple(self.tracks))
        )

    def video(self, *, lost: bool = False, size: int = 40, key: bool | None = None) -> Record:
        number = len(self.sent[1])
        key = number % self.gop == 0 if key is None else key
        flags = (Flag.KEY if key else 0) | (Flag.LOST if lost else 0)
        return self._write(VIDEO, START * 90_000 + number * 3600, 3600, int(flags), size)

    def audio(self) -> Record:
        number = len(self.sent[2])
        return self._write(AUDIO, START * 48_000 + number * 1024, 1024, int(Flag.KEY), 12)

    def frames(self, count: int) -> None:
        """Write so many pictures, and the audio up to each."""
        for _ in range(count):
            picture = self.video()
            while AUDIO in self.tracks and self._audio_until() < picture.dts / 90_000:
                self.audio()

    def new_init(self, init: bytes) -> None:
        """Go on with other setup bytes; the next picture has to be a keyframe."""
        track = self.tracks[0]
        changed = Track(1, track.codec, 90_000, (*track.inits, init), frame_duration=3600)
        self.tracks[0] = changed
        self.init = len(changed.inits) - 1
        self.publish()

    def _audio_until(self) -> float:
        return START + len(self.sent[2]) * 1024 / 48_000

    def _write(self, track: Track, dts: int, duration: int, flags: int, size: int) -> Record:
        seq = len(self.sent[track.id])
        lost = bool(flags & Flag.LOST)
        payload = b"" if lost else f"{track.id}:{seq}:".encode().ljust(size, b".")
        init = self.init if track.id == 1 else 0
        record = Record(
            seq, dts, 1_000_000 + seq, 0, 0, duration, seq // 10, seq // 5, 0, len(payload),
            zlib.crc32(payload), flags, init,
        )  # fmt: skip
        stored = self.writer.append(track.id, record, payload)
        self.sent[track.id].append(stored)
        self.payloads[track.id].append(payload)
        return stored


class FakeTransport(asyncio.Transport):
    """Takes everything at once, or, when blocked, nothing."""

    def __init__(self, peer: str = "") -> None:
        super().__init__({"peername": (peer, 1)} if peer else None)
        self.taken = bytearray()
        self.waiting = bytearray()
        self.blocked = False
        self.aborted = False
        self.closing = False

    def write(self, data: bytes | bytearray | memoryview) -> None:
        (self.waiting if self.blocked or self.waiting else self.taken).extend(data)

    def drain(self, size: int | None = None) -> None:
        size = len(self.waiting) if size is None else size
        self.taken += self.waiting[:size]
        del self.waiting[:size]

    def get_write_buffer_size(self) -> int:
        return len(self.waiting)

    def is_closing(self) -> bool:
        return self.closing or self.aborted

    def abort(self) -> None:
        self.aborted = True

    def close(self) -> None:
        self.closing = True
