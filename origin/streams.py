"""The streams of this origin: the one door for everything that publishes."""

import asyncio
import itertools
import random
from collections.abc import Awaitable, Callable, Mapping
from typing import Any

from common.errors import AccessDenied, HeadwaterError, NodeUnavailable, StreamBusy, StreamNotFound
from common.runtime import metrics
from common.runtime.config import StreamSettings
from common.runtime.logs import Log
from common.runtime.registry import Owner
from origin.bus import Bus
from origin.estate import ANSWER_SECONDS, Estate
from origin.follower import Follower
from origin.heir import Heir
from origin.ownership import Ownership
from origin.publisher import Publisher

REFUSE_DELAY = 0.5
"""At most so many seconds pass before a wrong key is refused: guessing is slow."""

MAX_REFUSALS = 256
"""Refusals of wrong keys that are delayed at a time. More are answered at once."""

MAX_SLOT = 64
"""Characters of a slot's name. A longer one is refused."""

log = Log("origin.streams")


class Streams(Estate):
    """The door to an origin's streams."""

    def __init__(
        self,
        settings: Mapping[str, StreamSettings],
        ownership: Ownership,
        bus: Bus,
        *,
        publishers: int = 1000,
        sleep: Callable[[float], Awaitable[None]] = asyncio.sleep,
        **more: Any,
    ) -> None:
        """At most so many ``publishers`` at a time; ``more`` is the business of :class:`Estate`."""
        super().__init__(settings, ownership, bus, **more)
        self._limit = publishers
        self._sleep = sleep
        self._numbers = itertools.count(1)
        self._refusing = 0

    async def publish(
        self,
        name: str,
        key: str | None,
        *,
        slot: str = "main",
        peer: str = "",
        protocol: str = "rtmp",
        forwarded: bool = False,
    ) -> Publisher:
        """Return the publisher of one slot; ``forwarded`` if another origin passes it on.

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
            publisher = await self._admit(stream, key, slot, peer, protocol, forwarded)
        except HeadwaterError as error:
            metrics.PUBLISHERS_REFUSED.labels(protocol, type(error).__name__).inc()
            extra = {"peer": peer, "protocol": protocol, "error": type(error).__name__}
            log.warning("publisher refused", extra=extra)
            if isinstance(error, AccessDenied):
                await self._delay()
            raise
        publisher.forwarded = forwarded
        return publisher

    async def elsewhere(self, name: str, key: str | None) -> Owner | None:
        """Return the owner of a stream if that is another node that may lack its publisher."""
        try:
            stream = self._keys.resolve(name, key)
            standing = self._standbys.get(stream)
            if stream in self._entries or (standing is not None and standing.gone):
                return None
            owner = await asyncio.wait_for(self._ownership.owner(stream), ANSWER_SECONDS)
        except (HeadwaterError, OSError):
            return None  # publish() says what is wrong
        ours = owner is None or owner.node == self._ownership.node or self._policy == "refuse"
        return None if ours else owner

    async def _admit(
        self,
        stream: str,
        key: str | None,
        slot: str,
        peer: str,
        protocol: str,
        forwarded: bool = False,
    ) -> Publisher:
        if not 0 < len(slot) <= MAX_SLOT or not slot.isprintable():
            raise StreamNotFound("a slot's name is 1 to 64 printable characters")
        self._pending += 1
        try:
            live = await (self._open(stream) if forwarded else self._host(stream))
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
        if len(self._publishers()) + self._pending >= self._limit:
            raise NodeUnavailable(f"this node takes at most {self._limit} publishers")

    def _make_way(self, live: Heir | Follower, slot: str, key_id: bytes) -> None:
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
        replace = replace or old.forwarded
        if old.key_id == key_id and (replace or silent_us > live.settings.takeover.us):
            old.dismiss("another publisher with the same key has taken over")
            return
        raise StreamBusy(f"somebody already publishes {live.name} (slot {slot})")

    async def _delay(self) -> None:
        if self._refusing >= MAX_REFUSALS:
            return
        self._refusing += 1
        try:
            await self._sleep(random.uniform(0, REFUSE_DELAY))
        finally:
            self._refusing -= 1
