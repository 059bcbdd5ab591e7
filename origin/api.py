"""The HTTP API of an origin: what it takes in, for people and programs that run it.

Clients on this machine need no token; others need the one from ``[origin] token``. Keys of streams
are nowhere in it.
"""

from typing import Any

from aiohttp import web

from common.errors import FormatError, StreamNotFound
from common.media.describe import describe
from common.media.track import Track
from common.runtime import admin
from common.runtime.trust import guard
from origin.live import LiveStream
from origin.publisher import Publisher
from origin.standby import Standing
from origin.streams import Streams


def routes(streams: Streams, token: str) -> list[web.RouteDef]:
    """Return ``/api/v1/streams``, ``/api/v1/streams/NAME`` and ``/api/v1/restart``."""
    guarded = guard(token, "origin")

    @guarded
    async def listing(_: web.Request) -> web.StreamResponse:
        found = [describe_stream(live) for live in streams.live()]
        found += [describe_followed(standing) for standing in streams.followed()]
        return _json({"streams": found})

    @guarded
    async def one(request: web.Request) -> web.StreamResponse:
        name = request.match_info["name"]
        live = next((live for live in streams.live() if live.name == name), None)
        followed = next((one for one in streams.followed() if one.name == name), None)
        if live is None and followed is not None:
            return _json(describe_followed(followed))
        if live is None:
            raise StreamNotFound(f"{name} is not live here")
        return _json(describe_stream(live))

    return [
        web.get("/api/v1/streams", listing),
        web.get("/api/v1/streams/{name}", one),
        web.post(admin.RESTART, guarded(admin.restart)),
    ]


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
