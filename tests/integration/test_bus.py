"""Origin and edge over real sockets, with a forwarder between them that can be cut."""

import asyncio
import contextlib
import random
import time
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest
import zmq

from common.bus import link
from common.bus.broadcast import Broadcast
from common.bus.intake import Intake
from common.bus.pages import Pages
from common.media.track import INDEX_TRACK
from common.runtime.registry import Owner
from common.track.board import Board
from common.track.limits import Limits
from common.track.store import StreamReader, StreamWriter
from common.wire.control import PING_US
from tests.harness.bus import AUDIO, FPS, VIDEO, Source, catalog, content, found_by
from tests.harness.cutting import Forwarder

LIMIT = 15.0
"""Seconds that anything may take here."""

HISTORY = 2 * FPS
"""Frames that the origin has when it starts."""


@dataclass
class Rig:
    """One origin, one edge, and what lies between them."""

    folder: Path
    said: list[dict[str, Any]] = field(default_factory=list)
    rings: int = 0
    tasks: list[asyncio.Task[None]] = field(default_factory=list)

    async def start(self) -> None:
        self.source = Source(self.folder / "origin", catalog(), size=8000)
        for _ in range(HISTORY):
            self.source.next(time.time_ns() // 1000)
        self.broadcast = self.announce()
        self.bus = Forwarder(self.broadcast.bus_port)
        self.control = Forwarder(self.broadcast.control_port)
        await self.bus.start()
        await self.control.start()
        self.worker = self.make_worker()
        self.tasks = [asyncio.create_task(job()) for job in (self._publish, self._tick)]

    def announce(self) -> Broadcast:
        broadcast = Broadcast("127.0.0.1:0", "127.0.0.1:0")
        broadcast.attach(self.source.writer)
        broadcast.catalog(self.source.catalog)
        return broadcast

    def make_worker(self) -> Intake:
        root = self.folder / "edge"
        return Intake(
            node="edge",
            pages=Pages(root, Board.create(root), Limits()),
            find=found_by(self.owner),
            tell=self._told,
            settled=self._settled,
            linger=0.3,
        )

    async def owner(self, stream: str) -> Owner | None:
        if stream != "live":
            return None
        endpoints = {
            "bus": f"tcp://127.0.0.1:{self.bus.port}",
            "control": f"tcp://127.0.0.1:{self.control.port}",
        }
        return Owner("live", "origin", 1000, 2000, endpoints)

    def _settled(self, _: object, moved: bool) -> None:
        self.rings += moved

    def _told(self, stream: str, state: str, epoch: int) -> None:
        self.said.append({"stream": stream, "state": state, "epoch": epoch})

    async def _publish(self) -> None:
        loop = asyncio.get_running_loop()
        due = loop.time()
        while True:
            for item in self.source.next(time.time_ns() // 1000):
                self.broadcast.record("live", *item, flush=item.track == VIDEO)
            due += 1 / FPS
            await asyncio.sleep(due - loop.time())

    async def _tick(self) -> None:
        while True:
            self.worker.tick()
            await asyncio.sleep(0.05)

    async def want(self) -> None:
        self.worker.want(["live"])
        await self.worker.follow()

    def receiver(self) -> Any:
        return self.worker._entries["live"].receiver

    def reader(self) -> StreamReader:
        return StreamReader.open(self.folder / "edge", "live", 1000)

    def head(self) -> int:
        entry = self.worker._entries.get("live")
        return entry.receiver.shelf.heads().get(VIDEO, 0) if entry else 0

    async def until(self, done: Callable[[], bool]) -> None:
        async with asyncio.timeout(LIMIT):
            while not done():  # noqa: ASYNC110 - threads and sockets are asked, not tasks
                await asyncio.sleep(0.02)

    async def caught_up(self) -> None:
        """Wait until the edge has what the origin has now."""
        head = self.source.writer.head(VIDEO)
        await self.until(lambda: self.head() >= head)

    async def goes_on(self) -> None:
        """Wait until the edge has some frames more."""
        head = self.head()
        await self.until(lambda: self.head() >= head + 5)

    async def assert_equal(self) -> None:
        """Stop publishing and compare what both sides hold, byte by byte."""
        self.tasks[0].cancel()
        await asyncio.gather(self.tasks[0], return_exceptions=True)
        heads = {track: self.source.writer.head(track) for track in (0, VIDEO, AUDIO)}
        await self.until(lambda: self.receiver().shelf.heads() == heads)
        receiver = self.receiver()
        await self.until(lambda: not (receiver._joining or receiver._backfill.busy))
        ours, theirs = self.source.writer.reader(), self.reader()
        for track in (INDEX_TRACK, VIDEO, AUDIO):
            assert content(theirs, track) == content(ours, track)
        ours.close()
        theirs.close()

    async def close(self) -> None:
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)
        self.worker.close()
        self.broadcast.close()
        await self.bus.close()
        await self.control.close()
        self.source.writer.close()


@contextlib.asynccontextmanager
async def running(folder: Path) -> AsyncIterator[Rig]:
    made = Rig(folder)
    await made.start()
    try:
        yield made
    finally:
        await made.close()


@pytest.fixture
async def rig(tmp_path: Path) -> AsyncIterator[Rig]:
    async with running(tmp_path) as made:
        yield made


async def test_a_stream_is_there_soon_after_it_is_wanted(rig: Rig) -> None:
    began = time.monotonic()
    await rig.want()
    await rig.until(lambda: rig.said[-1:] != [] and rig.said[-1]["state"] == "live")
    took = time.monotonic() - began
    assert rig.said[-1] == {"stream": "live", "state": "live", "epoch": 1000}
    assert took < 1
    await rig.until(lambda: rig.rings > 10)
    await rig.assert_equal()
    assert rig.receiver().tally.lost.total() == 0


async def test_a_cut_connection_loses_nothing(tmp_path: Path) -> None:
    async def cut_for(seconds: float) -> None:
        async with running(tmp_path / str(seconds)) as rig:
            await loses_nothing(rig, seconds)

    await asyncio.gather(cut_for(0.5), cut_for(3.0))


async def loses_nothing(rig: Rig, seconds: float) -> None:
    await rig.want()
    await rig.caught_up()
    await rig.goes_on()
    await rig.bus.cut()
    await rig.control.cut()
    await asyncio.sleep(seconds)
    await rig.bus.start()
    await rig.control.start()
    healed = time.monotonic()
    await rig.caught_up()
    assert time.monotonic() - healed < 3
    await rig.goes_on()
    await rig.assert_equal()
    assert rig.receiver().tally.lost.total() == 0
    assert rig.receiver().tally.repaired.total() > 0


async def test_a_connection_gone_silent_is_made_anew(
    rig: Rig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(link, "PING_US", PING_US // 4)
    monkeypatch.setattr(link, "CONTROL_SILENCE_US", link.CONTROL_SILENCE_US // 4)
    await rig.want()
    await rig.caught_up()
    rig.bus.freeze()
    rig.control.freeze()
    began = time.monotonic()
    await rig.until(lambda: rig.source.frame > rig.head() + FPS // 2)
    await rig.caught_up()
    assert time.monotonic() - began < 3
    await rig.assert_equal()
    assert rig.receiver().tally.lost.total() == 0


async def test_while_only_the_bus_is_cut_records_come_by_pull(rig: Rig) -> None:
    await rig.want()
    await rig.caught_up()
    await rig.bus.cut()
    head = rig.head()
    await rig.until(lambda: rig.head() > head + 20)
    await rig.bus.start()
    await rig.assert_equal()


async def test_an_origin_restarted_on_other_ports_is_followed(rig: Rig) -> None:
    await rig.want()
    await rig.caught_up()
    for task in rig.tasks[:1]:
        task.cancel()
    await asyncio.gather(*rig.tasks[:1], return_exceptions=True)
    rig.broadcast.close()
    await rig.bus.close()
    await rig.control.close()
    rig.source.writer.close()
    rig.source = Source(rig.folder / "origin", replace(catalog(), term=3000), size=8000, seed=5)
    rig.broadcast = rig.announce()
    rig.bus, rig.control = (
        Forwarder(rig.broadcast.bus_port),
        Forwarder(rig.broadcast.control_port),
    )
    await rig.bus.start()
    await rig.control.start()
    rig.tasks[0] = asyncio.create_task(rig._publish())
    await rig.worker.follow()
    await rig.until(lambda: rig.receiver().term == 3000)
    await rig.goes_on()
    await rig.assert_equal()
    assert len(rig.worker._links) == 1


async def test_a_restarted_worker_goes_on_with_the_pages(rig: Rig) -> None:
    await rig.want()
    await rig.caught_up()
    rig.worker.close()
    rig.said.clear()
    rig.worker = rig.make_worker()
    rig.worker.adopt()
    assert [message["state"] for message in rig.said] == ["live"]
    await rig.want()
    await rig.caught_up()
    await rig.assert_equal()
    assert rig.receiver().tally.lost.total() == 0


async def test_a_stream_that_nobody_wants_is_released(rig: Rig) -> None:
    await rig.want()
    await rig.caught_up()
    rig.worker.want([])
    await rig.until(lambda: "live" not in rig.worker._entries)
    assert rig.said[-1]["state"] == "absent"
    assert StreamWriter.existing(rig.folder / "edge") == []
    assert rig.worker._links == {}


async def test_a_flood_of_subscriptions_is_cut_and_disturbs_nobody(rig: Rig) -> None:
    await rig.want()
    await rig.caught_up()
    context = zmq.Context()
    flood = context.socket(zmq.XSUB)
    flood.setsockopt(zmq.LINGER, 0)
    flood.setsockopt(zmq.SNDHWM, 0)
    flood.setsockopt(zmq.RECONNECT_STOP, 0)
    monitor = flood.get_monitor_socket(zmq.EVENT_DISCONNECTED)
    flood.connect(rig.broadcast.endpoints()["bus"])
    noise = random.Random(1)
    for _ in range(20_000):
        flood.send(b"\x01" + noise.randbytes(50))
    await rig.until(lambda: monitor.poll(0) != 0)
    await rig.caught_up()
    assert rig.broadcast._subscriptions.topics <= 4
    flood.disable_monitor()
    context.destroy(linger=0)
    await rig.assert_equal()
