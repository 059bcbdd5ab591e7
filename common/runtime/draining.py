"""``headwater drain NODE`` and ``headwater undrain NODE``: move the viewers of an edge away.

The flag in the registry is the truth; the edge and the balancers act on it. What is shown of the
progress comes from the edge's admin port, or, where that is not reachable from here, from a
balancer.
"""

import asyncio
import sys
import time
from collections.abc import Callable

import aiohttp

from common.errors import NodeUnavailable
from common.runtime.registry import NodeEntry, Registry, url_of

INTERVAL = 0.5
"""Seconds between two looks at the progress."""

LAST_WORDS = 10.0
"""Seconds that are waited beyond the timeout: the edge ends viewers at a keyframe."""

ANSWER_TIMEOUT = 2.0
NOT_SEEN = -1

Say = Callable[[str], None]


def say(text: str) -> None:
    """Write a line of progress to standard output at once."""
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


async def drain(
    registry: Registry, name: str, timeout: float, *, wait: bool, tell: Say = say
) -> bool:
    """Drain an edge; with ``wait`` until nobody is left. Return whether all have gone.

    Raises:
        NodeUnavailable: If no live edge has this name.
    """
    await _edge(registry, name)
    await registry.drain(name, True, timeout)
    if not wait:
        tell(f"{name} drains: its viewers are moved away within {timeout:g} s")
        return True
    return await _watch(registry, name, timeout, tell)


async def undrain(registry: Registry, name: str, tell: Say = say) -> None:
    """Let an edge have viewers again.

    Raises:
        NodeUnavailable: If no live edge has this name.
    """
    await _edge(registry, name)
    await registry.drain(name, False)
    tell(f"{name} takes viewers again")


async def _edge(registry: Registry, name: str) -> NodeEntry:
    edges = {entry.name: entry for entry in await registry.nodes("edge")}
    if name not in edges:
        known = ", ".join(sorted(edges)) or "none"
        raise NodeUnavailable(f"no live edge is called {name!r}; there are: {known}")
    return edges[name]


async def _watch(registry: Registry, name: str, timeout: float, tell: Say) -> bool:
    began = time.monotonic()
    said: int | None = NOT_SEEN
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=ANSWER_TIMEOUT)) as client:
        while True:
            passed = time.monotonic() - began
            left = await _viewers(client, registry, name)
            if left not in (said, NOT_SEEN):
                said = left
                tell(f"{passed:5.1f} s  {_words(name, left)}")
            if left == 0:
                return True
            if passed > timeout + LAST_WORDS:
                return False
            await asyncio.sleep(INTERVAL)


def _words(name: str, left: int | None) -> str:
    if left is None:
        return f"{name} drains; neither it nor a balancer says how many viewers are left"
    if not left:
        return f"{name} is empty"
    return f"{left} viewer{'' if left == 1 else 's'} left on {name}"


async def _viewers(client: aiohttp.ClientSession, registry: Registry, name: str) -> int | None:
    """Return how many viewers an edge has, None if nobody can be asked; 0 if it is gone.

    ``NOT_SEEN``: it has not looked at the registry since.
    """
    entries = await registry.nodes()
    edge = next((entry for entry in entries if entry.name == name), None)
    if edge is None:
        return 0
    tree = await _get(client, f"http://{edge.endpoints.get('admin', '')}/api/v1/node")
    if isinstance(tree, dict) and tree.get("node") == name:
        return int(tree["sessions"]) if tree["draining"] else NOT_SEEN
    for entry in entries:
        if entry.role == "balancer":
            found = await _get(client, f"{url_of(entry.endpoints['http'])}/api/v1/nodes")
            for one in found if isinstance(found, list) else ():
                if one.get("node") == name and "sessions" in one:
                    return int(one["sessions"])
    return None


async def _get(client: aiohttp.ClientSession, url: str) -> object:
    try:
        async with client.get(url) as response:
            return await response.json() if response.status == 200 else None
    except (aiohttp.ClientError, TimeoutError, ValueError):
        return None
