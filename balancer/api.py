"""The balancer's HTTP side: every viewer path is answered with a redirect to an edge."""

import random
import time
from collections import deque
from collections.abc import Callable
from dataclasses import asdict, dataclass

from aiohttp import web

from balancer.nodes import NodeTable
from balancer.paths import protocol_of, stream_of
from balancer.policy import Candidate, rank
from common.errors import NodeUnavailable
from common.runtime import metrics
from common.runtime.http import CORS, preflight, problem

REMEMBERED = 200
"""Choices kept for the operator who asks why."""

MAX_EXCLUDED = 8
"""Edges one request can exclude with ``?not=``."""

HEADERS = {**CORS, "Cache-Control": "no-store"}


@dataclass(frozen=True, slots=True)
class Choice:
    """One decision and what it was made from."""

    unix_ms: int
    stream: str
    node: str
    ranking: list[Candidate]


class Redirector:
    """Chooses an edge for each request and remembers why."""

    def __init__(
        self, table: NodeTable, balancers: Callable[[], int], clock: Callable[[], float]
    ) -> None:
        self._table = table
        self._balancers = balancers
        self._clock = clock
        self.choices: deque[Choice] = deque(maxlen=REMEMBERED)

    def choose(
        self, stream: str, excluded: list[str], protocol: str
    ) -> tuple[str, list[Candidate]]:
        """Return the base URL of the edge for a viewer of ``stream``, and the whole ranking.

        Raises:
            NodeUnavailable: If no edge may take a viewer now.
        """
        now = self._clock()
        ranking = rank(
            self._table.states(now), stream, balancers=self._balancers(), exclude=excluded
        )
        if not ranking or ranking[0].refused:
            reasons = ", ".join(f"{one.node}: {one.refused}" for one in ranking)
            metrics.REDIRECTS_REFUSED.labels(reason="no edge").inc()
            raise NodeUnavailable(f"no edge can take a viewer now ({reasons or 'none is known'})")
        node = ranking[0].node
        self._table.redirected(node, now)
        self.choices.append(Choice(time.time_ns() // 1_000_000, stream, node, ranking))
        metrics.REDIRECTS.labels(node=node, protocol=protocol).inc()
        return self._table.edges[node].url, ranking

    async def viewer(self, request: web.Request) -> web.Response:
        """Answer any viewer path with 307 to an edge, path and query kept."""
        stream = stream_of(request.path) or ""
        try:
            url, _ = self.choose(stream, _excluded(request), protocol_of(request.path))
        except NodeUnavailable as error:
            refused = problem(error, cors=True)
            # Spread out: everybody who is refused now comes back at another moment.
            refused.headers["Retry-After"] = str(random.randint(1, 3))
            return refused
        location = url + request.raw_path
        return web.Response(
            status=307, text=location + "\n", headers={**HEADERS, "Location": location}
        )

    async def edge(self, request: web.Request) -> web.Response:
        """Answer with the edge as JSON, for players that cannot follow a redirect (WebSocket)."""
        stream = stream_of(f"/{request.query.get('stream', '')}.mp4") or ""
        url, ranking = self.choose(stream, _excluded(request), "ws")
        edges = self._table.edges
        others = [edges[one.node].url for one in ranking[1:] if not one.refused]
        return web.json_response({"url": url, "alternatives": others}, headers=HEADERS)

    async def explain(self, request: web.Request) -> web.Response:
        """Answer with the last choices and what each was made from, the newest first."""
        stream = request.query.get("stream")
        chosen = [one for one in reversed(self.choices) if stream in (None, one.stream)]
        return web.json_response([asdict(one) for one in chosen])

    async def nodes(self, request: web.Request) -> web.Response:
        """Answer with the edges as the policy sees them now."""
        now = self._clock()
        ranking = rank(self._table.states(now), "", balancers=self._balancers())
        edges = self._table.edges
        return web.json_response([{**asdict(one), "url": edges[one.node].url} for one in ranking])


def _excluded(request: web.Request) -> list[str]:
    return request.query.get("not", "").split(",", MAX_EXCLUDED)[:MAX_EXCLUDED]


def routes(redirector: Redirector) -> list[web.RouteDef]:
    """Return the balancer's routes; the redirect takes every path that nothing else does."""
    return [
        web.get("/api/v1/edge", redirector.edge),
        web.get("/api/v1/choices", redirector.explain),
        web.get("/api/v1/nodes", redirector.nodes),
        web.options("/{path:.*}", preflight),
        web.get("/{path:.*}", redirector.viewer),
    ]
