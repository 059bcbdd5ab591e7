"""The streams of an origin and those that it follows: whose they are, and how they pass on."""

import asyncio
import contextlib
from collections.abc import Mapping
from dataclasses import dataclass

from common.errors import HeadwaterError, NodeUnavailable, StreamBusy
from common.runtime import metrics
from common.runtime.config import StreamSettings
from common.runtime.curve import PLAIN, Guard
from common.runtime.logs import Log
from common.runtime.machine import HERE, Machine
from common.runtime.registry import Owner
from common.track.store import StreamWriter
from origin.bus import Bus
from origin.follower import Follower
from origin.heir import Heir
from origin.keys import Keyring
from origin.ownership import RESERVE, Claim, Ownership
from origin.publisher import Publisher
from origin.standby import Standbys, Standing

TICK_SECONDS = 1.0
PULSE_SECONDS = 0.1
ANSWER_SECONDS = 1.0
"""How long the registry may take to say whose a stream is; media do not wait longer for it."""

log = Log("origin.streams")


@dataclass(slots=True)
class _Entry:
    """A stream this node owns."""

    live: Heir
    owner: Owner
    reserved: int
    verifying: bool = False


class Estate:
    """All streams of an origin by name."""

    def __init__(
        self,
        settings: Mapping[str, StreamSettings],
        ownership: Ownership,
        bus: Bus,
        *,
        standby: str = "follow",
        mirror: bool = False,
        repair_rate: int = 31_000_000,
        guard: Guard = PLAIN,
        machine: Machine = HERE,
    ) -> None:
        """``standby`` and ``mirror`` are settings of the origin.

        ``repair_rate`` is what mirrors may fetch of the past, in bytes a second.
        """
        self._keys = Keyring(settings)
        self._ownership = ownership
        self._bus = bus
        self._now, self._mono = machine.wall_us, machine.mono_us
        self._entries: dict[str, _Entry] = {}
        self._locks: dict[str, asyncio.Lock] = {}
        self._pending = 0
        self._stopping = False
        self._policy = standby
        self._mirror = mirror
        self._standbys = Standbys(
            ownership, bus, self._promote, rate=repair_rate, guard=guard, machine=machine
        )
        self._verifying: set[asyncio.Task[None]] = set()

    def followed(self) -> list[Standing]:
        """Return the streams of other origins that are followed here, by name."""
        return self._standbys.all()

    async def look(self) -> None:
        """Ask the registry whose the streams are that are followed here."""
        await self._standbys.look()

    def redefine(self) -> None:
        """Use the settings of streams as they are now, also for those that run."""
        self._keys.refresh()
        for live in self.live():
            live.redefine(self._keys.settings(live.name) or live.settings)

    def live(self) -> list[Heir]:
        """Return the streams there are, by name."""
        return [self._entries[name].live for name in sorted(self._entries)]

    async def _host(self, name: str) -> Heir | Follower:
        """Return what a publisher of a stream feeds: the stream, or what follows another origin's.

        Raises:
            StreamBusy: If another origin owns it and we are not to follow.
        """
        standing = self._standbys.get(name)
        if standing is not None:
            return standing.follower
        try:
            return await self._open(name)
        except StreamBusy:
            owner = await self._ownership.owner(name)
            if self._policy != "follow" or owner is None or owner.node == self._ownership.node:
                raise
        return self._follow(owner).follower

    def _follow(self, owner: Owner, *, patient: bool = False) -> Standing:
        standing = self._standbys.get(owner.stream)
        if standing is None:
            settings = self._keys.settings(owner.stream) or StreamSettings()
            standing = self._standbys.follow(owner, settings, patient=patient)
        return standing

    async def _open(self, name: str) -> Heir:
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
        live = self._heir(settings, claim.writer, claim.owner.term, claim.first_segment)
        if claim.adopted is not None:
            live.adopt(claim.adopted)
        extra = {"stream": live.name, "epoch": claim.owner.epoch, "term": claim.owner.term}
        log.info("stream opened", extra={**extra, "adopted": claim.adopted is not None})
        return _Entry(live, claim.owner, claim.reserved)

    def _heir(self, settings: StreamSettings, writer: StreamWriter, term: int, first: int) -> Heir:
        clocks = {"now": self._now, "mono": self._mono}
        return Heir(settings, writer, self._bus, term=term, first_segment=first, **clocks)

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
            except StreamBusy:
                self._ownership.discard(name)  # its new owner has them, and more
                continue
            except HeadwaterError as error:
                log.warning("pages not adopted", extra={"stream": name, "error": str(error)})
                continue
            if live.age_us > settings.window.us + settings.reconnect.us:
                await self._remove(name)

    async def run(self) -> None:
        """Look after the streams once a second, until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._standbys.run())
            tasks.create_task(self._pulsing())
            while True:
                await asyncio.sleep(TICK_SECONDS)
                await self.tick()

    async def _pulsing(self) -> None:
        while True:
            self.pulse()
            await asyncio.sleep(PULSE_SECONDS)

    def pulse(self) -> None:
        """Let followed streams know that this process runs; after a pause ask whose they are."""
        mono = self._mono()
        for name, entry in self._entries.items():
            if entry.live.fence.pulse(mono, entry.live.followed) and not entry.verifying:
                log.warning("this process stood still", extra={"stream": name})
                task = asyncio.create_task(self._verify(name, entry))
                self._verifying.add(task)
                task.add_done_callback(self._verifying.discard)

    async def _verify(self, name: str, entry: _Entry) -> None:
        """Step down if another node owns the stream; else publish what has waited for this."""
        entry.verifying = True
        try:
            owner = await asyncio.wait_for(self._ownership.owner(name), ANSWER_SECONDS)
            entry.live.followed = await self._ownership.followed(name)
        except (HeadwaterError, OSError) as error:
            owner = None
            extra = {"stream": name, "error": str(error) or "no answer"}
            log.warning("not known whose the stream is", extra=extra)
        finally:
            entry.verifying = False
        if self._entries.get(name) is not entry or self._stopping:
            return
        if owner is not None and owner.node != self._ownership.node:
            if owner.term > entry.owner.term:
                self._step_down(name, entry, owner)
                return
            await self._enter(entry, owner)
        entry.live.thaw()

    async def _enter(self, entry: _Entry, old: Owner) -> None:
        """Tell a registry that did not answer when we took a stream over."""
        epoch = entry.live.catalog.epoch
        with contextlib.suppress(HeadwaterError):
            entry.owner = await self._ownership.take(old.stream, epoch, old.term)
            entry.live.renew(entry.owner.term)

    def _step_down(self, name: str, entry: _Entry, owner: Owner) -> None:
        """Give a stream to the node that has taken it over; follow that if there is reason to."""
        del self._entries[name]
        extra = {"stream": name, "owner": owner.node, "term": owner.term}
        log.warning("another origin has taken over", extra=extra)
        live = entry.live
        if live.publishers or self._mirror:
            live.writer.close()  # else its folder cannot be used for the mirror
            live.hand_over(self._follow(owner, patient=True).follower)
        else:
            live.remove()
        metrics.STEP_DOWNS.labels(name).inc()

    async def _promote(self, standing: Standing, reason: str) -> None:
        """Become the owner of a stream that is followed, and go on with it."""
        name, over = standing.name, standing.owner.term
        async with self._locks.setdefault(name, asyncio.Lock()):
            adopted = standing.mirror.read()
            epoch = adopted.catalog.epoch if adopted is not None else 0
            least = adopted.opened.segment + 1 if adopted is not None else 0
            try:
                taking = self._ownership.take(name, epoch, over)
                owner = await asyncio.wait_for(taking, ANSWER_SECONDS)
                reserving = self._ownership.reserve(name, least)
                reserved = await asyncio.wait_for(reserving, ANSWER_SECONDS)
            except (TimeoutError, OSError, NodeUnavailable):
                owner = self._ownership.claim_without(name, epoch, over, self._now())
                reserved = least + RESERVE
            if self._standbys.get(name) is standing and not self._stopping:
                self._succeed(standing, owner, reserved, reason)

    def _succeed(self, standing: Standing, owner: Owner, reserved: int, reason: str) -> None:
        """Go on in the owner's place: without a seam if we know what it has published."""
        name, follower = standing.name, standing.follower
        for track, records in standing.mirror.take_new().items():
            follower.records(track, records)
        follower.align()
        adopted = standing.mirror.read()
        self._standbys.leave(standing)
        writer = standing.mirror.hand_over()
        if writer is not None and adopted is None:
            self._bus.remove(name, writer.epoch)
            writer.remove()
        if writer is None or adopted is None:
            writer = self._ownership.store(follower.settings.bytes_max).open(name, owner.epoch)
        first = adopted.opened.segment + 1 if adopted else reserved - RESERVE
        live = self._heir(follower.settings, writer, owner.term, first)
        self._entries[name] = _Entry(live, owner, reserved)
        seamless = live.inherit(adopted, follower)
        metrics.TAKEOVERS.labels(name, reason).inc()
        extra = {"stream": name, "epoch": owner.epoch, "term": owner.term, "reason": reason}
        log.warning("stream taken over", extra={**extra, "seamless": seamless})

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
            if self._entries.get(name) is entry and not entry.verifying:
                await self._verify(name, entry)
        await self._tend_standbys()
        self._count()
        if not self._pending:
            self._locks = {
                n: lock for n, lock in self._locks.items() if lock.locked() or n in self._entries
            }

    async def _tend_standbys(self) -> None:
        """Follow what is to be mirrored; forget what nobody publishes or owns any more."""
        owners = await self._ownership.owners() if self._mirror else []
        for owner in owners:
            mine = owner.node == self._ownership.node or owner.stream in self._entries
            if not mine and self._keys.settings(owner.stream) is not None:
                self._follow(owner)
        for standing in self._standbys.all():
            until_us = standing.needed_until_us(self._mirror)
            if standing.follower.publishers or standing.promoting or until_us is None:
                continue
            if self._mono() > until_us:
                self._standbys.remove(standing)

    async def _remove(self, name: str) -> None:
        async with self._locks[name]:
            entry = self._entries.get(name)
            if entry is None or entry.live.publishers:
                return
            del self._entries[name]
            entry.live.remove()
            log.info("stream removed", extra={"stream": name})
            await self._ownership.release(entry.owner)

    async def stop(self) -> None:
        """Send publishers away and let go of all streams; their pages stay."""
        self._stopping = True
        for entry in self._entries.values():
            entry.live.stop()
        for entry in self._entries.values():
            try:
                await self._ownership.release(entry.owner)
            except HeadwaterError as error:
                extra = {"stream": entry.live.name, "error": str(error)}
                log.warning("stream not released", extra=extra)
        self._entries.clear()
        await self._standbys.close()

    def _publishers(self) -> list[Publisher]:
        hosts: list[Heir | Follower] = [entry.live for entry in self._entries.values()]
        hosts += [standing.follower for standing in self._standbys.all()]
        return [publisher for host in hosts for publisher in host.publishers]

    def _count(self) -> None:
        protocols: dict[str, int] = {}
        for publisher in self._publishers():
            protocols[publisher.protocol] = protocols.get(publisher.protocol, 0) + 1
        metrics.PUBLISHERS.clear()
        for protocol, count in protocols.items():
            metrics.PUBLISHERS.labels(protocol).set(count)
