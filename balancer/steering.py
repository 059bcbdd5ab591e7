"""Content Steering: tells running players which edge to fetch from (:mod:`common.wire.steering`).

A player asks every few seconds, and says which pathway it is on. It stays there, unless that edge
is dead, drains, or is clearly overloaded; nobody is moved for a little less load. Who has to leave
is spread over the other edges in proportion to what they have free, and by the session, which the
first answer invents: so that players whose edge dies, and who go on with the second of their list
before they ask again, are spread as well.

The answer is always a list. A player that gets an error keeps to what it has, and asks again after
five minutes.
"""

import json
import math
import random
import secrets
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any
from urllib.parse import quote

from aiohttp import web

from balancer.paths import stream_of
from common.errors import FormatError
from common.runtime import metrics
from common.runtime.http import CORS
from common.wire.steering import (
    DASH_PREFIX,
    HLS_PREFIX,
    Ask,
    pathway_of,
    query_of,
    race,
)

MOST = 8
"""Edges in an answer to a player: more than any tries. Those ranked after them are not named."""

FULL = 0.92
"""Load down to which an overloaded edge is relieved; new viewers get in below it."""

OVERLOADED = 1.0
"""Load from which viewers are moved away; between this and ``FULL`` they stay."""

HURRY = (1, 2)
"""Seconds after which a player asks again that is being moved."""

STARTING = 3.0
"""Seconds from the start of a balancer in which it does not know who is alive: nobody is moved."""

STEERING_TYPE = "application/vnd.apple.steering-list"
HEADERS = {"Cache-Control": "no-store", **CORS}


@dataclass(frozen=True, slots=True)
class Edge:
    """One edge as steering sees it."""

    node: str
    url: str
    """Where viewers reach it, without a path."""

    load: float
    """How full it is, 0 to about 1."""

    free: float
    """What it can take yet, in a unit that all have in common; 0 or more."""

    refused: str = ""
    """Why no newcomer may be sent there: ``draining``, ``no gossip`` and the like; else empty."""


View = Callable[[web.Request, str, str, str], Sequence[Edge]]
"""Finds the edges for a request, about a path and the stream there, of a player on a pathway."""


@dataclass(frozen=True, slots=True)
class Plan:
    """Where a player is to go."""

    edges: list[Edge]
    """The first is where it is to be, the others where to go if that fails."""

    reason: str
    """``stay``, ``new``, ``draining``, ``overloaded`` or ``dead``."""


def steer(edges: Sequence[Edge], current: str, session: str, *, starting: bool = False) -> Plan:
    """Return the plan for a player that is on the pathway ``current``; empty: it did not say.

    ``starting``: who is silent may only not have been heard yet.
    """
    here = next((one for one in edges if pathway_of(one.node) == current), None)
    others = sorted(
        (one for one in edges if one is not here and not one.refused),
        key=lambda one: race(session, one.node, one.free),
    )
    silent = [one for one in edges if one is not here and one.refused]
    if here is None:
        # What this balancer has never heard of is dead, or of a cluster that it does not know.
        return Plan([*others, *silent][:MOST], "dead" if current else "new")
    reason = _leaves(here, session)
    if not reason or not others or starting:
        return Plan([here, *others, *silent][:MOST], "stay")
    return Plan([*others[: MOST - 1], here], reason)


def _leaves(here: Edge, session: str) -> str:
    """Return why a player has to leave its edge, empty if it stays."""
    if here.refused not in ("", "full"):
        return "draining" if here.refused == "draining" else "dead"
    if here.load < OVERLOADED:
        return ""
    # The same players leave whenever it is asked, so that a stale figure moves nobody twice.
    lot = math.exp(-race(session, here.node, 1.0))  # even from 0 to 1
    return "overloaded" if lot < (here.load - FULL) / here.load else ""


