"""The stream worker: turns what origins publish into track pages for the viewer processes.

It takes the streams that the supervisor says are wanted, finds their owners in the registry, and
gives every stream a :class:`Receiver` on the :class:`Link` of its owner. After each burst of
messages it rings the eventfds of the viewer processes. Killed at any moment, its successor adopts
the pages and goes on.
"""

import asyncio
import sys
import time
from collections.abc import Awaitable, Callable, Coroutine, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import zmq

from common.bus.link import Endpoints, Link, Message
from common.bus.pages import Pages
from common.bus.receiver import Receiver
from common.errors import AccessDenied, HeadwaterError
from common.runtime import metrics, wake
from common.runtime.control import Channel
from common.runtime.curve import PLAIN, Guard, guarded
from common.runtime.logs import Limited, Log
from common.runtime.registries import open_registry
from common.runtime.registry import Owner
from common.track.board import Board
from common.track.limits import Budget, Limits
from common.track.store import StreamWriter
from common.wire.bucket import TokenBucket
from common.wire.control import Control
from common.wire.repair import RepairLimits
from edge import child
from edge.config import Config

log = Log("edge.worker")

TICK = 0.05
OWNER_POLL = 0.5
"""Seconds between two looks at who owns a stream."""

REPORT = 1.0
SWITCH_INTERVAL = 0.0005
"""Seconds after which Python lets another thread run: ZeroMQ's callbacks must not wait for 5 ms."""

GONE_AFTER_US = 60_000_000
"""A stream that nobody has owned for so long has ended."""

BURST = 4 * 1024 * 1024
MAX_STREAMS = 4096


def now_us() -> int:
    """Return microseconds of a clock that does not jump."""
    return time.monotonic_ns() // 1000


def wall_us() -> int:
    """Return Unix microseconds."""
    return time.time_ns() // 1000


@dataclass(slots=True)
class Entry:
    """One stream that this worker carries."""

    receiver: Receiver
    link: Link | None = None
    owned_us: int = 0
    """When somebody was last known to own it."""
    unwanted_us: int | None = None
    told: tuple[str, int] = ("", 0)
    """State and epoch that the supervisor knows of."""


