"""Two datacenters with a Consul each, joined; one of the two is cut off, and nobody sees it."""

import asyncio
import contextlib
import json
import signal
import subprocess
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.e2e.test_consul_faults import HEADWATER, PLAYLIST, TIMERS, Newcomers
from tests.harness import viewers
from tests.harness.consul import Agent, Consul, consul, until
from tests.harness.ledger import difference
from tests.harness.media import clip, packets, push
from tests.harness.nodes import Node, Site, site, start

pytestmark = [pytest.mark.e2e, pytest.mark.long, pytest.mark.timeout(300)]

CUT = 6.0
"""Seconds that a Consul is away: several times what makes it think that its nodes are dead."""


@dataclass
class Place:
    """One datacenter: its Consul, an origin, an edge and a balancer."""

    name: str
    agent: Agent
    origin: Node
    edge: Node
    balancer: Node


@dataclass
class World:
    """Two datacenters, and who publishes and watches in them."""

    peers: Consul
    made: Site
    http: aiohttp.ClientSession
    near: Place
    far: Place
    newcomers: list[Newcomers]
    encoders: "list[subprocess.Popen[bytes]]" = field(default_factory=list)
    tasks: "list[asyncio.Task[Any]]" = field(default_factory=list)

    def push(self, source: Path, origin: Node, wildcard: str = "") -> "subprocess.Popen[bytes]":
        process = push(source, self.made.ingest(origin) + wildcard)
        self.encoders.append(process)
        return process

    def watch(self) -> "dict[str, asyncio.Task[Any]]":
        """Let people watch in both datacenters, and come all the time."""
        made = {
            "flv": viewers.progressive(self.http, f"{self.near.edge.url}/live.flv"),
            "ws": viewers.websocket(self.http, f"{self.far.edge.url}/live.mp4"),
            "hls": viewers.ll_hls(self.http, self.far.balancer.url + PLAYLIST),
        }
        watching = {name: asyncio.ensure_future(one) for name, one in made.items()}
        self.tasks += [*watching.values(), *(asyncio.create_task(n.run()) for n in self.newcomers)]
        return watching

    def phase(self, words: str) -> None:
        for one in self.newcomers:
            one.phase = words

    async def until_200(self, url: str, seconds: float = 60) -> None:
        async with asyncio.timeout(seconds):
            while True:
                async with self.http.get(url) as response:
                    if response.status == 200:
                        return
                await asyncio.sleep(0.05)

    def listed(self, node: Node) -> dict[str, str]:
        """Return the datacenter of each node that one of them knows."""
        command = [HEADWATER, "nodes", "--json", "--config", f"{node.folder}/{node.name}.toml"]
        done = subprocess.run(command, capture_output=True, check=False)
        return {one["name"]: one["datacenter"] for one in json.loads(done.stdout or "[]")}


def _place(made: Site, agent: Agent, name: str) -> Place:
    where = {**TIMERS, "address": f'"{agent.http}"'}
    stream = {"reconnect": '"2s"'}
    nodes = [
        made.add(role, f"{name}-{role}", stream=stream, consul=where, datacenter=name)
        for role in ("origin", "edge", "balancer")
    ]
    start(*nodes)
    return Place(name, agent, *nodes)


@contextlib.asynccontextmanager
async def world(folder: Path) -> AsyncIterator[World]:
    with consul(folder) as peers, site(folder) as made:
        peers.add("client", bootstrap_expect=1)
        peers.add("far", "dc2", bootstrap_expect=1, retry_join_wan=[peers.client.address])
        await asyncio.to_thread(peers.start)
        near = await asyncio.to_thread(_place, made, peers.client, "dc1")
        far = await asyncio.to_thread(_place, made, peers.far, "dc2")
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=90)) as http:
            coming = [Newcomers(http, place.balancer, [place.edge]) for place in (near, far)]
            running = World(peers, made, http, near, far, coming)
            try:
                yield running
            finally:
                for task in running.tasks:
                    task.cancel()
                await asyncio.gather(*running.tasks, return_exceptions=True)
                for encoder in running.encoders:
                    encoder.kill()
                    encoder.wait()


async def _cut(running: World, source: Path) -> None:
    """Let the Consul of the second datacenter hang; meanwhile streams begin, and an edge."""
    near, far = running.near, running.far
    running.phase("dc2 hangs")
    far.agent.freeze()
    try:
        where = {**TIMERS, "address": f'"{far.agent.http}"'}
        late = running.made.add("edge", "dc2-late", consul=where, datacenter="dc2")
        await asyncio.to_thread(late.start)
        await running.until_200(late.url + PLAYLIST)
        running.push(source, near.origin, "+near")
        running.push(source, far.origin, "+far")  # nobody can learn of it yet
        await running.until_200(f"{near.edge.url}/cmaf/live+near/index.m3u8")
        await asyncio.sleep(CUT)
    finally:
        far.agent.thaw()
    running.phase("dc2 is back")
    await running.until_200(f"{far.edge.url}/cmaf/live+near/index.m3u8")
    await running.until_200(f"{near.edge.url}/cmaf/live+far/index.m3u8")


async def _stop(running: World, place: Place) -> None:
    """Kill the Consul of a datacenter for a while."""
    running.phase(f"{place.name} is stopped")
    place.agent.kill()
    await asyncio.sleep(CUT)
    await asyncio.to_thread(running.peers.start)
    running.phase(f"{place.name} is back")


async def test_a_datacenter_whose_consul_is_cut_off_goes_on_and_so_does_the_other(
    tmp_path: Path,
) -> None:
    source = clip(tmp_path / "clip.flv", 60, size="320x180")
    async with world(tmp_path) as running:
        near, far = running.near, running.far
        publisher = running.push(source, near.origin)
        for place in (near, far):
            await running.until_200(place.balancer.url + PLAYLIST)
        watching = running.watch()
        await _cut(running, source)
        await _stop(running, near)
        want = {f"{dc}-{role}": dc for dc in ("dc1", "dc2") for role in ("origin", "edge")}
        want |= {"dc1-balancer": "dc1", "dc2-balancer": "dc2", "dc2-late": "dc2"}

        def agreed() -> bool:
            return all(running.listed(place.edge) == want for place in (near, far))

        await asyncio.to_thread(until, "both to list all nodes", agreed, running.peers.tails)
        for one in running.newcomers:
            assert not one.failures, one.failures
            assert one.served > 20
        publisher.send_signal(signal.SIGINT)
        async with asyncio.timeout(20):
            results = await asyncio.gather(*watching.values())
        pushed = packets(source, "video")
        for name, result in zip(watching, results, strict=True):
            got = packets(viewers.picture(result), "video")
            last = next(n for n, one in enumerate(pushed) if one.payload == got[-1].payload)
            assert not difference(pushed[: last + 1], got), name
            assert last > 25 * 2 * CUT, name