class Steering:
    """Answers players of HLS and of DASH."""

    def __init__(
        self,
        view: View,
        sent: Callable[[str, str], None],
        ttl: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """``view``: finds the edges for a viewer; ``sent``: takes note of one who is moved to
        an edge, for a stream; ``ttl``: seconds between two questions of a player that stays."""
        self._view = view
        self._sent = sent
        self._ttl = ttl
        self._clock = clock
        self._began = clock()

    def routes(self) -> list[web.RouteDef]:
        """Return where players ask."""
        return [
            web.get(f"{HLS_PREFIX}{{path:/.*}}", self.hls),
            web.get(f"{DASH_PREFIX}{{path:/.*}}", self.dash),
        ]

    async def hls(self, request: web.Request) -> web.Response:
        """Answer an HLS player, whose playlist lacks the edges that are cloned here.

        Raises:
            FormatError: If it asks for what makes no sense.
        """
        ask, path, plan = self._plan(request, "HLS")
        tree = self._manifest(ask, path, plan)
        if clones := _clones(ask, path, plan.edges):
            tree["PATHWAY-CLONES"] = clones
        return web.Response(text=json.dumps(tree), content_type=STEERING_TYPE, headers=HEADERS)

    async def dash(self, request: web.Request) -> web.Response:
        """Answer a DASH player; its manifest names the edges, and is loaded anew with each new one.

        Raises:
            FormatError: If it asks for what makes no sense.
        """
        ask, path, plan = self._plan(request, "DASH")
        tree = self._manifest(ask, path, plan)
        tree["SERVICE-LOCATION-PRIORITY"] = tree["PATHWAY-PRIORITY"]  # the name in earlier drafts
        return web.json_response(tree, headers=HEADERS)

    def _plan(self, request: web.Request, dialect: str) -> tuple[Ask, str, Plan]:
        ask = Ask.of(request.query, dialect)
        if not ask.session:
            ask = replace(ask, session=secrets.token_hex(8))
        path = request.match_info["path"]
        stream = stream_of(path)
        if stream is None:
            raise FormatError("there is no such stream to steer")
        starting = self._clock() - self._began < STARTING
        edges = self._view(request, path, stream, ask.current)
        plan = steer(edges, ask.current, ask.session, starting=starting)
        metrics.STEERED.labels(protocol=dialect.lower(), reason=plan.reason).inc()
        if plan.reason not in ("stay", "new") and plan.edges:
            self._sent(plan.edges[0].node, stream)
        return ask, quote(path, safe="/+=~"), plan

    def _manifest(self, ask: Ask, path: str, plan: Plan) -> dict[str, Any]:
        priority = [pathway_of(one.node) for one in plan.edges] or [ask.current or "."]
        query = query_of(ask.variants, ask.renditions, ask.pathways, ask.session)
        return {
            "VERSION": 1,
            "TTL": self._pause(plan),
            "RELOAD-URI": f"{path.rpartition('/')[2]}?{query}",
            "PATHWAY-PRIORITY": priority,
        }

    def _pause(self, plan: Plan) -> int:
        """Return seconds until the player asks again, each a little other than the next."""
        if plan.reason in ("stay", "new"):
            return max(1, round(self._ttl * random.uniform(0.9, 1.1)))
        return random.randint(*HURRY)


def _clones(ask: Ask, path: str, edges: Sequence[Edge]) -> list[dict[str, Any]]:
    """Return the pathways that a playlist does not name, made from the one that wrote it.

    Whole URLs, because replacing the host alone would keep the port of the base.
    """
    if not ask.pathways:
        return []
    folder = path.rpartition("/")[0]
    found = []
    for edge in edges:
        if pathway_of(edge.node) in ask.pathways:
            continue
        base = f"{edge.url}{folder}/"
        places: dict[str, dict[str, str]] = {}
        if ask.variants:
            places["PER-VARIANT-URIS"] = {uri: base + uri for uri in ask.variants}
        if ask.renditions:
            places["PER-RENDITION-URIS"] = {uri: base + uri for uri in ask.renditions}
        found.append(
            {
                "BASE-ID": ask.pathways[0],
                "ID": pathway_of(edge.node),
                "URI-REPLACEMENT": places,
            }
        )
    return found
