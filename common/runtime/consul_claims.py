"""What a process has in Consul: its node, its streams and standbys, kept there while it lives.

Consul may be away, hang, or come back empty. What the process holds is therefore written down
here first; a task brings Consul in line with it whenever it can. Of two origins that took the same
stream while they could not see each other the higher term is right, and the other lets go.
"""

import asyncio
import contextlib
from collections.abc import Callable
from dataclasses import dataclass, replace

from common.errors import ConfigError
from common.runtime import metrics
from common.runtime.consul import Agent, ConsulDenied, ConsulDown
from common.runtime.consul_entries import (
    Numbers,
    drain_key,
    is_mine,
    numbers_key,
    owner_key,
    owner_tree,
    read_numbers,
    read_owner,
    service,
    service_id,
    session_of,
    standby_key,
    standby_tree,
    ttl_check,
)
from common.runtime.consul_settings import ConsulSettings
from common.runtime.consul_view import View
from common.runtime.logs import Log
from common.runtime.registry import NodeEntry, Owner, Standby

RETRY = 0.1
"""Seconds between two attempts at something that Consul needs a moment for."""

TRIES = 5
"""Attempts at a change that others may make at the same time."""

REASON = "headwater drain"

log = Log("consul")


@dataclass(slots=True)
class Node:
    """A node of this process."""

    entry: NodeEntry
    starting: bool
    written: bool = False
    maintained: bool = False
    """We have taken it into maintenance."""


