"""The stream worker as a process: killed and started again, it goes on."""

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from common.bus.broadcast import Broadcast
from common.media.track import INDEX_TRACK
from common.runtime import listen, loader, wake
from common.runtime.control import Channel, pair
from common.runtime.embedded import EmbeddedRegistry
from common.runtime.nursery import Nursery
from common.runtime.tasks import Running, ended
from common.track.store import StreamReader
from edge import child
from edge.config import Config
from tests.harness.bus import AUDIO, FPS, VIDEO, Source, catalog, content

pytestmark = pytest.mark.e2e

LIMIT = 20.0


@dataclass
class Process:
    process: Running
    channel: Channel
    heard: list[dict[str, Any]] = field(default_factory=list)

    async def hear(self, kind: str, **fields: Any) -> dict[str, Any]:
        """Return the first message of a kind, said already or still to come."""
        wanted = {"t": kind, **fields}
        async with asyncio.timeout(LIMIT):
            while not (found := [m for m in self.heard if wanted.items() <= m.items()]):
                self.heard.append(await anext(self.channel))
        return found[0]

    async def end(self, number: signal.Signals) -> int:
        if self.process.returncode is None:
            os.kill(self.process.pid, number)
        self.channel.close()
        return await ended(self.process)


class Rig:
    def __init__(self, folder: Path, wakes: list[int]) -> None:
        self.folder = folder
        node = {"name": "edge", "pages": str(folder / "edge"), "registry": str(folder / "reg")}
        self.config = loader.build(Config, {"node": node})
        self.wakes = wakes
        self.nursery = Nursery([child.WORKER])
        self.control = listen.bind("127.0.0.1:0")
        self.source = Source(folder / "origin", catalog(), size=4000)
        self.broadcast = Broadcast("127.0.0.1:0", "127.0.0.1:0")
        self.broadcast.attach(self.source.writer)
        self.broadcast.catalog(self.source.catalog)

    async def start(self) -> Process:
        ours, theirs = pair()
        spawn = child.worker(self.nursery, self.config, lambda: self.wakes, self.control)
        process = await spawn(theirs)
        theirs.close()
        started = Process(process, Channel(ours))
        await started.hear("ready")
        started.channel.send({"t": "want", "streams": ["live"]})
        return started

    async def publish(self) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time()
        while True:
            for item in self.source.next(time.time_ns() // 1000):
                self.broadcast.record("live", *item, flush=item.track == VIDEO)
            due += 1 / FPS
            await asyncio.sleep(due - loop.time())

    def reader(self) -> StreamReader:
        return StreamReader.open(self.folder / "edge", "live", 1000)


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    bell = wake.create()
    made = Rig(tmp_path, [bell])
    registry = EmbeddedRegistry(tmp_path / "reg")
    await registry.acquire("live", "origin", made.broadcast.endpoints(), 1000)
    publishing = asyncio.create_task(made.publish())
    yield made
    await made.nursery.close()
    publishing.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await publishing
    made.broadcast.close()
    made.control.close()
    made.source.writer.close()
    os.close(bell)


async def until_head(reader: StreamReader, head: int) -> None:
    async with asyncio.timeout(LIMIT):
        while reader.track(VIDEO).head < head:  # noqa: ASYNC110 - another process writes
            await asyncio.sleep(0.02)


async def test_a_killed_worker_is_replaced_with_the_window_kept_and_nothing_lost(
    rig: Rig,
) -> None:
    began = time.monotonic()
    first = await rig.start()
    await first.hear("state", stream="live", state="live", epoch=1000)
    started = time.monotonic() - began
    reader = rig.reader()
    await until_head(reader, 20)
    assert await first.end(signal.SIGKILL) == -signal.SIGKILL
    began = time.monotonic()
    second = await rig.start()
    await second.hear("state", stream="live", state="live")
    await until_head(reader, rig.source.writer.head(VIDEO))
    took = time.monotonic() - began
    assert took < 2 * started + 2, f"{took:.2f} s, and {started:.2f} s the first time"
    report = await second.hear("report")
    assert "headwater_records_received" in report["metrics"]
    await until_head(reader, rig.source.writer.head(VIDEO))
    origin = rig.source.writer.reader()
    for track in (INDEX_TRACK, VIDEO, AUDIO):
        ours, theirs = content(origin, track), content(reader, track)
        assert sorted(theirs) == list(range(len(theirs)))
        assert all(ours[seq] == held for seq, held in theirs.items())
    reader.close()
    origin.close()
    second.channel.send({"t": "stop"})
    async with asyncio.timeout(LIMIT):
        assert await ended(second.process) == 0
    second.channel.close()


async def test_a_worker_ends_with_its_supervisor_and_rings_until_then(rig: Rig) -> None:
    started = await rig.start()
    await started.hear("state", stream="live", state="live", epoch=1000)
    rung = wake.Wake(rig.wakes[0])
    assert await rung.wait(LIMIT)
    rung.close()
    started.channel.close()
    async with asyncio.timeout(LIMIT):
        assert await ended(started.process) == 0
