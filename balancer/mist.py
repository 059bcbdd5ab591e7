"""MistServer's queries: the URLs of its load balancer, for programs that call them today.

``docs/reference/balancer.md`` has each of them with its answer, and where ours differs: nothing of
the path or the query is lost in a redirect, 0 is a latitude, and nothing here is asked by polling.
"""

import json
from dataclasses import replace
from typing import Any

from aiohttp import web

from balancer.api import HEADERS, Redirector, redirect
from balancer.config import weights
from balancer.director import Director
from balancer.ingest import IngestChoice, check_form, host_of, key_of, said
from balancer.nodes import Node
from balancer.paths import playable, protocol_of
from balancer.policy import NEVER, Weights
from common.errors import AccessDenied, ConfigError, FormatError, NodeUnavailable
from common.names import check_name
from common.runtime.trust import trusted

FULL = "FULL"
"""What MistServer answers if nobody can take a viewer."""

POINTS = 1000
"""MistServer's points for the whole of a resource; its weights are given in points."""

WEIGHTS = {
    "cpu": "cpu",
    "ram": "memory",
    "bw": "bandwidth",
    "sessions": "sessions",
    "geo": "geography",
    "bonus": "carrier",
    "errors": "errors",
}
"""MistServer's names of the weights, and ours; it has none for sessions and errors."""

CONTROL = ("proto", "not", "lat", "lon", "tag_adjust", "fallback")
"""Queries that are for the balancer and not for the edge."""