class Claims:
    """Everything of this process that Consul is to know."""

    def __init__(
        self,
        settings: ConsulSettings,
        agent: Agent,
        view: View,
        clock: Callable[[], int],
    ) -> None:
        """``clock`` tells Unix microseconds."""
        self.nodes: dict[str, Node] = {}
        self.standing: dict[tuple[str, str], Standby] = {}
        self.numbers: dict[str, Numbers] = {}
        self.up = True
        """Whether Consul answered the last time."""
        self._settings = settings
        self._agent = agent
        self._view = view
        self._clock = clock
        self._session = ""
        self._holder = ""
        """The node to which the session belongs."""
        self._written: dict[str, Numbers] = {}
        self._leaving: dict[str, Owner] = {}
        self._downs: set[tuple[str, str]] = set()
        self._tending, self._writing = asyncio.Lock(), asyncio.Lock()

    # Nodes.

    async def register(self, entry: NodeEntry) -> None:
        """Make a node known, now or as soon as Consul answers.

        Raises:
            ConfigError: If another live process has this name, or the token does not allow it.
        """
        self._check_name(entry)
        before = self.nodes.get(entry.name)
        node = self.nodes[entry.name] = Node(entry, starting=False)
        node.maintained = before is not None and before.maintained
        try:
            await self._write_node(entry.name)
        except ConsulDenied as error:
            raise ConfigError("node.consul.token", str(error)) from error
        except ConsulDown as error:
            self._failed(error)
        self.wake()

    async def _write_node(self, name: str) -> None:
        """Write a node as it is now; one at a time, or an older word could be the last."""
        async with self._writing:
            node = self.nodes.get(name)
            if node is not None:
                await self._agent.register(service(self._settings, node.entry, node.starting))
                node.written = True
                self._worked()

    def _check_name(self, entry: NodeEntry) -> None:
        for one in self._view.instances():
            if one.entry.name == entry.name and one.entry.pid != entry.pid and not is_mine(one):
                where = f"process {one.entry.pid}"
                reason = f"{entry.name!r} is the name of a node that runs as {where}"
                raise ConfigError("node.name", reason)

    async def unregister(self, name: str) -> None:
        """Take a node out."""
        if self.nodes.pop(name, None) is None or not self.up:
            return
        with contextlib.suppress(ConsulDown, ConsulDenied):
            async with self._writing:
                await self._agent.deregister(service_id(self._settings, name))

    async def close(self) -> None:
        """Let go of the session; what is still registered was not meant to be."""
        for name in list(self.nodes):
            await self.unregister(name)
        if self._session and self.up:
            with contextlib.suppress(ConsulDown, ConsulDenied):
                await self._agent.end_session(self._session)

    # The beat: by it the agent knows that we live.

    async def beat(self) -> None:
        """Report to the agent, until cancelled; nobody waits for this task."""
        span = float(self._settings.ttl) / 3
        while True:
            try:
                await self._report()
            except (ConsulDown, ConsulDenied) as error:
                self._failed(error)
            pause = span if self.up else min(span, 1.0)
            await asyncio.sleep(pause)

    async def _report(self) -> None:
        for name, node in list(self.nodes.items()):
            if node.written and await self._agent.alive(ttl_check(self._settings, name)):
                continue
            node.maintained = False
            await self._write_node(name)
        # A TTL can be reported without a leader; nothing else can be done without one.
        if not await self._agent.leader():
            raise ConsulDown("Consul has no leader")
        self._worked()

    def wake(self) -> None:
        """Have what is new written soon."""
        self._view.changed.set()

    def _failed(self, error: Exception) -> None:
        if self.up:
            log.warning("consul cannot be asked", extra={"error": str(error)})
        self.up = False
        metrics.REGISTRY_UP.set(0)
        metrics.REGISTRY_FAILURES.labels("report").inc()

    def _worked(self) -> None:
        if not self.up:
            log.info("consul answers again")
            self.wake()
        self.up = True
        metrics.REGISTRY_UP.set(1)

    # The tending: Consul is brought in line with what we hold.

    async def tend(self) -> None:
        """Bring Consul in line whenever something has changed, until cancelled."""
        while True:
            self._view.changed.clear()
            if self.up and self.nodes:
                try:
                    await self._tend()
                except (ConsulDown, ConsulDenied) as error:
                    log.warning("not written to consul", extra={"error": str(error)})
                    metrics.REGISTRY_FAILURES.labels("write").inc()
                    await asyncio.sleep(min(1.0, float(self._settings.ttl) / 3))
            with contextlib.suppress(TimeoutError):
                async with asyncio.timeout(float(self._settings.ttl) / 3):
                    await self._view.changed.wait()

    async def _tend(self) -> None:
        await self._maintain()
        async with self._tending:
            for stream, owner in list(self._leaving.items()):
                await self._leave(owner)
                self._leaving.pop(stream, None)
            for stream, name in list(self._downs):
                await self._agent.remove(standby_key(self._settings, stream, name))
                self._downs.discard((stream, name))
            if not self._view.mine and not self.standing:
                return
            session = await self.session()
            for owner in list(self._view.mine.values()):
                await self._hold(owner, session)
            for standby in list(self.standing.values()):
                if not self._view.stands(standby, session):
                    key = standby_key(self._settings, standby.stream, standby.node)
                    await self._agent.write(key, standby_tree(standby), acquire=session)
        for stream in list(self.numbers):
            await self._write_numbers(stream)

    async def _maintain(self) -> None:
        """Take our nodes into maintenance while they are to be drained."""
        for name, node in self.nodes.items():
            flagged = self._view.flagged(name)
            if flagged != node.maintained and not node.starting:
                await self._agent.maintain(service_id(self._settings, name), flagged, REASON)
                node.maintained = flagged

    async def _hold(self, owner: Owner, session: str) -> None:
        """See that Consul says that a stream is ours, unless a higher term says otherwise."""
        stream, key = owner.stream, owner_key(self._settings, owner.stream)
        locks = [self._view.lock(stream, name) for name in self._view.others()]
        seen = self._view.lock(stream)
        if not any(locks) and seen and (seen.owner, seen.session) == (owner, session):
            return
        pair = await self._agent.read(key)
        there = read_owner(pair)
        rivals = [lock.owner for lock in locks if lock] + ([there] if there else [])
        if any(rival.term > owner.term and rival.node != owner.node for rival in rivals):
            log.warning("stream lost to a higher term", extra={"stream": stream})
            self._view.mine.pop(stream, None)
            if there is not None and session_of(pair) == session:
                await self._agent.write(key, owner_tree(there), release=session)
            return
        if there == owner and session_of(pair) == session:
            return
        if self._view.mine.get(stream) != owner:
            return  # given up meanwhile
        if await self._agent.write(key, owner_tree(owner), acquire=session):
            self._written.pop(stream, None)  # where the owner is not known, its numbers are not
            log.info("stream written to consul", extra={"stream": stream, "term": owner.term})
        elif pair is not None and there is not None and there.term < owner.term:
            # Who has the lock has a lower term: it lets go as soon as it reads ours.
            await self._agent.write(key, owner_tree(owner), cas=int(pair["ModifyIndex"]))
        else:
            log.info("stream not locked yet", extra={"stream": stream})

    async def session(self) -> str:
        """Return a session that lives as long as our node reports itself."""
        name = next(iter(self.nodes))
        ours = self._session if self._holder == name else ""
        if ours and await self._agent.session_lives(ours):
            return ours
        checks = ["serfHealth", ttl_check(self._settings, name)]
        give_up = asyncio.get_running_loop().time() + float(self._settings.timeout)
        while True:
            try:
                delay = float(self._settings.lock_delay)
                made = await self._agent.session(service_id(self._settings, name), checks, delay)
            except ConsulDown:
                # A check that was registered a moment ago may not have reached the servers.
                if asyncio.get_running_loop().time() + RETRY > give_up:
                    raise
                await asyncio.sleep(RETRY)
            else:
                self._session, self._holder = made, name
                return made

    async def start(self, node: str) -> None:
        """Make sure that there is a check that sessions can depend on, also before we are ready."""
        if node not in self.nodes:
            entry = NodeEntry(node, "origin", {})
            self._check_name(entry)
            self.nodes[node] = Node(entry, starting=True)
        if not self.nodes[node].written:
            await self._write_node(node)

    # Streams.

    def take(self, owner: Owner) -> None:
        """Hold a stream from now on."""
        self._leaving.pop(owner.stream, None)
        self._view.mine[owner.stream] = owner
        numbers = Numbers(owner.epoch, owner.term)
        self.numbers[owner.stream] = self.numbers.get(owner.stream, Numbers()).joined(numbers)
        self.wake()

    async def release(self, owner: Owner) -> None:
        """Give a stream up, unless somebody else has it by now."""
        mine = self._view.mine.get(owner.stream)
        if mine is not None and mine.term == owner.term:
            del self._view.mine[owner.stream]
        elif mine is not None:
            return
        self._leaving[owner.stream] = owner
        if self.up:
            try:
                async with self._tending:
                    await self._leave(owner)
                self._leaving.pop(owner.stream, None)
            except (ConsulDown, ConsulDenied) as error:
                self._failed(error)

    async def _leave(self, owner: Owner) -> None:
        key = owner_key(self._settings, owner.stream)
        for _ in range(TRIES):
            pair = await self._agent.read(key)
            there = read_owner(pair)
            if pair is None or there is None or there.node != owner.node:
                return
            if there.term > owner.term or owner.stream in self._view.mine:
                return
            await self._write_numbers(owner.stream)
            if session_of(pair):
                # Else the lock would stay forbidden to others for the time of the lock delay.
                await self._agent.write(key, owner_tree(there), release=session_of(pair))
                pair = await self._agent.read(key)
            if pair is None or session_of(pair) or read_owner(pair) != there:
                continue
            if await self._agent.remove(key, cas=int(pair["ModifyIndex"])):
                return

    def stand_by(self, standby: Standby) -> None:
        """Keep a standby of ours."""
        self.standing[standby.stream, standby.node] = standby
        self._downs.discard((standby.stream, standby.node))
        self.wake()

    def stand_down(self, stream: str, node: str) -> None:
        """Take a standby of ours back."""
        if self.standing.pop((stream, node), None) is not None:
            self._downs.add((stream, node))
            self.wake()

    # Numbers.

    async def _write_numbers(self, stream: str) -> None:
        """Write down the numbers of a stream; those in Consul never fall."""
        key, numbers = numbers_key(self._settings, stream), self.numbers.get(stream)
        if numbers is None or self._written.get(stream) == numbers:
            return
        for _ in range(TRIES):
            pair = await self._agent.read(key)
            there = read_numbers(pair) or Numbers()
            joined = numbers.joined(there)
            if joined == there:
                break
            tree = {"epoch": joined.epoch, "term": joined.term, "segments": joined.segments}
            if await self._agent.write(key, tree, cas=int(pair["ModifyIndex"]) if pair else 0):
                break
        else:
            raise ConsulDown(f"the numbers of {stream} change all the time")
        self._written[stream] = numbers

    def reserve(self, stream: str, count: int, least: int) -> int:
        """Return the first of ``count`` numbers; what is written down follows."""
        known = self.numbers.get(stream, Numbers())
        first = max(known.segments, least)
        if not known.segments and not least:
            # Nobody remembers the stream: it is new, or Consul is. Seconds outrun segments.
            first = self._clock() // 1_000_000
        self.numbers[stream] = replace(known, segments=first + count)
        self.wake()
        return first

    # Drain.

    async def drain(self, name: str, datacenter: str, timeout: float | None) -> None:
        """Set the flag of a node of a datacenter; without a ``timeout`` remove it."""
        key = drain_key(self._settings, name)
        if timeout is not None:
            await self._agent.write(key, {"node": name, "timeout": timeout}, datacenter)
        else:
            await self._agent.remove(key, datacenter)
