"""Where Prometheus finds the metrics of all nodes: discovery over HTTP, out of the registry.

``GET /api/v1/targets`` has the form of ``http_sd_configs``. It serves with any registry, and with
builds of Prometheus that lack the discovery by Consul (Debian's does).
"""

from collections import defaultdict
from collections.abc import Iterable
from typing import Any
from urllib.parse import urlsplit

from aiohttp import web

from common.runtime import trust
from common.runtime.registry import NodeEntry, Registry


def routes(registry: Registry, token: str) -> list[web.RouteDef]:
    """Return the route; clients on other machines need ``token``."""

    @trust.guard(token, "balancer")
    async def targets(_: web.Request) -> web.StreamResponse:
        nodes = await registry.nodes()
        return web.json_response(groups(nodes), headers={"Cache-Control": "no-store"})

    return [web.get("/api/v1/targets", targets)]


def groups(nodes: Iterable[NodeEntry]) -> list[dict[str, Any]]:
    """Return one group for each node, sorted: its address, and labels that say who it is.

    A node tells its metrics on its admin port, or else beside everything else.
    """
    found = defaultdict(list)
    for node in nodes:
        address = node.endpoints.get("admin") or node.endpoints.get("http", "")
        url = urlsplit(address if "://" in address else f"http://{address}")
        if url.netloc:
            labels = {
                "instance": node.name,
                "role": node.role,
                "datacenter": node.datacenter or "none",
                "__scheme__": url.scheme,
            }
            found[node.name].append({"targets": [url.netloc], "labels": labels})
    return [group for name in sorted(found) for group in found[name]]
