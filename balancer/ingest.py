"""Which origin a publisher should use: the stream's owner, else a standby, else the best free one.

The answer comes as JSON with the URLs of every protocol, as the plain host, as an ``rtmp://`` or
``srt://`` URL to give to an encoder, or as a redirect for publishers over HTTP.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any
from urllib.parse import quote, urlsplit

from aiohttp import web

from balancer.api import HEADERS, redirect
from balancer.asked import viewer_of
from balancer.director import Director
from balancer.nodes import Node
from balancer.paths import stream_of
from balancer.policy import Candidate, Viewer, order
from common.errors import FormatError, NodeUnavailable
from common.names import check_name
from common.runtime import metrics
from common.runtime.registry import Registry

OWNER, STANDBY, FREE = "owner", "standby", "least loaded"

FORMS = ("host", "rtmp", "srt", "http")
"""What an answer as text can be: see ``as``."""

MAX_KEY = 200
"""Letters of a publisher's key in a question. A longer one is answered with 400."""


@dataclass(frozen=True, slots=True)
class Found:
    """The origin for a publisher."""

    node: Node
    reason: str
    others: list[Node]
    """Where it can turn to if that one does not answer."""


class IngestChoice:
    """Chooses origins."""

    def __init__(self, director: Director, registry: Registry, datacenter: str = "") -> None:
        """``director`` is that of the origins; its table is filled from their gossip."""
        self.director = director
        self._registry = registry
        self.datacenter = datacenter

    async def find(self, request: web.BaseRequest, stream: str, cpu: float = 0.0) -> Found:
        """Return the origin for a publisher of ``stream``, who needs a share of ``cpu``.

        The owner of the stream is right however full it is: the stream is there. An origin that a
        request excludes is left out even so; then the standby is.

        Raises:
            NodeUnavailable: If there is no origin for it.
        """
        viewer = viewer_of(request, stream, "ingest", self.datacenter)
        self.director.failed(viewer)
        nodes = self.director.table.nodes
        ranking = [one.node for one in self._able(viewer, cpu)]
        held = await self._held(viewer) if stream else []
        names = [*dict.fromkeys([*(name for name, _ in held), *ranking])]
        if not names:
            reasons = "; ".join(f"{one.node}: {one.refused}" for one in self.director.loads())
            metrics.REDIRECTS_REFUSED.labels("no origin").inc()
            raise NodeUnavailable(f"no origin can take a publisher ({reasons or 'none is known'})")
        chosen = names[0]
        self.director.sent(chosen, stream)
        reason = held[0][1] if held else FREE
        return Found(nodes[chosen], reason, [nodes[name] for name in names[1:]])

    async def source(self, stream: str) -> str:
        """Return the host of the origin that has a stream, or can go on with it; else nothing."""
        held = await self._held(Viewer(stream))
        if not held:
            return ""
        return host_of(self.director.url(held[0][0]))

    async def _held(self, viewer: Viewer) -> list[tuple[str, str]]:
        """Return the living origins that have the stream, and as what; the owner first."""
        owner = await self._registry.owner(viewer.stream)
        held = [(owner.node, OWNER)] if owner is not None else []
        held += [(one.node, STANDBY) for one in await self._registry.standbys(viewer.stream)]
        nodes, silent = self.director.table.nodes, self.director.silent
        return [
            (name, reason)
            for name, reason in held
            if name in nodes and not silent(nodes[name]) and name not in viewer.excluded
        ]

    def _able(self, viewer: Viewer, cpu: float) -> list[Candidate]:
        """Return the origins that can take somebody new, the best first."""
        room = 1.0 - cpu
        ranking = self.director.ranked(viewer, everybody=True)
        return [one for one in ranking if not one.refused and one.cpu <= room]


