"""Sends viewers to nodes: the policy, applied to the table, with a memory of why.

Everything that answers a viewer goes through here: redirects, MistServer's queries, steering.
:meth:`Director.ranked` only looks; :meth:`Director.sent` is what makes the ledger count a viewer,
and has to be called exactly when somebody is told to go to a node where they are not yet.
"""

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass
from random import Random

from balancer.nodes import Node, NodeTable
from balancer.places import NOWHERE, Place, RoundTrip, distance, unknown
from balancer.policy import (
    Candidate,
    NodeState,
    Rules,
    Viewer,
    best,
    common_reason,
    judge,
    order,
)
from balancer.sampling import Sampler
from common.errors import NodeUnavailable
from common.runtime import metrics

REMEMBERED = 200
"""Choices kept for the operator who asks why."""

NOBODY = 0.1
"""Seconds for which it stays true that nobody can take a viewer: asking all is not for free."""


@dataclass(frozen=True, slots=True)
class Choice:
    """One decision and what it was made from."""

    unix_ms: int
    stream: str
    protocol: str
    node: str
    """Where the viewer was sent; empty if nowhere."""

    candidates: list[Candidate]
    """In no order; what was looked at."""


class Director:
    """Chooses a node for each request and remembers why."""

    def __init__(
        self,
        table: NodeTable,
        balancers: Callable[[], int] = lambda: 1,
        clock: Callable[[], float] = time.monotonic,
        *,
        rules: Rules | None = None,
        round_trip: RoundTrip = unknown,
        random: Random | None = None,
    ) -> None:
        """``balancers``: how many balancers there are; ``round_trip``: between datacenters."""
        self.table = table
        self.rules = rules or Rules()
        self.choices: deque[Choice] = deque(maxlen=REMEMBERED)
        self._balancers = balancers
        self._clock = clock
        self._round_trip = round_trip
        self.sampler = Sampler(table, random or Random(), self._far)
        self._nobody: dict[tuple[str, frozenset[str]], float] = {}

    def ranked(self, viewer: Viewer, *, everybody: bool = False) -> list[Candidate]:
        """Return nodes for a viewer, the best first and the refused last; nothing is noted.

        Of more than ``MOST`` nodes it is a sample, unless ``everybody`` is asked for or nobody of
        the sample can take the viewer.
        """
        return order(self._looked_at(viewer, everybody))

    def judged(self, viewer: Viewer, node: str) -> Candidate:
        """Return one node as it is for a viewer; nothing is noted.

        Raises:
            NodeUnavailable: If nobody knows it.
        """
        found = self.table.nodes.get(node)
        if found is None:
            raise NodeUnavailable(f"no node {node!r} is known")
        return self._judge(viewer, self._clock())(found.state)

    def choose(self, viewer: Viewer, *, ledger: bool = True) -> Node:
        """Return the node for a viewer, who goes there now; without ``ledger`` it is not noted.

        Raises:
            NodeUnavailable: If no node may take a viewer now.
        """
        candidates = self._looked_at(viewer)
        chosen = best(candidates)
        name = chosen.node if chosen else ""
        unix_ms = time.time_ns() // 1_000_000
        self.choices.append(Choice(unix_ms, viewer.stream, viewer.protocol, name, candidates))
        if chosen is None:
            metrics.REDIRECTS_REFUSED.labels(common_reason(candidates)).inc()
            reasons = ", ".join(f"{one.node}: {one.refused}" for one in order(candidates)[:8])
            raise NodeUnavailable(f"no node can take a viewer now ({reasons or 'none is known'})")
        metrics.REDIRECTS.labels(name, viewer.protocol or "other").inc()
        if ledger:
            self.sent(name, viewer.stream)
        return self.table.nodes[name]

    def sent(self, node: str, stream: str) -> None:
        """Write into the ledger that a viewer of a stream is on its way to a node.

        For whoever is told to go where they are not: a redirect does it by itself. Steering calls
        it when the first pathway of an answer is another one than the player says it is on, and
        never for a player that stays: so those who follow see a fuller node, and do not herd.
        """
        self.table.redirected(node, stream, self._clock())

    def failed(self, viewer: Viewer) -> None:
        """Note the nodes that a viewer does not want any more: they may have failed."""
        if viewer.excluded:
            self.table.failed(viewer.excluded, self._clock())

    def url(self, node: str) -> str:
        """Return the public base URL of a node, without a slash at its end.

        Raises:
            NodeUnavailable: If nobody knows it any more.
        """
        found = self.table.nodes.get(node)
        if found is None:
            raise NodeUnavailable(f"no node {node!r} is known")
        return found.registration.url

    def silent(self, node: Node) -> bool:
        """Return whether too many reports of a node are missing."""
        return node.state.silent(self._clock(), self.rules.max_age)

    def loads(self) -> list[Candidate]:
        """Return all nodes as they are now, for a viewer of whom nothing is known."""
        return [*map(self._judge(Viewer(), self._clock()), self.sampler.everybody())]

    def _looked_at(self, viewer: Viewer, everybody: bool = False) -> list[Candidate]:
        now = self._clock()
        judged = self._judge(viewer, now)
        all_states = self.sampler.everybody()
        states = all_states if everybody else self.sampler.sample(viewer)
        found = [judged(state) for state in states]
        if len(found) < len(all_states) and all(one.refused for one in found):
            key = (viewer.protocol, viewer.excluded)
            if self._nobody.get(key, now) > now:
                return found
            found = [judged(state) for state in all_states]
            self._nobody.clear()
            if all(one.refused for one in found):
                self._nobody[key] = now + NOBODY
        return found

    def _judge(self, viewer: Viewer, now: float) -> Callable[[NodeState], Candidate]:
        balancers, rules, protocols = self._balancers(), self.rules, self.table.protocols
        far = self._far if viewer.place != NOWHERE else None
        home = self.sampler.home(viewer.stream)
        first = home.node if home is not None else ""

        def judged(state: NodeState) -> Candidate:
            return judge(
                state, viewer, now, rules,
                balancers=balancers, far=far, home=first, known_protocols=protocols,
            )  # fmt: skip

        return judged

    def _far(self, a: Place, b: Place) -> float:
        return distance(a, b, self._round_trip)