class Mist:
    """Answers as MistServer's load balancer does."""

    def __init__(self, redirector: Redirector, ingest: IngestChoice, token: str) -> None:
        self._redirector = redirector
        self._ingest = ingest
        self._token = token

    @property
    def _director(self) -> Director:
        return self._redirector.director

    async def root(self, request: web.Request) -> web.StreamResponse:
        """Answer ``/?QUERY``; without one, the state of all edges."""
        query = request.query
        for word in ("weights", "lstserver", "viewers", "streamstats", "stream"):
            if word in query:
                answer: web.StreamResponse = getattr(self, f"_{word}")(request, query[word])
                return answer
        if "source" in query:
            return await self._source(request, query["source"])
        if "ingest" in query:
            return await self._find_ingest(request, query["ingest"])
        if "addserver" in query or "delserver" in query:
            raise FormatError("servers come and go by themselves: they register and gossip")
        return self._states(query.get("host"))

    async def stream(self, request: web.Request) -> web.StreamResponse:
        """Answer ``/STREAM`` with the host of an edge, ``/STREAM?proto=`` with a redirect to it."""
        stream = check_name(request.match_info["stream"])
        wanted = request.query.get("proto", "")
        path = playable(stream, wanted) if wanted else ""
        if wanted and not path:
            raise FormatError(f"proto={wanted}: nothing here is called so")
        viewer = self._redirector.asks(request, stream, protocol_of(path) if path else "")
        try:
            node = self._director.choose(viewer)
        except NodeUnavailable as error:
            if path:
                return self._redirector.nobody(request, viewer, error)
            return _text(request.query.get("fallback", FULL))
        if not path:
            return _text(host_of(node.registration.url))
        rest = {name: value for name, value in request.query.items() if name not in CONTROL}
        url = request.url.with_path("/").with_query(rest)
        query = f"?{url.raw_query_string}" if rest else ""
        return redirect(node.registration.url + path + query, node.registration.node)

    def _weights(self, request: web.Request, given: str) -> web.Response:
        """Show the weights, changed if there is something to change."""
        if given.strip() not in ("", "{}"):
            if not trusted(request, self._token):
                raise AccessDenied("weights are changed with the token of [balancer] token")
            rules = self._director.rules
            self._director.rules = replace(rules, weights=_read_weights(given, rules.weights))
        now = self._director.rules.weights
        return _pretty({mist: round(getattr(now, ours) * POINTS) for mist, ours in WEIGHTS.items()})

    def _lstserver(self, _request: web.Request, _given: str) -> web.Response:
        return _pretty({name: self._monitored(node) for name, node in self._nodes()})

    def _viewers(self, _request: web.Request, _given: str) -> web.Response:
        """Count the viewers of each stream on all edges."""
        counts: dict[str, int] = {}
        for _, node in self._nodes():
            if node.report is not None:
                for name, viewers in zip(node.report.streams, node.report.viewers, strict=False):
                    counts[name] = counts.get(name, 0) + viewers
        return _pretty(counts)

    def _streamstats(self, _request: web.Request, wanted: str) -> web.Response:
        """Return ``[viewers, bytes a second of one, bytes a second up, down]`` of each stream."""
        sums: dict[str, list[float]] = {}
        for _, node in self._nodes():
            report = node.report
            if report is None:
                continue
            for name, viewers, bits in zip(
                report.streams, report.viewers, report.bits, strict=False
            ):
                if wanted in ("*", name):
                    found = sums.setdefault(name, [0, 0])
                    found[0] += viewers
                    found[1] += bits
        expected = self._director.table.expected_bits
        return _pretty(
            {
                name: [int(viewers), round(expected(name) / 8), round(bits / 8), 0]
                for name, (viewers, bits) in sums.items()
            }
        )

    def _stream(self, _request: web.Request, wanted: str) -> web.Response:
        """Count the viewers of one stream."""
        count = 0
        for _, node in self._nodes():
            report = node.report
            if report is not None and wanted in report.streams[: len(report.viewers)]:
                count += report.viewers[report.streams.index(wanted)]
        return _text(str(count))

    def _states(self, host: str | None) -> web.Response:
        """Return the state of all edges, or of one, by the name of its host."""
        loads = {one.node: one for one in self._director.loads()}
        states: dict[str, Any] = {}
        for name, node in self._nodes():
            where, state, one = host_of(node.registration.url), node.state, loads[name]
            if host and host not in (where, name):
                continue
            report = node.report
            scores = (
                ("cpu", one.cpu),
                ("ram", one.memory),
                ("bw", one.bandwidth),
                ("total", one.score),
            )
            states[where if where not in states else name] = {
                "cpu": round(state.cpu * 100),
                "ram": round(state.memory * 100),
                "up": round(state.bandwidth / 8),
                "up_add": round(state.pending_bandwidth / 8),
                "down": 0,
                "streams": len(report.streams) if report else 0,
                "viewers": state.sessions,
                "bwlimit": round(state.bandwidth_capacity / 8),
                "geo": _geo(node),
                "score": {word: round(POINTS * (1 - share)) for word, share in scores},
                "state": self._monitored(node),
            }
        if host and not states:
            raise NodeUnavailable(f"no edge is called {host!r}")
        return _pretty(states.get(host, states) if host else states)

    async def _source(self, request: web.Request, stream: str) -> web.Response:
        """Name the host where a stream comes from, as ``dtsc://HOST``."""
        host = await self._ingest.source(check_name(stream))
        return _text(f"dtsc://{host}" if host else request.query.get("fallback", FULL))

    async def _find_ingest(self, request: web.Request, cpu: str) -> web.Response:
        """Name the host to publish to; ``cpu`` is the percentage that the publisher will need.

        With ``as`` it is the URL to give to an encoder; MistServer knows the host alone.
        """
        try:
            need = min(max(float(cpu or 0) / 100, 0.0), 1.0)
        except ValueError:
            raise FormatError(f"ingest={cpu}: not a percentage of CPU time") from None
        stream, key = request.query.get("stream_name", ""), key_of(request)
        form = request.query.get("as", "host")
        check_form(form)
        if form != "host" and not stream:
            raise FormatError(f"as={form}: say which stream it is for with stream_name")
        try:
            found = await self._ingest.find(request, check_name(stream) if stream else "", need)
            return _text(said(found, stream, key, form))
        except NodeUnavailable:
            return _text(request.query.get("fallback", FULL))

    def _nodes(self) -> list[tuple[str, Node]]:
        return sorted(self._director.table.nodes.items())

    def _monitored(self, node: Node) -> str:
        if node.state.heard == NEVER:
            return "Starting monitoring..."
        if self._director.silent(node):
            return "Offline"
        return "Draining" if node.state.draining else "Monitored (online)"


def _read_weights(text: str, before: Weights) -> Weights:
    try:
        given = json.loads(text)
        points = {WEIGHTS[name]: float(value) / POINTS for name, value in given.items()}
        return weights(points, before)
    except (ValueError, TypeError, AttributeError, RecursionError):
        raise FormatError('weights: a JSON object such as {"cpu": 1000, "geo": 300}') from None
    except KeyError as error:
        known = ", ".join(WEIGHTS)
        raise FormatError(f"weights: {error} is none; there are {known}") from None
    except ConfigError as error:
        raise FormatError(f"weights: {error.reason}") from error


def _geo(node: Node) -> dict[str, Any]:
    place = node.registration.place
    found: dict[str, Any] = {"loc": place.datacenter}
    if place.location is not None:
        found["lat"], found["long"] = place.location
    return found


def _pretty(tree: dict[str, Any]) -> web.Response:
    text = json.dumps(tree, indent=2)
    return web.Response(text=text + "\n", content_type="application/json", headers=HEADERS)


def _text(text: str) -> web.Response:
    return web.Response(text=text, headers=HEADERS)


def routes(mist: Mist) -> list[web.RouteDef]:
    """Return MistServer's URLs; a stream's name has no dot, so that no file is taken for one."""
    return [
        web.get("/", mist.root),
        web.get(r"/{stream:[^/.~]+}", mist.stream),
    ]
