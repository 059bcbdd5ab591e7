"""Where a node takes a stream from: the nearest relays first, then the origin that owns it.

:func:`ways` is pure: entries of the registry go in, names and addresses come out, best first.
All nodes of a datacenter put its relays in the same order for a stream (rendezvous hashing of the
stream's name), so that one copy of it comes in, and another stream's comes in over another relay.

No way leads back to the node that asks: a relay takes a stream from its owner, or from relays that
its settings name and that do not, over any number of others, take theirs from it.
"""

import hashlib
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from common.bus.link import Endpoints
from common.runtime.registry import NodeEntry, Owner, Registry, Standby

Kind = Literal["relay", "owner", "standby", "edge"]

NAMES = "upstream"
"""Endpoint under which a relay tells the relays that it takes streams from, by name."""

MAX_SIBLINGS = 8
"""Edges that are asked for what the origin has no more. Those ranked after them are not asked."""

LOOK = 0.4
"""Seconds that the list of nodes is used for."""

MAX_RELAYS = 8
"""Relays of the own datacenter that are considered for a stream. Those ranked after them are
not."""


@dataclass(frozen=True, slots=True)
class Upstream:
    """One node that a stream can be had from."""

    node: str
    kind: Kind
    endpoints: Endpoints


@dataclass(frozen=True, slots=True)
class Ways:
    """Where one stream can be had, best first."""

    paths: tuple[Upstream, ...] = ()
    """Who publishes it."""

    standbys: tuple[Upstream, ...] = ()
    """Who will publish it when its owner dies; only for those that take it from the owner."""

    siblings: tuple[Upstream, ...] = ()
    """Who publishes nothing but may hold what is missing."""

    owned: bool = False
    """Whether somebody owns the stream now."""


@dataclass(frozen=True, slots=True)
class Place:
    """The node that looks for an upstream."""

    node: str
    role: str = "edge"
    datacenter: str = ""
    upstream: tuple[str, ...] = ()
    """Relays that a relay is to take its streams from."""


class Finder:
    """Asks the registry where streams can be had."""

    def __init__(
        self, registry: Registry, place: Place, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._registry = registry
        self._place = place
        self._clock = clock
        self._nodes: list[NodeEntry] = []
        self._looked = float("-inf")

    async def __call__(self, stream: str) -> Ways:
        """Return where this node can have a stream from."""
        now = self._clock()
        if now - self._looked >= LOOK:
            self._looked = now
            self._nodes = await self._registry.nodes()
        owner = await self._registry.owner(stream)
        standbys = await self._registry.standbys(stream) if owner is not None else []
        return ways(self._place, stream, owner, standbys, self._nodes)


def ways(
    place: Place,
    stream: str,
    owner: Owner | None,
    standbys: Sequence[Standby],
    nodes: Iterable[NodeEntry],
) -> Ways:
    """Return where ``place`` can have a stream from."""
    known = {node.name: node for node in nodes}
    own = known.pop(place.node, None)
    if own is not None and not place.datacenter:
        place = replace(place, datacenter=own.datacenter)  # as the registry calls it
    relays = _relays(place, stream, known) if owner else []
    paths = [Upstream(node.name, "relay", _endpoints(node.endpoints)) for node in relays]
    others: list[Upstream] = []
    if owner is not None and owner.node != place.node:
        paths.append(Upstream(owner.node, "owner", _endpoints(owner.endpoints)))
        others = [
            Upstream(one.node, "standby", _endpoints(one.endpoints))
            for one in standbys
            if one.node not in (owner.node, place.node) and _reachable(one.endpoints)
        ]
    siblings = _siblings(place, stream, known) if place.role == "edge" else []
    return Ways(tuple(paths), tuple(others), tuple(siblings), owner is not None)


def order(stream: str, nodes: Iterable[NodeEntry]) -> list[NodeEntry]:
    """Return nodes in the order in which a stream prefers them, the same wherever it is asked."""
    return sorted(nodes, key=lambda node: _weight(stream, node.name), reverse=True)


def _weight(stream: str, node: str) -> bytes:
    return hashlib.blake2b(f"{node}\0{stream}".encode(), digest_size=8).digest()


def _relays(place: Place, stream: str, known: Mapping[str, NodeEntry]) -> list[NodeEntry]:
    relays = {name: node for name, node in known.items() if _serves(node)}
    if place.role != "relay":
        near = [node for node in relays.values() if node.datacenter == place.datacenter]
        return order(stream, near)[:MAX_RELAYS]
    named = [relays[name] for name in place.upstream if name in relays]
    return order(stream, [node for node in named if not _leads_to(place.node, node, relays)])


def _serves(node: NodeEntry) -> bool:
    return node.role == "relay" and not node.draining and _reachable(node.endpoints)


def _reachable(endpoints: Mapping[str, str]) -> bool:
    return bool(endpoints.get("bus") and endpoints.get("control"))


def _leads_to(target: str, start: NodeEntry, relays: Mapping[str, NodeEntry]) -> bool:
    """Return whether ``start`` may get its streams from ``target``."""
    seen: set[str] = set()
    waiting = [start.name]
    while waiting:
        name = waiting.pop()
        if name == target:
            return True
        if name in seen or name not in relays:
            continue
        seen.add(name)
        waiting += names_of(relays[name].endpoints.get(NAMES, ""))
    return False


def names_of(text: str) -> list[str]:
    """Return the names that a relay tells of its upstream."""
    return [name for name in text.split(",") if name]


def _siblings(place: Place, stream: str, known: Mapping[str, NodeEntry]) -> list[Upstream]:
    """Return the other edges, those of the own datacenter first."""
    edges = [n for n in known.values() if n.role == "edge" and n.endpoints.get("control")]
    ranked = order(stream, edges)
    ranked.sort(key=lambda node: node.datacenter != place.datacenter)
    return [
        Upstream(node.name, "edge", _endpoints({**node.endpoints, "bus": ""}))
        for node in ranked[:MAX_SIBLINGS]
    ]


def _endpoints(endpoints: Mapping[str, str]) -> Endpoints:
    return Endpoints.of(endpoints)
