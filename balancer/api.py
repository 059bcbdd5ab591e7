"""The balancer's HTTP side: every viewer path is answered with a redirect to an edge."""

import random
from collections.abc import Callable
from typing import Any

from aiohttp import web

from balancer.asked import MAX_HOPS, viewer_of
from balancer.director import Choice, Director
from balancer.paths import protocol_of, stream_of
from balancer.policy import Candidate, Viewer, order
from common.errors import NodeUnavailable
from common.names import check_name
from common.runtime import metrics
from common.runtime.http import CORS, preflight, problem

HEADERS = {**CORS, "Cache-Control": "no-store"}

RETRY = (1, 3)
"""Seconds after which those come back whom nobody can take, each at another moment."""


class Redirector:
    """Answers viewers."""

    def __init__(
        self,
        director: Director,
        node: str = "balancer",
        datacenter: str = "",
        elsewhere: Callable[[], list[str]] = list,
    ) -> None:
        """``elsewhere``: base URLs of balancers of other datacenters, for when ours is full."""
        self.director = director
        self.datacenter = datacenter
        self._node = node
        self._elsewhere = elsewhere

    async def viewer(self, request: web.Request) -> web.Response:
        """Answer any viewer path with 307 to an edge, path and query kept."""
        path = request.path
        viewer = self.asks(request, stream_of(path) or "", protocol_of(path))
        try:
            node = self.director.choose(viewer)
        except NodeUnavailable as error:
            return self.nobody(request, viewer, error)
        return redirect(node.registration.url + request.raw_path, node.registration.node)

    async def edge(self, request: web.Request) -> web.Response:
        """Answer with the edge as JSON, for players that cannot follow a redirect (WebSocket)."""
        stream = request.query.get("stream", "")
        viewer = self.asks(request, check_name(stream) if stream else "", "ws")
        ranking = self.director.ranked(viewer)
        node = self.director.choose(viewer)
        others = [self.director.url(one.node) for one in ranking if not one.refused]
        url = node.registration.url
        answer = {
            "url": url,
            "node": node.registration.node,
            "alternatives": [one for one in others if one != url],
        }
        return web.json_response(answer, headers=HEADERS)

    async def choices(self, request: web.Request) -> web.Response:
        """Answer with the last choices and what each was made from, the newest first."""
        stream = request.query.get("stream")
        kept = [one for one in reversed(self.director.choices) if stream in (None, one.stream)]
        return web.json_response([_choice(one) for one in kept])

    async def explain(self, request: web.Request) -> web.Response:
        """Say where a viewer would be sent now, and why; nobody is sent anywhere.

        Takes what a viewer's request takes, and ``stream`` and ``protocol``.
        """
        query = request.query
        stream = check_name(query["stream"]) if query.get("stream") else ""
        viewer = self.asks(request, stream, query.get("protocol", ""), note=False)
        ranking = self.director.ranked(viewer, everybody=True)
        chosen = ranking[0].node if ranking and not ranking[0].refused else ""
        told = {
            "stream": viewer.stream,
            "protocol": viewer.protocol,
            "node": chosen,
            "place": {"datacenter": viewer.place.datacenter, "location": viewer.place.location},
            "excluded": sorted(viewer.excluded),
            "expected_bits_per_second": round(self.director.table.expected_bits(viewer.stream)),
            "candidates": [_terms(one) for one in ranking],
        }
        return web.json_response(told, headers=HEADERS)

    async def nodes(self, _: web.Request) -> web.Response:
        """Answer with the edges as the policy sees them now."""
        told = [self._node_now(one) for one in order(self.director.loads())]
        return web.json_response(told, headers=HEADERS)

    def asks(
        self, request: web.BaseRequest, stream: str, protocol: str, *, note: bool = True
    ) -> Viewer:
        """Return who asks; whom they exclude becomes suspect, unless it is not to be noted."""
        viewer = viewer_of(request, stream, protocol, self.datacenter)
        if note:
            self.director.failed(viewer)
        return viewer

    def nobody(self, request: web.Request, viewer: Viewer, error: NodeUnavailable) -> web.Response:
        """Answer a viewer whom no edge can take: another datacenter, or 503."""
        hops = len(viewer.excluded)
        others = self._elsewhere() if hops < MAX_HOPS and self._node not in viewer.excluded else []
        if others:
            metrics.REDIRECTS_ELSEWHERE.inc()
            hop = ",".join(sorted({*viewer.excluded, self._node}))
            asked = request.rel_url.update_query({"not": hop})
            return redirect(random.choice(others) + str(asked))
        refused = problem(error, cors=True)
        refused.headers["Retry-After"] = str(random.randint(*RETRY))
        return refused

    def _node_now(self, one: Candidate) -> dict[str, Any]:
        node = self.director.table.nodes[one.node]
        state = node.state
        return {
            "node": one.node,
            "url": node.registration.url,
            "refused": one.refused,
            "load": one.load,
            "score": one.score,
            "sessions": state.sessions,
            "bits_per_second": state.bandwidth,
            "pending_sessions": state.pending_sessions,
            "pending_bits_per_second": state.pending_bandwidth,
            "capacity": {
                "bits_per_second": state.bandwidth_capacity,
                "sessions": state.session_capacity,
            },
            "cpu": state.cpu,
            "memory": state.memory,
            "streams": len(state.streams),
            "datacenter": state.place.datacenter,
            "tags": sorted(state.tags),
            "draining": state.draining,
        }


def redirect(location: str, node: str = "") -> web.Response:
    """Return a redirect that no cache keeps; the body is the URL, for people and scripts.

    ``node`` is the name to say in ``?not=`` if it does not serve.
    """
    headers = {**HEADERS, "Location": location}
    if node:
        headers["X-Headwater-Node"] = node
    return web.Response(status=307, text=location + "\n", headers=headers)


def _choice(choice: Choice) -> dict[str, Any]:
    return {
        "unix_ms": choice.unix_ms,
        "stream": choice.stream,
        "protocol": choice.protocol,
        "node": choice.node,
        "ranking": [_terms(one) for one in order(choice.candidates)],
    }


def _terms(one: Candidate) -> dict[str, Any]:
    return {
        key: round(value, 6) if isinstance(value, float) else value
        for key, value in one._asdict().items()
    }


def routes(redirector: Redirector) -> list[web.RouteDef]:
    """Return the routes for viewers; the last, the redirect, takes every other path."""
    return [
        web.get("/api/v1/edge", redirector.edge),
        web.get("/api/v1/choices", redirector.choices),
        web.get("/api/v1/explain", redirector.explain),
        web.get("/api/v1/nodes", redirector.nodes),
        web.options("/{path:.*}", preflight),
        web.get("/{path:.*}", redirector.viewer),
    ]
