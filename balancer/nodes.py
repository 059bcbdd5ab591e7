"""What the balancer knows about the edges: their gossip, and what it has sent them since.

Sans-IO: the clock is a parameter, reports are handed in. A redirect is written into the ledger
until a report of the edge is young enough to contain the viewer, so that a burst of viewers
between two reports does not all go to one edge.
"""

from collections import deque
from dataclasses import dataclass, field

from balancer.policy import EdgeState
from common.wire.gossip import Gossip

REPORT_WINDOW = 1.0
"""Seconds over which an edge averages the bandwidth it reports."""

START_DELAY = 1.0
"""Seconds a redirected viewer may take until its bytes flow."""

FORGET_AFTER = 30.0
"""Seconds without gossip and without a registration after which an edge is forgotten."""

DEFAULT_BITS = 1_000_000.0
"""Bits a second one viewer is expected to take while nothing better is known."""

BITS_SMOOTHING = 0.1


@dataclass(frozen=True, slots=True)
class Redirect:
    """One viewer on its way to an edge."""

    time: float
    bits: float


@dataclass(slots=True)
class Edge:
    """One edge: its registration, its last report, and what is on its way to it."""

    node: str
    url: str
    bandwidth_capacity: float
    session_capacity: int
    report: Gossip | None = None
    heard: float = float("-inf")
    first_heard: float = float("-inf")
    pending: deque[Redirect] = field(default_factory=deque)


class NodeTable:
    """All edges by name. Times are seconds of one monotonic clock, given by the caller."""

    def __init__(self) -> None:
        self.edges: dict[str, Edge] = {}
        self._bits = DEFAULT_BITS

    def register(self, node: str, url: str, bandwidth: float, sessions: int) -> None:
        """Add an edge, or change where it is and how much it can carry."""
        edge = self.edges.get(node)
        if edge is None:
            self.edges[node] = Edge(node, url, bandwidth, sessions)
            return
        edge.url, edge.bandwidth_capacity, edge.session_capacity = url, bandwidth, sessions

    def forget(self, registered: set[str], now: float) -> None:
        """Drop edges that are neither registered nor heard of."""
        for node in [*self.edges]:
            if node not in registered and now - self.edges[node].heard > FORGET_AFTER:
                del self.edges[node]

    def deliver(self, report: Gossip, now: float) -> bool:
        """Take in one report; return whether it was news.

        A report that is older than the one we have (reordered, or of an earlier boot) is ignored,
        and so is one of a node that never registered.
        """
        edge = self.edges.get(report.node)
        if edge is None:
            return False
        last = edge.report
        if last is not None and (report.boot, report.sequence) <= (last.boot, last.sequence):
            return False
        if last is None or report.boot != last.boot:
            edge.first_heard = now
        edge.report, edge.heard = report, now
        settled = now - REPORT_WINDOW / 2 - START_DELAY
        while edge.pending and edge.pending[0].time < settled:
            edge.pending.popleft()
        if report.sessions:
            mean = report.bandwidth / report.sessions
            self._bits += (mean - self._bits) * BITS_SMOOTHING
        return True

    def redirected(self, node: str, now: float) -> None:
        """Note that a viewer is on its way to ``node``."""
        if node in self.edges:
            self.edges[node].pending.append(Redirect(now, self._bits))

    def states(self, now: float) -> list[EdgeState]:
        """Return what the policy decides on; edges never heard of count as silent."""
        return [self._state(edge, now) for edge in self.edges.values()]

    def _state(self, edge: Edge, now: float) -> EdgeState:
        report = edge.report
        return EdgeState(
            node=edge.node,
            age=now - edge.heard,
            uptime=now - edge.first_heard if report else 0.0,
            bandwidth=report.bandwidth if report else 0.0,
            sessions=report.sessions if report else 0,
            cpu=report.cpu if report else 0.0,
            memory=report.memory if report else 0.0,
            bandwidth_capacity=edge.bandwidth_capacity,
            session_capacity=edge.session_capacity,
            pending_bandwidth=sum(one.bits for one in edge.pending),
            pending_sessions=len(edge.pending),
            draining=report.draining if report else False,
            streams=frozenset(report.streams) if report else (),
        )
