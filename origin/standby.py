"""Streams that other origins own and this one follows: what is heard of them, and when to go on.

A follower keeps the owner's pages and answers from them, holds what its own publishers send, and
asks for the stream as soon as the owner is gone or silent. :class:`origin.streams.Streams` does the
taking over.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from common.errors import AccessDenied, HeadwaterError
from common.runtime import metrics
from common.runtime.config import StreamSettings
from common.runtime.curve import Guard
from common.runtime.logs import Log
from common.runtime.machine import Machine
from common.runtime.registry import Owner
from origin.bus import Bus
from origin.follower import Follower
from origin.mirror import Links, Mirror
from origin.normaliser import SECOND_US
from origin.ownership import Ownership

TICK_SECONDS = 0.05
LOOK_SECONDS = 0.2
"""Between two looks into the registry."""

SILENCE_US = 750_000
"""An owner silent on the bus for three heartbeats is succeeded."""

CUT_US = 300_000
"""So is one whose connection has been broken for so long: twice the time to make it anew."""

QUIET_US = 250_000
"""An owner unknown to the registry has given the stream up if it has been quiet for so long."""

STARVED_US = 1 * SECOND_US
"""An owner that publishes nothing for so long while frames come here has lost its publisher."""

STOP_SECONDS = 1.0
"""How long the registry may take to hear that we stand by no more."""

PATIENCE_US = 10 * SECOND_US
"""How long an origin that was succeeded itself takes silence for its own fault."""

log = Log("origin.standby")


@dataclass(slots=True)
class Standing:
    """One stream that is followed."""

    follower: Follower
    mirror: Mirror
    owner: Owner
    """As it was last known."""

    patient_until_us: int
    gone_us: int | None = None
    """Since when the registry knows no owner any more, on the monotonic clock."""

    known: bool = False
    """Whether the registry knows that we stand by."""

    promoting: bool = False
    aligned: bool = False
    """As it was last logged."""

    @property
    def name(self) -> str:
        """The name of the stream."""
        return self.follower.name

    @property
    def gone(self) -> bool:
        """Whether the registry knows no owner any more."""
        return self.gone_us is not None

    def needed_until_us(self, mirror: bool) -> int | None:
        """Return until when it is kept without a publisher of ours; None: as long as it is owned.

        Pages of an owner that is gone are kept for the ``mirror`` as long as they would be shown.
        """
        settings, left_us = self.follower.settings, self.follower.left_us
        if not mirror:
            return left_us + settings.reconnect.us
        if self.gone_us is None:
            return None
        return max(left_us, self.gone_us) + settings.reconnect.us + settings.window.us


class Standbys:
    """All streams that this origin follows."""

    def __init__(
        self,
        ownership: Ownership,
        bus: Bus,
        promote: Callable[[Standing, str], Awaitable[None]],
        *,
        rate: int,
        guard: Guard,
        machine: Machine,
    ) -> None:
        """``promote`` is called with a reason when the owner is to be succeeded."""
        self._ownership = ownership
        self._bus = bus
        self._promote = promote
        self._rate = rate
        self._machine = machine
        self._now, self._mono = machine.wall_us, machine.mono_us
        self._links = Links(ownership.node, guard, machine)
        self._standings: dict[str, Standing] = {}
        self._tasks: set[asyncio.Task[None]] = set()

    def all(self) -> list[Standing]:
        """Return the streams that are followed, by name."""
        return [self._standings[name] for name in sorted(self._standings)]

    def get(self, stream: str) -> Standing | None:
        """Return a stream if it is followed."""
        return self._standings.get(stream)

    def follow(self, owner: Owner, settings: StreamSettings, *, patient: bool = False) -> Standing:
        """Begin to follow a stream; ``patient`` if it was ours just now."""
        name = owner.stream
        self._ownership.discard(name)
        follower = Follower(name, settings, now=self._now, mono=self._mono)
        mirror = Mirror(name, self._ownership.store(settings.bytes_max), self._rate, self._machine)
        until = self._mono() + PATIENCE_US if patient else 0
        standing = self._standings[name] = Standing(follower, mirror, owner, until)
        self._attach(standing)
        log.info("stream followed", extra={"stream": name, "owner": owner.node})
        return standing

    def _attach(self, standing: Standing) -> None:
        try:
            self._links.attach(standing.mirror, standing.owner)
        except (KeyError, AccessDenied) as error:
            extra = {"stream": standing.name, "error": str(error)}
            log.warning("owner not reached", extra=extra)

    def leave(self, standing: Standing) -> None:
        """Follow a stream no more; its pages are somebody else's business."""
        self._links.detach(standing.mirror)
        del self._standings[standing.name]
        metrics.FOLLOWING.remove_by_labels({"stream": standing.name})
        metrics.FOLLOWER_LAG.remove_by_labels({"stream": standing.name})
        if standing.known:
            self._spawn(self._tell(standing, ready=False))

    async def run(self) -> None:
        """Follow until cancelled."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._ticking())
            tasks.create_task(self._looking())

    async def _ticking(self) -> None:
        while True:
            await asyncio.sleep(TICK_SECONDS)
            self.tick()

    async def _looking(self) -> None:
        while True:
            await asyncio.sleep(LOOK_SECONDS)
            await self.look()

    def tick(self) -> None:
        """Take in what has come, and find owners that are silent."""
        self._links.tick()
        for standing in self.all():
            follower, mirror = standing.follower, standing.mirror
            catalog, writer = mirror.catalog, mirror.writer
            if catalog is not None and writer is not None and catalog is not follower.catalog:
                if follower.catalog is not None and follower.catalog.epoch != catalog.epoch:
                    self._bus.remove(standing.name, follower.catalog.epoch)
                follower.follow(catalog)
                self._bus.mirror(writer, catalog)
            for track, records in mirror.take_new().items():
                follower.records(track, records)
            follower.align()
            if follower.aligned != standing.aligned:
                standing.aligned = follower.aligned
                log.info("alignment", extra={"stream": standing.name, "aligned": standing.aligned})
            metrics.FOLLOWING.labels(standing.name).set(1 + standing.aligned)
            metrics.FOLLOWER_LAG.labels(standing.name).set(follower.lag_us / SECOND_US)
            if not standing.known and catalog is not None:
                standing.known = True
                self._spawn(self._tell(standing, ready=True))
            reason = self._due(standing)
            if reason and not standing.promoting:
                standing.promoting = True
                self._spawn(self._take_over(standing, reason))

    def _due(self, standing: Standing) -> str:
        """Return why the owner is to be succeeded now; nothing if it is not."""
        follower, mono = standing.follower, self._mono()
        if not follower.publishers or not follower.lanes:
            return ""  # who has nothing to publish waits for its publisher, or for another origin
        if standing.gone and mono - follower.record_us > QUIET_US:
            return "gone"  # not while it publishes: the registry may have lost its contents
        if mono < standing.patient_until_us:
            return ""
        if self._links.cut_us(standing.mirror) > CUT_US:
            return "disconnected"
        if self._links.silent_us(standing.mirror) > SILENCE_US:
            return "silent"
        stale = mono - follower.record_us > STARVED_US and follower.lag_us > STARVED_US
        return "starved" if stale and follower.aligned else ""

    async def _take_over(self, standing: Standing, reason: str) -> None:
        try:
            await self._promote(standing, reason)
        except HeadwaterError as error:
            extra = {"stream": standing.name, "error": str(error)}
            log.warning("stream not taken over", extra=extra)
            await self.look()
            await asyncio.sleep(LOOK_SECONDS)
        finally:
            standing.promoting = False

    async def look(self) -> None:
        """Ask the registry who owns what."""
        for standing in self.all():
            try:
                owner = await self._ownership.owner(standing.name)
            except HeadwaterError as error:
                extra = {"stream": standing.name, "error": str(error)}
                log.warning("registry failed", extra=extra)
                continue
            if owner is not None:
                standing.gone_us = None
            elif not standing.gone:
                standing.gone_us = self._mono()
            if owner is None or owner.term <= standing.owner.term:
                continue
            if owner.node != self._ownership.node:
                log.info("owner changed", extra={"stream": owner.stream, "owner": owner.node})
                standing.owner = owner
                self._attach(standing)

    async def _tell(self, standing: Standing, *, ready: bool) -> None:
        try:
            await self._ownership.stand_by(standing.name, ready)
        except HeadwaterError as error:
            standing.known = not ready
            log.warning("registry failed", extra={"stream": standing.name, "error": str(error)})

    def _spawn(self, job: Awaitable[None]) -> None:
        task = asyncio.ensure_future(job)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def remove(self, standing: Standing) -> None:
        """Follow a stream no more and delete its pages."""
        self.leave(standing)
        epoch = standing.follower.catalog.epoch if standing.follower.catalog else 0
        self._bus.remove(standing.name, epoch)
        standing.mirror.remove()

    async def close(self) -> None:
        """Send the publishers away; let go of everything."""
        for standing in self.all():
            for publisher in standing.follower.publishers:
                publisher.dismiss("the node stops")
            self.leave(standing)
            standing.mirror.close()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=STOP_SECONDS)
        self._links.close()
