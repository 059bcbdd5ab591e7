"""What a node knows of the cluster through Consul: everything asked often is answered from here.

A kind of question is first asked of Consul when the node first wants to know, in every datacenter;
from then on it is watched. Where Consul is silent, the last answer holds.
"""

import asyncio
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

from common.runtime.consul import Agent, Answer, ConsulDenied, ConsulDown
from common.runtime.consul_coordinates import Pair, round_trips, translated
from common.runtime.consul_entries import (
    Health,
    Instance,
    last_word,
    read_definition,
    read_drain,
    read_owner,
    read_service,
    read_standby,
    session_of,
)
from common.runtime.consul_settings import ConsulSettings
from common.runtime.consul_watch import Believed, Places, Watch
from common.runtime.logs import Log
from common.runtime.registry import DRAIN_TIMEOUT, NodeEntry, Owner, Standby

ROLES = ("origin", "edge", "relay", "balancer")
LIVE, CONFIG, DISTANCES = "live", "config", "distances"
"""Kinds of questions, beside the roles."""

OF_ALL = (CONFIG, DISTANCES)
"""Kinds that are asked once, and not in each datacenter."""

DISCOVERY = 10.0
"""Seconds between two looks for further datacenters."""

MAX_DATACENTERS = 32
"""Datacenters that are watched. Those listed after them are not."""

log = Log("consul")


@dataclass(frozen=True, slots=True)
class Lock:
    """A stream's owner as Consul has it."""

    owner: Owner
    session: str
    """The session that has locked it; nothing if none has."""


@dataclass(slots=True)
class Place:
    """What is known of one datacenter."""

    nodes: dict[str, Believed[Instance]]
    owners: Believed[Lock]
    standbys: Believed[tuple[Standby, str]]
    drains: dict[str, float] = field(default_factory=dict)
    """The nodes that are to be drained, and in how many seconds."""
    members: dict[str, dict[str, Instance]] = field(default_factory=dict)
    """By role all nodes that are registered, in whatever health."""
    watches: dict[str, Watch] = field(default_factory=dict)

    def doubt(self, kind: str, until: float) -> None:
        """Believe what is known of a kind until then, unless Consul says it again."""
        if kind in ROLES:
            self.nodes[kind].doubt(until)
        elif kind == LIVE:
            self.owners.doubt(until)
            self.standbys.doubt(until)


