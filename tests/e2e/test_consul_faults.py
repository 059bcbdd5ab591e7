"""A cluster on a real Consul that breaks in every way: nobody who watches or comes sees it."""

import asyncio
import base64
import contextlib
import json
import re
import signal
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from pathlib import Path

import aiohttp
import pytest

from tests.harness import viewers
from tests.harness.consul import Consul, consul, until
from tests.harness.ledger import difference
from tests.harness.media import FFMPEG, clip, packets, push
from tests.harness.nodes import Node, Site, site, start

pytestmark = [pytest.mark.e2e, pytest.mark.alone]

HEADWATER = str(Path(sys.executable).with_name("headwater"))
TIMERS = {"ttl": '"3s"', "check": '"1s"', "wait": '"5s"', "timeout": '"1s"'}
USUAL: dict[str, str] = {}
PLAYLIST = "/cmaf/live/index.m3u8"
SEGMENT = re.compile(r"/s(\d+)\.m4s")


class Newcomers:
    """Viewers who come all the time, through the balancer and to every edge."""

    def __init__(self, http: aiohttp.ClientSession, balancer: Node, edges: list[Node]) -> None:
        self._http = http
        self._balancer = balancer
        self.edges = edges
        self.served = 0
        self.failures: list[str] = []
        self.slowest = 0.0
        self.phase = "before"

    async def run(self) -> None:
        while True:
            await self._come(self._balancer, PLAYLIST)
            for edge in self.edges:
                await self._come(edge, "/live.flv")
            await asyncio.sleep(0.4)

    async def _come(self, node: Node, path: str) -> None:
        began = time.monotonic()
        try:
            async with asyncio.timeout(5), self._http.get(node.url + path) as response:
                body = await response.content.readexactly(200)
                good = response.status == 200 and len(body) == 200
                what = f"{response.status}"
        except (aiohttp.ClientError, TimeoutError, asyncio.IncompleteReadError) as error:
            good, what = False, repr(error)
        self.served += good
        self.slowest = max(self.slowest, time.monotonic() - began)
        if not good:
            self.failures.append(f"{self.phase}: {node.name}{path}: {what}")


class Show:
    """Two edges, a balancer and an origin with an encoder, all on one Consul agent."""

    def __init__(
        self, folder: Path, made: Site, peers: Consul, timers: Mapping[str, str] = TIMERS
    ) -> None:
        self.peers = peers
        self.consul = {**timers, "address": f'"{peers.client.http}"'}
        self.site = made
        stream = {"reconnect": '"2s"'}
        self.origin = made.add("origin", "origin", stream=stream, consul=self.consul)
        self.edges = [self.edge(name) for name in ("edge1", "edge2")]
        self.balancer = made.add("balancer", "balancer", consul=self.consul)
        self.folder = folder

    def edge(self, name: str) -> Node:
        return self.site.add("edge", name, consul=self.consul)

    def start(self) -> None:
        start(self.origin, *self.edges, self.balancer)

    def owners(self) -> dict[str, int]:
        """Return the terms of the streams that Consul says are locked."""
        pairs = self.peers.client.call("kv/headwater/live/owners/?recurse") or []
        trees = [json.loads(base64.b64decode(p["Value"])) for p in pairs if p.get("Session")]
        return {tree["stream"]: tree["term"] for tree in trees}

    def nodes(self) -> list[str]:
        """Return the nodes that the command line lists."""
        done = subprocess.run(
            [HEADWATER, "nodes", "--json", "--config", str(self.folder / "edge1.toml")],
            capture_output=True,
            check=False,
        )
        return [node["name"] for node in json.loads(done.stdout or "[]")]


@contextlib.asynccontextmanager
async def watched(
    show: Show, source: Path
) -> AsyncIterator[tuple[Newcomers, Callable[[], Awaitable[None]]]]:
    """Let people watch and come; the function that is given ends it and compares every frame."""
    show.start()
    publisher = push(source, show.site.ingest(show.origin))
    whole = aiohttp.ClientTimeout(total=None)  # an answer lasts as long as the stream
    async with aiohttp.ClientSession(timeout=whole) as http:
        newcomers = Newcomers(http, show.balancer, show.edges)
        await _until_200(http, show.balancer.url + PLAYLIST)
        watching = [
            asyncio.create_task(viewers.progressive(http, f"{show.edges[0].url}/live.flv")),
            asyncio.create_task(viewers.websocket(http, f"{show.edges[1].url}/live.mp4")),
        ]
        low_latency = asyncio.create_task(viewers.ll_hls(http, show.balancer.url + PLAYLIST))
        kept = show.folder / "hls.flv"
        player = play_hls(show.balancer.url + PLAYLIST, kept)
        coming = asyncio.create_task(newcomers.run())

        async def finish() -> None:
            coming.cancel()
            publisher.send_signal(signal.SIGINT)
            async with asyncio.timeout(60):
                for watched in await asyncio.gather(*watching):
                    _compare(source, bytes(watched.data))
                _compare(source, _picture(await low_latency))
                assert await asyncio.to_thread(player.wait) == 0, "ffmpeg gave up the playlist"
                _compare(source, kept.read_bytes())

        try:
            yield newcomers, finish
        finally:
            for task in (coming, low_latency, *watching):
                task.cancel()
            await asyncio.gather(coming, low_latency, *watching, return_exceptions=True)
            for process in (publisher, player):
                process.kill()
                process.wait()