class Worker:
    """All streams of this edge, in the running event loop."""

    def __init__(
        self,
        *,
        node: str,
        pages: Pages,
        find_owner: Callable[[str], Awaitable[Owner | None]],
        tell: Callable[[dict[str, Any]], object],
        ring: Callable[[], None],
        linger: float = 15.0,
        repair: float = 4.0,
        repair_rate: int = 31_000_000,
        guard: Guard = PLAIN,
    ) -> None:
        """``tell`` says something to the supervisor; ``ring`` wakes the viewer processes.

        ``repair_rate`` is what repair and backfill may take, in bytes a second.
        """
        self._node = node
        self._guard = guard
        self._pages = pages
        self._find_owner = find_owner
        self._tell = tell
        self._ring = ring
        self._linger_us = int(linger * 1_000_000)
        self._limits = RepairLimits(deadline_us=int(repair * 1_000_000))
        self._bucket = TokenBucket(repair_rate, BURST, now_us())
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context(1)
        self._links: dict[Endpoints, Link] = {}
        self._entries: dict[str, Entry] = {}
        self._moved: set[Receiver] = set()
        self._limited = Limited(log, seconds=10)

    def adopt(self) -> None:
        """Go on with all pages that are here; who wants them has ``linger`` seconds to say so."""
        now = now_us()
        for stream, epoch in StreamWriter.existing(self._pages.root):
            entry = self._entries.get(stream) or self._add(stream, now)
            if not entry.receiver.adopt(epoch, now) and not entry.receiver.shelf.started:
                del self._entries[stream]
            elif entry.unwanted_us is None:
                entry.unwanted_us = now
        self._tell_states()

    def want(self, streams: Iterable[str]) -> None:
        """Carry these streams; others are dropped after ``linger`` seconds."""
        now = now_us()
        wanted = set(streams)
        for stream in wanted:
            entry = self._entries.get(stream)
            if entry is None:
                if len(self._entries) >= MAX_STREAMS:
                    continue
                self._add(stream, now)
            else:
                entry.unwanted_us = None
        for stream, entry in self._entries.items():
            if stream not in wanted and entry.unwanted_us is None:
                entry.unwanted_us = now
        self._tell_states()

    def want_segment(self, stream: str, track: int, segment: int) -> None:
        """Fetch a segment of the past before the rest of it: a viewer waits for it."""
        entry = self._entries.get(stream)
        if entry is not None:
            entry.receiver.want_segment(track, segment, now_us())

    def _add(self, stream: str, now: int) -> Entry:
        receiver = Receiver(
            stream, self._pages, _nowhere, self._bucket, limits=self._limits, wall_us=wall_us
        )
        entry = self._entries[stream] = Entry(receiver, owned_us=now)
        return entry

    async def follow_owners(self) -> None:
        """Find out who owns every stream, and connect to it."""
        for stream in list(self._entries):
            owner = await self._find_owner(stream)
            entry = self._entries.get(stream)
            if entry is None:
                continue
            now = now_us()
            if owner is None:
                if now - entry.owned_us > GONE_AFTER_US:
                    entry.receiver.origin_gone()
                continue
            entry.owned_us = now
            endpoints = Endpoints.of(owner.endpoints)
            if entry.link is None or entry.link.endpoints != endpoints:
                try:
                    self._attach(stream, entry, endpoints, now)
                except AccessDenied as error:
                    self._limited.warning("origin refused", endpoints.bus, {"error": str(error)})

    def _attach(self, stream: str, entry: Entry, endpoints: Endpoints, now: int) -> None:
        self._detach(stream, entry)
        link = self._links.get(endpoints)
        if link is None:
            link = self._links[endpoints] = self._connect(endpoints)
            log.info("origin connected", extra={"peer": endpoints.bus})
        entry.link = link
        entry.receiver.send = link.send
        link.subscribe(stream)
        entry.receiver.connected(now)

    def _connect(self, endpoints: Endpoints) -> Link:
        def renewed() -> None:
            for entry in self._entries.values():
                if entry.link is not None and entry.link.endpoints == endpoints:
                    entry.receiver.connected(now_us())

        return Link(
            self._context,
            endpoints,
            self._node,
            deliver=self._deliver,
            renewed=renewed,
            settled=self._settled,
            now_us=now_us,
            guard=self._guard,
        )

    def _detach(self, stream: str, entry: Entry) -> None:
        link, entry.link = entry.link, None
        entry.receiver.send = _nowhere
        if link is None:
            return
        link.unsubscribe(stream)
        if not any(other.link is link for other in self._entries.values()):
            del self._links[link.endpoints]
            link.close()

    def _deliver(self, message: Message) -> None:
        entry = self._entries.get(message.stream)
        if entry is not None:
            entry.receiver.deliver(message, now_us())
            self._moved.add(entry.receiver)

    def _settled(self) -> None:
        """Wake the viewer processes if a burst of messages has moved something."""
        moved = False
        for receiver in self._moved:
            moved = moved or receiver.shelf.moved
            receiver.shelf.moved = False
            entry = self._entries.get(receiver.stream)
            if entry is not None and entry.told != (receiver.state, receiver.epoch):
                self._tell_state(entry)
        self._moved.clear()
        if moved:
            self._ring()

    def tick(self) -> None:
        """Do what is due: call it every ``TICK`` seconds."""
        now = now_us()
        for link in tuple(self._links.values()):
            link.tick()
        for stream, entry in tuple(self._entries.items()):
            if entry.unwanted_us is not None and now - entry.unwanted_us > self._linger_us:
                self._release(stream, entry)
                continue
            if entry.link is not None and entry.link.silent:
                entry.receiver.unreachable(now)
            entry.receiver.tick(now)
            self._moved.add(entry.receiver)
        self._settled()

    def _release(self, stream: str, entry: Entry) -> None:
        self._detach(stream, entry)
        del self._entries[stream]
        entry.receiver.remove()
        metrics.forget_stream(stream)
        self._tell({"t": "state", "stream": stream, "state": "absent", "epoch": 0})
        log.info("stream released", extra={"stream": stream})

    def _tell_states(self) -> None:
        for entry in self._entries.values():
            if entry.told != (entry.receiver.state, entry.receiver.epoch):
                self._tell_state(entry)

    def _tell_state(self, entry: Entry) -> None:
        receiver = entry.receiver
        if receiver.state == "ended" and entry.told[1] != receiver.epoch:
            # Viewers open the pages when a stream is live; then they may learn that it is over.
            self._tell(_state(receiver, "live"))
        entry.told = (receiver.state, receiver.epoch)
        self._tell(_state(receiver, receiver.state))
        log.info("stream state", extra={"stream": receiver.stream, "state": receiver.state})

    def report(self) -> None:
        """Bring the metrics up to date."""
        for stream, entry in self._entries.items():
            entry.receiver.tally.report(stream)
        metrics.STREAMS_SUBSCRIBED.set(len(self._entries))

    def close(self) -> None:
        """Let go of everything; the pages stay."""
        for link in self._links.values():
            link.close()
        self._links.clear()
        for entry in self._entries.values():
            entry.receiver.close()
        self._entries.clear()
        self._context.destroy(linger=0)


