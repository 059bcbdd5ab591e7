import asyncio
import contextlib
import time
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
import zmq

from balancer import app
from balancer.config import BalancerSettings, Config
from common.runtime import ready
from common.runtime.config import NodeSettings
from common.runtime.embedded import EmbeddedRegistry
from common.runtime.registry import NodeEntry
from common.wire.gossip import Gossip, encode_gossip


class FakeEdge:
    """Registers and gossips as an edge does."""

    def __init__(self, registry: EmbeddedRegistry, name: str) -> None:
        self.name = name
        self._registry = registry
        self._context = zmq.Context()
        self._socket = self._context.socket(zmq.PUB)
        self._socket.linger = 0
        self._port = self._socket.bind_to_random_port("tcp://127.0.0.1")
        self._sequence = 0
        self._task = asyncio.create_task(self._gossip())

    async def register(self) -> None:
        endpoints = {"http": f"{self.name}.test:8080", "gossip": f"127.0.0.1:{self._port}"}
        await self._registry.register(NodeEntry(name=self.name, role="edge", endpoints=endpoints))

    async def _gossip(self) -> None:
        while True:
            self._sequence += 1
            report = Gossip(self.name, 1, self._sequence, 0, 0.0, 0, 0.0, 0.0)
            self._socket.send_multipart(encode_gossip(report))
            await asyncio.sleep(0.1)

    async def die(self) -> None:
        self._task.cancel()
        with contextlib.suppress(asyncio.CancelledError):
            await self._task
        self._socket.close()
        self._context.term()


@pytest.fixture
async def registry(tmp_path: Path) -> EmbeddedRegistry:
    return EmbeddedRegistry(tmp_path / "registry")


@pytest.fixture
async def balancer(tmp_path: Path, registry: EmbeddedRegistry) -> AsyncIterator[str]:
    node = NodeSettings(
        name="balancer", run=str(tmp_path / "run"), registry=str(tmp_path / "registry")
    )
    config = Config(node=node, balancer=BalancerSettings(http="127.0.0.1:0", gossip="127.0.0.1:0"))
    task = asyncio.create_task(app.run(config))
    while (found := ready.read(node.run, "balancer")) is None:
        assert not task.done(), task.result()
        await asyncio.sleep(0.01)
    yield f"http://{found.endpoints['http']}"
    task.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await task


async def location(http: aiohttp.ClientSession, url: str) -> tuple[int, str]:
    async with http.get(url, allow_redirects=False) as response:
        return response.status, response.headers.get("Location", "")


async def until_chosen(http: aiohttp.ClientSession, url: str, wanted: set[str]) -> None:
    """Ask until exactly the wanted edges are eligible."""
    async with asyncio.timeout(5):
        while True:
            async with http.get(f"{url}/api/v1/nodes") as response:
                nodes = await response.json()
            if {one["node"] for one in nodes if not one["refused"]} == wanted:
                return
            await asyncio.sleep(0.02)


async def test_any_viewer_path_is_redirected_with_path_and_query_kept(
    balancer: str, registry: EmbeddedRegistry
) -> None:
    async with aiohttp.ClientSession() as http:
        status, _ = await location(http, f"{balancer}/live.mp4")
        assert status == 503
        edge = FakeEdge(registry, "one")
        await edge.register()
        await until_chosen(http, balancer, {"one"})
        for path in (
            "/cmaf/live+a/index.m3u8?x=1&y=%20",
            "/live.html",
            "/player.js",
            "/~t/live.flv",
        ):
            assert await location(http, balancer + path) == (307, f"http://one.test:8080{path}")
        async with http.get(f"{balancer}/api/v1/edge?stream=live") as response:
            assert (await response.json())["url"] == "http://one.test:8080"
        status, _ = await location(http, f"{balancer}/cmaf/BAD!/index.m3u8")
        assert status == 400
        await edge.die()


async def test_an_edge_that_dies_gets_nobody_after_a_second_and_a_half(
    balancer: str, registry: EmbeddedRegistry
) -> None:
    edges = [FakeEdge(registry, "one"), FakeEdge(registry, "two")]
    for edge in edges:
        await edge.register()
    async with aiohttp.ClientSession() as http:
        await until_chosen(http, balancer, {"one", "two"})
        await edges[0].die()
        died = time.monotonic()
        await until_chosen(http, balancer, {"two"})
        assert time.monotonic() - died < 1.6
        chosen = {(await location(http, f"{balancer}/live.mp4"))[1] for _ in range(20)}
        assert chosen == {"http://two.test:8080/live.mp4"}
    await edges[1].die()


async def test_the_choice_is_explained(balancer: str, registry: EmbeddedRegistry) -> None:
    edge = FakeEdge(registry, "one")
    await edge.register()
    async with aiohttp.ClientSession() as http:
        await until_chosen(http, balancer, {"one"})
        await location(http, f"{balancer}/live.mp4")
        async with http.get(f"{balancer}/api/v1/choices?stream=live") as response:
            (choice,) = await response.json()
        assert choice["node"] == "one"
        assert choice["ranking"][0]["refused"] == ""
        async with http.get(f"{balancer}/metrics") as response:
            assert 'headwater_redirects_total{node="one",protocol="mp4"}' in await response.text()
    await edge.die()
