"""Who is there and who owns what: the port of the cluster's registry.

Its adapters are :mod:`common.runtime.embedded`, of one machine, and Consul, of many. No media
waits for it: what is asked often (:meth:`Registry.nodes`, :meth:`Registry.owner` and the like) is
answered from the last known state, also while the registry itself cannot be reached.
"""

import os
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol

DRAIN_TIMEOUT = 60.0
"""Seconds that viewers have to move away from a node, if nobody says how many."""


@dataclass(frozen=True, slots=True)
class NodeEntry:
    """One node as the others see it."""

    name: str
    role: str
    """``origin``, ``edge``, ``relay`` or ``balancer``."""

    endpoints: dict[str, str]
    """Where to reach it, by purpose: an origin has bus, control, http and rtmp; an edge http,
    admin and gossip; a balancer http. ``HOST:PORT``, or a ZeroMQ address for bus and control."""

    capacity: dict[str, float] = field(default_factory=dict)
    """What it can carry: ``bits_per_second``, ``sessions``, ``cores``, ``bytes``."""

    datacenter: str = ""
    """Where it is; nodes of one datacenter are near to each other."""

    tags: tuple[str, ...] = ()
    """Words that the balancer may prefer or avoid."""

    location: tuple[float, float] | None = None
    """Latitude and longitude in degrees."""

    key: str = ""
    """Public CURVE key (Z85) with which the node speaks on the bus."""

    draining: bool = False
    """Somebody wants its viewers moved away; set with :meth:`Registry.drain` alone."""

    drain_timeout: float = DRAIN_TIMEOUT
    """Seconds after which the viewers that are still there are ended, if it drains."""

    pid: int = field(default_factory=os.getpid)


@dataclass(frozen=True, slots=True)
class Owner:
    """Who owns a stream, and under which numbers."""

    stream: str
    node: str
    epoch: int
    """Names one numbering of the stream."""

    term: int
    """Names this ownership; it only ever rises, so the higher of two is right."""

    endpoints: dict[str, str]
    pid: int = 0


@dataclass(frozen=True, slots=True)
class Standby:
    """An origin that takes in a stream too, and can go on with it when its owner dies."""

    stream: str
    node: str
    endpoints: dict[str, str]
    pid: int = 0


class Registry(Protocol):
    """Membership and ownership. No media waits for it."""

    async def register(self, entry: NodeEntry) -> None:
        """Make a node known; the same name registers again to change its entry."""

    async def unregister(self, name: str) -> None:
        """Take a node out."""

    async def nodes(self, role: str = "") -> list[NodeEntry]:
        """Return the live nodes, of one role or all, by name."""

    async def members(self) -> list[NodeEntry]:
        """Return all nodes that registered and were not taken out, also those that seem dead.

        It decides whose keys are good on the bus: who cannot be asked for its health stays in.
        """

    async def acquire(
        self, stream: str, node: str, endpoints: Mapping[str, str], epoch: int = 0, over: int = 0
    ) -> Owner:
        """Become the owner of a stream, under a term higher than any before.

        ``epoch`` is the numbering that the node continues; 0 begins a new one, higher than any
        before. With ``over`` it is taken from the owner of that term also if that node seems to
        live: it has been silent on the bus, and will find itself fenced.

        Raises:
            StreamBusy: If a live node owns it; the text names that node.
        """

    async def release(self, owner: Owner) -> None:
        """Give a stream up, unless somebody else has it by now."""

    async def owner(self, stream: str) -> Owner | None:
        """Return the live owner of a stream."""

    async def owners(self) -> list[Owner]:
        """Return the live owners of all streams, by stream."""

    async def reserve_segments(self, stream: str, count: int, at_least: int = 0) -> int:
        """Return the first of ``count`` segment numbers that nobody was given before.

        It is not below ``at_least``: the number after what the pages already hold.
        """

    async def stand_by(self, stream: str, node: str, endpoints: Mapping[str, str]) -> None:
        """Make known that ``node`` can go on with a stream that another node owns."""

    async def stand_down(self, stream: str, node: str) -> None:
        """Take that back."""

    async def standbys(self, stream: str) -> list[Standby]:
        """Return the live nodes that can go on with a stream, by name."""

    async def drain(self, name: str, draining: bool, timeout: float = DRAIN_TIMEOUT) -> None:
        """Say that the viewers of a node are to be moved away, or take that back.

        It holds until it is taken back, also if the node is started again. Viewers that are still
        there ``timeout`` seconds after the node has heard of it are ended.

        Raises:
            NodeUnavailable: If no live node has this name.
        """

    async def define(self, stream: str, settings: Mapping[str, Any] | None) -> None:
        """Write down the settings of a stream or wildcard base; None deletes them."""

    async def definitions(self) -> dict[str, dict[str, Any]]:
        """Return the settings that were written down, by stream."""

    async def round_trips(self) -> dict[frozenset[str], float]:
        """Return the seconds from one datacenter to another and back, by the names of both.

        Only what the registry measures itself; it is answered from memory.
        """

    def trouble(self) -> str:
        """Return why what it answers is not what there is; nothing if it is."""


def now_us() -> int:
    """Return Unix microseconds."""
    return time.time_ns() // 1000


def url_of(address: str) -> str:
    """Return an ``http`` endpoint, ``HOST:PORT`` or a URL, as a URL without a path."""
    return (address if "://" in address else f"http://{address}").rstrip("/")
