"""Two thousand viewers come at once, and one of the four edges dies while they do."""

import asyncio
import random
import re
import time
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import urljoin, urlsplit

import aiohttp
import pytest

from tests.harness.caller import Caller
from tests.harness.nodes import Node, site, start

VIEWERS = 2000
SECONDS = 24.0
"""In which they come: as fast as two cores can be viewers, edges and balancer at once. A client
that lags would hold redirects back until after the edge has died: no balancer can help that."""

DIES = 10.0
"""Seconds after the first viewer at which an edge is killed."""

CAPACITY = 1000
PATH = "/cmaf/live/index.m3u8"
TRIES = 3
TIMEOUT = 20.0


@dataclass
class Crowd:
    """Where the viewers went."""

    at: dict[int, str] = field(default_factory=dict)
    """The edge of each viewer, by its address."""

    redirects: int = 0
    failed: int = 0
    """Redirects that led to an edge that did not serve."""

    refused: int = 0


async def view(caller: Caller, balancer: str, number: int, crowd: Crowd) -> None:
    """Ask the balancer, go where it says and fetch the playlist there; say so if that fails."""
    without: list[str] = []
    for _ in range(TRIES):
        query = f"?not={','.join(without)}" if without else ""
        async with asyncio.timeout(TIMEOUT):
            status, _ = await caller.get(f"{balancer}{PATH}{query}")
        if status != 307:
            crowd.refused += 1
            await asyncio.sleep(float(said(caller, "Retry-After")) / 10)
            continue
        location, node = said(caller, "Location"), said(caller, "X-Headwater-Node")
        crowd.redirects += 1
        try:
            async with asyncio.timeout(TIMEOUT):
                status, body = await caller.get(location)
                media = urljoin(location, first_variant(body.decode()))
                status, _ = await caller.get(media)
        except (OSError, EOFError, TimeoutError):
            crowd.failed += 1
            without.append(node)
            continue
        assert status == 200
        crowd.at[number] = urlsplit(location).netloc
        return


def said(caller: Caller, name: str) -> str:
    """Return a field of the last answer."""
    found = re.search(rf"^{name}: *(.*?)\r?$", caller.head.decode(), re.I | re.M)
    assert found is not None, caller.head
    return found[1]


def first_variant(playlist: str) -> str:
    """Return the first one: it is of the edge that wrote the playlist, others may follow."""
    return next(line for line in playlist.splitlines() if line and line[0] != "#")


async def come(crowd: Crowd, balancer: str, victim: Node) -> None:
    """Let all viewers come, and those of the dead edge once more."""
    draw = random.Random(7)
    times = sorted(draw.betavariate(2, 3) * SECONDS for _ in range(VIEWERS))
    began = time.monotonic()

    async def one(number: int, after: float) -> None:
        await asyncio.sleep(began + after - time.monotonic())
        # A session of an edge is known by the user agent: each viewer has its own.
        with Caller(f"viewer {number}") as caller:
            await view(caller, balancer, number, crowd)

    async with asyncio.TaskGroup() as group:
        for number, after in enumerate(times):
            group.create_task(one(number, after))
        await asyncio.sleep(DIES)
        dead = victim.endpoints["http"]
        victim.kill()
    left = [number for number, where in crowd.at.items() if where == dead]
    assert left, "nobody was on the edge that died"
    async with asyncio.TaskGroup() as group:
        for number in left:
            del crowd.at[number]
            group.create_task(one(number, time.monotonic() - began + 2 * draw.random()))


@pytest.mark.e2e
@pytest.mark.alone
async def test_a_flash_crowd_is_spread_evenly_though_an_edge_dies(tmp_path: Path) -> None:
    with site(tmp_path) as nodes:
        source = '"videogen://?size=320x180@200k&fps=15"'
        origin = nodes.add("origin", "origin", stream={"source": source})
        settings = {"viewers": "1", "idle": '"120 s"', "sessions": str(CAPACITY)}
        edges = [nodes.add("edge", f"edge{n}", settings) for n in range(1, 5)]
        balancer = nodes.add("balancer", "balancer")
        start(origin, *edges, balancer)
        await warm(balancer.url, len(edges))
        crowd = Crowd()
        await come(crowd, balancer.url, edges[0])
        living = [edge.endpoints["http"] for edge in edges[1:]]
        counts = [sum(where == edge for where in crowd.at.values()) for edge in living]
        said = {"viewers": counts, "redirects": crowd.redirects, "failed": crowd.failed}
        print(said, "refused", crowd.refused, "max/mean", max(counts) / (sum(counts) / 3))
        assert sum(counts) == VIEWERS, said
        assert max(counts) / (sum(counts) / len(counts)) <= 1.15, said
        assert crowd.failed <= 0.02 * crowd.redirects, said


async def warm(balancer: str, edges: int) -> None:
    """Wait until the balancer hears all edges and the stream can be had through it."""
    async with aiohttp.ClientSession() as http, asyncio.timeout(60):
        while True:
            async with http.get(f"{balancer}/api/v1/nodes") as response:
                known = await response.json()
            async with http.get(f"{balancer}{PATH}") as response:
                playable = response.status == 200
            if playable and len(known) == edges and not any(one["refused"] for one in known):
                return
            await asyncio.sleep(0.1)
