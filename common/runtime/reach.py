"""``/api/v1/reach?node=NAME``: whether this node reaches another one, for ``headwater doctor``.

Only addresses that the registry has are tried, so nobody can have a node connect elsewhere.
"""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import asdict

from aiohttp import web

from common.errors import AccessDenied
from common.runtime.doctor_look import tried
from common.runtime.registry import NodeEntry
from common.runtime.trust import trusted


def routes(
    node: str, nodes: Callable[[], Awaitable[Sequence[NodeEntry]]], token: str = ""
) -> list[web.RouteDef]:
    """Return the route; ``nodes`` are those of the registry."""

    async def reach(request: web.Request) -> web.Response:
        if not trusted(request, token):
            raise AccessDenied("this is for clients of the node's machine, or with its token")
        wanted = request.query.get("node", "")
        found = await tried(node, [one for one in await nodes() if one.name == wanted])
        headers = {"Cache-Control": "no-store"}
        return web.json_response({"reach": [asdict(one) for one in found]}, headers=headers)

    return [web.get("/api/v1/reach", reach)]