def _nowhere(_: Control) -> bool:
    return False


def _state(receiver: Receiver, state: str) -> dict[str, Any]:
    return {"t": "state", "stream": receiver.stream, "state": state, "epoch": receiver.epoch}


async def main(given: child.Inheritance, config: Config, channel: Channel) -> None:
    """Run a worker until the supervisor says stop, or is gone."""
    sys.setswitchinterval(SWITCH_INTERVAL)
    root = Path(config.node.pages)
    limits = Limits(budget=Budget(config.node.pages_max))

    def ring() -> None:
        for fd in given.wake:
            wake.ring(fd)

    async with (
        open_registry(config.node) as registry,
        guarded(config.node, registry) as guard,
    ):
        worker = Worker(
            node=config.node.name,
            pages=Pages(root, Board.create(root), limits, config.streams),
            find_owner=registry.owner,
            tell=channel.send,
            ring=ring,
            linger=config.edge.linger,
            repair=config.edge.repair,
            repair_rate=int(config.edge.bandwidth / 8 / 4),
            guard=guard,
        )
        worker.adopt()
        channel.send({"t": "ready"})
        try:
            await _work(worker, channel)
        finally:
            worker.close()


async def _work(worker: Worker, channel: Channel) -> None:
    async with asyncio.TaskGroup() as group:
        jobs = [group.create_task(job) for job in _jobs(worker, channel)]
        await _listen(worker, channel)
        for job in jobs:
            job.cancel()


def _jobs(worker: Worker, channel: Channel) -> list[Coroutine[Any, Any, None]]:
    return [_tick(worker), _follow(worker), _report(worker, channel)]


async def _listen(worker: Worker, channel: Channel) -> None:
    """Do what the supervisor says, until it says stop or is gone."""
    async for message in channel:
        match message:
            case {"t": "want", "streams": [*streams]}:
                worker.want(map(str, streams))
                await _look(worker)
            case {"t": "segment", "stream": str(name), "track": int(track), "segment": int(place)}:
                worker.want_segment(name, track, place)
            case {"t": "stop"}:
                return


async def _tick(worker: Worker) -> None:
    while True:
        await asyncio.sleep(TICK)
        worker.tick()


async def _follow(worker: Worker) -> None:
    while True:
        await _look(worker)
        await asyncio.sleep(OWNER_POLL)


async def _look(worker: Worker) -> None:
    try:
        await worker.follow_owners()
    except HeadwaterError as error:
        log.warning("registry failed", extra={"error": str(error)})


async def _report(worker: Worker, channel: Channel) -> None:
    cpu, then = time.process_time(), time.monotonic()
    while True:
        await asyncio.sleep(REPORT)
        worker.report()
        now_cpu, now = time.process_time(), time.monotonic()
        load = (now_cpu - cpu) / (now - then)
        cpu, then = now_cpu, now
        report = {"t": "report", "metrics": metrics.snapshot(), "cpu": load}
        channel.send({**report, "sessions": 0, "bytes": 0, "opened": 0, "refused": 0})


if __name__ == "__main__":
    raise SystemExit(child.run(main))
