"""The streams of this origin: the one door for everything that publishes."""

import asyncio
import itertools
import random
import time
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass

from common.errors import AccessDenied, HeadwaterError, NodeUnavailable, StreamBusy, StreamNotFound
from common.runtime import metrics
from common.runtime.config import StreamSettings
from common.runtime.logs import Log
from origin.bus import Bus
from origin.keys import Keyring
from origin.live import LiveStream
from origin.ownership import Claim, Ownership
from origin.publisher import Publisher

REFUSE_DELAY = 0.5
"""At most so many seconds pass before a wrong key is refused: guessing is slow."""

MAX_REFUSALS = 256
"""Refusals that may wait at a time; more are answered at once."""

TICK_SECONDS = 1.0

MAX_SLOT = 64
"""Characters of a slot's name."""

log = Log("origin.streams")


@dataclass(slots=True)
class _Entry:
    """A stream this node owns."""

    live: LiveStream
    claim: Claim
    reserved: int


class Streams:
    """All streams of an origin by name."""

    def __init__(
        self,
        settings: Mapping[str, StreamSettings],
        ownership: Ownership,
        bus: Bus,
        *,
        publishers: int = 1000,
        now: Callable[[], int] = lambda: time.time_ns() // 1000,
        mono: Callable[[], int] = lambda: time.monotonic_ns() // 1000,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
    ) -> None:
        """``now`` tells Unix microseconds, ``mono`` microseconds that never go back."""
        self._keys = Keyring(settings)
        self._ownership = ownership
        self._bus = bus
        self._limit = publishers
        self._now = now
        self._mono = mono
        self._sleep = sleep
        self._entries: dict[str, _Entry] = {}
        self._locks: dict[str, asyncio.Lock] = {}
        self._numbers = itertools.count(1)
        self._refusing = 0
        self._pending = 0
        self._stopping = False

    def live(self) -> list[LiveStream]:
        """Return the streams there are, by name."""
        return [self._entries[name].live for name in sorted(self._entries)]

    async def publish(
        self,
        name: str,
        key: str | None,
        *,
        slot: str = "main",
        peer: str = "",
        protocol: str = "rtmp",
    ) -> Publisher:
        """Return the publisher of one slot.

        A key maps to one stream or wildcard base. ``publish("live", KEY)`` (RTMP ``live/KEY``),
        ``publish("live+alice", KEY)`` and ``publish("live", "KEY+alice")`` all work, and a known
        key finds its stream whatever ``name`` says. ``key=None`` is for sources named in the
        configuration.

        Raises:
            AccessDenied: If the key fits no stream (after a short random delay).
            StreamNotFound: If the key fits but the name does not.
            StreamBusy: If somebody else publishes in this slot, on this origin or another one.
            NodeUnavailable: If the node has its fill of publishers or is stopping.
        """
        try:
            stream = self._keys.resolve(name, key)
            self._check_room()
            return await self._admit(stream, key, slot, peer, protocol)
        except HeadwaterError as error:
            metrics.PUBLISHERS_REFUSED.labels(protocol, type(error).__name__).inc()
            extra = {"peer": peer, "protocol": protocol, "error": type(error).__name__}
            log.warning("publisher refused", extra=extra)
            if isinstance(error, AccessDenied):
                await self._delay()
            raise

    async def _admit(
        self, stream: str, key: str | None, slot: str, peer: str, protocol: str
    ) -> Publisher:
        if not 0 < len(slot) <= MAX_SLOT or not slot.isprintable():
            raise StreamNotFound("a slot's name is 1 to 64 printable characters")
        self._pending += 1
        try:
            live = await self._open(stream)
        finally:
            self._pending -= 1
        if self._stopping:
            raise NodeUnavailable("this node is stopping")
        key_id = b"" if key is None else self._keys.digest(key)
        self._make_way(live, slot, key_id)
        publisher = Publisher(
            live, slot, peer=peer, protocol=protocol, number=next(self._numbers), key_id=key_id
        )
        live.enter(publisher)
        metrics.PUBLISHERS_TOTAL.labels(protocol).inc()
        self._count()
        extra = {"stream": stream, "slot": slot, "protocol": protocol, "peer": peer}
        log.info("publisher entered", extra={**extra, "publisher": publisher.number})
        return publisher

    def _check_room(self) -> None:
        """Refuse what the node cannot take.

        Raises:
            NodeUnavailable: If there are too many publishers, or the node stops.
        """
        if self._stopping:
            raise NodeUnavailable("this node is stopping")
        taken = sum(len(entry.live.publishers) for entry in self._entries.values())
        if taken + self._pending >= self._limit:
            raise NodeUnavailable(f"this node takes at most {self._limit} publishers")

    def _make_way(self, live: LiveStream, slot: str, key_id: bytes) -> None:
        """Free a slot whose publisher has gone silent or may be replaced.

        Raises:
            StreamBusy: If it may not.
        """
        place = live.slot(slot)
        old = place.publisher
        if old is None:
            return
        silent_us = self._mono() - place.last_us
        replace = live.settings.on_conflict == "replace"
        if old.key_id == key_id and (replace or silent_us > live.settings.takeover.us):
            old.dismiss("another publisher with the same key has taken over")
            return
        raise StreamBusy(f"somebody already publishes {live.name} (slot {slot})")

    async def _open(self, name: str) -> LiveStream:
        """Return the stream, owned and with its pages open."""
        lock = self._locks.setdefault(name, asyncio.Lock())
        async with lock:
            entry = self._entries.get(name)
            if entry is None:
                settings = self._keys.settings(name) or StreamSettings()
                claim = await self._ownership.claim(name, settings.bytes_max)
                entry = self._entries[name] = self._begin(settings, claim)
            return entry.live

    def _begin(self, settings: StreamSettings, claim: Claim) -> _Entry:
        live = LiveStream(
            settings,
            claim.writer,
            self._bus,
            term=claim.owner.term,
            first_segment=claim.first_segment,
            now=self._now,
            mono=self._mono,
        )
        if claim.adopted is not None:
            live.adopt(claim.adopted)
        extra = {"stream": live.name, "epoch": claim.owner.epoch, "term": claim.owner.term}
        log.info("stream opened", extra={**extra, "adopted": claim.adopted is not None})
        return _Entry(live, claim, claim.reserved)

    async def _delay(self) -> None:
        if self._refusing >= MAX_REFUSALS:
            return
        self._refusing += 1
        try:
            await self._sleep(random.uniform(0, REFUSE_DELAY))
        finally:
            self._refusing -= 1

    # Pages of an earlier run, and the passing of time.

    async def adopt(self) -> None:
        """Take over the pages that an earlier run of this node has left.

        Their streams can be watched at once and wait for their publishers to come back.
        """
        for name in self._ownership.held():
            settings = self._keys.settings(name)
            if settings is None:
                self._ownership.discard(name)
                continue
            try:
                live = await self._open(name)
            except HeadwaterError as error:
                log.warning("pages not adopted", extra={"stream": name, "error": str(error)})
                continue
            if live.age_us > settings.window.us + settings.reconnect.us:
                await self._remove(name)

    async def run(self) -> None:
        """Look after the streams once a second, until cancelled."""
        while True:
            await asyncio.sleep(TICK_SECONDS)
            await self.tick()

    async def tick(self) -> None:
        """Evict old pages, end and remove streams that nobody publishes, reserve numbers."""
        for name, entry in list(self._entries.items()):
            lock = self._locks[name]
            if not entry.live.tick() and not lock.locked():
                await self._remove(name)
            elif entry.live.next_segment + 10 >= entry.reserved:
                try:
                    entry.reserved = await self._ownership.reserve(name, entry.live.next_segment)
                except HeadwaterError as error:
                    extra = {"stream": name, "error": str(error)}
                    log.warning("no numbers reserved", extra=extra)
        self._count()
        if not self._pending:
            self._locks = {name: self._locks[name] for name in self._entries}

    async def _remove(self, name: str) -> None:
        async with self._locks[name]:
            entry = self._entries.get(name)
            if entry is None or entry.live.publishers:
                return
            del self._entries[name]
            entry.live.remove()
            log.info("stream removed", extra={"stream": name})
            await self._ownership.release(entry.claim.owner)

    async def stop(self) -> None:
        """Send publishers away and let go of all streams; their pages stay."""
        self._stopping = True
        for entry in self._entries.values():
            entry.live.stop()
        for entry in self._entries.values():
            try:
                await self._ownership.release(entry.claim.owner)
            except HeadwaterError as error:
                extra = {"stream": entry.live.name, "error": str(error)}
                log.warning("stream not released", extra=extra)
        self._entries.clear()

    def _count(self) -> None:
        protocols: dict[str, int] = {}
        for entry in self._entries.values():
            for publisher in entry.live.publishers:
                protocols[publisher.protocol] = protocols.get(publisher.protocol, 0) + 1
        metrics.PUBLISHERS.clear()
        for protocol, count in protocols.items():
            metrics.PUBLISHERS.labels(protocol).set(count)
