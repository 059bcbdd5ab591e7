"""What the admin API of every role has: bodies of requests that change something, and restarts."""

import json
from typing import Any

from aiohttp import web

from common.errors import ProtocolError
from common.runtime import restart as restarting

RESTART = "/api/v1/restart"


async def body(request: web.Request) -> dict[str, Any]:
    """Return the JSON object of a request that changes something, empty if it has no body.

    Only the type that a page of another site cannot send unasked is taken: an admin port trusts
    those who are on the machine, and a browser may be there too.

    Raises:
        ProtocolError: If it is of another type, or no JSON object.
    """
    if request.content_type != "application/json":
        raise ProtocolError("send Content-Type: application/json, also without a body")
    try:
        given = json.loads(await request.read() or b"{}")
    except (ValueError, RecursionError) as error:
        raise ProtocolError("the body is not JSON") from error
    if not isinstance(given, dict):
        raise ProtocolError("the body is not a JSON object")
    return given


async def restart(request: web.Request) -> web.StreamResponse:
    """Restart in place, with new code and settings; the answer comes before that.

    Raises:
        ProtocolError: If the request has a body that is no JSON object.
        RestartRefused: If the new settings are wrong, or a restart is under way.
    """
    await body(request)
    await restarting.current().begin()
    headers = {"Cache-Control": "no-store"}
    return web.json_response({"restarting": True}, status=202, headers=headers)
