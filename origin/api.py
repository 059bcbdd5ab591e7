"""The HTTP API of an origin: what it takes in, for people and programs that run it.

Clients on this machine need no token; others need the one from ``[origin] token``. Keys of streams
are nowhere in it.
"""

import hmac
import ipaddress
from collections.abc import Callable
from typing import Any

from aiohttp import web

from common.errors import FormatError, StreamNotFound
from common.media.describe import describe
from common.media.track import Track
from common.runtime.http import Handler
from origin.live import LiveStream
from origin.publisher import Publisher
from origin.standby import Standing
from origin.streams import Streams

_PROXIED = ("Forwarded", "X-Forwarded-For", "X-Real-IP", "Via")
"""Headers of a proxy: the client is then not the one on this machine."""


def guard(token: str) -> Callable[[Handler], Handler]:
    """Return a decorator that lets in clients of this machine, and those with ``token``."""

    def decorate(handler: Handler) -> Handler:
        async def guarded(request: web.Request) -> web.StreamResponse:
            if _local(request) or _bears(request, token):
                return await handler(request)
            body = {
                "type": "about:blank",
                "title": "Unauthorized",
                "detail": "the API needs a token from other machines: set [origin] token",
                "status": 401,
            }
            return web.json_response(
                body,
                status=401,
                headers={"WWW-Authenticate": "Bearer", "Cache-Control": "no-store"},
                content_type="application/problem+json",
            )

        return guarded

    return decorate


def routes(streams: Streams, token: str) -> list[web.RouteDef]:
    """Return ``/api/v1/streams`` and ``/api/v1/streams/NAME``."""

    @guard(token)
    async def listing(_: web.Request) -> web.StreamResponse:
        found = [describe_stream(live) for live in streams.live()]
        found += [describe_followed(standing) for standing in streams.followed()]
        return _json({"streams": found})

    @guard(token)
    async def one(request: web.Request) -> web.StreamResponse:
        name = request.match_info["name"]
        live = next((live for live in streams.live() if live.name == name), None)
        followed = next((one for one in streams.followed() if one.name == name), None)
        if live is None and followed is not None:
            return _json(describe_followed(followed))
        if live is None:
            raise StreamNotFound(f"{name} is not live here")
        return _json(describe_stream(live))

    return [web.get("/api/v1/streams", listing), web.get("/api/v1/streams/{name}", one)]


def describe_stream(live: LiveStream) -> dict[str, Any]:
    """Return what the API says of a stream."""
    catalog = live.catalog
    return {
        "name": live.name,
        "role": "leader",
        "epoch": catalog.epoch,
        "term": catalog.term,
        "live": catalog.live and bool(live.publishers),
        "target_duration": catalog.target_duration,
        "part_target": catalog.part_target_us / 1_000_000,
        "independent_segments": catalog.independent,
        "next_segment": live.next_segment,
        "followed": live.followed,
        "publishers": [_publisher(publisher) for publisher in live.publishers],
        "tracks": [_track(track) for track in catalog.tracks],
    }


def describe_followed(standing: Standing) -> dict[str, Any]:
    """Return what the API says of a stream that another origin owns."""
    follower = standing.follower
    catalog = follower.catalog
    return {
        "name": standing.name,
        "role": "follower",
        "owner": standing.owner.node,
        "epoch": catalog.epoch if catalog else None,
        "term": standing.owner.term,
        "live": bool(catalog and catalog.live),
        "aligned": follower.aligned,
        "lag": follower.lag_us / 1_000_000,
        "publishers": [_publisher(publisher) for publisher in follower.publishers],
        "tracks": [_track(track) for track in catalog.tracks] if catalog else [],
    }


def _publisher(publisher: Publisher) -> dict[str, Any]:
    return {
        "number": publisher.number,
        "slot": publisher.slot,
        "protocol": publisher.protocol,
        "peer": publisher.peer,
        "forwarded": publisher.forwarded,
    }


def _track(track: Track) -> dict[str, Any]:
    fields: dict[str, Any] = {
        "id": track.id,
        "slot": track.slot,
        "kind": track.codec.kind,
        "codec": track.codec,
        "language": track.language,
        "name": track.name,
        "ended": track.ended,
    }
    try:
        said = describe(track.codec, track.inits[-1]) if track.inits else None
    except FormatError:
        return fields
    if said is not None:
        fields["codecs"] = said.codec_string
        sizes = {"width": said.width, "height": said.height}
        sounds = {"sample_rate": said.sample_rate, "channels": said.channels}
        fields |= {key: value for key, value in {**sizes, **sounds}.items() if value}
    return fields


def _json(tree: Any) -> web.Response:
    return web.json_response(tree, headers={"Cache-Control": "no-store"})


def _local(request: web.Request) -> bool:
    """Whether the client is on this machine, not behind a proxy there or in a web page."""
    if any(name in request.headers for name in _PROXIED):
        return False
    origin = request.headers.get("Origin")
    host = request.headers.get("Host", "")
    if origin is not None and origin.partition("://")[2] != host:
        return False  # a page from elsewhere, in a browser on this machine
    return _loopback(request.remote or "") and _names_us(host)


def _names_us(host: str) -> bool:
    """Whether ``Host`` is an address or localhost: not a name that was pointed at us."""
    name = host.rpartition(":")[0] if not host.endswith("]") and ":" in host else host
    if name == "localhost":
        return True
    return _address(name.strip("[]")) is not None


def _loopback(text: str) -> bool:
    address = _address(text)
    if isinstance(address, ipaddress.IPv6Address) and address.ipv4_mapped is not None:
        return address.ipv4_mapped.is_loopback
    return address is not None and address.is_loopback


def _address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def _bears(request: web.Request, token: str) -> bool:
    kind, _, given = request.headers.get("Authorization", "").partition(" ")
    return (
        bool(token)
        and kind.lower() == "bearer"
        and hmac.compare_digest(given.strip().encode(), token.encode())
    )