class View:
    """The cluster as this process knows it."""

    def __init__(self, settings: ConsulSettings, agent: Agent, memory: Path) -> None:
        """``memory`` is a folder where the last answers are kept for whoever is started later."""
        self._settings = settings
        self._agent = agent
        self._memory = memory / quote(f"{settings.prefix}@{settings.address}", safe="@")
        # An agent that comes back asks its services by and by; meanwhile they are critical.
        self._hold = max(settings.ttl / 3, float(settings.check)) + 1
        self._places: dict[str, Place] = {}
        self._free = Places()
        self._kinds: dict[str, float] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self.datacenter = ""
        """Consul's name of our own datacenter, once known."""
        self.changed = asyncio.Event()
        """Set when something in it changes."""
        self.definitions: dict[str, dict[str, Any]] = {}
        self._distances: dict[Pair, float] = {}
        self.mine: dict[str, Owner] = {}
        """The streams that this process owns, whatever Consul has heard of it."""

    async def open(self) -> None:
        """Find out which datacenters there are, and keep looking for more."""
        self._place("")
        await self.discover()
        self._run(self._discover_again())

    async def close(self) -> None:
        """Stop asking."""
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    async def discover(self) -> None:
        """Look which datacenters there are; those that are known stay."""
        try:
            if not self.datacenter:
                self.datacenter, _ = await self._agent.settings()
            found = await self._agent.datacenters()
        except (ConsulDown, ConsulDenied) as error:
            log.debug("datacenters not known", extra={"error": str(error)})
            return
        for name in found[:MAX_DATACENTERS]:
            if name != self.datacenter and name not in self._places:
                log.info("datacenter found", extra={"datacenter": name})
                self._place(name)
                for kind in self._kinds:
                    if kind not in OF_ALL:
                        self._watch(kind, name)

    async def _discover_again(self) -> None:
        while True:
            await asyncio.sleep(min(DISCOVERY, float(self._settings.wait)))
            await self.discover()

    def begin(self, *kinds: str) -> None:
        """Ask these questions from now on, and wait for nothing."""
        for kind in kinds:
            if kind not in self._kinds:
                self._kinds[kind] = asyncio.get_running_loop().time()
                for name in [""] if kind in OF_ALL else list(self._places):
                    self._watch(kind, name)

    async def need(self, *kinds: str) -> None:
        """Ask these questions from now on; wait for the first answer, but only the first time."""
        self.begin(*kinds)
        now = asyncio.get_running_loop().time()
        late = max(self._kinds[kind] for kind in kinds) + float(self._settings.timeout)
        watches = [p.watches[k] for p in self._places.values() for k in kinds if k in p.watches]
        waiting = [watch for watch in watches if not watch.tried.is_set()]
        if waiting and now < late:
            waits = [asyncio.ensure_future(watch.tried.wait()) for watch in waiting]
            _, pending = await asyncio.wait(waits, timeout=late - now)
            for wait in pending:
                wait.cancel()

    def trouble(self) -> str:
        """Return why our own datacenter has never answered some question; nothing if it has."""
        watches = self._places[""].watches.values()
        return next((w.error or "no answer" for w in watches if not w.answered), "")

    # What is known.

    def instances(self, role: str = "") -> list[Instance]:
        """Return the nodes that are believed to live, with their drain flags, by name."""
        now = time.time()
        found = {}
        for place in reversed(self._places.values()):  # our own datacenter has the last word
            for one in [role] if role else ROLES:
                if one not in place.nodes:
                    continue
                for name, instance in place.nodes[one].all(now).items():
                    found[name] = replace(instance, entry=_drained(instance, place))
        return [found[name] for name in sorted(found)]

    def members(self) -> list[NodeEntry]:
        """Return the entries of all nodes that are registered, also of those that seem dead."""
        found: dict[str, NodeEntry] = {}
        for place in reversed(self._places.values()):
            for instances in place.members.values():
                found |= {name: _drained(one, place) for name, one in instances.items()}
        found |= {entry.name: entry for entry in self.nodes()}
        return [found[name] for name in sorted(found)]

    def nodes(self, role: str = "") -> list[NodeEntry]:
        """Return the entries of the nodes that are believed to live."""
        return [instance.entry for instance in self.instances(role)]

    def flagged(self, name: str) -> bool:
        """Return whether a node of our own datacenter is to be drained."""
        return name in self._places[""].drains

    def passing(self, node: str, datacenter: str = "") -> bool:
        """Return whether Consul says right now that an origin is well."""
        return self._places[datacenter].nodes["origin"].certain(node)

    def lock(self, stream: str, datacenter: str = "") -> Lock | None:
        """Return who owns a stream according to one datacenter."""
        return self._places[datacenter].owners.get(stream, time.time())

    def others(self) -> list[str]:
        """Return the other datacenters."""
        return [name for name in self._places if name]

    def stands(self, standby: Standby, session: str) -> bool:
        """Return whether Consul has a standby of ours under this session."""
        name = f"{standby.stream}@{standby.node}"
        return self._places[""].standbys.get(name, time.time()) == (standby, session)

    def owner(self, stream: str) -> Owner | None:
        """Return who is believed to own a stream; of several, who has the highest term."""
        now = time.time()
        locks = [(place, place.owners.get(stream, now)) for place in self._places.values()]
        held = [lock.owner for place, lock in locks if lock and self._holds(place, lock, now)]
        held += [self.mine[stream]] if stream in self.mine else []
        return max(held, key=lambda owner: owner.term, default=None)

    def owners(self) -> list[Owner]:
        """Return the owners of all streams, by stream."""
        now = time.time()
        names = {name for place in self._places.values() for name in place.owners.all(now)}
        names |= set(self.mine)
        return [owner for name in sorted(names) if (owner := self.owner(name)) is not None]

    def _holds(self, place: Place, lock: Lock, now: float) -> bool:
        """Return whether an owner lives: it has the lock, or will take it again."""
        alive = place.nodes["origin"].get(lock.owner.node, now) is not None
        return bool(lock.session) or alive

    def standbys(self, stream: str) -> list[Standby]:
        """Return who is believed to be able to go on with a stream, by name."""
        now = time.time()
        found = {}
        for place in reversed(self._places.values()):
            for standby, session in place.standbys.all(now).values():
                alive = place.nodes["origin"].get(standby.node, now) is not None
                if standby.stream == stream and (session or alive):
                    found[standby.node] = standby
        return [found[name] for name in sorted(found)]

    def round_trips(self) -> dict[Pair, float]:
        """Return the seconds between datacenters as nodes call them."""
        names: dict[str, set[str]] = {}
        for one in self.instances():
            names.setdefault(one.datacenter, set()).add(one.entry.datacenter)
        return translated(self._distances, names)

    # The questions.

    def _place(self, name: str) -> Place:
        def believed() -> Believed[Any]:
            return Believed(self._hold, float(self._settings.keep))

        place = Place({role: believed() for role in ROLES}, believed(), believed())
        self._places[name] = place
        return place

    def _watch(self, kind: str, name: str) -> None:
        prefix, place = self._settings.prefix, self._places[name]
        datacenter = self._settings.primary if kind == CONFIG else name

        async def ask(index: int, wait: float) -> Answer:
            if kind in ROLES:
                return await self._agent.watch_service(f"{prefix}-{kind}", datacenter, index, wait)
            if kind == DISTANCES:
                return await self._agent.coordinates()
            return await self._agent.watch_keys(f"{prefix}/{kind}/", datacenter, index, wait)

        def changed(value: Any, rebuilt: bool) -> None:
            if kind in ROLES:
                _update_nodes(place, kind, value, rebuilt)
            elif kind == LIVE:
                _update_live(place, value, rebuilt)
            elif kind == DISTANCES:
                self._distances = round_trips(value)
                return  # nothing that is to be written to Consul hangs on it
            elif value or not rebuilt:  # a Consul that was set up anew has yet to be told
                self.definitions = _definitions(value)
            self.changed.set()

        watch = Watch(
            f"{kind} of {name or self.datacenter or 'this datacenter'}",
            ask,
            changed,
            wait=float(self._settings.wait),
            places=Places(0) if kind == DISTANCES else self._free,
            memory=self._memory / f"{kind}@{quote(name, safe='')}.json",
            loud=kind == LIVE,  # one warning for each datacenter will do
        )
        place.watches[kind] = watch
        saved = watch.recall(float(self._settings.keep))
        if saved:
            place.doubt(kind, saved + float(self._settings.keep))
        self._run(watch.run())

    def _run(self, coroutine: Any) -> None:
        task = asyncio.create_task(coroutine)
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)


