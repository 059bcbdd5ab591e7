"""The edges as steering sees them: the policy's judgement, turned into what each can take yet."""

from aiohttp import web

from balancer.api import Redirector
from balancer.director import Director
from balancer.paths import protocol_of
from balancer.policy import Candidate
from balancer.steering import FULL, Edge
from common.wire.steering import pathway_of

PREFERENCE = 0.1
"""Score (distance, tags, errors, what is carried) that halves the share of an edge."""


class Pathways:
    """Finds the edges for the steering of a viewer."""

    def __init__(self, director: Director, redirector: Redirector) -> None:
        self._director = director
        self._redirector = redirector

    def seen(self, request: web.Request, path: str, stream: str, current: str) -> list[Edge]:
        """Return edges for a viewer of a stream, among them the one of its pathway ``current``.

        Of very many edges it is a sample, as for redirects.
        """
        viewer = self._redirector.asks(request, stream, protocol_of(path), note=False)
        found = {one.node: one for one in self._director.ranked(viewer)}
        here = self._named(current)
        if here and here not in found:
            found[here] = self._director.judged(viewer, here)
        return [self._edge(one) for one in found.values()]

    def _named(self, pathway: str) -> str:
        nodes = self._director.table.nodes
        if pathway in nodes:
            return pathway
        return next((name for name in nodes if pathway_of(name) == pathway), "")

    def _edge(self, one: Candidate) -> Edge:
        capacity = self._director.table.nodes[one.node].state.bandwidth_capacity
        liked: float = 2.0 ** ((one.load - one.score) / PREFERENCE)
        free = max(0.0, FULL - one.load) * capacity * liked
        return Edge(one.node, self._director.url(one.node), one.load, free, one.refused)
