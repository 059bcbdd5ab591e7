"""A stream on its origin with a clock that stands still, real pages, and a bus that remembers."""

import json
import os
from collections import defaultdict
from dataclasses import replace
from pathlib import Path

from common.media.codec import Codec
from common.media.frame import Frame
from common.media.track import INDEX_TRACK
from common.runtime.config import Duration, StreamSettings
from common.runtime.embedded import EmbeddedRegistry, start_time
from common.runtime.machine import Machine
from common.runtime.registry import Owner
from common.track.catalog import Catalog
from common.track.index import Closed, Opened, Row, decode_row
from common.track.limits import Budget
from common.track.record import Record
from common.track.store import StreamWriter
from origin.ownership import Ownership
from origin.publisher import Publisher
from origin.streams import Streams
from tests.unit.media.samples import ASC_LC, AVCC_BASELINE

UNIX_US = 1_700_000_000_000_000


class Clock:
    """Time that passes when it is told to."""

    def __init__(self) -> None:
        self.us = 5_000_000

    def now(self) -> int:
        """Unix microseconds."""
        return UNIX_US + self.us

    def mono(self) -> int:
        """Microseconds that never go back."""
        return self.us

    def wait(self, seconds: float) -> None:
        """Let time pass."""
        self.us += round(seconds * 1_000_000)


class RememberingBus:
    """Keeps all that would be sent."""

    def __init__(self) -> None:
        self.catalogs: list[Catalog] = []
        self.records: dict[int, list[Record]] = defaultdict(list)
        self.payloads: dict[int, list[bytes]] = defaultdict(list)
        self.flushed: list[int] = []
        self.removed: list[tuple[str, int]] = []

    def attach(self, writer: StreamWriter) -> None:
        """Nothing is asked for here."""

    def mirror(self, writer: StreamWriter, catalog: Catalog) -> None:
        """Nothing is asked for here."""

    def catalog(self, catalog: Catalog) -> None:
        """Remember a catalog."""
        self.catalogs.append(catalog)

    def record(self, stream: str, track: int, record: Record, payload: bytes, flush: bool) -> None:
        """Remember a record."""
        self.records[track].append(record)
        self.payloads[track].append(payload)
        if flush:
            self.flushed.append(track)

    def remove(self, stream: str, epoch: int) -> None:
        """Remember that an epoch went."""
        self.removed.append((stream, epoch))

    @property
    def rows(self) -> list[Row]:
        """The index rows sent so far."""
        return [decode_row(payload) for payload in self.payloads[INDEX_TRACK]]

    @property
    def opened(self) -> list[Opened]:
        """The opened rows among them."""
        return [row for row in self.rows if isinstance(row, Opened)]

    @property
    def closed(self) -> list[Closed]:
        """The closed rows among them."""
        return [row for row in self.rows if isinstance(row, Closed)]


class Stage:
    """All of an origin but its sockets."""

    def __init__(
        self,
        root: Path,
        streams: dict[str, StreamSettings] | None = None,
        *,
        standby: str = "follow",
        mirror: bool = False,
    ) -> None:
        self.standby = standby
        self.mirror = mirror
        self.clock = Clock()
        self.bus = RememberingBus()
        self.root = root
        self.waits: list[float] = []
        self.settings = streams or {"live": StreamSettings(key="sesame")}
        self.registry = EmbeddedRegistry(root / "registry", clock=self.clock.now)
        self.budget = Budget()
        self.streams = self._streams()

    def _streams(self) -> Streams:
        ownership = Ownership(self.registry, "here", {}, self.root / "pages", self.budget)
        return Streams(
            self.settings,
            ownership,
            self.bus,
            publishers=5,
            standby=self.standby,
            mirror=self.mirror,
            machine=Machine(mono_us=self.clock.mono, wall_us=self.clock.now),
            sleep=self._sleep,
        )

    async def own_elsewhere(self, stream: str) -> Owner:
        """Let another node that lives own a stream."""
        owner = await self.registry.acquire(stream, "elsewhere", {})
        path = self.root / "registry" / "streams" / f"{stream}.json"
        # The parent of this process is alive, and is not this process.
        parent = os.getppid()
        tree = {**json.loads(path.read_text()), "pid": parent, "started": start_time(parent)}
        path.write_text(json.dumps(tree))
        return replace(owner, pid=parent)

    async def _sleep(self, seconds: float) -> None:
        self.waits.append(seconds)

    def crash(self) -> None:
        """Lose all but the pages, and start again."""
        for live in self.streams.live():
            live.writer.close()
        self.bus = RememberingBus()
        self.streams = self._streams()


class Encoder:
    """Sends 25 frames a second of video and AAC, with RTMP's milliseconds."""

    def __init__(self, stage: Stage, publisher: Publisher, init: bytes = AVCC_BASELINE) -> None:
        self.stage = stage
        self.publisher = publisher
        self.video = publisher.add_track(Codec.H264, init, clock=1000, wrap_bits=32)
        self.audio = publisher.add_track(Codec.AAC, ASC_LC, clock=1000, wrap_bits=32)
        self.sent = 0
        self.heard = 0
        self.ms = 0

    def send(self, seconds: float, gop: int = 50, start_ms: int = 0) -> None:
        """Send so many seconds in real time."""
        for _ in range(round(seconds * 25)):
            now = start_ms + self.ms
            key = self.sent % gop == 0
            data = b"video %d" % self.sent
            self.publisher.write(Frame(self.video, now, data, keyframe=key))
            while self.heard * 1024 / 48 < self.ms + 40:
                at = start_ms + self.heard * 1024 // 48
                data = b"audio %d" % self.heard
                self.publisher.write(Frame(self.audio, at, data, keyframe=True))
                self.heard += 1
            self.sent += 1
            self.ms += 40
            self.stage.clock.wait(0.04)


def settings(**changes: object) -> StreamSettings:
    """Return stream settings with a key."""
    values = {"key": "sesame", **changes}
    for name in ("takeover", "reconnect", "window", "segment", "segment_max", "part"):
        if name in values:
            values[name] = Duration(values[name])  # type: ignore[arg-type]
    return StreamSettings(**values)  # type: ignore[arg-type]
