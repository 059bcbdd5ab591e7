"""An origin dies and another one goes on with its stream, with Consul as the registry."""

import asyncio
import base64
import contextlib
import json
import subprocess
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from tests.harness import viewers
from tests.harness.consul import Consul, consul, until
from tests.harness.media import Packet, clip, packets, push
from tests.harness.nodes import Node, Site, site, start

pytestmark = pytest.mark.e2e

TIMERS = {"ttl": '"3s"', "check": '"1s"', "wait": '"5s"', "timeout": '"1s"'}
PLAYLIST = "/cmaf/live/index.m3u8"
GOP = 50
"""Frames from one keyframe of the clips to the next."""

IN_FLIGHT = 10
"""Frames that may be in the sockets of a process when it is killed."""


@dataclass
class Pair:
    """Two origins, two edges and a balancer on one Consul, and who watches."""

    peers: Consul
    made: Site
    http: aiohttp.ClientSession
    origins: list[Node]
    edges: list[Node]
    balancer: Node
    encoders: "list[subprocess.Popen[bytes]]" = field(default_factory=list)

    def locked(self) -> dict[str, Any]:
        """Return the owner's entry of the stream in Consul, with the session that locks it."""
        [pair] = self.peers.client.call("kv/headwater/live/owners/live")
        return {"session": pair.get("Session", ""), **json.loads(base64.b64decode(pair["Value"]))}

    def push(self, source: Path, origin: Node) -> None:
        self.encoders.append(push(source, self.made.ingest(origin)))

    def watch(self) -> dict[str, "asyncio.Task[Any]"]:
        """Let people watch in every way, the LL-HLS viewer through the balancer."""
        return {
            "flv": asyncio.create_task(
                viewers.progressive(self.http, f"{self.edges[0].url}/live.flv")
            ),
            "ws": asyncio.create_task(
                viewers.websocket(self.http, f"{self.edges[1].url}/live.mp4")
            ),
            "hls": asyncio.create_task(viewers.ll_hls(self.http, self.balancer.url + PLAYLIST)),
        }

    async def until_200(self, url: str) -> None:
        async with asyncio.timeout(60):
            while True:
                async with self.http.get(url) as response:
                    if response.status == 200:
                        return
                await asyncio.sleep(0.05)


@contextlib.asynccontextmanager
async def pair(folder: Path) -> AsyncIterator[Pair]:
    with consul(folder) as peers, site(folder) as made:
        peers.add("client", bootstrap_expect=1)
        await asyncio.to_thread(peers.start)
        where = {**TIMERS, "address": f'"{peers.client.http}"'}
        stream = {"window": '"60s"', "reconnect": '"4s"'}
        origins = [
            made.add("origin", f"origin{n}", {"mirror": "true"}, stream=stream, consul=where)
            for n in (1, 2)
        ]
        edges = [made.add("edge", f"edge{n}", consul=where, seed=n) for n in (1, 2)]
        balancer = made.add("balancer", "balancer", consul=where)
        await asyncio.to_thread(start, *origins, *edges, balancer)
        async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=90)) as http:
            running = Pair(peers, made, http, origins, edges, balancer)
            try:
                yield running
            finally:
                for encoder in running.encoders:
                    encoder.kill()
                    encoder.wait()


def seam(first: list[Packet], second: list[Packet], got: list[Packet]) -> int:
    """Return how many frames of the first clip came; after them all of the second must have.

    None may be left out before the seam, none may come twice.
    """
    payloads = [one.payload for one in got]
    whole = [one.payload for one in second]
    assert payloads[-len(whole) :] == whole, "not all frames after the reconnect"
    before = payloads[: -len(whole)]
    pushed = [one.payload for one in first]
    start = pushed.index(before[0])
    assert before == pushed[start : start + len(before)], "frames are missing before the kill"
    return start + len(before)


async def test_an_encoder_whose_origin_is_killed_goes_on_at_another_one(tmp_path: Path) -> None:
    first = clip(tmp_path / "first.flv", 20, size="320x180")
    second = clip(tmp_path / "second.flv", 6, "-b:v", "600k", size="320x180")
    async with pair(tmp_path) as running:
        one, two = running.origins
        running.push(first, one)
        await running.until_200(running.balancer.url + PLAYLIST)
        began = time.monotonic()
        watching = running.watch()
        await asyncio.sleep(5)
        old = await asyncio.to_thread(running.locked)
        assert (old["node"], bool(old["session"])) == ("origin1", True)
        sent = time.monotonic() - began
        one.kill()
        killed = time.monotonic()
        running.encoders[0].wait()
        running.push(second, two)

        def taken() -> Any:
            now = running.locked()
            return now if now["node"] == "origin2" and now["session"] else None

        new = await asyncio.to_thread(until, "the lock of origin2", taken, running.peers.tails)
        took = time.monotonic() - killed
        assert (new["epoch"], new["term"] > old["term"]) == (old["epoch"], True)
        assert new["session"] != old["session"]
        results = await asyncio.gather(*watching.values())
        pushed = packets(first, "video"), packets(second, "video")
        ends = {
            name: seam(*pushed, packets(viewers.picture(result), "video"))
            for name, result in zip(watching, results, strict=True)
        }
        print(f"locked again after {took:.2f} s; frames of the first clip: {ends}")
        assert min(ends.values()) >= 25 * sent - GOP - IN_FLIGHT
        assert max(ends.values()) - min(ends.values()) <= IN_FLIGHT
