"""The registry of several machines: Consul behind the port of :mod:`common.runtime.registry`.

What is asked is answered from :class:`View`, what this process has is kept by :class:`Claims`; no
call waits for Consul longer than its ``timeout``, and none fails because it is away, but those
that exist to change it. A stream that nobody is known to own can be taken without it.
"""

import asyncio
import contextlib
import os
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from typing import Any

from common.errors import NodeUnavailable, StreamBusy
from common.names import check_name
from common.runtime.consul import Agent, ConsulDenied, ConsulDown, Pair
from common.runtime.consul_claims import RETRY, Claims
from common.runtime.consul_entries import (
    Numbers,
    definition_key,
    numbers_key,
    owner_key,
    owner_tree,
    read_numbers,
    read_owner,
    session_of,
)
from common.runtime.consul_settings import ConsulSettings
from common.runtime.consul_view import CONFIG, DISTANCES, LIVE, ROLES, View
from common.runtime.logs import Log
from common.runtime.registry import DRAIN_TIMEOUT, NodeEntry, Owner, Standby, now_us

log = Log("consul")


class ConsulRegistry:
    """The :class:`Registry` of the nodes of one Consul, in all its datacenters."""

    def __init__(
        self, settings: ConsulSettings, agent: Agent, view: View, claims: Claims, clock: Any
    ) -> None:
        """Use :func:`open_consul` instead."""
        self._settings = settings
        self._agent = agent
        self._view = view
        self._claims = claims
        self._clock = clock

    async def register(self, entry: NodeEntry) -> None:
        """Make a node known, at once or as soon as Consul answers.

        Raises:
            ConfigError: If another live node has this name, or the token does not allow it.
        """
        await self._view.need(LIVE, entry.role)
        await self._claims.register(entry)

    async def unregister(self, name: str) -> None:
        """Take a node out."""
        await self._claims.unregister(name)

    async def nodes(self, role: str = "") -> list[NodeEntry]:
        """Return the nodes that are believed to live."""
        await self._view.need(LIVE, *([role] if role else ROLES))
        return self._view.nodes(role)

    async def members(self) -> list[NodeEntry]:
        """Return all nodes that registered and were not taken out."""
        await self._view.need(LIVE, *ROLES)
        return self._view.members()

    async def acquire(
        self, stream: str, node: str, endpoints: Mapping[str, str], epoch: int = 0, over: int = 0
    ) -> Owner:
        """Become the owner of a stream.

        Without Consul the last known state decides.

        Raises:
            StreamBusy: If a live node owns it.
        """
        check_name(stream)
        await self._view.need(LIVE, "origin")
        made = Owner(stream, node, epoch, 0, dict(endpoints), os.getpid())
        if self._claims.up:
            try:
                async with asyncio.timeout(2 * float(self._settings.timeout)):
                    return await self._acquire(made, over)
            except (ConsulDown, ConsulDenied, TimeoutError) as error:
                extra = {"stream": stream, "error": str(error)}
                log.warning("stream taken without consul", extra=extra)
        known = self._view.owner(stream)
        if known is not None and known.node != node and known.term != over:
            raise StreamBusy(f"{stream} is already published on {known.node}")
        owner = self._numbered(made, known)
        self._claims.take(owner)
        return owner

    async def _acquire(self, made: Owner, over: int) -> Owner:
        await self._claims.start(made.node)
        session = await self._claims.session()
        await asyncio.gather(*(self._ask_far(made, over, name) for name in self._view.others()))
        key = owner_key(self._settings, made.stream)
        numbers = numbers_key(self._settings, made.stream)
        while True:
            pair = await self._agent.read(key)
            there = read_owner(pair)
            if there is not None and session_of(pair) != session:
                await self._make_way(made, over, pair, there)
            self._learn(made.stream, await self._agent.read(numbers))
            owner = self._numbered(made, there)
            if await self._agent.write(key, owner_tree(owner), acquire=session):
                self._claims.take(owner)
                return owner
            await asyncio.sleep(RETRY)  # the lock delay, or somebody was faster

    async def _ask_far(self, made: Owner, over: int, datacenter: str) -> None:
        """Ask another datacenter whether it has the stream; one that is away is not waited for."""
        key = owner_key(self._settings, made.stream)
        try:
            pair = await self._agent.read(key, datacenter, stale=True)
            numbers = await self._agent.read(
                numbers_key(self._settings, made.stream), datacenter, stale=True
            )
        except (ConsulDown, ConsulDenied) as error:
            lock = self._view.lock(made.stream, datacenter)
            owner, locked = (lock.owner, bool(lock.session)) if lock else (None, False)
            log.debug("datacenter not asked", extra={"node": datacenter, "error": str(error)})
        else:
            owner, locked = read_owner(pair), bool(session_of(pair))
            self._learn(made.stream, numbers)
        if owner is not None:
            self._seen(owner)
            if locked and owner.node != made.node and owner.term != over:
                place = f"{owner.node} in {datacenter}"
                raise StreamBusy(f"{made.stream} is already published on {place}")

    async def _make_way(self, made: Owner, over: int, pair: Pair | None, there: Owner) -> None:
        """Free the lock of an earlier process of ours, or of the owner that is passed over.

        Raises:
            StreamBusy: If another node has the stream.
        """
        held, ours = session_of(pair), there.node == made.node or there.term == over
        if not ours and (held or self._view.passing(there.node)):
            raise StreamBusy(f"{made.stream} is already published on {there.node}")
        if ours and held:
            key = owner_key(self._settings, made.stream)
            await self._agent.write(key, owner_tree(there), release=held)

    def _learn(self, stream: str, pair: Pair | None) -> None:
        found = read_numbers(pair)
        if found is not None:
            self._claims.numbers[stream] = self._claims.numbers.get(stream, Numbers()).joined(found)

    def _seen(self, owner: Owner) -> None:
        numbers = self._claims.numbers.get(owner.stream, Numbers())
        self._claims.numbers[owner.stream] = numbers.joined(Numbers(owner.epoch, owner.term))

    def _numbered(self, made: Owner, known: Owner | None) -> Owner:
        """Return the owner with a term, and if it has none an epoch, above all that are known."""
        if known is not None:
            self._seen(known)
        numbers = self._claims.numbers.get(made.stream, Numbers())
        now = self._clock()
        epoch = made.epoch or max(numbers.epoch + 1, now)
        term = max(numbers.term + 1, now)
        return Owner(made.stream, made.node, epoch, term, made.endpoints, made.pid)

    async def release(self, owner: Owner) -> None:
        """Give a stream up, unless somebody else has it by now."""
        await self._claims.release(owner)

    async def owner(self, stream: str) -> Owner | None:
        """Return who is believed to own a stream."""
        await self._view.need(LIVE, "origin")
        return self._view.owner(stream)

    async def owners(self) -> list[Owner]:
        """Return the owners of all streams."""
        await self._view.need(LIVE, "origin")
        return self._view.owners()

    async def reserve_segments(self, stream: str, count: int, at_least: int = 0) -> int:
        """Return the first of ``count`` segment numbers that nobody was given before."""
        if stream not in self._claims.numbers and self._claims.up:
            with contextlib.suppress(ConsulDown, ConsulDenied):
                key = numbers_key(self._settings, stream)
                self._learn(stream, await self._agent.read(key))
        return self._claims.reserve(stream, count, at_least)

    async def stand_by(self, stream: str, node: str, endpoints: Mapping[str, str]) -> None:
        """Make known that ``node`` can go on with a stream that another node owns."""
        standby = Standby(check_name(stream), node, dict(endpoints), os.getpid())
        if self._claims.up:
            with contextlib.suppress(ConsulDown, ConsulDenied):
                await self._claims.start(node)
        self._claims.stand_by(standby)

    async def stand_down(self, stream: str, node: str) -> None:
        """Take that back."""
        self._claims.stand_down(stream, node)

    async def standbys(self, stream: str) -> list[Standby]:
        """Return who is believed to be able to go on with a stream."""
        await self._view.need(LIVE, "origin")
        return self._view.standbys(stream)

    async def drain(self, name: str, draining: bool, timeout: float = DRAIN_TIMEOUT) -> None:
        """Say that the viewers of a node are to be moved away, or take that back.

        Raises:
            NodeUnavailable: If no live node has this name, or Consul cannot be asked.
        """
        await self._view.need(LIVE, *ROLES)
        for one in self._view.instances():
            if one.entry.name == name:
                near = one.datacenter == self._view.datacenter
                where = "" if near else one.datacenter
                await self._claims.drain(name, where, timeout if draining else None)
                return
        raise NodeUnavailable(f"no live node is called {name!r}")

    async def define(self, stream: str, settings: Mapping[str, Any] | None) -> None:
        """Write down the settings of a stream or wildcard base; None deletes them.

        Raises:
            NodeUnavailable: If Consul cannot be asked.
        """
        key, primary = definition_key(self._settings, check_name(stream)), self._settings.primary
        if settings is None:
            await self._agent.remove(key, primary)
        else:
            await self._agent.write(key, dict(settings), primary)

    async def definitions(self) -> dict[str, dict[str, Any]]:
        """Return the settings that were written down, by stream."""
        await self._view.need(CONFIG)
        return self._view.definitions

    async def round_trips(self) -> dict[frozenset[str], float]:
        """Return the seconds between datacenters by Consul's coordinates, from memory."""
        self._view.begin(DISTANCES)
        return self._view.round_trips()

    def trouble(self) -> str:
        """Return why Consul has never answered; nothing if it has."""
        return self._view.trouble()


@contextlib.asynccontextmanager
async def open_consul(
    settings: ConsulSettings, memory: Path, clock: Callable[[], int] = now_us
) -> AsyncIterator[ConsulRegistry]:
    """Use the Consul of these settings for the time of a block.

    ``memory`` is a folder for what Consul said last; ``clock`` tells Unix microseconds.

    Raises:
        ConfigError: If the settings are no good.
    """
    agent = Agent(settings)
    view = View(settings, agent, memory)
    claims = Claims(settings, agent, view, clock)
    try:
        await view.open()
        tasks = [asyncio.create_task(one) for one in (claims.beat(), claims.tend())]
        try:
            yield ConsulRegistry(settings, agent, view, claims, clock)
        finally:
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            await claims.close()
    finally:
        # First the connections: queries in flight are cut, where a cancelled one would leave its
        # TLS connection waiting for a farewell.
        await agent.close()
        await view.close()