def _drained(instance: Instance, place: Place) -> NodeEntry:
    entry, flag = instance.entry, place.drains.get(instance.entry.name)
    draining = instance.maintenance or flag is not None
    timeout = DRAIN_TIMEOUT if flag is None else flag
    return replace(entry, draining=draining, drain_timeout=timeout)


def _update_nodes(place: Place, role: str, value: Iterable[Any], rebuilt: bool) -> None:
    read = [one for one in map(read_service, value) if one is not None]
    # Of several of one name the one that is well counts.
    read.sort(key=lambda one: one.health is Health.CERTAIN)
    named = {one.entry.name: one for one in read}
    place.nodes[role].update(
        time.time(), {name: (one, one.health) for name, one in named.items()}, rebuilt
    )
    place.members[role] = {**(place.members.get(role, {}) if rebuilt else {}), **named}


def _update_live(place: Place, pairs: Iterable[Mapping[str, Any]], rebuilt: bool) -> None:
    owners: dict[str, tuple[Lock, Health]] = {}
    standbys: dict[str, tuple[tuple[Standby, str], Health]] = {}
    drains = {}
    for pair in pairs:
        kind = str(pair.get("Key", "")).rpartition("/")[0].rpartition("/")[2]
        if kind == "owners" and (owner := read_owner(pair)) is not None:
            owners[owner.stream] = (Lock(owner, session_of(pair)), Health.CERTAIN)
        elif kind == "standbys" and (standby := read_standby(pair)) is not None:
            key = f"{standby.stream}@{standby.node}"
            standbys[key] = ((standby, session_of(pair)), Health.CERTAIN)
        elif kind == "drains":
            drains[last_word(pair)] = read_drain(pair)
    now = time.time()
    place.owners.update(now, owners, rebuilt)
    place.standbys.update(now, standbys, rebuilt)
    if drains or not rebuilt:
        place.drains = drains


def _definitions(pairs: Iterable[Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    found = {}
    for pair in pairs:
        if "/streams/" in str(pair.get("Key", "")) and (tree := read_definition(pair)) is not None:
            found[last_word(pair)] = tree
    return dict(sorted(found.items()))
