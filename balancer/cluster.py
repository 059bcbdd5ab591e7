"""Keeps the tables of nodes like the registry and the gossip say.

Gossip decides who is alive, the registry who is there at all: what it last said stays true while
it cannot be reached, and a node that gossips is used on for ten minutes after it was last listed.
"""

from collections.abc import Callable

from balancer.beacons import Beacons
from balancer.config import Config, round_trips
from balancer.nodes import FORGET_AFTER, NodeTable, Registration
from balancer.places import Place
from balancer.policy import NEVER, Candidate
from common.errors import HeadwaterError
from common.runtime import metrics
from common.runtime.logs import Log
from common.runtime.registry import NodeEntry, Registry
from common.wire.gossip import Gossip

log = Log("balancer")

PROTOCOL = "proto:"
"""What the tags begin with that name what an edge serves."""


class Cluster:
    """The nodes that a balancer knows."""

    def __init__(self, config: Config, clock: Callable[[], float]) -> None:
        self.edges = NodeTable(counted=True)
        self.origins = NodeTable()
        self.beacons = Beacons(config.node.name)
        self.known = False
        """Whether the registry has answered yet."""

        self.elsewhere: list[str] = list(config.balancer.elsewhere)
        """Base URLs of balancers of other datacenters."""

        self.home = config.node.datacenter
        """Our datacenter: as set, else as the registry calls it."""

        self._config = config
        self._clock = clock
        self._set = round_trips(config.balancer.round_trips)
        self._measured: dict[frozenset[str], float] = {}
        self._balancers: dict[str, dict[str, str]] = {}
        """Endpoints of the others."""

        self._excluded: set[str] = set()

    def balancers(self) -> int:
        """Return how many balancers there are."""
        return self.beacons.count(self._clock())

    def unheard(self) -> list[str]:
        """Return the edges that are registered and have not been heard yet."""
        return [name for name, node in self.edges.nodes.items() if node.report is None]

    def heard(self, report: Gossip) -> None:
        """Take in a report of a node."""
        now = self._clock()
        if report.node in self._balancers:
            self.beacons.hear(report.node, now)
        elif report.node in self.edges.nodes:
            self.edges.deliver(report, now)
        else:
            self.origins.deliver(report, now)

    async def look(self, registry: Registry) -> dict[str, str]:
        """Take over what the registry says; return where gossip is to be heard, with public keys.

        If it cannot be reached, all stays as it is.
        """
        try:
            entries = await registry.nodes()
        except (HeadwaterError, OSError) as error:
            log.warning("registry not reached", extra={"error": error})
        else:
            self._take(entries)
            self.known = True
        await self._measure(registry)
        nodes = [*self.edges.nodes.values(), *self.origins.nodes.values()]
        found = {one.registration.node: one.registration.endpoints for one in nodes}
        return {
            _address(endpoints["gossip"]): endpoints.get("curve", "")
            for endpoints in (found | self._balancers).values()
            if endpoints.get("gossip")
        }

    def round_trip(self, a: str, b: str) -> float | None:
        """Return the seconds from one datacenter to another and back, None if nobody knows.

        What the settings say goes before what the registry has measured.
        """
        pair = frozenset((a, b))
        return self._set.get(pair, self._measured.get(pair))

    async def _measure(self, registry: Registry) -> None:
        found = await registry.round_trips()
        if found != self._measured:
            self._measured = found
            self.edges.moved()

    def _take(self, entries: list[NodeEntry]) -> None:
        now = self._clock()
        own = self._config.node
        self.home = own.datacenter or next(
            (one.datacenter for one in entries if one.name == own.name), self.home
        )
        for role, table in (("edge", self.edges), ("origin", self.origins)):
            of_role = [one for one in entries if one.role == role and "gossip" in one.endpoints]
            for entry in of_role:
                table.register(self._registration(entry), now)
            for gone in table.forget({entry.name for entry in of_role}, now):
                metrics.forget_node(gone)
        self._take_balancers([one for one in entries if one.role == "balancer"])
        self.beacons.forget(now, FORGET_AFTER)

    def _take_balancers(self, entries: list[NodeEntry]) -> None:
        own, now = self._config.node, self._clock()
        # Those of other datacenters have edges of their own.
        near = [one for one in entries if one.datacenter == self.home]
        self.beacons.register([one.name for one in near])
        heard = {n: ends for n, ends in self._balancers.items() if self.beacons.fresh(n, now)}
        self._balancers = heard | {one.name: one.endpoints for one in near}
        self._balancers.pop(own.name, None)
        far = (one for one in entries if one.datacenter != self.home and not one.draining)
        self.elsewhere = [
            *self._config.balancer.elsewhere,
            *(_url(one.endpoints["http"]) for one in far),
        ]

    def _registration(self, entry: NodeEntry) -> Registration:
        settings = self._config.balancer
        words = (tag.removeprefix(PROTOCOL) for tag in entry.tags if tag.startswith(PROTOCOL))
        return Registration(
            entry.name,
            _url(entry.endpoints.get("http", "")),
            entry.capacity.get("bits_per_second", settings.bandwidth),
            entry.capacity.get("sessions", settings.sessions),
            Place(entry.datacenter, entry.location),
            frozenset(tag for tag in entry.tags if not tag.startswith(PROTOCOL)),
            frozenset(words),
            entry.endpoints,
            entry.draining,
        )

    def measure(self, edges: list[Candidate]) -> None:
        """Hand over what is known of the edges to the metrics; say who is out and who is back."""
        now = self._clock()
        states = [node.state for node in self.edges.nodes.values() if node.state.heard != NEVER]
        silent = {state.node for state in states if state.silent(now)}
        for node in sorted(silent - self._excluded):
            log.warning("edge excluded", extra={"node": node, "reason": "no gossip"})
        for node in sorted(self._excluded - silent):
            log.info("edge in use", extra={"node": node})
        self._excluded = silent
        for state in states:
            metrics.GOSSIP_AGE.labels(state.node).set(now - state.heard)
            metrics.VIEWERS_PENDING.labels(state.node).set(state.pending_sessions)
        for one in edges:
            metrics.NODE_LOAD.labels(one.node).set(one.load)
        metrics.EDGES_ELIGIBLE.set(sum(not one.refused for one in edges))
        metrics.BALANCERS.set(self.balancers())


def _url(address: str) -> str:
    return (address if "://" in address else f"http://{address}").rstrip("/")


def _address(address: str) -> str:
    return address if "://" in address else f"tcp://{address}"