def play_hls(url: str, into: Path) -> "subprocess.Popen[bytes]":
    """Start ffmpeg playing whole segments as an ordinary HLS player; it keeps the picture."""
    command = [*FFMPEG, "-i", url, "-map", "0:v:0", "-c", "copy", "-f", "flv", str(into)]
    return subprocess.Popen(command)


def _picture(tracks: dict[str, viewers.HlsTrack]) -> bytes:
    """Return what an LL-HLS viewer got of the picture, once nothing of the stream is missing."""
    for uri, track in tracks.items():
        assert not track.failures, (uri, track.failures[:5])
        numbers = SEGMENT.findall("".join(track.playlists))
        assert numbers
        assert all(len(number) == 10 for number in numbers), "not counted from the Unix time"
    return next(t.stream() for uri, t in tracks.items() if uri.endswith("/1.m3u8"))


def _compare(source: Path, data: bytes) -> None:
    """Check that all frames from the first to the last that came have come."""
    pushed, got = packets(source, "video"), packets(data, "video")
    last = next(n for n, packet in enumerate(pushed) if packet.payload == got[-1].payload)
    assert not difference(pushed[: last + 1], got)
    assert last > 25 * 20


async def _until_200(http: aiohttp.ClientSession, url: str) -> None:
    async with asyncio.timeout(60):
        while True:
            async with http.get(url) as response:
                if response.status == 200:
                    return
            await asyncio.sleep(0.1)


def _say(words: str) -> None:
    sys.stderr.write(f"{words}\n")


async def _faults(show: Show, newcomers: Newcomers) -> None:
    """Kill the leader, the agent, and the majority of servers, each for a while."""
    peers = show.peers
    newcomers.phase = "leader killed"
    leader = await asyncio.to_thread(peers.leader)
    leader.kill()
    await asyncio.sleep(4)
    leader.start()
    newcomers.phase = "agent killed"
    peers.client.kill()
    await asyncio.sleep(5)
    peers.client.start()
    await asyncio.to_thread(peers.wait)
    newcomers.phase = "no quorum"
    for server in peers.servers()[:2]:
        server.kill()
    await asyncio.sleep(6)
    for server in peers.servers()[:2]:
        server.start()
    await asyncio.to_thread(peers.wait)


async def _outage(show: Show, newcomers: Newcomers, seconds: float) -> Node:
    """Stop all of Consul; meanwhile a publisher and an edge begin. Return that edge."""
    newcomers.phase = "no consul"
    before = await asyncio.to_thread(until, "the stream to be locked", show.owners)
    assert list(before) == ["live"]
    show.peers.kill_all()
    began = time.monotonic()
    late = show.edge("edge3")
    await asyncio.to_thread(late.start)
    second = push(show.folder / "clip.flv", show.site.ingest(show.origin) + "+new")
    try:
        async with aiohttp.ClientSession() as http:
            await _until_200(http, f"{show.origin.url}/healthz")
            newcomers.edges.append(late)  # it knows what the others of its machine knew
            await asyncio.sleep(max(0.0, seconds - (time.monotonic() - began)))
            newcomers.phase = "consul is back"
            await asyncio.to_thread(show.peers.start)

            def settled() -> bool:
                owners = show.owners()
                return owners.keys() == {"live", "live+new"} and owners["live"] == before["live"]

            await asyncio.to_thread(until, "streams to be locked", settled, show.peers.tails)
            await _until_200(http, f"{late.url}/cmaf/live+new/index.m3u8")
    finally:
        second.kill()
        second.wait()
    return late


@pytest.mark.parametrize(
    ("seconds", "timers"),
    [
        (25.0, TIMERS),
        pytest.param(600.0, USUAL, marks=[pytest.mark.long, pytest.mark.timeout(1200)]),
    ],
)
async def test_whatever_happens_to_consul_nobody_sees_it(
    tmp_path: Path, seconds: float, timers: Mapping[str, str]
) -> None:
    source = clip(tmp_path / "clip.flv", int(seconds) + 120, size="320x180")
    with consul(tmp_path) as peers, site(tmp_path) as made:
        peers.usual(second=False)
        peers.start()
        show = Show(tmp_path, made, peers, timers)
        async with watched(show, source) as (newcomers, finish):
            await _faults(show, newcomers)
            await _outage(show, newcomers, seconds)
            names = ["balancer", "edge1", "edge2", "edge3", "origin"]

            def listed() -> bool:
                return show.nodes() == names

            await asyncio.to_thread(until, "all nodes to be listed", listed, peers.tails)
            await asyncio.sleep(1)
            await finish()
        assert not newcomers.failures, newcomers.failures
        assert newcomers.served > 100
        _say(f"{newcomers.served} newcomers served, the slowest in {newcomers.slowest:.2f} s")
        assert newcomers.slowest < 3
