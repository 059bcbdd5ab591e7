"""Where else a viewer could be: ``/api/v1/edge``, as the balancer answers it there.

For players that reconnect. They ask while all is well, because afterwards this edge may be gone.
"""

from collections.abc import Iterable

from aiohttp import web

from common.runtime.http import CORS
from edge.output import Capability, Output

MAX_NAMED = 16
"""Edges in an answer. Those ranked after them are not named."""


class Elsewhere(Output):
    """Names the balancer and the other edges."""

    capability = Capability(description="Other edges", url="")

    def routes(self) -> Iterable[web.RouteDef]:
        """Answer ``/api/v1/edge``."""
        return [web.get("/api/v1/edge", self.show)]

    async def show(self, _: web.Request) -> web.Response:
        """Say which edge this is, which others there are, and who knows better."""
        around = self.context.mover.around
        tree = {
            "node": around.node,
            "alternatives": [peer.url for peer in around.peers[:MAX_NAMED]],
            "balancer": around.balancer,
            "draining": around.draining,
        }
        return web.json_response(tree, headers={"Cache-Control": "no-store", **CORS})