class IngestApi:
    """Answers publishers, and what asks for them."""

    def __init__(self, choice: IngestChoice) -> None:
        self._choice = choice

    async def ingest(self, request: web.Request) -> web.Response:
        """Answer ``/api/v1/ingest?stream=S``; ``as`` is ``json``, ``host``, ``rtmp`` or ``srt``.

        ``key`` is put into the URLs, as the encoder has to send it.
        """
        query = request.query
        stream = check_name(query.get("stream", ""))
        form, key = query.get("as", "json"), key_of(request)
        check_form(form, ("json", *FORMS))
        found = await self._choice.find(request, stream)
        if form == "json":
            return web.json_response(_told(found, stream, key), headers=HEADERS)
        return web.Response(text=said(found, stream, key, form), headers=HEADERS)

    async def publish(self, request: web.Request) -> web.Response:
        """Answer who publishes over HTTP (POST, PUT) with 307 to the origin, all kept."""
        found = await self._choice.find(request, stream_of(request.path) or "")
        return redirect(found.node.registration.url + request.raw_path)

    async def origins(self, _: web.Request) -> web.Response:
        """Answer with the origins as the policy sees them now."""
        director = self._choice.director
        told = [
            {
                "node": one.node,
                "refused": one.refused,
                "load": one.load,
                "publishers": director.table.nodes[one.node].state.sessions,
                "bits_per_second": director.table.nodes[one.node].state.bandwidth,
                "endpoints": director.table.nodes[one.node].registration.endpoints,
            }
            for one in order(director.loads())
        ]
        return web.json_response(told, headers=HEADERS)


def _told(found: Found, stream: str, key: str) -> dict[str, Any]:
    return {
        "stream": stream,
        "reason": found.reason,
        **_described(found.node, stream, key),
        "alternatives": [_described(node, stream, key) for node in found.others],
    }


def _described(node: Node, stream: str, key: str) -> dict[str, Any]:
    url = node.registration.url
    name = node.registration.node
    return {"node": name, "host": host_of(url), "urls": _urls(node, stream, key)}


def _urls(node: Node, stream: str, key: str) -> dict[str, str]:
    """Return where to publish a stream, by protocol, as far as the origin has it."""
    ends = node.registration.endpoints
    urls = {"http": f"{node.registration.url}/"}
    if "rtmp" in ends:
        at = ends["rtmp"].removeprefix("rtmp://")
        # Encoders send what stands there as it stands: nothing is escaped in RTMP.
        urls["rtmp"] = f"rtmp://{at}/{stream}" + (f"/{key}" if key else "")
    if "srt" in ends:
        at = ends["srt"].removeprefix("srt://")
        words = f"#!::m=publish,r={stream}" + (f",s={key}" if key else "")
        urls["srt"] = f"srt://{at}?streamid={quote(words, safe='')}"
    return urls


def key_of(request: web.BaseRequest) -> str:
    """Return the publisher's key that a question names; nothing if it names none.

    Raises:
        FormatError: If it is too long for one.
    """
    key = request.query.get("key", "")
    if len(key) > MAX_KEY:
        raise FormatError(f"key: more than {MAX_KEY} letters")
    return key


def check_form(form: str, known: Sequence[str] = FORMS) -> None:
    """Refuse a form of answer that there is not.

    Raises:
        FormatError: With the forms that there are.
    """
    if form not in known:
        raise FormatError(f"as={form}: not {', '.join(known[:-1])} or {known[-1]}")


def said(found: Found, stream: str, key: str, form: str) -> str:
    """Return an origin as one of :data:`FORMS`: its host, or the URL that an encoder takes.

    Raises:
        NodeUnavailable: If the origin has no such input.
    """
    registration = found.node.registration
    if form == "host":
        return host_of(registration.url)
    urls = _urls(found.node, stream, key)
    if form not in urls:
        raise NodeUnavailable(f"{registration.node} takes nothing over {form}")
    return urls[form]


def host_of(url: str) -> str:
    """Return the host of a URL, without its port."""
    return urlsplit(url).hostname or ""


def routes(api: IngestApi) -> list[web.RouteDef]:
    """Return the routes for publishers."""
    return [
        web.get("/api/v1/ingest", api.ingest),
        web.get("/api/v1/origins", api.origins),
        web.post("/{path:.*}", api.publish),
        web.put("/{path:.*}", api.publish),
    ]
