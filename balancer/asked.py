"""What a request says of the viewer or publisher behind it.

What a proxy or a player tells us of itself only changes where that one viewer goes, so a value
that makes no sense counts as none: nobody is refused for it.
"""

import json
import math

from aiohttp import web

from balancer.places import Place, location
from balancer.policy import Viewer

MAX_EXCLUDED = 8
"""Nodes that one request can exclude with ``?not=``. Those named after them are not excluded."""

MAX_HOPS = 2
"""Nodes in ``?not=``, at which a viewer has been sent on often enough. It is not passed on to
another datacenter."""

MAX_ADJUSTMENTS = 16
"""Tags that one request can prefer or avoid. Those named after them are ignored."""

MAX_ADJUSTMENT_TEXT = 1024
"""Letters of ``X-Tag-Adjust``. A longer one is ignored."""

POINTS = 1000.0
"""MistServer's points for the whole load of a server; tags are given in points."""


def viewer_of(request: web.BaseRequest, stream: str, protocol: str, datacenter: str = "") -> Viewer:
    """Return what is known of a viewer; ``datacenter`` is ours, to which it came."""
    headers, query = request.headers, request.query
    if not query and "X-Latitude" not in headers and "X-Tag-Adjust" not in headers:
        return Viewer(stream, protocol, place=Place(datacenter))
    point = location(
        headers.get("X-Latitude", query.get("lat")), headers.get("X-Longitude", query.get("lon"))
    )
    adjust = headers.get("X-Tag-Adjust", query.get("tag_adjust", ""))
    return Viewer(
        stream,
        protocol,
        excluded(query.get("not", "")),
        Place(datacenter, point),
        adjustments(adjust) if adjust else {},
    )


def excluded(text: str) -> frozenset[str]:
    """Return the nodes that a list with commas names, at most ``MAX_EXCLUDED``."""
    return frozenset(filter(None, text.split(",", MAX_EXCLUDED)[:MAX_EXCLUDED]))


def adjustments(text: str) -> dict[str, float]:
    """Read ``X-Tag-Adjust``: a JSON object, ``{"tag": points}``; more points are better.

    Returns shares of load, -1 to 1, for each tag; nothing if the text is something else.
    """
    if len(text) > MAX_ADJUSTMENT_TEXT:
        return {}
    try:
        given = json.loads(text)
    except (ValueError, RecursionError):
        return {}
    if not isinstance(given, dict):
        return {}
    return {
        tag: min(max(points / POINTS, -1.0), 1.0)
        for tag, points in list(given.items())[:MAX_ADJUSTMENTS]
        if type(points) in (int, float) and math.isfinite(points)
    }
