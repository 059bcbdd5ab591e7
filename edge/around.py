"""Who else is there: the other edges and the balancer, as a viewer process needs to know them.

The supervisor follows the registry (:class:`Watch`) and tells its viewer processes. A viewer that
is to move is given to a sibling by chance, in proportion to what the siblings can carry, and by
its own key: so that it is given to the same one each time it asks.
"""

import asyncio
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass
from typing import Any

from common.runtime.logs import Log
from common.runtime.registry import NodeEntry, Registry, url_of
from common.wire.steering import race

log = Log("edge.around")

LOOK = 0.25
"""Seconds between two looks at the registry, which answers from what it knows already."""

MAX_PEERS = 1024
"""Other edges that a viewer process is told of. Those listed after them get no viewers from
here."""


@dataclass(frozen=True, slots=True)
class Peer:
    """Another edge."""

    name: str
    url: str
    """Where its viewers reach it, without a path."""

    weight: float = 1.0
    """What it can carry, in a unit that all have in common."""


@dataclass(frozen=True, slots=True)
class Around:
    """The surroundings of this edge, and what is wanted of it."""

    node: str = "edge"
    balancer: str = ""
    """Where viewers reach a balancer, without a path; empty: there is none."""

    peers: tuple[Peer, ...] = ()
    """Other edges that take viewers, by name."""

    draining: bool = False
    timeout: float = 0.0
    """Seconds from when it was said that the edge drains until the last viewers are ended."""

    def sibling(self, key: str, without: Collection[str] = ()) -> Peer | None:
        """Return the edge that the viewer with this key is to go to, None if there is no other."""
        found = [peer for peer in self.peers if peer.name not in without]
        return min(found, key=lambda peer: race(key, peer.name, peer.weight), default=None)

    def told(self, timeout: float) -> dict[str, Any]:
        """Return the message to a viewer process; ``timeout``: seconds that are left of it."""
        return {
            "t": "around",
            "node": self.node,
            "balancer": self.balancer,
            "peers": [[peer.name, peer.url, peer.weight] for peer in self.peers[:MAX_PEERS]],
            "draining": self.draining,
            "timeout": timeout,
        }

    @classmethod
    def heard(cls, message: Mapping[str, Any]) -> "Around":
        """Return what the supervisor said."""
        return cls(
            node=str(message["node"]),
            balancer=str(message["balancer"]),
            peers=tuple(Peer(str(n), str(u), float(w)) for n, u, w in message["peers"]),
            draining=bool(message["draining"]),
            timeout=float(message["timeout"]),
        )


class Watch:
    """Looks at the registry for what viewer processes have to know."""

    def __init__(self, registry: Registry, node: str, balancer: str) -> None:
        """``balancer``: the setting; empty: one that the registry knows."""
        self._registry = registry
        self._node = node
        self._balancer = url_of(balancer) if balancer else ""

    async def run(self, tell: Callable[[Around], None]) -> None:
        """Call ``tell`` at first and with each change, until cancelled."""
        known: Around | None = None
        while True:
            try:
                found = self._seen(await self._registry.nodes())
            except (OSError, ValueError, KeyError) as error:
                log.warning("registry not read", extra={"error": error})
            else:
                if found != known:
                    tell(found)
                    known = found
            await asyncio.sleep(LOOK)

    def _seen(self, entries: list[NodeEntry]) -> Around:
        own = next((one for one in entries if one.name == self._node), None)
        home = own.datacenter if own is not None else ""
        usable = [one for one in entries if one.name != self._node and not one.draining]
        peers = [
            Peer(one.name, url_of(one.endpoints["http"]), one.capacity.get("bits_per_second", 1.0))
            for one in _near([one for one in usable if one.role == "edge"], home)
        ]
        balancers = _near([one for one in usable if one.role == "balancer"], home)
        # Each edge has its own favourite: several balancers share the viewers that ask them.
        nearest = min(balancers, key=lambda one: race(self._node, one.name, 1.0), default=None)
        balancer = self._balancer or (url_of(nearest.endpoints["http"]) if nearest else "")
        draining = own is not None and own.draining
        timeout = own.drain_timeout if own is not None and draining else 0.0
        return Around(self._node, balancer, tuple(peers), draining, timeout)


def _near(entries: list[NodeEntry], home: str) -> list[NodeEntry]:
    """Return those of our datacenter; all, if it has none."""
    return [one for one in entries if one.datacenter == home] or entries
