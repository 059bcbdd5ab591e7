"""Which nodes are looked at for a viewer: all of a few, a sample of many.

Of more than ``MOST`` nodes two that carry the stream are looked at (or the one where it would
begin), two by chance in proportion to what they can carry, and two that are near: that is enough
for a good balance (two random choices), costs the same for any number of nodes, and balancers that
know the same do not all choose the same.
"""

import bisect
import hashlib
import itertools
from collections.abc import Sequence
from random import Random
from typing import TypeVar

from balancer.nodes import NodeTable
from balancer.places import Place
from balancer.policy import Far, NodeState, Viewer

MOST = 50
"""Nodes that are all looked at."""

EACH = 2
"""Nodes of each kind in a sample."""

MAX_PLACES = 4096
"""Places of viewers, to a degree, of which the near nodes are remembered. With one more all are
forgotten and found anew."""

T = TypeVar("T")


class Sampler:
    """Draws samples of the nodes of a table."""

    def __init__(
        self, table: NodeTable, random: Random, far: Far | None = None, most: int = MOST
    ) -> None:
        self._table = table
        self._random = random
        self._far = far
        self.most = most
        self._version = -1
        self._states: list[NodeState] = []
        self._cumulated: list[float] = []
        self._groups: dict[Place, list[NodeState]] = {}
        self._near: dict[Place, list[list[NodeState]]] = {}

    def everybody(self) -> list[NodeState]:
        """Return all nodes."""
        self._follow()
        return self._states

    def home(self, stream: str) -> NodeState | None:
        """Return where a stream begins that nobody carries yet; in proportion to capacities.

        Balancers that know the same nodes say the same: else each of them would begin the stream
        on another one, before they hear of each other's choice.
        """
        self._follow()
        if not stream or not self._states or self._table.carriers.get(stream):
            return None
        digest = hashlib.blake2b(stream.encode(), digest_size=8).digest()
        return self._at(int.from_bytes(digest, "big") / 2**64)

    def _at(self, share: float) -> NodeState:
        """Return the node at a share (0 to 1) of the capacity of all."""
        at = share * self._cumulated[-1]
        return self._states[bisect.bisect(self._cumulated, at, hi=len(self._states) - 1)]

    def sample(self, viewer: Viewer) -> list[NodeState]:
        """Return the nodes to look at for a viewer, each once."""
        self._follow()
        if len(self._states) <= self.most:
            return self._states
        found = {state.node: state for state in self._nearest(viewer.place)}
        for _ in range(EACH):
            state = self._at(self._random.random())
            found[state.node] = state
        home = self.home(viewer.stream)
        if home is not None:
            found[home.node] = home
        carriers = self._table.carriers.get(viewer.stream, ())
        for name in self._some(carriers):
            found[name] = self._table.nodes[name].state
        return list(found.values())

    def _nearest(self, place: Place) -> list[NodeState]:
        """Return nodes of the place that is nearest to a viewer, and one of the next."""
        if self._far is None or len(self._groups) < 2:
            return []
        if place.location is not None:
            latitude, longitude = place.location
            place = Place(place.datacenter, (round(latitude), round(longitude)))
        near = self._near.get(place)
        if near is None:
            if len(self._near) >= MAX_PLACES:
                self._near.clear()
            near = self._near[place] = self._by_distance(place, self._far)[:2]
        return [*self._some(near[0]), self._random.choice(near[1])]

    def _by_distance(self, place: Place, far: Far) -> list[list[NodeState]]:
        groups = sorted(self._groups.items(), key=lambda group: far(place, group[0]))
        return [states for _, states in groups]

    def _some(self, of: Sequence[T]) -> Sequence[T]:
        return of if len(of) <= EACH else self._random.sample(of, EACH)

    def _follow(self) -> None:
        if self._version == self._table.version:
            return
        self._version = self._table.version
        self._states = [node.state for _, node in sorted(self._table.nodes.items())]
        capacities = (max(state.bandwidth_capacity, 1.0) for state in self._states)
        self._cumulated = list(itertools.accumulate(capacities))
        self._groups = {}
        for state in self._states:
            self._groups.setdefault(state.place, []).append(state)
        self._near = {}
