"""A relay: takes in what is subscribed below it, and sends it on unchanged.

Messages go on in the very frames in which they came, in the same burst: same term, epoch, numbers
and catalog. What came twice, out of an old term, or damaged, does not. Joins and pulls are answered
from the relay's own pages; what these lack and the upstream has is fetched once, for all who ask.

A record that is missing here is missing below as well, and noticed there at the same moment, since
what follows it is not held up. All wait side by side, so that no wait adds to another.
"""

import asyncio
from collections.abc import Awaitable, Callable, Collection, Iterator
from functools import partial
from typing import Any

from common.bus.access import rules_in
from common.bus.answers import Reach
from common.bus.backfill import Run
from common.bus.broadcast import FLUSH_BYTES, Broadcast, BroadcastSettings
from common.bus.intake import Intake
from common.bus.link import Message
from common.bus.pages import Pages
from common.bus.upstream import Ways
from common.runtime import metrics
from common.runtime.curve import PLAIN, Guard
from common.runtime.machine import HERE, Machine
from common.wire.media import MAX_ROWS, Item
from common.wire.messages import HEARTBEAT_US, Heartbeat, Media, encode_media
from relay.config import Config

FEW = 32
"""Streams that the registry is asked about one by one."""


class Relay:
    """Both ends of the bus, in the running event loop."""

    def __init__(
        self,
        config: Config,
        pages: Pages,
        find: Callable[[str], Awaitable[Ways]],
        everything: Callable[[], Awaitable[set[str]]],
        guard: Guard = PLAIN,
        machine: Machine = HERE,
    ) -> None:
        """Listen; ``find`` says where a stream can be had, ``everything`` which streams there are.

        Raises:
            ConfigError: If an address cannot be read.
            ListenError: If one cannot be bound.
        """
        settings = config.relay
        self._find = find
        self._now = machine.mono_us
        self._all = everything
        self._beats: dict[str, int] = {}
        """When a stream's heartbeat was last passed on."""
        self.asked = asyncio.Event()
        """Set when somebody subscribes: :meth:`follow` has to look."""
        self.broadcast = Broadcast(
            settings.bus,
            settings.control,
            node=config.node.name,
            settings=BroadcastSettings(repair_rate=settings.repair_rate),
            guard=guard,
            machine=machine,
            rules_of=partial(rules_in, config.streams),
            section="relay",
            find=self._pages_of,
            beyond=self,
            subscribed=self.asked.set,
        )
        self.states: dict[str, str] = {}
        self.intake = Intake(
            node=config.node.name,
            pages=pages,
            find=find,
            tell=self._told,
            settled=self._settled,
            relay=self._pass_on,
            relay_items=self._pass_items,
            paths=settings.paths,
            streams=config.streams,
            linger=settings.linger,
            repair=settings.repair,
            repair_rate=settings.repair_rate,
            guard=guard,
            machine=machine,
        )

    # What is below.

    async def follow(self) -> None:
        """Take in what is subscribed to and exists; let the rest go after a while."""
        await self.look()
        await self.intake.follow()

    async def look(self) -> None:
        """Take in what somebody has subscribed to since the last look."""
        self.asked.clear()
        carried = set(self.intake.streams)
        wanted = self.broadcast.wanted()
        unknown = wanted - carried
        if len(unknown) > FEW:  # one question about all, lest the asking of many costs too much
            unknown &= await self._all()
        new = [stream for stream in unknown if (await self._find(stream)).owned]
        self.intake.want((wanted & carried) | set(new))
        await self.intake.follow(new)

    def _pages_of(self, stream: str, epoch: int) -> Any:
        return self.intake.find(stream, epoch)

    def awaited(self, stream: str) -> bool:
        """Return whether the stream is about to be here."""
        receiver = self.intake.receiver(stream)
        if receiver is None:
            return True  # its subscription may come a moment after the question
        return receiver.state != "absent" and not receiver.ready

    def reach(self, stream: str) -> Reach:
        """Return what its tracks will hold beyond what they hold now."""
        receiver = self.intake.receiver(stream)
        return receiver.reach() if receiver is not None else {}

    def fetch(self, stream: str, run: Run) -> bool:
        """Fetch records for somebody below; return whether they will come."""
        receiver = self.intake.receiver(stream)
        return receiver is not None and receiver.fetch(run, self._now())

    # What comes from above.

    def _pass_on(self, message: Message, frames: list[bytes]) -> None:
        stream = message.stream
        if isinstance(message, Heartbeat):
            now = self._now()
            if now - self._beats.get(stream, 0) < HEARTBEAT_US // 2:
                return  # the same one over another path
            self._beats[stream] = now
        taken = self.broadcast.pass_on(frames)
        if taken and isinstance(message, Media):
            _count(stream, len(message.items), len(frames[2]))

    def _pass_items(self, stream: str, epoch: int, term: int, items: list[Item]) -> None:
        """Send on what did not come in a message of its own: it was pulled, or is lost."""
        for batch in _batches(items):
            frames = encode_media(stream, epoch, term, batch)
            if self.broadcast.pass_on(frames):
                _count(stream, len(batch), len(frames[2]))

    def _settled(self, streams: Collection[str], _: bool) -> None:
        for stream in streams:
            self.broadcast.arrived(stream)

    def _told(self, stream: str, state: str, epoch: int) -> None:
        if epoch:
            self.states[stream] = state
        else:
            self.states.pop(stream, None)
            self._beats.pop(stream, None)
        self.broadcast.arrived(stream)

    def close(self) -> None:
        """Stop; the pages stay."""
        self.intake.close()
        self.broadcast.close()


def _count(stream: str, records: int, size: int) -> None:
    metrics.RECORDS_RELAYED.labels(stream).inc(records)
    metrics.BROADCAST_BYTES.labels(stream).inc(size)


def _batches(items: list[Item]) -> Iterator[list[Item]]:
    """Cut records into messages."""
    batch: list[Item] = []
    size = 0
    for item in items:
        if batch and (size + len(item.payload) > FLUSH_BYTES or len(batch) >= MAX_ROWS):
            yield batch
            batch, size = [], 0
        batch.append(item)
        size += len(item.payload)
    if batch:
        yield batch
