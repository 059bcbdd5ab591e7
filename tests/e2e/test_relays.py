"""Relays in real processes: what viewers get while parts of the way to them are killed."""

import asyncio
import re
import subprocess
import time
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import aiohttp
import pytest

from common.bus.upstream import order
from common.runtime.registry import NodeEntry
from tests.e2e.test_equal import objects, same, text
from tests.harness.ledger import difference
from tests.harness.media import clip, packets, push
from tests.harness.nodes import Node, Site, site, start

pytestmark = [pytest.mark.e2e, pytest.mark.alone]

SECONDS = 24
FRAME = 0.04
LONGEST_GAP = 0.1
"""Seconds between two frames of a viewer with two paths while one is killed."""


@dataclass
class Map:
    """An origin, a relay on the way to another datacenter, and two relays and two edges there."""

    origin: Node
    hub: Node
    leaves: list[Node]
    direct: Node
    single: Node
    double: Node
    late: Node

    @property
    def first(self) -> Node:
        """The relay over which all edges there take the stream, if they take it over one."""
        found = order("live", [NodeEntry(leaf.name, "relay", {}) for leaf in self.leaves])[0]
        return next(leaf for leaf in self.leaves if leaf.name == found.name)


def draw(made: Site) -> Map:
    stream = {"window": '"60s"', "reconnect": '"20s"'}
    origin = made.add("origin", "origin", stream=stream, datacenter="home")
    hub = made.add("relay", "hub", datacenter="between")
    leaves = [
        made.add("relay", f"leaf{n}", {"upstream": '["hub"]'}, datacenter="far") for n in (1, 2)
    ]
    kept = {"linger": '"120s"'}  # they hold the stream although nobody watches any more
    direct = made.add("edge", "direct", datacenter="home", seed=1)
    single = made.add("edge", "single", kept, datacenter="far", seed=2)
    double = made.add("edge", "double", {"paths": "2", **kept}, datacenter="far", seed=3)
    late = made.add("edge", "late", datacenter="far", seed=4)
    start(origin, hub, *leaves, direct, single, double)
    return Map(origin, hub, leaves, direct, single, double, late)


def connections(endpoint: str) -> int:
    """Return how many connections are open to a bus."""
    port = endpoint.rpartition(":")[2]
    command = ["ss", "-Htn", "state", "established", f"( sport = :{port} )"]
    return (
        len(subprocess.run(command, capture_output=True, text=True, check=True).stdout.split("\n"))
        - 1
    )


@dataclass
class Watched:
    """What a viewer got, and when."""

    data: bytearray = field(default_factory=bytearray)
    times: list[float] = field(default_factory=list)


async def watch(http: aiohttp.ClientSession, url: str, got: Watched) -> None:
    """Read a progressive stream until the edge ends it."""
    async with http.get(url) as response:
        assert response.status == 200
        async for piece in response.content.iter_any():
            got.data += piece
            got.times.append(time.monotonic())


def longest_gap(got: Watched, first: float, last: float) -> float:
    """Return the longest time without a frame."""
    times = [at for at in got.times if first <= at <= last]
    return max(after - before for before, after in pairwise(times))


async def figure(http: aiohttp.ClientSession, node: Node, name: str) -> float:
    """Return the sum of a metric of a node."""
    body = await text(http, f"http://{node.endpoints['admin']}/metrics")
    return sum(float(v) for v in re.findall(rf"^{name}(?:{{[^}}]*}})? (\S+)$", body, re.M))


async def latency(http: aiohttp.ClientSession, node: Node) -> float:
    """Return how long frames took from the origin's clock to the pages of an edge, in ms."""
    total = await figure(http, node, "headwater_capture_to_edge_seconds_sum")
    return 1000 * total / await figure(http, node, "headwater_capture_to_edge_seconds_count")


async def test_a_relay_is_killed_and_then_all_but_the_edges(tmp_path: Path) -> None:
    source = clip(tmp_path / "clip.flv", SECONDS)
    with site(tmp_path) as made:
        here = draw(made)
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=120)) as http:
            watched = {n.name: Watched() for n in (here.direct, here.single, here.double)}
            tasks = [
                asyncio.create_task(watch(http, f"{node.url}/live.flv", watched[name]))
                for name, node in ((name, made.nodes[name]) for name in watched)
            ]
            await asyncio.sleep(0.5)  # the viewers are there before the publisher
            publisher = push(source, made.ingest(here.origin))
            try:
                await asyncio.sleep(8)
                assert connections(here.origin.endpoints["bus"]) == 2, (
                    "the hub, and the edge at home"
                )
                assert connections(here.hub.endpoints["bus"]) == 2
                killed = time.monotonic()
                here.first.kill()
                await asyncio.sleep(6)
                found = [await objects(http, n) for n in (here.direct, here.single, here.double)]
                delays = [await latency(http, n) for n in (here.direct, here.single, here.double)]
                await asyncio.wait_for(asyncio.gather(*tasks), SECONDS + 20)
            finally:
                publisher.kill()
                publisher.wait()
            assert min(same(found[0], found[1]), same(found[0], found[2])) >= 20
            for kind in ("video", "audio"):
                pushed = packets(source, kind)
                for name, got in watched.items():
                    wrong = difference(pushed, packets(bytes(got.data), kind), tick=0.005)
                    assert not wrong, (name, kind, wrong)
            gaps = {n: longest_gap(got, killed - 0.5, killed + 5) for n, got in watched.items()}
            print({name: f"{1000 * gap:.0f} ms" for name, gap in gaps.items()})
            print("capture to pages, ms:", [f"{delay:.2f}" for delay in delays])
            for node in (here.single, here.double):
                assert await figure(http, node, "headwater_records_lost_total") == 0
            assert await figure(http, here.double, "headwater_records_merged_total") > 100
            assert await figure(http, here.hub, "headwater_records_relayed_total") > 1000

            for node in (here.origin, here.hub, *here.leaves):
                node.kill()
            here.late.start()
            await objects(http, here.late)
            await filled(http, here.late)
            helped = await objects(http, here.late)
            assert same(await objects(http, here.double), helped) >= 40
            async with asyncio.timeout(30):  # the worker tells its figures each second
                while await figure(http, here.late, "headwater_records_backfilled_total") <= 100:  # noqa: ASYNC110
                    await asyncio.sleep(0.1)
            # What held up the viewer at home, too, was this machine and not the relay.
            stalled = max(0.0, gaps["direct"] - 2 * FRAME)
            assert gaps["double"] - stalled < LONGEST_GAP, gaps


async def filled(http: aiohttp.ClientSession, node: Node) -> None:
    """Wait until an edge holds the window from its beginning on."""
    async with asyncio.timeout(60):
        while True:
            body = await text(http, f"http://{node.endpoints['admin']}/api/v1/streams/live")
            found = re.findall(r'"contiguous_from": (\d+)', body)
            if found and not any(map(int, found)):
                return
            await asyncio.sleep(0.1)
